"""Where documents come from: files of the recipe's own, or those that the run's corpus was made of."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from retro.common.errors import ConfigError
from retro.common.files import atomic_path
from retro.corpus.config import SourceConfig
from retro.corpus.files import Source, ending_of, is_compressed, open_bytes, resolve
from retro.corpus.folder import InputFile
from retro.corpus.hub import local_path
from retro.corpus.manifest import built_in_text
from retro.corpus.tables import TABLES
from retro.recipes.base import StepRun


def document_sources(work: StepRun) -> list[Source]:
    """The sources of the settings, or of the run's corpus, with their files.

    Raises:
        ConfigError: One has tokens and no text.
        DataError: One has no files.
    """
    own: tuple[SourceConfig, ...] = work.settings.segments.sources
    section = "recipe.dense_retriever.segments" if own else "corpus"
    found = []
    for one in own or work.config.corpus.sources:
        source = resolve(one, _place(one, work))
        if source.kind == "megatron":
            need = "needs text; a Megatron .bin/.idx pair has tokens alone: set recipe.dense_retriever.segments.sources"
            raise ConfigError(f"{section}.sources.{one.name}", str(one.path), need)
        found.append(source)
    return found


def _place(source: SourceConfig, work: StepRun) -> Path:
    if source.path is not None:
        return local_path(source.path)
    if work.settings.segments.sources:
        need = "needs a path; built-in texts are those of the run's corpus: leave sources empty"
        raise ConfigError(f"recipe.dense_retriever.segments.sources.{source.name}.built_in", source.built_in, need)
    return built_in_text(work.made_by("corpus"), source.name)


def uncompressed(source: Source, directory: Path) -> Source:
    """A source whose files can be read from any place: compressed ones are unpacked into `directory`, unless they are.

    Pages and whole-file texts stay as they are, since they are read from their beginning anyway, and tables have blocks
    of their own.

    Raises:
        DataError: A file is damaged.
    """
    if source.kind in ("html", *TABLES) or source.unit == "file":
        return source
    return replace(source, files=tuple(_unpacked(file, source.name, directory) for file in source.files))


def _unpacked(file: InputFile, source: str, directory: Path) -> InputFile:
    if not is_compressed(file.path):
        return file
    status = file.path.stat()
    stamp = f"{status.st_size}-{status.st_mtime_ns}"
    target = directory / source / f"{file.name.replace('/', '_')}-{stamp}{ending_of(file.path.name)}"
    if not target.exists():
        with open_bytes(file.path) as stream, atomic_path(target) as temporary, temporary.open("wb") as copy:
            shutil.copyfileobj(stream, copy, 1 << 20)
    return InputFile(file.name, target)
