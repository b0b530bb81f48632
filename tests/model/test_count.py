"""The parameter formula against real models, the published sizes, and the GPT of equal parameters."""

from __future__ import annotations

from typing import Any

import pytest

from retro.common.errors import ConfigError
from retro.model.config import ModelConfig, ModelShape
from retro.model.count import ParameterCount, count_parameters, equal_gpt, plain_gpt
from retro.model.sizes import SIZES
from tests.model.test_reference import VARIANTS
from tests.model.tiny import tiny_model, tiny_shape


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_formula_counts_every_weight(settings: dict[str, Any]) -> None:
    shape = tiny_shape(**settings)
    real = sum(parameter.numel() for parameter in tiny_model(shape).parameters())
    assert count_parameters(shape).total == real


# Published: InstructRetro (arXiv:2310.07713) table 5, Retro from scratch (arXiv:2304.06762) table 9.
@pytest.mark.parametrize(
    ("size", "gpt", "retro"),
    [
        ("small", 126e6, 148e6),
        ("medium", 357e6, 410e6),
        ("843m", 823e6, 878e6),
        ("2b", 2.25e9, 2.5e9),
        ("8b", 8.5e9, 9.5e9),
        ("43b", 43e9, 48e9),
    ],
)
def test_named_sizes_have_the_published_counts(size: str, gpt: float, retro: float) -> None:
    count = named(size)
    assert count.gpt == pytest.approx(gpt, rel=0.012)
    assert count.total == pytest.approx(retro, rel=0.012)


def test_22b_has_the_published_retro_of_a_smaller_gpt() -> None:
    count = named("22b")
    assert count.total == pytest.approx(24e9, rel=0.001)
    assert count.gpt == pytest.approx(22e9, rel=0.035)


@pytest.mark.parametrize(("size", "published", "gelu"), [("843m", 823.0, 826.4), ("2b", 2250.0, 2256.7)])
def test_the_counts_say_swiglu_where_they_have_digits_enough(size: str, published: float, gelu: float) -> None:
    # Published to 3 digits: 823M and 2.25B. 4 d wide with GELU is 12 d^2 a layer, which rounds to 826M and 2.26B.
    hidden = ModelConfig(size=size).hidden_size
    wide = count_parameters(shape_named(size, activation="gelu", ffn_hidden_size=4 * hidden))
    assert wide.gpt / 1e6 == pytest.approx(gelu, abs=0.1)
    assert float(f"{named(size).gpt / 1e6:.3g}") == published
    assert float(f"{wide.gpt / 1e6:.3g}") != published


def test_843m_has_the_weights_worked_by_hand() -> None:
    # 8 x 1024 / 3 = 2730.7, so 42 x 64 = 2688 wide. A layer: 4 d^2 of attention, 3 d f, two norms of 2 d.
    layer = 4 * 1024**2 + 3 * 1024 * 2688 + 4 * 1024
    count = named("843m")
    assert count.decoder == 24 * layer + 2 * 1024
    assert count.gpt == 2 * 256_000 * 1024 + 24 * layer + 2 * 1024 == 823_232_512


def shape_named(size: str, **settings: Any) -> ModelShape:
    model = ModelConfig(size=size, **settings)
    return ModelShape(model=model, vocabulary=SIZES[size].vocabulary, chunk_length=64)


def named(size: str) -> ParameterCount:
    return count_parameters(shape_named(size))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [("small", (6, 9, 12)), ("843m", (9, 12, 15, 18, 21, 24)), ("8b", (9, 12, 15, 18, 21, 24, 27, 30))],
)
def test_cross_attention_lies_where_the_paper_puts_it(layers: str, expected: tuple[int, ...]) -> None:
    assert ModelConfig(size=layers).cross_attention_layers == expected


def test_43b_reads_neighbors_in_14_layers() -> None:
    layers = ModelConfig(size="43b").cross_attention_layers
    assert (len(layers), layers[0], layers[-1]) == (14, 9, 48)


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_the_equal_gpt_has_as_many_weights_to_half_a_percent(activation: str) -> None:
    shape = ModelShape(model=ModelConfig(activation=activation), vocabulary=4096, chunk_length=64)
    wanted = count_parameters(shape).total
    assert count_parameters(equal_gpt(shape)).total == pytest.approx(wanted, rel=0.005)
    assert count_parameters(plain_gpt(shape)).total == count_parameters(shape).gpt < wanted


def test_a_size_gives_the_defaults_and_settings_override_it() -> None:
    model = ModelConfig(size="8b", layers=4, first_cross_attention=2)
    assert (model.layers, model.hidden_size, model.rope_percent) == (4, 4096, 0.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": "8bb"}, "is not a size; did you mean '8b'"),
        ({"heads": 3}, "ModelConfig.heads = 3: needs a divisor of hidden_size = 128"),
        ({"query_groups": 3}, "ModelConfig.query_groups = 3: needs a divisor of heads = 4"),
        ({"first_cross_attention": 9}, "needs a layer of the decoder, at most layers = 4"),
        ({"hidden": 3}, "ModelConfig.hidden = 3: is not a setting; did you mean 'hidden_size'"),
        ({"layers": 0}, "ModelConfig.layers = 0: needs greater than 0"),
    ],
)
def test_a_shape_that_cannot_be_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ModelConfig(**settings)
