"""The shape of a model. `size` names a row of `sizes.py`; every other setting given overrides that row.

Two sizes are not here because other artifacts fix them: the chunk length M (database) and the vocabulary
(tokenizer). They join the config in `ModelShape`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from retro.common.config import StageConfig
from retro.common.errors import require
from retro.model.convert.hf_config import FOLDER_SETTINGS
from retro.model.positions import POSITIONS, POSITIONS_HINT, Positions
from retro.model.sizes import SIZES, find_size


class ModelConfig(StageConfig):
    """A GPT decoder, and how it reads retrieved neighbors (Borgeaud et al. 2022, section 2.4)."""

    size: str = "tiny"
    """A row of the size table, or a HuggingFace model folder of a supported family (its config.json); the settings
    below default to it."""
    layers: PositiveInt = 4
    """Decoder layers."""
    hidden_size: PositiveInt = 128
    """Width of the residual stream, d."""
    heads: PositiveInt = 4
    """Attention heads."""
    head_width: PositiveInt = 32
    """Width of a head; hidden_size / heads where it is not given."""
    query_groups: PositiveInt = 4
    """Key/value heads (grouped-query attention); equal to `heads` for plain multi-head attention."""
    ffn_hidden_size: PositiveInt = 512
    """Inner width of the feed-forward layers."""
    sequence_length: PositiveInt = 256
    """Tokens in a training sequence, S. A multiple of the chunk length for pretraining."""
    activation: Literal["gelu", "gelu_tanh", "squared_relu", "swiglu"] = "gelu"
    """Feed-forward activation; `gelu_tanh` is GELU by its tanh approximation, as GPT-2 has it; `squared_relu` is what
    one Megatron-LM script sets for a GPT of the shape of `8b`."""
    normalization: Literal["LayerNorm", "RMSNorm"] = "LayerNorm"
    """Kind of norm."""
    norm_epsilon: PositiveFloat = 1e-5
    """Added to the variance in every norm."""
    zero_centered_norm: bool = False
    """Store norm weights as the distance from one (LayerNorm-1p)."""
    positions: str = "rope"
    """How tokens of the decoder know where they stand: `rope` (rotary), `learned` (a table) or `none`; a kind of your
    own is registered (docs/extending.md)."""
    rope_percent: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of a head's width that is rotated."""
    rope_base: PositiveInt = 10_000
    """Base period of the rotary frequencies."""
    rope_scaling: float = Field(default=1.0, ge=1.0)
    """Llama 3.1's factor on rotary periods: those over 8,192 tokens are stretched by it, those over 2,048 in part."""
    rope_skip_interval: NonNegativeInt = 0
    """Every so many decoder layers, one leaves its queries and keys unrotated (SmolLM3: 4); 0: none does."""
    bias: bool = False
    """Whether linear layers have a bias."""
    qkv_bias: bool = False
    """Whether queries, keys and values of self-attention have a bias where other linear layers have none (Qwen2)."""
    qk_norm: bool = False
    """Norm the queries and keys of each head in self-attention, before they are rotated (Qwen3)."""
    tied_embeddings: bool = False
    """Whether the output layer shares the input embedding's weights."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on hidden states and attention weights of the decoder."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of the initial weights."""
    vocabulary_multiple: PositiveInt = 128
    """The embedding is padded to a multiple of this, so that any tensor parallel size divides it."""

    retrieval: bool = True
    """Read neighbors. False gives a plain GPT: the same decoder without cross-attention and encoder."""
    neighbors: PositiveInt = 2
    """Neighbors of each chunk that the model reads, K."""
    first_cross_attention: PositiveInt = 2
    """First decoder layer (counted from 1) with chunked cross-attention."""
    cross_attention_every: PositiveInt = 3
    """Distance between layers with chunked cross-attention."""
    encoder_layers: NonNegativeInt = 2
    """Layers of the neighbor encoder; 0: cross-attention reads the neighbors' embeddings."""
    encoder_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout in the neighbor encoder."""
    gate: float | Literal["learned"] = 1.0
    """Factor on what cross-attention adds: a constant (0 switches retrieval off exactly), or one learned number a
    layer that starts at zero, so that a GPT turned into Retro computes the same function at step 0."""
    gate_init: float = 0.0
    """Where a learned gate starts. From 0, only the gates have a gradient in the first step, and what they let through
    learns at a rate that grows with them; a small number (0.1) lets all learn at once. A GPT turned into Retro then
    no longer computes its function at step 0, by as much as fresh cross-attention adds."""
    retrieval_init_std: float = Field(default=0.0, ge=0.0)
    """Standard deviation of the initial weights of cross-attention and encoder (output projections: divided by the
    root of twice the layers, as everywhere); 0: `init_std`."""
    encoder_norm: bool = False
    """A norm after the neighbor encoder. Without, cross-attention reads its bare residual stream, whose scale is that
    of the embeddings: keys and values of a narrow model start tiny. The papers' models have none."""
    cross_values: Literal["own", "next"] = "own"
    """What a token of a neighbor tells a decoder token that attends to it: itself, as in the papers, or the token after
    it. With `next`, finding one's own token in a neighbor is to know what followed it there: copying takes one layer,
    where it otherwise takes an encoder that has learned to say at each token which one came before."""
    retrieval_init: Literal["random", "copying"] = "random"
    """How the decoder's cross-attention starts. `copying` makes it a look-up: keys are asked for by the very weights
    that make them, so equal tokens find each other, near positions first, and the output undoes what values did; layers
    of the encoder add nothing at first. Sets its own scale, for states of a norm: give `encoder_norm` too, and
    `cross_values: next`."""
    encoder_rope: bool = True
    """Rotary positions in the encoder's self-attention. Without, a neighbor is a bag of words."""
    cross_rope: bool = True
    """Rotary (so relative) positions in both cross-attentions."""

    @model_validator(mode="before")
    @classmethod
    def _start_from_the_named_size(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        size = data.get("size", "tiny")
        # A saved model has all its settings and no longer needs the folder that they came from.
        if size not in SIZES and set(FOLDER_SETTINGS) <= set(data):
            return _with_head_width(data)
        return _with_head_width({**find_size(str(size)).settings, **data})

    @model_validator(mode="after")
    def _shapes_fit(self) -> ModelConfig:
        fits = self.hidden_size % self.heads == 0 or self.head_width != self.hidden_size // self.heads
        require(self, "heads", fits, f"a divisor of hidden_size = {self.hidden_size}, or model.head_width")
        even = int(self.head_width * self.rope_percent) % 2 == 0
        rotary = self._positions.rotary
        require(self, "head_width", not rotary or even, "an even rotated width: rope turns pairs")
        require(self, "query_groups", self.heads % self.query_groups == 0, f"a divisor of heads = {self.heads}")
        if self.retrieval:
            need = f"a layer of the decoder, at most layers = {self.layers}"
            require(self, "first_cross_attention", self.first_cross_attention <= self.layers, need)
        return self

    @property
    def _positions(self) -> Positions:
        # Packages that claim a built-in name too are found when a model is made: to read what all offer takes 0.03 s.
        return POSITIONS.peek(self.positions, f"{type(self).__name__}.positions", POSITIONS_HINT)

    @property
    def query_width(self) -> int:
        """Width of the queries of all heads."""
        return self.heads * self.head_width

    def rotates(self, number: int) -> bool:
        """Whether decoder layer `number`, counted from 1, rotates queries and keys."""
        skips = self.rope_skip_interval and number % self.rope_skip_interval == 0
        return self._positions.rotary and not skips

    @property
    def cross_attention_layers(self) -> tuple[int, ...]:
        """Decoder layers, counted from 1, that read neighbors."""
        if not self.retrieval:
            return ()
        return tuple(range(self.first_cross_attention, self.layers + 1, self.cross_attention_every))


def _with_head_width(data: dict[str, Any]) -> dict[str, Any]:
    """Settings with the width of a head, where sizes are numbers that have one."""
    hidden, heads = (data.get(name, ModelConfig.model_fields[name].default) for name in ("hidden_size", "heads"))
    if "head_width" in data or type(hidden) is not int or type(heads) is not int or not 0 < heads <= hidden:
        return data
    return data | {"head_width": hidden // heads}


class ModelShape(StageConfig):
    """A model config together with the two sizes that other artifacts fix. Saved with every checkpoint."""

    model: ModelConfig
    """The network."""
    vocabulary: PositiveInt
    """Tokens in the tokenizer."""
    chunk_length: PositiveInt
    """Tokens in a chunk, M, as the database was cut."""
    tokenizer: str = ""
    """Fingerprint of the tokenizer; empty in tests that have none."""
    database: str = ""
    """Fingerprint of the chunk database the model was trained with; recorded, not required to stay."""
    database_version: NonNegativeInt = 0
    """Which version of an updated database that was; 0 is what the db stage wrote."""
    retrieved_chunks: NonNegativeInt = 2
    """Chunks of a retrieved neighbor: itself and its continuation."""

    @property
    def padded_vocabulary(self) -> int:
        """Rows of the embedding."""
        multiple = self.model.vocabulary_multiple
        return -(-self.vocabulary // multiple) * multiple

    @property
    def retrieved_length(self) -> int:
        """Tokens of one retrieved neighbor, R."""
        return self.retrieved_chunks * self.chunk_length

    @property
    def position_rows(self) -> int:
        """Rows of the table of learned positions: neighbors are embedded with the same table as the sequence."""
        return max(self.model.sequence_length, self.retrieved_length)
