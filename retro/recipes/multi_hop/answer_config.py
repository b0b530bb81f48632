"""Settings of tuning a model for multi-hop questions, of answering with one, and of comparing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from retro.common.config import StageConfig
from retro.common.errors import ConfigError, require
from retro.index.config import EmbedderConfig
from retro.recipes.passages.config import PassagesConfig
from retro.recipes.tuning import TuneConfig
from retro.teacher.config import HIDDEN, TeacherConfig

Method = Literal["decompose", "one_search", "ircot", "adaptive"]
Form = Literal["function_calls", "chat"]


_SCHEMES = ("http://", "https://")


def _without_secret(setting: str, address: str, more: str = "") -> str:
    if "@" in address or "?" in address:
        need = f"needs an address without user, password or query, which logs would show{more}"
        raise ConfigError(setting, HIDDEN, need)
    return address


class TrainingConfig(StageConfig):
    """Tuning on the function-call conversation."""

    items: Path | None = None
    """Training items, in either layout (`retro/recipes/multi_hop/items.py`). Absent: nothing is tuned."""

    validation: Path | None = None
    """Items held out; absent: those of a folder's validation part, or"""

    validation_share: float = Field(default=0.0, ge=0, lt=1)
    """a share of the others, drawn by `seed`; what belongs together stays on one side."""

    seed: NonNegativeInt = 1234
    """Of that draw."""

    skip_bad: bool = False
    """Whether items that cannot be used are left out and counted, by reason, in place of being refused."""

    export: bool = False
    """Whether the tuned model is written as a folder for transformers, with a card."""

    tune: TuneConfig = TuneConfig()
    """How. The original: 2 epochs, global batch 88, lr 4e-5, LoRA of rank 16 and alpha 64 with dropout 0.1 on all
    linear layers, 1,350 tokens."""

    @model_validator(mode="after")
    def _one_part(self) -> TrainingConfig:
        need = "0 beside a file of validation items"
        require(self, "validation_share", not (self.validation_share and self.validation), need)
        return self


class RetrieverConfig(StageConfig):
    """What is searched."""

    kind: Literal["contexts", "folder", "database", "passages", "live"] = "contexts"
    """`contexts`: the passages that a question brings, such as HotpotQA's ten. `folder`: text files. `database`: the
    run's. `passages`: a table with embeddings (`table`). `live`: an address that searches, in Search-R1's form."""

    n: PositiveInt = 1
    """Passages of a search; the original: 1, before that 3."""

    embedder: EmbedderConfig = EmbedderConfig(kind="hashing", dimension=8192)
    """contexts and folder: what embeds passages and queries. The original: `{kind: huggingface, model: e5-base-v2,
    query_prefix: "query: ", passage_prefix: "passage: "}`."""

    folder: Path | None = None
    """folder: where the text files are."""

    window: PositiveInt = 1200
    """folder: characters of a passage."""

    step: PositiveInt = 300
    """folder: characters from the beginning of one passage to that of the next."""

    table: PassagesConfig = PassagesConfig()
    """passages: the table."""

    address: str = ""
    """live: such as `http://127.0.0.1:8000/retrieve`."""

    timeout_s: PositiveFloat = 30.0
    """live: seconds to wait."""

    @field_validator("address")
    @classmethod
    def _has_no_secret(cls, value: str) -> str:
        return _without_secret("RetrieverConfig.address", value)

    @model_validator(mode="after")
    def _consistent(self) -> RetrieverConfig:
        require(self, "folder", self.kind != "folder" or self.folder is not None, "a folder, since kind is folder")
        address = self.kind != "live" or self.address.startswith(_SCHEMES)
        require(self, "address", address, "an address, as http://127.0.0.1:8000/retrieve, since kind is live")
        require(self, "step", self.step <= self.window, f"at most window = {self.window}, or text would be left out")
        return self


