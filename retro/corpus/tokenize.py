"""The blocks of the corpus stage: which parts of which source each one holds, and how it is tokenized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import fingerprint
from retro.common.blocks import Block, BlockStore
from retro.common.config import config_json
from retro.corpus.config import CorpusConfig
from retro.corpus.document_names import document_line
from retro.corpus.files import Advance, Source
from retro.corpus.html import html_library
from retro.corpus.layouts import Document, Item, Reject, Span, read_spans
from retro.corpus.reader import STAGE
from retro.corpus.rejects import reject_lines
from retro.corpus.scan import Scan
from retro.corpus.token_files import token_dtype
from retro.tokenizers.cached_encoder import DocumentEncoder
from retro.tokenizers.tokenizer import Tokenizer

# Dims in this file. T tokens   D documents   B bytes


_BATCH_CHARACTERS = 4_000_000
_REASON = "reject: "


@dataclass(kw_only=True)
class TokenBlock:
    """The documents of one block, in order; grows batch by batch while it is made."""

    dtype: np.dtype[Any]
    tokens: list[NDArray[Any]] = field(default_factory=list)
    """Runs of tokens, of as many documents as one likes."""
    lengths: list[NDArray[np.int64]] = field(default_factory=list)
    """Tokens of each document, its end-of-document token included."""
    names: list[bytes] = field(default_factory=list)
    """Lines of documents.jsonl."""
    rejects: list[bytes] = field(default_factory=list)
    """Lines of rejects.jsonl."""
    reasons: Counter[str] = field(default_factory=Counter)
    words: int = 0

    def stored(self) -> Block:
        """As the block store keeps it: each array is one row, because rows of a block's arrays correspond."""
        lengths_D = _joined(self.lengths, np.dtype(np.int64))
        tokens_T = _joined(self.tokens, self.dtype)
        arrays = {
            "tokens": tokens_T,
            "lengths": lengths_D,
            "names": np.frombuffer(b"".join(self.names), dtype=np.uint8),
            "rejects": np.frombuffer(b"".join(self.rejects), dtype=np.uint8),
        }
        counts = {"documents": len(lengths_D), "tokens": len(tokens_T), "words": self.words}
        counts |= {f"{name}_bytes": len(arrays[name]) for name in ("names", "rejects")}
        counts |= {f"{_REASON}{reason}": count for reason, count in self.reasons.items()}
        return Block({name: array[None] for name, array in arrays.items()}, counts)


def reasons_of(counts: dict[str, int]) -> dict[str, int]:
    """Things rejected in a block, by reason."""
    return {name.removeprefix(_REASON): count for name, count in counts.items() if name.startswith(_REASON)}


