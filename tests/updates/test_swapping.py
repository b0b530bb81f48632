"""A trained model reads another version of its database, or another run's: by one setting, and everybody records it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.analysis.inspect.inspect import Options, show
from retro.common.errors import ArtifactError, ConfigError
from retro.common.files import read_json
from retro.corpus.reader import Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.db.versions import open_database, version_identity
from retro.neighbors.reader import Neighbors
from retro.pretrain.run import model_shape
from retro.run.config import RunConfig, load_run_config
from retro.run.pipeline import database_dirs, database_home, stage
from retro.run.verify import Verification
from retro.training import checkpoint
from retro.updates.change import add, remove, replace_documents
from tests.corpus.texts import write_stories
from tests.db.stops import flip_byte
from tests.tiny_road import run_stages, small_config, write_corpus

ANSWERS = "generate.settings=[with_passages]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuned run over 60 documents, whose database has two versions more.

    Version 1 replaces the first 12 documents by the same words in another order; version 2 lacks the next 12.
    """
    folder = tmp_path_factory.mktemp("swapping")
    config = small_config(folder)
    run_stages(config, "corpus", "db", "index", "neighbors", "pretrain", "perplexity", "sft")
    lines = [json.loads(line) for line in (folder / "text.jsonl").read_text().splitlines()]
    new = [line | {"text": " ".join(sorted(line["text"].split()))} for line in lines[:12]]
    (folder / "new.jsonl").write_text("\n".join(map(json.dumps, new)) + "\n")
    replace_documents(database_home(config), folder / "new.jsonl")
    remove(database_home(config), [line["id"] for line in lines[12:24]])
    return folder


def manifest_of(config: RunConfig, name: str) -> dict[str, Any]:
    found: dict[str, Any] = read_json(stage(name).path(config) / "manifest.json", "")
    return found


def opened(config: RunConfig) -> tuple[Corpus, ChunkDatabase, Neighbors]:
    corpus = Corpus.open(stage("corpus").path(config))
    database = open_database(database_dirs(config)[0], corpus)
    return corpus, database, Neighbors.open(stage("neighbors").path(config), database, corpus)


def test_neighbors_of_a_version_stand_beside_those_of_the_run(folder: Path) -> None:
    first, second = small_config(folder), small_config(folder, "database.version=2")
    before = (stage("neighbors").path(first) / "train.h5").read_bytes()
    stage("neighbors").run(second)
    assert stage("neighbors").path(second).name == "4_neighbors_v2"
    assert (stage("neighbors").path(first) / "train.h5").read_bytes() == before
    made, mark = manifest_of(second, "neighbors"), version_identity(database_home(second).directory(2))
    assert (made["counts"]["database_version"], made["parents"]["db"]) == (2, mark["fingerprint"])
    assert manifest_of(first, "neighbors")["counts"]["database_version"] == 0


def test_no_neighbor_is_removed_or_the_new_text_of_an_own_document(folder: Path) -> None:
    config = small_config(folder, "database.version=2")
    stage("neighbors").run(config)
    corpus, database, neighbors = opened(config)
    stream = TokenStream(corpus, 0, 0, database.chunk_length)
    ids = neighbors.of(0, 0, np.arange(stream.chunks), neighbors.saved)
    assert database.retrievable.contains(ids[ids >= 0]).all()
    # New texts are neighbors of others, so the test below tests something.
    assert np.isin(ids, np.array(database.added)).any()
    for chunk, rows in enumerate(ids.tolist()):
        own = {corpus.document_id(0, int(document)) for document in stream.own_documents(chunk)}
        assert not own & {database.document_id(row) for row in rows if row >= 0}


def test_neighbors_are_not_read_with_another_version(folder: Path) -> None:
    corpus, database, neighbors = opened(small_config(folder))
    second = open_database(database_dirs(small_config(folder, "database.version=2"))[0], corpus)
    names = rf"was made from db {database.manifest.fingerprint} \(version 0\), but the db here is "
    names += rf"{second.manifest.fingerprint} \(version 2\)\. Run `retro neighbors` again .*database\.version=0"
    with pytest.raises(ArtifactError, match=names):
        Neighbors.open(neighbors.directory, second, corpus)


