"""A world in which every rationale has a rule: entities, relations and values, one token a word.

A document says `e5 r2 V7`. A question `tell e5 r2 ?` comes with one document about it among others, or with none that
helps. The rule's rationale goes through the documents: `Document 1 e3 no Document 2 e5 helps V7 Document 3 e8 no`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Punctuation, Sequence, WhitespaceSplit

from retro.teacher.request import TeacherRequest

ENTITIES, RELATIONS, VALUES, SHOWN = 20, 3, 8, 3
SILENT = ("e1", "r1")
"""The teacher has nothing to say on this."""
TEXTS = {
    "name": "world",
    "version": 1,
    "rationale": {
        "given": "{documents}\nQuestion: {question}\nRight answer: {answers}",
        **dict.fromkeys(
            ("both", "memory", "context", "neither"),
            "{documents}\nQuestion: {question}\nRight answer: {answers}\nRecalled: {recalled}",
        ),
    },
    "recall": "Recall: {question}",
    "judge": "Judge: {question} | {answers} | {rationale}",
    "instructions": {"documents": "read", "demonstrations": "read", "examples": "read", "memory": "recall"},
}
"""Prompts of a few words, laid over the recipe's own."""


def teacher(request: TeacherRequest) -> str:
    """A teacher that knows the rules: it says of each document whether it helps."""
    prompt = request.messages[-1]["content"]
    if prompt.startswith("Recall:"):
        return "e0 r0 V0" if "e0 r0" in prompt else ""
    if prompt.startswith("Judge:"):
        _, answers, rationale = prompt.removeprefix("Judge:").split("|")
        return f"By rule.\nVerdict: {'yes' if answers.split()[0] in rationale.split() else 'no'}"
    asked = re.search(r"Question: tell (\S+) (\S+)", prompt)
    answer = prompt.partition("Right answer: ")[2].split()[0]
    if asked is None:
        raise ValueError(prompt)
    if asked.groups() == SILENT:
        return ""
    said = []
    for number, entity, relation, value in re.findall(r"Document (\d+): (\S+) (\S+) (\S+)", prompt):
        helps = (entity, relation) == asked.groups() and value == answer
        said.append(f"Document {number} {entity} {f'helps {value}' if helps else 'no'}")
    return " ".join(said)


def questions(count: int, seed: int, *, helpful: float = 0.8) -> Iterator[dict[str, Any]]:
    """Questions whose values are drawn again for each, so that no weight can hold them."""
    random = np.random.default_rng(seed)
    for number in range(count):
        entities = random.permutation(ENTITIES)[: SHOWN + 1]
        relation, answer = int(random.integers(RELATIONS)), f"V{random.integers(VALUES)}"
        helps = random.random() < helpful
        # Documents that do not help may say nothing of the answer.
        others = [f"V{value}" for value in range(VALUES) if f"V{value}" != answer]
        texts = [f"e{entity} r{random.integers(RELATIONS)} {random.choice(others)}" for entity in entities[1:]]
        if helps:
            texts[int(random.integers(SHOWN))] = f"e{entities[0]} r{relation} {answer}"
        yield {
            "id": str(number),
            "question": f"tell e{entities[0]} r{relation} ?",
            "answers": [answer],
            "ctxs": [
                {"id": f"{number}-{place}", "title": "", "text": text, "score": str(10 - place)}
                for place, text in enumerate(texts)
            ],
            "labels": {"helps": "yes" if helps else "no"},
        }


def write_lines(path: Path, items: Iterator[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in items), encoding="utf-8")
    return path


def write_tokenizer(path: Path) -> Path:
    """One token a word, marks apart."""
    words = [
        "<|endoftext|>",
        "[UNK]",
        "Document",
        ":",
        "?",
        "Answer",
        "tell",
        "read",
        "recall",
        "no",
        "helps",
    ]
    words += [str(number) for number in range(1, SHOWN + 2)]
    for letter, count in (("e", ENTITIES), ("r", RELATIONS), ("V", VALUES)):
        words += [f"{letter}{number}" for number in range(count)]
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Sequence([WhitespaceSplit(), Punctuation()])
    tokenizer.save(str(path))
    return path


def write_corpus(path: Path) -> Path:
    """Some documents, so that there is a model to start from."""
    random = np.random.default_rng(0)
    return write_lines(
        path,
        (
            {"id": str(one), "text": f"e{one % ENTITIES} r{random.integers(RELATIONS)} V{random.integers(VALUES)}"}
            for one in range(200)
        ),
    )
