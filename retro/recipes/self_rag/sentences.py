"""Where a text has sentences: by its punctuation, without a model that would have to be fetched."""

from __future__ import annotations

import re

# A mark that ends a sentence, what may close behind it, and a space before what may begin one.
_END = re.compile(
    r"[.!?]+[\"'”’)\]]*(?=\s+[\"'“‘(\[]*[A-Z0-9À-ÞΑ-ΩА-Я])|[。！？]+|\n\s*\n|\n(?=\s*(?:[-*•]|\d+[.)])\s)"
)
# Words that a full stop belongs to.
_ABBREVIATION = re.compile(
    r"(?:\b(?:mr|mrs|ms|dr|prof|st|sr|jr|vs|no|vol|fig|gen|col|lt|rev|hon|gov|sen|rep|capt|sgt|inc|ltd|co|corp|"
    r"approx|dept|est|e\.g|i\.e|cf|al|ca|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec))\.$",
    re.IGNORECASE,
)
_INITIAL = re.compile(r"(?:^|[\s.(])[A-Z]\.$")


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order, without space around them; what has no end mark is one too.

    A full stop of an abbreviation, an initial or a number ends none.
    """
    found, start = [], 0
    for end in _END.finditer(text):
        piece = text[start : end.end()]
        if end.group() == "." and (_ABBREVIATION.search(piece) or _INITIAL.search(piece)):
            continue
        found.append(piece.strip())
        start = end.end()
    return [one for one in (*found, text[start:].strip()) if one]


def with_citation(text: str, number: int) -> str:
    """A text whose sentences each cite a document: ` [2]` before the mark that ends it.

    Nothing is cut: a sentence without an end mark has the number behind its last word.
    """
    return " ".join(_cited(one, number) for one in sentences(text))


def _cited(sentence: str, number: int) -> str:
    body = sentence.rstrip("\"'”’)]")
    body = body.rstrip(".!?。！？")
    return f"{body} [{number}]{sentence[len(body) :]}"
