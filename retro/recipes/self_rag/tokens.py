"""The reflection tokens of Self-RAG, what each group of them judges, and answers in which they stand.

[Retrieval]<paragraph>title
text</paragraph>[Relevant]A sentence.[Fully supported][Utility:5]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from retro.generate.request import ChosenToken
from retro.qa.question import PassageLike, Segment
from retro.qa.segments import encode_segments, split_at_tokens
from retro.tokenizers.added_tokens import token_ids

NO_RETRIEVAL, RETRIEVAL, CONTINUE = "[No Retrieval]", "[Retrieval]", "[Continue to Use Evidence]"
IRRELEVANT, RELEVANT = "[Irrelevant]", "[Relevant]"
FULLY, PARTIALLY, UNSUPPORTED = "[Fully supported]", "[Partially supported]", "[No support / Contradictory]"
BEGIN, END = "<paragraph>", "</paragraph>"

RETRIEVE = (NO_RETRIEVAL, RETRIEVAL, CONTINUE)
"""Whether to search; from the instruction, and what was written so far."""
RELEVANCE = (IRRELEVANT, RELEVANT)
"""Whether a passage is about the instruction."""
SUPPORT = (FULLY, PARTIALLY, UNSUPPORTED)
"""Whether a passage bears out what was written from it."""
UTILITY = tuple(f"[Utility:{number}]" for number in range(1, 6))
"""How useful an answer is, from 1 to 5."""
TOKENS = (*RETRIEVE, *RELEVANCE, *SUPPORT, *UTILITY, BEGIN, END)
"""All fifteen, in the order of their ids."""

Family = Literal["retrieval", "multi_retrieval", "relevance", "groundness", "utility"]
FAMILIES: dict[Family, tuple[str, ...]] = {
    "retrieval": (NO_RETRIEVAL, RETRIEVAL),
    "multi_retrieval": RETRIEVE,
    "relevance": RELEVANCE,
    "groundness": SUPPORT,
    "utility": UTILITY,
}
"""What a critic is asked, and the tokens that it may answer with."""
SETTING = "sft.special_tokens"


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The reflection tokens in a tokenizer."""

    tokenizer: Any
    ids: dict[str, int]
    """By name, in the order of `TOKENS`."""

    @classmethod
    def of(cls, tokenizer: Any) -> Vocabulary:
        """Find them.

        Raises:
            ConfigError: The tokenizer lacks one.
        """
        return cls(tokenizer=tokenizer, ids=token_ids(tokenizer, TOKENS, SETTING))

    @property
    def named(self) -> tuple[int, ...]:
        """For `Request.named_tokens`: then each step of an answer has the log-probabilities of all of them."""
        return tuple(self.ids.values())

    def logprobs(self, step: ChosenToken) -> dict[str, float]:
        """Log-probabilities of the reflection tokens at a step of an answer, by name."""
        return dict(zip(self.ids, (one.logprob for one in step.named), strict=True))

    def name(self, token: ChosenToken) -> str:
        """The name of a token that is one of them; empty for a word of text."""
        return self._names.get(token.id, "")

    def pieces(self, tokens: Sequence[ChosenToken]) -> list[Segment]:
        """An answer as texts and reflection tokens, in order."""
        found: list[Segment] = []
        words: list[int] = []
        for token in tokens:
            name = self.name(token)
            if name:
                found += self._text(words)
                words = []
                found.append(Segment(token=name))
            else:
                words.append(token.id)
        return [*found, *self._text(words)]

    def encode(self, segments: Sequence[Segment]) -> tuple[int, ...]:
        """Token ids of segments, as tuning has them."""
        return tuple(encode_segments(segments, self.tokenizer)[0])

    def _text(self, words: Sequence[int]) -> list[Segment]:
        text = self.tokenizer.decode(words) if words else ""
        return [Segment(text=text)] if text.strip() else []

    @property
    def _names(self) -> dict[int, str]:
        return {id_: name for name, id_ in self.ids.items()}


def passage_text(passage: PassageLike) -> str:
    """A passage as it stands between its two marks: its title, if it has one, on a line of its own."""
    return f"{passage.title}\n{passage.text}".strip() if passage.title.strip() else passage.text.strip()


def passage_segments(text: str) -> tuple[Segment, ...]:
    """A passage between its marks: the marks are learned, what is between them is only read."""
    return (Segment(token=BEGIN), Segment(text=text, learn=False), Segment(token=END))


def segments_of(output: str) -> tuple[Segment, ...]:
    """An answer in which tokens are spelled, as published training data has it, in segments.

    Everything is learned but the texts between `<paragraph>` and `</paragraph>`, of each passage by itself. A
    reflection token that a passage spells is text.
    """
    found: list[Segment] = []
    before, *rest = output.split(BEGIN)
    found += split_at_tokens(before, TOKENS)
    for part in rest:
        passage, mark, after = part.partition(END)
        found.append(Segment(token=BEGIN))
        if not mark:
            # A passage that never ends is text that the answer itself has, as it is written.
            found += split_at_tokens(passage, TOKENS)
            continue
        found += [Segment(text=passage, learn=False), Segment(token=END)] if passage else [Segment(token=END)]
        found += split_at_tokens(after, TOKENS)
    return tuple(found)


def clean_text(pieces: Iterable[Segment]) -> str:
    """What an answer says: its texts without tokens and without passages, one space where a token stood between two."""
    texts: list[str] = []
    inside = False
    for one in pieces:
        if one.token in (BEGIN, END):
            inside = one.token == BEGIN
        elif one.text and not inside:
            texts.append(one.text.strip())
    return " ".join(text for text in texts if text)
