"""Training data of the generator (arXiv:2310.11511, section 3.2.2): critic and retriever in place of a teacher.

    1 does the instruction need passages?       critic, retrieval
    2 how useful is the output?                 critic, utility
    3 evidence for the item as a whole          search with instruction and output
    4 its sentences                             short ones of a longer output are not searched for
    5 what does each need?                      critic, multi_retrieval, with the evidence and what comes before
    6 passages of those that need new ones      search with instruction and sentence; critic, relevance and groundness
    7 the sample                                `compose`

An item's sample is on the disk before the next block begins; a kill costs one block of items.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from retro.common.artifacts import fingerprint
from retro.common.config import config_json
from retro.common.errors import DataError
from retro.common.progress import Progress
from retro.common.response_cache import ResponseCache
from retro.qa.passages import Retrieve
from retro.qa.question import PassageLike, Segment
from retro.qa.segments import joined_text
from retro.qa.sentences import sentences
from retro.recipes.item_files import Item, read_items, text_field, write_items
from retro.recipes.self_rag.compose import (
    Composed,
    JudgedItem,
    JudgedPassage,
    JudgedSentence,
    compose,
    normalized_output,
)
from retro.recipes.self_rag.config import DataConfig
from retro.recipes.self_rag.critic import Ask, Critic
from retro.recipes.self_rag.prompts import instruction_text
from retro.recipes.self_rag.tokens import (
    NO_RETRIEVAL,
    RELEVANT,
    RETRIEVAL,
    clean_text,
    passage_text,
    segments_of,
)

log = logging.getLogger(__name__)

TRAIN, SAMPLES, EXAMPLES, MADE = "train.jsonl", "samples.jsonl", "examples.jsonl", "made.jsonl"
_BLOCK = 32
_EXAMPLES = 3
_REMEDY = "Delete the file: the samples are made again"
_MANY_SENTENCES = 2


@dataclass
class _Work:
    """An item on its way to a sample."""

    item: Item
    instruction: str
    output: str
    retrieves: bool = False
    utility: str = ""
    fits: bool = True
    """Whether the critic can read it."""
    evidence: Sequence[PassageLike] = ()
    sentences: list[str] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    judged: dict[int, list[JudgedPassage]] = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        """The set that it comes from."""
        return str(self.item.get("dataset_name") or "")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was made of a file of items."""

    samples: int
    branches: dict[str, int]
    """Sentences, or answers without retrieval, of each kind."""
    dropped: dict[str, int]
    """Items without a sample, by reason."""


def make(
    path: Path, config: DataConfig, critic: Critic, retrieve: Retrieve, identity: dict[str, Any], out: Path
) -> Result:
    """Make training data of a file of items; goes on with what an earlier call left.

    Args:
        path: The items.
        config: How samples are made.
        critic: Judges.
        retrieve: Finds at least as many passages as the settings want.
        identity: Of critic and database: what samples depend on beside settings and items.
        out: Takes `train.jsonl` (published form), `samples.jsonl` (as tuning reads it), `examples.jsonl`.

    Raises:
        DataError: The items cannot be used, or none of them gives a sample.
        ArtifactError: `out` holds samples of other settings.
    """
    items = read_items(path, ("instruction", "output"), "file of items")
    for one in items:
        one["input"] = text_field(path, one, "input")
    shaping = {"data": {**config_json(config), "items": None, "samples": None}, **identity}
    kept = ResponseCache(out / MADE, {"self_rag": shaping}, _REMEDY)
    keys = [
        fingerprint([number, {name: one[name] for name in one if name != "_place"}]) for number, one in enumerate(items)
    ]
    missing = [number for number, key in enumerate(keys) if key not in kept]
    with Progress(len(items), what="generator data", unit="items", done=len(items) - len(missing)) as bar:
        for start in range(0, len(missing), _BLOCK):
            block = missing[start : start + _BLOCK]
            works = [_begun(items[number]) for number in block]
            _judge(works, config, critic, retrieve)
            made = [_composed(one, config, number) for one, number in zip(works, block, strict=True)]
            kept.add([keys[number] for number in block], [one.record() for one in made])
            bar.advance(len(block))
    return _write(path, items, [kept[key] for key in keys], out)


def _begun(item: Item) -> _Work:
    instruction = instruction_text(item["instruction"], item["input"])
    return _Work(item, instruction, normalized_output(str(item.get("dataset_name") or ""), item["output"]))


def _judge(works: list[_Work], config: DataConfig, critic: Critic, retrieve: Retrieve) -> None:
    """Steps 1 to 6, each for all items of a block."""
    for one, need in zip(works, critic.judge([_need(one, config) for one in works], "retrieval"), strict=True):
        one.retrieves, one.fits = need.token == RETRIEVAL, bool(need.token)
    useful = [Ask(family="utility", instruction=one.instruction, output=one.output) for one in works]
    for one, found in zip(works, critic.judge(useful, "utility"), strict=True):
        one.utility, one.fits = found.token, one.fits and bool(found.token)
    searching = [one for one in works if one.retrieves and one.fits]
    queries = [f"{one.instruction} {one.output}" for one in searching]
    for one, passages in zip(searching, retrieve(queries) if queries else (), strict=True):
        one.evidence = passages[: config.evidence]
        one.sentences = sentences(one.output)
    _decide(searching, critic)
    _judge_passages(searching, config, critic, retrieve)


def _need(one: _Work, config: DataConfig) -> Ask:
    output = one.output if one.dataset in config.judge_with_output else ""
    return Ask(family="retrieval", instruction=one.instruction, output=output)


