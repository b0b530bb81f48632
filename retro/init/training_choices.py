"""Which search, which model and how many steps fit a text, a machine and a number of minutes: arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from retro.init.corpus_choices import Choice
from retro.model.config import ModelConfig, ModelShape
from retro.model.count import count_parameters
from retro.planning.flops import count_flops
from retro.run.documents import BY_WORDS
from retro.training.config import TrainConfig

CHUNK = 64
EPOCHS = 4
"""Times that text is read before reading it again teaches little (Muennighoff et al. 2023, arXiv:2305.16264)."""
TOKENS_PER_WEIGHT = 20
"""Trained tokens for each weight of a model that is no larger than pays (Hoffmann et al. 2022, arXiv:2203.15556)."""
LEAST_STEPS = 20
_STARTING_SECONDS = 20.0
"""Imports, tokenizer, chunks, neighbors, checkpoints: what a small run takes whatever is trained."""
_PRETRAINING, _TUNING = 0.7, 0.2
"""Shares of the time for training where questions are tuned on and answered too; the rest is for answering."""
_SPARE = 0.85
"""Of the time that is left, so that an estimate may be a little wrong."""


@dataclass(frozen=True, kw_only=True)
class ModelCandidate:
    """A model that may be trained, with the batch and learning rates that it was tried with."""

    name: str
    """What `retro init --size` calls it."""
    settings: dict[str, Any]
    lr: float
    tuning_lr: float
    micro_batch: int
    global_batch: int
    tried: str
    """Where batch and rates come from."""

    @property
    def model(self) -> ModelConfig:
        """As a run has it."""
        return ModelConfig(**self.settings)

    @property
    def train(self) -> TrainConfig:
        """Its batch."""
        return TrainConfig(micro_batch=self.micro_batch, global_batch=self.global_batch)

    @property
    def batch_tokens(self) -> int:
        """Tokens in a step."""
        return self.global_batch * self.model.sequence_length

    def shape(self, vocabulary: int) -> ModelShape:
        """With the sizes that corpus and database fix."""
        return ModelShape(model=self.model, vocabulary=vocabulary, chunk_length=CHUNK)


_WIKIPEDIA = {
    "size": "tiny",
    "layers": 6,
    "hidden_size": 192,
    "heads": 6,
    "query_groups": 6,
    "ffn_hidden_size": 512,
    "sequence_length": 512,
}
COPYING_MODEL: dict[str, Any] = {
    "first_cross_attention": 1,
    "cross_attention_every": 4,
    "encoder_layers": 0,
    "encoder_norm": True,
    "cross_values": "next",
    "retrieval_init": "copying",
    "gate": "learned",
    "gate_init": 0.3,
}
"""Cross-attention in the first of four layers, initialised to copy what follows an equal token. Beside the papers' form
it is better even where documents are too short for it (docs/results/learning_to_read.md)."""
COPYING_TRAIN: dict[str, Any] = {"hidden_neighbors": 0.4, "retrieval_rates": {"gate_lr_factor": 5.0}}
SHAPES = (
    ModelCandidate(
        name="tiny", settings={"size": "tiny", "tied_embeddings": True} | COPYING_MODEL,
        lr=4e-3, tuning_lr=2e-3, micro_batch=8, global_batch=8, tried="of pystdlib.yaml, chosen on validation text",
    ),
    ModelCandidate(
        name="mini", settings=_WIKIPEDIA | {"tied_embeddings": True},
        lr=1.5e-3, tuning_lr=5e-4, micro_batch=4, global_batch=8, tried="of wikipedia.yaml",
    ),
    ModelCandidate(
        name="small", settings={"size": "small"},
        lr=6e-4, tuning_lr=2e-4, micro_batch=8, global_batch=32, tried="the usual ones for its width; not tried here",
    ),
)  # fmt: skip
"""Smallest first."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was measured of this machine, and what is installed on it."""

    tokens_per_second: float
    """Of the smallest shape in training, with the vocabulary chosen."""
    bm25: bool
    """Whether bm25s is installed."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """What decides how much can be learned from a text."""

    documents: int
    tokens: float
    """Of all documents, by a tokenizer of that size learned on a sample."""
    vocabulary: int
    train_share: float
    questions: int = 0
    """Questions to tune on."""

    @property
    def train_tokens(self) -> float:
        """Of the training split."""
        return self.tokens * self.train_share


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is trained, and how long."""

    shaped: ModelCandidate
    steps: int
    tuning_steps: int
    choices: tuple[Choice, ...]


def search(machine: Machine) -> list[Choice]:
    """Choose what finds neighbors, and passages for questions."""
    if not machine.bm25:
        why = 'bm25s, which finds better neighbors, is not installed: pip install "instruct-retro[bm25]"'
        return [Choice(setting="index.embedder", value={"kind": "hashing"}, why=why)]
    reasons = {
        "index.embedder": "searches are by words, see below",
        "neighbors.source": "neighbors that share words: what they say next can be copied "
        "(docs/results/learning_to_read.md)",
    }
    return [
        Choice(setting=f"{section}.{name}", value=value, why=reasons.get(f"{section}.{name}", ""))
        for section, settings in BY_WORDS.items()
        for name, value in settings.items()
    ]


