"""The text of an answer while its tokens come: whole characters only, and held back where a stop string may begin.

A token's text depends on the tokens around it: a byte is a part of a character, and a word's first token has a space
before it only inside a text. So a window of the last tokens is decoded, and what it has more than before is new. The
window begins where a character does, and holds something that is not a space, since decoders drop spaces at the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_BROKEN = "\ufffd"
"""What decoders give for bytes that are not a whole character."""
_CONTEXT = 4


class Detokenizer(Protocol):
    """The part of a tokenizer that is needed here."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; control tokens give nothing, a cut character gives U+FFFD."""


class AnswerText:
    """The text of one answer."""

    def __init__(self, tokenizer: Detokenizer, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = _context(tokenizer, prompt)
        """The window and what came after it was moved the last time."""
        before = tokenizer.decode(self._ids)
        whole = before.rstrip(_BROKEN)
        # A prompt that ends within a character has that character begin the answer.
        self._known = len(whole)
        """Characters of the window's text that were given out."""
        self._read = len(self._ids) if whole == before else 0
        """Tokens after which a character begins: where the next window may."""

    def add(self, token: int) -> str:
        """What became certain with one more token; empty while a character is not whole."""
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        if text.endswith(_BROKEN) or len(text) <= self._known:
            return ""
        return self._give_out(text)

    def rest(self) -> str:
        """What is left when the answer ends; bytes that are not a whole character give U+FFFD."""
        return self._give_out(self._tokenizer.decode(self._ids))

    def _give_out(self, text: str) -> str:
        new = text[self._known :]
        self._known = len(text)
        if new.strip():
            # What was given out before is not needed as context any more.
            del self._ids[: self._read]
            self._known = len(self._tokenizer.decode(self._ids))
        self._read = len(self._ids)
        return new


def _context(tokenizer: Detokenizer, prompt: Sequence[int]) -> list[int]:
    """The last tokens of a prompt that the answer's text depends on."""
    for length in range(min(_CONTEXT, len(prompt)), len(prompt)):
        text = tokenizer.decode(prompt[-length:])
        if text.strip(_BROKEN).strip() and not text.startswith(_BROKEN):
            return list(prompt[-length:])
    return list(prompt)


class HeldText:
    """The end of a text, held back as long as a stop string may begin in it."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Begin a text.

        Args:
            stops: Texts that end it; none of them empty.
        """
        self.stopped = False
        """Whether a stop string was found; the text before it is all there is."""
        self._stops = tuple(stops)
        self._held = ""
        self._immune = 0
        """Characters of the held text in which no stop string may end."""

    @property
    def held(self) -> str:
        """What may still turn out to be the beginning of a stop string."""
        return self._held

    def add(self, text: str, *, may_stop: bool = True) -> str:
        """Take a piece in.

        Args:
            text: The piece.
            may_stop: Whether a stop string that ends in this piece counts; one that does not is text.

        Returns:
            What became certain.
        """
        self._held += text
        if not may_stop:
            self._immune = len(self._held)
        found = self._found()
        if found is not None:
            self.stopped = True
            certain, self._held = self._held[:found], ""
            return certain
        kept = self._kept()
        certain, self._held = self._held[: len(self._held) - kept], self._held[len(self._held) - kept :]
        self._immune = max(0, self._immune - len(certain))
        return certain

    def rest(self) -> str:
        """What was held back, when nothing more comes."""
        certain, self._held = self._held, ""
        return certain

    def _found(self) -> int | None:
        """Where the first stop string begins that ends outside what is immune."""
        starts = [self._held.find(stop, max(0, self._immune - len(stop) + 1)) for stop in self._stops]
        return min((start for start in starts if start >= 0), default=None)

    def _kept(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        lengths = (
            length
            for stop in self._stops
            for length in range(min(len(stop) - 1, len(self._held)), 0, -1)
            if self._held.endswith(stop[:length])
        )
        return max(lengths, default=0)
