"""The one way to faiss: imported when first needed, with a message a user can act on."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

from retro.common.errors import DependencyError

_DISTRIBUTIONS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs")


def load_faiss() -> Any:
    """The faiss module.

    Raises:
        DependencyError: It is missing, is installed twice, or does not load.
    """
    installed = [name for name in _DISTRIBUTIONS if _is_installed(name)]
    if len(installed) > 1:
        # They own the same files, so removing either one breaks the other.
        raise DependencyError(
            "faiss",
            f"{' and '.join(installed)} are both installed and overwrite each other",
            f"Run `pip uninstall {' '.join(installed)}`, then install one of them",
        )
    remedy = 'Run `pip install "instruct-retro[cpu]"`, or `[gpu]` on a machine with CUDA'
    try:
        module = importlib.import_module("faiss")
    except ImportError as error:
        raise DependencyError("faiss", f"cannot be imported ({error})", remedy) from None
    if not hasattr(module, "index_factory"):
        raise DependencyError("faiss", "is installed in part: files are missing", f"Remove it. {remedy}")
    return module


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
