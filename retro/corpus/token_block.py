"""One block of text, tokenised: what a worker makes alone, and what is joined to the others afterwards."""

# Dims in this file. T tokens   D documents   B bytes

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.blocks import Block
from retro.corpus.documents import document_line
from retro.corpus.files import Advance, Source
from retro.corpus.layouts import Document, Item, Reject, Span, read_spans
from retro.corpus.rejects import reject_lines
from retro.tokenizers.cached_encoder import DocumentEncoder

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
    """Things set aside in a block, by reason."""
    return {name.removeprefix(_REASON): count for name, count in counts.items() if name.startswith(_REASON)}


def _joined(pieces: list[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=dtype)


def tokenise(
    source: Source, spans: tuple[Span, ...], min_words: int, encoder: DocumentEncoder, advance: Advance
) -> Block:
    """Tokenise some parts of a source.

    Args:
        source: Whose text.
        spans: Its parts, in order.
        min_words: Documents with fewer words are rejected.
        encoder: Makes the tokens.
        advance: Told how many bytes of input were read.

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
