"""A random checkpoint in the layout of Megatron-LM before megatron-core, and what such a model computes.

Written from descriptions of that layout and that model, with nothing of the reader under test or of `reference.py`: the
forward pass goes token by token and by the legacy names.
"""

# Dims: S tokens, L chunks, M tokens of a chunk, K neighbors, R tokens of a neighbor, H hidden, N heads, V vocabulary.

from __future__ import annotations

import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

CHUNK, VOCABULARY = 4, 64

INSTRUCT_RETRO = Namespace(
    num_layers=9,
    hidden_size=16,
    num_attention_heads=4,
    kv_channels=4,
    ffn_hidden_size=24,
    seq_length=16,
    max_position_embeddings=16,
    padded_vocab_size=VOCABULARY,
    hidden_dropout=0.0,
    attention_dropout=0.0,
    init_method_std=0.007,
    norm_epsilon=1e-5,
    normalization="LayerNorm",
    apply_layernorm_1p=True,
    swiglu=True,
    squared_relu=False,
    openai_gelu=False,
    onnx_safe=None,
    bias_gelu_fusion=False,
    add_bias_linear=False,
    add_position_embedding=False,
    use_rotary_position_embeddings=True,
    position_embedding_type="rope",
    rotary_percent=0.5,
    untie_embeddings_and_output_weights=True,
    group_query_attention=False,
    num_query_groups=1,
    num_experts=None,
    apply_residual_connection_post_layernorm=False,
    params_dtype=torch.float32,
    retro_add_retriever=True,
    retro_encoder_layers=2,
    retro_encoder_hidden_dropout=0.1,
    retro_num_neighbors=2,
    retro_num_retrieved_chunks=2,
    retro_attention_gate=1.0,
    retro_chunk_length=CHUNK,
)


def changed(args: Namespace, **settings: Any) -> Namespace:
    """A copy of `args` with other values."""
    return Namespace(**(vars(args) | settings))


GPT = changed(
    INSTRUCT_RETRO,
    num_layers=2,
    retro_add_retriever=False,
    group_query_attention=True,
    num_query_groups=2,
    swiglu=False,
    bias_gelu_fusion=True,
    add_bias_linear=True,
    apply_layernorm_1p=False,
    add_position_embedding=True,
    use_rotary_position_embeddings=False,
    position_embedding_type="learned_absolute",
    untie_embeddings_and_output_weights=False,
)


def reading_layers(args: Namespace) -> list[int]:
    """Layers with cross-attention, from 1: 6, 9, 12 … up to 15 layers, 9, 12, 15 … above."""
    first = 6 if args.num_layers <= 15 else 9
    return list(range(first, args.num_layers + 1, 3)) if args.retro_add_retriever else []


def random_weights(args: Namespace, seed: int = 1) -> dict[str, Tensor]:
    """Every weight by its legacy key, as one rank alone would hold it."""
    generator = torch.Generator().manual_seed(seed)
    hidden, weights = args.hidden_size, {}

    def make(name: str, *shape: int) -> None:
        weights[name] = 0.3 * torch.randn(shape, generator=generator)

    def linear(name: str, outputs: int, inputs: int) -> None:
        make(f"{name}.weight", outputs, inputs)
        if args.add_bias_linear:
            make(f"{name}.bias", outputs)

    def norm(name: str) -> None:
        make(f"{name}.weight", hidden)
        weights[f"{name}.weight"] += 0.0 if args.apply_layernorm_1p else 1.0
        make(f"{name}.bias", hidden)

    def layer(name: str, reads: bool) -> None:
        groups = args.num_query_groups if args.group_query_attention else args.num_attention_heads
        norm(f"{name}.input_norm")
        linear(f"{name}.self_attention.query_key_value", hidden + 2 * groups * args.kv_channels, hidden)
        linear(f"{name}.self_attention.dense", hidden, hidden)
        norm(f"{name}.post_attention_norm")
        if reads:
            linear(f"{name}.inter_attention.query", hidden, hidden)
            linear(f"{name}.inter_attention.key_value", 2 * hidden, hidden)
            linear(f"{name}.inter_attention.dense", hidden, hidden)
            norm(f"{name}.post_inter_attention_norm")
        linear(f"{name}.mlp.dense_h_to_4h", args.ffn_hidden_size * (2 if args.swiglu else 1), hidden)
        linear(f"{name}.mlp.dense_4h_to_h", hidden, args.ffn_hidden_size)

    make("embedding.word_embeddings.weight", args.padded_vocab_size, hidden)
    if args.add_position_embedding:
        make("embedding.position_embeddings.weight", args.max_position_embeddings, hidden)
    reading = reading_layers(args)
    for number in range(1, args.num_layers + 1):
        layer(f"encoder.layers.{number - 1}", number in reading)
        if number in reading[:1]:
            for own in range(args.retro_encoder_layers):
                layer(f"encoder.layers.{number - 1}.retriever.layers.{own}", own == 0)
    norm("encoder.final_norm")
    if args.untie_embeddings_and_output_weights:
        make("output_layer.weight", args.padded_vocab_size, hidden)
    return weights


