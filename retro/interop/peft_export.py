"""Adapters as a folder that peft opens: `adapter_config.json` and `adapter_model.safetensors`.

An adapter here belongs to one matrix of queries, keys and values, with the rows of B group by group; peft adapts three
layers. Each of them gets the same A, and its own rows of B: B x A cut by rows is B cut by rows, times A. Gate and up
projection likewise. The cuts are those of the base's weights (`model/convert/hf_layouts.py`).

`peft_import.py` is the way back.

Rows of added tokens, trained beside adapters, become peft's `trainable_token_indices`: the rows and their places.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from retro import __version__
from retro.common.errors import ArtifactError, TrainingError
from retro.common.files import write_plain_json
from retro.interop.export import require_folder, require_precision, whole_folder
from retro.interop.export_files import copy_tokenizer
from retro.mcore.lora import A, B, is_adapter
from retro.mcore.sharded_tensors import StoredTensors
from retro.model.config import ModelShape
from retro.model.convert.hf_layouts import LAYOUTS, Layout, invert
from retro.model.convert.huggingface import HuggingFaceSource
from retro.model.convert.writer import plain_family
from retro.model.weight_names import is_retrieval, is_vocabulary
from retro.training import checkpoint
from retro.training.checkpoint import CheckpointInfo
from retro.training.lora_weights import AdapterInfo, StoredWeights, read_whole
from retro.training.result import of_stage

log = logging.getLogger(__name__)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Before the names of a transformers model's layers in peft's files."""


@dataclass(frozen=True, kw_only=True)
class _Adapters:
    """A checkpoint of adapters, and what they adapt."""

    info: CheckpointInfo
    adapters: AdapterInfo
    stored: StoredTensors
    base: CheckpointInfo

    @property
    def weights(self) -> list[str]:
        """Names of what was trained, optimizer state aside."""
        return [name for name in self.stored.sizes if not name.startswith("optimizer.")]

    @property
    def layers(self) -> list[str]:
        """Names of the adapted layers of the decoder."""
        found = (name.rpartition(".") for name in self.weights if not is_retrieval(name))
        return [layer for layer, _, kind in found if kind == A]


@dataclass(kw_only=True)
class _Written:
    """Contents of the folder."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    """By peft's names."""
    modules: set[str] = field(default_factory=set)
    """Adapted layers of the transformers model."""
    tokens: dict[str, list[int]] = field(default_factory=dict)
    """By the last part of a layer's name: tokens whose rows were trained."""


def export_adapters(
    path: Path,
    out: Path,
    *,
    base: Path | None = None,
    base_model: str = "",
    decoder_only: bool = False,
    dtype: str | None = None,
    step: int | None = None,
) -> Path:
    """Write a checkpoint of adapters as a folder for peft. In one process, whatever the layout it was trained in.

    Args:
        path: A checkpoint, a directory of them, or a finished stage.
        out: The folder; must not exist, or be empty.
        base: The checkpoint that they adapt, if it was moved.
        base_model: Name or path of the transformers model, for `AutoPeftModelForCausalLM`; empty: the folder that the
            adapters were trained on, if it is of HuggingFace.
        decoder_only: Leave out what reads neighbors, as `retro export --decoder-only` does.
        dtype: Precision of the weights; None takes the one they were trained in.
        step: Which checkpoint of several; None takes the newest.

    Returns:
        `out`.

    Raises:
        ConfigError: `out` is in use, the precision is unknown, or no family of transformers computes the decoder.
        ArtifactError: There are no adapters, they or their base are damaged, or the disk is full.
        TrainingError: They have what peft cannot express.
    """
    require_folder(out)
    require_precision(dtype)
    found = _open(path, base, step)
    _require_expressible(found, decoder_only=decoder_only)
    precision = dtype or found.info.precision
    family, layout = transformers_layout(found.base, found.info.shape)
    written = _Written()
    _add_adapters(found, layout, written)
    _add_tokens(found, layout, written)
    name = base_model or (str(found.base.path.resolve()) if found.base.external else "")
    settings = _config(found, written, layout, base_model=name, transposed=family == "gpt2")
    with whole_folder(out, CONFIG) as folder:
        write_plain_json(folder / CONFIG, settings)
        tensors = {key: one.to(getattr(torch, precision)).contiguous() for key, one in written.tensors.items()}
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        if written.tokens and found.info.tokenizer is not None:
            copy_tokenizer(found.info.tokenizer, found.info.shape, folder)
        (folder / "README.md").write_text(_card(found, written, name), encoding="utf-8")
    log.info("export-lora: %s in %s to %s, %d layers", found.info.path, precision, out, len(written.modules))
    return out


def _open(path: Path, base: Path | None, step: int | None) -> _Adapters:
    info = checkpoint.read_info(checkpoint.find(of_stage(path), step))
    if info.adapters is None:
        remedy = "`retro export` writes it for transformers; adapters come from a run with train.lora"
        raise ArtifactError(info.path, "holds a whole model, no adapters", remedy)
    checkpoint.verify(info.path)
    below = checkpoint.read_info(checkpoint.find_base(info.path, info.adapters, base))
    return _Adapters(info=info, adapters=info.adapters, stored=StoredTensors(info.path), base=below)


