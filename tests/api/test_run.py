"""A run from Python: its stages, how they stand, and what they made, equal to what the readers read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from retro import Run
from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.corpus.reader import SPLITS, Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.neighbors.reader import Neighbors
from retro.run.config import as_yaml
from retro.run.pipeline import STAGES, stage
from retro.training.log import read_log
from tests.test_house import loaded_after
from tests.tiny_road import small_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All stages of the small run, run from Python."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.yaml").write_text(as_yaml(small_config(folder)), encoding="utf-8")
    run = Run.open(folder / "run.yaml", "index.keep_embeddings=true")
    run.run("neighbors", workers=2)
    run.run()
    return run


def corpus_of(run: Run) -> Corpus:
    return Corpus.open(stage("corpus").path(run.config))


def test_all_stages_are_run_and_told_in_order(run: Run) -> None:
    assert list(run.status().items()) == [(one.name, "done") for one in STAGES]
    assert repr(run) == f"Run({str(run.directory)!r})"


def test_a_stage_that_is_complete_is_not_made_again_unless_it_is_redone(run: Run) -> None:
    manifest = stage("evaluate").path(run.config) / "manifest.json"
    before = manifest.stat().st_mtime_ns
    assert run.stage("evaluate") == manifest.parent
    assert manifest.stat().st_mtime_ns == before
    run.stage("evaluate", redo=True)
    assert manifest.stat().st_mtime_ns > before


def test_documents_are_those_of_the_corpus_with_their_tokens(run: Run) -> None:
    lines = [json.loads(line) for line in (run.directory.parent / "text.jsonl").read_text().splitlines()]
    documents, corpus = run.artifacts.documents(), corpus_of(run)
    assert [(one.id, one.title) for one in documents] == [(line["id"], line["title"]) for line in lines]
    assert [one.id for one in run.artifacts.documents("text")] == [one.id for one in documents]
    for document, line in zip(documents, lines, strict=True):
        assert document.tokens[-1] == corpus.tokenizer.eod
        assert corpus.tokenizer.decode(document.tokens[:-1].tolist()) == line["text"]
    assert [SPLITS.index(one.split) for one in documents] == corpus.split_of(0).tolist()


def test_embeddings_are_mapped_and_those_of_the_chunks_texts(run: Run) -> None:
    database, embeddings = run.artifacts.database, run.artifacts.embeddings()
    assert isinstance(embeddings, np.memmap) or isinstance(embeddings.base, np.memmap)
    assert (embeddings.shape, embeddings.dtype) == ((database.rows, 128), np.dtype(np.float16))
    texts = [database.text(row) for row in range(5)]
    np.testing.assert_array_equal(run.retriever().embed(texts).astype(np.float16), embeddings[:5])


def test_neighbors_are_those_of_the_reader(run: Run) -> None:
    corpus = corpus_of(run)
    reader = Neighbors.open(
        stage("neighbors").path(run.config), ChunkDatabase.open(stage("db").path(run.config), corpus), corpus
    )
    chunks = np.arange(reader.chunks(1, 0))
    found = run.artifacts.neighbors("valid", "text", k=2)
    assert len(chunks) > 5
    np.testing.assert_array_equal(found.ids_CK, reader.of(1, 0, chunks, 2))
    np.testing.assert_array_equal(found.scores_CK, reader.scores(1, 0, chunks, 2))
    assert run.artifacts.neighbors().ids_CK.shape == (reader.chunks(0, 0), 3)
    stream, theirs = run.artifacts.stream("valid"), TokenStream(corpus, 0, 1, 16)
    assert stream.chunks == len(chunks)
    np.testing.assert_array_equal(stream.tokens([32], 16), theirs.tokens([32], 16))


def test_logs_perplexity_and_scores_are_what_the_stages_wrote(run: Run) -> None:
    logs = run.artifacts.training_logs()
    assert [line["step"] for line in logs["retro"] if "step" in line and "loss" in line][-1] == 6
    assert logs["retro"] == read_log(stage("pretrain").path(run.config) / "retro/log.jsonl")
    assert len(run.artifacts.training_logs("sft")) == 1
    table = json.loads((stage("perplexity").path(run.config) / "perplexity.json").read_text())
    assert run.artifacts.perplexity() == table["rows"]
    scores = json.loads((stage("evaluate").path(run.config) / "scores.json").read_text())
    del scores["checksum"]
    assert run.artifacts.scores() == scores
    assert scores["questions"] == 10


def test_mistakes_name_the_argument(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^stage = 'indx': is not a stage; did you mean 'index'"):
        run.stage("indx")
    with pytest.raises(ConfigError, match=r"'neighbours': is not a stage; did you mean 'neighbors'"):
        run.run("neighbours")
    with pytest.raises(ConfigError, match=r"^source = 'wiki': needs one of text, or a number from 0 to 0"):
        run.artifacts.documents("wiki")
    with pytest.raises(ConfigError, match=r"^split = 'dev': needs one of train, valid, test"):
        run.artifacts.neighbors("dev")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"absent\.yaml: no such config file"):
        Run.open(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match=r"^path = .*: needs the directory of a run, or the run's YAML file"):
        Run.open(tmp_path)
    with pytest.raises(ConfigError, match=r"^train\.lrr = 0\.0001: is not a setting; did you mean 'lr'"):
        Run.open(run.directory.parent / "run.yaml", "train.lrr=1e-4")


def test_what_is_missing_names_the_command(run: Run, tmp_path: Path) -> None:
    file = run.directory.parent / "run.yaml"
    empty = Run.open(file, f"run_dir={tmp_path}/new")
    assert set(empty.status().values()) == {"missing"}
    with pytest.raises(ArtifactError, match=r"1_corpus/manifest\.json: is missing\. Run `retro corpus` first"):
        empty.artifacts.documents()
    with pytest.raises(ArtifactError, match=r"8_evaluate/manifest\.json: is missing\. Run `retro evaluate` first"):
        empty.artifacts.scores()
    assert empty.artifacts.training_logs() == {}
    with pytest.raises(ArtifactError, match=r"Run `retro corpus` first"):
        empty.retriever()


def test_a_directory_is_read_and_searched_and_runs_stages_where_its_settings_lie_in_it(run: Run) -> None:
    bare = Run.open(run.directory)
    assert list(bare.status().values()) == ["done"] * len(STAGES)
    assert [one.id for one in bare.artifacts.documents()] == [one.id for one in run.artifacts.documents()]
    assert bare.retriever().search("river1", 2) == run.retriever().search("river1", 2)
    with pytest.raises(ConfigError, match=r"^path = .*: needs a run's YAML file, .* to run stages"):
        bare.stage("corpus")
    with_settings = Run.open(run.directory.parent, f"run_dir={run.directory}")
    assert with_settings.config.corpus == run.config.corpus
    with_settings.stage("corpus")


def test_a_run_without_a_file_has_no_workers(run: Run) -> None:
    with pytest.raises(ConfigError, match=r"^workers = 2: needs to be 1 for a run that no YAML file describes"):
        Run(run.config).stage("corpus", workers=2)


def test_a_run_loads_no_torch_until_a_model_is_opened(run: Run) -> None:
    file = run.directory.parent / "run.yaml"
    opened = f"import retro\nrun = retro.Run.open({str(file)!r})\nrun.status()"
    assert loaded_after("import retro\ndir(retro)", "pydantic", "numpy") == set()
    assert loaded_after(opened).isdisjoint({"torch", "megatron", "faiss", "h5py"})
    looked = f"{opened}\nrun.artifacts.neighbors()\nrun.artifacts.documents()\nrun.retriever().search('river1')"
    assert loaded_after(looked).isdisjoint({"torch", "megatron", "transformers"})
    assert "torch" in loaded_after(f"{opened}\nrun.generator()")
