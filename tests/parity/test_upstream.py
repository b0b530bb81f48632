"""Our model computes what NVIDIA's Retro of megatron-core 0.15.3 computes, once two defects of that are corrected.

The expected logits were computed by 0.15.3 itself: `make_fixtures.py` says how, and where the two models are the same
function.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from retro.mcore import parallel
from retro.model.config import ModelConfig, ModelShape
from retro.model.model import RetroModel

FIXTURES = Path(__file__).parent / "fixtures"
ABOUT: dict[str, Any] = json.loads((FIXTURES / "variants.json").read_text(encoding="utf-8"))
# float32 sums in another order, through 9 layers, on logits of up to 4; 5e-6 is the largest difference there is.
TOLERANCE = 2e-5


def our_name(theirs: str) -> str:
    """Our name of a weight of 0.15.3, which wraps its cross-attentions and one norm of the encoder."""
    return theirs.replace("cross_attention.attn.", "cross_attention.").replace("layernorm.norm.", "layernorm.")


def our_logits(variant: str, tensors: dict[str, Tensor]) -> Tensor:
    # All of them have LayerNorm, its default, so that the fixtures do not name it.
    settings = ABOUT["shape"] | ABOUT["variants"][variant] | {"normalization": "LayerNorm", "vocabulary_multiple": 1}
    model_config = ModelConfig(**settings)
    shape = ModelShape(model=model_config, vocabulary=ABOUT["vocabulary"], chunk_length=ABOUT["chunk_length"])
    parallel.start()
    parallel.seed(1)
    model = RetroModel(shape).eval()
    weights = {
        our_name(name.removeprefix("weights.")): value for name, value in tensors.items() if name.startswith("weights.")
    }
    assert set(weights) == {name for name, _ in model.named_parameters()}
    model.load_state_dict(weights, strict=False)
    neighbors = tensors["neighbors"]
    with torch.no_grad():
        return model(tensors["tokens"], neighbors, torch.ones_like(neighbors, dtype=torch.bool))


@pytest.fixture(params=ABOUT["variants"])
def case(request: pytest.FixtureRequest) -> tuple[dict[str, Tensor], Tensor]:
    """What 0.15.3 computed, and what our model computes from the same weights."""
    tensors = load_file(FIXTURES / f"{request.param}.safetensors")
    return tensors, our_logits(request.param, tensors)


def test_logits_equal_those_of_megatron_core_0_15_3_with_its_defects_corrected(
    case: tuple[dict[str, Tensor], Tensor],
) -> None:
    tensors, ours = case
    torch.testing.assert_close(ours, tensors["logits.corrected"], rtol=1e-5, atol=TOLERANCE)


@pytest.mark.parametrize("defect", ["as_shipped", "final_norm_as_shipped", "encoder_residual_as_shipped"])
def test_each_defect_of_0_15_3_is_another_function(case: tuple[dict[str, Tensor], Tensor], defect: str) -> None:
    # Not a matter of rounding: on these weights the logits move by 0.14 to 0.25 of their norm (encoder residual), and
    # by 6 to 10 times their norm (no final norm).
    tensors, ours = case
    difference = (ours - tensors[f"logits.{defect}"]).norm() / ours.norm()
    assert difference > 0.05


def test_the_encoder_residual_matters_only_to_tokens_that_read_neighbors(
    case: tuple[dict[str, Tensor], Tensor],
) -> None:
    tensors, ours = case
    first = ABOUT["chunk_length"] - 1
    shipped = tensors["logits.encoder_residual_as_shipped"]
    torch.testing.assert_close(ours[:, :first], shipped[:, :first], rtol=1e-5, atol=TOLERANCE)
    assert ((ours - shipped)[:, first:].abs().amax(dim=-1) > 1e-3).all()
