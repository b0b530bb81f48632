"""Packages that only some uses need: what brings one is said by name where it is missing."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

from retro.common.errors import DependencyError


def package_folder(module: str) -> Path | None:
    """The folder of an installed top-level package, found without running a line of it; None where there is none."""
    spec = importlib.util.find_spec(module)
    locations = list(spec.submodule_search_locations or []) if spec else []
    return Path(locations[0]) if locations else None


def import_optional(module: str, *, extra: str, use: str, package: str = "", instead: str = "") -> Any:
    """Import a module of a package that not everybody installs.

    Args:
        module: Its name.
        extra: The extra of ours that brings the package.
        use: What it is needed for: `reads .zst files`.
        package: The package, where it is not called as the module is.
        instead: What else can be done: `set train.tensorboard=false`.

    Raises:
        DependencyError: It is missing, or does not load.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        remedy = f'Run `pip install "instruct-retro[{extra}]"`{f", or {instead}" if instead else ""}'
        problem = f"{use}, and cannot be imported ({error})"
        raise DependencyError(package or module.partition(".")[0], problem, remedy) from None
