"""A world in which a question takes two facts, and only the first names where the second is to be looked for.

Some facts link an entity to another, `e7 l1 e3`; some give it a value, `e3 r2 v9`. The question `e7 l1 r2` asks for the
value of the entity that e7 is linked to. Nothing in it leads to e3: a search with the question finds the link at best,
and a search with what was said so far, `via e3 r2 gives`, finds the value.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

ENTITIES, LINKS, RELATIONS, VALUES = 32, 2, 4, 16
CHUNK_LENGTH = 4


def said(through: str, relation: str, value: str) -> str:
    """The whole answer: its first four words are one chunk, and name both what was read and what is still wanted."""
    return f"via {through} {relation} gives {value}"


@dataclass(frozen=True)
class World:
    """Facts by entity and by link or relation."""

    facts: dict[tuple[str, str], str]

    @classmethod
    def draw(cls, seed: int) -> World:
        """Links and values drawn by `seed`; no entity is linked to itself."""
        random = np.random.default_rng(seed)
        facts = {}
        for entity in range(ENTITIES):
            for link in range(LINKS):
                facts[f"e{entity}", f"l{link}"] = f"e{(entity + random.integers(1, ENTITIES)) % ENTITIES}"
            for relation in range(RELATIONS):
                facts[f"e{entity}", f"r{relation}"] = f"v{random.integers(VALUES)}"
        return cls(facts)

    def write_corpus(self, path: Path) -> None:
        """One document a fact, in an order that has nothing to do with its content."""
        pairs = list(self.facts)
        order = np.random.default_rng(0).permutation(len(pairs))
        lines = [self._document(pairs[place]) for place in order]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def _document(self, pair: tuple[str, str]) -> dict[str, str]:
        name = " ".join(pair)
        return {"id": name, "text": f"{name} {self.facts[pair]}"}

    def write_questions(self, path: Path, count: int) -> None:
        """So many different questions about the world's facts."""
        asked = [(e, link, f"r{r}") for e, link in self.facts if link.startswith("l") for r in range(RELATIONS)]
        chosen = np.random.default_rng(1).permutation(len(asked))[:count]
        path.write_text(json.dumps([self._question(*asked[place]) for place in chosen]), encoding="utf-8")

    def _question(self, entity: str, link: str, relation: str) -> dict[str, Any]:
        through = self.facts[entity, link]
        text = f"{entity} {link} {relation}"
        answer = said(through, relation, self.facts[through, relation])
        documents = [f"{entity} {link}", f"{through} {relation}"]
        return {"id": text, "question": text, "answers": [answer], "document_ids": documents}


def write_lessons(path: Path, count: int, seed: int) -> None:
    """Questions with what a search would find, for the prompt and for the answer's first chunk: the right fact, and one
    that shares a word with it. All is drawn again for every question, so no weight can hold it."""
    random = np.random.default_rng(seed)
    items = []
    for number in range(count):
        entity, through, elsewhere = (f"e{e}" for e in random.permutation(ENTITIES)[:3])
        link, other_link = (f"l{i}" for i in random.permutation(LINKS)[:2])
        relation, other = (f"r{r}" for r in random.permutation(RELATIONS)[:2])
        value, wrong = (f"v{v}" for v in random.integers(VALUES, size=2))
        # What else a search with these words finds: the entity with another link or relation, or linked to.
        beside_first = [
            f"{entity} {other_link} {elsewhere}",
            f"{entity} {other} {wrong}",
            f"{elsewhere} {link} {entity}",
        ]
        beside_second = [
            f"{through} {other} {wrong}",
            f"{through} {link} {elsewhere}",
            f"{elsewhere} {link} {through}",
            f"{elsewhere} {relation} {wrong}",
        ]
        first = [f"{entity} {link} {through}", beside_first[random.integers(3)]]
        second = [f"{through} {relation} {value}", beside_second[random.integers(4)]]
        items.append(
            {
                "id": str(number),
                "question": f"{entity} {link} {relation}",
                "answers": [said(through, relation, value)],
                "ctxs": _in_any_order(first, random),
                "chunk_ctxs": [_in_any_order(second, random)],
            }
        )
    path.write_text(json.dumps(items), encoding="utf-8")


def _in_any_order(texts: list[str], random: np.random.Generator) -> list[dict[str, str]]:
    return [{"title": "", "text": texts[place]} for place in random.permutation(len(texts))]


def write_tokenizer(path: Path) -> None:
    """A HuggingFace tokenizer with one token a word."""
    words = ["<|endoftext|>", "[UNK]", "question:", "answer:", "via", "gives"]
    for letter, count in zip("elrv", (ENTITIES, LINKS, RELATIONS, VALUES), strict=True):
        words += [f"{letter}{number}" for number in range(count)]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(path))
