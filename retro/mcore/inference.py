"""A model's linear layers for inference alone: they multiply and nothing else, from weights of 32 or 16 bits.

A call of megatron-core's layers goes through autograd functions that keep inputs, sum gradients over ranks and look up
process groups: 25 to 40 us on a CPU core, which a product with one token's states does not hide (512 x 512: 20 us).

One token's products read each weight once, so on a CPU they take as long as memory needs to bring the weights. In
float16 that is half the bytes; FBGEMM, which torch brings for x86, converts them in registers and multiplies and sums
in float32.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from retro.common.errors import ConfigError
from retro.mcore.cpu import on_cpu
from retro.mcore.layers import ColumnParallelLinear, OutputLinear, RowParallelLinear
from retro.mcore.lora import Adapted, plain_class

# These very classes: one derived from them, as a layer with adapters is, may compute more.
_PLAIN = (ColumnParallelLinear, RowParallelLinear, OutputLinear)
_FBGEMM = "fbgemm"


def require_float16_weights(setting: str, ranks: int) -> None:
    """Check that float16 weights can be multiplied here.

    Args:
        setting: The one that asks for them, for the message.
        ranks: Processes that share the model.

    Raises:
        ConfigError: They cannot: on a GPU, without FBGEMM, or where processes share a layer.
    """
    value = "float16_weights"
    if not on_cpu():
        raise ConfigError(setting, value, "needs a CPU; on a GPU bfloat16 reads as few bytes")
    if _FBGEMM not in torch.backends.quantized.supported_engines:
        found = ", ".join(torch.backends.quantized.supported_engines)
        raise ConfigError(setting, value, f"needs a torch with FBGEMM, which is for x86 CPUs; this one has {found}")
    if ranks > 1:
        raise ConfigError(setting, value, f"needs one process, and {ranks} share the model")


def for_inference(model: nn.Module, *, float16_weights: bool = False) -> None:
    """Have a model's linear layers multiply and nothing else, wherever one rank holds a layer whole.

    Adapters are applied as before. The model can no longer be trained.

    Args:
        model: Stays where it is.
        float16_weights: Keep the weights of linear layers in float16 only. Each is rounded once, by at most a part in
            2,048; products are summed in float32. Embeddings and norms stay as they are. `require_float16_weights`
            tells whether this can be had.
    """
    model.requires_grad_(False)
    modules: list[Any] = list(model.modules())
    for module in modules:
        if plain_class(module) not in _PLAIN or module.tp_group.size() != 1:
            continue
        name = "product" if isinstance(module, Adapted) else "forward"
        if float16_weights:
            setattr(module, name, partial(_multiply_packed, module, _packed(module, model)))
        else:
            setattr(module, name, partial(_multiply, module))


def _multiply(module: Any, x: Tensor, weight: Tensor | None = None, **_: Any) -> tuple[Tensor, Tensor | None]:
    """What the module's own forward gives: the product, and the bias where it is left to be added."""
    bias = module.bias
    added = None if module.skip_bias_add else bias
    product = functional.linear(x, module.weight if weight is None else weight, added)
    return product, bias if module.skip_bias_add else None


def _packed(module: Any, model: Any) -> Any:
    """A layer's weight and the bias that it adds, packed in float16; the layer's own weight is let go."""
    shared = module.weight is None  # the embedding's, which stays: rows of it are looked up
    weight = model.shared_embedding_or_output_weight() if shared else module.weight
    added = None if module.skip_bias_add or module.bias is None else module.bias.float()
    if not shared:
        module.weight = None
    return torch.ops.quantized.linear_prepack_fp16(weight.float().contiguous(), added)


def _multiply_packed(module: Any, packed: Any, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor | None]:
    """As `_multiply`, with what `_packed` gives."""
    return torch.ops.quantized.linear_dynamic_fp16(x, packed), module.bias if module.skip_bias_add else None