def training(text: Text, machine: Machine, minutes: float | None, size: str | None = None) -> Training:
    """Choose the model and its steps.

    Args:
        text: What it learns from.
        machine: What trains it.
        minutes: For the whole run; None: as long as the size needs.
        size: The name of a shape; None: the largest that is worth the minutes.
    """
    seconds = math.inf
    if minutes is not None:
        seconds = max(minutes * 60 - _STARTING_SECONDS, minutes * 60 / 4) * _SPARE
    share = _PRETRAINING if text.questions else 1.0
    rates = [_rate(shaped, text, machine) for shaped in SHAPES]
    fitting = [shaped for shaped, rate in zip(SHAPES, rates, strict=True) if _pays(shaped, rate, text, seconds * share)]
    shaped = fitting[-1] if fitting else SHAPES[0]
    if size is not None:
        shaped = next(one for one in SHAPES if one.name == size)
    rate = rates[SHAPES.index(shaped)]
    weights = count_parameters(shaped.shape(text.vocabulary)).total
    useful = math.ceil(EPOCHS * text.train_tokens / shaped.batch_tokens)
    tuning_useful = math.ceil(EPOCHS * text.questions / shaped.global_batch)
    if minutes is None:
        # With more tokens a weight a larger model would have been the better choice.
        affordable = math.ceil(TOKENS_PER_WEIGHT * weights / shaped.batch_tokens)
        tuning = max(tuning_useful, LEAST_STEPS)
    else:
        affordable = math.floor(rate * seconds * share / shaped.batch_tokens)
        tuning = max(min(math.floor(rate * seconds * _TUNING / shaped.batch_tokens), tuning_useful), LEAST_STEPS)
    steps = max(min(affordable, useful), LEAST_STEPS)
    if size is not None:
        how = f"{rate:,.0f} tokens/s, estimated from {machine.tokens_per_second:,.0f} measured for tiny"
        why = f"{weights / 1e6:.1f} million weights: {size}, as asked for, is this with the settings below"
    elif shaped is SHAPES[0]:
        how = f"{rate:,.0f} tokens/s, measured here by a few steps"
        why = f"{weights / 1e6:.1f} million weights; too few tokens to give a larger one {TOKENS_PER_WEIGHT} a weight"
    else:
        how = f"{rate:,.0f} tokens/s, estimated by FLOPs from {machine.tokens_per_second:,.0f} measured for tiny"
        why = f"{weights / 1e6:.1f} million weights, the most that get {TOKENS_PER_WEIGHT} tokens each"
    return Training(
        shaped=shaped,
        steps=steps,
        tuning_steps=tuning,
        choices=(*_model(shaped, why), *_steps(shaped, steps, affordable, useful, rate, how, text, minutes is None)),
    )


def _rate(shaped: ModelCandidate, text: Text, machine: Machine) -> float:
    """Tokens a second, by the FLOPs of a token beside those of the shape that was measured."""
    measured, this = (count_flops(one.shape(text.vocabulary)).training for one in (SHAPES[0], shaped))
    return machine.tokens_per_second * measured / this


def _pays(shaped: ModelCandidate, rate: float, text: Text, seconds: float) -> bool:
    """Whether time and text give each weight its tokens."""
    weights = count_parameters(shaped.shape(text.vocabulary)).total
    return min(rate * seconds, EPOCHS * text.train_tokens) >= TOKENS_PER_WEIGHT * weights


def _model(shaped: ModelCandidate, why: str) -> list[Choice]:
    first = Choice(setting="model.size", value=shaped.settings["size"], why=why)
    others = {name: value for name, value in shaped.settings.items() if name != "size"}
    reasons = {
        "tied_embeddings": "one table for reading and writing tokens: fewer weights for a short training",
        "first_cross_attention": "from here to gate_init: neighbors are read after tens of steps, not thousands",
    }
    return [
        first,
        *(Choice(setting=f"model.{name}", value=value, why=reasons.get(name, "")) for name, value in others.items()),
    ]


def _steps(
    shaped: ModelCandidate, steps: int, affordable: int, useful: int, rate: float, how: str, text: Text, timeless: bool
) -> list[Choice]:
    trained = steps * shaped.batch_tokens
    bound = f"{EPOCHS} times the text; more teaches little"
    if affordable < useful:
        bound = f"{TOKENS_PER_WEIGHT} tokens a weight" if timeless else "what the time allows"
    if steps > min(affordable, useful):
        bound = "the fewest with which a learning rate can rise and fall"
    why = f"{bound}: {trained / text.train_tokens:.2g} times the text in some {trained / rate:.0f} s ({how})"
    part = max(steps // 4, 1)
    return [
        Choice(setting="train.steps", value=steps, why=why),
        Choice(setting="train.micro_batch", value=shaped.micro_batch, why=""),
        Choice(setting="train.global_batch", value=shaped.global_batch, why=f"batch and rate: {shaped.tried}"),
        Choice(setting="train.lr", value=shaped.lr, why=""),
        *(_reading(part) if shaped is SHAPES[0] else ()),
        Choice(setting="train.evaluate_every", value=part, why="four times"),
        Choice(setting="train.save_every", value=part, why="what a kill costs at most"),
    ]


def _reading(part: int) -> list[Choice]:
    reasons = {"hidden_neighbors": "without neighbors it is then about as good as a GPT"}
    copying = [
        Choice(setting=f"train.{name}", value=value, why=reasons.get(name, "")) for name, value in COPYING_TRAIN.items()
    ]
    return [*copying, Choice(setting="train.probe_every", value=part, why="tells whether neighbors are read")]