def test_a_model_records_the_database_it_was_trained_with(folder: Path) -> None:
    config = small_config(folder)
    corpus, database, neighbors = opened(config)
    assert neighbors.database_version == 0
    found = checkpoint.read_info(checkpoint.find(stage("pretrain").path(config) / "retro"))
    assert (found.shape.database, found.shape.database_version) == (database.manifest.fingerprint, 0)
    assert manifest_of(config, "pretrain")["parents"]["db"] == database.manifest.fingerprint
    second = open_database(database_dirs(small_config(folder, "database.version=latest"))[0], corpus)
    shape = model_shape(config.model, corpus, second)
    assert (shape.database, shape.database_version) == (second.manifest.fingerprint, 2)


def test_training_does_not_go_on_with_another_version(folder: Path) -> None:
    config = small_config(folder, "database.version=2")
    stage("neighbors").run(config)
    first, second = (version_identity(database_home(config).place(number)[0])["fingerprint"] for number in (0, 2))
    with pytest.raises(
        ArtifactError, match=rf"was made from db {first}, but the db here is {second}.*`retro pretrain`"
    ):
        stage("pretrain").run(config)


def test_perplexity_is_measured_with_another_version_beside_the_run_s_own(folder: Path) -> None:
    first, second = small_config(folder), small_config(folder, "database.version=2")
    run_stages(second, "neighbors", "perplexity")
    rows = {}
    for config, version in ((first, 0), (second, 2)):
        assert manifest_of(config, "perplexity")["counts"]["database_version"] == version
        table = read_json(stage("perplexity").path(config) / "perplexity.json", "")["rows"]
        rows[version] = {row["neighbors"]: row["loss"] for row in table}
    assert rows[0]["none"] == rows[2]["none"]
    assert rows[0]["real"] != rows[2]["real"]


def test_answers_follow_the_latest_version_and_say_which(folder: Path) -> None:
    config = small_config(folder, ANSWERS)
    stage("generate").run(config)
    assert manifest_of(config, "generate")["config"]["identity"]["database"]["version"] == 2
    lines = (stage("generate").path(config) / "with_passages.jsonl").read_text().splitlines()
    removed = {line["id"] for line in map(json.loads, (folder / "text.jsonl").read_text().splitlines()[12:24])}
    used = {passage["document_id"] for line in lines for passage in json.loads(line)["passages"]}
    assert used
    assert not used & removed
    with pytest.raises(ArtifactError, match=r"database\.version was 2, now 0.*add --redo"):
        stage("generate").run(small_config(folder, ANSWERS, "database.version=0"))
    older = small_config(folder, ANSWERS, "database.version=0", "generate.name=older")
    stage("generate").run(older)
    assert manifest_of(older, "generate")["config"]["identity"]["database"]["version"] == 0


def test_tuning_records_the_database_whose_passages_it_read(folder: Path) -> None:
    config = small_config(folder)
    assert manifest_of(config, "sft")["config"]["database"] == version_identity(stage("db").path(config))
    with pytest.raises(ArtifactError, match=r"database\.version was 0, now 2"):
        stage("sft").run(small_config(folder, "database.version=2"))


