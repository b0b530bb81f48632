"""The text around a question: preamble, passages, question, and where the answer begins.

The texts and the kind of each known question set are data (`prompts.yaml`), so a set is added without code. A
prompt stays in three parts (head, passages, tail) because only the passages may be cut when it does not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

import yaml

from retro.common.config import unknown_name
from retro.common.errors import ConfigError
from retro.common.qa_data import PassageLike, Question

Style = Literal["plain", "instructretro"]
Kind = Literal["short_span", "true_false", "options", "full_answer", "conversation", "chat"]


@dataclass(frozen=True)
class Prompt:
    """One prompt in the parts that are tokenized apart and joined as ids."""

    head: str
    contexts: tuple[str, ...]
    tail: str

    @property
    def text(self) -> str:
        """The whole prompt, nothing cut."""
        return self.head + "".join(self.contexts) + self.tail


@cache
def _tables() -> dict[str, Any]:
    text = resources.files("retro.sft").joinpath("prompts.yaml").read_text(encoding="utf-8")
    tables: dict[str, Any] = yaml.safe_load(text)
    return tables


def prompts_version() -> int:
    """Version of the prompt texts; part of every fingerprint that depends on them."""
    return int(_tables()["version"])


def known_kinds() -> tuple[str, ...]:
    """All kinds of answer a question set can want."""
    return get_args(Kind)


def kind_of_set(name: str) -> str:
    """The kind of a question set, by its name in any case; `short_span` for a set that is not known."""
    kind: str = _tables()["sets"].get(name.lower(), "short_span")
    return kind


def require_kind(setting: str, kind: str) -> str:
    """Return `kind` if it exists.

    Raises:
        ConfigError: It does not; `setting` and the nearest kind are named.
    """
    if kind not in known_kinds():
        raise ConfigError(setting, kind, unknown_name(kind, known_kinds()).replace("a setting", "a kind of answer"))
    return kind


def build_prompt(
    question: Question, passages: Sequence[PassageLike], *, style: Style, kind: str, contexts_in_prompt: int
) -> Prompt:
    """The prompt of one question.

    Args:
        question: The question, with its options if it has any.
        passages: Candidates for the prompt, best first.
        style: `instructretro`, or `plain` for tiny models.
        kind: One of `known_kinds()`.
        contexts_in_prompt: How many passages to show at most.
    """
    texts, rule = _tables()["styles"][style], _tables()["kinds"][kind]
    shown = passages[:contexts_in_prompt] if rule["contexts"] else ()
    separator = texts["separator"]
    query = question.question + lettered_options(question.options)
    if texts["instructions"] and rule["instruction"]:
        query = f"{rule['instruction']} {query}"
    return Prompt(
        head=texts["preamble"] + separator if texts["preamble"] else "",
        contexts=tuple(_render(texts, passage) + separator for passage in shown),
        tail=texts["question"].replace("{question}", query) + (rule["lead"] if texts["instructions"] else ""),
    )


def _render(texts: dict[str, Any], passage: PassageLike) -> str:
    titled = passage.title and (texts["repeats_title"] or not passage.text.startswith(passage.title))
    template = texts["context"] if titled else texts["untitled_context"]
    # One pass over the template: a passage that happens to hold "{text}" must stay as it is.
    before, _, after = str(template).partition("{text}")
    return before.replace("{title}", passage.title) + passage.text + after


def lettered_options(options: Sequence[str]) -> str:
    """`(A) red (B) blue` on a line of its own; empty without options."""
    if not options:
        return ""
    return "\n" + " ".join(f"({_letter(number)}) {option}" for number, option in enumerate(options))


def _letter(number: int) -> str:
    # 26 and up: AA, AB, … as in a spreadsheet.
    tail = chr(ord("A") + number % 26)
    return tail if number < 26 else _letter(number // 26 - 1) + tail


def answer_text(answer: str) -> str:
    """The answer as it follows the prompt: one space before it."""
    return f" {answer}"
