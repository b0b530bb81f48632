"""Files of the HuggingFace Hub, through its own client, which keeps them in its cache (`HF_HOME`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retro.common.errors import DataError, short_reason
from retro.common.optional import import_optional


def fetch(
    repository: str,
    patterns: Sequence[str],
    *,
    kind: str,
    extra: str,
    name: str,
    remedy: str,
    revision: str | None = None,
    cached: bool = False,
) -> Path:
    """The folder of a repository's files in the cache; those that are not there are fetched.

    Args:
        repository: `ORG/NAME`.
        patterns: Which files, as the Hub's client takes them.
        kind: `model` or `dataset`.
        extra: The extra of ours that brings the client, for who does not have it.
        name: What the user called it, for errors.
        remedy: What to do if it cannot be had.
        revision: Branch, tag or commit; None: the main branch.
        cached: Look at the cache alone.

    Raises:
        DataError: The Hub does not give it.
        DependencyError: The client is missing.
    """
    client = import_optional("huggingface_hub", extra=extra, use="fetches from the HuggingFace Hub")
    try:
        return Path(
            client.snapshot_download(
                repository,
                repo_type=kind,
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=cached,
            )
        )
    # The client raises its own, httpx's and the system's errors; to the user all mean the same.
    except Exception as error:  # noqa: BLE001
        reason = short_reason(error)
        raise DataError(name, f"the HuggingFace Hub does not give it ({reason})", remedy) from None
