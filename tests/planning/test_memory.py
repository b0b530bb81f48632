"""Memory: equal to what a built model and its optimizer hold, and to sums worked by hand for many ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.training_speed import RandomSource
from retro.model.count import count_parameters
from retro.planning.memory import StageMemory, Weights, block_weights, stage_memory, stage_weights
from retro.planning.stages import stages_of
from retro.training.config import ParallelConfig
from retro.training.data_loader import DataLoader
from retro.training.loop import build_engine
from retro.training.validation import token_losses
from tests.planning.shapes import hand_shape, sized, training

VARIANTS: list[dict[str, Any]] = [
    {},
    {"retrieval": False},
    {"activation": "swiglu", "normalization": "RMSNorm", "gate": "learned"},
    {"bias": True, "positions": "learned", "tied_embeddings": True},
]


def one_rank(precision: str, settings: dict[str, Any]) -> StageMemory:
    shape, train = hand_shape(**settings), training(precision=precision, micro_batch=2, global_batch=2)
    (stage,) = stage_memory(shape, train, ParallelConfig(), data=1, micro_batches=1)
    return stage


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("settings", VARIANTS, ids=["plain", "gpt", "llama", "biases"])
def test_a_built_model_holds_the_planned_bytes(precision: str, settings: dict[str, Any]) -> None:
    shape, train = hand_shape(**settings), training(precision=precision, micro_batch=2, global_batch=2)
    engine = build_engine(shape, train, ParallelConfig())
    feed = DataLoader(RandomSource(shape), shape, engine.chunks, train.micro_batch)
    engine.step(feed.work(np.arange(train.micro_batch)), token_losses)
    weights = [weight for chunk in engine.chunks for weight in chunk.parameters()]
    plan = one_rank(precision, settings)
    assert sum(weight.numel() * weight.element_size() for weight in weights) == plan.weights
    gradients = [getattr(weight, "main_grad") for weight in weights]  # noqa: B009 - megatron-core's, untyped
    assert sum(gradient.numel() * gradient.element_size() for gradient in gradients) == plan.gradients
    assert optimizer_bytes(engine.optimizer, master=precision == "bfloat16") == plan.optimizer


def optimizer_bytes(optimizer: Any, *, master: bool) -> int:
    """Bytes of Adam's moments and of the fp32 master weights, over all optimizers of a chain."""
    total = 0
    for one in getattr(optimizer, "chained_optimizers", [optimizer]):
        inner = one.optimizer
        for state in inner.state.values():
            total += sum(state[name].numel() * state[name].element_size() for name in ("exp_avg", "exp_avg_sq"))
        if master:
            held = [weight for group in inner.param_groups for weight in group["params"]]
            total += sum(weight.numel() * weight.element_size() for weight in held)
    return total


@pytest.mark.parametrize("settings", VARIANTS, ids=["plain", "gpt", "llama", "biases"])
@pytest.mark.parametrize(("stages", "turns"), [(1, 1), (3, 1), (3, 2)])
def test_the_stages_have_together_the_weights_of_the_model(settings: dict[str, Any], stages: int, turns: int) -> None:
    shape = hand_shape(**({"layers": 6} | settings))
    blocks = stages_of(shape, ParallelConfig(pipeline=stages, virtual_pipeline=turns))
    total = sum(block_weights(shape, block).on_rank(1) for stage in blocks for block in stage)
    assert total == count_parameters(shape).total


def test_a_tied_output_layer_on_another_stage_is_a_copy() -> None:
    shape, layout = hand_shape(layers=6, tied_embeddings=True), ParallelConfig(pipeline=2)
    first, last = (stage_weights(shape, blocks, layout) for blocks in stages_of(shape, layout))
    assert first + last == count_parameters(shape).total + 50 * 16


def test_tensor_parallel_ranks_share_matrices_and_repeat_norms() -> None:
    assert Weights(split=96, whole=7).on_rank(4) == 24 + 7
    # A layer of the small shape without retrieval: matrices 16 x (32 + 16) + 16 x 64, norms 4 x 16, final norm 2 x 16,
    # embedding and output 2 x 50 x 16.
    shape = hand_shape(layers=1, retrieval=False)
    (blocks,) = stages_of(shape, ParallelConfig(tensor=2))
    assert stage_weights(shape, blocks, ParallelConfig(tensor=2)) == (768 + 1024 + 1600) // 2 + 64 + 32


