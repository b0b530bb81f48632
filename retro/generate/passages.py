"""Which passages each question is given in each setting: before any model is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from retro.common.errors import ConfigError
from retro.generate.config import GenerateConfig, Setting
from retro.qa.passages import Retrieve, passages_of
from retro.qa.question import PassageLike, Question

Passages = Sequence[PassageLike]


def find_passages(
    config: GenerateConfig, questions: Sequence[Question], retrieve: Retrieve | None, *, needed: bool = True
) -> dict[Setting, list[Passages]]:
    """The passages of all questions in each setting, best first, at most as many as are used.

    Args:
        config: Settings, and where passages come from.
        questions: All of them.
        retrieve: Searches the database; needed where `config.searches`.
        needed: Refuse a setting with passages in which no question has one: it would be `closed_book` under another
            name. A single question is no comparison, and is answered without.

    Raises:
        ConfigError: Passages are wanted, and no question has one; or the retriever is, and there is none.
    """
    searched: Sequence[Passages] = []
    if config.searches:
        searched = passages_of(questions, "retriever", retrieve, what="generate")
    own = searched if config.passages_from == "retriever" else [question.contexts for question in questions]
    return {
        setting: _in_setting(config, setting, questions, own, searched, needed=needed) for setting in config.settings
    }


def _in_setting(
    config: GenerateConfig,
    setting: Setting,
    questions: Sequence[Question],
    own: Sequence[Passages],
    searched: Sequence[Passages],
    *,
    needed: bool,
) -> list[Passages]:
    if setting == "closed_book":
        return [() for _ in questions]
    sources: Mapping[str, Sequence[Passages]] = {
        "retrieved_passages": searched,
        "live_retrieval": searched,
        "gold_passages": [gold_contexts(question) for question in questions] if setting == "gold_passages" else [],
    }
    found = sources.get(setting, own)
    if not any(found) and needed:
        # A setting with passages and one without would be the same run under two names.
        raise ConfigError("generate.settings", setting, _lacking(config, setting, len(questions)))
    used = max(config.passages if config.encoder else 0, config.contexts_in_prompt)
    kept = [passages[:used] for passages in found]
    return shuffled(kept, config.seed) if setting == "shuffled_passages" else kept


def _lacking(config: GenerateConfig, setting: Setting, questions: int) -> str:
    if setting == "gold_passages":
        what = "contexts of the documents that hold the answer (document_ids or supporting_facts)"
        return f"needs {what}, and none of {questions} questions has one"
    if setting in ("retrieved_passages", "live_retrieval") or config.passages_from == "retriever":
        return f"needs passages, and the database has none for {questions} questions"
    return f"needs passages, and none of {questions} questions has one; use passages_from=retriever"


def gold_contexts(question: Question) -> tuple[PassageLike, ...]:
    """The question's own contexts of the documents that hold the answer, named by id, or by title as in HotpotQA."""
    wanted = set(question.document_ids)
    return tuple(one for one in question.contexts if (one.document_id or one.title) in wanted or one.title in wanted)


def shuffled(passages: Sequence[Passages], seed: int) -> list[Passages]:
    """Each question's passages given to another.

    Question n gets those of question n + d, the same d for all and never 0, so every passage is used as often as
    before and no question keeps its own.

    Raises:
        ConfigError: Passages of one single question cannot be shuffled.
    """
    total = len(passages)
    if total < 2:
        raise ConfigError("generate.settings", "shuffled_passages", f"needs at least 2 questions, found {total}")
    shift = int(np.random.default_rng(seed).integers(1, total))
    return [passages[(number + shift) % total] for number in range(total)]
