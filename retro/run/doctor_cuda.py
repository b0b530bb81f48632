"""The CUDA toolkit that compiles DeepSpeed's operators, beside the CUDA that torch is built for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from retro.common.json_files import JsonError, parse_json
from retro.common.precision import torch_builds
from retro.run.doctor_packages import Finding

NAME = "CUDA"
USUAL = Path("/usr/local/cuda")
SKIP = "DS_SKIP_CUDA_CHECK"
"""Environment variable with which DeepSpeed leaves out its check."""
_ACCEPTED_MAJORS = (10, 11, 12)
"""Within these DeepSpeed takes any minor version for another."""
_VERSION = re.compile(r"(\d+)\.(\d+)")


def compare_versions(toolkit: str | None, torch_cuda: str | None, *, skipped: bool = False, home: str = "") -> Finding:
    """What two versions of CUDA mean for an operator that is compiled for torch.

    Args:
        toolkit: Of the toolkit with nvcc, as `12.4`; None: there is none.
        torch_cuda: What torch is built for (`torch.version.cuda`); None: a CPU build, or no torch.
        skipped: Whether DS_SKIP_CUDA_CHECK=1 is set.
        home: Where the toolkit is.
    """
    place = f" in {home}" if home else ""
    if torch_cuda is None:
        beside = f", the toolkit{place} is {toolkit}" if toolkit else ", and there is no CUDA toolkit"
        found = f"torch is no CUDA build{beside}: nothing is compiled for a GPU here"
        return Finding(NAME, "note", found, "Run this where the training will run" if not toolkit else "")
    if toolkit is None:
        advice = (
            f"Only needed where DeepSpeed compiles operators: install toolkit {torch_cuda}, and set CUDA_HOME to it"
        )
        return Finding(NAME, "note", f"torch is built for {torch_cuda}, and there is no CUDA toolkit", advice)
    ours, theirs = (_parts(version) for version in (toolkit, torch_cuda))
    if ours == theirs:
        return Finding(NAME, "ok", f"toolkit {toolkit}{place} and torch for {torch_cuda}")
    found = f"toolkit {toolkit}{place}, torch is built for {torch_cuda}"
    if ours[0] == theirs[0] and ours[0] in _ACCEPTED_MAJORS:
        return Finding(NAME, "note", f"{found}: another minor version, which DeepSpeed accepts")
    wheel = f"cu{ours[0]}{ours[1]}"
    advice = (
        "Either install torch for the toolkit: pip install torch "
        f"--index-url https://download.pytorch.org/whl/{wheel}; or install CUDA toolkit {torch_cuda}, and point "
        f"CUDA_HOME to it. {SKIP}=1 only leaves out the check: what is compiled then may fail or compute wrongly"
    )
    return Finding(NAME, "problem", f"{found}{f'; {SKIP}=1 hides it' if skipped else ''}", advice)


def _parts(version: str) -> tuple[int, int]:
    """Major and minor version; (0, 0) for what is none."""
    match = _VERSION.match(version)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def examine(environment: Mapping[str, str] = os.environ) -> Finding:
    """The CUDA of this machine: found by files, and by `nvcc --version` where no file says it."""
    home = find_home(environment)
    version = toolkit_version(home) if home is not None else None
    skipped = environment.get(SKIP) == "1"
    return compare_versions(version, torch_builds().get("cuda"), skipped=skipped, home=str(home or ""))


def find_home(environment: Mapping[str, str]) -> Path | None:
    """The toolkit's folder, found as torch does: CUDA_HOME or CUDA_PATH, the nvcc on PATH, /usr/local/cuda."""
    named = environment.get("CUDA_HOME") or environment.get("CUDA_PATH")
    if named:
        return Path(named)
    nvcc = shutil.which("nvcc", path=environment.get("PATH"))
    if nvcc is not None:
        return Path(nvcc).parent.parent
    return USUAL if USUAL.is_dir() else None


def toolkit_version(home: Path) -> str | None:
    """The version of the toolkit in a folder, as `12.4`; None where it has none that can be read."""
    try:
        text = str(parse_json((home / "version.json").read_bytes())["cuda"]["version"])
    except (OSError, JsonError, KeyError, TypeError):
        text = _said_by_nvcc(home / "bin" / "nvcc")
    match = _VERSION.search(text)
    return match[0] if match else None


def _said_by_nvcc(nvcc: Path) -> str:
    try:
        done = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.partition("release")[2]
