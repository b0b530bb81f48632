"""Training data of the critic (arXiv:2310.11511, section 3.2.1): a teacher's labels, balanced, a part held out.

items ── teacher ──▶ raw.jsonl        what was asked, what was replied, the label
                 ──▶ train.jsonl      `{instruction, input, output, task}`, as published
                     dev.jsonl        the part held out
                     train_samples.jsonl, dev_samples.jsonl     the same as tuning reads it
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retro.common.errors import ConfigError, DataError
from retro.recipes.base import Made, StepRun
from retro.recipes.item_files import Item, read_items, text_field, write_items
from retro.recipes.self_rag.config import CriticConfig
from retro.recipes.self_rag.prompts import (
    Texts,
    Variant,
    critic_input,
    instruction_text,
    label_of_reply,
    teacher_prompt,
)
from retro.recipes.self_rag.tokens import FAMILIES, RELEVANT, TOKENS, Family
from retro.teacher.request import TeacherRequest

log = logging.getLogger(__name__)

RAW, TRAIN, DEV = "raw.jsonl", "train.jsonl", "dev.jsonl"
SAMPLES = {"train": "train_samples.jsonl", "dev": "dev_samples.jsonl"}
_FORMER: dict[str, Family] = {"groudness": "groundness", "retrieval_multi": "multi_retrieval", "isRel": "relevance"}
"""Other spellings in published files."""
_NEEDS: dict[Family, tuple[str, ...]] = {
    "retrieval": (),
    "multi_retrieval": ("output",),
    "relevance": ("evidence",),
    "groundness": ("evidence", "output"),
    "utility": ("output",),
}
_CONTEXTS: tuple[tuple[str, Variant], ...] = (
    ("input", "input"),
    ("paragraph", "no_input_paragraph"),
    ("separated", "no_input_separated"),
)


def run(work: StepRun) -> Made:
    """Label, balance, hold out.

    Raises:
        ConfigError: No items are given.
        DataError: An item lacks what its family looks at, or nothing is left to train on.
    """
    config: CriticConfig = work.settings.critic
    texts = Texts.load(work.settings.prompts)
    files = [TRAIN, DEV, *SAMPLES.values()]
    dropped: Counter[str] = Counter()
    report: dict[str, Any] = {}
    if config.labelled is not None:
        labelled = read_labelled(config.labelled)
        other = sum(one["instruction"] != texts.critic[one["task"]] for one in labelled)
        if other:
            log.warning(
                "%s: %d of %d items ask in other words than the recipe will (prompts.yaml, section critic): put their "
                "words there, or the critic is used with prompts that it was not tuned on",
                config.labelled,
                other,
                len(labelled),
            )
    elif config.items is not None:
        labelled, report = _label(work, config, texts, dropped)
        files.append(RAW)
    else:
        raise ConfigError("recipe.self_rag.critic.items", None, "needs items to be labelled, or critic.labelled")
    kept = balanced(labelled, config.drop_relevant, config.seed)
    dropped["relevant, for balance"] = len(labelled) - len(kept)
    train, dev = held_out(kept, config.dev, config.seed)
    if not train:
        path = config.labelled or config.items
        raise DataError(path or "critic", f"leaves nothing to train on ({dict(dropped)})", "Give more items")
    for name, items in ((TRAIN, train), (DEV, dev)):
        write_items(work.directory / name, items)
    for part, items in (("train", train), ("dev", dev)):
        write_items(work.directory / SAMPLES[part], map(sample_of, items))
    return Made(files=files, counts=_counts(train, dev, dropped), report=report)


def read_labelled(path: Path) -> list[Item]:
    """Items with labels, in published form: `instruction`, `output`, `task`, and perhaps `input`.

    Raises:
        DataError: An item lacks a field, or its label is none of its family.
    """
    items = read_items(path, ("instruction", "output", "task"), "file of labels")
    for number, one in enumerate(items):
        one["task"] = family_of(path, one)
        one["output"] = one["output"].strip()
        if one["output"] not in FAMILIES[one["task"]]:
            wanted = ", ".join(FAMILIES[one["task"]])
            raise DataError(path, f"{one['_place']} has the label {one['output']!r}", f"Of {one['task']}: {wanted}")
        one.setdefault("id", str(number))
        one |= {name: text_field(path, one, name) for name, _ in _CONTEXTS if name in one}
    return items


def family_of(path: Path, item: Item) -> Family:
    """What an item asks the critic.

    Raises:
        DataError: Nothing that is known.
    """
    name = _FORMER.get(item["task"], item["task"])
    for family in FAMILIES:
        if family == name:
            return family
    raise DataError(path, f"{item['_place']} has the task {item['task']!r}", f"Known tasks: {', '.join(FAMILIES)}")


def _label(
    work: StepRun, config: CriticConfig, texts: Texts, dropped: Counter[str]
) -> tuple[list[Item], dict[str, Any]]:
    path = config.items
    if path is None:
        raise ValueError("items are labelled where there are any")
    items = [_parts(path, one) for one in read_items(path, ("instruction", "task"), "file of items")]
    requests = [
        TeacherRequest(
            messages=({"role": "user", "content": teacher_prompt(texts, one["task"], one)},),
            temperature=config.temperature,
            max_tokens=config.max_tokens,
        )
        for one in items
    ]
    labelled: list[Item] = []
    raw: list[Item] = []
    with work.teacher(config.teacher) as teacher:
        for one, reply in zip(items, teacher.complete_all(requests, what="critic labels"), strict=True):
            label = label_of_reply(texts, one["task"], reply.text)
            raw.append(_raw(one, reply.text, label))
            if label is None:
                dropped[f"{one['task']}: {'no reply' if not reply.text.strip() else 'a reply without a label'}"] += 1
                continue
            labelled.append(_training_item(texts, one, label))
        report = {"teacher": teacher.report().line()}
    write_items(work.directory / RAW, raw)
    if dropped.total():
        log.warning("critic: %d of %d replies say no label: %s", dropped.total(), len(items), dict(dropped))
    return labelled, report


def _parts(path: Path, item: Item) -> Item:
    """An item with the texts that its family looks at.

    Raises:
        DataError: It lacks one.
    """
    family = family_of(path, item)
    found: Item = {"id": str(item.get("id", item.get("q_id", ""))), "task": family, "_place": item["_place"]}
    names = {"instruction": "instruction", "evidence": "evidence", "output": "output"}
    found |= {name: text_field(path, item, source) for name, source in names.items()}
    found["preceding"] = text_field(path, item, "preceding_sentences")
    # Upstream's items have the reply to judge as a whole there.
    found["output"] = found["output"] or text_field(path, item, "target_output")
    missing = [name for name in _NEEDS[family] if not found[name]]
    if missing:
        remedy = f"Items of task {family} need {', '.join(('instruction', *_NEEDS[family]))}"
        raise DataError(path, f"{item['_place']} has no {missing[0]!r}", remedy)
    return found


def _raw(item: Item, reply: str, label: str | None) -> Item:
    asked = {
        "instruction": item["instruction"],
        "evidence": item["evidence"],
        "preceding_sentences": item["preceding"],
        "output": item["output"],
        "q_id": item["id"],
    }
    return {"input": asked, "task": item["task"], "decision_token": label, "raw_output": reply}


def _training_item(texts: Texts, item: Item, label: str) -> Item:
    return {
        "id": item["id"],
        "task": item["task"],
        "instruction": texts.critic[item["task"]],
        "input": critic_input(texts, item),
        "output": label,
    }


def question_of_item(item: Mapping[str, Any]) -> str:
    """What the critic reads, of an item in published form: its instruction with the context that it has.

    All forms of published items are known: with an input, without, with a paragraph, with a separated context.
    """
    about = next(((item[name], variant) for name, variant in _CONTEXTS if str(item.get(name) or "").strip()), None)
    return instruction_text(item["instruction"], *about) if about else instruction_text(item["instruction"])


def sample_of(item: Item) -> Item:
    """An item as tuning reads it: the label is one token, and all that is learned."""
    return {
        "id": item["id"],
        "question": question_of_item(item),
        "segments": [{"token": item["output"]}],
        "labels": {"task": item["task"]},
    }


def balanced(items: Sequence[Item], share: float, seed: int) -> list[Item]:
    """The items without a share of those labelled [Relevant], drawn by `seed`."""
    random = np.random.default_rng(seed)
    return [one for one in items if one["output"] != RELEVANT or random.random() >= share]


def held_out(items: Sequence[Item], most: int, seed: int) -> tuple[list[Item], list[Item]]:
    """The items for training and those held out: at most `most`, and at most a tenth of all. Each keeps its order."""
    count = min(most, len(items) // 10)
    chosen = set(np.random.default_rng(seed + 1).permutation(len(items))[:count].tolist())
    train = [one for place, one in enumerate(items) if place not in chosen]
    return train, [one for place, one in enumerate(items) if place in chosen]


def _counts(train: Sequence[Item], dev: Sequence[Item], dropped: Counter[str]) -> dict[str, Any]:
    of_family = {name: Counter(one["output"] for one in train if one["task"] == name) for name in FAMILIES}
    return {
        "train": len(train),
        "dev": len(dev),
        "labels": {
            name: {token: count[token] for token in TOKENS if count[token]}
            for name, count in of_family.items()
            if count
        },
        "dropped": {reason: count for reason, count in sorted(dropped.items()) if count},
    }
