"""The file of prompt texts: its form, the one that is shipped, and a user's own merged over it.

Texts carry a name, a version and a fingerprint, which every manifest and answer file takes over.
"""

from __future__ import annotations

import difflib
import logging
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, PositiveInt, model_validator

from retro.common.artifacts import fingerprint
from retro.common.config import StageConfig, config_json, unknown_name
from retro.common.errors import ConfigError, DataError, require
from retro.common.registry import Registry, package_file, yaml_file
from retro.common.yaml_files import parse_yaml, read_yaml

log = logging.getLogger(__name__)

DEFAULT_KIND = "short_span"


def _require_places(owner: StageConfig, place: str, *fields: str) -> None:
    """Check that each text has its place once: without it, what belongs there would be lost without a word."""
    for name in fields:
        require(owner, name, getattr(owner, name).count(place) == 1, f"{place} in it, once")


class TurnTexts(StageConfig):
    """How the turns of a conversation are written; each text holds `{text}`."""

    system: str
    user: str
    assistant: str

    @model_validator(mode="after")
    def _hold_the_text(self) -> TurnTexts:
        _require_places(self, "{text}", "system", "user", "assistant")
        return self


class StyleTexts(StageConfig):
    """What is around a question."""

    preamble: str
    """First of all; empty: nothing."""
    context: str
    """A passage, with `{title}` and `{text}`, and perhaps `{number}`, its place in the prompt from 1 on."""
    untitled_context: str
    """A passage without a title."""
    repeats_title: bool
    """Whether the title comes before a text that begins with it."""
    separator: str
    """Between all parts."""
    question: str
    """The last turn, with `{question}`; the answer follows it."""
    turns: TurnTexts
    """The turns before that."""
    instructions: bool
    """Whether the kind's instruction and lead are used."""
    option: str = "({letter}) {text}"
    """A choice of a multiple-choice question."""
    between_options: str = " "
    """Between two choices; the first begins a line."""

    @model_validator(mode="after")
    def _hold_what_they_are_about(self) -> StyleTexts:
        _require_places(self, "{text}", "context", "untitled_context")
        _require_places(self, "{question}", "question")
        _require_places(self, "{text}", "option")
        return self


class KindTexts(StageConfig):
    """How a kind of question is asked."""

    instruction: str = ""
    """Before the question."""
    lead: str = ""
    """Begins the answer for the model."""
    contexts: bool = True
    """Whether the prompt shows passages."""
    no_answer: str = ""
    """The answer to a question that is marked as unanswerable; empty: such a question is an error."""
    holds_turns: bool = False
    """Whether the question may be a whole conversation, written with the style's own turns."""
    in_template: bool = False
    """Whether the instruction stays when a template is used."""


class SetTexts(StageConfig):
    """What is known of a question set."""

    kind: str
    """One of the kinds."""
    aliases: tuple[str, ...] = ()
    """What else it is called."""
    instruction: str | None = None
    """In place of the kind's."""
    lead: str | None = None
    """In place of the kind's."""
    no_answer: str | None = None
    """In place of the kind's."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How the questions of one set are asked: its kind's texts, and its own where it has any."""

    kind: str
    texts: KindTexts


