"""A trained retriever on disk: a folder of sentence-transformers, and beside it how it is to be used as an embedder.

model/            modules.json, model.safetensors, tokenizer, README.md (the model card)
retriever.json    similarity, prefixes, most tokens, title: what `embedder_of` gives as settings of an embedder
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retro.common.errors import ArtifactError
from retro.common.files import discard, failed_writes_are_artifact_errors, fsync, read_json, write_json
from retro.index.config import EmbedderConfig
from retro.index.weights import MODEL, RETRIEVER, weights_digest
from retro.recipes.dense_retriever.training.config import StartConfig

_REMEDY = "Run the step that wrote it again with --redo"


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when all of it is written; what was there before is removed.

    Raises:
        ArtifactError: The disk is full.
    """
    fresh = path.with_name(f".{path.name}.tmp")
    discard(fresh)
    try:
        with failed_writes_are_artifact_errors(path):
            fresh.mkdir(parents=True)
            yield fresh
            for file in sorted(fresh.rglob("*")):
                if file.is_file():
                    fsync(file)
            discard(path)
            fresh.rename(path)
            fsync(path.parent)
    finally:
        discard(fresh)


def save_model(model: Any, start: StartConfig, out: Path, facts: Mapping[str, Any]) -> list[str]:
    """Write a trained model and its description into `out`; gives the names of the files.

    Args:
        model: Of sentence-transformers, without normalisation; one is added where similarity is a cosine.
        start: How it compares, and its prefixes.
        out: The step's folder.
        facts: What the model card tells of its training.
    """
    from sentence_transformers.models import Normalize

    places = dict(model.named_children())
    if start.similarity == "cosine":
        model.add_module(str(len(places)), Normalize())
    model.prompts = {"query": start.query_prefix, "document": start.passage_prefix}
    try:
        with whole_folder(out / MODEL) as fresh:
            model.save_pretrained(str(fresh), create_model_card=False)
            (fresh / "README.md").write_text(_card(start, facts), encoding="utf-8")
    finally:
        if start.similarity == "cosine":
            del model._modules[str(len(places))]
    names = sorted(file.relative_to(out).as_posix() for file in (out / MODEL).rglob("*") if file.is_file())
    write_json(
        out / RETRIEVER,
        {
            "similarity": start.similarity, "query_prefix": start.query_prefix, "passage_prefix": start.passage_prefix,
            "max_tokens": int(model.max_seq_length), "title": start.title,
            "weights_sha256": weights_digest(out / MODEL),
        },
    )  # fmt: skip
    return [*names, RETRIEVER]


def embedder_of(folder: Path, **settings: Any) -> EmbedderConfig:
    """Settings of the embedder that a step's folder holds, as it was trained.

    Args:
        folder: With `model/` and `retriever.json`.
        settings: Others of `EmbedderConfig`, such as `precision`.

    Raises:
        ArtifactError: It holds none, or the weights are others.
    """
    described = read_json(folder / RETRIEVER, _REMEDY, dict[str, Any])
    own: dict[str, Any] = {
        "kind": "sentence_transformers",
        "model": str(folder / MODEL),
        "normalize": described["similarity"] == "cosine",
        **{name: described[name] for name in ("query_prefix", "passage_prefix", "max_tokens")},
    }
    if not (folder / MODEL).is_dir() or weights_digest(folder / MODEL) != described["weights_sha256"]:
        raise ArtifactError(folder / MODEL, "has other weights than retriever.json says, or none", _REMEDY)
    return EmbedderConfig(**(own | settings))


def _card(start: StartConfig, facts: Mapping[str, Any]) -> str:
    from_what = "a small BERT from scratch" if start.tiny is not None else str(start.model)
    told = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
---
# A dense retriever

Trained by the recipe `dense_retriever` of instruct-retro, from {from_what}.

| | |
|---|---|
| similarity | {start.similarity} |
| prefix of questions | {start.query_prefix!r} |
| prefix of passages | {start.passage_prefix!r} |
| text of a passage | {"title, blank, text" if start.title else "text"} |
{told}
"""
