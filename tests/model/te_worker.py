"""Builds and trains models of both kinds of layers over the stand-in, and prints what came of it as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.model import te_stand_in

te_stand_in.install()

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from retro.generate.decoding.decoder import CachedDecoder  # noqa: E402
from retro.mcore import kernels, parallel  # noqa: E402
from retro.model.config import ModelShape  # noqa: E402
from retro.model.model import BuildOptions, RetroModel  # noqa: E402
from tests.generate.decoding.scripts import Course  # noqa: E402
from tests.model.tiny import tiny_inputs, tiny_shape  # noqa: E402
from tests.training.fake import CycleSource  # noqa: E402
from tests.training.test_loop import losses, run  # noqa: E402

KINDS = ("local", "transformer_engine")
SHAPES: dict[str, dict[str, Any]] = {
    "GPT": {"tied_embeddings": True, "positions": "learned", "bias": True, "encoder_rope": False, "cross_rope": False},
    "LayerNorm-1p": {"zero_centered_norm": True, "gate": "learned"},
    "Llama": {"normalization": "RMSNorm", "activation": "swiglu", "query_groups": 2},
}


def build(shape: ModelShape, layers: str) -> RetroModel:
    parallel.seed(7)
    return RetroModel(shape, BuildOptions(layers=layers)).eval()


def compare(shape: ModelShape) -> dict[str, Any]:
    """Two float32 models with the weights of one, norms and biases moved from their start."""
    local, other = (build(shape, layers) for layers in KINDS)
    with torch.no_grad():
        for parameter in local.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    other.load_state_dict(local.state_dict())
    inputs, padding = tiny_inputs(16), torch.arange(16) >= torch.tensor([[0], [5]])
    te_stand_in.attention_calls.clear()
    with torch.no_grad():
        plain = [model(*inputs.args()).float() for model in (local, other)]
        calls = len(te_stand_in.attention_calls)
        padded = [model(*inputs.args(), padding).float() for model in (local, other)]
    return {
        "weights": [{name: list(one.shape) for name, one in model.named_parameters()} for model in (local, other)],
        "state": [sorted(model.state_dict()) for model in (local, other)],
        "sharded": [sorted(model.sharded_state_dict(metadata={})) for model in (local, other)],
        "size": plain[0].abs().max().item(),
        "difference": [(one[0] - one[1]).abs().max().item() for one in (plain, padded)],
        "causal_calls": [calls, len(te_stand_in.attention_calls)],
        "decoding": (decoded(local) - decoded(other)).abs().max().item(),
    }


def decoded(model: RetroModel) -> torch.Tensor:
    """Logits of a prompt, a token and an appended span, each with a chunk that ends in it."""
    decoder, random = CachedDecoder(model, 0), np.random.default_rng(4)
    course = Course(random, decoder.open(), first=3, every=4, counts=[2])
    return torch.cat([logits for count in (6, 1, 1, 5) for logits in decoder.extend_all([course.extension(count)])])


def switch(out: Path, before: str, after: str, **settings: Any) -> list[float]:
    """Losses of a run that is stopped in step 7 and continues from the checkpoint of step 4 with other layers."""
    with pytest.raises(KeyboardInterrupt):
        run(out, source=CycleSource(broken_after=48), precision="bfloat16", kernels=before, **settings)
    run(out, precision="bfloat16", kernels=after, **settings)
    return losses(out)


def switch_adapted(folder: Path) -> dict[str, list[float]]:
    """The same of adapters on one base, by the two layers."""
    run(folder / "base", steps=1, warmup_steps=0, precision="bfloat16", kernels="local")
    adapted: dict[str, Any] = {"start_from": folder / "base", "lora": {"rank": 2}, "lr": 1e-2}
    pairs = (("local", "local"), KINDS, ("transformer_engine", "transformer_engine"))
    return {f"{one} {two}": switch(folder / one / two, one, two, **adapted) for one, two in pairs}


def auto(bfloat16: bool) -> str:
    """Where the layers of a model with no wish come from."""
    model = RetroModel(tiny_shape(), BuildOptions(bfloat16=bfloat16))
    return type(model.decoder.final_layernorm).__module__


def main() -> None:
    parallel.start()
    parallel.seed(7)
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "on_cpu", lambda: False)
        found["auto"] = [auto(bfloat16=True), auto(bfloat16=False)]
        found["losses"] = {
            f"{one} {two}": switch(Path(sys.argv[1]) / one / two, one, two) for one in KINDS for two in KINDS
        }
        found["adapters"] = switch_adapted(Path(sys.argv[1]) / "adapted")
        # In float32, which is refused, rounding hides no mistake.
        patch.setattr(kernels, "_missing", lambda bfloat16: None)
        found["models"] = {name: compare(tiny_shape(**settings)) for name, settings in SHAPES.items()}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
