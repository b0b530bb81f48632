"""Queries and passages embedded apart: prefixes, second towers, pooling, vectors that keep their lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.coordinator import Coordinator
from retro.common.errors import ConfigError, DataError
from retro.common.files import read_json, write_json
from retro.index.config import EmbedderConfig
from retro.index.embedders import describe_embedder, make_embedder, open_embedder
from retro.index.neural import HuggingFaceEmbedder, SentenceTransformersEmbedder, pooled, pooled_positions
from tests.index.models import bert_folder, dpr_folder
from tests.index.test_neural import hidden_states, settings

KINDS = {"huggingface": HuggingFaceEmbedder, "sentence_transformers": SentenceTransformersEmbedder}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("models") / "second", seed=1)


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_stands_before_each_text_and_an_empty_one_stays_empty(kind: str, folder: Path) -> None:
    # As E5 wants it: "query: " and "passage: ".
    prefixed = KINDS[kind](settings(kind, folder, query_prefix="a b ", passage_prefix="c "))
    plain = KINDS[kind](settings(kind, folder))
    assert np.allclose(prefixed.embed_queries(["fox", ""]), plain.embed_queries(["a b fox", ""]), atol=1e-6)
    assert np.allclose(prefixed.embed_passages(["fox", " "]), plain.embed_passages(["c fox", ""]), atol=1e-6)
    assert not prefixed.embed_queries([""]).any()
    assert not np.allclose(prefixed.embed_queries(["fox"]), prefixed.embed_passages(["fox"]), atol=1e-3)
    assert (plain.symmetric, prefixed.symmetric) == (True, False)


@pytest.mark.parametrize("kind", KINDS)
def test_queries_have_a_tower_of_their_own(kind: str, folder: Path, second: Path) -> None:
    towers = KINDS[kind](settings(kind, folder, query_model=str(second)))
    passages, queries = (KINDS[kind](settings(kind, one)) for one in (folder, second))
    assert np.array_equal(towers.embed_passages(["the fox"]), passages.embed_passages(["the fox"]))
    assert np.array_equal(towers.embed_queries(["the fox"]), queries.embed_passages(["the fox"]))
    assert not np.allclose(towers.embed_queries(["the fox"]), towers.embed_passages(["the fox"]), atol=1e-3)
    assert not towers.symmetric
    given = {**passages.identity, "query_weights_sha256": queries.identity["weights_sha256"]}
    assert towers.identity == given


def test_the_weights_of_the_second_tower_are_checked(folder: Path, second: Path) -> None:
    with pytest.raises(DataError, match=f"second/model.safetensors: has SHA-256 [0-9a-f]*, wanted is {'0' * 64}"):
        HuggingFaceEmbedder(settings("huggingface", folder, query_model=str(second), query_sha256="0" * 64))
    with pytest.raises(ConfigError, match=r"query_sha256 = '0*': needs to be left out without query_model"):
        settings("huggingface", folder, query_sha256="0" * 64)


def test_towers_of_unlike_widths_are_refused(folder: Path, tmp_path: Path) -> None:
    wide = bert_folder(tmp_path / "wide", width=32)
    with pytest.raises(ConfigError, match=r"query_model = .*: needs vectors of 16 values, as model has; it has 32"):
        HuggingFaceEmbedder(settings("huggingface", folder, query_model=str(wide)))


def test_dpr_gives_what_transformers_gives(tmp_path: Path) -> None:
    import torch
    from transformers import DPRContextEncoder, DPRQuestionEncoder

    contexts = dpr_folder(tmp_path / "ctx", "DPRContextEncoder", seed=2)
    questions = dpr_folder(tmp_path / "question", "DPRQuestionEncoder", seed=3)
    towers = HuggingFaceEmbedder(
        settings("huggingface", contexts, query_model=str(questions), pooling="cls", normalize=False)
    )
    ids = torch.tensor([[2, 5, 6, 3]])  # [CLS] the fox [SEP]
    with torch.no_grad():
        passage = DPRContextEncoder.from_pretrained(str(contexts)).eval()(ids).pooler_output.numpy()
        query = DPRQuestionEncoder.from_pretrained(str(questions)).eval()(ids).pooler_output.numpy()
    assert np.allclose(towers.embed_passages(["the fox"]), passage, atol=1e-5)
    assert np.allclose(towers.embed_queries(["the fox"]), query, atol=1e-5)
    # As published, they are inner products of vectors that are not of length 1.
    assert abs(float(np.linalg.norm(passage)) - 1) > 0.1


def test_a_folder_without_all_weights_of_its_encoder_is_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "part")
    weights = tmp_path / "part" / "model.safetensors"
    tensors = {name: one for name, one in load_file(weights).items() if "layer.1.attention.self.key" not in name}
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"part: lacks 2 weights of a BertModel, encoder\.layer\.1\.attention\.self\.k"):
        HuggingFaceEmbedder(settings("huggingface", tmp_path / "part"))


def test_pooling_worked_by_hand() -> None:
    import torch

    # Rows: [CLS] x y [SEP], and [CLS] x [SEP] with one place of padding.
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], dtype=bool)
    counted = np.array([[0, 1, 1, 0], [0, 1, 0, 0]], dtype=bool)
    states = torch.tensor(
        [[[1.0, 8.0], [2.0, 4.0], [4.0, 2.0], [9.0, 2.0]], [[-1.0, -3.0], [-5.0, -1.0], [-3.0, -8.0], [99.0, 99.0]]]
    )

    def found(pooling: str) -> list[list[float]]:
        places = torch.from_numpy(pooled_positions(pooling, counted, mask))
        values: list[list[float]] = pooled(states, places, highest=pooling == "max").tolist()
        return values

    assert found("auto") == [[3.0, 3.0], [-5.0, -1.0]]
    assert found("mean") == [[4.0, 4.0], [-3.0, -4.0]]
    assert found("cls") == [[1.0, 8.0], [-1.0, -3.0]]
    assert found("last") == [[9.0, 2.0], [-3.0, -8.0]]
    assert found("max") == [[9.0, 8.0], [-1.0, -1.0]]
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    assert [pooled(states, nothing, highest=one).tolist() for one in (True, False)] == [[[0.0, 0.0]] * 2] * 2


@pytest.mark.parametrize("pooling", ["mean", "cls", "last", "max"])
def test_every_pooling_agrees_with_transformers_and_leaves_empty_texts_out(pooling: str, folder: Path) -> None:
    states = hidden_states(folder, "the fox dog")
    wanted = {"mean": states.mean(axis=0), "cls": states[0], "last": states[-1], "max": states.max(axis=0)}[pooling]
    embedder = HuggingFaceEmbedder(settings("huggingface", folder, pooling=pooling))
    # A longer text beside it, so that there is padding.
    found = embedder.embed_passages(["the fox dog", "", "a b c the dog yard"])
    assert np.allclose(found[0], unit(wanted), atol=1e-5)
    assert not found[1].any()
    assert embedder.identity["pooling"] == pooling


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_keep_their_lengths_where_that_is_asked(kind: str, folder: Path) -> None:
    plain, raw = (KINDS[kind](settings(kind, folder, normalize=one)) for one in (True, False))
    lengths = np.linalg.norm(raw.embed_passages(["the fox", "dog"]), axis=1)
    assert np.abs(lengths - 1).min() > 0.1
    assert np.allclose(
        raw.embed_passages(["the fox", "dog"]) / lengths[:, None], plain.embed_passages(["the fox", "dog"])
    )
    assert set(raw.identity) - set(plain.identity) == {"normalize"}


def test_the_description_of_an_index_from_before_these_settings_is_still_valid(folder: Path, tmp_path: Path) -> None:
    embedder = HuggingFaceEmbedder(settings("huggingface", folder))
    identity = {
        "kind": "huggingface",
        "weights_sha256": embedder.identity["weights_sha256"],
        "dtype": "float32",
        "max_tokens": 256,
        "dimension": 16,
    }
    config = {
        "kind": "huggingface",
        "model": str(folder),
        "precision": "float32",
        "batch_tokens": 24,
        "max_tokens": 256,
        "dimension": 512,
        "sha256": None,
    }
    write_json(tmp_path / "embedder.json", {"config": config, "identity": identity})
    assert open_embedder(tmp_path).identity == identity
    # And what is written now, with nothing of the new set, is the same.
    out = tmp_path / "now"
    made = make_embedder(
        settings("huggingface", folder), out, list, learned_from="x", coordinator=Coordinator(out, stage="index")
    )
    describe_embedder(settings("huggingface", folder), made, out)
    assert read_json(out / "embedder.json", "") == {"config": config, "identity": identity}


def test_what_is_set_comes_back_with_the_index(folder: Path, second: Path, tmp_path: Path) -> None:
    config = settings("huggingface", folder, query_model=str(second), query_prefix="a ", pooling="max", normalize=False)
    made = make_embedder(config, tmp_path, list, learned_from="x", coordinator=Coordinator(tmp_path, stage="index"))
    describe_embedder(config, made, tmp_path)
    again = open_embedder(tmp_path)
    assert again.identity == made.identity
    assert np.array_equal(again.embed_queries(["fox"]), made.embed_queries(["fox"]))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"kind": "hashing", "query_prefix": "q: "}, r"query_prefix = 'q: ': needs to be left out for kind 'hashing'"),
        ({"kind": "hashing", "normalize": False}, r"normalize = False: needs to be left out for kind 'hashing'"),
        ({"kind": "bm25", "pooling": "cls"}, r"pooling = 'cls': needs to be left out for kind 'bm25'"),
        ({"kind": "sentence_transformers", "model": "x", "pooling": "cls"}, r"pooling = 'cls': needs to be left out"),
        ({"kind": "huggingface", "model": "x", "options": {"a": 1}}, r"options = {'a': 1}: needs to be left out"),
        ({"kind": "huggingface"}, r"model = None: needs a folder, a hub name or"),
        ({"kind": "sentence_transformer"}, r"is not a kind of embedder; did you mean 'sentence_transformers'"),
    ],
)
def test_a_setting_that_a_kind_does_not_read_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=rf"^EmbedderConfig\.\w+ = .*{told}|^EmbedderConfig\.{told}"):
        EmbedderConfig(**given)


def test_the_former_name_of_a_kind_is_read_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    from retro.common.config import warn_renamed
    from retro.index.config import IndexConfig

    warn_renamed.cache_clear()
    assert [EmbedderConfig(kind="none").kind for _ in range(2)] == ["bm25"] * 2
    told = "index.embedder.kind=none is the former name of index.embedder.kind=bm25; it is still read"
    assert caplog.messages == [told]
    assert not EmbedderConfig(kind="none").makes_vectors
    assert EmbedderConfig().makes_vectors
    # What an index of before says of itself is read without a word.
    caplog.clear()
    warn_renamed.cache_clear()
    assert IndexConfig.filled({"embedder": {"kind": "none"}})["embedder"]["kind"] == "bm25"
    assert caplog.messages == []
