from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from retro.analysis.neighbor_overlap import _summary, compare_neighbors, longest_of, open_run_neighbors, unigram_share
from retro.cli.main import app
from retro.common.artifacts import describe_files, read_manifest, write_manifest
from retro.common.errors import ConfigError
from retro.common.files import read_json
from retro.corpus.reader import TokenStream
from retro.neighbors import build
from retro.run.config import RunConfig
from retro.run.pipeline import stage


def rows(*values: list[int]) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


def test_the_share_counts_each_token_once() -> None:
    # Of 5, 6 and 7 two are read; of 8 none; a place without a token equals nothing.
    text, read = rows([5, 5, 6, 7], [8, -1, -1, -1]), rows([6, 9, 5, 5, -1], [9, 9, -1, -1, -1])
    assert unigram_share(text, read).tolist() == pytest.approx([2 / 3, 0])


def test_the_longest_run_is_that_of_the_best_neighbor() -> None:
    # 1 2 is in the first neighbor, 2 3 4 in the second; over the border of both nothing does.
    read = np.array([[[9, 1, 2], [2, 3, 4]], [[-1, -1, -1], [-1, -1, -1]]], dtype=np.int32)
    assert longest_of(rows([1, 2, 3, 4], [1, 2, 3, 4]), read).tolist() == [3, 0]


def test_documents_are_drawn_whole() -> None:
    # One document of three ones, one of a single zero: means of draws are 1, 0 or 3/4, and nothing between.
    found = _summary(np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 0, 0, 1]), 1)
    assert found == {"mean": 0.75, "low": 0.0, "high": 1.0}


@pytest.fixture(scope="module")
def other(road: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with other neighbors: none for the second half of each stream."""
    run = tmp_path_factory.mktemp("other")
    for name in ("corpus", "db", "index", "neighbors"):
        (run / stage(name).directory).symlink_to(stage(name).path(road).resolve())
    out = run / stage("neighbors").directory
    out.unlink()
    corpus, db, index = (stage(name).path(road) for name in ("corpus", "db", "index"))
    made = build.run(road.neighbors, corpus, db, index, out)
    for name in made.files:
        with h5py.File(out / name, "r+") as file:
            for group in file.values():
                ids = group["neighbors"][...]
                ids[len(ids) // 2 :] = -1
                group["neighbors"][...] = ids
    write_manifest(out, replace(made, files=describe_files(out, list(made.files))))
    assert read_manifest(out, "neighbors").fingerprint != made.fingerprint
    return run


def test_two_runs_are_compared_chunk_by_chunk(road: RunConfig, other: Path) -> None:
    a, b = open_run_neighbors(road.run_dir), open_run_neighbors(other)
    found = compare_neighbors(a, b, k=2)
    for number, split in enumerate(("train", "valid", "test")):
        one = found["splits"][split]
        wanted: dict[str, list[float]] = {"a": [], "b": []}
        same = []
        for source in range(len(a.corpus.sources)):
            stream = TokenStream(a.corpus, source, number, a.db.chunk_length)
            for chunk in range(stream.chunks - 1):
                tokens = set(stream.tokens([(chunk + 1) * a.db.chunk_length], a.db.chunk_length)[0].tolist())
                tokens -= {a.corpus.tokenizer.eod}
                if not tokens:
                    continue
                ids = [side.neighbors.of(number, source, np.array([chunk]), 2)[0] for side in (a, b)]
                for letter, side, mine in zip("ab", (a, b), ids, strict=True):
                    read, mask = side.db.neighbor_tokens(mine)
                    wanted[letter].append(len(tokens & set(read[mask].tolist())) / len(tokens))
                same.append(set(ids[0].tolist()) == set(ids[1].tolist()))
        assert one["chunks"] == len(same)
        assert one["same_neighbors"] == pytest.approx(np.mean(same))
        for letter in "ab":
            assert one["unigram"][letter]["mean"] == pytest.approx(np.mean(wanted[letter]))
        difference = one["unigram"]["difference"]
        assert difference["mean"] == pytest.approx(np.mean(wanted["b"]) - np.mean(wanted["a"]))
        assert difference["low"] <= difference["mean"] <= difference["high"]
        assert one["longest"]["difference"]["mean"] <= 0


def test_a_run_beside_itself_differs_in_nothing(road: RunConfig) -> None:
    one = compare_neighbors(open_run_neighbors(road.run_dir), open_run_neighbors(road.run_dir), k=1, splits=["test"])[
        "splits"
    ]["test"]
    assert one["same_neighbors"] == 1
    assert one["unigram"]["difference"] == {"mean": 0, "low": 0, "high": 0}


def test_the_command_prints_and_saves(road: RunConfig, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "overlap.json"
    words = ["compare-neighbors", str(road.run_dir), str(other), "--split", "test", "--out", str(out)]
    shown = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    assert "distinct tokens" in shown
    assert "of the chunks have the same neighbors" in shown
    assert set(read_json(out, "")["splits"]) == {"test"}
    alone = CliRunner().invoke(app, words[:2], catch_exceptions=False).stdout
    assert "longest run of tokens" in alone
    assert "b - a" not in alone


def test_what_cannot_be_compared_is_refused(road: RunConfig) -> None:
    side = open_run_neighbors(road.run_dir)
    with pytest.raises(ConfigError, match=r"--neighbors = 99: needs a number from 1 to"):
        compare_neighbors(side, None, k=99)
    with pytest.raises(ConfigError, match="--split = 'tset'"):
        compare_neighbors(side, None, k=1, splits=["tset"])
    manifest = replace(side.db.manifest, config=side.db.manifest.config | {"chunk_length": 7})
    with pytest.raises(ConfigError, match="needs a run over the same corpus"):
        compare_neighbors(side, replace(side, db=replace(side.db, manifest=manifest)), k=1)
