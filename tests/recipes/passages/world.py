"""A few passages, as every format has them, and a tiny BERT whose vocabulary is their words."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from retro.recipes.passages.config import PassagesConfig
from retro.recipes.passages.embed import embed_shard
from retro.recipes.passages.layouts import Passage

SUBJECTS = ("river", "engine", "garden", "planet", "market", "island")
HASHING = {"kind": "hashing", "dimension": 1024}


def made_passages(count: int = 30) -> list[Passage]:
    """Passages with a word of their own each; every fourth has no title, every fifth quotes and tabs in it."""
    found = []
    for number in range(count):
        subject = SUBJECTS[number % len(SUBJECTS)]
        text = f"The {subject} of word{number} was seen near the {SUBJECTS[number // 6 % 6]} in year{number}."
        text = f'"{subject}", they said: {text}' if number % 5 == 0 else text
        found.append(Passage(str(100 + number), "" if number % 4 == 3 else f"{subject.title()} {number}", text))
    return found


def write_tsv(path: Path, passages: Iterable[Passage]) -> Path:
    """As DPR's psgs_w100.tsv: the columns id, text and title."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(["id", "text", "title"])
        writer.writerows([one.id, one.text, one.title] for one in passages)
    return path


def write_jsonl(path: Path, passages: Iterable[Passage]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": one.id, "title": one.title, "text": one.text}) for one in passages]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def config_of(folder: Path, **settings: Any) -> PassagesConfig:
    """Passages in `folder`, written there unless they are, embedded by hashing into `folder`/embeddings."""
    passages = folder / "passages.tsv"
    if not passages.exists():
        write_tsv(passages, made_passages())
    own: dict[str, Any] = {"passages": passages, "embeddings": f"{folder}/embeddings/*", "embedder": HASHING}
    return PassagesConfig(**(own | {"passages_per_block": 4, "n_docs": 3} | settings))


def embedded(config: PassagesConfig, shards: int = 2) -> Path:
    """Embed all shards beside the passages; gives their folder."""
    out = config.passages_file.parent / "embeddings"
    for number in range(shards):
        embed_shard(config, out, number, shards)
    return out


def questions_of(passages: Sequence[Passage]) -> list[str]:
    """A question for each passage, by the words that it alone has."""
    return [f"Was word{int(one.id) - 100} seen in year{int(one.id) - 100}?" for one in passages]


def tiny_bert(folder: Path, passages: Sequence[Passage], *, width: int = 32, seed: int = 0) -> Path:
    """A BERT of 2 layers with random weights and a WordPiece vocabulary of the passages' words."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder.mkdir(parents=True)
    words = {word for one in passages for word in re.findall(r"\w+|[^\w\s]", f"{one.title} {one.text}".lower())}
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(seed)
    shape = transformers.BertConfig(
        vocab_size=len(pieces), hidden_size=width, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=2 * width, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(shape).save_pretrained(folder, safe_serialization=True)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder that belongs to what was made: hidden memories of checksums are none."""
    kept = [path for path in folder.rglob("*") if path.is_file() and path.name != ".verified.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}
