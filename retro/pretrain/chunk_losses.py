"""The losses of single chunks: what perplexity is made of, kept so that it can be taken over some of the chunks.

`retro.pretrain.chunk_losses` says what the file beside perplexity.json holds.

`chunks.h5` holds, for each source of the corpus, one row per chunk of the stream and a last one for the tokens behind
the last whole chunk:

    <source>/bytes                       int64, UTF-8 bytes of the tokens that are predicted
    <source>/<model>/<neighbors>/loss    float64, summed cross-entropy in nats
    <source>/<model>/<neighbors>/tokens  int64, tokens predicted; fewer than the chunk has where not all were asked for

The first token of a stream is never predicted; every other one is, once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import Manifest, read_manifest, require_parent
from retro.common.errors import ArtifactError
from retro.common.files import atomic_path, read_json
from retro.common.hdf5 import map_column, new_file, write_columns
from retro.corpus.reader import Corpus, TokenStream
from retro.mcore.parallel import sum_of_last_stages
from retro.pretrain.data import EvaluationSource
from retro.tokenizers.token_bytes import bytes_of_tokens

# Dims in this file. C chunks of a source, and one more


STAGE = "perplexity"
TABLE_FILE, CHUNKS_FILE = "perplexity.json", "chunks.h5"
IN_CONTEXT_FILE = "in_context.json"
"""What was measured with passages in the prompt."""
LOSS, TOKENS, BYTES = "loss", "tokens", "bytes"


@dataclass(frozen=True)
class Perplexities:
    """The artifact of the perplexity stage."""

    directory: Path
    manifest: Manifest
    split: str
    """valid or test."""
    rows: tuple[tuple[str, str], ...]
    """Model, and the neighbors it was given, in the table's order."""

    @classmethod
    def open(cls, directory: Path, parents: Mapping[str, Manifest]) -> Perplexities:
        """Open what was measured on these parents.

        Raises:
            ArtifactError: The stage did not finish, kept no losses of chunks, or measured on other data.
        """
        manifest = read_manifest(directory, STAGE)
        for name in sorted(set(parents) & set(manifest.parents)):
            require_parent(directory, manifest, name, parents[name])
        if CHUNKS_FILE not in manifest.files:
            problem = "was measured before losses of single chunks were kept"
            raise ArtifactError(
                directory, problem, f"Delete it and run `retro {STAGE}` again; nothing is trained again"
            )
        table = read_json(directory / TABLE_FILE, f"Run `retro {STAGE}` with --redo")
        rows = tuple((str(row["model"]), str(row["neighbors"])) for row in table["rows"])
        return cls(directory, manifest, str(table["split"]), rows)

    def bytes_of(self, source: str) -> NDArray[np.int64]:
        """[C] UTF-8 bytes of the predicted tokens of each chunk."""
        counts: NDArray[np.int64] = self._column(f"{source}/{BYTES}")
        return counts

    def losses(self, source: str, row: tuple[str, str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """[C] summed loss in nats and [C] tokens predicted, of each chunk."""
        group = f"{source}/{'/'.join(row)}"
        return self._column(f"{group}/{LOSS}"), self._column(f"{group}/{TOKENS}")

    def _column(self, name: str) -> NDArray[Any]:
        return map_column(self.directory / CHUNKS_FILE, name, f"Delete {self.directory} and run `retro {STAGE}` again")


# Dims in this file. B sequences   S tokens of a sequence   C chunks of a source, and one more   M tokens in a chunk


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
