"""A world in which a question takes two facts, and only the first names where the second is to be looked for.

Some facts link an entity to another, `e7 l1 e3 .`; some give it a value, `e3 r2 v9 .`. The question `e7 l1 r2` asks for
the value of the entity that e7 is linked to: nothing in it leads to e3. `e3 r2` is a question that one fact answers.
One token a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence, Split, WhitespaceSplit

from retro.recipes.multi_hop.items import MultiHopItem, SubQuestion, final_answer, long_answer
from retro.teacher.request import TeacherRequest

ENTITIES, LINKS, RELATIONS, VALUES = 24, 2, 3, 12
TEXTS = {"name": "world", "version": 1, "system": "facts", "nothing_found": "nothing", "unanswerable": ["nothing"]}
"""Laid over the recipe's texts: a few words."""
Facts = dict[tuple[str, str], str]


def facts(seed: int) -> Facts:
    """Links and values drawn by `seed`; no entity is linked to itself."""
    random = np.random.default_rng(seed)
    found: Facts = {}
    for entity in range(ENTITIES):
        for link in range(LINKS):
            found[f"e{entity}", f"l{link}"] = f"e{(entity + random.integers(1, ENTITIES)) % ENTITIES}"
        for relation in range(RELATIONS):
            found[f"e{entity}", f"r{relation}"] = f"v{random.integers(VALUES)}"
    return found


def fact(pair: tuple[str, str], what: str) -> str:
    return f"{pair[0]} {pair[1]} {what} ."


def write_lines(path: Path, items: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in items), encoding="utf-8")
    return path


def write_corpus(path: Path, known: Facts) -> Path:
    """One document a fact, in an order that has nothing to do with its content."""
    pairs = list(known)
    order = np.random.default_rng(0).permutation(len(pairs))
    lines = ({"id": " ".join(pairs[at]), "text": fact(pairs[at], known[pairs[at]])} for at in order)
    return write_lines(path, lines)


def questions(known: Facts, count: int, seed: int) -> list[dict[str, Any]]:
    """Different questions about two facts each, in the form of HotpotQA's file, with ten paragraphs."""
    random = np.random.default_rng(seed)
    asked = [(entity, link, f"r{r}") for entity, link in known if link[0] == "l" for r in range(RELATIONS)]
    pairs = list(known)
    found = []
    for at in random.permutation(len(asked))[:count]:
        entity, link, relation = asked[at]
        through = known[entity, link]
        wanted = [(entity, link), (through, relation)]
        others = [pairs[place] for place in random.permutation(len(pairs)) if pairs[place] not in wanted][:8]
        context = [[" ".join(pair), [fact(pair, known[pair])]] for pair in [*wanted, *others]]
        found.append(
            {
                "_id": f"{entity}-{link}-{relation}",
                "question": f"{entity} {link} {relation}",
                "answer": known[through, relation],
                "type": "bridge",
                "level": "hard",
                "supporting_facts": [[" ".join(pair), 0] for pair in wanted],
                "context": [context[place] for place in random.permutation(10)],
            }
        )
    return found


def items(count: int, seed: int) -> Iterator[MultiHopItem]:
    """Items of which three in four take two facts. All is drawn again for each, so that no weight can hold it."""
    random = np.random.default_rng(seed)
    for number in range(count):
        entity, through = (f"e{one}" for one in random.permutation(ENTITIES)[:2])
        link, relation = f"l{random.integers(LINKS)}", f"r{random.integers(RELATIONS)}"
        value = f"v{random.integers(VALUES)}"
        second = _looked_up(through, relation, value)
        if number % 4 == 0:
            yield MultiHopItem(
                question=f"{through} {relation}", multihop=False, sub_questions=(second,), final_answer=value
            )
            continue
        first = _looked_up(entity, link, through)
        yield MultiHopItem(
            question=f"{entity} {link} {relation}",
            multihop=True,
            sub_questions=(first, second),
            final_answer=final_answer(f"{entity} {through} {value}", value),
        )


def _looked_up(entity: str, about: str, what: str) -> SubQuestion:
    return SubQuestion(
        question=f"{entity} {about}", paragraph=fact((entity, about), what), long_answer=long_answer(what, what)
    )


def write_tokenizer(path: Path) -> Path:
    """One token a word; the marks of JSON and of answers are tokens of their own."""
    words = [
        "<|endoftext|>",
        "[UNK]",
        "system:",
        "user:",
        "assistant:",
        "retrieved",
        "context:",
        "facts",
        "nothing",
        ".",
    ]
    words += ["retrieve:", '{"query":', '"', '"}', "Answer:", "Summary:"]
    for letter, count in zip("elrv", (ENTITIES, LINKS, RELATIONS, VALUES), strict=True):
        words += [f"{letter}{number}" for number in range(count)]
    tokenizer = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    marks = Split(Regex(r'"\}|"(?=[elrv]\d)|Answer:|Summary:'), "isolated")
    tokenizer.pre_tokenizer = Sequence([WhitespaceSplit(), marks])
    tokenizer.save(str(path))
    return path


def instruct_model(request: TeacherRequest) -> str:
    """A chat model that reads and follows instructions, and knows none of the facts."""
    chat = [one["content"] for one in request.messages]
    [entity, link, relation] = re.findall(r"\b(e\d+) (l\d+) (r\d+)\b", "\n".join(chat))[0]
    read = {(one, about): what for one, about, what in re.findall(r"\b(e\d+) ([lr]\d+) (\w+) \.", "\n".join(chat))}
    through = read.get((entity, link), "")
    value = read.get((through, relation), "")
    if "Reply with one letter." in chat[-1]:
        return "C"
    if "Write only the next sentence." in chat[-1]:
        return f"So the answer is: {value}." if value else f"Next is {through} {relation}."
    if value:
        return f"Summary: {entity} {through} {value}\nAnswer: {value}"
    if "No further search is possible" in chat[-1]:
        return "Answer: unknown"
    return f"Search: {through} {relation}" if through else f"Search: {entity} {link}"
