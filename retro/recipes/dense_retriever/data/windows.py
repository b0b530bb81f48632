"""Which windows of a document become segments, and their text: pure arithmetic, no files.

A window is a run of tokens. Its text is the document's, from where its first token begins to where the first token
after it begins, without white space at either end: what a tokenizer drops between two tokens is lost nowhere.
"""

# Dims in this file. T tokens of the document

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import DataError
from retro.common.files import sha256_file
from retro.common.input_files import require_regular

Starts: TypeAlias = Callable[[str], NDArray[np.int64]]
"""Gives, for a text, int64 [T] the character at which each token begins, ascending."""
_WORD = re.compile(r"\S+")


def windows(tokens: int, window: int, step: int, *, whole_last: bool = True) -> Iterator[range]:
    """The windows of a document, in order: together they cover it, and none is within another.

    They begin at 0, `step`, 2 `step` … up to the first that reaches the end: 1 + ceil((T - window) / step) of them for
    T > window, one for 0 < T <= window, none for T = 0.

    Args:
        tokens: T, of the document.
        window: Tokens of a window.
        step: From start to start, 1 to `window`.
        whole_last: Whether the last one begins `window` before the end; else `step` after the one before it.

    Raises:
        ValueError: The step would leave tokens out.
    """
    if not 1 <= step <= window:
        raise ValueError(f"windows of {window} tokens need a step from 1 to {window}, got {step}")
    start = 0
    while start + window < tokens:
        yield range(start, start + window)
        start += step
    if tokens > 0:
        yield range(max(0, tokens - window) if whole_last else start, tokens)


def characters(length: int, starts_T: NDArray[np.int64], window: range) -> range:
    """The characters of a window; those of all windows together are the document's.

    Args:
        length: Characters of the document.
        starts_T: Where each of its tokens begins.
        window: Tokens.
    """
    first = int(starts_T[window.start]) if window.start else 0
    return range(first, int(starts_T[window.stop]) if window.stop < len(starts_T) else length)


def window_text(text: str, starts_T: NDArray[np.int64], window: range) -> str:
    """The text of a window; empty where it has nothing but white space."""
    found = characters(len(text), starts_T, window)
    return text[found.start : found.stop].strip()


def cut_to(text: str, starts_T: NDArray[np.int64], most: int) -> str:
    """The first `most` tokens of a text; all of it where it has no more."""
    return text if len(starts_T) <= most else window_text(text, starts_T, range(most))


def word_starts(text: str) -> NDArray[np.int64]:
    """Where each word begins, words being what white space parts."""
    return np.fromiter((found.start() for found in _WORD.finditer(text)), dtype=np.int64)


def token_starts(tokenizer: Path | None) -> Starts:
    """What finds the tokens of a text.

    Args:
        tokenizer: A tokenizer.json; None: words.

    Raises:
        DataError: It is not one.
    """
    if tokenizer is None:
        return word_starts
    from retro.tokenizers.tokenizer import HuggingFaceTokenizer

    # No end of documents is needed here: any number will do.
    model = HuggingFaceTokenizer(tokenizer, eod=0)

    def starts(text: str) -> NDArray[np.int64]:
        return np.maximum.accumulate(np.array(model.starts(text), dtype=np.int64))

    return starts


def length_unit(tokenizer: Path | None) -> str:
    """What is counted, for telling two ways apart: words, or the tokens of a file by its checksum.

    Raises:
        DataError: There is no such file.
    """
    if tokenizer is None:
        return "words"
    require_regular(tokenizer, "Check the path", error=DataError, missing="no such tokenizer.json")
    return sha256_file(tokenizer)
