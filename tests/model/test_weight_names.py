"""The canonical names and sizes are those of the real model."""

from __future__ import annotations

from typing import Any

import pytest

from retro.model.weight_names import weight_sizes
from tests.model.test_reference import VARIANTS
from tests.model.tiny import tiny_model, tiny_shape


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_names_and_sizes_are_those_of_the_model(settings: dict[str, Any]) -> None:
    shape = tiny_shape(vocabulary_multiple=64, **settings)
    found = {name: tuple(weight.shape) for name, weight in tiny_model(shape).named_parameters()}
    assert weight_sizes(shape) == found


def test_a_model_that_reads_no_neighbors_in_its_first_layer_holds_the_encoder_where_it_does() -> None:
    names = weight_sizes(tiny_shape(first_cross_attention=3))
    holders = {name.split(".")[2] for name in names if "cross_attention.encoder" in name}
    assert holders == {"2"}
