"""What a run of a given shape needs, before anything is allocated: `retro pretrain --dry-run`. Needs no GPU.

Memory per rank, in bytes, each term checkable by hand (P weights of this rank, T tensor parallel size):

    weights      4 P in float32; 2 P in bfloat16 plus 4 P of fp32 master weights
    gradients    4 P, kept in fp32
    optimizer    8 P, Adam's two moments
    activations  a layer keeps, per token, in units of hidden-size values: 10 that every rank holds in full
                 (residuals, norm inputs) and (12 + 4 f/d) / T that are split, f/d the feed-forward ratio; full
                 recompute keeps 1 a layer and one whole layer. Encoder tokens, K R / M for each decoder token, go
                 through the encoder layers. Logits and their gradient: 2 x 4 bytes x vocabulary / T a token.

The activation term is an estimate of what fused attention leaves; it was not measured on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

from retro.model.config import ModelShape
from retro.model.count import ParameterCount, count_parameters
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.layout import require_layout

GIB = 2.0**30


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes on one rank."""

    weights: float
    gradients: float
    optimizer: float
    activations: float

    @property
    def total(self) -> float:
        """Sum of all terms."""
        return self.weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The plan of a run."""

    shape: ModelShape
    parameters: ParameterCount
    memory: MemoryPlan

    @property
    def layers(self) -> list[str]:
        """One line a layer: what is in it."""
        reading = self.shape.model.cross_attention_layers
        lines = []
        for number in range(1, self.shape.model.layers + 1):
            parts = ["self-attention", "feed-forward"]
            if number in reading:
                encoder = " with the neighbor encoder" if number == reading[0] else ""
                parts.insert(1, f"chunked cross-attention{encoder}")
            lines.append(f"{number:>3}  {', '.join(parts)}")
        return lines


def make_plan(shape: ModelShape, train: TrainConfig, layout: ParallelConfig) -> Plan:
    """Count weights and memory for one rank of the layout.

    Raises:
        ConfigError: The layout does not fit the model.
    """
    require_layout(shape, layout)
    parameters = count_parameters(shape)
    own = parameters.total / layout.tensor
    mixed = train.precision == "bfloat16"
    memory = MemoryPlan(
        weights=own * (2 + 4 if mixed else 4),
        gradients=own * 4,
        optimizer=own * 8,
        activations=_activations(shape, train, layout),
    )
    return Plan(shape=shape, parameters=parameters, memory=memory)


def _activations(shape: ModelShape, train: TrainConfig, layout: ParallelConfig) -> float:
    model = shape.model
    width = 2 if train.precision == "bfloat16" else 4
    tokens = train.micro_batch * model.sequence_length
    ratio = model.ffn_hidden_size / model.hidden_size * (1.5 if model.activation == "swiglu" else 1.0)
    layer = model.hidden_size * width * (10 + (12 + 4 * ratio) / layout.tensor)
    kept = model.hidden_size * width if train.recompute == "full" else layer
    encoder_tokens = model.neighbors * shape.retrieved_length / shape.chunk_length if model.retrieval else 0.0
    decoder = tokens * (model.layers * kept + (layer if train.recompute == "full" else 0.0))
    encoder = tokens * encoder_tokens * model.encoder_layers * layer
    logits = tokens * shape.padded_vocabulary / layout.tensor * 4 * 2
    return decoder + encoder + logits
