"""Adapters in peft's layout, as a checkpoint of adapters on a base of ours.

peft has an adapter for each of queries, keys and values; one matrix here holds all three. Their As become the rows of
one A, and each B has its rows at its own columns of one B, with zeros elsewhere: the same product, of a larger rank. As
that are equal, as those of `peft_export.py` are, are kept once. Scales that differ from layer to layer are multiplied
into B.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from retro.common.errors import ConfigError, DataError, short_reason
from retro.common.files import read_json, sha256_file
from retro.interop.peft_export import CONFIG, PREFIX, WEIGHTS, transformers_layout
from retro.mcore import parallel
from retro.mcore.lora import A, B, is_adapter
from retro.model.config import ModelShape
from retro.model.convert.hf_layouts import Piece
from retro.model.model import RetroModel
from retro.model.weight_names import weight_sizes
from retro.training import checkpoint
from retro.training.checkpoint import CheckpointInfo, describe_adapters
from retro.training.checkpoint_writer import save_weights
from retro.training.config import LoraConfig
from retro.training.result import of_stage
from retro.training.trained_weights import attach_all

log = logging.getLogger(__name__)

_AGAIN = "Save it with peft's save_pretrained, or merge it there (merge_and_unload) and use the folder that this gives"
_PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (False, None),
    "lora_bias": (False, None),
    "bias": ("none", None),
    "alpha_pattern": ({}, None),
    "layer_replication": (None,),
    "target_parameters": (None, []),
    "modules_to_save": (None, []),
    "trainable_token_indices": (None, [], {}),
}
"""Settings that an adapter here can have; any other value computes something else."""


@dataclass(frozen=True)
class _Adapter:
    """Of one layer of a transformers model."""

    a_rI: Tensor
    b_Or: Tensor
    """Scaled."""


def import_adapters(folder: Path, base: Path, out: Path) -> ModelShape:
    """Write the adapters of a peft folder as a checkpoint. In one process, with the memory of the base.

    Args:
        folder: With `adapter_config.json` and `adapter_model.safetensors`.
        base: The checkpoint or HuggingFace folder that they were trained on, which nothing in the folder can prove.
        out: The checkpoint to write; must not exist.

    Returns:
        The model.

    Raises:
        ConfigError: `out` exists, or no family of transformers computes the base.
        DataError: The folder is no LoRA adapter of peft, or has what cannot be expressed here.
        ArtifactError: The base is missing or damaged.
    """
    if out.exists():
        raise ConfigError("OUT", str(out), "needs a path where nothing is yet")
    below = checkpoint.read_info(checkpoint.find(of_stage(base)))
    found = _read(folder)
    _, layout = transformers_layout(below, below.shape)
    ours = {
        weight.removesuffix(".weight"): pieces
        for weight, pieces in layout.items()
        if weight.endswith(".weight") and ".linear_" in weight
    }
    _require_fits(folder / WEIGHTS, found, below, ours)
    fused = {name: one for name, pieces in ours.items() if (one := fuse(pieces, found)) is not None}
    rank = max(one.a_rI.size(0) for one in fused.values())
    lora = LoraConfig(rank=rank, alpha=float(rank))
    model = _with_adapters(below.shape, fused, rank)
    # Two folders of one name must not give two checkpoints of one identity.
    origin = {"converted_from": f"{folder.name} on {below.path.name}", "sha256": sha256_file(folder / WEIGHTS)}
    said = describe_adapters(lora, below.path, out)
    save_weights(model, below.shape, origin, out, tokenizer=below.tokenizer, adapters=said)
    log.info("import-lora: %d adapters of %s as %d of rank %d to %s", len(found), folder, len(fused), rank, out)
    return below.shape


def _read(folder: Path) -> dict[str, _Adapter]:
    """The adapters of a folder by the names of the transformers model's layers."""
    settings = read_json(folder / CONFIG, _AGAIN, error=DataError, keys_once=False)
    for name, values in _PLAIN.items():
        if settings.get(name, values[0]) not in values:
            problem = f"has {name} = {settings[name]!r}, which adapters here do not have"
            raise DataError(folder / CONFIG, problem, _AGAIN)
    alpha = settings.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise DataError(folder / CONFIG, f"has lora_alpha = {alpha!r}, not a number", _AGAIN)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DataError(folder / WEIGHTS, f"cannot be read ({short_reason(error)})", _AGAIN) from None
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        module, _, kind = key.removeprefix(PREFIX).rpartition(".lora_")
        if kind not in ("A.weight", "B.weight") or tensor.dim() != 2:
            raise DataError(folder / WEIGHTS, f"holds {key}, which is no A or B of a linear layer", _AGAIN)
        found.setdefault(module, {})[kind[0]] = tensor.float()
    if not found:
        raise DataError(folder / WEIGHTS, "holds no adapters", _AGAIN)
    rooted = bool(settings.get("use_rslora"))
    return {module: _scaled(folder, module, pair, alpha, rooted=rooted) for module, pair in found.items()}


