"""Texts of the recipe, from `prompts.yaml` and a user's file that is laid over it."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from retro.recipes.prompt_files import PromptFile, filled, require_places


class Texts(PromptFile):
    """All of a prompts file."""

    package: ClassVar[str] = "retro.recipes.knowledge_conflict"

    counter_memory: str
    """What the teacher is asked for, with {question}, {answer} and perhaps {avoid}."""
    uncertain: str = Field(min_length=1)
    """The option that decides for neither answer."""
    abstain: str = Field(min_length=1)
    """Said before a question with `instruction: abstain`."""

    @model_validator(mode="after")
    def _have_their_places(self) -> Texts:
        require_places("counter_memory", self.counter_memory, ("question", "answer"), ("avoid",))
        return self

    def counter_prompt(self, question: str, answer: str, avoid: str) -> str:
        """What the teacher is asked for."""
        return filled(self.counter_memory, {"question": question, "answer": answer, "avoid": avoid})
