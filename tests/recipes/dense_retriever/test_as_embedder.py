"""A saved model in the other places that an embedder has: a run's index and neighbors, passages, BEIR."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.artifacts import read_manifest
from retro.common.errors import ConfigError, DataError
from retro.index.config import EmbedderConfig
from retro.index.embedder import EMBEDDERS
from retro.recipes.dense_retriever.training.saved_model import embedder_of
from retro.recipes.passages.config import PassagesConfig
from retro.recipes.passages.embed import embed_shard
from retro.recipes.passages.layouts import Passage
from retro.recipes.passages.search import DatabaseRetriever, PassageRetriever
from retro.run.config import RunConfig
from retro.run.pipeline import stage
from tests.recipes.passages.world import made_passages, tiny_bert, write_tsv
from tests.tiny_road import TOPICS, run_stages, small_config


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as training saves it: an encoder, the mean of its states, vectors of length 1."""
    library = pytest.importorskip("sentence_transformers")
    parts = pytest.importorskip("sentence_transformers.models")
    folder = tmp_path_factory.mktemp("model")
    words = " ".join(f"{topic}{number}" for topic in TOPICS for number in range(12))
    bert = tiny_bert(folder / "bert", [*made_passages(12), Passage("words", "", words)])
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
    """The first four stages, its vectors made by the model."""
    config = small_config(tmp_path_factory.mktemp("run"), f"index={{embedder: {json.dumps(embedder(model))}}}")
    run_stages(config, "corpus", "db", "index", "neighbors")
    return config


def test_a_run_s_index_and_neighbors_are_made_with_it(run: RunConfig, model: Path) -> None:
    index = read_manifest(stage("index").path(run), "index")
    assert index.config["embedder"]["model"] == str(model)
    assert index.counts["dimension"] == 32
    assert (stage("neighbors").path(run) / "manifest.json").exists()


def test_a_question_finds_chunks_of_the_run_by_it(run: RunConfig) -> None:
    corpus, database, index = (stage(name).path(run) for name in ("corpus", "db", "index"))
    retriever = DatabaseRetriever(corpus, database, index)
    text = retriever.search(["river"], 1)[0][0].text
    # A chunk's own text has its own vector.
    [found] = retriever.search([text], 3)
    assert (len(found), found[0].text) == (3, text)
    assert found[0].score == pytest.approx(1, abs=1e-2)


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


def trained_folder(model: Path, folder: Path, **changes: Any) -> Path:
    """The model as the step `train` leaves it, with other settings than an embedder has by default."""
    from retro.common.files import write_json
    from retro.index.weights import weights_digest

    shutil.copytree(model, folder / "model")
    how = {"similarity": "dot", "query_prefix": "ask: ", "passage_prefix": "", "max_tokens": 48, "title": True}
    write_json(folder / "retriever.json", how | {"weights_sha256": weights_digest(model)} | changes)
    return folder


@pytest.mark.parametrize("kind", ["sentence_transformers", "huggingface"])
def test_a_trained_model_embeds_as_it_was_trained_though_nothing_is_said(
    kind: str, model: Path, tmp_path: Path
) -> None:
    folder = trained_folder(model, tmp_path / "train")
    plain = EMBEDDERS.find(kind, "kind").open(EmbedderConfig(kind=kind, model=str(folder / "model")), tmp_path)
    told = embedder_of(folder, kind=kind)
    assert (told.normalize, told.query_prefix, told.max_tokens) == (False, "ask: ", 48)
    assert plain.identity == EMBEDDERS.find(kind, "kind").open(told, tmp_path).identity
    assert plain.identity["normalize"] is False
    # Settings as another process has them, all of them given.
    again = EmbedderConfig(**json.loads(plain.config.model_dump_json()))
    assert EMBEDDERS.find(kind, "kind").open(again, tmp_path).identity == plain.identity


@pytest.mark.parametrize(
    ("setting", "said"),
    [({"query_prefix": "query: "}, "query_prefix = 'query: ': needs 'ask: ', as the model was trained"),
     ({"passage_prefix": "passage: "}, "passage_prefix = 'passage: ': needs ''"),
     ({"max_tokens": 64}, "max_tokens = 64: needs 48")],
)  # fmt: skip
def test_settings_that_contradict_the_training_are_refused(
    setting: dict[str, Any], said: str, model: Path, tmp_path: Path
) -> None:
    folder = trained_folder(model, tmp_path / "train")
    config = EmbedderConfig(kind="sentence_transformers", model=str(folder / "model"), **setting)
    with pytest.raises(ConfigError, match=re.escape(f"EmbedderConfig.{said}")):
        EMBEDDERS.find(config.kind, "kind").open(config, tmp_path)
    cosine = trained_folder(model, tmp_path / "cosine", similarity="cosine")
    unlike = EmbedderConfig(kind="sentence_transformers", model=str(cosine / "model"), normalize=False)
    with pytest.raises(ConfigError, match="normalize = False: needs True"):
        EMBEDDERS.find(unlike.kind, "kind").open(unlike, tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"weights_sha256": "0" * 64}, "has other weights than retriever.json beside it says"),
     ({"max_tokens": "many"}, "holds 'many' as max_tokens")],
)  # fmt: skip
def test_a_description_of_another_model_is_refused(
    changes: dict[str, Any], said: str, model: Path, tmp_path: Path
) -> None:
    folder = trained_folder(model, tmp_path / "train", **changes)
    config = EmbedderConfig(kind="sentence_transformers", model=str(folder / "model"))
    with pytest.raises(DataError, match=said):
        EMBEDDERS.find(config.kind, "kind").open(config, tmp_path)