def rank_part(name: str, whole: Tensor, rank: int, ranks: int, swiglu: bool) -> Tensor:
    """What one tensor parallel rank holds of a weight."""
    if any(part in name for part in ("word_embeddings", "output_layer", "query", "key_value")):
        return whole.chunk(ranks)[rank]
    if "dense_h_to_4h" in name:
        halves = whole.chunk(2) if swiglu else (whole,)
        return torch.cat([half.chunk(ranks)[rank] for half in halves])
    if name.endswith(("dense.weight", "dense_4h_to_h.weight")):
        return whole.chunk(ranks, dim=1)[rank]
    return whole


def rank_file(args: Namespace, weights: dict[str, Tensor], rank: int, ranks: int) -> dict[str, Any]:
    """The contents of one rank's file: nested as Megatron nests them, with what is beside the model."""
    own = {name: rank_part(name, whole, rank, ranks, args.swiglu).clone() for name, whole in weights.items()}
    embedding: dict[str, Any] = {}
    model: dict[str, Any] = {"embedding": embedding, "encoder": {}}
    for name, value in own.items():
        part, _, rest = name.partition(".")
        if part == "embedding":
            embedding[rest.split(".")[0]] = {"weight": value}
        else:
            model.setdefault(part, {})[rest] = value
    return {
        "args": changed(args, tensor_model_parallel_size=ranks, pipeline_model_parallel_size=1, rank=rank),
        "checkpoint_version": 3.0,
        "iteration": 1000,
        "model": {"language_model": model},
        "optimizer": {"param_groups": [{"lr": 1e-5}], "state": {0: torch.zeros(3)}},
    }


