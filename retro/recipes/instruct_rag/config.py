"""Settings of the InstructRAG recipe: the section `recipe.instruct_rag` of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from retro.common.config import StageConfig
from retro.common.errors import require
from retro.qa.question import PassageOrder
from retro.recipes.passages.config import PassagesConfig
from retro.recipes.tuning import TuneConfig
from retro.teacher.config import TeacherConfig

Mode = Literal["closed_book", "rag", "few_shot", "icl", "ft"]
"""`closed_book`: no documents. `rag`: documents, the model as it is. `few_shot`: and demonstrations with answers.
`icl`: demonstrations with rationales (InstructRAG-ICL). `ft`: the tuned model (InstructRAG-FT)."""


class DocumentsConfig(StageConfig):
    """Which documents a prompt shows, and in what order."""

    count: PositiveInt | None = None
    """How many; absent: as many as the set's (5, for 2WikiMultiHopQA 10)."""

    order: PassageOrder = "best_last"
    """How they stand: the published order is best_last, nearest to the question."""

    noise: NonNegativeInt = 0
    """So many of the shown documents, the worst ranked, are replaced by documents of other questions that hold no
    answer."""

    answer_place: PositiveInt | None = None
    """The place, from 1, to which the best document that holds an answer is moved: for measuring how much is lost in
    the middle (Liu et al. 2023, arXiv:2307.03172). Absent: where its rank puts it."""

    seed: NonNegativeInt = 1234
    """Of the noise."""


class RationaleConfig(StageConfig):
    """Rationales for the training questions."""

    teacher: TeacherConfig = TeacherConfig(kind="engine")
    """Who writes them. As published, the model itself: `kind: engine` without a run."""

    temperature: NonNegativeFloat = 0.0
    """Of the teacher."""

    seed: NonNegativeInt = 0
    """Number of the sample, where the temperature is above 0."""

    max_tokens: PositiveInt = 512
    """Longest rationale."""

    prompt_tokens: PositiveInt | None = None
    """Most tokens of its prompt: the worst documents beyond are left out, and counted. Absent: what fits the model, if
    that is the recipe's own; else no limit. Tokens of other teachers are estimated at 4 bytes each."""

    limit: PositiveInt | None = None
    """Only the first so many training questions; absent: all."""

    by_situation: bool = False
    """First ask what the model recalls without documents, and explain by whether that or a document holds the answer
    (the knowledge-conflict extension)."""

    judge: TeacherConfig | None = None
    """Who judges whether a rationale comes to the answer. Absent: it does if it contains one, as published."""

    keep: Literal["all", "consistent"] = "all"
    """What is tuned on: all rationales, as published, or those that come to the answer."""

    keep_cut: bool = False
    """Also tune on rationales that were cut at `max_tokens`: they teach to stop in the middle. Empty ones are always
    left out; both are counted."""


class DemonstrationsConfig(StageConfig):
    """Questions shown with their rationales, or answers, before the one that is asked."""

    count: PositiveInt = 2
    """How many."""

    file: Path | None = None
    """Items with `question`, `answers` and `rationale`; absent: those that the step `rationales` wrote."""

    choose: Literal["first", "random"] = "first"
    """Which of them."""

    consistent: bool = True
    """Only those whose rationale contains an answer."""

    with_answer: bool = False
    """Only those of which a document holds an answer."""

    seed: NonNegativeInt = 1234
    """Of a random choice."""


class InstructRagConfig(StageConfig):
    """Settings of the recipe."""

    set: str = "popqa"
    """Which of the sets: popqa, tqa, nq, asqa, 2wiki, or one of `sets`."""

    sets: Path | None = None
    """A file laid over the recipe's own table of sets (`retro/recipes/instruct_rag/sets.yaml`)."""

    train: Path | None = None
    """Training questions with `ctxs`, in the set's own form or the published one."""

    test: Path | None = None
    """Questions that are answered."""

    retrieve: bool = False
    """Search passages for both files, in place of the `ctxs` that they have: in `passages`, or the run's database."""

    passages: PassagesConfig = PassagesConfig()
    """Passages with embeddings of their own; without a file of them the run's database is searched. How many are found
    is said by `documents`, not by its `n_docs`."""

    documents: DocumentsConfig = DocumentsConfig()
    """What prompts show."""

    test_documents: DocumentsConfig | None = None
    """What prompts show in the test; absent: as `documents` says."""

    rationale: RationaleConfig = RationaleConfig()
    """Rationales."""

    demonstrations: DemonstrationsConfig = DemonstrationsConfig()
    """For the modes few_shot and icl."""

    learn: Literal["rationale", "answer"] = "rationale"
    """What the tuned model writes: rationales, or the answer alone (the paper's SFT baseline)."""

    tune: TuneConfig = TuneConfig()
    """How the model is tuned. The paper: 2 epochs, global batch 128, lr 2.5e-5, cosine, warm-up .03, 4,096 tokens."""

    checkpoint: str = ""
    """A tuned model for the mode ft, in place of tuning one: a folder, or a set's and a retriever's name as
    `popqa/contriever`, looked up in `checkpoints`."""

    checkpoints: Path | None = None
    """A file laid over the recipe's own table of tuned models (`checkpoints.yaml` beside it)."""

    modes: tuple[Mode, ...] = Field(default=("closed_book", "rag", "icl", "ft"), min_length=1)
    """How questions are answered; the modes are compared."""

    recall: bool = False
    """Write what the model recalled without documents into the prompt, in training and test (the knowledge-conflict
    extension)."""

    max_new_tokens: PositiveInt = 512
    """Longest answer."""

    batch_size: PositiveInt = 16
    """Questions answered at once."""

    metrics: tuple[str, ...] = ()
    """What answers are scored by, the main metric first; empty: the set's."""

    cases: PositiveInt = 50
    """Questions on the page of cases."""

    prompts: Path | None = None
    """A file laid over the recipe's own prompts (`prompts.yaml` beside it)."""

    @model_validator(mode="after")
    def _consistent(self) -> InstructRagConfig:
        require(self, "modes", len(set(self.modes)) == len(self.modes), "each mode once")
        return self

    @property
    def documents_of_test(self) -> DocumentsConfig:
        """What prompts of the test show."""
        return self.test_documents or self.documents

    @property
    def needs_rationales(self) -> bool:
        """Whether the step that writes rationales is asked for."""
        own = self.demonstrations.file is None and bool({"icl", "few_shot"} & set(self.modes))
        return self.train is not None and (own or (self.tunes and self.learn == "rationale"))

    @property
    def tunes(self) -> bool:
        """Whether a model is tuned."""
        return "ft" in self.modes and not self.checkpoint
