"""From a source's blocks to its files, one block in memory at a time; or from a Megatron corpus, by links."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from retro.common.blocks import BlockStore
from retro.common.errors import DataError
from retro.common.files import atomic_path
from retro.common.progress import Progress, progress
from retro.corpus.documents import document_line
from retro.corpus.files import Source, megatron_prefix
from retro.corpus.places import names_path, rejects_path
from retro.corpus.records import SourceCounts
from retro.corpus.token_block import reasons_of
from retro.corpus.token_files import TokenFile, TokenFileWriter, bin_path, idx_path
from retro.tokenizers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_SCAN_TOKENS = 1 << 24


def join_blocks(store: BlockStore, numbers: range, source: str, vocab_size: int, out: Path) -> None:
    """Write the files of a source from its blocks, in their order.

    Args:
        store: Finished blocks.
        numbers: Those of the source.
        source: Its name.
        vocab_size: Decides the type of a stored token.
        out: The stage's directory.

    Raises:
        ArtifactError: A block is missing or damaged, or the disk is full.
    """
    with contextlib.ExitStack() as stack:
        names = stack.enter_context(_new_file(names_path(out, source)))
        rejects = stack.enter_context(_new_file(rejects_path(out, source)))
        writer = stack.enter_context(TokenFileWriter(out / source, vocab_size))
        for number in progress(numbers, total=len(numbers), what=f"corpus: joining {source}", unit="blocks"):
            arrays = store.take(number).arrays
            writer.add_documents(arrays["tokens"][0], arrays["lengths"][0])
            names.write(arrays["names"].tobytes())
            rejects.write(arrays["rejects"].tobytes())
        writer.finish()


def counts_of(blocks: Iterable[dict[str, int]]) -> SourceCounts:
    """What became of a source, from the counts of its blocks."""
    totals: Counter[str] = Counter()
    for counts in blocks:
        totals.update(counts)
    return SourceCounts(
        documents=totals["documents"],
        tokens=totals["tokens"],
        words=totals["words"],
        rejects=dict(sorted(reasons_of(totals).items())),
    )


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        yield stream


def link_megatron(source: Source, tokenizer: Tokenizer, out: Path) -> SourceCounts:
    """Take a Megatron corpus as it is: links to its files, because a copy of a terabyte serves nobody.

    Raises:
        DataError: It holds tokens that the tokenizer does not have.
    """
    prefix = megatron_prefix(source.files[0].path)
    file = TokenFile(prefix)
    _require_vocabulary(file, tokenizer, source)
    for target, link in (
        (bin_path(prefix), bin_path(out / source.name)),
        (idx_path(prefix), idx_path(out / source.name)),
    ):
        link.unlink(missing_ok=True)
        link.symlink_to(target.resolve())
    with _new_file(names_path(out, source.name)) as names:
        names.writelines(document_line(f"{source.name}:{number}", "").encode() for number in range(file.documents))
    with _new_file(rejects_path(out, source.name)):
        pass
    return SourceCounts(documents=file.documents, tokens=file.token_count, words=0, rejects={})


def _require_vocabulary(file: TokenFile, tokenizer: Tokenizer, source: Source) -> None:
    pieces = range(0, file.token_count, _SCAN_TOKENS)
    with Progress(len(pieces), what=f"corpus: checking {source.name}", unit="pieces") as bar:
        for start in pieces:
            piece = file.tokens[start : start + _SCAN_TOKENS]
            if int(piece.max()) >= tokenizer.vocab_size or int(piece.min()) < 0:
                problem = f"holds token {int(piece.max())}; the tokenizer has {tokenizer.vocab_size}"
                raise DataError(bin_path(file.prefix), problem, "Give the tokenizer that made this corpus")
            bar.advance()
    ends = file.document_starts[1:][np.diff(file.document_starts) > 0] - 1
    if len(ends) and not np.any(file.tokens[ends] == tokenizer.eod):
        log.warning("corpus: no document of %s ends with token %d (EOD); they simply abut", source.name, tokenizer.eod)
