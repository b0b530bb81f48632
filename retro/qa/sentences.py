"""Where a text has sentences: by its punctuation, without a model that would have to be fetched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_STOP = re.compile(r"[.!?]+[\"'”’»)]*(?P<cites>(?:\s*\[[0-9][0-9,;\s]*\])*)(?=\s+(?P<next>\S)|\s*$)")
# What has a full stop and ends no sentence: titles, and letters such as J., U.S. and e.g.; but World War I.
_SHORT = re.compile(
    r"(?<![\w.])(?:(?:[A-Za-z]\.)+[A-Za-z]|[A-HJ-Z]|Dr|Mr|Mrs|Ms|Prof|St|Gen|Sen|Rep|Gov|Col|Lt|Sgt|Capt|Rev|Hon|Mt|Ft"
    r"|No|Vol|Fig|vs|pp?|ca?|approx)$"
)
_LONGEST_SHORT = 12
_BLOCK = re.compile(r"(?=\n\s*\n)|(?=\n\s*(?:[-*•]|\d+[.)])\s)|(?<=[。！？])")


def sentence_pieces(text: str) -> Iterator[str]:
    """The sentences of a text as they stand, with the space before them: joined they are the text.

    A citation behind a full stop, `[1]`, belongs to the sentence before it. A stop of a short form, an initial or a
    number that begins a sentence ends none; a blank line, and a line that begins an item of a list, do.
    """
    for block in _BLOCK.split(text):
        yield from _of_block(block)


def sentences(text: str) -> list[str]:
    """The sentences of a text, without space around them; what has no end mark is one too."""
    return [piece.strip() for piece in sentence_pieces(text) if piece.strip()]


def with_citation(text: str, *numbers: int) -> str:
    """A text whose sentences each cite passages: ` [2]` or ` [1][2]` before the mark that ends it.

    Nothing is cut: a sentence without an end mark has the number behind its last word.
    """
    return " ".join(_cited(one, numbers) for one in sentences(text))


def _cited(sentence: str, numbers: Sequence[int]) -> str:
    body = sentence.rstrip("\"'”’)]").rstrip(".!?。！？")
    return f"{body} {''.join(f'[{number}]' for number in numbers)}{sentence[len(body) :]}"


def _of_block(text: str) -> Iterator[str]:
    start = 0
    for stop in _STOP.finditer(text):
        if stop["next"] and (
            stop["next"].islower() or (stop.group() == "." and _ends_nothing(text, start, stop.start()))
        ):
            continue
        yield text[start : stop.end()]
        start = stop.end()
    yield text[start:]


def _ends_nothing(text: str, start: int, stop: int) -> bool:
    """Whether a full stop belongs to a short form, or to a number that begins a sentence: `1. It rained.`"""
    short = _SHORT.search(text, max(start, stop - _LONGEST_SHORT), stop)
    return short is not None or text[start:stop].strip().isdecimal()
