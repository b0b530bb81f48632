"""Token layout of a question with its answer: [left pad][prompt][answer][end][right pad].

The left pad is what makes retrieval work for answers. Chunked cross-attention shows the passages of a chunk
from that chunk's last token on; the pad puts the prompt's end on a chunk border, so the prompt's last token
is the last of its chunk, and every answer token sees passages. Pure functions on ids: no tokenizer, no files.
"""

# Dims in this file. Every array name ends in its dims.
#   S tokens of a sequence   B sequences   M tokens of a chunk

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Skip = Literal["question_too_long", "answer_too_long"]


@dataclass(frozen=True)
class PromptIds:
    """A prompt in token ids, in the parts of `prompts.Prompt`."""

    head: Sequence[int]
    contexts: Sequence[Sequence[int]]
    tail: Sequence[int]
    ranks: Sequence[int] = ()
    """As those of the prompt."""
    separator: Sequence[int] = ()
    """What ends each passage, for one that is cut."""


@dataclass(frozen=True)
class AnswerIds:
    """An answer in token ids."""

    ids: Sequence[int]
    end: int | None
    """The token that ends it; always learned. None: its ids end it themselves."""
    learned: Sequence[bool] | None = None
    """For each of the ids whether it is learned; None: all are."""

    @property
    def whole(self) -> tuple[list[int], list[bool]]:
        """All of its ids with the end token, and for each whether it is learned."""
        learned = [True] * len(self.ids) if self.learned is None else list(self.learned)
        return (list(self.ids), learned) if self.end is None else ([*self.ids, self.end], [*learned, True])


@dataclass(frozen=True)
class EncodedSample:
    """A training sample without its padding."""

    prompt: NDArray[np.int32]
    """Prompt ids, contexts cut to what fits."""
    answer: NDArray[np.int32]
    """Answer ids, ended by the end-of-document id."""
    lost_context: int
    """Context tokens that did not fit."""
    learned: NDArray[np.bool_] | None = None
    """Which answer ids are learned, the end among them; None: all."""

    @property
    def learned_tokens(self) -> int:
        """Labels with loss."""
        return len(self.answer) if self.learned is None else int(self.learned.sum())


@dataclass(frozen=True)
class Layout:
    """Samples as arrays; a training batch without its neighbors."""

    tokens_BS: NDArray[np.int64]
    labels_BS: NDArray[np.int64]
    loss_mask_BS: NDArray[np.float32]
    token_mask_BS: NDArray[np.bool_]
    segments_BS: NDArray[np.int32] | None = None
    """Where samples are packed: which of them a token belongs to, 1 and up, 0 on padding."""


def fit_prompt(prompt: PromptIds, room: int) -> tuple[list[int], int] | None:
    """Cut the contexts, the worst first and each from its end, until the prompt has at most `room` tokens.

    Returns:
        The prompt's ids and the number of context tokens cut, or None when head and tail alone do not fit:
        the question is never cut.
    """
    left = room - len(prompt.head) - len(prompt.tail)
    if left < 0:
        return None
    ranks = prompt.ranks or range(len(prompt.contexts))
    kept: list[Sequence[int]] = [()] * len(prompt.contexts)
    for place in sorted(range(len(kept)), key=lambda place: ranks[place]):
        kept[place] = _cut(prompt.contexts[place], left, prompt.separator)
        left -= len(kept[place])
    lost = sum(map(len, prompt.contexts)) - sum(map(len, kept))
    return [*prompt.head, *chain.from_iterable(kept), *prompt.tail], lost


def _cut(passage: Sequence[int], room: int, separator: Sequence[int]) -> Sequence[int]:
    """A passage cut to the room that there is, with what separates it from the next text; nothing if that is all."""
    if len(passage) <= room:
        return passage
    return [*passage[: room - len(separator)], *separator] if room > len(separator) else ()


