"""From an item and the critic's verdicts to a training sample (arXiv:2310.11511, section 3.2.2). No model, no files.

    [No Retrieval]output[Utility:5]
    [Retrieval]<paragraph>title
    text</paragraph>[Relevant]A sentence.[Fully supported][No Retrieval]Another one.[Utility:4]

What is drawn is drawn from the item's own numbers, so a sample does not depend on the items around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from retro.qa.question import PassageLike, Segment
from retro.qa.segments import joined_text
from retro.recipes.self_rag.config import DataConfig
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
    passage_segments,
    passage_text,
)

Branch = Literal[
    "no_retrieval",
    "fully",
    "partially",
    "unsupported",
    "irrelevant",
    "forced_irrelevant",
    "continue",
    "none",
    "not_found",
]
"""Why a piece of a sample looks as it does: a whole answer without retrieval; a sentence with a passage of that kind;
one that goes on with the evidence; one that needs none; one for which nothing was found."""
Dropped = Literal["no_retrieval_thinned", "begins_with_continue", "too_long_for_the_critic"]
_FEVER = {"supports": "true", "refutes": "false"}


@dataclass(frozen=True, kw_only=True)
class JudgedPassage:
    """A passage found for a sentence, and what the critic says of the two."""

    passage: PassageLike
    relevance: str
    support: str


@dataclass(frozen=True, kw_only=True)
class JudgedSentence:
    """A sentence of an output."""

    text: str
    decision: str
    """A token of `RETRIEVE`."""
    passages: Sequence[JudgedPassage] = ()
    """For a sentence that is to be searched for."""


@dataclass(frozen=True, kw_only=True)
class JudgedItem:
    """An item with all that the critic says of it."""

    dataset: str
    output: str
    retrieves: bool
    """Whether its instruction needs passages at all."""
    utility: str
    sentences: Sequence[JudgedSentence] = ()


@dataclass(kw_only=True)
class Composed:
    """A sample, or why there is none."""

    segments: list[Segment] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    """Of the answer, or of each sentence."""
    dropped: Dropped | None = None

    @property
    def output(self) -> str:
        """The answer with its tokens spelled, as published training data has it."""
        return joined_text(self.segments)

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        parts = [
            {"token": one.token} if one.token else {"text": one.text} | ({} if one.learn else {"learn": False})
            for one in self.segments
        ]
        return {"segments": parts, "branches": list(self.branches), "dropped": self.dropped}


def normalized_output(dataset: str, output: str) -> str:
    """An output as it is learned: FEVER's verdicts are true and false."""
    return _FEVER.get(output.strip().lower(), output.strip()) if dataset == "fever" else output.strip()


def normalized_utility(output: str, utility: str) -> str:
    """The utility that is learned: a critic finds a bare true or false of no use, which it is not."""
    return UTILITY[4] if output.strip().lower() in ("true", "false") and utility == UTILITY[0] else utility


def compose(item: JudgedItem, config: DataConfig, random: np.random.Generator) -> Composed:
    """Make a sample of an item.

    Args:
        item: Judged.
        config: Which branches are taken how often.
        random: The item's own.
    """
    made = Composed()
    utility = Segment(token=normalized_utility(item.output, item.utility))
    if not item.retrieves:
        if random.random() >= config.keep_no_retrieval:
            return Composed(dropped="no_retrieval_thinned")
        made.segments = [Segment(token=NO_RETRIEVAL), Segment(text=item.output), utility]
        made.branches = ["no_retrieval"]
        return made
    for place, one in enumerate(item.sentences):
        if one.decision == CONTINUE and place == 0:
            return Composed(dropped="begins_with_continue")
        segments, branch = _sentence(one, item.dataset, config, random)
        made.segments += segments
        made.branches.append(branch)
    made.segments.append(utility)
    return made


def _sentence(
    one: JudgedSentence, dataset: str, config: DataConfig, random: np.random.Generator
) -> tuple[list[Segment], Branch]:
    text = Segment(text=one.text)
    if one.decision == CONTINUE:
        return [Segment(token=CONTINUE), text], "continue"
    if one.decision == NO_RETRIEVAL:
        return [Segment(token=NO_RETRIEVAL), text], "none"
    picked = pick(one.passages, dataset, config, random)
    if picked is None:
        return [Segment(token=NO_RETRIEVAL), text], "not_found"
    chosen, branch = picked
    before = [Segment(token=RETRIEVAL), *passage_segments(passage_text(chosen.passage))]
    if chosen.relevance == IRRELEVANT:
        return [*before, Segment(token=IRRELEVANT), text], branch
    return [*before, Segment(token=RELEVANT), text, Segment(token=chosen.support)], branch


def pick(
    passages: Sequence[JudgedPassage], dataset: str, config: DataConfig, random: np.random.Generator
) -> tuple[JudgedPassage, Branch] | None:
    """The passage that a sentence is learned with: the first that supports it fully, else by chance one that supports
    it in part, else by chance a relevant one, else an irrelevant one.

    Where chance passes over all, and none is irrelevant, the best of those passed over is taken.

    Returns:
        The passage and why; None where there are none.
    """
    irrelevant = [one for one in passages if one.relevance == IRRELEVANT]
    if irrelevant and dataset in config.force_irrelevant and random.random() < config.irrelevant_share:
        return irrelevant[random.integers(len(irrelevant))], "forced_irrelevant"
    relevant: dict[str, JudgedPassage] = {}
    for one in passages:
        if one.relevance == RELEVANT:
            relevant.setdefault(one.support, one)
    ways: tuple[tuple[str, float, Branch], ...] = (
        (FULLY, 1.0, "fully"),
        (PARTIALLY, config.keep_partial, "partially"),
        (UNSUPPORTED, config.keep_unsupported, "unsupported"),
    )
    for support, chance, branch in ways:
        if support in relevant and random.random() < chance:
            return relevant[support], branch
    if irrelevant:
        return irrelevant[random.integers(len(irrelevant))], "irrelevant"
    return next(((relevant[support], branch) for support, _, branch in ways if support in relevant), None)
