"""Hallucination in written answers: words that no document has, and answers that documents do not change.

Content words are the words of a normalized answer without articles, pronouns and other function words. An answer with
none of them, such as `yes`, is neither supported nor unsupported, and is counted apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from retro.common.statistics import wilson
from retro.qa.metrics.normalize import normalize_answer

_FUNCTION_WORDS = """
yes no not i you he she it we they me him her us them my your his its our their this that these those who whom whose
which what where when why how there here is are was were be been being am do does did done has have had having will
would shall should can could may might must of in on at by for to from with without as into onto over under about
between through during before after and or but nor so than then if because while both either neither each some any all
also only just very answer question
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""Words that say nothing of the world."""


def content_words(text: str) -> list[str]:
    """The words of a text that say something, in order, normalized."""
    return [word for word in normalize_answer(text).split() if word not in FUNCTION_WORDS]


@dataclass(frozen=True, kw_only=True)
class Support:
    """What documents hold of an answer."""

    words: int
    """Content words of the answer."""
    found: int
    """Those of them that are in at least one document."""

    @property
    def share(self) -> float | None:
        """Share of its content words that a document has (K-Precision, Adlakha et al. 2024); None without any."""
        return self.found / self.words if self.words else None

    @property
    def unsupported(self) -> bool | None:
        """Whether a content word is in no document; None without any."""
        return self.found < self.words if self.words else None

    @property
    def nothing_found(self) -> bool | None:
        """Whether no content word is in any document; None without any."""
        return self.found == 0 if self.words else None


def support_of(answer: str, documents: Sequence[str]) -> Support:
    """What documents, with their titles, hold of an answer."""
    words = content_words(answer)
    held = {word for text in documents for word in normalize_answer(text).split()}
    return Support(words=len(words), found=sum(word in held for word in words))


def share_of(flags: Sequence[bool | None], confidence: float) -> dict[str, Any]:
    """Share of the flags that are true among those that are known, with Wilson's interval; nulls of none."""
    known = [one for one in flags if one is not None]
    if not known:
        return {"share": None, "low": None, "high": None, "count": 0, "of": 0}
    low, high = wilson(sum(known), len(known), confidence)
    share = sum(known) / len(known)
    return {
        "share": round(share, 6), "low": round(low, 6), "high": round(high, 6), "count": sum(known), "of": len(known)
    }  # fmt: skip


def unchanged(answer: str, without: str) -> bool:
    """Whether the answer with documents is, normalized, the one without."""
    return normalize_answer(answer) == normalize_answer(without)


def written_measures(
    answers: Sequence[str],
    without: Sequence[str] | None,
    documents: Sequence[Sequence[str]],
    right: Sequence[bool],
    confidence: float,
) -> dict[str, Any]:
    """The measures of written answers, each a share with its interval and numbers.

    Args:
        answers: [N] answers with documents.
        without: [N] answers of the same model to the same questions without; None: they were not asked for.
        documents: [N] the documents of each.
        right: [N] whether the answer is right.
        confidence: Of the intervals.

    Returns:
        `unsupported`: of the answers with content words, those with one that is in no document.
        `nothing_found`: those of which no content word is in any document.
        `unsupported_wrong`: of the wrong answers, those with a content word that is in no document.
        `no_content_words`: of all answers, those that cannot be judged by words.
        `unchanged`: of all, those that are the same without documents; `unchanged_wrong`: of the wrong ones. Both are
        left out where `without` is None.
    """
    held = [support_of(one, mine) for one, mine in zip(answers, documents, strict=True)]
    wrong = [not one for one in right]
    found = {
        "unsupported": share_of([one.unsupported for one in held], confidence),
        "nothing_found": share_of([one.nothing_found for one in held], confidence),
        "unsupported_wrong": share_of(
            [one.unsupported for one, flag in zip(held, wrong, strict=True) if flag], confidence
        ),
        "no_content_words": share_of([one.words == 0 for one in held], confidence),
    }
    if without is not None:
        same = [unchanged(one, other) for one, other in zip(answers, without, strict=True)]
        found["unchanged"] = share_of(same, confidence)
        found["unchanged_wrong"] = share_of([one for one, flag in zip(same, wrong, strict=True) if flag], confidence)
    return found


WRITTEN: dict[str, str] = {
    "unsupported": "a word in no document",
    "nothing_found": "no word in any document",
    "unsupported_wrong": "of the wrong: a word in no document",
    "no_content_words": "no content words",
    "unchanged": "same without documents",
    "unchanged_wrong": "of the wrong: same without documents",
}
"""Names of the measures in words."""
