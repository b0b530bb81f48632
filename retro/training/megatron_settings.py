"""Which weights are trained, at which rates, and which of them a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable

from retro.mcore.engine import WeightGroup
from retro.mcore.lora import is_adapter
from retro.model.names import is_added_module, is_gate, is_retrieval, is_vocabulary
from retro.training.config import TrainConfig


def weight_groups(config: TrainConfig, *, new_tokens: bool = False) -> tuple[WeightGroup, ...]:
    """Weights with rates of their own; none where the settings give all the same.

    Args:
        config: The settings.
        new_tokens: Whether rows of the embedding are trained alone; the others must not decay.
    """
    own = config.retrieval_rates
    warmup = config.warmup_steps if own.warmup_steps is None else own.warmup_steps
    groups = (
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


def freezes_embedding(config: TrainConfig) -> bool:
    """Whether the embedding is frozen, but for rows of new tokens."""
    return config.lora is not None or config.train_only in ("retrieval", "modules")


def saved_beside_base(config: TrainConfig, *, new_tokens: bool = False) -> Callable[[str], bool] | None:
    """Predicate on names: whether a checkpoint holds a weight, another one holding the rest; None: it holds all.

    Adapters, and what is trained whole beside them.

    Args:
        config: The settings.
        new_tokens: Whether the model has more tokens than what it starts from.
    """
    if config.lora is None:
        return None
    kinds = [is_adapter, is_added_module]
    kinds += [is_retrieval] if config.train_only == "retrieval" else []
    kinds += [is_vocabulary] if new_tokens else []
    return lambda name: any(kind(name) for kind in kinds)


def _reads(name: str) -> bool:
    return is_retrieval(name) and not is_gate(name)
