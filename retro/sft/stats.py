"""Lengths of what is tuned on, before any tuning: what fits a sequence, what is cut, how well packing would fill."""

# Dims in this file.
#   N samples

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from retro.qa.passages import Encoder
from retro.qa.prompt_texts import PromptTexts
from retro.qa.question import PassageLike
from retro.qa.sample_layout import AnswerIds, EncodedSample, PromptIds, encode_sample, input_lengths, slots_of
from retro.sft.config import SftDataConfig
from retro.sft.packing import WINDOW, first_fit_decreasing
from retro.sft.prepare import Shape, sample_ids
from retro.sft.sets import QuestionSet

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Tokens, over the questions of a set."""

    p50: int
    p90: int
    p99: int
    max: int


@dataclass(frozen=True, kw_only=True)
class SetStats:
    """One set of a blend, measured."""

    name: str
    part: str
    file: str
    kind: str
    """How its questions are asked."""
    questions: int
    no_answer: int
    """Questions that have none; left out of all that follows."""
    prompt: Lengths
    """Prompts without their passages."""
    contexts: Lengths
    """Passages that the prompt shows, nothing cut."""
    answer: Lengths
    """Answers, with their end tokens."""
    learned: Lengths
    """Tokens of answers that are learned, with their end tokens: all of them, but for answers in segments."""
    fit: int
    """Samples that fit whole."""
    cut: int
    """Samples that fit once passages in the prompt are cut."""
    question_too_long: int
    answer_too_long: int
    with_passages: int
    """Questions that bring passages; what a search would find is not counted."""
    chunks: int
    """Chunks of the samples that fit, each padded on the left so that its answer begins on a border."""
    fill: float
    """Share of the positions that hold a token when each sample has a sequence of its own."""
    packed_sequences: int
    """Sequences that the samples take when they are packed."""
    packed_fill: float
    """Share of the positions that hold a token then."""


def measure_set(
    config: SftDataConfig, texts: PromptTexts, one: QuestionSet, part: str, tokenizer: Encoder, shape: Shape
) -> SetStats:
    """Measure one set as it would be tuned on.

    Passages are those that came with the questions: with `passages_from` anything else, prompts are measured without,
    and how much of what is found will be cut cannot be known.

    Args:
        config: What is tuned on.
        texts: The prompt texts.
        one: The set.
        part: `train` or `dev`.
        tokenizer: The corpus's.
        shape: The model's sizes.
    """
    own = config.passages_from == "contexts"
    passages: list[tuple[PassageLike, ...]] = [question.contexts if own else () for question in one.questions]
    prompts, answers = sample_ids(config, texts, one, passages, tokenizer)
    chunk = shape.chunk_length if config.encoder else 1
    outcomes = [
        encode_sample(prompt, answer, sequence_length=shape.sequence_length, chunk_length=chunk)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    samples = [sample for sample in outcomes if isinstance(sample, EncodedSample)]
    lost = sum(sample.lost_context > 0 for sample in samples)
    reasons = Counter(reason for reason in outcomes if isinstance(reason, str))
    return SetStats(
        name=one.name,
        part=part,
        file=one.path.name,
        kind=one.rule.kind,
        questions=len(one.questions) + one.without_answer,
        no_answer=one.without_answer,
        **_lengths(prompts, answers),
        fit=len(samples) - lost,
        cut=lost,
        question_too_long=reasons["question_too_long"],
        answer_too_long=reasons["answer_too_long"],
        with_passages=sum(map(bool, passages)),
        chunks=sum(-(-slots_of(sample, shape.chunk_length) // shape.chunk_length) for sample in samples),
        **_filling(samples, shape.sequence_length, chunk),
    )


def _lengths(prompts: Sequence[PromptIds], answers: Sequence[AnswerIds]) -> dict[str, Any]:
    return {
        "prompt": lengths([len(prompt.head) + len(prompt.tail) for prompt in prompts]),
        "contexts": lengths([sum(map(len, prompt.contexts)) for prompt in prompts]),
        "answer": lengths([len(one.whole[0]) for one in answers]),
        "learned": lengths([sum(one.whole[1]) for one in answers]),
    }


def lengths(counts: Sequence[int]) -> Lengths:
    """Percentiles of token counts: the least count that so many per cent of them do not exceed."""
    found = np.percentile(counts, [*PERCENTILES, 100], method="inverted_cdf").tolist()
    return Lengths(**dict(zip(("p50", "p90", "p99", "max"), map(int, found), strict=True)))


def _filling(samples: Sequence[EncodedSample], room: int, chunk: int) -> dict[str, Any]:
    """What packing would do: windows in file order, as tuning packs them in the order of the blend."""
    prompts, inputs = input_lengths(samples)
    tokens = int(inputs.sum())
    windows = (slice(start, start + WINDOW) for start in range(0, len(samples), WINDOW))
    sequences = sum(len(first_fit_decreasing(prompts[one], inputs[one], room, chunk)) for one in windows)
    return {
        "fill": tokens / (len(samples) * room) if samples else 0.0,
        "packed_sequences": sequences,
        "packed_fill": tokens / (sequences * room) if sequences else 0.0,
    }


def stats_record(found: Sequence[SetStats], shape: Shape) -> dict[str, Any]:
    """The numbers for machines."""
    return {"shape": asdict(shape), "sets": [asdict(one) for one in found]}
