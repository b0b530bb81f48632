"""Retrieval-augmented language models on megatron-core.

    from retro import Generator, Retriever, Run

Importing this package loads neither torch, megatron nor faiss: every heavy import happens in the stage that needs it,
and the classes above are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retro.api.generator import Generator as Generator
    from retro.api.retriever import Retriever as Retriever
    from retro.api.run import Run as Run

__version__ = "0.1.0"

__all__ = ["Generator", "Retriever", "Run", "__version__"]

_API = {"Generator": "retro.api.generator", "Retriever": "retro.api.retriever", "Run": "retro.api.run"}


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_API[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})
