"""Training of some weights, the rest frozen: only what reads neighbors (retro-fitting), all but that, or adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from retro.common.errors import ConfigError
from retro.model.config import ModelShape
from retro.model.names import is_retrieval


def require_retrieval(shape: ModelShape) -> None:
    """Check that a model has something to train when its decoder is frozen.

    Raises:
        ConfigError: It reads no neighbors.
    """
    model = shape.model
    if not model.retrieval or model.gate == 0.0:
        why = "its gate is 0" if model.retrieval else "it is a GPT (model.retrieval, or one of pretrain.baselines)"
        raise ConfigError("train.train_only", "retrieval", f"needs a model that reads neighbors, and {why}")


def is_decoder(name: str) -> bool:
    """Whether a weight is one that the model has with retrieval off."""
    return not is_retrieval(name)


TRAINED: dict[str, Callable[[str], bool]] = {"retrieval": is_retrieval, "decoder": is_decoder}
"""By `train.train_only`: told a weight's name, whether it is trained."""


def freeze_all_but(module: nn.Module, trained: Callable[[str], bool], *, gradient_from_the_start: bool) -> None:
    """Take gradients from every other weight. Before the optimizer is built.

    Args:
        module: The model, or a pipeline stage of it.
        trained: Predicate on the name of a weight.
        gradient_from_the_start: Let gradients reach the embedded tokens, though nothing there is trained. A recomputed
            layer and a pipeline stage hand gradients on only if their input asks for one; without, the weights inside
            would silently get none. It costs the backward pass of the layers below the first that reads neighbors.
    """
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(trained(name))
    embedding = getattr(module, "embedding", None)
    if gradient_from_the_start and embedding is not None:
        embedding.register_forward_hook(_ask_for_gradient)


def _ask_for_gradient(module: nn.Module, arguments: Any, embedded: Tensor) -> None:
    if module.training:
        embedded.requires_grad_()