class ModelConfig(StageConfig):
    """The model that answers."""

    kind: Literal["engine", "transformers", "server", "teacher"] = "engine"
    """`engine`: ours. `transformers`: a folder, opened by that library. `server`: an address with `/completions`, such
    as vLLM's and llama.cpp's. `teacher`: a chat model, as recipes ask their teachers; for the form `chat` alone."""

    path: Path | None = None
    """engine and transformers: the model. Absent: the one that this recipe tuned."""

    base_url: str = ""
    """server: address up to and with the version, as `http://127.0.0.1:8080/v1`."""

    name: str = ""
    """server: what the model is called there."""

    api_key_env: str = ""
    """server: name of the environment variable with the API key, never the key; empty: none is sent."""

    timeout_s: PositiveFloat = 120.0
    """server: seconds to wait for a reply."""

    max_retries: NonNegativeInt = 5
    """server: tries after the first one, of a request that is answered with 429 or 5xx or not in time. They wait as
    long as the server says, else 0.5 s, 1 s, 2 s, …: 5 tries take up to 16 s."""

    tokenizer: Path | None = None
    """server: a folder with the model's tokenizer. With it prompts are sent as token ids, the same as in training;
    without, as text, in which special tokens are spelled."""

    sequence_length: PositiveInt | None = None
    """Most tokens of prompt and reply; absent: as the model's folder says. Of a server it is not known without."""

    teacher: TeacherConfig = TeacherConfig()
    """teacher: the model."""

    temperature: NonNegativeFloat = 0.0
    """Divides the logits; 0 takes the likeliest token."""

    max_new_tokens: PositiveInt = 256
    """Of one turn."""

    @field_validator("base_url")
    @classmethod
    def _has_no_secret(cls, value: str) -> str:
        return _without_secret("ModelConfig.base_url", value, "; a key is in api_key_env").rstrip("/")

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        served = self.kind == "server"
        address = not served or self.base_url.startswith(_SCHEMES)
        require(self, "base_url", address, "an address, as http://127.0.0.1:8080/v1")
        require(self, "name", not served or bool(self.name), "the model's name at the address")
        need = "a folder, since kind is transformers"
        require(self, "path", self.kind != "transformers" or self.path is not None, need)
        return self

    @property
    def shaping(self) -> dict[str, Any]:
        """The settings that decide what is answered."""
        data = self.model_dump(mode="json", exclude={"timeout_s", "max_retries", "api_key_env", "teacher"})
        return data | {"teacher": self.teacher.shaping}


class AnswerConfig(StageConfig):
    """Answering questions, and scoring that."""

    questions: Path | None = None
    """HotpotQA's file of the distractor setting, or any question file of `task`. Absent: none are answered."""

    task: str = "hotpotqa"
    """How the file is read."""

    count: PositiveInt | None = 500
    """Questions drawn from it by `seed`, in the order of the file; null: all."""

    seed: NonNegativeInt = 1234
    """Of the draw."""

    method: Method = "decompose"
    """`decompose`: search for each sub-question. `one_search`: once, with the question, to compare with. `ircot`: a
    chain of thought that searches with each sentence (arXiv:2212.10509). `adaptive`: none, one or several searches, as
    a label says (arXiv:2403.14403); the latter two are for the form `chat`."""

    form: Form = "function_calls"
    """How a model is asked: `function_calls` as it was tuned here, `chat` in words, for any instruct model."""

    examples: NonNegativeInt = 1
    """chat: conversations that are shown first."""

    hops: PositiveInt = 4
    """Most searches for a question."""

    retriever: RetrieverConfig = RetrieverConfig()
    """What is searched."""

    model: ModelConfig = ModelConfig()
    """The model."""

    texts: Path | None = None
    """A file laid over `retro/recipes/multi_hop/dialogs.yaml`. Answer with the texts that were tuned with."""

    metrics: tuple[str, ...] = ("word_recall", "match_norm", "exact_match", "f1")
    """What answers are scored by, the main metric first. The original: word recall, and `match_norm`, its containing
    accuracy."""

    batch_size: PositiveInt = 16
    """Questions answered side by side. Also the unit of resuming."""

    compare_with: Path | None = None
    """The `scores` folder of another model's answers to the same questions: a table with paired tests is written."""

    @model_validator(mode="after")
    def _consistent(self) -> AnswerConfig:
        chats = self.form == "chat"
        require(self, "method", chats or self.method in ("decompose", "one_search"), f"form=chat for {self.method}")
        require(self, "form", chats or self.model.kind != "teacher", "chat, since the model is a teacher")
        need = "function_calls, since a server is asked by /completions; an instruct model at it is a teacher"
        require(self, "form", not chats or self.model.kind != "server", need)
        return self
