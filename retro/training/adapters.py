"""Which weights get a low-rank adapter, and how large it is: decided by names and arithmetic."""

from __future__ import annotations

from retro.common.errors import ConfigError
from retro.model.config import ModelShape
from retro.model.count import count_parameters
from retro.model.weight_names import is_retrieval, weight_sizes
from retro.training.config import LoraConfig

_ROW_PARALLEL = ("linear_proj", "linear_fc2")
_LINEAR = ("linear_qkv", *_ROW_PARALLEL, "linear_fc1", "linear_q", "linear_kv")


def adapted_layers(shape: ModelShape, lora: LoraConfig) -> dict[str, tuple[int, int]]:
    """Name and output and input width, over all ranks, of each linear layer that gets an adapter.

    Raises:
        ConfigError: The model has none of the layers that a target names.
    """
    wanted = lora.targets or _LINEAR
    found = {}
    for weight, size in weight_sizes(shape).items():
        name, _, kind = weight.rpartition(".")
        inside = lora.where == "all" or is_retrieval(weight) == (lora.where == "retrieval")
        if kind == "weight" and layer_kind(name) in wanted and inside:
            found[name] = (size[0], size[1])
    kinds = {layer_kind(name) for name in found}
    missing = [target for target in lora.targets if target not in kinds]
    if missing or not found:
        what = ", ".join(missing) or "linear layer"
        reads = "reads neighbors" if shape.model.retrieval else "reads no neighbors: it is a GPT"
        need = f"needs layers that the model has; where = {lora.where!r} has no {what} in this one, which {reads}"
        raise ConfigError("train.lora.targets", list(lora.targets), need)
    return found


def layer_kind(name: str) -> str:
    """What kind of linear layer a name means: its last part."""
    return name.rpartition(".")[2]


def is_row_parallel(name: str) -> bool:
    """Whether tensor parallel ranks share the inputs of a linear layer; else they share its outputs."""
    return layer_kind(name) in _ROW_PARALLEL


def count_adapters(shape: ModelShape, lora: LoraConfig) -> int:
    """Weights of all adapters, over all ranks."""
    return sum(lora.rank * (out + width) for out, width in adapted_layers(shape, lora).values())


def count_trained(shape: ModelShape, lora: LoraConfig, train_only: str) -> tuple[int, int]:
    """Weights that are trained, adapters and retrieval weights that are trained whole, and weights that are not."""
    counted = count_parameters(shape)
    whole = counted.total - counted.gpt if train_only == "retrieval" else 0
    return count_adapters(shape, lora) + whole, counted.total - whole
