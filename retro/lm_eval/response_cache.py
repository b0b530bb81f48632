"""Responses of a model to requests of the harness, kept so that a call that was stopped continues.

The harness keeps its own as pickles; these are JSON lines, the first of which says whose responses they are. Greedy and
scored requests only: draws differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.artifacts import fingerprint
from retro.common.errors import ArtifactError, ConfigError
from retro.common.response_cache import OtherHeaderError, ResponseCache


def open_responses(path: Path, identity: Mapping[str, Any]) -> ResponseCache:
    """Open a file of responses, or begin one.

    Args:
        path: The file.
        identity: Whose responses they are: model, what it reads, precision.

    Raises:
        ConfigError: The file holds another model's responses, or is none of ours.
    """
    try:
        return ResponseCache(path, {"model": fingerprint(dict(identity))}, "Give another file")
    except OtherHeaderError:
        need = "needs a file of its own for each model, retrieval and precision: this one is of another"
    except ArtifactError as error:
        need = f"needs a file that `retro lm-eval --use-cache` wrote, or one that is not there yet ({error.problem})"
    raise ConfigError("--use-cache", str(path), need)


def key_of(kind: str, arguments: Sequence[Any]) -> str:
    """The name of a request."""
    return fingerprint([kind, list(arguments)])
