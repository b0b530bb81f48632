"""Which weights are trained, at which rates, and which of them a checkpoint holds: adapters, retrieval, new tokens."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from retro.common.errors import ConfigError
from retro.mcore import parallel
from retro.mcore.engine import WeightGroup
from retro.mcore.lora import AdapterChoice, attach, is_adapter
from retro.model.config import ModelShape
from retro.model.model import RetroModel
from retro.model.weight_names import (
    ADDED_MODULE,
    is_added_module,
    is_gate,
    is_part_of_module,
    is_retrieval,
    is_vocabulary,
)
from retro.training.adapters import adapted_layers, count_trained, is_row_parallel, layer_kind
from retro.training.config import LoraConfig, TrainConfig


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


TRAINED: dict[str, Callable[[str], bool]] = {
    "retrieval": is_retrieval,
    "decoder": is_decoder,
    "modules": is_added_module,
}
"""By `train.train_only`: from a weight's name to whether it is trained."""


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
        # A module may have frozen some of its own.
        parameter.requires_grad_(trained(name) and parameter.requires_grad)
    embedding = getattr(module, "embedding", None)
    if gradient_from_the_start and embedding is not None:
        embedding.register_forward_hook(_ask_for_gradient)


def train_new_rows_only(module: nn.Module, known: int) -> None:
    """Keep the rows of tokens that were known before as they are: their gradients are zeroed.

    Args:
        module: The model, or a pipeline stage of it, with its embedding and output layer trained.
        known: Tokens whose rows stay.
    """
    for name, parameter in module.named_parameters():
        if is_vocabulary(name):
            rank, _ = parallel.tensor_parallel_rank()
            first = rank * len(parameter)
            parameter.register_hook(partial(_without_rows, max(known - first, 0)))


def _without_rows(rows: int, gradient: Tensor) -> Tensor:
    kept = gradient.clone()
    kept[:rows] = 0
    return kept


def _ask_for_gradient(module: nn.Module, arguments: Any, embedded: Tensor) -> None:
    if module.training:
        embedded.requires_grad_()


log = logging.getLogger(__name__)

_MIB = 2.0**20


def adapt(
    chunks: Sequence[RetroModel],
    shape: ModelShape,
    lora: LoraConfig,
    seed: int,
    *,
    trained: Callable[[str], bool],
    gradient_from_the_start: bool,
) -> None:
    """Give this rank's layers their adapters and freeze the rest. Before the optimizer is built.

    Args:
        chunks: This rank's groups of layers.
        shape: The whole model.
        lora: Which layers, and how large an adapter is.
        seed: The adapters start from it and their layers' names, whatever the layout.
        trained: Predicate on names: adapters, and what is trained whole beside them.
        gradient_from_the_start: As of `freeze_all_but`.
    """
    names = adapted_layers(shape, lora).keys()
    attach_all(
        chunks, shape, names, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, seed_of=partial(_seed_of, seed)
    )
    for chunk in chunks:
        freeze_all_but(chunk, trained, gradient_from_the_start=gradient_from_the_start)


def attach_all(
    chunks: Sequence[RetroModel],
    shape: ModelShape,
    names: Container[str],
    *,
    rank: int,
    alpha: float = 1.0,
    dropout: float = 0.0,
    seed_of: Callable[[str], int] = lambda _: 0,
    choice: AdapterChoice | None = None,
) -> None:
    """Give this rank's layers of some names their adapters; arguments as of `retro.mcore.lora.attach`."""
    for chunk in chunks:
        for name, module in named_layers(chunk):
            if name in names:
                attach(
                    module,
                    row_parallel=is_row_parallel(name),
                    gated=layer_kind(name) == "linear_fc1" and shape.model.activation == "swiglu",
                    rank=rank,
                    alpha=alpha,
                    dropout=dropout,
                    seed=seed_of(name),
                    choice=choice,
                )


