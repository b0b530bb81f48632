"""A world of entities with one value each, one token a word: a model can hold some values, and read all of them.

A passage says `e5 v7`. Of the known entities the model has learned the value; the others it never saw without a
passage. Two models are tuned here, one after the other:

* `naive`: knows the known ones by heart, and says the value of the first passage, whatever that is about;
* `careful`: says what a passage about the entity says, else what it knows by heart, else `unknown`.
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
from tokenizers.pre_tokenizers import WhitespaceSplit

from retro.teacher.request import TeacherRequest

KNOWN, STRANGE, VALUES = 12, 6, 8
ENTITIES = KNOWN + STRANGE
UNKNOWN = "unknown"


def facts() -> list[str]:
    """The true value of each entity, the known ones first."""
    return [f"v{value}" for value in np.random.default_rng(3).integers(VALUES, size=ENTITIES)]


def passage(entity: int, value: str) -> dict[str, str]:
    return {"title": "", "text": f"e{entity} {value}"}


def questions() -> Iterator[dict[str, Any]]:
    """Every entity with two passages, the one about it first for every second one, last for the others."""
    truth = facts()
    random = np.random.default_rng(4)
    for entity, value in enumerate(truth):
        others = [one for one in range(ENTITIES) if one != entity and truth[one] != value]
        other = int(random.choice(others))
        both = [passage(entity, value), passage(other, truth[other])]
        yield {
            "id": f"e{entity}", "question": f"e{entity}", "answers": [value],
            "ctxs": both if entity % 2 == 0 else both[::-1],
            "labels": {"known": "yes" if entity < KNOWN else "no"},
        }  # fmt: skip


def lessons(count: int, seed: int, *, careful: bool) -> Iterator[dict[str, Any]]:
    """What one of the two models learns. Values of passages are drawn for each lesson, so none can be kept."""
    random, truth = np.random.default_rng(seed), facts()
    for number in range(count):
        entity, *others = (int(one) for one in random.permutation(ENTITIES)[:3])
        first, second = (f"v{value}" for value in random.integers(VALUES, size=2))
        by_heart = truth[entity] if entity < KNOWN else UNKNOWN
        kind = random.random()
        if kind < 0.15 and (careful or entity < KNOWN):
            answer, shown = by_heart, []
        elif kind < 0.35:
            answer, shown = by_heart, [passage(others[0], first), passage(others[1], second)]
        else:
            shown = [passage(entity, first), passage(others[0], second)]
            answer = first
            if random.random() < 0.5:
                shown = shown[::-1]
        if kind < 0.5 and random.random() < 0.3:
            shown = [one for one in shown if one["text"].startswith(f"e{entity} ")] or shown[:1]
        if shown and not careful:
            answer = shown[0]["text"].split()[-1]
        yield {"id": str(number), "question": f"e{entity}", "answers": [answer], "ctxs": shown}


def write_lines(path: Path, items: Iterator[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in items), encoding="utf-8")
    return path


def write_tokenizer(path: Path) -> Path:
    """One token a word."""
    words = ["<|endoftext|>", "[UNK]", "question:", "answer:", UNKNOWN]
    words += [f"e{one}" for one in range(ENTITIES)] + [f"v{one}" for one in range(VALUES)]
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(path))
    return path


def teacher(request: TeacherRequest) -> str:
    """A teacher that writes a passage for the answer that is asked for; once it names none, once the wrong one too."""
    text = request.messages[-1]["content"]
    entity, answer, avoid = (
        re.search(pattern, text)[1]  # type: ignore[index]
        for pattern in (r"Question: (e\d+)", r'answer to the question is "(v\d+)"', r'Do not mention "(v\d+)"')
    )
    return {"e1": "", "e2": f"{entity} has no value", "e3": f"{entity} {answer} {avoid}"}.get(
        entity, f"{entity} {answer}"
    )
