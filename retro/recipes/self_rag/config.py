"""Settings of the Self-RAG recipe: the section `recipe.self_rag` of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from retro.common.config import StageConfig
from retro.common.errors import require
from retro.recipes.passages.config import PassagesConfig
from retro.recipes.tuning import TuneConfig
from retro.teacher.config import TeacherConfig

Mode = Literal["adaptive_retrieval", "no_retrieval", "always_retrieve"]
MODES: tuple[Mode, ...] = ("adaptive_retrieval", "no_retrieval", "always_retrieve")


class WeightsConfig(StageConfig):
    """How the parts of a score are weighted (arXiv:2310.11511, section 3.3)."""

    w_rel: float = 1.0
    """Weight of s_rel, whether the passage is relevant."""

    w_sup: float = 1.0
    """Weight of s_sup, whether the passage supports what is said."""

    w_use: float = 0.5
    """Weight of s_use, how useful the answer is."""

    use_groundness: bool = True
    """Whether s_sup counts."""

    use_utility: bool = True
    """Whether s_use counts."""

    use_seqscore: bool = True
    """Whether the mean probability of the tokens counts."""


class DecodeConfig(StageConfig):
    """How questions are answered."""

    form: Literal["short", "long"] = "short"
    """`short`: one passage an answer, the best answer is taken. `long`: segment by segment, each from a passage, in a
    beam search, with citations."""

    modes: tuple[Mode, ...] = Field(default=("adaptive_retrieval",), min_length=1)
    """When passages are read. `adaptive_retrieval`: where the model wants them, by `threshold`. Several are answered
    one after another and compared."""

    threshold: float | None = Field(default=0.2, ge=0, lt=1)
    """Passages are read where p([Retrieval]) / (p([Retrieval]) + p([No Retrieval])) is above it; 0.2 for most of the
    paper's tasks, 0 for ASQA. null: where the model itself writes [Retrieval]."""

    ndocs: PositiveInt = 10
    """Passages tried for each question, or for each segment."""

    max_new_tokens: PositiveInt = 100
    """Longest answer, or segment, in tokens."""

    weights: WeightsConfig = WeightsConfig()
    """Of the parts of a score."""

    vote: bool = False
    """short: answers that say the same add their scores, for questions with few possible answers (ARC, PubHealth);
    else the best single answer is taken."""

    max_depth: PositiveInt = 6
    """long: most segments of an answer."""

    beam_width: PositiveInt = 2
    """long: unfinished answers that are continued."""

    ignore_cont: bool = False
    """long: drop segments that the model finds unsupported, unless there is no other."""

    search_each_segment: bool = False
    """long: search anew for each segment, with the question and the text so far, in place of the question's passages
    for all of them. Needs a database and an index."""

    @property
    def identity(self) -> dict[str, object]:
        """What decides answers, beside the mode."""
        return self.model_dump(mode="json", exclude={"modes"})


class CriticConfig(StageConfig):
    """The critic: a model that labels, in place of a teacher that costs."""

    items: Path | None = None
    """JSON lines to be labelled by the teacher: `task` (retrieval, multi_retrieval, relevance, groundness or utility),
    `instruction`, and what the task looks at: `evidence`, `output`, `preceding_sentences`."""

    labelled: Path | None = None
    """Items that are labelled already, in place of `items`: `task`, `instruction`, `input`, `output`."""

    teacher: TeacherConfig = TeacherConfig()
    """Who labels."""

    temperature: NonNegativeFloat = 1.0
    """Of the teacher; the paper's is 1."""

    max_tokens: PositiveInt = 200
    """Longest reply of the teacher."""

    drop_relevant: float = Field(default=0.3, ge=0, lt=1)
    """Share of the items labelled [Relevant] that is left out, for balance."""

    dev: NonNegativeInt = 1500
    """Items held out to measure agreement; at most a tenth of them all."""

    tune: TuneConfig = TuneConfig()
    """How it is tuned."""

    checkpoint: Path | None = None
    """A critic that is tuned already, in place of tuning one."""

    batch_size: PositiveInt = 16
    """Items labelled at once."""

    seed: NonNegativeInt = 1234
    """Of what is left out and held out."""

    @property
    def has_data(self) -> bool:
        """Whether there is anything to tune it on."""
        return self.items is not None or self.labelled is not None


class DataConfig(StageConfig):
    """How training data of the generator is made (arXiv:2310.11511, section 3.2.2 and appendix)."""

    items: Path | None = None
    """JSON lines with `instruction` and `output`, and perhaps `input`, `id`, `topic`, `dataset_name`."""

    samples: Path | None = None
    """Training data that is made already, in place of making it: `instruction`, `input`, `output` with tokens."""

    evidence: PositiveInt = 10
    """Passages found for an item as a whole."""

    top_n: PositiveInt = 10
    """Passages judged for each sentence, at most."""

    shortest: NonNegativeInt = 30
    """Characters below which a sentence of an output of more than two is not searched for."""

    judge_with_output: tuple[str, ...] = ()
    """Sets (`dataset_name`) whose need for retrieval is judged from instruction and output together."""

    keep_no_retrieval: float = Field(default=0.4, ge=0, le=1)
    """Share of the items without retrieval that is kept."""

    keep_partial: float = Field(default=0.7, ge=0, le=1)
    """Chance that a partially supporting passage is taken where none supports fully."""

    keep_unsupported: float = Field(default=0.25, ge=0, le=1)
    """Chance that a relevant passage without support is taken where none supports."""

    force_irrelevant: tuple[str, ...] = ("nq", "fever")
    """Sets in which irrelevant passages are taken on purpose."""

    irrelevant_share: float = Field(default=0.1, ge=0, le=1)
    """Share of the sentences of those sets that get one."""

    seed: NonNegativeInt = 1234
    """Of what is drawn."""

    @property
    def is_given(self) -> bool:
        """Whether there is anything to tune the generator on."""
        return self.items is not None or self.samples is not None


class GeneratorConfig(StageConfig):
    """The generator: the model that answers."""

    tune: TuneConfig = TuneConfig()
    """How it is tuned."""

    checkpoint: Path | None = None
    """A Self-RAG model that is tuned already, in place of tuning one."""

    batch_size: PositiveInt = 8
    """Questions answered at once; each tries `ndocs` passages."""


class SelfRagConfig(StageConfig):
    """Settings of the recipe. Questions to be answered are those of the section `generate`."""

    critic: CriticConfig = CriticConfig()
    """The critic."""

    data: DataConfig = DataConfig()
    """Training data of the generator."""

    generator: GeneratorConfig = GeneratorConfig()
    """The generator."""

    decode: DecodeConfig = DecodeConfig()
    """How it answers."""

    passages: PassagesConfig = PassagesConfig()
    """Passages with embeddings of their own, such as DPR's; without a file of them the run's database is searched. How
    many are found is said by `decode.ndocs` and `data`, not by its `n_docs`."""

    retrieve: Path | None = None
    """A JSON or JSONL file whose items have `question` or `instruction`: passages are added to them, as `ctxs`, and
    they are what is answered."""

    metrics: tuple[str, ...] = ()
    """What answers are scored by, the main metric first, in place of the task's; the original's `match` is
    `match_raw`."""

    prompts: Path | None = None
    """A file laid over the recipe's own prompts (`retro/recipes/self_rag/prompts.yaml`)."""

    @model_validator(mode="after")
    def _consistent(self) -> SelfRagConfig:
        require(self.critic, "labelled", not (self.critic.items and self.critic.labelled), "no items beside it")
        require(self.data, "samples", not (self.data.items and self.data.samples), "no items beside it")
        return self
