"""Checkpoints of Megatron-LM before megatron-core, so the public InstructRetro ones, read without running their code.

    latest_checkpointed_iteration.txt        "release", or a number
    release/mp_rank_00/model_optim_rng.pt    what tensor parallel rank 0 holds: iter_0000100/ when it is a number
    release/mp_rank_01/model_optim_rng.pt

Of such a file, which is a pickle, only tensors, plain values and the Namespace of Megatron's command line are made;
for the few other types that Megatron puts in one there is a stand-in that holds nothing, and whatever else is refused.

Known from Megatron-LM's public code: file names, keys, which norm stands before what, the order of query, key and
value within a head (checkpoint versions 2 and 3), and that neither encoder nor cross-attention has rotary positions.
Inferred, because the public weights could not be had: that they are of checkpoint version 3, that they keep their args,
and that these name their types as Megatron-LM of January 2024 does.
"""

from __future__ import annotations

import pickle
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retro.common.errors import DataError
from retro.model.config import ModelConfig, ModelShape
from retro.model.convert.legacy_names import (
    Place,
    Share,
    encoder_layers,
    flat,
    places,
    read_shared,
    reading_layers,
    whole_size,
)
from retro.model.convert.legacy_settings import chunk_length, settings
from retro.model.weight_names import weight_sizes

TRACKER = "latest_checkpointed_iteration.txt"
FILE = "model_optim_rng.pt"
# What such a file holds beside the model. None of it is read.
_UNUSED = {
    "args",
    "checkpoint_version",
    "iteration",
    "num_floating_point_operations_so_far",
    "optimizer",
    "opt_param_scheduler",
    "lr_scheduler",
    "rng_state",
    "random_rng_state",
    "np_rng_state",
    "torch_rng_state",
    "cuda_rng_state",
    "rng_tracker_states",
}
_EMBEDDING = "embedding.word_embeddings.weight"
_SOURCE = "Fetch it again from a source you trust"


