"""How documents that join a database are read: as the first ones were, with their tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from retro.common.errors import ConfigError
from retro.corpus.config import CorpusConfig, SourceConfig, TokenizerConfig
from retro.corpus.reader import SPLITS
from retro.db.reader import ChunkDatabase
from retro.tokenizers.tokenizer import tokenizer_kind

_READ_AS = {"text_key", "id_key", "title_key"}


def corpus_config(databases: Sequence[ChunkDatabase], source: str, path: Path) -> CorpusConfig:
    """The settings of a corpus of added documents.

    Keys of JSON lines are those of the source they join. All documents are training documents: they may be neighbors.

    Args:
        databases: The parts of the database they join.
        source: Name of the source.
        path: Where the documents are; their layout is told by the files' endings.

    Raises:
        ConfigError: The name cannot be one of a source.
    """
    configs = [CorpusConfig(**part.corpus.manifest.config) for part in databases]
    same = [one for config in configs for one in config.sources if one.name == source]
    if same and same[-1].split in SPLITS[1:]:
        need = f"is held out whole (split: {same[-1].split}), and documents that are added train: needs another source"
        raise ConfigError("--source", source, need)
    keys = same[-1].model_dump(include=_READ_AS) if same else {}
    first = databases[0].corpus.directory / "tokenizer"
    kind = tokenizer_kind(first)
    tokenizer = TokenizerConfig(kind=kind, path=first.resolve(), eod_token=configs[0].tokenizer.eod_token)
    return configs[0].model_copy(
        update={
            "sources": (SourceConfig(name=source, path=path, **keys),),
            "tokenizer": tokenizer,
            "split": (1.0, 0.0, 0.0),
        }
    )