def test_the_distributed_optimizer_is_shared_over_the_copies() -> None:
    shape, train = sized("843m"), training()
    whole, shared = (
        stage_memory(shape, train, ParallelConfig(distributed_optimizer=on), data=8, micro_batches=1)[0]
        for on in (False, True)
    )
    weights = count_parameters(shape).total
    assert (whole.weights, whole.gradients, whole.optimizer) == (2 * weights, 4 * weights, 12 * weights)
    assert shared.optimizer == 12 * weights / 8
    assert (shared.weights, shared.gradients) == (whole.weights, whole.gradients)


def test_frozen_weights_have_neither_gradients_nor_optimizer_state() -> None:
    # Cross-attention in layers 2 and 3: 768 weights and a norm of 32 each; the encoder: 2 layers of 768 + 1024 and two
    # norms, one cross-attention more and its norm.
    retrieval = 2 * (768 + 32) + 2 * (768 + 1024 + 64) + 768 + 32
    shape, one = hand_shape(), ParallelConfig()
    (alone,) = stage_memory(shape, training(train_only="retrieval"), one, data=1, micro_batches=1)
    (everything,) = stage_memory(shape, training(), one, data=1, micro_batches=1)
    assert (alone.gradients, alone.optimizer) == (4 * retrieval, 12 * retrieval)
    assert alone.weights == everything.weights
    (rest,) = stage_memory(shape, training(train_only="decoder"), one, data=1, micro_batches=1)
    assert rest.gradients == everything.gradients - alone.gradients


def test_adapters_come_beside_the_weights_and_alone_have_gradients_and_optimizer_state() -> None:
    # One GPT layer of width 16, feed-forward 32, rank 2, on two tensor parallel ranks: qkv and fc1 have B of
    # (32 + 32) x 2 cut and A of (16 + 16) x 2 whole; proj and fc2 have A of (16 + 32) x 2 cut and B of (16 + 16) x 2
    # whole.
    shape, layout = hand_shape(layers=1, retrieval=False), ParallelConfig(tensor=2)
    plain, adapted = (
        stage_memory(shape, training(lora=lora), layout, data=1, micro_batches=1)[0] for lora in (None, {"rank": 2})
    )
    here = (128 + 96) // 2 + 64 + 64
    assert (adapted.gradients, adapted.optimizer) == (4 * here, 12 * here)
    assert adapted.weights == plain.weights + 2 * here


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_built_model_with_adapters_holds_the_planned_bytes(precision: str) -> None:
    shape = hand_shape(activation="swiglu")
    train = training(precision=precision, micro_batch=2, global_batch=2, lora={"rank": 3})
    engine = build_engine(shape, train, ParallelConfig())
    feed = DataLoader(RandomSource(shape), shape, engine.chunks, train.micro_batch)
    engine.step(feed.work(np.arange(train.micro_batch)), token_losses)
    (plan,) = stage_memory(shape, train, ParallelConfig(), data=1, micro_batches=1)
    weights = [weight for chunk in engine.chunks for weight in chunk.parameters()]
    assert sum(weight.numel() * weight.element_size() for weight in weights) == plan.weights
    gradients = [weight.main_grad for weight in weights if weight.requires_grad]
    assert sum(gradient.numel() * gradient.element_size() for gradient in gradients) == plan.gradients
    assert optimizer_bytes(engine.optimizer, master=precision == "bfloat16") == plan.optimizer


def test_the_stage_with_the_encoder_is_the_fullest_of_a_pipeline() -> None:
    # Layer 9, with the encoder, is on the second of four stages of 6 layers; it keeps 3 micro batches of it.
    layout = ParallelConfig(pipeline=4)
    stages = stage_memory(sized("843m"), training(), layout, data=1, micro_batches=8)
    totals = [stage.activations for stage in stages]
    assert totals.index(max(totals)) == 1


def test_each_stage_but_the_first_keeps_what_it_received() -> None:
    # A packed tensor is (32 + 128) x 16 values of 2 bytes. Of two stages the last keeps one and has two gradients on
    # their way; the first has the gradients alone.
    layout, packed = ParallelConfig(pipeline=2), 160 * 16 * 2
    first, last = stage_memory(hand_shape(layers=4), training(), layout, data=1, micro_batches=8)
    assert (first.transport, last.transport) == (2 * packed, 3 * packed)
    assert first.total == pytest.approx(
        first.weights + first.gradients + first.optimizer + first.activations + 2 * packed
    )