def _require_expressible(found: _Adapters, *, decoder_only: bool) -> None:
    """Check that peft can compute what the adapters do.

    Raises:
        TrainingError: Something trained has no place in peft's layout; it is named.
    """
    path = found.info.path
    reading = sorted(name for name in found.weights if is_retrieval(name))
    if found.info.shape.model.retrieval and not decoder_only:
        what = f" and trained {len(reading)} tensors there, {reading[0]} the first," if reading else ""
        raise TrainingError(
            f"{path}: adapts a model that reads neighbors{what} and peft has no place for cross-attention and encoder. "
            "Give --decoder-only, which leaves them out, or merge: `retro merge-lora`, then `retro export`"
        )
    if reading:
        log.warning("%s: %d tensors that read neighbors are left out, %s the first", path, len(reading), reading[0])
    others = [name for name in found.weights if not (is_adapter(name) or is_retrieval(name) or is_vocabulary(name))]
    if others:
        raise TrainingError(
            f"{path}: holds {len(others)} tensors that are neither adapters nor rows of tokens, {min(others)} the "
            "first, and peft has no place for them. Merge: `retro merge-lora`, then `retro export`"
        )
    if not found.layers:
        raise TrainingError(
            f"{path}: adapts no layer of the decoder, so nothing is left with --decoder-only. Export the whole model: "
            "`retro merge-lora`, then `retro export`"
        )


def transformers_layout(base: CheckpointInfo, shape: ModelShape) -> tuple[str, Layout]:
    """The family of a base as a transformers model, and where each of our weights is in it.

    Args:
        base: A checkpoint, or a HuggingFace folder.
        shape: The model, which may have more tokens.

    Raises:
        ConfigError: No family of transformers computes the decoder.
    """
    source = base.external.source if base.external else None
    family = source.config.family if isinstance(source, HuggingFaceSource) else plain_family(shape.model)
    return family, LAYOUTS[family](shape.model, shape.vocabulary, shape.position_rows)


def _add_adapters(found: _Adapters, layout: Layout, written: _Written) -> None:
    """A and B of each adapted layer of the transformers model."""
    cut = {f"{layer}.weight": layout[f"{layer}.weight"] for layer in found.layers}
    rows = {f"{layer}.weight": read_whole(found.stored, f"{layer}.{B}") for layer in found.layers}
    for tensor, parts in invert(cut).items():
        module = tensor.removesuffix(".weight")
        written.modules.add(module)
        layer = parts[0].weight.removesuffix(".weight")
        key = f"{PREFIX}{module}.lora_"
        written.tensors[f"{key}A.weight"] = read_whole(found.stored, f"{layer}.{A}")
        written.tensors[f"{key}B.weight"] = torch.cat([part.rows(rows) for part in parts])


def _add_tokens(found: _Adapters, layout: Layout, written: _Written) -> None:
    """Rows of the embedding, and of an output layer of its own, that are not those of the base."""
    base = checkpoint.open_weights(found.base)
    for name in filter(is_vocabulary, found.weights):
        rows_VH = read_whole(found.stored, name)[: found.info.shape.vocabulary]
        trained = _trained_rows(rows_VH, base, name, found.base.shape.vocabulary)
        module = layout[name][0].tensor.removesuffix(".weight")
        if trained:
            written.tokens[module.rpartition(".")[2]] = trained
            written.tensors[f"{PREFIX}{module}.token_adapter.trainable_tokens_delta"] = rows_VH[trained]


def _trained_rows(rows_VH: Tensor, base: StoredWeights, name: str, known: int) -> list[int]:
    """Places of rows that the base has not, or has with other values: in the precision that they are stored in."""
    known_VH = read_whole(base, name)[:known].to(rows_VH.dtype)
    changed = (rows_VH[:known] != known_VH).any(dim=1).nonzero().flatten().tolist()
    return [*changed, *range(known, len(rows_VH))]


def _config(
    found: _Adapters, written: _Written, layout: Layout, *, base_model: str, transposed: bool
) -> dict[str, Any]:
    """Settings of peft's LoraConfig; what is not here has its default there."""
    alpha, trained = found.adapters.alpha, found.info.config.get("train", {}).get("lora") or {}
    every = {piece.tensor.removesuffix(".weight") for pieces in layout.values() for piece in pieces}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model or None,
        "inference_mode": True,
        "r": found.adapters.rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": trained.get("dropout", 0.0),
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "target_modules": target_names(written.modules, every),
        "modules_to_save": None,
        "trainable_token_indices": written.tokens or None,
    }


def target_names(modules: Iterable[str], every: Iterable[str]) -> list[str]:
    """The shortest ends of names that are those of `modules` and of no other layer; as peft compares them."""
    wanted, others = set(modules), set(every) - set(modules)
    names = set()
    for module in wanted:
        parts = module.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        names.add(next(end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others)))
    return sorted(names)


_CARD = """---
library_name: peft
tags: [lora, instruct-retro]
---

Adapters of rank {rank} and alpha {alpha:g} on {layers} layers, trained with instruct-retro {version} for {step} steps.
They belong to {base}.
{rows}
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({name!r})
{resize}model = PeftModel.from_pretrained(model, "this/folder")
```
"""
_ROWS = """
Rows of {tokens} added tokens were trained too. The model needs {vocabulary} rows before the adapters are loaded;
`AutoPeftModelForCausalLM` adds them where the folder has a tokenizer.
"""


def _card(found: _Adapters, written: _Written, base_model: str) -> str:
    vocabulary = found.info.shape.vocabulary
    external = found.base.external is not None
    export = f"the checkpoint {found.base.path.name}, which `retro export --decoder-only` writes for transformers"
    tokens: Mapping[str, list[int]] = written.tokens
    counted = max(map(len, tokens.values()), default=0)
    return _CARD.format(
        rank=found.adapters.rank, alpha=found.adapters.alpha, layers=len(written.modules), version=__version__,
        step=found.info.step, base=base_model if external and base_model else export,
        name=base_model or "the/exported/base",
        rows=_ROWS.format(tokens=counted, vocabulary=vocabulary) if counted else "",
        resize=f"model.resize_token_embeddings({vocabulary})\n" if counted else "",
    )  # fmt: skip
