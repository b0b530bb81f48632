"""Accuracy: which option an answer chooses, or whether it says yes or no."""

from __future__ import annotations

import re
from collections.abc import Sequence

from retro.qa.metrics.normalize import normalize_answer

# "B", "(B)", "B. red", "B) red", with or without "the answer is" before it.
_LETTER = re.compile(
    r"^\W*(?:(?:the\s+)?(?:correct\s+)?(?:answer|option)(?:\s+is)?\W*)?\(?([a-z]{1,2})\s*(?:[).:]|$)", re.IGNORECASE
)
_VERDICTS = {"yes": True, "true": True, "no": False, "false": False}


def chosen_option(text: str, options: Sequence[str]) -> int | None:
    """The number of the option that a text chooses; None: none, or more than one.

    It chooses the option whose text it is; else that of the letter it begins with; else the one that stands in it.
    """
    for reduced in (str.strip, normalize_answer):
        said, plain = reduced(text), [reduced(option) for option in options]
        if said and plain.count(said) == 1:
            return plain.index(said)
    letter = _LETTER.match(text.strip())
    if letter and (number := _number(letter[1])) < len(options):
        return number
    held = [number for number, option in enumerate(plain) if option and f" {option} " in f" {said} "]
    return held[0] if len(held) == 1 else None


def _number(letters: str) -> int:
    """A 0, B 1, … AA 26, as prompts letter their options."""
    number = 0
    for letter in letters.upper():
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def verdict(text: str) -> bool | None:
    """Whether a text says yes or true, or no or false: the first of these words counts. None: it has none of them."""
    return next((_VERDICTS[word] for word in normalize_answer(text).split() if word in _VERDICTS), None)


def accuracy(prediction: str, answers: Sequence[str], options: Sequence[str]) -> float:
    """1 if the prediction chooses what a gold answer is; without options, if both say yes or both say no.

    Raises:
        ValueError: No gold answer is an option, or says yes or no.
    """
    golds = {chosen_option(gold, options) if options else verdict(gold) for gold in answers} - {None}
    if not golds:
        wanted = f"one of {list(options)}" if options else "yes or no"
        raise ValueError(f"the gold answer {list(answers)} is not {wanted}")
    said = chosen_option(prediction, options) if options else verdict(prediction)
    return float(said in golds)
