"""Checkpoints of Megatron-LM before megatron-core, so the public InstructRetro ones, read without running their code.

    latest_checkpointed_iteration.txt        "release", or a number
    release/mp_rank_00/model_optim_rng.pt    what tensor parallel rank 0 holds: iter_0000100/ when it is a number
    release/mp_rank_01/model_optim_rng.pt

Such a file is a pickle. It is read as plain data: tensors, plain values and the Namespace of Megatron's command line
are taken from it, the few other types that Megatron puts in one are passed over, and whatever else is refused.

Known from Megatron-LM's public code: file names, keys, which norm comes before what, the order of query, key and
value within a head (checkpoint versions 2 and 3), and that neither encoder nor cross-attention has rotary positions.
Inferred, because the public weights could not be had: that they are of checkpoint version 3, that they keep their args,
and that these name their types as Megatron-LM of January 2024 does.
"""

from __future__ import annotations

from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retro.common.errors import ConfigError, DataError, short_reason
from retro.common.plain_pickle import DescribedObject, Name, Names, PickleError, plain_values
from retro.mcore.torch_files import NAMES, TorchFile
from retro.model.config import ModelConfig, ModelShape
from retro.model.convert.legacy_names import (
    Destination,
    Partition,
    encoder_layers,
    flat,
    places,
    read_shared,
    reading_layers,
    whole_size,
)
from retro.model.convert.legacy_settings import chunk_length, settings
from retro.model.convert.megatron import TRACKER, read_tracker
from retro.model.weight_names import weight_sizes

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


# Beside tensors: what holds the command line, and what neither a weight nor a setting needs.
_NAMES: Names = {
    **NAMES,
    "argparse": frozenset({"Namespace"}),
    "megatron.core.enums": frozenset({"ModelType"}),  # in args
    "numpy": frozenset({"ndarray", "dtype"}),  # numpy's random state
    "numpy.core.multiarray": frozenset({"_reconstruct"}),
    "numpy._core.multiarray": frozenset({"_reconstruct"}),
    "_codecs": frozenset({"encode"}),
}


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
        self.files = files
        loaded = [_load(file) for file in files]
        self.args = _args(loaded[0][1], files[0])
        ranks = getattr(self.args, "tensor_model_parallel_size", len(files))
        if ranks != len(files):
            problem = f"holds {len(files)} ranks, needs the {_short(ranks)} of its args (tensor_model_parallel_size)"
            raise DataError(files[0].parents[1], problem, "Fetch the missing mp_rank folders")
        self._ranks = [_weights(*rank) for rank in loaded]
        placed = self._places(files)
        if _EMBEDDING not in placed:
            raise DataError(files[0], f"lacks {_EMBEDDING}, which holds the vocabulary", _SOURCE)
        self._keys = {place.name: (key, place.share) for key, place in placed.items()}
        self._check_shares(files)

    @property
    def shape(self) -> ModelShape:
        """The model: settings from args and weights, vocabulary from the embedding.

        Raises:
            DataError: The args are not those of a model.
        """
        try:
            return self._shape()
        except (ConfigError, TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
            problem = f"its args do not describe a model ({short_reason(error)})"
            raise DataError(self.path, problem, _SOURCE) from None

    def _shape(self) -> ModelShape:
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

    def _places(self, files: list[Path]) -> dict[str, Destination]:
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
                if share is Partition.WHOLE and not torch.equal(other, first):
                    problem = f"{key} differs from {files[0].parent.name}'s, though no rank has a part of it"
                    raise DataError(file, problem, _SOURCE)


def _words(size: tuple[int, ...] | None) -> str:
    return "missing" if size is None else str(list(size))


def is_legacy(folder: Path) -> bool:
    """Whether a folder is laid out as a legacy checkpoint."""
    return (folder / TRACKER).is_file() and any(folder.glob(f"*/mp_rank_*/{FILE}"))


def _rank_files(folder: Path) -> list[Path]:
    """One file a tensor parallel rank, in the order of ranks."""
    newest = read_tracker(folder)
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


def _load(file: Path) -> tuple[TorchFile, dict[Any, Any]]:
    """One rank's file, and what it says that it holds: tensors, plain values, and nothing else."""
    try:
        found = TorchFile(file, names=_NAMES)
        data = found.value
    except PickleError as error:
        raise DataError(file, f"cannot be read safely: {error}", _SOURCE) from None
    except OSError as error:
        raise DataError(file, f"cannot be read ({error.strerror})", _SOURCE) from None
    if not isinstance(data, dict):
        raise DataError(file, f"holds a {type(data).__name__}, needs a dictionary", _SOURCE)
    return found, data


def _args(data: dict[Any, Any], file: Path) -> Namespace:
    """Megatron's command line, as far as it is plain values."""
    match data.get("args"):
        case DescribedObject(of=Name("argparse", "Namespace"), state=dict(settings)):
            args = Namespace()
        case _:
            raise DataError(file, "holds no args, which the model's shape is read from", _SOURCE)
    for name, value in settings.items():
        # Precisions and Megatron's own types decide nothing here.
        with suppress(PickleError):
            setattr(args, str(name), plain_values(value))
    version = data.get("checkpoint_version", 0)
    if version not in (2.0, 3.0):
        problem = f"is of checkpoint version {_short(version)}, needs 2 or 3: query, key and value lay otherwise before"
        raise DataError(file, problem, "Load and save it once with Megatron-LM, which brings it up to date")
    return args


def _weights(found: TorchFile, data: dict[Any, Any]) -> dict[str, Tensor]:
    """The weights of one rank, by their keys below `language_model`; they stay on disk."""
    file = found.path
    unknown = sorted(str(key)[:80] for key in data.keys() - _UNUSED - {"model"})
    if unknown or not isinstance(data.get("model"), dict):
        problem = f"holds {', '.join(unknown[:4])}" if unknown else "holds no model"
        raise DataError(file, f"{problem}; needs one model and what Megatron-LM saves beside it", _SOURCE)
    weights: dict[str, Tensor] = {}
    try:
        for key, value in flat(data["model"]).items():
            stored = found.tensor(value)
            if not key.startswith("language_model.") or stored is None:
                problem = f"its model holds {key[:80]}, needs the weights of a language_model and nothing else"
                raise DataError(file, problem, "Give a checkpoint of Megatron-LM's legacy GPT or Retro model")
            weights[key.removeprefix("language_model.")] = stored.map()
    except PickleError as error:
        raise DataError(file, f"cannot be read safely: {error}", _SOURCE) from None
    except OSError as error:
        raise DataError(file, f"cannot be read ({error})", _SOURCE) from None
    return weights


def _short(value: object) -> str:
    return repr(value) if isinstance(value, int | float | None) and abs(value or 0) < 1e9 else type(value).__name__
