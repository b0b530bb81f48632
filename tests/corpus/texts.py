"""Small texts and settings shared by the corpus tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retro.corpus.config import CorpusConfig
from retro.corpus.train_tokenizer import train_sentencepiece
from retro.tokenizers.tokenizer import Tokenizer, save_tokenizer

SENTENCE = "the quick brown fox jumps over a lazy dog while seven wizards quietly box in the yard"
WORDS = SENTENCE.split()


def story(number: int) -> str:
    """A text of 9 to 15 words that no other number has."""
    length = 9 + number % 7
    return " ".join(
        [f"n{number}", *(WORDS[(number * 5 + step * (1 + number % 3)) % len(WORDS)] for step in range(length))]
    )


def write_stories(path: Path, count: int, start: int = 0) -> Path:
    """A .jsonl with `count` stories."""
    lines = [{"id": f"d{n}", "title": f"Story {n}", "text": story(n)} for n in range(start, start + count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def tiny_tokenizer(directory: Path, vocab_size: int = 320) -> Tokenizer:
    """A SentencePiece model trained on stories, in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "tokenizer.model"
    file.write_bytes(train_sentencepiece([story(n) for n in range(50)], vocab_size))
    return save_tokenizer(file, "sentencepiece", directory)


def settings(*sources: dict[str, Any], **others: Any) -> CorpusConfig:
    """A corpus config with a small vocabulary and wide held-out splits."""
    defaults: dict[str, Any] = {"tokenizer": {"vocab_size": 320}, "split": (0.8, 0.1, 0.1)}
    return CorpusConfig(**({"sources": sources} | defaults | others))


_NOT_COMPARED = {"report.json", "blocks.json", ".verified.json", "recall_curve.json", "recall_curve.png"}


def artifact_bytes(directory: Path) -> dict[str, bytes]:
    """Every file below `directory` that must not depend on when or how often a stage ran."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name not in _NOT_COMPARED)
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@contextmanager
def changed(path: Path, content: bytes) -> Iterator[None]:
    """Replace a file's bytes for the length of a block."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)