def write(folder: Path, args: Namespace, weights: dict[str, Tensor], ranks: int) -> Path:
    """Write a whole checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest_checkpointed_iteration.txt").write_text("release")
    for rank in range(ranks):
        own = folder / "release" / f"mp_rank_{rank:02d}"
        own.mkdir(parents=True)
        torch.save(rank_file(args, weights, rank, ranks), own / "model_optim_rng.pt")
    return folder


class LegacyModel:
    """The forward pass of Megatron-LM's legacy GPT and Retro, for one sequence whose length is whole chunks."""

    def __init__(self, args: Namespace, weights: dict[str, Tensor]) -> None:
        self.args, self.weights = args, weights

    def __call__(self, tokens_S: Tensor, neighbors_LKR: Tensor | None = None) -> Tensor:
        """[S, V] logits."""
        stream, reading = self.embed(tokens_S), reading_layers(self.args)
        encoded: list[Tensor] = []
        for number in range(1, self.args.num_layers + 1):
            name = f"encoder.layers.{number - 1}"
            stream = stream + self.self_attention(name, self.norm(f"{name}.input_norm", stream), decoder=True)
            normed = self.norm(f"{name}.post_attention_norm", stream)
            if number in reading and neighbors_LKR is not None:
                if number == reading[0]:
                    encoded = self.encode(f"{name}.retriever", neighbors_LKR, normed)
                stream = stream + self.read_neighbors(f"{name}.inter_attention", normed, encoded)
                normed = self.norm(f"{name}.post_inter_attention_norm", stream)
            stream = stream + self.feed_forward(name, normed)
        stream = self.norm("encoder.final_norm", stream)
        untied = self.args.untie_embeddings_and_output_weights
        return stream @ self.weights["output_layer.weight" if untied else "embedding.word_embeddings.weight"].T

    def embed(self, tokens: Tensor) -> Tensor:
        stream = self.weights["embedding.word_embeddings.weight"][tokens]
        if self.args.add_position_embedding:
            stream = stream + self.weights["embedding.position_embeddings.weight"][: len(tokens)]
        return stream

    def encode(self, name: str, neighbors_LKR: Tensor, normed_SH: Tensor) -> list[Tensor]:
        """[K R, H] of each chunk: its neighbors one after the other, each having read the chunk."""
        chunks = normed_SH.split(CHUNK)
        return [
            torch.cat([self.encode_one(name, neighbor, chunks[number]) for neighbor in of_chunk])
            for number, of_chunk in enumerate(neighbors_LKR)
        ]

    def encode_one(self, name: str, tokens_R: Tensor, chunk_MH: Tensor) -> Tensor:
        stream = self.embed(tokens_R)
        for number in range(self.args.retro_encoder_layers):
            own = f"{name}.layers.{number}"
            stream = stream + self.self_attention(own, self.norm(f"{own}.input_norm", stream), decoder=False)
            normed = self.norm(f"{own}.post_attention_norm", stream)
            if number == 0:
                stream = stream + self.cross_attention(f"{own}.inter_attention", normed, chunk_MH)
                normed = self.norm(f"{own}.post_inter_attention_norm", stream)
            stream = stream + self.feed_forward(own, normed)
        return stream

    def read_neighbors(self, name: str, normed_SH: Tensor, encoded: list[Tensor]) -> Tensor:
        """Token by token: the last of a chunk and all but the last of the next read that chunk's neighbors."""
        rows = []
        for position in range(len(normed_SH)):
            chunk = (position + 1) // CHUNK - 1
            if chunk < 0:
                rows.append(torch.zeros(1, normed_SH.size(1)))
            else:
                rows.append(self.cross_attention(name, normed_SH[position : position + 1], encoded[chunk]))
        return self.args.retro_attention_gate * torch.cat(rows)

    def self_attention(self, name: str, x: Tensor, *, decoder: bool) -> Tensor:
        heads, width = self.args.num_attention_heads, self.args.kv_channels
        groups = self.args.num_query_groups if self.args.group_query_attention else heads
        mixed = self.linear(f"{name}.self_attention.query_key_value", x)
        parts: list[list[Tensor]] = [[], [], []]
        for group in mixed.chunk(groups, dim=-1):
            *queries, key, value = group.split(width, dim=-1)
            for query in queries:
                rotates = decoder and self.args.use_rotary_position_embeddings
                parts[0].append(self.rotated(query) if rotates else query)
                parts[1].append(self.rotated(key) if rotates else key)
                parts[2].append(value)
        seen = torch.ones(len(x), len(x)).tril().bool() if decoder else None
        attended = [self.attend(q, k, v, seen) for q, k, v in zip(*parts, strict=True)]
        return self.linear(f"{name}.self_attention.dense", torch.cat(attended, dim=-1))

    def cross_attention(self, name: str, x: Tensor, context: Tensor) -> Tensor:
        width = self.args.kv_channels
        queries = self.linear(f"{name}.query", x).split(width, dim=-1)
        pairs = self.linear(f"{name}.key_value", context).split(2 * width, dim=-1)
        attended = [self.attend(q, *kv.chunk(2, dim=-1)) for q, kv in zip(queries, pairs, strict=True)]
        return self.linear(f"{name}.dense", torch.cat(attended, dim=-1))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None = None) -> Tensor:
        scores = query @ key.T / math.sqrt(query.size(-1))
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        return scores.softmax(dim=-1) @ value

    def rotated(self, x: Tensor) -> Tensor:
        """The first share of a head's width turned, as complex numbers made of its first and second half."""
        width = int(x.size(-1) * self.args.rotary_percent)
        first, second = x[:, :width].chunk(2, dim=-1)
        speed = 10_000.0 ** (-torch.arange(0, width, 2) / width)
        turn = torch.polar(torch.ones(len(x), width // 2), torch.arange(len(x))[:, None] * speed)
        turned = torch.complex(first, second) * turn
        return torch.cat((turned.real, turned.imag, x[:, width:]), dim=-1)

    def feed_forward(self, name: str, x: Tensor) -> Tensor:
        inner = self.linear(f"{name}.mlp.dense_h_to_4h", x)
        if self.args.swiglu:
            gate, up = inner.chunk(2, dim=-1)
            inner = gate * gate.sigmoid() * up
        elif self.args.squared_relu:
            inner = inner.clamp(min=0) ** 2
        else:
            inner = functional.gelu(inner, approximate="tanh" if self.args.bias_gelu_fusion else "none")
        return self.linear(f"{name}.mlp.dense_4h_to_h", inner)

    def linear(self, name: str, x: Tensor) -> Tensor:
        bias = self.weights[f"{name}.bias"] if self.args.add_bias_linear else None
        return functional.linear(x, self.weights[f"{name}.weight"], bias)

    def norm(self, name: str, x: Tensor) -> Tensor:
        weight = self.weights[f"{name}.weight"] + (1.0 if self.args.apply_layernorm_1p else 0.0)
        scaled = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        return scaled * weight + self.weights[f"{name}.bias"]
