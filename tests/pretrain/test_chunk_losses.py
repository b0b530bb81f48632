"""Losses of single chunks: by hand on told losses, and on a real run against the stage's own mean."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from retro.common.artifacts import read_manifest
from retro.corpus.reader import Corpus
from retro.db.reader import ChunkDatabase
from retro.pretrain.chunk_losses import CHUNKS_FILE, ChunkLosses, chunk_bytes
from retro.pretrain.data import EvaluationSource, SequenceReader
from retro.pretrain.perplexity import evaluation_streams
from retro.run.config import RunConfig
from retro.run.pipeline import stage
from retro.training.validation import Validation, mean_loss
from tests.pretrain.told import alone
from tests.tiny_road import run_stages, small_config, write_corpus

S, M = 64, 16


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("road")
    write_corpus(folder / "more.jsonl", documents=40, seed=9)
    sources = f"corpus.sources=[{{name: text, path: {folder}/text.jsonl}}, "
    config = small_config(
        folder, f"{sources}{{name: more, path: {folder}/more.jsonl}}]", "pretrain.baselines=[gpt]", "train.steps=2"
    )
    run_stages(config, "corpus", "db", "index", "neighbors", "pretrain", "perplexity")
    return config


def source_of(config: RunConfig) -> EvaluationSource:
    corpus = Corpus.open(stage("corpus").path(config))
    database = ChunkDatabase.open(stage("db").path(config), corpus)
    return EvaluationSource(
        SequenceReader(corpus, database, None, split=1, sequence_length=S, neighbors_read=0, mode="none")
    )


def test_a_label_belongs_to_the_chunk_it_stands_in(road: RunConfig) -> None:
    source = source_of(road)
    losses = ChunkLosses(source)
    batch = source.fetch(np.array([0, 1]))
    # Label j of a sequence n is at position 64 n + 1 + j: told losses are these positions.
    told = np.array([np.arange(1, 65), np.arange(65, 129)], dtype=np.float32)
    losses.add(np.array([0, 1, -1]), np.vstack([told, told[:1]]), np.vstack([batch.loss_mask_BS] * 2)[:3])
    found = losses.by_source()[0]
    assert found["tokens"][:9].tolist() == [15, 16, 16, 16, 16, 16, 16, 16, 1]
    assert found["loss"][0] == sum(range(1, 16))
    assert found["loss"][4] == sum(range(64, 80))
    assert found["loss"][8] == 128


def test_every_predicted_token_is_counted_once(road: RunConfig) -> None:
    source = source_of(road)
    losses = ChunkLosses(source)
    numbers = np.arange(source.samples)
    mask = source.fetch(numbers).loss_mask_BS
    losses.add(numbers, np.ones_like(mask), mask)
    for stream, found in zip(source.reader.streams, losses.by_source(), strict=True):
        assert len(found["tokens"]) == stream.chunks + 1
        assert found["tokens"].sum() == stream.length - 1
        assert (found["tokens"][1:-1] == M).all()
        assert found["tokens"][-1] == stream.length % M
        assert found["loss"].tolist() == found["tokens"].tolist()


def test_losses_of_chunks_sum_to_the_loss_that_the_stage_reports(road: RunConfig) -> None:
    folder = stage("perplexity").path(road)
    rows = json.loads((folder / "perplexity.json").read_text())["rows"]
    assert len(rows) == 4
    with h5py.File(folder / CHUNKS_FILE) as file:
        for row in rows:
            groups = [file[source][row["model"]][row["neighbors"]] for source in ("text", "more")]
            loss = sum(float(group["loss"][...].sum()) for group in groups)
            assert sum(int(group["tokens"][...].sum()) for group in groups) == row["tokens"]
            assert loss / row["tokens"] == pytest.approx(row["loss"], rel=1e-6)
    assert sorted(read_manifest(folder, "perplexity").files) == [CHUNKS_FILE, "perplexity.json"]


def test_the_loss_of_a_chunk_is_that_of_the_model_alone_on_its_sequence(road: RunConfig) -> None:
    source = source_of(road)
    chunks, shape = alone(stage("pretrain").path(road) / "gpt")
    told: dict[int, np.ndarray] = {}
    mean_loss(
        chunks, shape, Validation(source=source, samples=1), 1, 1,
        lambda numbers, losses, mask: told.update({int(numbers[0]): losses[0] * mask[0]}),
    )  # fmt: skip
    with h5py.File(stage("perplexity").path(road) / CHUNKS_FILE) as file:
        found = file["text/gpt/-/loss"][:3]
    assert found == pytest.approx([told[0][:15].sum(), told[0][15:31].sum(), told[0][31:47].sum()], rel=1e-5)


def test_bytes_of_chunks_sum_to_those_of_the_text(road: RunConfig) -> None:
    corpus = Corpus.open(stage("corpus").path(road))
    database = ChunkDatabase.open(stage("db").path(road), corpus)
    for stream in evaluation_streams(corpus, database, "valid"):
        tokens = stream.tokens([0], stream.length)[0]
        # A SentencePiece or byte-level text begins where its first token ends: that one is not predicted.
        whole, first = (len(corpus.tokenizer.decode(part).encode()) for part in (tokens, tokens[:1]))
        found = chunk_bytes(corpus, stream)
        ends = int((tokens == corpus.tokenizer.eod).sum())
        assert len(found) == stream.chunks + 1
        assert abs(int(found.sum()) - (whole - first)) <= ends + 1
        assert (found[:-1] > 0).all()


def test_a_part_of_the_split_leaves_the_other_chunks_without_tokens(road: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(road.run_dir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/5_pretrain/perplexity")
    few = road.model_copy(
        update={"run_dir": tmp_path / "run", "perplexity": road.perplexity.model_copy(update={"samples": 1})}
    )
    run_stages(few, "perplexity")
    with h5py.File(tmp_path / "run/5_pretrain/perplexity" / CHUNKS_FILE) as file:
        assert file["text/gpt/-/tokens"][:6].tolist() == [15, 16, 16, 16, 1, 0]
        assert file["more/gpt/-/tokens"][...].sum() == 0
