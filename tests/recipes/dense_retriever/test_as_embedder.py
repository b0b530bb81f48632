"""A saved model in the other places that an embedder has: a run's index and neighbors, passages, BEIR."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.artifacts import read_manifest
from retro.index.config import EmbedderConfig
from retro.recipes.passages.config import PassagesConfig
from retro.recipes.passages.embed import embed_shard
from retro.recipes.passages.search import DatabaseRetriever, PassageRetriever
from retro.run.config import RunConfig, load_run_config
from retro.run.pipeline import stage
from tests.recipes.passages.world import made_passages, tiny_bert, write_tsv

TEXTS = [f"{one.title} {one.text}" for one in made_passages(12)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as training saves it: an encoder, the mean of its states, vectors of length 1."""
    library = pytest.importorskip("sentence_transformers")
    parts = pytest.importorskip("sentence_transformers.models")
    folder = tmp_path_factory.mktemp("model")
    bert = tiny_bert(folder / "bert", made_passages(12))
    encoder = parts.Transformer(str(bert))
    pooling = parts.Pooling(encoder.get_embedding_dimension(), pooling_mode="mean")
    made = library.SentenceTransformer(modules=[encoder, pooling, parts.Normalize()], device="cpu")
    made.save_pretrained(str(folder / "model"), create_model_card=False)
    return folder / "model"


def embedder(model: Path, **more: Any) -> dict[str, Any]:
    own = {"kind": "sentence_transformers", "model": str(model), "max_tokens": 64, "precision": "float32"}
    return {**own, **more}


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("run")
    lines = [json.dumps({"text": text, "id": str(number)}) for number, text in enumerate(TEXTS * 3)]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    settings = {
        "run_dir": f"{folder}/run",
        "corpus.sources": f"[{{name: facts, path: {folder}/corpus.jsonl}}]",
        "corpus.tokenizer": "{kind: byte}",
        "corpus.split": "[0.8, 0.2, 0.0]",
        "model": "{layers: 2, hidden_size: 32, heads: 2, sequence_length: 128}",
        "index.embedder": json.dumps(embedder(model, query_prefix="", passage_prefix="")),
        "neighbors": "{saved: 2, searched: 4}",
    }
    config = load_run_config(None, [f"{name}={value}" for name, value in settings.items()])
    for name in ("corpus", "db", "index", "neighbors"):
        stage(name).run(config)
    return config


def test_a_run_s_index_and_neighbors_are_made_with_it(run: RunConfig, model: Path) -> None:
    index = read_manifest(stage("index").path(run), "index")
    assert index.config["embedder"]["model"] == str(model)
    assert index.counts["dimension"] == 32
    assert (stage("neighbors").path(run) / "manifest.json").exists()


def test_a_question_finds_a_chunk_of_the_run_by_it(run: RunConfig) -> None:
    retriever = DatabaseRetriever(*(stage(name).path(run) for name in ("corpus", "db", "index")))
    [found] = retriever.search([TEXTS[3]], 3)
    # The texts are three times in the corpus, and a text's own chunk is nearest to it.
    assert found[0].text.strip() in TEXTS[3]


def test_passages_of_other_recipes_are_embedded_and_found_by_it(model: Path, tmp_path: Path) -> None:
    passages = write_tsv(tmp_path / "passages.tsv", made_passages(12))
    config = PassagesConfig(
        passages=passages, embeddings=f"{tmp_path}/embeddings/*", embedder=EmbedderConfig(**embedder(model))
    )
    embed_shard(config, tmp_path / "embeddings")
    retriever = PassageRetriever.open(config)
    texts = [f"{one.title} {one.text}".strip() for one in made_passages(12)]
    assert [found[0].document_id for found in retriever.search(texts, 1)] == [one.id for one in made_passages(12)]
    assert np.linalg.norm(retriever.vectors.vectors_ND[0].astype(np.float32)) == pytest.approx(1, abs=1e-2)
