"""Folders of text as users have them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.tiny_road import TOPICS


def paragraph(random: np.random.Generator, topic: str, words: int) -> str:
    """Words about a topic."""
    return " ".join(f"{topic}{i}" for i in random.integers(40, size=words)) + "."


def write_books(folder: Path, *, books: int = 5, paragraphs: int = 100) -> Path:
    """Long files with chapter headings of two words; paragraphs stand between blank lines."""
    folder.mkdir()
    random = np.random.default_rng(1)
    for book in range(books):
        parts = []
        for number in range(paragraphs):
            if number % 20 == 0:
                parts.append(f"Chapter {number // 20}")
            parts.append(paragraph(random, TOPICS[number % len(TOPICS)], 60))
        (folder / f"book{book}.txt").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return folder


def write_notes(folder: Path, *, notes: int = 60, words: int = 80) -> Path:
    """A short file each."""
    folder.mkdir()
    random = np.random.default_rng(2)
    for number in range(notes):
        text = paragraph(random, TOPICS[number % len(TOPICS)], words)
        (folder / f"{number:03}.md").write_text(f"{text}\n", encoding="utf-8")
    return folder


def write_big_file(path: Path, *, lines: int = 300) -> Path:
    """One file, a document a line, no blank line."""
    random = np.random.default_rng(3)
    texts = [paragraph(random, TOPICS[number % len(TOPICS)], 40) for number in range(lines)]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def write_asked(path: Path, *, count: int = 40) -> Path:
    """Questions in InstructRetro's form, answered by a topic; one more has no answer."""
    random = np.random.default_rng(4)
    items: list[dict[str, object]] = []
    for number in range(count):
        topic = TOPICS[number % len(TOPICS)]
        items.append({"id": str(number), "question": paragraph(random, topic, 5), "answers": [topic]})
    items.append({"id": "none", "question": "And this?", "answers": []})
    path.write_text(json.dumps(items), encoding="utf-8")
    return path
