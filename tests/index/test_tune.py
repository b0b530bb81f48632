from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.files import read_json
from retro.common.row_set import RowSet
from retro.index.config import IndexConfig
from retro.index.faiss_index import SearchSettings, fill_index
from retro.index.index_choice import create_index
from retro.index.measure import write_curve
from retro.index.recall import RecallSample
from retro.index.rerank import pair_scores
from retro.index.tune import READ_COST, Trial, Tuned, choose, settings_to_try, try_out, tunable_settings, tune
from retro.index.vector_index import VectorIndex
from tests.index.vectors import unit_vectors

VECTORS = unit_vectors(2000)
SETTINGS = SearchSettings(nprobe=1, ef_search=16, refine_factor=2)


def index_of(factory: str, *, ranked: bool = False) -> VectorIndex:
    index = create_index(factory, 16, len(VECTORS))
    fill_index(index, factory, VECTORS, np.arange(len(VECTORS)), reproducible=True)
    return VectorIndex(index, SETTINGS, VECTORS if ranked else None)


def sample(seed: int = 9, queries: int = 60) -> RecallSample:
    asked = unit_vectors(queries, seed=seed)
    ids = np.argsort(-(asked @ VECTORS.T), axis=1)[:, :20]
    own = np.full(queries, -2)
    return RecallSample(asked, own, pair_scores(VECTORS, asked, ids), VECTORS, RowSet.of(range(len(VECTORS))))


def trial(recall: float, compared: float, reranked: int = 0, error: float = 0.0, **settings: int) -> Trial:
    return Trial(
        settings=replace(SETTINGS, **settings),
        knobs=("nprobe",),
        recall=recall,
        standard_error=error,
        compared=compared,
        reranked=reranked,
        queries_per_second=1.0,
    )


def test_the_cheapest_setting_that_reaches_the_target_is_chosen() -> None:
    trials = [trial(0.9, 10), trial(0.96, 20), trial(0.99, 40), trial(0.97, 15)]
    assert choose(trials, 0.95) == Tuned(trials[3], True, tuple(trials))


def test_the_target_has_to_be_reached_by_a_standard_error() -> None:
    trials = [trial(0.955, 10, error=0.01), trial(0.965, 20, error=0.01)]
    assert choose(trials, 0.95).chosen is trials[1]


def test_reading_a_vector_costs_more_than_comparing_a_code() -> None:
    # 100 + 20 * 30 against 300 + 10 * 30.
    trials = [trial(0.96, 100, reranked=20), trial(0.96, 300, reranked=10)]
    assert [one.cost for one in trials] == [100 + 20 * READ_COST, 300 + 10 * READ_COST]
    assert choose(trials, 0.95).chosen is min(trials, key=lambda one: one.cost)


def test_out_of_reach_the_cheapest_that_is_nearly_the_best_is_chosen() -> None:
    trials = [trial(0.40, 10), trial(0.586, 20), trial(0.59, 9000)]
    chosen = choose(trials, 0.95)
    assert (chosen.chosen, chosen.reached) == (trials[1], False)


@pytest.mark.parametrize(
    ("factory", "ranked", "knobs"),
    [
        ("Flat", False, ()),
        ("SQ8", False, ()),
        ("RaBitQ", True, ("refine_factor",)),
        ("IVF16,SQ8", False, ("nprobe",)),
        ("RR16,IVF16_HNSW8,RaBitQ", True, ("ef_search", "nprobe", "refine_factor")),
        ("IVF16,PQ4x4,RFlat", False, ("nprobe", "refine_factor")),
        ("HNSW8", False, ("ef_search",)),
    ],
)
def test_each_kind_of_index_reads_its_own_settings(factory: str, ranked: bool, knobs: tuple[str, ...]) -> None:
    assert (
        tunable_settings(VectorIndex(create_index(factory, 16, 10_000), SETTINGS, VECTORS if ranked else None)) == knobs
    )


