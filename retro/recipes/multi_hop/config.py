"""Settings of the recipe: the section `recipe.multi_hop` of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from retro.common.config import StageConfig
from retro.common.errors import require
from retro.recipes.multi_hop.answer_config import AnswerConfig, TrainingConfig
from retro.teacher.config import TeacherConfig

Flow = Literal["entities", "attributes", "comparison"]
FLOWS: tuple[Flow, ...] = ("entities", "attributes", "comparison")
QuestionType = Literal["wh", "yes_no"]
Count = NonNegativeInt | Literal["all"]
Share = Annotated[float, Field(ge=0, le=1)]


class SquadConfig(StageConfig):
    """SQuAD 2.0: single-hop questions, with and without an answer in their paragraph."""

    path: Path | None = None
    """Its file, such as `train-v2.0.json`; absent: none are converted."""

    answerable: Count = 4000
    """Questions with an answer that are drawn; `all`."""

    unanswerable: Count = 2400
    """Questions without one that are drawn; `all`."""


class BoolqConfig(StageConfig):
    """BoolQ: single-hop questions that are answered yes or no, with the reasoning."""

    path: Path | None = None
    """Its file, such as `train.jsonl`; absent: none are converted."""

    items: Count = 1600
    """Questions that are drawn; `all`."""


class DropConfig(StageConfig):
    """DROP: single-hop questions whose answers are counted, added or compared, with the arithmetic."""

    path: Path | None = None
    """Its file, such as `drop_dataset_train.json`; absent: none are converted."""

    items: Count = 1600
    """Questions that are drawn; `all`."""


class MusiqueConfig(StageConfig):
    """MuSiQue: multi-hop questions with their sub-questions. Those with `>>` in one are left out."""

    path: Path | None = None
    """Its file, such as `musique_full_v1.0_train.jsonl`; absent: none are converted."""

    answerable: Count = "all"
    """Questions with an answer that are drawn; `all`; published are 5,847."""

    unanswerable: Count = 2400
    """Questions of which a sub-question has no answer in its paragraph that are drawn; `all`."""


class ConvertConfig(StageConfig):
    """Public data sets become items: a teacher writes full answers, those that lack the gold answer are left out."""

    squad: SquadConfig = SquadConfig()
    boolq: BoolqConfig = BoolqConfig()
    drop: DropConfig = DropConfig()
    musique: MusiqueConfig = MusiqueConfig()

    teacher: TeacherConfig = TeacherConfig()
    """Who writes full answers, at temperature 0."""

    max_tokens: PositiveInt = 400
    """Longest reply of the teacher."""

    require_gold: bool = True
    """Whether an answer must say the gold answer, or where there is none, that there is none. Else the item is dropped
    and counted."""

    skip_bad: bool = False
    """Whether items of the files that cannot be used are counted, instead of refused."""

    seed: NonNegativeInt = 1234
    """Of what is drawn."""

    @property
    def is_given(self) -> bool:
        """Whether there is a file to convert."""
        return any(one.path is not None for one in (self.squad, self.boolq, self.drop, self.musique))


class CreateConfig(StageConfig):
    """A teacher makes multi-hop questions, with their sub-questions, paragraphs and answers."""

    categories: Path | None = None
    """File of categories: names between commas, over as many lines as one likes; or YAML, a list, or sub-categories
    under categories. Absent: no questions are made."""

    flows: tuple[Flow, ...] = Field(default=("entities", "attributes"), min_length=1)
    """Ways to a question. `entities`: one attribute of two entities, in 16 steps. `attributes`: two attributes of one
    entity. `comparison`: the older form of `entities`, in 12 steps."""

    items_per_category: PositiveInt = 1
    """Questions of each category, in each flow."""

    items: PositiveInt | None = None
    """Most questions of each flow, drawn from those of all categories; absent: all of them."""

    question_types: tuple[QuestionType, ...] = Field(default=("wh", "yes_no"), min_length=1)
    """Kinds of questions, one drawn for each: with a question word, or answered yes or no."""

    temperature: tuple[PositiveFloat, PositiveFloat] = (0.7, 1.0)
    """Lowest and highest of questions and paragraphs; each request has one between them, drawn by the seed."""

    re_generate_answer: bool = True
    """Whether answers are asked for by themselves, at temperature 0, from the paragraphs alone. Else they come with
    the questions, in one reply."""

    retries: NonNegativeInt = 5
    """Tries after the first one where a reply is malformed or fails a filter, each another sample."""

    negative_share: Share = 0.1
    """Items made besides, as a share of those of a flow, in which the paragraph of one sub-question or of both is that
    of another item, and does not hold the answer. The original made 1,200 of each flow."""

    single_share: Share = 0.0
    """Share of the sub-questions that become single-hop items too."""

    teacher: TeacherConfig = TeacherConfig()
    """Who makes them."""

    max_tokens: PositiveInt = 1200
    """Longest reply with a question; those with an answer are a third of it at most."""

    seed: NonNegativeInt = 1234
    """Of what is drawn."""

    @model_validator(mode="after")
    def _consistent(self) -> CreateConfig:
        low, high = self.temperature
        require(self, "temperature", low <= high, "the lower one first")
        for name in ("flows", "question_types"):
            value = getattr(self, name)
            require(self, name, len(set(value)) == len(value), "each of them once")
        return self


class MultiHopConfig(StageConfig):
    """Settings of the recipe."""

    convert: ConvertConfig = ConvertConfig()
    """Items from public data sets."""

    create: CreateConfig = CreateConfig()
    """Items that a teacher makes."""

    training: TrainingConfig = TrainingConfig()
    """Tuning a model on items."""

    answer: AnswerConfig = AnswerConfig()
    """Answering questions with a model."""

    prompts: Path | None = None
    """A file laid over what the teacher is asked (`retro/recipes/multi_hop/prompts.yaml`)."""
