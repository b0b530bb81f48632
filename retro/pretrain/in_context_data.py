"""Prompts of in-context retrieval: passages, preceding text, and the tokens that are scored after them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ConfigError
from retro.corpus.reader import TokenStream
from retro.db.reader import ChunkDatabase
from retro.mcore.parallel import sum_of_last_stages
from retro.model.config import ModelShape
from retro.pretrain.config import Condition, InContextConfig
from retro.training.batch import Batch, BatchSpec

# Dims in this file.
#   T targets: runs of tokens that are scored after one search   B prompts of a batch   S tokens of a prompt
#   P passages of a prompt   R tokens of a passage


Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Targets:
    """Runs of tokens to score, source after source, each source in the order of its stream."""

    source_T: Int64
    start_T: Int64
    """Position in the stream of the first token that is scored; at least one token comes before it."""
    count_T: Int64
    """Tokens that are scored."""
    begin_T: Int64
    """Position from which preceding text may be shown."""

    def __len__(self) -> int:
        return len(self.start_T)

    def take(self, places: Int64) -> Targets:
        """Some of them."""
        return Targets(self.source_T[places], self.start_T[places], self.count_T[places], self.begin_T[places])


def all_targets(streams: Sequence[TokenStream], stride: int, text: Literal["stream", "documents"]) -> Targets:
    """Every token but the first `stride` ones of each stream, or of each document, in runs of `stride`.

    Args:
        streams: One for each source.
        stride: Tokens of a run; the last one of a stream or document may be shorter.
        text: Whether a run may cross from one document into the next, and look back into the one before.
    """
    parts = []
    for source, stream in enumerate(streams):
        ends = stream.bounds if text == "documents" else np.array([0, stream.length], dtype=np.int64)
        for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            starts = np.arange(begin + stride, end, stride, dtype=np.int64)
            parts.append([np.full_like(starts, source), starts, np.minimum(stride, end - starts), starts * 0 + begin])
    none = np.empty(0, dtype=np.int64)
    return Targets(*(np.concatenate([none, *columns]) for columns in zip(*parts, strict=True)))


def spread(targets: Targets, most: int | None) -> Targets:
    """At most so many of them, at equal distances."""
    if most is None or most >= len(targets):
        return targets
    return targets.take(np.arange(most, dtype=np.int64) * len(targets) // most)


class PromptSource:
    """One prompt for each target: [passage, separator] for each passage, the best one last, then the text."""

    def __init__(
        self,
        streams: Sequence[TokenStream],
        targets: Targets,
        *,
        prefix: int,
        length: int,
        eod: int,
        database: ChunkDatabase | None = None,
        passages_TP: Int64 | None = None,
        separator: Sequence[int] = (),
        begin: Sequence[int] = (),
    ) -> None:
        """Prepare.

        Args:
            streams: One for each source.
            targets: What is scored.
            prefix: Preceding tokens in a prompt, at most.
            length: S of every prompt, padded on the right.
            eod: What it is padded with.
            database: Holds the passages.
            passages_TP: Rows of it, best first, -1 for none; None: no prompt has any.
            separator: Tokens after each passage.
            begin: Tokens before everything else.
        """
        self.streams, self.targets, self.prefix, self.length, self.eod = streams, targets, prefix, length, eod
        self.database, self.passages_TP = database, passages_TP
        self.separator, self.begin = (np.array(tokens, dtype=np.int32) for tokens in (separator, begin))

    @property
    def form(self) -> BatchSpec:
        """All prompts are of one length and have no neighbors: passages stand in them."""
        return BatchSpec(self.length, 0)

    def fetch(self, sample_numbers: Int64) -> Batch:
        """The prompts of targets by number; only the targets' tokens count."""
        rows_BS = np.full((len(sample_numbers), self.length + 1), self.eod, dtype=np.int32)
        mask_BS = np.zeros((len(sample_numbers), self.length), dtype=np.float32)
        passages = self._passages(sample_numbers)
        for row, number in enumerate(sample_numbers.tolist()):
            tokens = np.concatenate([self.begin, *passages[row], self._text(number)])
            rows_BS[row, : len(tokens)] = tokens
            mask_BS[row, len(tokens) - 1 - int(self.targets.count_T[number]) : len(tokens) - 1] = 1
        return Batch(
            tokens_BS=rows_BS[:, :-1],
            labels_BS=rows_BS[:, 1:],
            loss_mask_BS=mask_BS,
            neighbors_BLKR=None,
            neighbor_mask_BLKR=None,
            token_mask_BS=None,
        )

    def _text(self, number: int) -> NDArray[np.int32]:
        """Preceding text, and what is scored."""
        targets = self.targets
        start, end = int(targets.start_T[number]), int(targets.start_T[number] + targets.count_T[number])
        first = max(int(targets.begin_T[number]), start - self.prefix)
        text: NDArray[np.int32] = self.streams[int(targets.source_T[number])].tokens([first], end - first)[0]
        return text

    def _passages(self, numbers: Int64) -> list[list[NDArray[np.int32]]]:
        """Of each prompt, in the order in which they stand in it, each with its separator."""
        if self.passages_TP is None or self.database is None:
            return [[] for _ in numbers]
        tokens_BPR, mask_BPR = self.database.neighbor_tokens(self.passages_TP[numbers])
        return [
            [
                np.concatenate([tokens_R[mask_R], self.separator])
                for tokens_R, mask_R in zip(tokens_PR[::-1], mask_PR[::-1], strict=True)
                if mask_R.any()
            ]
            for tokens_PR, mask_PR in zip(tokens_BPR, mask_BPR, strict=True)
        ]


