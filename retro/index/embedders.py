"""The embedder of an index: made once by the index stage, and opened again by whoever asks the index.

`embedder.json` beside the index holds the embedder's settings and its identity. Vectors of two embedders must never
meet, so an embedder that is opened again has to have the very identity recorded there.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from retro.common.blocks import Block
from retro.common.config import config_json
from retro.common.coordinator import Coordinator
from retro.common.errors import ArtifactError
from retro.common.files import atomic_path, read_json, sha256_file, write_json
from retro.common.hdf5 import new_file, open_file, read_text, write_columns, write_texts
from retro.common.precision import choose
from retro.index.config import EmbedderConfig, current_names
from retro.index.embedder import EMBEDDERS, OPTIONAL, Embedder

log = logging.getLogger(__name__)

DESCRIPTION = "embedder.json"
_REMEDY = "Run `retro index` again"


def make_embedder(
    config: EmbedderConfig,
    out: Path,
    training_texts: Callable[[], Iterable[Sequence[str]]],
    *,
    learned_from: str,
    coordinator: Coordinator,
) -> Embedder:
    """The embedder of a new index; what it learns from the training texts is stored in `out`.

    Args:
        config: Its settings.
        out: Directory of the index.
        training_texts: Gives texts of the train split, some at a time; asked only by an embedder that learns.
        learned_from: Fingerprint of the training texts: what an earlier run learned from others is learned again.
        coordinator: Those who need it; one of them learns for all.

    Raises:
        DataError, DependencyError: The model is missing, is not the one meant, or cannot be loaded.
        ArtifactError: What was written down of the embedder by an earlier worker is damaged.
    """
    made = _class_of(config)
    if made.learned_file:
        learned = out / made.learned_file

        def learn() -> None:
            _write_learned(learned, made.learn(config, training_texts()), learned_from)

        coordinator.once("embedder", lambda: _texts_of(learned) == learned_from, learn)
        return made.open(config, out)
    path = out / DESCRIPTION
    coordinator.once("embedder", lambda: _chosen(path, config) is not None, lambda: _choose(path, config))
    return made.open(_chosen(path, config) or config, out)


def _class_of(config: EmbedderConfig) -> type[Embedder]:
    return EMBEDDERS.find(config.kind, "index.embedder.kind")


def _choose(path: Path, config: EmbedderConfig) -> None:
    """Write down what `auto` means for all who build this index, on whatever machines, also after a stop."""
    choice = choose(config.precision)
    choice.tell("index.embedder.precision")
    chosen = config.model_copy(update={"precision": choice.precision})
    write_json(path, {"config": _described(chosen)})


def _described(config: EmbedderConfig) -> dict[str, Any]:
    """Settings as embedder.json has them: those that came later only where they are given."""
    settings = config_json(config)
    usual = {name: EmbedderConfig.model_fields[name].get_default(call_default_factory=True) for name in OPTIONAL}
    first = ("model", "sha256")
    return {
        name: value for name, value in settings.items() if name not in OPTIONAL or name in first or value != usual[name]
    }


def _chosen(path: Path, config: EmbedderConfig) -> EmbedderConfig | None:
    """The settings that stand in `path`, where they are `config` with what its `auto` means; else None."""
    if not path.exists():
        return None
    found = _settings_in(read_json(path, _REMEDY), path)
    asked = config if config.precision != "auto" else config.model_copy(update={"precision": found.precision})
    return found if found == asked else None


def _settings_in(described: Any, path: Path) -> EmbedderConfig:
    if not isinstance(described, dict) or "config" not in described:
        raise ArtifactError(path, "does not describe an embedder", _REMEDY)
    return EmbedderConfig(**current_names(described["config"]))


def adopt_embedder(directory: Path, out: Path, coordinator: Coordinator) -> Embedder:
    """The embedder of the index in `directory`, for another index in `out` whose vectors are searched beside its own.

    Args:
        directory: A finished index.
        out: Directory of the new one.
        coordinator: Those who need it; one of them copies for all.

    Raises:
        ArtifactError: Its description is missing or damaged, or the model found now is another one.
        DataError, DependencyError: The model is missing or cannot be loaded.
    """
    embedder = open_embedder(directory)
    if embedder.learned_file:
        source, path = directory / embedder.learned_file, out / embedder.learned_file
        coordinator.once("embedder", lambda: _same_bytes(source, path), lambda: _copy(source, path))
    return embedder


def _same_bytes(source: Path, path: Path) -> bool:
    return path.exists() and sha256_file(path) == sha256_file(source)


def _copy(source: Path, path: Path) -> None:
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)


def _write_learned(path: Path, arrays: Mapping[str, NDArray[Any]], learned_from: str) -> None:
    block = Block(dict(arrays))
    with atomic_path(path) as temporary, new_file(temporary) as file:
        write_columns(file, block.arrays)
        write_texts(file, {"learned_from": learned_from, "checksum": block.checksum})


def _texts_of(path: Path) -> str:
    """Fingerprint of the texts that `path` was learned from; empty where there is no such file, or a damaged one."""
    if not path.exists():
        return ""
    try:
        with open_file(path, _REMEDY) as file:
            learned_from, checksum = read_text(file, "learned_from"), read_text(file, "checksum")
            whole = Block({name: file[name][...] for name in file}).checksum == checksum
    except ArtifactError as error:
        log.warning("%s; it is learned again", error)
        return ""
    return learned_from if whole else ""


def require_learned(config: EmbedderConfig, out: Path) -> None:
    """Check that what the embedder learned is still in `out` as it was written, if it learned anything.

    Raises:
        ArtifactError: Its bytes have changed since. It is removed, so that it is learned again.
    """
    name = _class_of(config).learned_file
    path = out / name
    if name and path.exists() and not _texts_of(path):
        path.unlink()
        raise ArtifactError(
            path, "has changed bytes since it was written", "Run `retro index` again; it is learned again"
        )


def describe_embedder(config: EmbedderConfig, embedder: Embedder, out: Path) -> list[str]:
    """Write embedder.json into `out`; gives the names of the embedder's files there."""
    settings = _described(config)
    # What `auto` meant here, so that another machine asks the index in the same precision.
    settings["precision"] = embedder.identity.get("dtype", config.precision)
    write_json(out / DESCRIPTION, {"config": settings, "identity": embedder.identity})
    return [DESCRIPTION, *filter(None, [embedder.learned_file])]


def open_embedder(directory: Path) -> Embedder:
    """The embedder that made the index in `directory`.

    Raises:
        ArtifactError: Its description is missing or damaged, or the model found now is another one.
        DataError, DependencyError: The model is missing or cannot be loaded.
    """
    path = directory / DESCRIPTION
    described = read_json(path, _REMEDY)
    config = _settings_in(described, path)
    if "identity" not in described:
        raise ArtifactError(path, "does not describe an embedder", _REMEDY)
    embedder = _class_of(config).open(config, directory)
    require_identity(path, described["identity"], embedder)
    return embedder


def require_identity(path: Path, recorded: dict[str, str | int], embedder: Embedder) -> None:
    """Check that `embedder` is the one recorded in `path`.

    Raises:
        ArtifactError: It is another one; the first difference is named.
    """
    found = embedder.identity
    for name in sorted(set(recorded) | set(found)):
        if recorded.get(name) != found.get(name):
            raise ArtifactError(
                path,
                f"records an embedder with {name} {recorded.get(name)!r}; the one here has {found.get(name)!r}",
                "Use the embedder the index was made with, or run `retro index` again",
            )
