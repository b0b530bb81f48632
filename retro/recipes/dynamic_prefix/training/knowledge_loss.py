"""The loss of `train` with a penalty on what documents do: the answer's cross-entropy, and `token_penalties`."""

# Dims: B questions, S tokens, V vocabulary.

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from retro.common.errors import ConfigError
from retro.recipes.dynamic_prefix.config import KnowledgePenaltyConfig
from retro.recipes.dynamic_prefix.evaluation.hallucination import token_penalties
from retro.recipes.dynamic_prefix.training.parts import answer_losses, prefix_inputs
from retro.recipes.dynamic_prefix.training.samples import IDS, REAL
from retro.training.config import ParallelConfig
from retro.training.data_loader import MicroBatch

Losses = Callable[[nn.Module, MicroBatch], tuple[Tensor, Tensor]]


def losses_of(config: KnowledgePenaltyConfig | None, layout: ParallelConfig) -> Losses:
    """The loss that settings ask for.

    Args:
        config: The penalty; None: the answer's cross-entropy alone.
        layout: Processes.

    Raises:
        ConfigError: The vocabulary is spread over processes, which compare no distributions.
    """
    if config is None:
        return answer_losses
    if layout.tensor > 1:
        need = "needs to be absent with parallel.tensor above 1, where no process has a whole distribution"
        raise ConfigError("recipe.dynamic_prefix.train.knowledge", config.model_dump(), need)

    def losses(model: nn.Module, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        return penalized_losses(model, batch, config)

    return losses


def penalized_losses(model: nn.Module, batch: MicroBatch, config: KnowledgePenaltyConfig) -> tuple[Tensor, Tensor]:
    """[B, S] cross-entropy of each label with its penalty, and [B, S] which labels are of the answer.

    A second pass, without gradients, gives the distributions without documents: a step takes about a third longer.
    """
    prefix = prefix_inputs(model, batch.further[IDS], batch.further[REAL])
    logits_BSV = model(batch.tokens_BS, token_mask_BS=batch.token_mask_BS, prefix=prefix).float()
    with torch.no_grad():
        bare_BSV = model(batch.tokens_BS, token_mask_BS=batch.token_mask_BS).float()
    if batch.labels_BS is None:
        raise ValueError("a loss needs labels")
    entropy_BS = functional.cross_entropy(logits_BSV.transpose(1, 2), batch.labels_BS, reduction="none")
    penalty_BS = token_penalties(
        logits_BSV, bare_BSV, entropy_weight=config.entropy, divergence_weight=config.divergence, margin=config.margin
    )
    losses_BS = entropy_BS + penalty_BS
    return losses_BS, losses_BS.new_zeros(()) if batch.loss_mask_BS is None else batch.loss_mask_BS