class DocumentLosses:
    """Sums the losses of targets into those of documents, counted through all streams."""

    def __init__(self, streams: Sequence[TokenStream], targets: Targets) -> None:
        self.streams, self.targets = streams, targets
        self._first = np.cumsum([0, *(len(stream.documents) for stream in streams)])
        self._sums = np.zeros((2, int(self._first[-1])))

    def add(self, numbers_B: Int64, losses_BS: NDArray[np.float32], mask_BS: NDArray[np.float32]) -> None:
        """Add prompts by the numbers of their targets; -1 does not count."""
        counts_B = numbers_B >= 0
        numbers_B, scored_BS = numbers_B[counts_B], mask_BS[counts_B] > 0
        losses = losses_BS[counts_B][scored_BS].astype(np.float64)
        count_B = self.targets.count_T[numbers_B]
        within = np.arange(len(losses)) - np.repeat(np.cumsum(count_B) - count_B, count_B)
        position = np.repeat(self.targets.start_T[numbers_B], count_B) + within
        source = np.repeat(self.targets.source_T[numbers_B], count_B)
        for one in np.unique(source).tolist():
            here = source == one
            document = self._first[one] + self.streams[one].documents_at(position[here])
            for sums, weights in zip(self._sums, (losses[here], None), strict=True):
                sums += np.bincount(document, weights, len(sums))

    def by_document(self) -> tuple[NDArray[np.float64], Int64]:
        """Summed loss and scored tokens of every document, from all ranks. Every rank calls this."""
        loss, tokens = sum_of_last_stages(self._sums)
        return loss, tokens.astype(np.int64)


@dataclass(frozen=True)
class Lengths:
    """Tokens of a model's prompts."""

    stride: int
    query: int
    room: int
    """For all passages with their separators."""
    prefix: int
    """Preceding text beside passages."""
    begin: int = 0
    """What every prompt begins with."""

    def prompt(self, condition: Condition, multiple: int) -> int:
        """S of a condition's prompts, a multiple of what the ranks share a sequence in."""
        before = self.begin + self.prefix + (0 if condition == "none" else self.room)
        # The last token is asked for and never read.
        return -(-(before + self.stride - 1) // multiple) * multiple


def lengths_of(
    config: InContextConfig, shape: ModelShape, database: ChunkDatabase, separator: int, begin: int
) -> Lengths:
    """How long the parts of a model's prompts are.

    Args:
        config: What was asked for.
        shape: The model's.
        database: Fixes how long chunks and passages are.
        separator: Tokens of the separator.
        begin: Tokens that every prompt begins with.

    Raises:
        ConfigError: The parts do not fit, or cannot be had from where passages are to come from.
    """
    chunk, most, where = database.chunk_length, shape.model.sequence_length, "perplexity.in_context"
    stride, query = config.stride or chunk, config.query_length or chunk
    for name, value in (("stride", stride), ("query_length", query)):
        if config.search == "neighbors" and value != chunk:
            need = f"needs {chunk}, a chunk, for passages that `retro neighbors` found; or {where}.search=live"
            raise ConfigError(f"{where}.{name}", value, need)
    length = config.length or most
    if length > most:
        raise ConfigError(f"{where}.length", length, f"needs at most {most}, the model's sequence length")
    # The last token is asked for and never read.
    room = config.passages * (database.retrieved_length + separator)
    prefix = length + 1 - stride - room - begin
    if prefix < (config.prefix or 1):
        parts = f"{config.passages} x {database.retrieved_length + separator} tokens of passages, {stride} to score"
        need = f"needs more room: {parts}, and {config.prefix or 1} before them. Lower passages, stride or prefix"
        raise ConfigError(f"{where}.length", length, need)
    return Lengths(stride, query, room, config.prefix or prefix, begin)
