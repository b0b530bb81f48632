"""What is taken off answers before they are compared, and which answers are special. The only normalizers there are."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from retro.qa.task import Normalisation, Task

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TO_SPACES = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces: SQuAD's (Rajpurkar et al. 2016, arXiv:1606.05250)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _nq(text: str) -> str:
    """As `normalize_answer`, after Unicode's canonical decomposition, so that two ways to write é are one."""
    return normalize_answer(unicodedata.normalize("NFD", text))


def _triviaqa(text: str) -> str:
    """As `normalize_answer`, but punctuation parts words (Joshi et al. 2017, arXiv:1705.03551)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_TO_SPACES)).split())


NORMALIZERS: Mapping[Normalisation, Callable[[str], str]] = {
    "squad": normalize_answer,
    "nq": _nq,
    "triviaqa": _triviaqa,
    "none": str.strip,
}


@dataclass(frozen=True)
class Rules:
    """How a task compares answers."""

    normalisation: Normalisation = "squad"
    whole_answers: tuple[str, ...] = ()
    """Normalized answers that are right or wrong as a whole."""
    no_answer: tuple[str, ...] = ()
    """Texts that say that there is no answer; none: a task all of whose questions have one."""

    @classmethod
    def of(cls, task: Task) -> Rules:
        """The rules of a task."""
        return cls(task.normalisation, task.whole_answers, task.no_answer)

    def plain(self, text: str) -> str:
        """The text as it is compared; empty where it says that there is no answer."""
        short = NORMALIZERS[self.normalisation](text)
        said = {NORMALIZERS[self.normalisation](phrase) for phrase in self.no_answer}
        return "" if short in said else short

    def says_none(self, text: str) -> bool:
        """Whether a text is blank or one of `no_answer`; not whether it merely has no words of its own."""
        return not text.strip() or bool(NORMALIZERS[self.normalisation](text) and not self.plain(text))

    def golds_of(self, answers: Sequence[str]) -> Sequence[str]:
        """The gold answers that are compared with; there is one at least.

        Where questions may have no answer, those that are empty as they are compared do not count beside others
        (SQuAD 2.0's script): else an empty answer would match the gold answer `the`.

        Raises:
            ValueError: No gold answer is given.
        """
        golds = golds_of(answers)
        if not self.no_answer:
            return golds
        return [gold for gold in golds if self.plain(gold)] or self.no_answer[:1]

    def pair(self, gold: str, prediction: str) -> tuple[str, str]:
        """Both as they are compared; merely stripped where the gold answer is all punctuation and articles.

        Otherwise the gold answer `()` would be matched by an empty answer, and by `!`. Where questions may have no
        answer, an empty text is an answer like others.
        """
        short = self.plain(gold)
        if short or self.no_answer:
            return short, self.plain(prediction)
        return gold.strip(), prediction.strip()


def golds_of(answers: Sequence[str]) -> Sequence[str]:
    """The gold answers, of which there is one at least.

    Raises:
        ValueError: There is none.
    """
    # A text is one gold answer; going over its letters would make any one letter a right answer.
    golds = [answers] if isinstance(answers, str) else answers
    if not golds:
        raise ValueError("a question without gold answers cannot be scored")
    return golds
