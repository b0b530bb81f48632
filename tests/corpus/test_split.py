from __future__ import annotations

import numpy as np
import pytest

from retro.common.errors import ConfigError
from retro.corpus.config import CorpusConfig
from retro.corpus.split import require_documents_in_splits, split_documents, stream_orders


@pytest.mark.parametrize(
    ("documents", "fractions", "counts"),
    [
        (100, (0.98, 0.01, 0.01), (98, 1, 1)),
        (49, (0.98, 0.01, 0.01), (49, 0, 0)),
        (50, (0.98, 0.01, 0.01), (48, 1, 1)),
        (50, (0.86, 0.07, 0.07), (42, 4, 4)),  # 3.5 rounds up in both, though 0.07 * 50 is not 3.5 in binary
        (10, (1.0, 0.0, 0.0), (10, 0, 0)),
        (1, (0.1, 0.1, 0.8), (0, 0, 1)),
        (1, (0.2, 0.5, 0.3), (0, 1, 0)),
        (0, (0.8, 0.1, 0.1), (0, 0, 0)),
        (3, (0.01, 0.5, 0.49), (0, 2, 1)),
    ],
)
def test_the_held_out_splits_get_their_fraction_rounded(
    documents: int, fractions: tuple[float, float, float], counts: tuple[int, ...]
) -> None:
    split = split_documents(documents, fractions, 1234, "wiki")
    assert tuple(np.bincount(split, minlength=3).tolist()) == counts


def test_the_split_is_the_same_in_every_release() -> None:
    # Golden values: a change of NumPy or of ours that moves a document would leak held-out text into training.
    assert split_documents(12, (0.5, 0.25, 0.25), 7, "wiki").tolist() == [0, 1, 2, 2, 2, 0, 1, 0, 0, 0, 1, 0]
    [order] = stream_orders(np.zeros(6, np.uint8), 1, 7, "wiki")
    assert order.tolist() == [1, 4, 0, 2, 3, 5]


def test_every_document_of_a_split_is_in_its_stream_once() -> None:
    split = split_documents(200, (0.7, 0.2, 0.1), 3, "wiki")
    orders = stream_orders(split, 3, 3, "wiki")
    assert sorted(np.concatenate(orders).tolist()) == list(range(200))
    assert [set(split[order].tolist()) for order in orders] == [{0}, {1}, {2}]
    assert orders[0].tolist() != sorted(orders[0].tolist())


def test_seed_and_source_decide_the_split_and_the_order() -> None:
    splits = [
        split_documents(100, (0.5, 0.25, 0.25), seed, name).tolist() for seed, name in ((1, "a"), (2, "a"), (1, "b"))
    ]
    assert splits[0] != splits[1]
    assert splits[0] != splits[2]
    train = np.zeros(100, np.uint8)
    assert stream_orders(train, 1, 1, "a")[0].tolist() != stream_orders(train, 1, 2, "a")[0].tolist()


def corpus(*fractions: float, **splits: str) -> CorpusConfig:
    """Sources a and b, parted by fractions or as said."""
    sources = [{"name": name, "path": name, "split": splits.get(name, "fractions")} for name in ("a", "b")]
    return CorpusConfig(sources=sources, split=fractions)


def test_an_asked_for_split_without_documents_says_how_many_are_needed() -> None:
    splits = {"a": np.zeros(49, np.uint8), "b": np.zeros(7, np.uint8)}
    with pytest.raises(ConfigError) as caught:
        require_documents_in_splits(splits, corpus(0.98, 0.01, 0.01))
    assert "leaves no document for valid: 0.01 of the largest source's 49 documents" in str(caught.value)
    assert "needs at least 50 documents in a source" in str(caught.value)
    require_documents_in_splits(splits, corpus(1.0, 0.0, 0.0))


def test_one_source_may_fill_a_split_for_all() -> None:
    splits = {"a": np.array([0, 1, 2], np.uint8), "b": np.zeros(3, np.uint8)}
    require_documents_in_splits(splits, corpus(0.9, 0.05, 0.05))


def test_a_source_held_out_whole_says_nothing_about_what_fractions_leave() -> None:
    splits = {"a": np.zeros(4, np.uint8), "b": np.ones(200, np.uint8)}
    with pytest.raises(ConfigError, match=r"test: 0.1 of the largest source's 4 documents; needs at least 5 documents"):
        require_documents_in_splits(splits, corpus(0.8, 0.1, 0.1, b="valid"))
    with pytest.raises(ConfigError, match=r"needs 0 for test, or a source with split: test: every source is in one"):
        require_documents_in_splits(splits, corpus(0.8, 0.1, 0.1, a="train", b="valid"))


def test_the_last_documents_can_be_held_out() -> None:
    assert split_documents(12, (0.5, 0.25, 0.25), 7, "wiki", "last").tolist() == [0] * 6 + [1] * 3 + [2] * 3
    # Training is rounded down, as int(0.98 * 75) = 73; validation has what is left.
    assert np.bincount(split_documents(75, (0.98, 0.02, 0.0), 7, "wiki", "last")).tolist() == [73, 2]
    assert split_documents(3, (1.0, 0.0, 0.0), 7, "wiki", "last").tolist() == [0, 0, 0]
    assert split_documents(0, (0.9, 0.1, 0.0), 7, "wiki", "last").tolist() == []


def test_neither_seed_nor_name_moves_the_last_documents() -> None:
    one = split_documents(40, (0.8, 0.1, 0.1), 1, "a", "last")
    assert (one == split_documents(40, (0.8, 0.1, 0.1), 2, "b", "last")).all()
