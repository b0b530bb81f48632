"""Adapters that are served beside the model that they adapt, under names of their own."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

from retro.common.errors import ArtifactError, ConfigError
from retro.generate.config import GenerateConfig
from retro.generate.decoding.decoder import CachedDecoder
from retro.generate.request import Decoder
from retro.mcore.lora import is_adapter
from retro.mcore.sharded_tensors import StoredTensors
from retro.serve.config import ServeConfig
from retro.serve.model_info import ModelInfo
from retro.training import checkpoint
from retro.training.checkpoint import CheckpointInfo, checkpoint_fingerprint
from retro.training.lora_weights import trained_whole
from retro.training.result import of_stage

log = logging.getLogger(__name__)

_MIB = 2.0**20


def find_adapters(
    config: ServeConfig, generate: GenerateConfig, base: CheckpointInfo, served: str
) -> dict[str, CheckpointInfo]:
    """The checkpoints of `serve.adapters`, each found to fit the served one.

    Args:
        config: Names and paths.
        generate: Settings of generation.
        base: The served checkpoint.
        served: What it is called.

    Raises:
        ConfigError: A name is the base's, or the server answers in a way that knows no adapters.
        ArtifactError: A checkpoint is missing, holds no adapters or more than these, or adapts another base.
    """
    if not config.adapters:
        return {}
    if config.recipe:
        need = f"needs to be empty beside serve.recipe = {config.recipe!r}, whose programs answer with the base alone"
        raise ConfigError("serve.adapters", ", ".join(config.adapters), need)
    if generate.separate_adapters and base.adapters is not None:
        need = f"needs false here: {base.path} holds adapters itself, and those of serve.adapters come on top of them"
        raise ConfigError("generate.separate_adapters", True, need)
    if served in config.adapters:
        raise ConfigError(f"serve.adapters.{served}", str(config.adapters[served]), "needs another name than the base")
    return {name: _found(name, path, base) for name, path in config.adapters.items()}


def _found(name: str, path: Path, base: CheckpointInfo) -> CheckpointInfo:
    info = checkpoint.read_info(checkpoint.find(of_stage(path)))
    if info.adapters is None:
        remedy = f"Take it out of serve.adapters ({name}); generate.checkpoint serves it by itself"
        raise ArtifactError(info.path, "holds a whole model, no adapters", remedy)
    mark = checkpoint_fingerprint(base.path)
    if info.adapters.base_mark != mark:
        theirs = f"{checkpoint.base_path(info.path, info.adapters)} (fingerprint {info.adapters.base_mark})"
        problem = f"adapts {theirs}, and this server serves {base.path} (fingerprint {mark})"
        remedy = f"Take it out of serve.adapters ({name}), or set generate.checkpoint to its base"
        raise ArtifactError(info.path, problem, remedy)
    whole = sorted(trained_whole(StoredTensors(info.path)))
    if whole:
        problem = f"holds {len(whole)} tensors that take the place of the base's, {whole[0]} the first"
        remedy = f"Adapters here share the base: take it out of serve.adapters ({name}) and serve it by itself"
        raise ArtifactError(info.path, problem, remedy)
    return info


def with_adapters(base: ModelInfo, adapters: Mapping[str, CheckpointInfo]) -> tuple[ModelInfo, ...]:
    """The adapters as models: each is what the base is, under another name."""
    return tuple(dataclasses.replace(base, name=name, adapter=name, parent=base.name) for name in adapters)


def log_memory(decoder: Decoder, adapters: Mapping[str, CheckpointInfo]) -> None:
    """Say what adapters take beside the weights that they share."""
    if not adapters or not isinstance(decoder, CachedDecoder):
        return
    sizes = {name: weight.nbytes for name, weight in decoder.model.named_parameters()}
    theirs = sum(size for name, size in sizes.items() if is_adapter(name))
    log.info(
        "%s: %d adapters on one base; its weights take %.1f MiB, theirs %.1f",
        ", ".join(adapters), len(adapters), (sum(sizes.values()) - theirs) / _MIB, theirs / _MIB,
    )  # fmt: skip
