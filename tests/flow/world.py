"""A synthetic world of facts: entity, relation, value. A model can know a value only by reading it.

Values are drawn at random, so nothing but the database tells them; two worlds with other seeds have the same
entities and relations and other values.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

ENTITIES, RELATIONS, VALUES = 100, 4, 16


@dataclass(frozen=True)
class World:
    """Facts, in an order that has nothing to do with their content."""

    facts: list[tuple[str, str, str]]

    @classmethod
    def draw(cls, seed: int) -> World:
        """All entities with all relations, values drawn by `seed`."""
        random = np.random.default_rng(seed)
        pairs = [(f"e{e}", f"r{r}") for e in range(ENTITIES) for r in range(RELATIONS)]
        values = random.integers(VALUES, size=len(pairs))
        order = np.random.default_rng(0).permutation(len(pairs))
        return cls([(*pairs[i], f"v{values[i]}") for i in order])

    def write_corpus(self, path: Path) -> None:
        """One document a fact."""
        lines = [json.dumps({"id": f"{e} {r}", "text": f"{e} {r} {v}"}) for e, r, v in self.facts]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def write_questions(self, path: Path, facts: slice) -> None:
        """Questions about a part of the facts."""
        items = [
            {"id": f"{e} {r}", "question": f"{e} {r}", "answers": [v], "document_ids": [f"{e} {r}"]}
            for e, r, v in self.facts[facts]
        ]
        path.write_text(json.dumps(items), encoding="utf-8")


def write_lessons(path: Path, count: int, seed: int) -> None:
    """Questions with two passages at hand: the right fact, and the same entity with another relation.

    Values are drawn again for every question, so no weight can hold them: all there is to learn is to read.
    """
    random = np.random.default_rng(seed)
    items = []
    for number in range(count):
        entity = f"e{random.integers(ENTITIES)}"
        asked, other = (f"r{r}" for r in random.permutation(RELATIONS)[:2])
        value, wrong = (f"v{v}" for v in random.integers(VALUES, size=2))
        facts = [f"{entity} {asked} {value}", f"{entity} {other} {wrong}"]
        contexts = [{"title": "", "text": facts[i]} for i in random.permutation(2)]
        items.append({"id": str(number), "question": f"{entity} {asked}", "answers": [value], "ctxs": contexts})
    path.write_text(json.dumps(items), encoding="utf-8")


def write_tokenizer(path: Path) -> None:
    """A HuggingFace tokenizer with one token a word."""
    words = ["<|endoftext|>", "[UNK]", "question:", "answer:", "?"]
    words += [f"e{i}" for i in range(ENTITIES)] + [f"r{i}" for i in range(RELATIONS)] + [f"v{i}" for i in range(VALUES)]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(path))
