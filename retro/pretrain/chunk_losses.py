"""The losses of single chunks: what perplexity is made of, kept so that it can be taken over some of the chunks.

`retro.pretrain.reader` says what the file beside perplexity.json holds.
"""

# Dims in this file. B sequences   S tokens of a sequence   C chunks of a source, and one more   M tokens in a chunk

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retro.common.files import atomic_path
from retro.common.hdf5 import new_file, write_columns
from retro.corpus.reader import Corpus, TokenStream
from retro.mcore.parallel import sum_of_last_stages
from retro.pretrain.data import EvaluationSource
from retro.pretrain.reader import BYTES, LOSS, TOKENS
from retro.tokenizers.token_bytes import bytes_of_tokens

_CHUNKS_AT_ONCE = 4096

Int64 = NDArray[np.int64]
Columns = dict[str, NDArray[np.generic]]


class ChunkLosses:
    """Sums the losses of sequences into those of chunks, as validation tells them."""

    def __init__(self, source: EvaluationSource) -> None:
        self.source = source
        self._chunks = np.array([stream.chunks for stream in source.reader.streams], dtype=np.int64)
        # One row more for each source: the tokens behind its last chunk.
        self._first = np.concatenate(([0], np.cumsum(self._chunks + 1)))
        self._sums = np.zeros((2, int(self._first[-1])))

    def add(self, numbers_B: Int64, losses_BS: NDArray[np.float32], mask_BS: NDArray[np.float32]) -> None:
        """Add sequences by their numbers; -1 does not count."""
        counts_B = numbers_B >= 0
        source_B, number_B = self.source.places(numbers_B[counts_B])
        length = losses_BS.shape[1]
        # Token t of a sequence is asked for the next one, so labels stand one further on in the stream.
        position_BS = number_B[:, None] * length + 1 + np.arange(length)
        chunk_BS = np.minimum(position_BS // self._chunk_length, self._chunks[source_B][:, None])
        row_N = (self._first[source_B][:, None] + chunk_BS).ravel()
        mask_N = mask_BS[counts_B].astype(np.float64).ravel()
        for sums, weight_N in zip(self._sums, (mask_N * losses_BS[counts_B].ravel(), mask_N), strict=True):
            sums += np.bincount(row_N, weight_N, len(sums))

    @property
    def _chunk_length(self) -> int:
        return self.source.reader.streams[0].chunk_length

    def by_source(self) -> list[Columns]:
        """`loss` and `tokens` of every source, from all ranks. Every rank calls this."""
        loss, tokens = sum_of_last_stages(self._sums)
        return [
            {LOSS: loss[first:stop], TOKENS: tokens[first:stop].astype(np.int64)}
            for first, stop in zip(self._first, self._first[1:], strict=False)
        ]


def chunk_bytes(corpus: Corpus, stream: TokenStream) -> Int64:
    """[C] UTF-8 bytes of the tokens that are predicted, chunk by chunk.

    Where the tokenizer's tokens have no bytes of their own (words, WordPiece), those of each chunk's decoded text.
    """
    known = bytes_of_tokens(corpus.directory / "tokenizer")

    def count(tokens_NW: NDArray[np.int32]) -> Int64:
        if known is None:
            return np.array(
                [len(text.encode()) for text in corpus.tokenizer.decode_batch(list(tokens_NW))], dtype=np.int64
            )
        return np.asarray(known[tokens_NW].sum(axis=1))

    length = stream.chunk_length
    chunk_C = np.arange(stream.chunks, dtype=np.int64)
    counts = [count(stream.tokens(part * length, length)) for part in np.split(chunk_C, chunk_C[::_CHUNKS_AT_ONCE])]
    tail = stream.tokens([stream.chunks * length], stream.length - stream.chunks * length)
    counts_C = np.concatenate([*counts, count(tail)])
    # The first token of a stream is not predicted, so its bytes do not count.
    if stream.chunks:
        counts_C[:1] = count(stream.tokens([1], length - 1))
    return counts_C


def write_chunk_losses(
    path: Path, corpus: Corpus, streams: Sequence[TokenStream], losses: Mapping[tuple[str, str], Sequence[Columns]]
) -> None:
    """Write the file.

    Args:
        path: Where.
        corpus: Names the sources.
        streams: One for each source.
        losses: For each model and its neighbors, what `by_source` gave.
    """
    with atomic_path(path) as temporary, new_file(temporary) as file:
        for number, (name, stream) in enumerate(zip(corpus.sources, streams, strict=True)):
            group = file.create_group(name)
            write_columns(group, {BYTES: chunk_bytes(corpus, stream)})
            for (model, neighbors), columns in sorted(losses.items()):
                write_columns(group.create_group(f"{model}/{neighbors}"), columns[number])
