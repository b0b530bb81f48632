"""`retro plan db`: the arithmetic of a small database by hand, and the command as a user meets it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from retro.common.errors import ConfigError
from retro.common.progress import human_size
from retro.common.terminal import output
from retro.db.schema import COLUMNS
from retro.planning import published
from retro.planning.database import DatabasePlan, EmbedderShape, default_sample, find_embedder, rows_of
from retro.planning.faiss_string import parse
from retro.planning.measure_database import Rates, measure
from retro.planning.show_database import Question, ask, chosen_index, hours, show


def small_plan(index: str = "IVF10,SQ8", **changes: Any) -> DatabasePlan:
    """100,000 tokens in 100 documents, chunks of 50, vectors of 8 values."""
    settings: dict[str, Any] = {
        "tokens": 100_000.0, "chunk_length": 50, "index": parse(index), "embedder": EmbedderShape("toy", 2, 8),
        "document_tokens": 1000.0, "queries": 600.0, "saved": 5, "sample": 400.0, "nprobe": 4,
    }  # fmt: skip
    return DatabasePlan(**(settings | changes))


def rates(**changes: Any) -> Rates:
    settings: dict[str, Any] = {
        "machine": "m", "threads": 2, "device": "cpu", "embedding_flops": 1e6, "clustering_flops": 2e5,
        "built": "IVF5,SQ8", "vectors": 100, "share": 0.5, "add_seconds": 0.5, "nprobe": 2, "coarse_seconds": 0.25,
        "byte_seconds": 0.001, "coarse": 5.0,
    }  # fmt: skip
    return Rates(**(settings | changes))


def test_a_small_database_by_hand() -> None:
    plan = small_plan()
    # 2,000 full chunks, and for each of 100 documents half of one more.
    assert (plan.documents, plan.rows) == (100, 2050)
    assert plan.disk["token files (.bin)"] == 200_000
    assert plan.disk["where documents begin (.idx, documents.h5)"] == 100 * 29
    assert plan.disk["chunk database (db.h5)"] == 2050 * 23
    assert plan.disk["embeddings, fp16"] == 2050 * 16
    assert plan.disk["neighbors"] == 600 * 5 * 12
    assert small_plan(vocabulary=100_000).disk["token files (.bin)"] == 400_000


def test_a_row_of_the_database_takes_the_bytes_of_its_columns() -> None:
    assert sum(dtype.itemsize for dtype in COLUMNS.values()) == 23


def test_memory_by_hand() -> None:
    plan = small_plan()
    assert plan.memory["searching, index in memory"] == plan.index_bytes.total
    assert plan.memory["searching, lists mapped from disk"] == plan.index_bytes.total - 2050 * (8 + 8)
    assert plan.memory["training, sample in float32"] == 4 * 400 * 8 + 10 * (4 * 8 + 8)
    rotated = small_plan("RR4,IVF10,SQ8")
    assert rotated.memory["training, sample in float32"] == 4 * 400 * (8 + 4) + 10 * (4 * 4 + 8)
    assert list(small_plan("Flat").memory) == ["searching, index in memory"]


def test_flops_by_hand() -> None:
    # 52 tokens; a token and layer take 24 x 64 and 4 x 52 x 8.
    assert small_plan().embedding_flops == 2050 * 52 * 2 * (1536 + 1664)
    assert small_plan().training_flops == 10 * 400 * 10 * 2 * 8


def test_measured_rates_are_carried_over_by_their_formulas() -> None:
    plan, own = small_plan(), rates()
    assert own.embedding_hours(plan) == pytest.approx(plan.embedding_flops / 1e6 / 3600)
    assert own.training_hours(plan) == pytest.approx(plan.training_flops / 2e5 / 3600)
    # 10 lists are compared one by one, twice the 5 of the benchmark.
    assert own.adding_hours(plan) == pytest.approx(2050 * 0.5 * 2 / 3600)
    read = 4 / 10 * 2050 * 8
    assert own.query_hours(plan) == pytest.approx(600 * (0.25 * 2 + read * 0.001) / 3600)


def test_over_a_graph_of_centroids_work_grows_with_the_logarithm_and_with_the_lists_searched() -> None:
    plan, own = small_plan("IVF16_HNSW8,SQ8"), rates(coarse=2.0)
    assert own.adding_hours(plan) == pytest.approx(2050 * 0.5 * (4 / 2) / 3600)
    read = 4 / 16 * 2050 * 8
    assert own.query_hours(plan) == pytest.approx(600 * (0.25 * 2 * (4 / 2) + read * 0.001) / 3600)


def test_what_no_formula_tells_is_not_told() -> None:
    graph = small_plan("HNSW8")
    assert rates().query_hours(graph) is None
    assert rates(clustering_flops=0.0).training_hours(graph) == 0
    question = Question(plan=graph, chosen=False, gpu=ask(tokens=1e6).gpu, utilization=0.5, rates=None)
    assert {name: paper for name, paper, _ in hours(question)}["searching the neighbors"] is None


def test_published_rates_give_the_published_hours_for_the_published_database() -> None:
    question = ask(tokens=1.2e12, index=published.INDEX, sample=600e6, query_tokens=1e11, nprobe=4096)
    found = {name: paper for name, paper, _ in hours(question)}
    assert found["embedding all chunks"] == pytest.approx(published.EMBEDDING_HOURS, rel=1e-3)
    assert found["training the index"] == pytest.approx(published.TRAINING_HOURS)
    assert found["adding all vectors"] == pytest.approx(published.ADDING_HOURS)
    assert found["searching the neighbors"] == pytest.approx(published.QUERY_HOURS, rel=1e-3)


@pytest.mark.parametrize("index", ["IVF64,SQ8", "OPQ4_8,IVF600_HNSW8,PQ4", "RR16,IVF64,RaBitQ,RFlat", "Flat", "HNSW8"])
def test_this_machine_can_be_measured_with_any_kind_of_index(index: str) -> None:
    plan = small_plan(index, tokens=1e7, embedder=EmbedderShape("toy", 2, 64), sample=2000.0)
    own = measure(plan, vectors=12_000)
    assert own.embedding_hours(plan) > 0
    assert own.adding_hours(plan) > 0
    assert (own.training_hours(plan) > 0) == bool(plan.index.lists)
    assert 0 < own.share <= 1
    assert own.built == plan.index.with_lists(512).factory(64)
    searched = own.query_hours(plan)
    assert searched is None if index == "HNSW8" else searched is not None and searched > 0


def test_the_table_of_a_plan_fits_120_columns_and_says_what_disagrees(capsys: pytest.CaptureFixture[str]) -> None:
    output.width = 120
    show(ask(tokens=1.2e12, index=published.INDEX, sample=600e6), as_json=False)
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 120
    assert "19,000,000,000 chunks of 64" in text
    assert "1,371,323,085,761" in text
    assert text.count("DISAGREE") == 3
    assert "PQ64 does not fit" in text


def test_a_measurement_that_other_work_held_up_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    output.width = 120
    question = ask(tokens=1e9, index="IVF10,SQ8")
    show(replace(question, rates=rates(share=0.31)), as_json=False)
    assert "The machine was busy: it gave 31% of these threads' time" in capsys.readouterr().out
    show(replace(question, rates=rates(share=0.97)), as_json=False)
    text = capsys.readouterr().out
    assert "The machine was busy" not in text
    assert "measured on this machine" in text
    assert max(len(line) for line in text.splitlines()) <= 120


def test_machines_get_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    show(ask(tokens=1e9, embedder="minilm-l6"), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["chunks"] == rows_of(1e9, 64)
    assert found["index_chosen_by_policy"] is True
    assert found["index"] == chosen_index(found["chunks"], 384)
    assert found["measured"] is None
    assert found["hours"]["adding all vectors"]["measured_rates"] is None
    assert found["published"][1]["agrees"] is False


def test_without_a_string_the_policy_chooses() -> None:
    assert ask(tokens=1e6).plan.index.text == "Flat"
    assert ask(tokens=1e6).chosen
    assert not ask(tokens=1e6, index="SQ8").chosen


def test_the_sample_is_what_faiss_wants_or_all_there_is() -> None:
    assert default_sample(parse("IVF10,SQ8"), 10_000) == 390
    assert default_sample(parse("IVF10,SQ8"), 200) == 200


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sample": 5}, r"--sample = 5: needs at least one vector a list, 10, and at most all 2,050 chunks"),
        ({"sample": 3000}, "--sample = 3000: needs at least"),
        ({"saved": 0}, "--neighbors = 0: needs a positive number"),
        ({"nprobe": -1}, "--nprobe = -1: needs a positive number"),
        ({"vocabulary": 0}, "--vocabulary = 0: needs a positive number"),
    ],
)
def test_a_number_that_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        small_plan(**changes)


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--chunk = 0: needs a positive number"):
        ask(tokens=1e6, chunk_length=0)
    with pytest.raises(ConfigError, match=r"--tokens = 10: needs text enough for a chunk of 64 tokens"):
        ask(tokens=10)
    for text in ("IVF0,PQ8", "HNSW0", "PQ0", "", "PQ7", "PCA2048,Flat"):
        with pytest.raises(ConfigError, match="--index = "):
            ask(tokens=1e6, index=text)
    with pytest.raises(ConfigError, match=r"--utilization = 2: needs a share above 0"):
        ask(tokens=1e6, utilization=2)
    with pytest.raises(ConfigError, match=r"--embedder = 'bert': is not an embedder of the table; did you mean 'bert-"):
        find_embedder("bert")


def test_bytes_are_said_in_a_unit_that_keeps_them_small() -> None:
    assert [human_size(size) for size in (402, 655_390, 1.371e12, 3e18)] == ["402 B", "655 kB", "1.37 TB", "3e+03 PB"]
