"""The two modules beside the frozen network, and the loss that trains them."""

# Dims: B questions, S tokens, K documents, n tokens of one, or states of a prefix, E width of a state.

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from retro.common.errors import ConfigError
from retro.mcore.engine import unwrap_model
from retro.model.config import ModelShape
from retro.model.model import RetroModel
from retro.model.prefix import PREFIX, PrefixInputs, PrefixLayers, attach
from retro.model.weight_names import ADDED_MODULE
from retro.recipes.dynamic_prefix.config import PrefixConfig
from retro.recipes.dynamic_prefix.training.encoder import KNOWLEDGE, KnowledgeEncoder, open_encoder
from retro.recipes.dynamic_prefix.training.samples import IDS, REAL
from retro.training.config import ParallelConfig
from retro.training.data_loader import MicroBatch
from retro.training.loop import AddModules


def modules_of(directory: Path, config: PrefixConfig, *, initial: bool) -> AddModules:
    """What `training.train` and `loading` put beside a network.

    Args:
        directory: The encoder's files.
        config: Encoder and prefix.
        initial: As of `open_encoder`.
    """

    def modules(model: RetroModel, shape: ModelShape) -> Mapping[str, nn.Module]:
        require_layers(config, shape)
        encoder = open_encoder(directory, config, initial=initial)
        prefix = PrefixLayers(model.config, encoder.width, config.layers, config.gate_init, config.projection)
        return {KNOWLEDGE: encoder, PREFIX: attach(model, prefix)}

    return modules


def require_layers(config: PrefixConfig, shape: ModelShape) -> None:
    """Check that the decoder has the layers that are to read the prefix.

    Raises:
        ConfigError: It has not.
    """
    most = shape.model.layers
    if config.layers is not None and any(number >= most for number in config.layers):
        need = f"needs numbers below {most}, the layers of the model"
        raise ConfigError("recipe.dynamic_prefix.prefix.layers", list(config.layers), need)


def require_layout(layout: ParallelConfig) -> None:
    """Check that a prefix can reach every layer.

    Raises:
        ConfigError: There are pipeline stages.
    """
    if layout.pipeline > 1:
        need = (
            "needs 1: all layers read the states of one encoder, whose gradient would have to travel back through "
            "every stage. parallel.tensor shares a model that is too large for one process"
        )
        raise ConfigError("parallel.pipeline", layout.pipeline, need)


def encoder_of(model: Any) -> KnowledgeEncoder:
    """The knowledge encoder beside a network, bare or as an engine wraps it."""
    found: KnowledgeEncoder = getattr(unwrap_model(model), f"{ADDED_MODULE}{KNOWLEDGE}")
    return found


def prefix_of(model: Any) -> PrefixLayers:
    """The prefix's part in each layer of a network."""
    found: PrefixLayers = getattr(unwrap_model(model), f"{ADDED_MODULE}{PREFIX}")
    return found


def prefix_inputs(model: Any, ids_BKn: Tensor, real_BKn: Tensor) -> PrefixInputs:
    """What a pass reads of the documents of its questions."""
    return PrefixInputs(*encoder_of(model)(ids_BKn, real_BKn))


def answer_losses(model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    """[B, S] cross-entropy of each label given question and documents, and [B, S] which are of the answer."""
    prefix = prefix_inputs(model, batch.further[IDS], batch.further[REAL])
    losses_BS = model(batch.tokens_BS, token_mask_BS=batch.token_mask_BS, labels_BS=batch.labels_BS, prefix=prefix)
    return losses_BS, losses_BS.new_zeros(()) if batch.loss_mask_BS is None else batch.loss_mask_BS