def prompt_room(sequence_length: int, chunk_length: int, answer_length: int) -> int:
    """Prompt tokens that fit before an answer.

    A sequence of S inputs has S + 1 tokens. The padded prompt fills whole chunks; the answer and its end
    token follow, so padded + answer + 1 <= S + 1.

    Args:
        sequence_length: S.
        chunk_length: M; 1 turns the left pad off.
        answer_length: Answer tokens, the end token not counted.
    """
    return max(0, (sequence_length - answer_length) // chunk_length * chunk_length)


def encode_sample(
    prompt: PromptIds, answer: AnswerIds, *, sequence_length: int, chunk_length: int
) -> EncodedSample | Skip:
    """Fit a prompt and its answer into one sequence.

    Returns:
        The sample; or why it cannot be one: the question does not fit even without contexts and before an
        answer of one token, or it would but for this answer's length.
    """
    fitted = fit_prompt(prompt, prompt_room(sequence_length, chunk_length, len(answer.ids)))
    if fitted is None:
        alone = fit_prompt(prompt, prompt_room(sequence_length, chunk_length, 1))
        return "question_too_long" if alone is None else "answer_too_long"
    ids, lost = fitted
    written, wanted = answer.whole
    learned = None if answer.learned is None else np.array(wanted, dtype=np.bool_)
    return EncodedSample(np.array(ids, dtype=np.int32), np.array(written, dtype=np.int32), lost, learned)


def left_pad(prompt_length: int, chunk_length: int) -> int:
    """Pad tokens before a prompt so that it ends where a chunk ends: 0 to M - 1."""
    return -prompt_length % chunk_length


def input_tokens(sample: EncodedSample) -> int:
    """Tokens of a sample that are inputs: its end token is asked for and need not be one."""
    return len(sample.prompt) + len(sample.answer) - 1


def input_lengths(samples: Sequence[EncodedSample]) -> NDArray[np.int64]:
    """[2, samples] input tokens of the prompts, and of the whole samples."""
    lengths = [(len(one.prompt), input_tokens(one)) for one in samples]
    return np.array(lengths, dtype=np.int64).reshape(-1, 2).T


def slots_of(sample: EncodedSample, chunk_length: int) -> int:
    """Places that a sample takes alone, from the chunk border before its first token on."""
    return left_pad(len(sample.prompt), chunk_length) + input_tokens(sample)


def firsts_of(samples: Sequence[EncodedSample], chunk_length: int) -> list[int]:
    """Where the first token of each of several samples in a row stands: the nearest place where its prompt ends on a
    chunk border, so that pads of a sample and the end of the one before may share a chunk."""
    firsts, used = [], 0
    for sample in samples:
        firsts.append(used + left_pad(used + len(sample.prompt), chunk_length))
        used = firsts[-1] + input_tokens(sample)
    return firsts


def lay_out(samples: Sequence[EncodedSample], *, end: int, sequence_length: int, chunk_length: int) -> Layout:
    """Samples as one batch, with loss on the learned tokens of answers and end tokens alone.

    Pads hold the end token's id, since no tokenizer of ours has a pad token; the token mask says which are
    pads.

    Returns:
        Arrays [B, S]. Token t is asked for label t, which is token t + 1; the first label with loss is the
        answer's first learned token; the prompt's last token is asked for the answer's first.
    """
    tokens_BT = np.full((len(samples), sequence_length + 1), end, dtype=np.int64)
    real_BT = np.zeros(tokens_BT.shape, dtype=np.bool_)
    loss_BT = np.zeros(tokens_BT.shape, dtype=np.float32)
    for row, sample in enumerate(samples):
        start = left_pad(len(sample.prompt), chunk_length)
        middle = start + len(sample.prompt)
        stop = middle + len(sample.answer)
        if stop > sequence_length + 1:
            raise ValueError(f"sample {row} has {stop} tokens with its left pad, room is {sequence_length + 1}")
        tokens_BT[row, start:middle] = sample.prompt
        tokens_BT[row, middle:stop] = sample.answer
        real_BT[row, start:stop] = True
        loss_BT[row, middle:stop] = 1.0 if sample.learned is None else sample.learned
    return Layout(tokens_BT[:, :-1], tokens_BT[:, 1:], loss_BT[:, 1:], real_BT[:, :-1])


def lay_out_packed(
    rows: Sequence[Sequence[EncodedSample]], *, end: int, sequence_length: int, chunk_length: int
) -> Layout:
    """Several samples in a row in each sequence, with loss on what is learned of answers, and on end tokens.

    Every prompt ends on a chunk border, as `lay_out` would have it; the end token is only asked for: nothing follows
    it, so it is not input.

    Returns:
        Arrays [B, S] with segments, in which labels are not just the tokens moved by one.
    """
    shape = (len(rows), sequence_length)
    tokens_BS, labels_BS = (np.full(shape, end, dtype=np.int64) for _ in range(2))
    loss_BS, segments_BS = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.int32)
    for row, samples in enumerate(rows):
        for number, (sample, first) in enumerate(zip(samples, firsts_of(samples, chunk_length), strict=True), start=1):
            stop = first + input_tokens(sample)
            if stop > sequence_length:
                raise ValueError(f"sample {number} of row {row} ends at {stop}, room is {sequence_length}")
            ids = np.concatenate([sample.prompt, sample.answer])
            tokens_BS[row, first:stop], labels_BS[row, first:stop] = ids[:-1], ids[1:]
            learned = 1.0 if sample.learned is None else sample.learned
            loss_BS[row, stop - len(sample.answer) : stop] = learned
            segments_BS[row, first:stop] = number
    return Layout(tokens_BS, labels_BS, loss_BS, segments_BS > 0, segments_BS)


def lay_out_prompts(
    prompts: Sequence[Sequence[int]], *, end: int, chunk_length: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Prompts for generation, left-padded to one length that is a multiple of the chunk length.

    Returns:
        Tokens [B, S] and mask [B, S], True where a token is real; the last token of every row ends its
        prompt. A row much shorter than the longest begins with whole chunks of padding.
    """
    longest = max(len(prompt) for prompt in prompts)
    length = longest + left_pad(longest, chunk_length)
    tokens_BS = np.full((len(prompts), length), end, dtype=np.int64)
    mask_BS = np.zeros(tokens_BS.shape, dtype=np.bool_)
    for row, prompt in enumerate(prompts):
        tokens_BS[row, length - len(prompt) :] = prompt
        mask_BS[row, length - len(prompt) :] = True
    return tokens_BS, mask_BS
