from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from retro.common.config import config_json
from retro.common.errors import ConfigError
from retro.corpus.config import CorpusConfig, SourceConfig, TokenizerConfig

SOURCE = {"name": "wiki", "path": Path("wiki.jsonl")}


def test_a_run_file_needs_only_a_source() -> None:
    config = CorpusConfig(sources=(SourceConfig(name="python", built_in="pystdlib"),))
    assert config.split == (0.98, 0.01, 0.01)
    assert config.tokenizer.kind == "sentencepiece"
    assert config_json(config)["sources"][0]["weight"] == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a/b"}, "SourceConfig.name = 'a/b'"),
        ({"name": ".."}, "SourceConfig.name = '..'"),
        ({"name": "a" * 101}, "needs String should have at most 100 characters"),
        ({"path": None}, "SourceConfig.path = None: needs to be given, or built_in, and not both"),
        ({"built_in": "pystdlib"}, "SourceConfig.path = PosixPath('wiki.jsonl'): needs to be given, or built_in"),
        ({"kind": "pystdlib"}, "SourceConfig.kind = 'pystdlib': needs to be auto with built_in = None"),
        ({"weight": 0}, "SourceConfig.weight = 0"),
        ({"text_keys": "body"}, "SourceConfig.text_keys = 'body': is not a setting; did you mean 'text_key'?"),
        ({"kind": "pdf"}, "SourceConfig.kind = 'pdf'"),
    ],
)
def test_a_bad_source_is_named_with_its_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        SourceConfig(**(SOURCE | values))


def test_a_built_in_source_takes_no_other_kind() -> None:
    assert SourceConfig(name="p", built_in="pystdlib", kind="pystdlib").kind == "pystdlib"
    with pytest.raises(ConfigError, match=r"SourceConfig.kind = 'jsonl': needs to be auto"):
        SourceConfig(name="p", built_in="pystdlib", kind="jsonl")


def test_only_sentencepiece_models_are_trained() -> None:
    with pytest.raises(ConfigError, match=r"TokenizerConfig.path = None: needs the path of a tokenizer.json"):
        TokenizerConfig(kind="huggingface")
    with pytest.raises(ConfigError, match=r"TokenizerConfig.vocab_size = 100"):
        TokenizerConfig(vocab_size=100)


@pytest.mark.parametrize("split", [(0.9, 0.2, 0.1), (0.0, 0.5, 0.5), (969.0, 30.0, 1.0), (0.98, 0.02)])
def test_fractions_that_are_no_split_are_refused(split: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"CorpusConfig.split"):
        CorpusConfig(sources=(SourceConfig(**SOURCE),), split=split)


def test_two_sources_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"CorpusConfig.sources = 'wiki': needs another name"):
        CorpusConfig(sources=(SourceConfig(**SOURCE), SourceConfig(**SOURCE)))
    with pytest.raises(ConfigError, match=r"CorpusConfig.sources"):
        CorpusConfig(sources=())


def test_only_a_choice_of_the_held_out_documents_is_recorded() -> None:
    # Corpora made before there was a choice record none, and must stay what they are.
    assert "held_out" not in CorpusConfig().shaping
    assert CorpusConfig(held_out="last").shaping["held_out"] == "last"
