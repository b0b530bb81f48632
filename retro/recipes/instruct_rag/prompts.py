"""Texts of the recipe: what is asked for a rationale, and how documents and question stand in every prompt."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import model_validator

from retro.common.config import StageConfig
from retro.common.files import atomic_path
from retro.common.yaml_files import parse_yaml
from retro.qa.prompt_texts import StyleTexts
from retro.qa.prompts import render_passages, shown_order
from retro.qa.question import PassageLike, PassageOrder
from retro.recipes.prompt_files import PromptFile, filled, require_places

Situation = Literal["given", "both", "memory", "context", "neither"]
KIND = "instruct_rag"
"""The kind of question in the texts that `write_style` writes."""


class Instructions(StageConfig):
    """What stands before a question that is answered."""

    documents: str
    """Below documents."""
    demonstrations: str
    """Below demonstrations with rationales and documents, and in each demonstration."""
    examples: str
    """The same for demonstrations with answers."""
    memory: str
    """Without documents."""


class Texts(PromptFile):
    """All of a prompts file."""

    package: ClassVar[str] = "retro.recipes.instruct_rag"

    rationale: dict[Situation, str]
    recall: str
    judge: str
    instructions: Instructions

    @model_validator(mode="after")
    def _whole(self) -> Texts:
        for situation in ("given", "both", "memory", "context", "neither"):
            names = ["documents", "question", "answers", *([] if situation == "given" else ["recalled"])]
            require_places(f"rationale.{situation}", self.rationale.get(situation, ""), names, optional=("hint",))
        require_places("recall", self.recall, ("question",))
        require_places("judge", self.judge, ("question", "answers", "rationale"))
        for name in Instructions.model_fields:
            require_places(f"instructions.{name}", getattr(self.instructions, name), ())
        return self


def as_question(text: str) -> str:
    """A question as prompts have it: without what stands before it in some files, and with a question mark."""
    question = text.strip().lstrip(".").strip()
    return question if question.endswith(("?", "？", "?!")) else f"{question.rstrip('.')}?"


def with_recalled(question: str, recalled: str) -> str:
    """A question behind what the model recalled without documents."""
    known = recalled.strip()
    return f"What was recalled before reading: {known}\n\n{question}" if known not in ("", "-") else question


def style_data(texts: Texts) -> dict[str, Any]:
    """The prompt texts with which questions are asked, in tuning and in use."""
    data: dict[str, Any] = parse_yaml(_resource("style.yaml"))
    data["kinds"][KIND]["instruction"] = texts.instructions.documents
    return data


def write_style(texts: Texts, path: Path) -> Path:
    """Write these texts, as `sft.data.prompts` and `generate.prompts` read them."""
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(style_data(texts), sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def rendered_documents(form: StyleTexts, documents: Sequence[PassageLike], order: PassageOrder, kept: int) -> str:
    """Documents as a style shows them, with the numbers that they have where all of them are shown.

    Args:
        form: The style.
        documents: All, best first.
        order: How they stand.
        kept: So many of the best are shown.
    """
    shown = zip(render_passages(form, documents, order), shown_order(len(documents), order), strict=True)
    return "".join(text for text, rank in shown if rank < kept).rstrip()


def rationale_prompt(
    texts: Texts,
    situation: Situation,
    *,
    documents: str,
    question: str,
    answers: str,
    hint: str,
    recalled: str,
) -> str:
    """What is asked for the rationale of one question."""
    values = {"documents": documents, "question": question, "hint": hint, "recalled": recalled or "-"}
    prompt = filled(texts.rationale[situation], values | {"answers": answers})
    return prompt.strip()


def _resource(name: str) -> str:
    return resources.files("retro.recipes.instruct_rag").joinpath(name).read_text(encoding="utf-8")
