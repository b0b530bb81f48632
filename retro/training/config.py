"""Settings of the training loop and of the parallel layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from retro.common.config import StageConfig, config_json
from retro.common.errors import require
from retro.common.precision import Precision, is_bfloat16

LinearLayer = Literal["linear_qkv", "linear_proj", "linear_fc1", "linear_fc2", "linear_q", "linear_kv"]


class LoraConfig(StageConfig):
    """Low-rank adapters on linear layers (Hu et al. 2021, arXiv:2106.09685). They alone are trained and saved."""

    rank: PositiveInt = 8
    """Width between the two matrices of an adapter, r."""
    alpha: PositiveFloat = 16.0
    """What an adapter adds is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on what an adapter reads, in training."""
    targets: tuple[LinearLayer, ...] = ()
    """Linear layers that get one; empty: all. `linear_qkv` and `linear_proj` of self-attention, `linear_fc1` and
    `linear_fc2` of feed-forward, `linear_q`, `linear_kv` and `linear_proj` of cross-attention."""
    where: Literal["decoder", "retrieval", "all"] = "all"
    """Which layers: those of the decoder, those that read neighbors (cross-attention and encoder), or both."""


class RetrievalRatesConfig(StageConfig):
    """How fast the weights that read neighbors learn, beside the decoder's: parameter groups of their own."""

    lr_factor: PositiveFloat = 1.0
    """Times the learning rate, for cross-attention, its norms and the neighbor encoder. Fresh ones on a finished
    decoder want more than it does."""
    gate_lr_factor: PositiveFloat = 1.0
    """Times the learning rate, for learned gates: single numbers, which Adam moves by about the learning rate a step.
    A gate never has weight decay."""
    modules: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Times the learning rate, for weights of modules that a recipe puts beside the network, by how their names begin:
    `{knowledge.model: 0.05}` for a pretrained encoder whose fresh projections learn fast."""
    warmup_steps: NonNegativeInt | None = None
    """Steps of linear warm-up of all of these from zero; absent: those of the decoder, `train.warmup_steps`."""

    @model_validator(mode="after")
    def _no_weight_twice(self) -> RetrievalRatesConfig:
        for name in self.modules:
            inside = [other for other in self.modules if other != name and f"{other}.".startswith(f"{name}.")]
            require(self, "modules", not inside, f"names of which none is part of another; {inside} are of {name!r}")
        return self


class TrainConfig(StageConfig):
    """How long, how large and how fast to train. A step is one optimizer step over one global batch."""

    steps: PositiveInt = 1000
    """Optimizer steps."""
    micro_batch: PositiveInt = 8
    """Sequences in one forward pass on one rank."""
    global_batch: PositiveInt = 8
    """Sequences in one optimizer step over all ranks; what does not fit one pass is accumulated."""
    lr: PositiveFloat = 6e-4
    """Peak learning rate."""
    min_lr_fraction: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of `lr` that is left at the end of the decay; the published schedules end at a tenth."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay after the warm-up."""
    decay_steps: NonNegativeInt = 0
    """The step at which the decay ends; `min_lr_fraction` of `lr` is left from there on. 0: the last of `steps`. A run
    that is lengthened keeps its curve with the `steps` that it began with."""
    warmup_steps: NonNegativeInt = Field(default_factory=lambda data: min(100, data.get("steps", 1000) // 10))
    """Steps of linear warm-up from zero; unless set, a tenth of `steps`, at most 100."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay, on matrices only."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Adam's first moment."""
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    """Adam's second moment."""
    epsilon: PositiveFloat = 1e-8
    """Adam's epsilon."""
    retrieval_rates: RetrievalRatesConfig = RetrievalRatesConfig()
    """Learning rates and warm-up of gates, cross-attention and encoder."""
    hidden_neighbors: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of chunks whose neighbors a training step does not see, drawn again whenever a chunk comes up. A model that
    always has neighbors leans on them; with some hidden it comes nearer a GPT where nothing is found."""
    clip: NonNegativeFloat = 1.0
    """Clip the gradient's norm to this; 0 does not clip."""
    precision: Precision = "auto"
    """bfloat16 keeps fp32 master weights and gradients. `auto` is bfloat16 on a GPU that has it and on CPUs with
    amx_bf16 or avx512_bf16, else float32; a run that was stopped continues in what it was begun in."""
    layers: Literal["auto", "local", "transformer_engine"] = "auto"
    """Whose layers to build of: auto takes Transformer Engine's in bfloat16 on a GPU where it is installed, else
    megatron-core's local ones with torch's fused attention. Checkpoints fit both."""
    train_only: Literal["all", "retrieval", "decoder", "modules"] = "all"
    """"retrieval" freezes the decoder: cross-attention, its norms and gates, and the encoder alone are trained
    (Borgeaud et al. 2022, section 4.3: retro-fitting); "decoder" freezes these and trains
    the rest, reading neighbors as it was taught to. Needs no gradients and optimizer state for what is frozen.
    With lora.where=decoder, "retrieval" trains the retrieval weights whole, beside adapters on the decoder. "modules"
    freezes the whole network and trains what a recipe puts beside it."""
    lora: LoraConfig | None = None
    """Freeze the model and train low-rank adapters on it; needs a checkpoint to start from. Absent: none."""
    recompute: Literal["none", "selective", "full"] = "none"
    """What is computed again in the backward pass instead of being kept: nothing, the attention cores and
    feed-forward layers, or whole layers."""
    seed: NonNegativeInt = 1234
    """Seeds the weights, dropout and the order of samples."""
    log_every: PositiveInt = 10
    """Steps between two lines of the log."""
    evaluate_every: PositiveInt = 100
    """Steps between two evaluations on the validation split."""
    evaluate_samples: PositiveInt = 64
    """Sequences in such an evaluation, at most; fewer when the split is shorter."""
    probe_every: NonNegativeInt = 0
    """Steps between two probes of whether retrieval is being learned: the gates, and the loss on the same few
    sequences with their own neighbors, those of other chunks, and none. 0 probes never."""
    probe_samples: PositiveInt = 16
    """Sequences in a probe, spread evenly over the validation split."""
    save_every: PositiveInt = 200
    """Steps between two checkpoints: what a kill costs at most."""
    keep_last: PositiveInt = 2
    """Newest checkpoints to keep."""
    keep_every: NonNegativeInt = 0
    """Also keep every checkpoint whose step is a multiple of this; 0 keeps none beyond the newest."""
    async_save: bool = False
    """Write checkpoints in the background while training continues, at the cost of one copy of the state in host
    memory."""
    reading: Literal["auto", "plain", "random"] = "auto"
    """How token files are read: plain lets the system read ahead, which suits files that fit into memory; random reads
    the wanted pages alone, all of a step's at a time; auto is random for files larger than the free memory."""
    tensorboard: bool = False
    """Also write TensorBoard events (extra `track`)."""
    wandb: str = ""
    """Project of Weights & Biases (extra `track`) to show the curves in; empty: none. Log in as wandb wants it, by
    `wandb login` or WANDB_API_KEY; WANDB_MODE=offline keeps all below the run's directory, for `wandb sync`."""

    @model_validator(mode="after")
    def _numbers_fit(self) -> TrainConfig:
        multiple = self.global_batch % self.micro_batch == 0
        require(self, "global_batch", multiple, f"a multiple of micro_batch = {self.micro_batch}")
        of = "decay_steps" if self.decay_steps else "steps"
        require(self, "warmup_steps", self.warmup_steps < self.decay_length, f"fewer than {of} = {self.decay_length}")
        beside = self.lora is None or self.train_only == "all"
        beside = beside or (self.train_only == "retrieval" and self.lora is not None and self.lora.where == "decoder")
        need = (
            "all beside lora, which trains adapters alone, or retrieval beside lora.where=decoder; "
            "lora.where=retrieval puts adapters where neighbors are read"
        )
        require(self, "train_only", beside, need)
        slow = self.retrieval_rates.warmup_steps or 0
        require(self, "retrieval_rates", slow < self.decay_length, f"warmup_steps below {of} = {self.decay_length}")
        return self

    @property
    def bfloat16(self) -> bool:
        """Whether to compute in bfloat16; a stage chooses what `auto` means before it builds anything."""
        return is_bfloat16(self.precision)

    @property
    def min_lr(self) -> float:
        """Learning rate after the decay."""
        return self.lr * self.min_lr_fraction

    @property
    def decay_length(self) -> int:
        """The step at which the learning rate has decayed."""
        return self.decay_steps or self.steps


# How the work is done, not what comes out of it: a stopped run may continue under other values of these. How long it is
# may change too; `resume_rules.py` says when.
_FREE = {
    "steps",
    "decay_steps",
    "micro_batch",
    "layers",
    "recompute",
    "log_every",
    "probe_every",
    "probe_samples",
    "save_every",
    "keep_last",
    "keep_every",
    "async_save",
    "reading",
    "tensorboard",
    "wandb",
}


# Settings that older runs do not record, with the values under which they do what those did.
_LATER: dict[str, dict[str, Any]] = {
    "train": {"retrieval_rates": config_json(RetrievalRatesConfig()), "hidden_neighbors": 0.0},
    "retrieval_rates": {"modules": {}},
    "model": {
        "gate_init": 0.0,
        "retrieval_init_std": 0.0,
        "encoder_norm": False,
        "cross_values": "own",
        "retrieval_init": "random",
        "qkv_bias": False,
        "qk_norm": False,
        "rope_skip_interval": 0,
    },
}


def result_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what is trained, up to rounding; a run continues only under the same ones.

    Args:
        settings: Of a stage, those of its training under `train` and of its model under `model`, at any depth.
    """
    kept = dict(settings)
    for name, value in kept.items():
        if isinstance(value, Mapping):
            free = _FREE if name == "train" else set[str]()
            later = _LATER.get(name, {})
            free = free | {
                key for key, former in later.items() if _recorded(key, value.get(key)) == _recorded(key, former)
            }
            free |= {"head_width"} if _has_usual_heads(value) else set[str]()
            kept[name] = result_settings({key: one for key, one in value.items() if key not in free})
    return kept


def _recorded(name: str, value: Any) -> Any:
    """A setting as a run recorded it before parts of it were settings."""
    if not isinstance(value, Mapping):
        return value
    later = _LATER.get(name, {})
    return {key: one for key, one in value.items() if key not in later or one != later[key]}


def _has_usual_heads(settings: Mapping[str, Any]) -> bool:
    """Whether heads are as wide as they always were before their width was a setting."""
    width, heads, hidden = (settings.get(name) for name in ("head_width", "heads", "hidden_size"))
    return isinstance(width, int) and isinstance(heads, int) and width * heads == hidden


class ParallelConfig(StageConfig):
    """How a model is spread over processes. Data parallelism takes whatever the launcher started beyond it."""

    tensor: PositiveInt = 1
    """Processes that share every layer (tensor parallel)."""
    sequence: bool = False
    """Split activations outside the matrix products along the sequence between tensor parallel ranks (sequence
    parallel)."""
    pipeline: PositiveInt = 1
    """Stages: groups of layers on different processes (pipeline parallel, 1F1B)."""
    virtual_pipeline: PositiveInt = 1
    """Groups of layers in each stage; above 1 the stages take turns (interleaved 1F1B), which shortens the bubble."""
    stage_layers: tuple[PositiveInt, ...] = ()
    """Decoder layers of each group, in the order in which the groups compute; empty: as many in each. The stage with
    the neighbor encoder has the most to do, so it may take fewer."""
    distributed_optimizer: bool = False
    """Share the optimizer's state and master weights out over the data parallel ranks (ZeRO stage 1)."""
    context: PositiveInt = 1
    """Ranks that share one sequence (context parallel). Only 1: chunked cross-attention wants whole chunks."""

    @model_validator(mode="after")
    def _what_fits(self) -> ParallelConfig:
        require(self, "sequence", not self.sequence or self.tensor > 1, "parallel.tensor above 1 to share it between")
        need = "parallel.pipeline above 1: only stages can take turns"
        require(self, "virtual_pipeline", self.virtual_pipeline == 1 or self.pipeline > 1, need)
        groups = self.pipeline * self.virtual_pipeline
        need = f"no numbers, or one for each of pipeline x virtual_pipeline = {groups} groups of layers"
        require(self, "stage_layers", len(self.stage_layers) in (0, groups), need)
        need = (
            "1: Retro does not split sequences over ranks. parallel.tensor with parallel.sequence=true "
            "and train.recompute shorten what a rank keeps of a long one"
        )
        require(self, "context", self.context == 1, need)
        return self

    @property
    def model_ranks(self) -> int:
        """Processes that hold one copy of the model."""
        return self.tensor * self.pipeline