def _scaled(folder: Path, module: str, pair: Mapping[str, Tensor], alpha: float, *, rooted: bool) -> _Adapter:
    """An adapter by what it does; with `rooted`, peft's rank-stabilised scale."""
    if len(pair) < 2 or pair["A"].size(0) != pair["B"].size(1):
        sizes = {name: list(one.shape) for name, one in pair.items()}
        raise DataError(folder / WEIGHTS, f"holds {sizes} for {module}, needed A of r x in and B of out x r", _AGAIN)
    rank = pair["A"].size(0)
    return _Adapter(pair["A"], pair["B"] * (alpha / (math.sqrt(rank) if rooted else rank)))


def _module(piece: Piece) -> str:
    return piece.tensor.removesuffix(".weight")


def fuse(pieces: tuple[Piece, ...], found: Mapping[str, _Adapter]) -> _Adapter | None:
    """One adapter of the matrix that pieces of several make; None where none of them has one."""
    distinct: list[Tensor] = []
    place: dict[str, int] = {}
    for module in dict.fromkeys(map(_module, pieces)):
        if module not in found:
            continue
        a_rI = found[module].a_rI
        place[module] = next((number for number, one in enumerate(distinct) if torch.equal(one, a_rI)), len(distinct))
        distinct += [a_rI] if place[module] == len(distinct) else []
    if not distinct:
        return None
    firsts = [sum(len(one) for one in distinct[:number]) for number in range(len(distinct))]
    rows = []
    for piece in pieces:
        part_Or = torch.zeros(piece.rows, sum(map(len, distinct)))
        module = _module(piece)
        if module in place:
            own = found[module].b_Or[piece.start : piece.stop]
            part_Or[: len(own), firsts[place[module]] :][:, : own.size(1)] = own
        rows.append(part_Or)
    return _Adapter(torch.cat(distinct), torch.cat(rows))


def _require_fits(
    file: Path, found: Mapping[str, _Adapter], base: CheckpointInfo, ours: Mapping[str, tuple[Piece, ...]]
) -> None:
    """Check that a base has the layers that are adapted, in their sizes.

    Raises:
        DataError: It has not.
    """
    sizes = weight_sizes(base.shape)
    remedy = "Give the base that the adapters were trained on"
    wanted = {
        _module(piece): (max(one.stop for one in pieces if one.tensor == piece.tensor), sizes[f"{layer}.weight"][1])
        for layer, pieces in ours.items()
        for piece in pieces
    }
    for module, one in found.items():
        if module not in wanted:
            raise DataError(file, f"adapts {module}, which is no linear layer of the decoder of {base.path}", remedy)
        theirs = (one.b_Or.size(0), one.a_rI.size(1))
        if theirs != wanted[module]:
            problem = f"adapts {module} as a matrix of {list(theirs)}, in {base.path} it is {list(wanted[module])}"
            raise DataError(file, problem, remedy)


def _with_adapters(shape: ModelShape, fused: Mapping[str, _Adapter], rank: int) -> RetroModel:
    """A model that has them, with ranks filled up by zeros; its other weights mean nothing."""
    parallel.start()
    parallel.seed(0)
    model = RetroModel(shape)
    attach_all([model], shape, fused, rank=rank)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not is_adapter(name):
                continue
            layer, _, kind = name.rpartition(".")
            one = fused[layer]
            weight.zero_()
            if kind == A:
                weight[: one.a_rI.size(0)] = one.a_rI
            elif kind == B:
                weight[:, : one.b_Or.size(1)] = one.b_Or
    return model
