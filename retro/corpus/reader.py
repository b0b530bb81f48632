"""A finished corpus as the later stages read it: tokens, documents, the split, and the packed streams."""

# Dims in this file. N rows asked for   W width   B windows   Q chunks asked for   M tokens in a chunk

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from retro.common.artifacts import Manifest, read_manifest
from retro.common.errors import ArtifactError
from retro.common.hdf5 import map_column
from retro.common.mmap import Advice, at_random
from retro.corpus.document_names import DocumentNames
from retro.corpus.gather import documents_at, joined_runs, padded_runs, stream_bounds, window_pieces
from retro.corpus.token_files import TokenFile, bin_path
from retro.tokenizers.tokenizer import Tokenizer, load_tokenizer

STAGE = "corpus"
SPLITS = ("train", "valid", "test")
"""Names of the splits; a split's number is its place here."""
DOCUMENTS_FILE = "documents.h5"
_REMEDY = "Run `retro corpus` again"


class Corpus:
    """The artifact of the corpus stage. Open it with `Corpus.open`; nothing is read before it is asked for.

    Attributes:
        directory: Where it is.
        manifest: What the stage said of it.
        sources: Names of the sources; a source's number is its place here.
        weights: Each source's share of training samples; they sum to 1. A source that is held out whole has none.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = manifest
        configured: list[dict[str, Any]] = manifest.config["sources"]
        self.sources: tuple[str, ...] = tuple(str(source["name"]) for source in configured)
        shares = [0.0 if source.get("split") in SPLITS[1:] else float(source["weight"]) for source in configured]
        self.weights: tuple[float, ...] = tuple(share / sum(shares) for share in shares)
        self._homes: tuple[tuple[Path, str], ...] = tuple((directory, name) for name in self.sources)
        self._token_files: dict[int, TokenFile] = {}
        self._names: dict[int, DocumentNames] = {}
        self._columns: dict[tuple[int, str], NDArray[Any]] = {}

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open a finished corpus and check it against its manifest.

        Raises:
            ArtifactError: The stage did not finish, or a file is missing, cut short or of another corpus.
        """
        corpus = cls(directory, read_manifest(directory, STAGE))
        for number, name in enumerate(corpus.sources):
            file, known = corpus.token_file(number), corpus.manifest.counts["sources"][name]
            for what, found in (("documents", file.documents), ("tokens", file.token_count)):
                if found != known[what]:
                    problem = f"has {found} {what}; the manifest says {known[what]}"
                    raise ArtifactError(bin_path(file.prefix), problem, _REMEDY)
        return corpus

    @classmethod
    def joined(cls, parts: Sequence[Corpus]) -> Self:
        """Several corpora of one tokenizer as one: sources are numbered part after part.

        Two parts may each have a source of the same name. Name, tokenizer and weights are the first part's; the
        sources of the others have weight 0, because nobody trains on them.
        """
        corpus = cls(parts[0].directory, parts[0].manifest)
        corpus.sources = tuple(name for part in parts for name in part.sources)
        corpus.weights += (0.0,) * (len(corpus.sources) - len(corpus.weights))
        corpus._homes = tuple(home for part in parts for home in part._homes)
        return corpus

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens.

        Raises:
            ArtifactError: The file beside the tokens is not that tokenizer.
        """
        tokenizer = load_tokenizer(self.directory / "tokenizer")
        known = self.manifest.counts["tokenizer"]["fingerprint"]
        if tokenizer.fingerprint != known:
            problem = f"is tokenizer {tokenizer.fingerprint}; the tokens were made with {known}"
            raise ArtifactError(self.directory / "tokenizer", problem, _REMEDY)
        return tokenizer

    def token_file(self, source: int) -> TokenFile:
        """The token file of source number `source`."""
        if source not in self._token_files:
            directory, name = self._homes[source]
            self._token_files[source] = TokenFile(directory / name)
        return self._token_files[source]

    def advise(self, advice: Advice) -> None:
        """Say how the token files of all sources will be read from now on."""
        files = [self.token_file(source) for source in range(len(self.sources))]
        random = at_random(advice, sum(file.tokens.nbytes for file in files))
        for file in files:
            file.advise(random=random)

    def split_of(self, source: int) -> NDArray[np.uint8]:
        """[documents] number of the split each document belongs to."""
        split: NDArray[np.uint8] = self._column(source, "split")
        return split

    def stream_order(self, source: int, split: int) -> NDArray[np.int64]:
        """[documents of the split] document numbers, in the order in which the stream has them."""
        order: NDArray[np.int64] = self._column(source, f"stream_order/{SPLITS[split]}")
        return order

    def _column(self, source: int, name: str) -> NDArray[Any]:
        if (source, name) not in self._columns:
            directory, source_name = self._homes[source]
            column = map_column(directory / DOCUMENTS_FILE, f"{source_name}/{name}", _REMEDY)
            self._columns[source, name] = column
        return self._columns[source, name]

    def document_id(self, source: int, document: int) -> str:
        """The id that the document had in its source, or was given."""
        return self._names_of(source).line(document)["id"]

    def document_title(self, source: int, document: int) -> str:
        """The document's title; empty when it has none."""
        return self._names_of(source).line(document)["title"]

    def document_ids(self, source: int) -> Iterator[str]:
        """The ids of all documents of a source, in order; read as they are asked for."""
        return (line["id"] for line in self.document_names(source))

    def document_names(self, source: int) -> Iterator[dict[str, str]]:
        """`{"id", "title"}` of all documents of a source, in order; read as they are asked for."""
        return self._names_of(source).lines()

    def _names_of(self, source: int) -> DocumentNames:
        if source not in self._names:
            directory, name = self._homes[source]
            path = directory / f"{name}.documents.jsonl"
            self._names[source] = DocumentNames(path, self.token_file(source).documents)
        return self._names[source]

    def gather(
        self, source_N: ArrayLike, start_N: ArrayLike, count_N: ArrayLike, width: int
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Read many runs of tokens, each from any source.

        Args:
            source_N: [N] source numbers.
            start_N: [N] token offsets in that source's token file.
            count_N: [N] tokens to read, 0 to `width`.
            width: Columns of the result.

        Returns:
            Tokens [N, width] int32, padded on the right with EOD, and [N, width] True where a token is real.

        Raises:
            ValueError: A run is wider than `width` or leaves its token file.
        """
        source, start, count = (np.asarray(a, dtype=np.int64) for a in (source_N, start_N, count_N))
        numbers = [int(source[0])] if len(source) and (source == source[0]).all() else np.unique(source).tolist()
        if len(numbers) == 1:
            return self._gather_of(numbers[0], start, count, width)
        tokens_NW = np.empty((len(start), width), dtype=np.int32)
        mask_NW = np.empty((len(start), width), dtype=np.bool_)
        for number in numbers:
            rows = np.flatnonzero(source == number)
            tokens_NW[rows], mask_NW[rows] = self._gather_of(number, start[rows], count[rows], width)
        return tokens_NW, mask_NW

    def _gather_of(
        self, source: int, start_N: NDArray[np.int64], count_N: NDArray[np.int64], width: int
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        file = self.token_file(source)
        file.will_need(start_N, count_N)
        return padded_runs(file.tokens, start_N, count_N, width, self.tokenizer.eod)


class TokenStream:
    """The documents of one source and split, end to end in stream order, as one run of tokens.

    Each document brings the EOD that its token file holds; a Megatron file without EOD is joined as it is.

    Attributes:
        corpus: Whose documents they are.
        source: Number of the source.
        length: Tokens in the stream.
        chunks: Whole chunks in the stream.
        documents: [documents] document numbers in stream order.
        bounds: [documents + 1] stream position at which each of them begins; the last entry is `length`.
    """

    def __init__(self, corpus: Corpus, source: int, split: int, chunk_length: int) -> None:
        file = corpus.token_file(source)
        self.corpus, self.source = corpus, source
        self.chunk_length = chunk_length
        self.documents = corpus.stream_order(source, split)
        self._file = file
        self._file_starts = file.document_starts[self.documents]
        self.bounds = stream_bounds(file.document_starts[self.documents + 1] - self._file_starts)
        self.length = int(self.bounds[-1])
        self.chunks = self.length // chunk_length

    def tokens(self, start_B: ArrayLike, width: int) -> NDArray[np.int32]:
        """[B, width] tokens of the windows that start at stream positions `start_B`.

        Raises:
            ValueError: A window leaves the stream.
        """
        start = np.asarray(start_B, dtype=np.int64)
        if start.size == 0 or width == 0:
            return np.zeros((len(start), width), dtype=np.int32)
        if start.min() < 0 or start.max() + width > self.length:
            raise ValueError(
                f"windows of {width} tokens from {start.min()} to {start.max()} leave a stream of {self.length}"
            )
        start_P, count_P = window_pieces(self.bounds, self._file_starts, start, width)
        self._file.will_need(start_P, count_P)
        return joined_runs(self._file.tokens, start_P, count_P).reshape(len(start), width)

    def documents_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which document each stream position is in, as a position in `documents`."""
        return documents_at(self.bounds, positions)

    def chunk_documents(self, chunk_numbers: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and last document, as positions in `documents`, that see the neighbors of each chunk u.

        The neighbors of chunk u are seen up to the last token but one of chunk u + 1, which predicts that chunk's
        last token; so these are the documents that overlap stream positions [u M, (u + 2) M).

        Args:
            chunk_numbers: [Q] chunk numbers.

        Returns:
            [Q] and [Q] positions, both inclusive.

        Raises:
            ValueError: There is no such chunk.
        """
        chunk_Q = np.asarray(chunk_numbers, dtype=np.int64)
        if chunk_Q.size and (chunk_Q.min() < 0 or chunk_Q.max() >= self.chunks):
            raise ValueError(f"chunks {chunk_Q.min()} to {chunk_Q.max()} of a stream of {self.chunks} chunks")
        end_Q = np.minimum((chunk_Q + 2) * self.chunk_length, self.length)
        return self.documents_at(chunk_Q * self.chunk_length), self.documents_at(end_Q - 1)

    def own_documents(self, chunk: int) -> NDArray[np.int64]:
        """Document numbers that the neighbors of `chunk` must not come from."""
        first, last = self.chunk_documents([chunk])
        return np.asarray(self.documents[int(first[0]) : int(last[0]) + 1])
