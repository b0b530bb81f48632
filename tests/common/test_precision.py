"""What `precision: auto` is, on which hardware, and why."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from retro.common import precision
from retro.common.artifacts import differences
from retro.common.config import warn_renamed
from retro.common.errors import ConfigError
from retro.common.precision import PrecisionChoice, choose, is_bfloat16
from retro.generate.config import GenerateConfig
from retro.index.config import EmbedderConfig, IndexConfig
from retro.training.config import TrainConfig

NONE = "this CPU has none of amx_bf16, avx512_bf16, bf16"
TWENTY_TIMES = f"training in bfloat16 takes about 20 times as long as in float32 here, since {NONE}"


@pytest.fixture
def cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that says which instructions this machine has; here none that help. There is no GPU."""
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(precision, "_find_gpu", lambda: None)
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx2\n", encoding="utf-8")
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("line", "wanted", "reason"),
    [
        ("flags\t\t: fpu amx_tile amx_bf16 avx512_bf16", "bfloat16", "auto, and this CPU has amx_bf16"),
        ("flags\t\t: fpu avx512_bf16 sse", "bfloat16", "auto, and this CPU has avx512_bf16"),
        ("Features : fp asimd bf16", "bfloat16", "auto, and this CPU has bf16"),
        ("flags : fpu avx512f avx2", "float32", f"auto, and {NONE}"),
        ("model name : bf16", "float32", f"auto, and {NONE}"),
    ],
)
def test_auto_follows_the_processor(line: str, wanted: str, reason: str, cpu: Path) -> None:
    cpu.write_text(f"processor : 0\n{line}\n", encoding="utf-8")
    found = choose("auto")
    assert (found.precision, found.reason, found.cost) == (wanted, reason, "")
    assert choose("float32") == PrecisionChoice("float32", "as set")


def test_a_system_without_cpuinfo_computes_in_float32(cpu: Path) -> None:
    cpu.unlink()
    assert choose("auto").precision == "float32"


def test_instructions_that_torch_may_not_use_do_not_count(cpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu.write_text("flags : amx_bf16\n", encoding="utf-8")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx512_core")
    reason = "auto, and ONEDNN_MAX_CPU_ISA=avx512_core keeps torch from using this CPU's amx_bf16"
    assert choose("auto") == PrecisionChoice("float32", reason)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    assert choose("auto").precision == "bfloat16"


def test_bfloat16_by_force_says_what_it_costs(cpu: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = choose("bfloat16")
    assert found == PrecisionChoice("bfloat16", "as set", TWENTY_TIMES)
    with caplog.at_level(logging.INFO):
        found.tell("train.precision")
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("INFO", "train.precision: bfloat16 (as set)"),
        ("WARNING", f"train.precision: {TWENTY_TIMES}; auto would be float32"),
    ]


def test_auto_stays_with_what_was_begun_and_says_what_that_costs(cpu: Path) -> None:
    assert choose("auto", begun="bfloat16") == PrecisionChoice(
        "bfloat16", "auto, and it was begun in that", TWENTY_TIMES
    )
    cpu.write_text("flags : amx_bf16\n", encoding="utf-8")
    assert choose("auto", begun="float32") == PrecisionChoice("float32", "auto, and it was begun in that")
    # What an older toolkit wrote down says nothing yet.
    assert choose("auto", begun="auto").precision == "bfloat16"


@pytest.mark.parametrize(("has", "wanted"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_goes_before_the_processor(has: bool, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(*, including_emulation: bool) -> bool:
        return has or including_emulation

    cuda = SimpleNamespace(
        is_available=lambda: True, is_bf16_supported=supported, get_device_name=lambda: "Tesla T4"
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    said = f"the Tesla T4 {'has' if has else 'has no'} bfloat16"
    assert choose("auto") == PrecisionChoice("bfloat16" if has else "float32", f"auto, and {said}")
    emulated = f"bfloat16 is emulated here and slower than float32, since {said}"
    assert choose("bfloat16").cost == ("" if has else emulated)


def test_what_torch_is_built_for_is_read_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    version = tmp_path / "torch/version.py"
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for text, builds in (
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", {}),
        ("cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", {"cuda": "12.8"}),
        ("cuda = None\nhip = '6.3'\n", {"hip": "6.3"}),
    ):
        version.write_text(text, encoding="utf-8")
        precision.torch_builds.cache_clear()
        assert precision.torch_builds() == builds
    precision.torch_builds.cache_clear()


def test_what_was_not_chosen_is_not_computed_in() -> None:
    assert is_bfloat16("bfloat16") and not is_bfloat16("float32")
    with pytest.raises(ValueError, match="auto still"):
        is_bfloat16("auto")
    with pytest.raises(ValueError, match="auto still"):
        _ = TrainConfig().bfloat16


def test_former_names_are_read_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    warn_renamed.cache_clear()
    assert GenerateConfig.model_validate({"bfloat16": True}) == GenerateConfig(precision="bfloat16")
    assert GenerateConfig.model_validate({"bfloat16": False}).precision == "float32"
    assert EmbedderConfig.model_validate({"dtype": "bfloat16"}) == EmbedderConfig(precision="bfloat16")
    live = {"settings": ["live_retrieval"]}
    assert GenerateConfig.model_validate(live | {"retrieval_every": 8}).retrieval_interval == 8
    assert caplog.messages == [
        "generate.bfloat16 is the former name of generate.precision; it is still read",
        "index.embedder.dtype is the former name of index.embedder.precision; it is still read",
        "generate.retrieval_every is the former name of generate.retrieval_interval; it is still read",
    ]
    with pytest.raises(ConfigError, match=r"bfloat16 = True: is the former name of `precision`, which is given too"):
        GenerateConfig.model_validate({"bfloat16": True, "precision": "auto"})
    with pytest.raises(ConfigError, match=r"precision = 7: needs 'auto', 'float32', 'bfloat16' or 'float16_weights'"):
        GenerateConfig.model_validate({"bfloat16": 7})


def test_settings_of_an_older_index_are_read_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    old = IndexConfig().shaping
    old["embedder"]["dtype"] = old["embedder"].pop("precision")
    assert IndexConfig.filled(old) == IndexConfig().shaping
    assert caplog.messages == []


def test_auto_differs_from_nothing_that_was_begun() -> None:
    begun = {"train": {"precision": "bfloat16", "steps": 3}}
    assert differences(begun, {"train": {"precision": "auto", "steps": 3}}) == []
    assert differences(begun, {"train": {"precision": "float32", "steps": 3}}) == [
        "train.precision was 'bfloat16', now 'float32'"
    ]