class _Unread:
    """Takes the place of an object that no weight and no setting needs, and holds nothing of it."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


_STAND_INS: list[Any] = [
    Namespace,
    (_Unread, "megatron.core.enums.ModelType"),  # in args
    (_Unread, "numpy.core.multiarray._reconstruct"),  # numpy's random state
    (_Unread, "numpy._core.multiarray._reconstruct"),
    (_Unread, "numpy.ndarray"),
    (_Unread, "numpy.dtype"),
]


class LegacyCheckpoint:
    """The weights of a legacy checkpoint by our names, put together from its ranks when they are asked for."""

    def __init__(self, folder: Path) -> None:
        """Open the newest checkpoint of a folder. Weights stay on disk, mapped into memory.

        Raises:
            DataError: A file is missing, damaged or unsafe; the ranks do not fit together; a key is not known; or the
                model is one that this toolkit does not have.
        """
        self.path = folder
        files = _rank_files(folder)
        loaded = [_load(file) for file in files]
        self.args = _args(loaded[0], files[0])
        ranks = int(getattr(self.args, "tensor_model_parallel_size", len(files)))
        if ranks != len(files):
            problem = f"holds {len(files)} ranks, needs the {ranks} of its args (tensor_model_parallel_size)"
            raise DataError(files[0].parents[1], problem, "Fetch the missing mp_rank folders")
        self._ranks = [_weights(data, file) for data, file in zip(loaded, files, strict=True)]
        placed = self._places(files)
        if _EMBEDDING not in placed:
            raise DataError(files[0], f"lacks {_EMBEDDING}, which holds the vocabulary", _SOURCE)
        self._keys = {place.name: (key, place.share) for key, place in placed.items()}
        self._check_shares(files)

    @property
    def shape(self) -> ModelShape:
        """The model: settings from args and weights, vocabulary from the embedding."""
        keys = [key.replace("layernorm", "norm") for key in self._ranks[0]]
        model = settings(self.args, reading_layers(keys), encoder_layers(keys), self.path)
        rows = sum(rank[_EMBEDDING].size(0) for rank in self._ranks)
        vocabulary = int(getattr(self.args, "vocab_size", None) or rows)
        # Any multiple that pads the vocabulary to the rows there are is right; prefer the usual one.
        multiple = 128 if -(-vocabulary // 128) * 128 == rows else rows
        return ModelShape(
            model=ModelConfig(**model, vocabulary_multiple=multiple),
            vocabulary=vocabulary,
            chunk_length=chunk_length(self.args),
            retrieved_chunks=int(getattr(self.args, "retro_num_retrieved_chunks", 2)),
        )

    def require(self, shape: ModelShape) -> None:
        """Check that these are the weights of a model, all of them, no others, and in its sizes. Nothing is read.

        Raises:
            DataError: The first one that does not fit is named with both sizes.
        """
        sizes = weight_sizes(shape)
        for name in sorted(sizes.keys() | self._keys.keys()):
            there, here = self.size(name), sizes.get(name)
            if there != here:
                problem = f"{name} is {_words(there)} there, {_words(here)} in the model that its args describe"
                remedy = "Its args and its weights do not belong together; fetch it again from a source you trust"
                raise DataError(self.path, problem, remedy)

    @property
    def names(self) -> list[str]:
        """Our names of all weights."""
        return list(self._keys)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return self._ranks[0][_EMBEDDING].dtype

    def size(self, name: str) -> tuple[int, ...] | None:
        """The size of a whole weight; None where there is none of that name."""
        if name not in self._keys:
            return None
        key, share = self._keys[name]
        return whole_size([rank[key] for rank in self._ranks], share)

    def read(self, name: str, part: tuple[slice, ...] | None = None) -> Tensor:
        """A weight in the precision it was saved in, or a part of it: one slice an axis, within its size."""
        key, share = self._keys[name]
        parts = [rank[key] for rank in self._ranks]
        return read_shared(parts, share, part or tuple(slice(0, length) for length in whole_size(parts, share)))

    def _places(self, files: list[Path]) -> dict[str, Place]:
        first = self._ranks[0]
        for rank, file in zip(self._ranks, files, strict=True):
            if odd := sorted(rank.keys() ^ first.keys()):
                problem = f"has other weights than {files[0].parent.name}: {len(odd)} differ, {odd[0]} the first"
                raise DataError(file, problem, _SOURCE)
        found = places(first, gated=bool(getattr(self.args, "swiglu", False)))
        unknown = [key for key, place in found.items() if place is None]
        if unknown:
            problem = f"holds {len(unknown)} weights that no legacy GPT or Retro has, {unknown[0]} the first"
            raise DataError(files[0], problem, "Give a checkpoint of Megatron-LM's legacy GPT or Retro model")
        return {key: place for key, place in found.items() if place is not None}

    def _check_shares(self, files: list[Path]) -> None:
        """Ranks hold parts of one shape, and equal copies of what is not shared out."""
        for key, share in self._keys.values():
            first = self._ranks[0][key]
            for rank, file in zip(self._ranks[1:], files[1:], strict=True):
                other = rank[key]
                if other.shape != first.shape:
                    shapes = f"{tuple(other.shape)}, and {tuple(first.shape)} in {files[0].parent.name}"
                    raise DataError(file, f"{key} has shape {shapes}: the ranks' parts must be equal", _SOURCE)
                if share is Share.WHOLE and not torch.equal(other, first):
                    problem = f"{key} differs from {files[0].parent.name}'s, though no rank has a part of it"
                    raise DataError(file, problem, _SOURCE)


def _words(size: tuple[int, ...] | None) -> str:
    return "missing" if size is None else str(list(size))


def is_legacy(folder: Path) -> bool:
    """Whether a folder is laid out as a legacy checkpoint."""
    return (folder / TRACKER).is_file() and any(folder.glob(f"*/mp_rank_*/{FILE}"))


def _rank_files(folder: Path) -> list[Path]:
    """One file a tensor parallel rank, in the order of ranks."""
    tracker = folder / TRACKER
    try:
        newest = tracker.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        remedy = f"Give the folder that holds {TRACKER} and release/ or iter_…/"
        raise DataError(tracker, "is missing or cannot be read", remedy) from None
    if newest != "release" and not newest.isdecimal():
        raise DataError(tracker, f"says {newest!r}, needs 'release' or a number", _SOURCE)
    directory = folder / ("release" if newest == "release" else f"iter_{int(newest):07d}")
    found = sorted(path.name for path in directory.glob("mp_rank_*"))
    if any(name.count("_") > 2 for name in found):
        problem = f"is spread over pipeline stages ({found[0]})"
        raise DataError(directory, problem, "Merge the stages first: its own tool checkpoint/convert.py does")
    files = [directory / f"mp_rank_{rank:02d}" / FILE for rank in range(max(len(found), 1))]
    for file in files:
        if not file.is_file():
            raise DataError(file, f"is missing; there is {', '.join(found) or 'no rank at all'}", "Fetch it")
    return files


def _load(file: Path) -> dict[str, Any]:
    """One rank's file: tensors, plain values, and nothing else."""
    try:
        with _nothing_but_stand_ins():
            data = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        # torch's own words go on to advise allowing what was found.
        found = next((line for line in str(error).splitlines() if "GLOBAL" in line or "nsupported" in line), "")
        problem = f"holds something other than tensors and was not loaded ({found.strip()[:120]})"
        raise DataError(file, problem, _SOURCE) from None
    except (RuntimeError, EOFError, LookupError, TypeError, ValueError, AttributeError, OSError) as error:
        problem = f"is cut short or not a torch file of version 1.6 or later ({' '.join(str(error).split())[:120]})"
        raise DataError(file, problem, _SOURCE) from None
    if not isinstance(data, dict):
        raise DataError(file, f"holds a {type(data).__name__}, needs a dictionary", _SOURCE)
    return data


@contextmanager
def _nothing_but_stand_ins() -> Iterator[None]:
    """Take back, meanwhile, what other packages have allowed torch to unpickle; megatron-core allows a dozen types."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(_STAND_INS)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(others)


def _args(data: dict[str, Any], file: Path) -> Namespace:
    args = data.get("args")
    if not isinstance(args, Namespace):
        raise DataError(file, "holds no args, which the model's shape is read from", _SOURCE)
    version = data.get("checkpoint_version", 0)
    if version not in (2.0, 3.0):
        problem = f"is of checkpoint version {version}, needs 2 or 3: query, key and value lay otherwise before"
        raise DataError(file, problem, "Load and save it once with Megatron-LM, which brings it up to date")
    return args


def _weights(data: dict[str, Any], file: Path) -> dict[str, Tensor]:
    """The weights of one rank, by their keys below `language_model`."""
    unknown = sorted(str(key) for key in data.keys() - _UNUSED - {"model"})
    if unknown or not isinstance(data.get("model"), dict):
        problem = f"holds {', '.join(unknown[:4])}" if unknown else "holds no model"
        raise DataError(file, f"{problem}; needs one model and what Megatron-LM saves beside it", _SOURCE)
    found: dict[str, Tensor] = {}
    for key, value in flat(data["model"]).items():
        if not key.startswith("language_model.") or not isinstance(value, Tensor):
            problem = f"its model holds {key}, needs the weights of a language_model and nothing else"
            raise DataError(file, problem, "Give a checkpoint of Megatron-LM's legacy GPT or Retro model")
        found[key.removeprefix("language_model.")] = value
    return found
