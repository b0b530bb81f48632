"""The one way to Milvus: imported when first needed, and connected to a server or to a database file of this process.

A token never is in a config, a manifest or a log: it comes from an environment variable.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.common.errors import ArtifactError, DependencyError, RetroError, short_reason
from retro.index.config import MilvusConfig

URI_VARIABLE = "RETRO_MILVUS_URI"
"""Environment variable with the address of the server, for one that moved after the index was made."""
TOKEN_VARIABLE = "MILVUS_TOKEN"
"""Environment variable with what the server asks for: an API key, or `user:password`."""
DATABASE = "milvus.db"
"""Folder in the index's directory where Milvus Lite keeps what it holds."""
_QUIET_MS = 3_600_000
"""Milvus Lite answers from this process; it closes the connection of a client that asks every ten seconds whether it
still lives, which is what pymilvus does."""


@dataclass(frozen=True)
class MilvusServer:
    """A server, or the folder of Milvus Lite."""

    uri: str
    timeout_s: float
    lite: bool

    @classmethod
    def of(cls, config: MilvusConfig, directory: Path) -> MilvusServer:
        """As the settings say; for an index in `directory`."""
        uri = os.environ.get(URI_VARIABLE) or config.uri
        return cls(uri or str((directory / DATABASE).absolute()), config.timeout_s, uri is None)

    def connect(self) -> Any:
        """A client.

        Raises:
            DependencyError: A package is missing, or no server answers.
            ArtifactError: The folder of Milvus Lite cannot be opened.
        """
        pymilvus = load_pymilvus()
        if self.lite and importlib.util.find_spec("milvus_lite") is None:
            remedy = 'Run `pip install "instruct-retro[milvus-lite]"`, or set index.milvus.uri to a server'
            raise DependencyError("milvus-lite", "is not installed", remedy)
        # Both write every failure to the terminal, traceback and all, before they raise it.
        for name in ("pymilvus", "milvus_lite"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with self.answering():
            if self.lite:
                return pymilvus.MilvusClient(self.uri, grpc_options={"grpc.keepalive_time_ms": _QUIET_MS})
            return pymilvus.MilvusClient(self.uri, token=os.environ.get(TOKEN_VARIABLE, ""), timeout=self.timeout_s)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Turn what pymilvus raises within into an error that says where to look."""
        try:
            yield
        except load_pymilvus().exceptions.MilvusException as error:
            raise self._error(short_reason(error.message)) from None

    def _error(self, reason: str) -> RetroError:
        if self.lite:
            remedy = (
                "Milvus Lite serves one process at a time: wait for the other one, or set index.milvus.uri to a "
                "server. If the folder is damaged, delete it and run `retro index` again"
            )
            return ArtifactError(Path(self.uri), f"cannot be used by Milvus Lite ({reason})", remedy)
        remedy = f"Start it, or name another in {URI_VARIABLE}; a token goes into {TOKEN_VARIABLE}"
        return DependencyError("milvus", f"the server at {self.uri} did not do what was asked ({reason})", remedy)


def load_pymilvus() -> Any:
    """The pymilvus module.

    Raises:
        DependencyError: It is missing or does not load.
    """
    try:
        return importlib.import_module("pymilvus")
    except ImportError as error:
        remedy = 'Run `pip install "instruct-retro[milvus]"`, or set index.backend to "faiss"'
        raise DependencyError("pymilvus", f"cannot be imported ({error})", remedy) from None