def log_share(shape: ModelShape, config: TrainConfig) -> None:
    """Say how much of the model is trained, and what memory that saves."""
    if config.lora is None:
        return
    trained, frozen = count_trained(shape, config.lora, config.train_only)
    beside = ", and all retrieval weights" if config.train_only == "retrieval" else ""
    # Gradients and Adam's two moments in float32; beside bfloat16 weights also the master weights.
    each = 16 if config.bfloat16 else 12
    log.info(
        "adapters of rank %d on %d linear layers%s: %d of %d weights are trained (%.2f %%); their gradients and "
        "optimizer state take %.1f MiB over all ranks, where those of the whole model would take %.1f",
        config.lora.rank, len(adapted_layers(shape, config.lora)), beside,
        trained, trained + frozen,
        100 * trained / (trained + frozen), each * trained / _MIB, each * frozen / _MIB,
    )  # fmt: skip


def named_layers(chunk: RetroModel) -> Iterator[tuple[str, nn.Module]]:
    """Every module inside the decoder layers of a pipeline stage, by the name that it has in the whole model."""
    for layer in chunk.decoder.layers:
        prefix = f"decoder.layers.{layer.layer_number - 1}"
        yield from layer.named_modules(prefix=prefix)


def _seed_of(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7])


def weight_groups(config: TrainConfig, *, new_tokens: bool = False) -> tuple[WeightGroup, ...]:
    """Weights with rates of their own; none where the settings give all the same.

    Args:
        config: The settings.
        new_tokens: Whether rows of the embedding are trained alone; the others must not decay.
    """
    own = config.retrieval_rates
    warmup = config.warmup_steps if own.warmup_steps is None else own.warmup_steps
    groups = (
        *(
            WeightGroup(name=name, holds=partial(is_part_of_module, name), lr_factor=factor, warmup_steps=warmup)
            for name, factor in own.modules.items()
        ),
        WeightGroup(name="gates", holds=is_gate, lr_factor=own.gate_lr_factor, warmup_steps=warmup),
        WeightGroup(name="retrieval", holds=_reads, lr_factor=own.lr_factor, warmup_steps=warmup),
    )
    with_rates = tuple(one for one in groups if (one.lr_factor, one.warmup_steps) != (1.0, config.warmup_steps))
    if not (new_tokens and freezes_embedding(config)):
        return with_rates
    rows = WeightGroup(
        name="tokens", holds=is_vocabulary, lr_factor=1.0, warmup_steps=config.warmup_steps, decays=False
    )
    return (*with_rates, rows)


def require_modules(config: TrainConfig, chunks: Sequence[RetroModel]) -> None:
    """Check that the weights that `train.retrieval_rates.modules` names are there, on the stages with any.

    Raises:
        ConfigError: A name is of none.
    """
    names = [name for chunk in chunks for name, _ in chunk.named_parameters() if is_added_module(name)]
    known = sorted({".".join(name.removeprefix(ADDED_MODULE).split(".")[:2]) for name in names})
    for given in config.retrieval_rates.modules:
        if names and not any(is_part_of_module(given, name) for name in names):
            need = f"needs the beginning of the name of weights beside the network, as {', '.join(known)}"
            raise ConfigError("train.retrieval_rates.modules", given, need)


def freezes_embedding(config: TrainConfig) -> bool:
    """Whether the embedding is frozen, but for rows of new tokens."""
    return config.lora is not None or config.train_only in ("retrieval", "modules")


def saved_beside_base(
    config: TrainConfig, *, new_tokens: bool = False, frozen_base: bool = False
) -> Callable[[str], bool] | None:
    """Predicate on names: whether a checkpoint holds a weight, another one holding the rest; None: it holds all.

    Adapters, and what is trained whole beside them; or modules beside a frozen network.

    Args:
        config: The settings.
        new_tokens: Whether the model has more tokens than what it starts from.
        frozen_base: Whether a checkpoint holds the network that modules are trained beside.
    """
    if config.lora is None and not (frozen_base and config.train_only == "modules"):
        return None
    kinds = [is_adapter, is_added_module]
    kinds += [is_retrieval] if config.train_only == "retrieval" else []
    kinds += [is_vocabulary] if new_tokens else []
    return lambda name: any(kind(name) for kind in kinds)


def _reads(name: str) -> bool:
    return is_retrieval(name) and not is_gate(name)