def _joined(pieces: list[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=dtype)


def tokenize(
    source: Source, spans: tuple[Span, ...], min_words: int, encoder: DocumentEncoder, advance: Advance
) -> Block:
    """Tokenise some parts of a source.

    Args:
        source: Whose text.
        spans: Its parts, in order.
        min_words: Documents with fewer words are rejected.
        encoder: Makes the tokens.
        advance: Called with how many bytes of input were read.

    Returns:
        The block: `tokens` [1, T], `lengths` [1, D], `names` [1, B] and `rejects` [1, B], with counts of documents,
        tokens, words, and rejects by reason.

    Raises:
        DataError: A file cannot be read.
    """
    made = TokenBlock(dtype=encoder.dtype)
    for batch in _batches(read_spans(source, spans, min_words, advance)):
        documents = [item for item in batch if isinstance(item, Document)]
        rejects = [item for item in batch if isinstance(item, Reject)]
        packed = encoder.encode([document.text for document in documents])
        made.tokens.append(packed.tokens)
        made.lengths.append(packed.lengths)
        made.names.append("".join(document_line(d.id, d.title) for d in documents).encode())
        made.rejects.append(reject_lines(source.name, rejects))
        made.reasons.update(reject.reason for reject in rejects)
        made.words += sum(document.words for document in documents)
    return made.stored()


def _batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Lists of items with some megabytes of text each: enough work for all cores, little enough for memory."""
    batch: list[Item] = []
    characters = 0
    for item in items:
        batch.append(item)
        characters += len(item.text) if isinstance(item, Document) else len(item.excerpt)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class BlockPlan(NamedTuple):
    """What one block holds."""

    source: int
    spans: tuple[Span, ...]
    bytes: int


def plan_blocks(scans: Sequence[Scan], block_bytes: int) -> list[BlockPlan]:
    """Gather consecutive parts of each source until they have `block_bytes`; a Megatron source has none."""
    return [plan for number, scan in enumerate(scans) for plan in _of_source(number, scan, block_bytes)]


def _of_source(number: int, scan: Scan, block_bytes: int) -> Iterator[BlockPlan]:
    first, size = 0, 0
    for place, part in enumerate(scan.sizes):
        size += part
        if size >= block_bytes or place + 1 == len(scan.sizes):
            yield BlockPlan(number, scan.spans[first : place + 1], size)
            first, size = place + 1, 0


@dataclass(frozen=True, kw_only=True)
class _Blocks(BlockStore):
    """Blocks, some of which need not be made, because the file of their source is there."""

    joined: frozenset[int] = field(default_factory=frozenset)

    def must_build(self, number: int) -> bool:
        return number not in self.joined and super().must_build(number)

    def is_written(self, number: int) -> bool:
        return number in self.joined or super().is_written(number)


class TokenWork:
    """The blocks of text of all sources.

    Attributes:
        store: Where they go.
        sizes: Bytes of input of each.
    """

    def __init__(
        self,
        config: CorpusConfig,
        sources: Sequence[Source],
        scans: Sequence[Scan],
        tokenizer: Tokenizer,
        directory: Path,
        *,
        joined: frozenset[int] = frozenset(),
    ) -> None:
        """Plan the blocks.

        Args:
            config: The stage's settings.
            sources: In the order of the settings.
            scans: Of each source.
            tokenizer: Makes the tokens.
            directory: Where the blocks go.
            joined: Numbers of the sources whose files are finished.
        """
        self._config, self._sources, self._surveys, self._tokenizer = config, sources, scans, tokenizer
        self._plan = [
            plan for plan in plan_blocks(scans, config.block_bytes) if sources[plan.source].kind != "megatron"
        ]
        # One for all blocks: it remembers words.
        self._encoder = DocumentEncoder(tokenizer, token_dtype(tokenizer.vocab_size))
        self.sizes = tuple(plan.bytes for plan in self._plan)
        self.store = _Blocks(
            directory=directory,
            inputs=tuple(fingerprint(self._made_from(plan)) for plan in self._plan),
            joined=frozenset(number for number, plan in enumerate(self._plan) if plan.source in joined),
            stage=STAGE,
        )

    def of_source(self, source: int) -> range:
        """Numbers of the blocks of a source."""
        numbers = [number for number, plan in enumerate(self._plan) if plan.source == source]
        return range(numbers[0], numbers[-1] + 1) if numbers else range(0)

    def make(self, number: int, advance: Advance) -> Block:
        """Tokenise block `number`; equal bytes each time.

        Raises:
            DataError: A file cannot be read.
        """
        plan = self._plan[number]
        meter = _Meter(plan.bytes, advance)
        source = self._sources[plan.source]
        block = tokenize(source, plan.spans, self._config.min_words, self._encoder, meter.advance)
        meter.finish()
        return block

    def _made_from(self, plan: BlockPlan) -> Mapping[str, Any]:
        source, identity = self._sources[plan.source], self._surveys[plan.source].identity
        library = {"html": html_library()} if source.kind == "html" else {}
        return library | {
            "files": [identity[file] for file in sorted({span.file for span in plan.spans})],
            "spans": [list(span) for span in plan.spans],
            "source": config_json(source.config),
            "min_words": self._config.min_words,
            "tokenizer": self._tokenizer.fingerprint,
        }


class _Meter:
    """Hands on as many units as were announced: files are read ahead, beyond the end of a part."""

    def __init__(self, total: int, advance: Advance) -> None:
        self._left, self._advance = total, advance

    def advance(self, count: int) -> None:
        taken = min(count, self._left)
        self._left -= taken
        self._advance(taken)

    def finish(self) -> None:
        self._advance(self._left)
        self._left = 0
