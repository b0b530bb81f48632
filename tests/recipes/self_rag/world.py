"""A world in which every judgement of Self-RAG has a rule: entities, relations and values, one token a word.

A passage says `e5 r2 V7.`, or `e5 r2 V7. perhaps`. A question `tell e5 r2` needs one; `repeat W3.` needs nothing. A
passage is relevant if it is about the entity. A sentence is supported if the passage has its value, partly if that only
says perhaps, and contradicted otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from retro.recipes.self_rag.tokens import (
    CONTINUE,
    FULLY,
    IRRELEVANT,
    NO_RETRIEVAL,
    PARTIALLY,
    RELEVANT,
    RETRIEVAL,
    UNSUPPORTED,
    UTILITY,
)
from retro.teacher.request import TeacherRequest

ENTITIES, RELATIONS, VALUES, WORDS = 20, 3, 8, 8
HEDGE = "perhaps"
FAMILIES = ("retrieval", "multi_retrieval", "relevance", "groundness", "utility")
_TAUGHT = (
    "groundness",
    "relevance",
    "multi_retrieval",
    "groundness",
    "relevance",
    "utility",
    "groundness",
    "retrieval",
)
"""The harder ones more often."""
TEXTS = {
    "name": "world",
    "version": 1,
    "teacher": {
        family: {"prompt": f"{family} | {{instruction}} | {{preceding}} | {{evidence}} | {{output}}"}
        for family in FAMILIES
    },
    "critic": {family: f"judge-{family}" for family in FAMILIES},
    "headings": {"instruction": "I", "preceding": "P", "evidence": "E", "output": "O"},
}
"""Prompts of a few words, laid over the recipe's own."""


def facts(seed: int) -> dict[tuple[str, str], str]:
    """The value of each entity and relation."""
    random = np.random.default_rng(seed)
    return {
        (f"e{entity}", f"r{relation}"): f"V{random.integers(VALUES)}."
        for entity in range(ENTITIES)
        for relation in range(RELATIONS)
    }


def passage_of(*words: str) -> str:
    return " ".join(words)


def label(family: str, instruction: str, evidence: str, output: str) -> str:
    """What is right, by rule."""
    asked, said = instruction.split(), output.split()
    known = evidence.split()
    if family == "retrieval":
        return RETRIEVAL if asked[0] == "tell" else NO_RETRIEVAL
    if family == "multi_retrieval":
        if asked[0] != "tell":
            return NO_RETRIEVAL
        return CONTINUE if said and said[-1] in known else RETRIEVAL
    if family == "relevance":
        return RELEVANT if asked[0] == "tell" and known[0] == asked[1] else IRRELEVANT
    if family == "groundness":
        if said[-1] not in known:
            return UNSUPPORTED
        return PARTIALLY if HEDGE in known else FULLY
    right = (asked[0] == "tell") == said[-1].startswith("V")
    return UTILITY[4] if right else UTILITY[0]


_WORDS_OF = {
    RETRIEVAL: {"retrieval": "yes", "multi_retrieval": "new"},
    NO_RETRIEVAL: {"retrieval": "no", "multi_retrieval": "none"},
    CONTINUE: {"multi_retrieval": "same"},
    RELEVANT: {"relevance": "relevant"},
    IRRELEVANT: {"relevance": "irrelevant"},
    FULLY: {"groundness": "full"},
    PARTIALLY: {"groundness": "partial"},
    UNSUPPORTED: {"groundness": "none"},
    **{token: {"utility": str(number)} for number, token in enumerate(UTILITY, start=1)},
}


def teacher(request: TeacherRequest) -> str:
    """A teacher that knows the rules; of some items it says nothing that can be used."""
    family, instruction, _, evidence, output = (part.strip() for part in request.messages[-1]["content"].split("|"))
    if instruction.endswith("e0 r0"):
        return "I would rather not say."
    return f"By rule.\nAnswer: {_WORDS_OF[label(family, instruction, evidence, output)][family]}"