class PromptTexts(StageConfig):
    """All of a prompts file."""

    whole_file: ClassVar[bool] = True

    name: str = Field(min_length=1)
    """Whose texts these are."""
    version: PositiveInt
    """Rises with every change of a text."""
    styles: dict[str, StyleTexts]
    """Prompt styles, by name."""
    kinds: dict[str, KindTexts]
    """Kinds of answers, by name."""
    sets: dict[str, SetTexts]
    """Known question sets, by name in lower case."""
    templates: dict[str, str]
    """Other ways to ask, with `{passages}` and `{question}`."""

    @model_validator(mode="after")
    def _refers_to_what_is_there(self) -> PromptTexts:
        for name, one in self.sets.items():
            if one.kind not in self.kinds:
                need = unknown_name(one.kind, list(self.kinds)).replace("a setting", "a kind of answer")
                raise ConfigError(f"sets.{name}.kind", one.kind, need)
        names = [alias.lower() for name, one in self.sets.items() for alias in (name, *one.aliases)]
        twice = sorted({name for name in names if names.count(name) > 1})
        require(self, "sets", not twice, f"each name and alias once, in any case; found twice: {', '.join(twice)}")
        for name, text in self.templates.items():
            if not 0 <= text.find("{passages}") < text.find("{question}"):
                raise ConfigError(f"templates.{name}", text, "needs {passages}, and {question} behind it")
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """What manifests record."""
        data = config_json(self)
        # Texts that came later stand in it only where they are given: what was made with the others stays valid.
        for name, default in ((name, StyleTexts.model_fields[name].default) for name in ("option", "between_options")):
            for style in data["styles"].values():
                if style[name] == default:
                    del style[name]
        return {"name": self.name, "version": self.version, "fingerprint": fingerprint(data)}

    def known_set(self, name: str) -> SetTexts | None:
        """The set of that name or alias, in any case."""
        wanted = name.lower()
        found = (one for key, one in self.sets.items() if wanted in {alias.lower() for alias in (key, *one.aliases)})
        return next(found, None)

    def rule_of_kind(self, kind: str, setting: str = "kind") -> Rule:
        """How questions of that kind are asked.

        Raises:
            ConfigError: There is no such kind; `setting` and the nearest one are named.
        """
        if kind not in self.kinds:
            need = unknown_name(kind, list(self.kinds)).replace("a setting", "a kind of answer")
            raise ConfigError(setting, kind, need)
        return Rule(kind=kind, texts=self.kinds[kind])

    def rule_of_set(self, name: str, kind: str = "auto") -> Rule:
        """How the questions of a set are asked.

        A set that is not known is asked for a short phrase, which the log says, with the nearest name that is known.

        Args:
            name: Of the set, in any case.
            kind: `auto` looks the name up; a kind is used as it is, with none of the set's own texts.

        Raises:
            ConfigError: There is no such kind.
        """
        if kind != "auto":
            return self.rule_of_kind(kind, f"sets.{name}.kind")
        known = self.known_set(name)
        if known is None:
            log.info("%s is not a known question set: asked as %s%s", name, DEFAULT_KIND, self._nearest_set(name))
            return self.rule_of_kind(DEFAULT_KIND)
        own = {key: value for key, value in known.model_dump().items() if key in _OWN and value is not None}
        return Rule(kind=known.kind, texts=self.kinds[known.kind].model_copy(update=own))

    def _nearest_set(self, name: str) -> str:
        names = [alias.lower() for key, one in self.sets.items() for alias in (key, *one.aliases)]
        near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.7)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"{hint}; `kind` in the blend says otherwise"


PROMPTS: Registry[Traversable] = Registry(
    "retro.prompts",
    "a set of prompt texts",
    {"shipped": "retro.qa:prompts.yaml", "self_rag": "retro.recipes.self_rag:style.yaml"},
    yaml_file,
    load=package_file,
)
"""The file of all prompt texts that have a name."""

_OWN = ("instruction", "lead", "no_answer")
_SECTIONS = ("styles", "kinds", "sets", "templates")


@cache
def shipped_prompts() -> PromptTexts:
    """The texts in retro/qa/prompts.yaml."""
    return PromptTexts(**_shipped_data())


def load_prompts(path: Path | None) -> PromptTexts:
    """The texts of a user's file merged over the shipped ones; without a file, those.

    An entry of the file (a style, a kind, a set, a template) replaces the fields it gives, and leaves the others.

    Args:
        path: A file; or the name of texts that another package brings.

    Raises:
        ConfigError: Nothing has that name; the nearest is named.
        DataError: The file is missing, is not YAML, or is not a prompts file; the place is named.
        DependencyError: Another package brings the texts, and its file is not there.
    """
    if path is None:
        return shipped_prompts()
    name = str(path)
    if path.suffix or len(path.parts) > 1 or path.exists():
        return _merged_with_shipped(path)
    with resources.as_file(PROMPTS.find(name, "prompts", "texts of your own are a path that ends in .yaml")) as file:
        return _merged_with_shipped(file)


def _merged_with_shipped(path: Path) -> PromptTexts:
    own, texts = read_yaml(path), _shipped_data()
    remedy = "Its sections are those of retro/qa/prompts.yaml; see docs/tuning.md"
    for key in ("name", "version"):
        if key not in own:
            raise DataError(
                path, f"has no {key!r}", f"Give the file a {key}: it is recorded in every manifest. {remedy}"
            )
    for section in _SECTIONS:
        given = own.pop(section, None) or {}
        if not isinstance(given, dict):
            raise DataError(path, f"has a {type(given).__name__} in {section!r}", remedy)
        texts[section] |= {key: _laid_over(texts[section].get(key), value) for key, value in given.items()}
    try:
        return PromptTexts(**(texts | own))
    except ConfigError as error:
        raise DataError(path, str(error), remedy) from None


def _laid_over(below: Any, above: Any) -> Any:
    return below | above if isinstance(below, dict) and isinstance(above, dict) else above


def _shipped_data() -> dict[str, Any]:
    text = resources.files("retro.qa").joinpath("prompts.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = parse_yaml(text)
    return data