def _decide(works: Sequence[_Work], critic: Critic) -> None:
    """What each sentence needs."""
    places = [(one, place) for one in works for place in range(len(one.sentences))]
    asked = [
        Ask(
            family="multi_retrieval",
            instruction=one.instruction,
            output=one.sentences[place],
            preceding=" ".join(one.sentences[:place]),
            # Before the first sentence nothing was read: it cannot go on with evidence.
            evidence=passage_text(one.evidence[0]) if one.evidence and place else "",
        )
        for one, place in places
    ]
    for (one, _), found in zip(places, critic.judge(asked, "sentences"), strict=True):
        # What does not fit is not searched for.
        one.decisions.append(found.token or NO_RETRIEVAL)


def _judge_passages(works: Sequence[_Work], config: DataConfig, critic: Critic, retrieve: Retrieve) -> None:
    """Passages of each sentence that needs new ones, and whether they are relevant and support it."""
    places = []
    for one in works:
        for place, text in enumerate(one.sentences):
            if one.decisions[place] != RETRIEVAL:
                continue
            if len(text) < config.shortest and len(one.sentences) > _MANY_SENTENCES:
                one.decisions[place] = NO_RETRIEVAL
                continue
            places.append((one, place))
    queries = [f"{one.instruction} {one.sentences[place]}" for one, place in places]
    found = [tuple(passages)[: config.top_n] for passages in retrieve(queries)] if queries else []
    pairs = [(one, place, passage) for (one, place), mine in zip(places, found, strict=True) for passage in mine]
    relevance = critic.judge([_about(*pair, "relevance") for pair in pairs], "relevance")
    # What an irrelevant passage supports is asked by nobody.
    relevant = [pair for pair, verdict in zip(pairs, relevance, strict=True) if verdict.token == RELEVANT]
    supports = iter(critic.judge([_about(*pair, "groundness") for pair in relevant], "support"))
    for (one, place, passage), verdict in zip(pairs, relevance, strict=True):
        support = next(supports).token if verdict.token == RELEVANT else ""
        if not verdict.token or (verdict.token == RELEVANT and not support):
            continue
        judged = JudgedPassage(passage=passage, relevance=verdict.token, support=support)
        one.judged.setdefault(place, []).append(judged)


def _about(one: _Work, place: int, passage: PassageLike, family: Any) -> Ask:
    parts = {"instruction": one.instruction, "evidence": passage_text(passage)}
    if family == "groundness":
        parts |= {"output": one.sentences[place], "preceding": " ".join(one.sentences[:place])}
    return Ask(family=family, **parts)


def _composed(one: _Work, config: DataConfig, number: int) -> Composed:
    if not one.fits:
        return Composed(dropped="too_long_for_the_critic")
    judged = [
        JudgedSentence(text=text, decision=one.decisions[place], passages=one.judged.get(place, ()))
        for place, text in enumerate(one.sentences)
    ]
    item = JudgedItem(
        dataset=one.dataset, output=one.output, retrieves=one.retrieves, utility=one.utility, sentences=judged
    )
    return compose(item, config, np.random.default_rng([config.seed, number]))


def _write(path: Path, items: Sequence[Item], made: Sequence[dict[str, Any]], out: Path) -> Result:
    """Write all samples, in the order of their items, and some of each kind for people."""
    dropped = Counter(one["dropped"] for one in made if one["dropped"])
    branches = Counter(branch for one in made for branch in one["branches"])
    pairs = [
        (number, item, one) for number, (item, one) in enumerate(zip(items, made, strict=True)) if not one["dropped"]
    ]
    if not pairs:
        raise DataError(path, f"gives no sample, of {len(items)} items ({dict(dropped)})", "Give more items")
    write_items(out / TRAIN, (published(number, item, one["segments"]) for number, item, one in pairs))
    write_items(out / SAMPLES, (sample(number, item, one["segments"]) for number, item, one in pairs))
    shown: Counter[str] = Counter()
    examples = []
    for number, item, one in pairs:
        new = [branch for branch in dict.fromkeys(one["branches"]) if shown[branch] < _EXAMPLES]
        shown.update(new)
        examples += [{"branch": branch, **published(number, item, one["segments"])} for branch in new]
    write_items(out / EXAMPLES, sorted(examples, key=lambda one: str(one["branch"])))
    for reason, count in sorted(dropped.items()):
        log.info("generator data: %d items dropped: %s", count, reason)
    return Result(samples=len(pairs), branches=dict(sorted(branches.items())), dropped=dict(sorted(dropped.items())))


def published(number: int, item: Item, parts: Sequence[dict[str, Any]]) -> Item:
    """A sample in the published form."""
    return {
        "instruction": item["instruction"],
        "output": joined_text([Segment(**one) for one in parts]),
        "input": item.get("input") or "",
        "id": str(item.get("id", number)),
        "dataset_name": item.get("dataset_name") or "",
    }


def sample(number: int, item: Item, parts: Sequence[dict[str, Any]]) -> Item:
    """A sample as tuning reads it."""
    about = item.get("input")
    question = instruction_text(item["instruction"], about if isinstance(about, str) else "")
    return {"id": f"{number}", "question": question, "segments": list(parts)}


def samples_of_published(path: Path) -> list[Item]:
    """Training data in the published form, as tuning reads it.

    Raises:
        DataError: An item lacks a field, or says nothing beside its tokens.
    """
    found = []
    for number, one in enumerate(read_items(path, ("instruction", "output"), "training data")):
        one["input"] = text_field(path, one, "input")
        segments = segments_of(one["output"])
        if not clean_text(segments):
            raise DataError(path, f"{one['_place']} has an output of tokens alone", "Give it something to say")
        parts = Composed(segments=list(segments)).record()["segments"]
        found.append(sample(number, one, parts))
    return found
