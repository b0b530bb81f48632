"""Settings of answering questions with a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from retro.common.config import StageConfig, rename_key, unknown_name, warn_renamed
from retro.common.errors import ConfigError, require
from retro.common.precision import InferencePrecision
from retro.index.config import SearchConfig
from retro.qa.question import PassageOrder
from retro.tokenizers.conventions import AddSpecialTokens

Setting = Literal[
    "with_passages", "retrieved_passages", "live_retrieval", "gold_passages", "closed_book", "shuffled_passages"
]

_ASKED: dict[str, Setting] = {
    "retriever": "retrieved_passages",
    "live": "live_retrieval",
    "none": "closed_book",
}
"""Where `retro ask` takes passages from, and the setting that this is."""

LEAST_PENALTY, LARGEST_PENALTY = 0.01, 100.0
"""Of a repetition. Beyond them a logit may become infinite, and then there is nothing to choose from."""


@dataclass(frozen=True, kw_only=True)
class ModelPaths:
    """Where a model, and the database that it is given passages from, are."""

    checkpoint: Path
    """A checkpoint, a directory of them, a finished stage that trains, or a model of another toolkit."""
    corpus: Path
    """The corpus stage; none is needed where nothing is searched and the checkpoint has a tokenizer."""
    db: Path
    """The chunk database, or a version of it; opened when something is searched."""
    index: Path
    """Its index; likewise."""
    search: SearchConfig = field(default_factory=SearchConfig)
    """By what it is searched."""


def setting_of(passages_from: str) -> Setting:
    """What a question of `retro ask` is asked with.

    Raises:
        ConfigError: There is no such source of passages.
    """
    if passages_from not in _ASKED:
        need = unknown_name(passages_from, list(_ASKED)).replace("a setting", "a source of passages")
        raise ConfigError("--passages-from", passages_from, need)
    return _ASKED[passages_from]


def current_names(data: Any) -> Any:
    """Settings of generation with `precision` and `retrieval_interval` where an older toolkit had other names."""
    data = rename_key(data, "GenerateConfig", "retrieval_every", "retrieval_interval")
    return rename_key(data, "GenerateConfig", "bfloat16", values={True: "bfloat16", False: "float32"})


class SamplingConfig(StageConfig):
    """How the next token is chosen."""

    temperature: NonNegativeFloat = 0.0
    """Divides the logits before drawing: below 1 sharpens, above 1 flattens. 0 takes the likeliest token."""

    top_k: NonNegativeInt = 0
    """Draw from so many of the likeliest tokens; 0: from all."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw from the likeliest tokens that together have this probability (Holtzman et al. 2020, arXiv:1904.09751); with
    top_k too, from the likeliest of what that leaves."""

    repetition_penalty: float = Field(default=1.0, ge=LEAST_PENALTY, le=LARGEST_PENALTY)
    """Divides positive and multiplies negative logits of tokens that stand in prompt or answer (Keskar et al. 2019,
    arXiv:1909.05858); 1 changes nothing."""

    min_new_tokens: NonNegativeInt = 0
    """Tokens before an answer may end."""

    stop: tuple[str, ...] = ()
    """Texts that end an answer, beside those of the task."""

    @model_validator(mode="after")
    def _consistent(self) -> SamplingConfig:
        require(self, "stop", all(self.stop), "texts that are not empty")
        drawing = self.temperature > 0
        need = "0 at temperature 0, which takes the likeliest token; set generate.sampling.temperature to draw"
        require(self, "top_k", drawing or self.top_k == 0, need)
        require(self, "top_p", drawing or self.top_p == 1.0, need.replace("0 at", "1 at", 1))
        return self

    @property
    def tag(self) -> str:
        """The name that files of the original tools have for it."""
        if self.temperature == 0:
            return "greedy"
        return "topk" if self.top_k else "topp" if self.top_p < 1 else "sampled"


class GenerateConfig(StageConfig):
    """Answer the questions of a file in one or more settings."""

    name: str = Field(default="", pattern=r"^[A-Za-z0-9_.-]*$")
    """Names the answers where one run is asked several times: they go to `7_generate_<name>`, their scores to
    `8_evaluate_<name>`. Empty: the folders without a name."""

    checkpoint: Path | None = None
    """The model that answers; absent: the one this run tuned."""

    step: PositiveInt | None = None
    """The checkpoint of this training step, where `checkpoint` holds several; absent: the newest."""

    sequence_length: PositiveInt | None = None
    """Tokens of prompt and answer together that the model is opened for; absent: those it was trained for here, and of
    a model of another toolkit at most 4,096. No more than its folder says, and only with rotary positions."""

    size: str | None = None
    """Size that the checkpoint must have, such as 843m; absent: whatever it has. A check; it shapes nothing."""

    questions: tuple[Path, ...] = ()
    """Question files. With none: `<data>/<task>/<task>_QA_<split>.json` if `data` is given, else the
    questions that the corpus stage derived from its own documents."""

    data: Path | None = None
    """Folder of question sets."""

    split: Literal["train", "valid", "dev", "test"] = "test"
    """Which part of the set is asked, where `questions` is empty."""

    limit: PositiveInt | None = None
    """Ask the first so many questions only, as if the files held no more; None: all. A share of them for one of several
    processes is `start` and `count`."""

    task: str = "qa"
    """How questions are read, asked and scored: a name that `retro tasks` lists, or a YAML file of your own."""

    settings: tuple[Setting, ...] = Field(default=("with_passages", "closed_book", "shuffled_passages"), min_length=1)
    """What is read beside the question. `with_passages`: those of `passages_from`. `retrieved_passages`: what a search
    of the database with the question finds. `live_retrieval`: that, and while the answer grows what each of its chunks
    finds. `gold_passages`: the question's own contexts, of the documents that hold the answer. `closed_book`: nothing.
    `shuffled_passages`: those of `passages_from` of another question; what is left of a gain then is not retrieval."""

    retrieval_interval: PositiveInt | None = None
    """With live_retrieval: generated tokens between two searches, 1 to M (the papers' retrieval step); absent: M, one
    search for each chunk."""

    sampling: SamplingConfig = SamplingConfig()
    """How the next token is chosen."""

    seed: NonNegativeInt = 1234
    """Seed of drawing, and of which question's passages are swapped in."""

    max_new_tokens: PositiveInt | None = None
    """Longest answer, in tokens; it ends earlier at the end-of-document token or a stop text. Absent: as the task
    says."""

    batch_size: PositiveInt = 16
    """Questions answered at once. Also the unit of resuming."""

    passages: PositiveInt = 2
    """Passages the encoder reads for each question, K."""

    contexts_in_prompt: NonNegativeInt = 1
    """Passages shown in the prompt itself."""

    passage_order: PassageOrder = "best_first"
    """How passages stand in the prompt: `best_first`, `best_last` (nearest to the question), or `best_at_ends`. What
    does not fit is cut from the worst, however they stand. Use what the model was tuned with."""

    passages_from: Literal["contexts", "retriever"] = "contexts"
    """Where passages come from: the question's own contexts, or a search of the database with the
    question."""

    neighbor_text: Literal["text", "title_and_text"] = "title_and_text"
    """What of a passage the encoder reads. Use what the model was tuned with."""

    style: Literal["plain", "instructretro", "chat"] = "instructretro"
    """Prompt style. Use what the model was tuned with. `chat` writes the turns with the chat template of the
    tokenizer's folder (docs/generation.md)."""

    add_special_tokens: AddSpecialTokens = "auto"
    """Whether prompts begin with a begin-of-sequence token. `auto`: with what the tokenizer's folder adds by itself,
    which is nothing for a tokenizer of one's own; true: with that, or else the bos_token it names; false: never. In
    style `chat` the template writes what belongs there, whatever this says."""

    prompts: Path | None = None
    """A file of prompt texts, merged over the shipped ones (docs/tuning.md). Use what the model was tuned with."""

    template: str = ""
    """One of the alternative templates of the prompt texts; empty: the usual prompt."""

    encoder: bool = True
    """Whether the encoder reads passages. Off for a GPT, or to have passages in the prompt alone."""

    precision: InferencePrecision = "auto"
    """What the model computes in, whatever it was trained in. `auto` is bfloat16 on a GPU that has it and on CPUs with
    amx_bf16 or avx512_bf16, else float32; answers that were begun continue in what they were begun in.
    `float16_weights`, on x86 CPUs, is float32 with the weights of linear layers kept in float16: half the memory to
    read for each token, so single answers come about twice as fast; each weight is rounded by a part in 2,048 at most.
    """

    separate_adapters: bool = False
    """Keep the adapters of a checkpoint (train.lora) apart from the weights of their base, and add what they give in
    each layer; else they are added to the weights when the model is loaded, which is faster."""

    allow_unchanged_adapters: bool = False
    """Answer with adapters that change nothing, such as those of a training that took no step. Else they are an error:
    a model with adapters must compute something else than its base."""

    plain_output: bool = False
    """Whether to write predictions as the original tools do too: one line a question, in
    `retro-generate-<task>_<contexts in prompt>_<passages>_<size>_<split>_<sampling>_<start>_<count>_<step>.txt`, with
    the setting's name before `.txt` unless it is with_passages."""

    start: NonNegativeInt = 0
    """First question to answer, counted from 0. With `count`, several processes can share the questions."""

    count: PositiveInt | None = None
    """How many questions to answer; None: all from `start` on."""

    @model_validator(mode="before")
    @classmethod
    def _former_name(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "bfloat16" in data:
            warn_renamed("generate.bfloat16", "generate.precision")
        if isinstance(data, Mapping) and "retrieval_every" in data:
            warn_renamed("generate.retrieval_every", "generate.retrieval_interval")
        return current_names(data)

    @model_validator(mode="after")
    def _consistent(self) -> GenerateConfig:
        require(self, "settings", len(set(self.settings)) == len(self.settings), "each setting once")
        need = "live_retrieval among generate.settings; nothing else searches while an answer grows"
        require(self, "retrieval_interval", self.retrieval_interval is None or "live_retrieval" in self.settings, need)
        if self.max_new_tokens is not None:
            need = f"at least sampling.min_new_tokens = {self.sampling.min_new_tokens}"
            require(self, "max_new_tokens", self.max_new_tokens >= self.sampling.min_new_tokens, need)
        return self

    @property
    def searches(self) -> bool:
        """Whether the database is searched."""
        reading = set(self.settings) & {"with_passages", "shuffled_passages"}
        return bool(reading and self.passages_from == "retriever") or self.searches_questions

    @property
    def searches_questions(self) -> bool:
        """Whether it is searched whatever `passages_from` says."""
        return bool(set(self.settings) & {"retrieved_passages", "live_retrieval"})

    @property
    def is_slice(self) -> bool:
        """Whether only some of the questions are answered."""
        return self.start > 0 or self.count is not None
