"""The type of an answer, by a stated rule, so that it can be replaced by one of the same type.

First that fits:

    yes_no    yes, no, true, false
    year      four digits, 1000 to 2099
    date      a month with days, years and weekdays alone beside it, or digits parted by - / or .
    number    digits, perhaps with a sign, a currency and a unit in lower case, or a number written out
    a type of the user's list, such as person or place, that has the answer
    a label of a spaCy model, in lower case, where one is asked for
    name      every word of more than three letters begins with a capital or a digit
    phrase    anything else
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from retro.common.errors import ConfigError, DataError, DependencyError, short_reason
from retro.common.json_files import wrong_type
from retro.common.yaml_files import read_yaml
from retro.qa.metrics.normalize import normalize_answer

YES_NO = {"yes": "no", "no": "yes", "true": "false", "false": "true"}
"""Such an answer, and the other one."""
_YEAR = re.compile(r"1\d{3}|20\d{2}")
_MONTH = "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_DAY = "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_PART = rf"(?:{_MONTH}|{_DAY}|\d{{1,4}}(?:st|[nr]d|th)?|of|the|to|and|BCE?|AD|CE)"
_DATE = re.compile(
    rf"\d{{1,4}}([-/.])\d{{1,2}}\1\d{{1,4}}|(?=.*\b{_MONTH}\b){_PART}(?:[\s,–-]+{_PART})*[.,]?", re.IGNORECASE
)
# A word with a capital behind the digits makes it a name: 10 Downing Street, 500 Days of Summer.
_NUMBER = re.compile(
    r"[-+]?\s?[$€£¥]?\s?\d[\d,.]*(?:[-–]\d[\d,.]*)?(?:st|[nr]d|th|s|%)?(?:[\s-](?:[a-z]+|BCE?|AD|CE)\.?){0,3}"
)
_WRITTEN = frozenset(
    (
        *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
        *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty", "thirty"),
        *("forty", "fifty", "sixty", "seventy", "eighty", "ninety", "hundred", "thousand", "million", "billion"),
    )
)
_LONGEST_SMALL_WORD = 3

TypeOf = Callable[[str], str]
Tag = Callable[[str], str]
"""From an answer to a label; empty: none."""


def answer_type(answer: str, lists: Mapping[str, frozenset[str]] | None = None, tag: Tag | None = None) -> str:
    """The type of an answer.

    Args:
        answer: Not blank.
        lists: By type of the user's: names, normalized as answers are.
        tag: A tagger that is asked where no rule and no list says.
    """
    text, plain = answer.strip(), normalize_answer(answer)
    if plain in YES_NO:
        return "yes_no"
    if _YEAR.fullmatch(text):
        return "year"
    # May alone is a name as well.
    if _DATE.fullmatch(text) and plain != "may":
        return "date"
    if _NUMBER.fullmatch(text) or (plain and _WRITTEN.issuperset(re.split(r"[\s-]+", text.lower()))):
        return "number"
    of_list = next((name for name, known in (lists or {}).items() if plain in known), "")
    label = of_list or (tag(text) if tag is not None else "")
    return label or ("name" if _is_name(text) else "phrase")


def _is_name(text: str) -> bool:
    words = [word for word in re.findall(r"\w+", text) if len(word) > _LONGEST_SMALL_WORD]
    return bool(words or text[:1].isupper()) and all(not word[0].islower() for word in words or [text])


def read_lists(path: Path) -> dict[str, frozenset[str]]:
    """A YAML file of types, each with a list of names: `person: [Ada Lovelace, …]`.

    Raises:
        DataError: It is missing or broken, holds something else, or has a name under two types.
    """
    data = read_yaml(path)
    remedy = "Give each type a list of names, as `person: [Ada Lovelace]`; quote names that are numbers"
    problem = wrong_type(data, dict[str, list[str]])
    if problem or not data:
        raise DataError(path, problem or "holds no type", remedy)
    owners: dict[str, str] = {}
    for kind, names in data.items():
        for name in map(normalize_answer, names):
            if owners.setdefault(name, kind) != kind:
                raise DataError(path, f"has {name!r} under {owners[name]!r} and {kind!r}", "Leave it in one of them")
    return {kind: frozenset(map(normalize_answer, names)) for kind, names in data.items()}


def open_tagger(model: str) -> Tag:
    """A spaCy model as a tagger: the label of the entity that is the whole answer.

    Raises:
        DependencyError: spaCy is not installed.
        ConfigError: There is no such model.
    """
    try:
        spacy = importlib.import_module("spacy")
    except ImportError:
        raise DependencyError("spacy", "is not installed", "Run `pip install spacy`, or leave `spacy` empty") from None
    try:
        tagger = spacy.load(model)
    except (OSError, ValueError) as error:
        need = f"needs the name of an installed spaCy model, or its folder ({short_reason(error)})"
        raise ConfigError("recipe.knowledge_conflict.sets.spacy", model, need) from None

    def tag(answer: str) -> str:
        found: Sequence[tuple[str, str]] = [(one.text, one.label_.lower()) for one in tagger(answer).ents]
        return next((label for text, label in found if normalize_answer(text) == normalize_answer(answer)), "")

    return tag
