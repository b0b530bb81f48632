"""Which layers are taken, and what is said where those asked for cannot be had."""

from __future__ import annotations

import pytest

from retro.common.errors import ConfigError
from retro.mcore import kernels
from retro.mcore.kernels import LOCAL, choose


def machine(monkeypatch: pytest.MonkeyPatch, *, gpu: bool, installed: bool) -> None:
    monkeypatch.setattr(kernels, "on_cpu", lambda: not gpu)
    monkeypatch.setattr("retro.mcore.kernels.extension.HAVE_TE", installed)


@pytest.mark.parametrize(
    ("gpu", "installed", "bfloat16"), [(False, True, True), (True, False, True), (True, True, False)]
)
def test_auto_takes_the_local_layers_where_something_is_missing(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, installed: bool, bfloat16: bool
) -> None:
    machine(monkeypatch, gpu=gpu, installed=installed)
    assert choose("auto", bfloat16=bfloat16) is LOCAL


def test_local_is_local_where_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gpu=True, installed=True)
    assert choose("local", bfloat16=True) is LOCAL


@pytest.mark.parametrize(
    ("gpu", "installed", "bfloat16", "needs"),
    [
        (False, True, True, "needs a GPU, and torch sees none; auto and local run everywhere"),
        (
            True, False, True,
            "needs Transformer Engine, which megatron-core cannot import here: pip install --no-build-isolation "
            '"instruct-retro[te]", or use the NVIDIA image (docs/install.md)',
        ),
        (True, True, False, "needs train.precision=bfloat16; auto and local compute float32 in full"),
    ],
)  # fmt: skip
def test_asked_for_where_something_is_missing_it_is_an_error_that_says_what(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, installed: bool, bfloat16: bool, needs: str
) -> None:
    machine(monkeypatch, gpu=gpu, installed=installed)
    with pytest.raises(ConfigError) as caught:
        choose("transformer_engine", bfloat16=bfloat16)
    assert str(caught.value) == f"train.layers = 'transformer_engine': {needs}"