def critic_items(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Items of all families in turn, everything drawn again for each, so that no weight can hold them."""
    random = np.random.default_rng(seed)
    for number in range(count):
        family = _TAUGHT[number % len(_TAUGHT)]
        tells = family == "groundness" or random.random() < 0.7
        entity, other = (f"e{one}" for one in random.permutation(ENTITIES)[:2])
        relation, another = (f"r{one}" for one in random.permutation(RELATIONS)[:2])
        value, wrong = (f"V{one}." for one in random.permutation(VALUES)[:2])
        word = f"W{random.integers(WORDS)}."
        instruction = f"tell {entity} {relation}" if tells else f"repeat {word}"
        about = entity if family == "groundness" or random.random() < 0.5 else other
        hedge = [HEDGE] if random.random() < 0.4 else []
        evidence = passage_of(about, relation if random.random() < 0.5 else another, value, *hedge)
        output = value if random.random() < 0.6 else wrong
        if not tells and family != "utility":
            output = word
        if family == "utility" and random.random() < 0.5:
            output = word
        item = {"id": str(number), "task": family, "instruction": instruction}
        shown = family in ("relevance", "groundness") or (family == "multi_retrieval" and random.random() < 0.5)
        item |= {"evidence": evidence} if shown else {}
        item |= {"output": output} if family in ("multi_retrieval", "groundness", "utility") else {}
        yield item


def generator_items(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Instructions with outputs: facts, whose values are drawn again for each, and words to be repeated."""
    random = np.random.default_rng(seed)
    for number in range(count):
        if random.random() < 0.5:
            word = f"W{random.integers(WORDS)}."
            yield {"id": str(number), "instruction": f"repeat {word}", "output": word, "dataset_name": "repeat"}
            continue
        yield {
            "id": str(number),
            "instruction": f"tell e{random.integers(ENTITIES)} r{random.integers(RELATIONS)}",
            "output": f"V{random.integers(VALUES)}.",
            "dataset_name": "tell",
        }


def questions(world: dict[tuple[str, str], str], count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Half of them about facts, with passages that a search would find, half that need none and come with some."""
    random = np.random.default_rng(seed)
    pairs = list(world)
    for number in range(count):
        entity, relation = pairs[random.integers(len(pairs))]
        others = [pair for pair in (pairs[place] for place in random.permutation(len(pairs))) if pair[0] != entity][:4]
        found = [(entity, relation), *others]
        ctxs = [
            {"id": " ".join(found[place]), "title": "", "text": passage_of(*found[place], world[found[place]])}
            for place in random.permutation(len(found))
        ]
        tells = number % 2 == 0
        word = f"W{random.integers(WORDS)}."
        yield {
            "id": str(number),
            "question": f"tell {entity} {relation}" if tells else f"repeat {word}",
            "answers": [world[entity, relation] if tells else word],
            "ctxs": ctxs,
            "labels": {"kind": "tell" if tells else "repeat"},
        }


def write_lines(path: Path, items: Iterator[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in items), encoding="utf-8")
    return path


def write_tokenizer(path: Path) -> Path:
    """One token a word."""
    words = ["<|endoftext|>", "[UNK]", HEDGE, "###", "Instruction:", "Input:", "Response:", "tell", "repeat"]
    words += [f"judge-{family}" for family in FAMILIES] + [f"{letter}:" for letter in "IPEO"]
    for letter, count, end in (("e", ENTITIES, ""), ("r", RELATIONS, ""), ("V", VALUES, "."), ("W", WORDS, ".")):
        words += [f"{letter}{number}{end}" for number in range(count)]
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(path))
    return path


def write_corpus(path: Path) -> Path:
    """A document for a part of what might be: what is so is only said by what is read, and most of it by nothing."""
    every = [
        (f"e{entity}", f"r{relation}", f"V{value}.", *hedge)
        for entity in range(ENTITIES)
        for relation in range(RELATIONS)
        for value in range(VALUES)
        for hedge in ((), (HEDGE,))
    ]
    order = np.random.default_rng(0).permutation(len(every))[: len(every) // 7]
    return write_lines(path, ({"id": str(place), "text": passage_of(*every[place])} for place in order))