def ladder_of(factory: str, *, ranked: bool = False, **held: Any) -> list[list[tuple[int, int, int]]]:
    index = VectorIndex(create_index(factory, 16, 10_000), SETTINGS, VECTORS if ranked else None)
    return [[tuple(asdict(one).values()) for one in ladder] for ladder in settings_to_try(index, IndexConfig(**held))]


def test_ladders_go_from_cheap_to_dear_and_hold_what_is_given() -> None:
    # nprobe, ef_search, refine_factor; 20 is the number of lists, and what an index does not read stays at its default.
    assert ladder_of("IVF20,SQ8", refine_factor=3) == [
        [(step, max(16, 2 * step), 3) for step in (1, 2, 3, 4, 6, 8, 12, 16, 20)]
    ]
    assert ladder_of("IVF2_HNSW8,SQ8", ef_search=50) == [[(1, 50, 10), (2, 50, 10)]]
    assert [row[0] for row in ladder_of("RaBitQ", ranked=True)] == [(64, 128, n) for n in (2, 4, 8, 16, 32)]
    assert ladder_of("HNSW8")[0][:2] == [(64, 16, 10), (64, 24, 10)]
    assert ladder_of("IVF20,SQ8", nprobe=5) == [[(5, 128, 10)]]
    assert ladder_of("SQ8") == [[(64, 128, 10)]]


def test_all_lists_probed_compare_every_vector() -> None:
    index = replace(index_of("IVF16,SQ8"), settings=replace(SETTINGS, nprobe=16))
    assert try_out(index, sample()).compared == len(VECTORS)


@pytest.mark.parametrize(
    ("factory", "ranked"),
    [("IVF32,SQ8", False), ("HNSW4", False), ("RR16,IVF32,RaBitQ", True), ("RR16,IVF32_HNSW8,RaBitQ", True)],
)
def test_a_tuned_search_reaches_its_target_on_other_queries(factory: str, ranked: bool) -> None:
    index, config = index_of(factory, ranked=ranked), IndexConfig(target_recall=0.9)
    tuned = tune(index, sample(), config)
    assert tuned.reached
    assert tuned.chosen.recall - tuned.chosen.standard_error >= 0.9
    assert sample(seed=77, queries=200).found_by(replace(index, settings=tuned.chosen.settings)).mean > 0.87
    cheaper = [one for one in tuned.trials if one.cost < tuned.chosen.cost]
    assert cheaper
    assert all(one.recall - one.standard_error < 0.9 for one in cheaper)


def test_tuning_decides_the_same_each_time() -> None:
    index, config = index_of("RR16,IVF32,RaBitQ", ranked=True), IndexConfig(target_recall=0.9)
    first, second = (tune(index, sample(), config) for _ in range(2))
    assert first.chosen.settings == second.chosen.settings
    for one, other in zip(first.trials, second.trials, strict=True):
        assert replace(one, queries_per_second=0.0) == replace(other, queries_per_second=0.0)


def test_a_higher_target_asks_for_more_work() -> None:
    index = index_of("IVF32,SQ8")
    low, high = (tune(index, sample(), IndexConfig(target_recall=target)).chosen for target in (0.5, 0.97))
    assert low.settings.nprobe < high.settings.nprobe


def test_the_curve_is_kept_as_numbers_and_as_a_picture(tmp_path: Path) -> None:
    tuned = tune(index_of("RR16,IVF32,RaBitQ", ranked=True), sample(), IndexConfig(target_recall=0.9))
    write_curve(tmp_path, "RR16,IVF32,RaBitQ", tuned, 0.9)
    curve = read_json(tmp_path / "recall_curve.json", "")
    assert (curve["faiss"], curve["target_recall"], curve["reached"]) == ("RR16,IVF32,RaBitQ", 0.9, True)
    assert len(curve["points"]) == len(tuned.trials)
    assert curve["points"][curve["chosen"]]["settings"] == asdict(tuned.chosen.settings)
    assert (tmp_path / "recall_curve.png").read_bytes().startswith(b"\x89PNG")
