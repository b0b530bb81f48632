"""Passages for the chunks of an answer: what the encoder reads from the end of each of them on.

While generating with live retrieval, the prompt's chunks read what was found with the question, and each finished
chunk of the answer is searched with as it stands. A model meets that while tuning only if its samples are laid out
alike: the chunks of a gold answer read what was found with their own text, or what the question file gives them.
"""

# Dims in this file.
#   M tokens of a chunk   K passages of a chunk

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retro.qa.passages import Encoder, PassagesFrom, Retrieve, chunk_texts, search
from retro.qa.question import PassageLike, Question
from retro.qa.sample_layout import EncodedSample

Passages = tuple[PassageLike, ...]


def finished_chunks(sample: EncodedSample, chunk_length: int) -> list[NDArray[np.int32]]:
    """The chunks of M tokens that an answer fills; the end token fills none, since nothing is searched after it."""
    answer = sample.answer[:-1]
    return [answer[at : at + chunk_length] for at in range(0, len(answer) - chunk_length + 1, chunk_length)]


def passages_of_answers(
    questions: Sequence[Question],
    samples: Sequence[EncodedSample],
    source: PassagesFrom,
    retrieve: Retrieve | None,
    tokenizer: Encoder,
    *,
    chunk_length: int,
    what: str,
) -> list[list[Passages] | None]:
    """Passages of each finished chunk of each answer; None where all chunks read what the prompt's do.

    Args:
        questions: Of the samples; their `chunk_contexts` count with `contexts`.
        samples: What is trained on.
        source: `live` searches with the text of each chunk.
        retrieve: For `live`.
        tokenizer: Turns chunks back into text.
        chunk_length: M.
        what: For progress lines.
    """
    if source == "live" and retrieve is not None:
        return list(_searched(samples, retrieve, tokenizer, chunk_length, what))
    if source != "contexts":
        return [None] * len(samples)
    return [
        None if question.chunk_contexts is None else _given(question.chunk_contexts, sample, chunk_length)
        for question, sample in zip(questions, samples, strict=True)
    ]


def _given(given: Sequence[Passages], sample: EncodedSample, chunk_length: int) -> list[Passages]:
    """The passages that a file gives; chunks beyond them read nothing, and what is beyond the chunks is unread."""
    finished = len(finished_chunks(sample, chunk_length))
    return [given[number] if number < len(given) else () for number in range(finished)]


def _searched(
    samples: Sequence[EncodedSample], retrieve: Retrieve, tokenizer: Encoder, chunk_length: int, what: str
) -> list[list[Passages] | None]:
    chunks = [finished_chunks(sample, chunk_length) for sample in samples]
    texts = chunk_texts([one.tolist() for mine in chunks for one in mine], tokenizer)
    # A chunk of control tokens has no text to search with.
    asked = list(dict.fromkeys(filter(None, texts)))
    known = dict(zip(asked, search(asked, retrieve, what=what, unit="chunks searched"), strict=True))
    found = iter([known.get(text, ()) for text in texts])
    return [[next(found) for _ in mine] for mine in chunks]


def rows_of_answers(found: Sequence[list[Passages] | None]) -> tuple[list[Passages], list[NDArray[np.int64] | None]]:
    """Number the passages of all answers' chunks.

    Returns:
        The passages, one row for each chunk, and for each sample the rows of its chunks, counted on from the
        samples' own rows.
    """
    rows: list[Passages] = []
    of_samples: list[NDArray[np.int64] | None] = []
    for mine in found:
        first = len(found) + len(rows)
        of_samples.append(None if mine is None else np.arange(first, first + len(mine), dtype=np.int64))
        rows += mine or []
    return rows, of_samples
