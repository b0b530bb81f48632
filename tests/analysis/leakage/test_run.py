"""Leakage of runs made from files: a corpus of twins, where nearly everything leaks, and one of topics."""

from __future__ import annotations

import json
import logging
import math
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from retro.analysis.leakage import build, overlaps
from retro.analysis.leakage.config import LeakageConfig
from retro.analysis.leakage.measure import OverlapReader
from retro.cli.main import main
from retro.common.artifacts import Manifest, read_manifest, write_manifest
from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.common.files import read_json
from retro.common.launcher import Worker
from retro.common.terminal import output
from retro.corpus.reader import Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.neighbors.reader import Neighbors
from retro.report.leakage import print_leakage
from retro.run.config import RunConfig, as_yaml
from retro.run.pipeline import leakage_path, measure_leakage, stage
from tests.analysis.leakage.twins import twin_config
from tests.corpus.texts import artifact_bytes
from tests.db.stops import Stopped, stopped_at_rename, stops_everywhere
from tests.neighbors.test_text_overlap import brute_force
from tests.tiny_road import run_stages, small_config, write_corpus

PREPARED = ("corpus", "db", "index", "neighbors")
TRAINED = (*PREPARED, "pretrain", "perplexity")


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    config = twin_config(tmp_path_factory.mktemp("twins"))
    run_stages(config, *TRAINED)
    return config


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Two sources, SentencePiece-like text, chunks of 16 tokens."""
    folder = tmp_path_factory.mktemp("topics")
    write_corpus(folder / "more.jsonl", documents=40, seed=9)
    sources = f"corpus.sources=[{{name: text, path: {folder}/text.jsonl}}, "
    config = small_config(
        folder, f"{sources}{{name: more, path: {folder}/more.jsonl}}]", "pretrain.baselines=[gpt]",
        "leakage={chunks_per_block: 30, tokens_per_block: 700}",
    )  # fmt: skip
    run_stages(config, *TRAINED)
    return config


def parents_of(config: RunConfig) -> build.Inputs:
    return build.open_inputs(*(stage(name).path(config) for name in ("corpus", "db", "neighbors")))


def text_of(tokens: np.ndarray, corpus: Corpus) -> list[int]:
    return [-1 if token == corpus.tokenizer.eod else int(token) for token in tokens]


def test_twins_leak_as_much_as_has_a_twin_in_training(twins: RunConfig) -> None:
    result = measure_leakage(twins)
    corpus = Corpus.open(stage("corpus").path(twins))
    stream = TokenStream(corpus, 0, 1, 8)
    split = corpus.split_of(0)
    # Document n's twin is n + 600 or n - 600; each fills two chunks of the stream.
    other = (np.repeat(stream.documents, 2) + 600) % 1200
    has_twin = split[other] == 0
    assert 0.8 < has_twin.mean() < 1
    shares = OverlapReader.open(leakage_path(twins)).shares("twins", "training", 1)
    assert (shares[has_twin] == 1).all()
    assert shares[~has_twin].max() < 1
    assert result["measures"]["training"]["copied"]["whole"] == has_twin.sum()
    own = OverlapReader.open(leakage_path(twins)).shares("twins", "neighbors", 1)
    assert (own[has_twin] == 1).mean() > 0.95
    # What is read while a chunk is predicted: for a document's first chunk, neighbors of another document's last.
    read = OverlapReader.open(leakage_path(twins)).shares("twins", "read", 1)
    second = np.arange(len(read)) % 2 == 1
    assert (read[second & has_twin] == 1).mean() > 0.95
    assert (read[~second] == 1).mean() < 0.05


def test_the_filters_remove_the_twins(twins: RunConfig, tmp_path: Path) -> None:
    for filters in ("{exact_duplicates: true}", "{near_duplicates_above: 0.5, shingle: 2}", "{overlap_above: 0.75}"):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        tmp_path.joinpath("run").mkdir()
        for name in ("1_corpus", "2_db", "3_index"):
            (tmp_path / "run" / name).symlink_to((twins.run_dir / name).resolve())
        filtered = twin_config(tmp_path, f"neighbors.filters={filters}", "leakage.chunks_per_block=100")
        filtered = filtered.model_copy(update={"corpus": twins.corpus})
        run_stages(filtered, "neighbors")
        parents = parents_of(filtered)
        build.run(filtered.leakage, "valid", parents, tmp_path / filters[1:6])
        reader = OverlapReader.open(tmp_path / filters[1:6])
        assert (reader.shares("twins", "neighbors", 2) >= 1).mean() < 0.02, filters
        assert (reader.shares("twins", "training", 2) == 1).mean() > 0.8


def test_overlaps_are_those_of_plain_loops(topics: RunConfig) -> None:
    measure_leakage(topics)
    corpus = Corpus.open(stage("corpus").path(topics))
    db = ChunkDatabase.open(stage("db").path(topics), corpus)
    neighbors = Neighbors.open(stage("neighbors").path(topics), db, corpus)
    reader = OverlapReader.open(leakage_path(topics))
    training: list[int] = []
    for source in range(2):
        stream = TokenStream(corpus, source, 0, 16)
        training += [*text_of(stream.tokens([0], stream.length)[0], corpus), -1]
    for source, name in enumerate(corpus.sources):
        stream = TokenStream(corpus, source, 1, 16)
        ids = neighbors.of(1, source, np.arange(stream.chunks), 3)
        found = {measure: reader.shares(name, measure, 2) for measure in ("neighbors", "read", "training")}
        assert len(found["training"]) == stream.chunks > 5
        for chunk in range(0, stream.chunks, 5):
            text = text_of(stream.tokens([16 * chunk], 16)[0], corpus)
            words = 16 - text.count(-1)
            assert found["training"][chunk] * words == pytest.approx(brute_force(text, training))
            assert found["neighbors"][chunk] * words == pytest.approx(_best(text, db, ids[chunk], corpus))
            before = ids[chunk - 1][:2] if chunk else np.array([-1, -1])
            assert found["read"][chunk] * words == pytest.approx(_best(text, db, before, corpus))


def _best(text: list[int], db: ChunkDatabase, ids: np.ndarray, corpus: Corpus) -> int:
    tokens, mask = db.neighbor_tokens(ids)
    texts = [text_of(row[real], corpus) for row, real in zip(tokens, mask, strict=True)]
    return max(brute_force(text, one) for one in texts)


def test_scores_over_all_chunks_are_those_of_perplexity_less_the_tails(topics: RunConfig) -> None:
    result = measure_leakage(topics)
    with h5py.File(stage("perplexity").path(topics) / "chunks.h5") as file:
        for row in result["measures"]["training"]["rows"]:
            groups = [file[name][row["model"]][row["neighbors"]] for name in ("text", "more")]
            loss = sum(float(group["loss"][:-1].sum()) for group in groups)
            tokens = sum(int(group["tokens"][:-1].sum()) for group in groups)
            size = sum(int(file[name]["bytes"][:-1].sum()) for name in ("text", "more"))
            last = row["points"][-1]
            assert (last["alpha"], last["tokens"], last["bytes"]) == (1.0, tokens, size)
            assert last["perplexity"] == pytest.approx(math.exp(loss / tokens))
            assert last["bits_per_byte"] == pytest.approx(loss / math.log(2) / size)
    assert [(row["model"], row["neighbors"]) for row in result["measures"]["read"]["rows"]] == [
        ("gpt", "-"), ("retro", "real"), ("retro", "shuffled"), ("retro", "none"),
    ]  # fmt: skip


def test_every_measure_counts_every_chunk_once(topics: RunConfig) -> None:
    result = measure_leakage(topics)
    manifest = read_manifest(leakage_path(topics), "leakage")
    assert result["chunks"] == manifest.counts["chunks"] > 20
    assert result["chunks_left_out"] == 0
    for measure in result["measures"].values():
        assert sum(measure["histogram"]) == result["chunks"]
        counts = [point["chunks"] for point in measure["rows"][0]["points"]]
        assert counts == np.cumsum(measure["histogram"]).tolist()
    stored = json.loads((leakage_path(topics) / "leakage.json").read_text())
    assert stored.pop("checksum")
    assert stored == result


def test_the_same_run_draws_the_same_pictures(topics: RunConfig) -> None:
    measure_leakage(topics)
    pictures = {name: (leakage_path(topics) / name).read_bytes() for name in ("leakage.svg", "leakage.png")}
    assert b"<svg" in pictures["leakage.svg"]
    assert pictures["leakage.png"].startswith(b"\x89PNG")
    measure_leakage(topics)
    assert pictures == {name: (leakage_path(topics) / name).read_bytes() for name in pictures}


def test_the_tables_fit_a_terminal_and_say_what_was_found(
    topics: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    print_leakage(measure_leakage(topics), output)
    said = capsys.readouterr().out
    assert "Leakage of the valid split" in said
    assert "Bits per byte by the share found in training text" in said
    assert "Perplexity by the share found in training text" in said
    assert max(len(line) for line in said.splitlines()) <= 80


def test_a_run_that_trained_nothing_tells_its_overlaps_only(
    topics: RunConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    config = copied(topics, tmp_path, *PREPARED)
    with caplog.at_level(logging.WARNING):
        result = measure_leakage(config)
    assert "overlaps are reported, but no model's perplexity" in caplog.text
    assert result["perplexity"] is None
    assert result["measures"]["training"]["rows"] == []
    assert sum(result["measures"]["training"]["histogram"]) == result["chunks"] > 0
    assert not (leakage_path(config) / "leakage.svg").exists()
    print_leakage(result, output)
    assert "Bits per byte" not in capsys.readouterr().out


def copied(config: RunConfig, folder: Path, *names: str) -> RunConfig:
    """The run with only some of its stages, elsewhere."""
    moved = config.model_copy(update={"run_dir": folder / "run"})
    for name in names:
        shutil.copytree(stage(name).path(config), stage(name).path(moved), dirs_exist_ok=True)
    return moved


def test_a_part_of_the_split_leaves_the_rest_out(topics: RunConfig, tmp_path: Path) -> None:
    config = copied(topics, tmp_path, *TRAINED)
    shutil.rmtree(stage("perplexity").path(config))
    config = config.model_copy(update={"perplexity": config.perplexity.model_copy(update={"samples": 2})})
    run_stages(config, "perplexity")
    result = measure_leakage(config)
    # Two sequences of 64 tokens: eight whole chunks of the first source.
    assert result["chunks"] == 8
    assert result["measures"]["training"]["rows"][0]["points"][-1]["tokens"] == 8 * 16 - 1
    assert (
        result["chunks"] + result["chunks_left_out"] == read_manifest(leakage_path(config), "leakage").counts["chunks"]
    )


def measured(config: RunConfig, out: Path, worker: Worker | None = None) -> None:
    build.run(config.leakage, "valid", parents_of(config), out, worker=worker or Worker())


def test_a_stop_at_any_rename_costs_nothing_but_time(topics: RunConfig, tmp_path: Path) -> None:
    few = LeakageConfig(chunks_per_block=200, tokens_per_block=3000)
    topics = topics.model_copy(update={"leakage": few})
    measured(topics, tmp_path / "whole")
    whole, stops = artifact_bytes(tmp_path / "whole"), 0
    for out in stops_everywhere(lambda out: measured(topics, out), tmp_path / "stops"):
        measured(topics, out)
        assert artifact_bytes(out) == whole, out.name
        assert not (out / "blocks").exists()
        stops += 1
    assert stops > 2 * (2 + 2 * 3)


def test_blocks_of_any_size_give_the_same_overlaps(topics: RunConfig, tmp_path: Path) -> None:
    measured(topics, tmp_path / "small")
    large = topics.model_copy(update={"leakage": LeakageConfig()})
    measured(large, tmp_path / "large")
    assert artifact_bytes(tmp_path / "small") == artifact_bytes(tmp_path / "large")


def test_slices_of_any_size_give_the_same_overlaps(
    topics: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(topics, tmp_path / "large")
    monkeypatch.setattr(overlaps, "_POSITIONS_AT_ONCE", 100)
    monkeypatch.setattr(overlaps, "_CHUNKS_AT_ONCE", 7)
    measured(topics, tmp_path / "small")
    assert artifact_bytes(tmp_path / "small") == artifact_bytes(tmp_path / "large")


def test_another_worker_goes_on_where_one_was_stopped(topics: RunConfig, tmp_path: Path) -> None:
    measured(topics, tmp_path / "whole")
    with pytest.raises(Stopped), stopped_at_rename(15):
        measured(topics, tmp_path / "shared", Worker(0, 2))
    measured(topics, tmp_path / "shared", Worker(1, 2))
    assert artifact_bytes(tmp_path / "shared") == artifact_bytes(tmp_path / "whole")


def test_neighbors_found_anew_are_measured_anew(topics: RunConfig, tmp_path: Path) -> None:
    config = copied(topics, tmp_path, *TRAINED)
    measure_leakage(config)
    shutil.rmtree(stage("neighbors").path(config))
    fewer = config.model_copy(update={"neighbors": config.neighbors.model_copy(update={"saved": 2})})
    run_stages(fewer, "neighbors")
    with pytest.raises(ArtifactError, match=r"was made from neighbors \w+, but the neighbors here is"):
        measure_leakage(fewer)


def test_perplexity_of_another_split_is_refused(topics: RunConfig, tmp_path: Path) -> None:
    config = copied(topics, tmp_path, *TRAINED)
    config = config.model_copy(update={"perplexity": config.perplexity.model_copy(update={"split": "test"})})
    with pytest.raises(ArtifactError, match="was measured on the valid split, asked for is test"):
        measure_leakage(config)


def test_perplexity_without_losses_of_chunks_is_refused(topics: RunConfig, tmp_path: Path) -> None:
    config = copied(topics, tmp_path, *TRAINED)
    shutil.rmtree(stage("perplexity").path(config))
    shutil.copytree(stage("perplexity").path(topics), stage("perplexity").path(config))
    path = stage("perplexity").path(config) / "manifest.json"
    manifest = read_json(path, "")
    del manifest["files"]["chunks.h5"], manifest["fingerprint"]
    write_manifest(path.parent, Manifest(**manifest))
    with pytest.raises(ArtifactError, match="measured before losses of single chunks were kept"):
        measure_leakage(config)


def test_a_split_shorter_than_a_chunk_is_refused(topics: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "short"
    folder.mkdir()
    config = small_config(folder, "corpus.split=[1.0, 0.0, 0.0]")
    run_stages(config, *PREPARED)
    with pytest.raises(DataError, match="its valid split has not one chunk of 16 tokens"):
        measure_leakage(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alphas": [0.5, 0.25, 1.0]}, r"LeakageConfig\.alphas = \(0\.5, 0\.25, 1\.0\): needs to ascend"),
        ({"alphas": [0.5]}, r"LeakageConfig\.alphas = \(0\.5,\): needs to ascend, and to end with 1"),
        ({"alphas": []}, r"LeakageConfig\.alphas = \[\]: needs"),
        ({"alphas": [2.0]}, r"LeakageConfig\.alphas\.0 = 2\.0: needs"),
        ({"chunks_per_block": 0}, r"LeakageConfig\.chunks_per_block = 0: needs"),
        ({"tokens_per_block": 0}, r"LeakageConfig\.tokens_per_block = 0: needs"),
    ],
)
def test_settings_that_cannot_be_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LeakageConfig(**change)


def test_the_paper_asks_at_every_eighth() -> None:
    assert LeakageConfig().alphas == (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


def test_the_command_measures_prints_and_measures_anew(
    topics: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = copied(topics, tmp_path, *TRAINED)
    (tmp_path / "run.yaml").write_text(as_yaml(config), encoding="utf-8")
    made = []
    # Other alphas need no new overlaps.
    for arguments in ([], ["leakage.alphas=[0.5, 1.0]"], ["--redo"]):
        monkeypatch.setattr("sys.argv", ["retro", "leakage", str(tmp_path / "run.yaml"), *arguments])
        main()
        assert "Leakage of the valid split" in capsys.readouterr().out
        made.append((leakage_path(config) / "manifest.json").stat().st_mtime_ns)
    assert made[0] == made[1] < made[2]