def test_another_database_can_be_looked_at(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config(folder, "database.version=2")
    stage("neighbors").run(config)
    show(config, Options(what="database"))
    assert "added" in capsys.readouterr().out
    corpus, database, neighbors = opened(config)
    stream = TokenStream(corpus, 0, 0, database.chunk_length)
    ids = neighbors.of(0, 0, np.arange(stream.chunks), 1)[:, 0]
    chunk = int(np.flatnonzero(ids >= database.added.start)[0])
    show(config, Options(what="neighbors", number=chunk, neighbors=1))
    assert f"row {ids[chunk]}" in capsys.readouterr().out


def test_verifying_a_run_reads_its_versions_too(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    run_stages(config, "corpus", "db", "index")
    add(database_home(config), write_stories(tmp_path / "new.jsonl", 3))
    flip_byte(config.run_dir / "versions/0001/db/db.h5", "document")
    flip_byte(config.run_dir / "versions/0001/removed.h5")
    verification = Verification(config, "run.yaml")
    verification.read_all()
    problems = verification.found.problems
    assert [one.split(": ")[0].split("/versions/")[1] for one in problems] == ["0001/db/db.h5", "0001/removed.h5"]
    assert all(one.endswith("or delete this version and the later ones and make the changes again") for one in problems)


def another_run(folder: Path, *overrides: str) -> RunConfig:
    """A run over other documents, four of them of ids that the first run has too."""
    write_corpus(folder / "other.jsonl", documents=24, seed=3)
    lines = [json.loads(line) for line in (folder / "other.jsonl").read_text().splitlines()]
    lines = [line if number < 4 else line | {"id": f"new-{number}"} for number, line in enumerate(lines)]
    (folder / "other.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    settings = (f"corpus.sources=[{{name: text, path: {folder}/other.jsonl}}]", *overrides)
    return small_config(folder, *settings, run="other")


def test_another_run_s_database_is_read_by_one_setting(folder: Path) -> None:
    tokenizer = folder / "run/1_corpus/tokenizer"
    other = another_run(folder, f"corpus.tokenizer={{path: {tokenizer}}}", "corpus.split=[1.0, 0.0, 0.0]")
    run_stages(other, "corpus", "db", "index")
    config = small_config(folder, f"database.run_dir={folder}/other")
    run_stages(config, "neighbors", "perplexity")
    assert stage("neighbors").path(config).name == "4_neighbors_other_v0"
    corpus, database, neighbors = opened(config)
    assert database.rows == ChunkDatabase.open(stage("db").path(other), database.corpus).rows
    stream = TokenStream(corpus, 0, 0, database.chunk_length)
    ids = neighbors.of(0, 0, np.arange(stream.chunks), neighbors.saved)
    shared = 0
    for chunk, rows in enumerate(ids.tolist()):
        own = {corpus.document_id(0, int(document)) for document in stream.own_documents(chunk)}
        found = {database.document_id(row) for row in rows if row >= 0}
        assert not own & found
        shared += bool(found & {corpus.document_id(0, document) for document in range(4)})
    assert shared
    answers = small_config(folder, f"database.run_dir={folder}/other", ANSWERS, "generate.name=other")
    stage("generate").run(answers)
    lines = (stage("generate").path(answers) / "with_passages.jsonl").read_text().splitlines()
    used = {passage["document_id"] for line in lines for passage in json.loads(line)["passages"]}
    assert used <= {database.document_id(row) for row in range(database.rows)}


def test_a_database_of_another_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    other = another_run(folder, "corpus.tokenizer.vocab_size=300", f"run_dir={tmp_path}/third")
    run_stages(other, "corpus", "db", "index")
    config = small_config(folder, f"database.run_dir={tmp_path}/third")
    with pytest.raises(
        ArtifactError, match=r"holds tokens of tokenizer \w+; .* has tokenizer \w+.*corpus\.tokenizer\.path"
    ):
        stage("neighbors").run(config)


def test_without_a_setting_answers_read_the_latest_version_and_training_the_first(folder: Path, tmp_path: Path) -> None:
    run = small_config(folder, run="grown")
    run_stages(run, "corpus", "db", "index")
    path = tmp_path / "added.jsonl"
    path.write_text(json.dumps({"id": "the-new-one", "text": "river0 river1 river2 river3 river4 river5"}) + "\n")
    add(database_home(run), path)
    answers = load_run_config(None, [f"run_dir={folder}/grown"])
    assert database_dirs(answers, answers=True)[0].name == "0001"
    assert database_dirs(answers)[0].name == "2_db"


@pytest.mark.parametrize("value", ["-1", "newest"])
def test_a_version_is_a_number_or_a_word_that_is_known(value: str) -> None:
    with pytest.raises(ConfigError, match=r"database\.version.*needs"):
        load_run_config(None, [f"database.version={value}"])
