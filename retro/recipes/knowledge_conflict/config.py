"""Settings of the knowledge conflict recipe: the section `recipe.knowledge_conflict` of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from retro.common.config import StageConfig
from retro.common.errors import require
from retro.qa.metrics.normalize import normalize_answer
from retro.recipes.knowledge_conflict.items import Condition
from retro.recipes.knowledge_conflict.substitution import Policy
from retro.teacher.config import TeacherConfig

Form = Literal[
    "questions", "items", "conflictqa", "nq_swap", "faitheval_unanswerable", "faitheval_inconsistent",
    "faitheval_counterfactual",
]  # fmt: skip


class SetsConfig(StageConfig):
    """Which questions are asked, and under which conditions."""

    questions: Path | None = None
    """The file: questions with `answers` and `ctxs`, or one of a published set."""

    form: Form = "questions"
    """What the file is. `questions`: as `task` reads it, and passages are changed here. `items`: conflict items that
    this recipe made before. The others: published sets, whose passages are there already."""

    task: str = "qa"
    """With `questions`: how the file is read, a name that `retro tasks` lists, or a YAML file of your own."""

    limit: PositiveInt | None = None
    """Take the first so many questions only; absent: all."""

    conditions: tuple[Condition, ...] = Field(
        default=(
            "original", "substituted", "irrelevant", "unanswerable", "original_first", "counter_first",
            "counter_memory", "contradicting",
        ),
        min_length=1,
    )  # fmt: skip
    """What is read beside the question; closed-book is always asked. Those that an item cannot have are left out of it
    and counted. `counter_memory` needs a teacher, or a set that has such passages; `contradicting` such a set."""

    passages: PositiveInt = 1
    """Passages shown in each condition; where both sides are shown, so many of each."""

    supporting_only: bool = True
    """Whether `original` shows only passages that have an answer; else the first ones, of which one must have it."""

    substitution: Policy = "corpus"
    """What takes the place of an answer. `corpus`: an answer of the same type to another question. `type_swap`: one of
    another type. `alias`: another name of the same answer."""

    types: Path | None = None
    """A YAML file of lists of names by type, such as person and place; the rules of `entity_types.py` go before it."""

    spacy: str = ""
    """Name or folder of an installed spaCy model that types what no rule and no list does; empty: none is asked."""

    evidence: Literal["memory", "aligned"] = "memory"
    """ConflictQA: which of its passages of each side are shown first, those written from memory or the aligned ones."""

    choices: bool = False
    """ConflictQA: ask with the two answers and `uncertain` as options, in an order drawn for each question, as its
    paper does."""

    seed: NonNegativeInt = 1234
    """Seed of everything that is drawn."""

    @model_validator(mode="after")
    def _consistent(self) -> SetsConfig:
        require(self, "conditions", len(set(self.conditions)) == len(self.conditions), "each condition once")
        both = {"original_first", "counter_first"} & set(self.conditions)
        need = f"original beside {', '.join(sorted(both))}, which show its passages too"
        require(self, "conditions", not both or "original" in self.conditions, need)
        need = "form=conflictqa, whose questions have two answers to choose from"
        require(self, "choices", not self.choices or self.form == "conflictqa", need)
        return self


class CounterMemoryConfig(StageConfig):
    """Passages that a teacher writes in support of the other answer (Xie et al. 2024, arXiv:2305.13300)."""

    teacher: TeacherConfig | None = None
    """Who writes them; absent: nobody does, and the condition counter_memory is that of the published set, if any."""

    temperature: float = Field(default=0.0, ge=0)
    """Of the replies."""

    max_tokens: PositiveInt = 256
    """Longest passage, in tokens."""


class PhrasesConfig(StageConfig):
    """Phrases that say that there is no answer, or more than one; found as whole words in a normalized answer, with
    `n't` written out. Of a rationale only the last sentence says that there is none."""

    unknown_strict: tuple[str, ...] = Field(default=("unknown",), min_length=1)
    """The word that FaithEval asks for where the passages hold no answer."""

    unknown: tuple[str, ...] = Field(
        default=(
            "unknown", "no answer", "no information", "unclear", "uncertain", "unanswerable", "not know", "not known",
            "not clear", "not certain", "not sure", "not say", "not state", "not stated", "not mention",
            "not mentioned", "not specify", "not specified", "not given", "not provided", "not available",
            "not be determined", "not determine", "not be answered", "not answer", "not have the answer",
            "not contain the answer", "not give the answer", "not provide the answer", "not enough information",
        ),
        min_length=1,
    )  # fmt: skip
    """Non-strict; the first four are FaithEval's, whose bare `not` is in `Paris, not Rome` as well. An answer with one
    of these abstains."""

    unknown_whole: tuple[str, ...] = ("none",)
    """Likewise, where it is a sentence by itself: `none`, but not `none of the others`."""

    conflict_strict: tuple[str, ...] = Field(default=("conflict",), min_length=1)
    """The word that FaithEval asks for where passages contradict one another."""

    conflict: tuple[str, ...] = Field(
        default=(
            "conflict", "conflicting", "multiple answers", "disagreement", "inconsistent", "inconsistency",
            "contradictory", "contradiction", "two answers", "2 answers",
        ),
        min_length=1,
    )  # fmt: skip
    """Non-strict."""

    @model_validator(mode="after")
    def _can_be_found(self) -> PhrasesConfig:
        for name, phrases in self.model_dump().items():
            empty = [one for one in phrases if not normalize_answer(one)]
            require(self, name, not empty, f"phrases with a word that is no article, which {empty} lack")
        return self


class KnowledgeConflictConfig(StageConfig):
    """Knowledge conflict: memory against passages."""

    sets: SetsConfig = SetsConfig()
    """Questions and conditions."""

    counter_memory: CounterMemoryConfig = CounterMemoryConfig()
    """Passages that a teacher writes."""

    prompts: Path | None = None
    """A file of texts laid over `prompts.yaml`."""

    checkpoint: Path | None = None
    """The model that is asked; absent: that of `generate`."""

    kind: str = ""
    """The kind of question in the prompt texts, such as `instruct_rag` of a style.yaml that generate.prompts names: a
    tuned model is asked as it was tuned. Empty: with options, to be answered by true or false, or as the task says."""

    instruction: Literal["task", "abstain"] = "task"
    """What is asked for before the question, in styles that have instructions. `task`: what the task says. `abstain`:
    a short answer, `unknown` where the passages hold none, `conflict` where they disagree, as in FaithEval."""

    metric: str = ""
    """What makes an answer right: a metric of docs/evaluation.md; half of its range or more counts as right. Empty:
    `accuracy` for questions with options or answered by true or false, else `substring_match`."""

    phrases: PhrasesConfig = PhrasesConfig()
    """What counts as saying that there is no answer."""

    confidence: bool = True
    """Whether the log-probabilities of the answers are measured."""

    report_cases: NonNegativeInt = 5
    """Example cases of each quadrant on the page, the first of the file."""
