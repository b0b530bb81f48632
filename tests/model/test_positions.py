"""Kinds of positions: one of one's own is a row here and a row in the reference, and all that computes follows it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retro.common.errors import ConfigError
from retro.generate.decoding.decoder import CachedDecoder
from retro.interop.export import require_known_positions
from retro.model import reference
from retro.model.positions import POSITIONS, Positions, RotarySettings
from retro.model.reference import ReferenceRetro
from retro.training import checkpoint
from tests.generate.decoding.recompute import RecomputeDecoder
from tests.generate.decoding.scripts import neighbors, tokens
from tests.generate.decoding.test_decoder import assert_equal, generate
from tests.model.tiny import tiny_inputs, tiny_model, tiny_shape
from tests.outside import installed, write_distribution
from tests.training.test_loop import losses, run


def slowed(model: RotarySettings) -> Sequence[float]:
    """Rotary positions at a third of the speed: linear interpolation (Chen et al. 2023)."""
    width = int(model.head_width * model.rope_percent)
    return [model.rope_base ** (-pair / width) / 3 for pair in range(0, width, 2)]


@pytest.fixture
def interpolated(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A kind of positions from outside the package, in both places."""
    POSITIONS.register("interpolated")(Positions(rotary=True, frequencies=slowed))
    monkeypatch.setitem(reference.FREQUENCIES, "interpolated", lambda model: torch.tensor(slowed(model)))
    yield "interpolated"
    POSITIONS.unregister("interpolated")


@pytest.mark.parametrize("settings", [{}, {"rope_percent": 0.5}, {"retrieval": False}])
def test_a_kind_of_ones_own_equals_the_reference(interpolated: str, settings: dict[str, Any]) -> None:
    shape = tiny_shape(positions=interpolated, **settings)
    model = tiny_model(shape).eval()
    inputs = tiny_inputs(18)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    with torch.no_grad():
        found = model(*inputs.args())
        torch.testing.assert_close(found, ReferenceRetro(shape, weights)(*inputs.args()), rtol=1e-4, atol=1e-5)
        plain = tiny_model(tiny_shape(**settings)).eval()
        plain.load_state_dict(model.state_dict())
        assert not torch.allclose(plain(*inputs.args()), found, atol=1e-3)


def test_it_decodes_with_caches_and_trains_and_is_saved(interpolated: str, tmp_path: Path) -> None:
    model = tiny_model(tiny_shape(positions=interpolated))
    random = np.random.default_rng(5)
    prompts = [tokens(random, length) for length in (3, 9)]
    given = [neighbors(random) for _ in prompts]
    assert_equal(
        generate(CachedDecoder(model, 0), prompts, given, 10), generate(RecomputeDecoder(model), prompts, given, 10)
    )
    run(tmp_path, positions=interpolated)
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    assert checkpoint.read_info(checkpoint.find(tmp_path)).shape.model.positions == interpolated


def test_a_name_that_is_none_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"ModelConfig.positions = 'roep': .*did you mean 'rope'"):
        tiny_shape(positions="roep")


def test_a_name_is_given_once() -> None:
    with pytest.raises(ConfigError, match="'rope': needs a name that is free; instruct-retro has it"):
        POSITIONS.register("rope")(Positions(rotary=True, frequencies=slowed))
    with pytest.raises(TypeError, match="needs rotary=True and frequencies"):
        POSITIONS.register("alibi")(Positions(rotary=True))


def test_frequencies_of_another_number_are_named() -> None:
    POSITIONS.register("short")(Positions(rotary=True, frequencies=lambda model: [1.0]))
    try:
        with pytest.raises(ValueError, match="'short': gives 1 frequencies, needed 2"):
            tiny_model(tiny_shape(positions="short"))
    finally:
        POSITIONS.unregister("short")


def test_a_package_brings_one_and_the_command_line_knows_it(tmp_path: Path) -> None:
    code = """
from retro.model.positions import Positions


def frequencies(model):
    width = int(model.head_width * model.rope_percent)
    return [(3 * model.rope_base) ** (-pair / width) for pair in range(0, width, 2)]


WIDE = Positions(rotary=True, frequencies=frequencies)
"""
    write_distribution(tmp_path, "lab", {"lab_wide.py": code}, {"retro.positions": "wide = lab_wide:WIDE"})
    with installed(tmp_path, POSITIONS):
        model = tiny_model(tiny_shape(positions="wide"))
        assert model.rotary_pos_emb.inv_freq[1] == pytest.approx(30_000 ** (-2 / 4))
        with pytest.raises(ValueError, match="positions 'wide' have no row in FREQUENCIES"):
            ReferenceRetro(tiny_shape(positions="wide"), {})
    run = subprocess.run(
        [sys.executable, "-m", "retro", "config", "show", "model.positions=wide", "model.size=tiny"],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert "positions: wide" in run.stdout, run.stderr
    with pytest.raises(ConfigError, match="one of another package has to be installed"):
        tiny_shape(positions="wide")


def test_what_the_exported_file_does_not_know_is_not_exported(interpolated: str) -> None:
    with pytest.raises(ConfigError, match="'interpolated': needs one of rope, learned, none to be exported"):
        require_known_positions(tiny_shape(positions=interpolated))
