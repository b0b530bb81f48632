"""Whole plans: time worked by hand, proposals, published hours, refusals."""

from __future__ import annotations

import pytest

from retro.common.errors import ConfigError
from retro.planning.flops import count_flops
from retro.planning.gpus import GPUS, Gpu, find_gpu
from retro.planning.plan import Plan, make_plan
from retro.planning.propose import candidates, fewest_gpus, propose
from retro.planning.published import PUBLISHED, published_batch
from retro.training.config import ParallelConfig
from tests.planning.shapes import hand_shape, sized, training

SMALL_GPU = Gpu("made-up", 1e9, 1e9, "none")


def plan_of(*, stages: int = 1, turns: int = 1, recompute: str = "none", gpus: int = 6) -> Plan:
    layout = ParallelConfig(pipeline=stages, virtual_pipeline=turns)
    train = training(recompute=recompute, micro_batch=2, global_batch=72)
    return make_plan(hand_shape(layers=6), train, layout, gpus=gpus, gpu=SMALL_GPU, utilization=0.5)


def test_the_time_of_a_step_is_that_worked_by_hand() -> None:
    # 6 layers of 4608, logits 1600, cross-attention in 5 layers of 4096, encoder 38400: 88,128 FLOPs a token forward.
    # 72 sequences of 32 tokens at three times that, over 6 GPUs that reach half of 1 GFLOP/s.
    plan = plan_of()
    assert plan.flops.total == 88_128
    assert plan.step_seconds == pytest.approx(72 * 32 * 3 * 88_128 / (6 * 0.5e9))
    assert plan.tokens_per_second == pytest.approx(6 * 0.5e9 / (3 * 88_128))
    assert plan.model_utilization == pytest.approx(0.5)
    assert plan.gpu_hours(1e6) == pytest.approx(1e6 * 3 * 88_128 / 0.5e9 / 3600)


@pytest.mark.parametrize(
    ("recompute", "again"),
    # A fourth pass of everything but the logits; or 6 layers of 3072, 5 that read 1024, and the encoder's 4 x 5376.
    [("full", 88_128 - 1600), ("selective", 6 * 3072 + 5 * 1024 + 4 * 5376)],
)
def test_what_is_recomputed_costs_time_and_is_no_progress(recompute: str, again: int) -> None:
    plan, slower = plan_of(), plan_of(recompute=recompute)
    share = 3 * 88_128 / (3 * 88_128 + again)
    assert slower.step_seconds == pytest.approx(plan.step_seconds / share)
    assert slower.model_utilization == pytest.approx(0.5 * share)


def test_a_pipeline_waits_for_its_slowest_stage_and_while_it_fills() -> None:
    # Stage 1 has layers 1 to 3 (two read) and the encoder: 13824 + 8192 + 38400; stage 2 the rest and the logits.
    plan = plan_of(stages=2)
    assert plan.stage_flops == [3 * 60_416, 3 * (88_128 - 60_416)]
    assert plan.imbalance == pytest.approx(60_416 / 44_064)
    # 3 data parallel ranks: 12 micro batches of 2 sequences, and one more while the pipeline fills.
    assert plan.micro_batches == 12
    assert plan.bubble == 1 / 12
    assert plan.step_seconds == pytest.approx(13 * 2 * 32 * 3 * 60_416 / 0.5e9)


def test_transport_grows_by_the_neighbors() -> None:
    # 2 sequences x (32 tokens + 128 neighbor tokens) x 16 values x 2 bytes; without retrieval the 32 tokens alone.
    plan = plan_of(stages=2)
    assert plan.transport_bytes == 2 * 160 * 16 * 2
    assert plan.without_retrieval().transport_bytes == 2 * 32 * 16 * 2
    assert plan_of().transport_bytes == 0


def test_the_proposal_is_the_smallest_layout_that_fits() -> None:
    (plan,) = propose(sized("8b"), training(global_batch=512), gpus=16, gpu=find_gpu("h100-80g"), modes=("none",))
    product = plan.layout.tensor * plan.layout.pipeline
    smaller = [
        one
        for one in candidates(plan.shape, plan.train, gpus=16, gpu=find_gpu("h100-80g"))
        if one.layout.tensor * one.layout.pipeline < product
    ]
    assert plan.fits
    assert smaller
    assert not any(one.fits for one in smaller)


def test_a_proposal_is_made_for_each_way_to_recompute_quickest_first() -> None:
    plans = propose(sized("843m"), training(), gpus=8, gpu=find_gpu("h100-80g"))
    assert {plan.train.recompute for plan in plans} == {"none", "selective", "full"}
    assert [plan.step_seconds for plan in plans] == sorted(plan.step_seconds for plan in plans)
    assert plans[-1].train.recompute == "full"


def test_tensor_parallel_ranks_stay_within_a_node_and_share_the_sequence() -> None:
    (plan,) = propose(sized("43b"), training(global_batch=64), gpus=64, gpu=find_gpu("a100-40g"), modes=("full",))
    assert plan.layout.tensor == 8
    assert plan.layout.sequence
    assert plan.layout.pipeline > 1


def test_published_hours_imply_a_plausible_share_of_the_peak() -> None:
    # 823M, by hand: 24 layers x (8 d^2 + 6 d f + 2 s d) + 2 V d = 1.3233e9 FLOPs a token forward; three times that for
    # 1e11 tokens in 1408 hours on 312 TFLOP/s is 25.1 %.
    row = next(row for row in PUBLISHED if row.name == "843m")
    layer = 8 * 1024**2 + 6 * 1024 * 2688 + 2 * 4096 * 1024
    by_hand = 3 * (24 * layer + 2 * 256_000 * 1024) * 100e9 / (1408 * 3600 * 312e12)
    assert row.gpt_utilization == pytest.approx(by_hand)
    assert by_hand == pytest.approx(0.251, abs=5e-4)
    assert row.ratio == pytest.approx(1920 / 1408)
    assert all(0.15 < one < 0.5 for row in PUBLISHED for one in (row.gpt_utilization, row.retro_utilization))
    retrofit = [row for row in PUBLISHED if row.tokens == 100e9]
    assert len(retrofit) == 5
    assert all(row.flops.ratio == pytest.approx(row.ratio, rel=0.08) for row in retrofit)


def test_the_published_batch_is_planned_with() -> None:
    assert (published_batch("43b"), published_batch("tiny")) == (768, 256)


def test_an_xl_row_has_its_own_width() -> None:
    row = next(row for row in PUBLISHED if row.name == "xl")
    assert row.flops == count_flops(
        sized("medium", vocabulary=50_257, hidden_size=2048, heads=32, query_groups=32, ffn_hidden_size=8192)
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [("h100", "did you mean 'h100-80g'?"), ("tpu", "is not a GPU of the table; known: a100-40g, a100-80g")],
)
def test_an_unknown_gpu_is_answered_with_the_nearest(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match="--gpu") as caught:
        find_gpu(name)
    assert words in str(caught.value)


def test_names_of_gpus_are_read_in_any_case() -> None:
    assert find_gpu("H100-80G") is GPUS["h100-80g"]


def test_gpus_that_make_no_whole_copies_are_refused_with_the_nearest() -> None:
    layout = ParallelConfig(tensor=8, pipeline=4)
    with pytest.raises(ConfigError) as caught:
        make_plan(sized("43b"), training(), layout, gpus=72)
    assert str(caught.value) == "--gpus = 72: needs a multiple of tensor x pipeline = 8 x 4; nearest: 64 or 96"


def test_a_utilization_that_is_no_share_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--utilization = 40: needs a share above 0 and up to 1"):
        make_plan(sized("843m"), training(), ParallelConfig(), gpus=8, utilization=40)


def test_a_batch_that_the_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.global_batch = 8"):
        make_plan(sized("843m"), training(), ParallelConfig(), gpus=16)


def test_when_nothing_fits_what_would_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        propose(sized("43b"), training(global_batch=512, micro_batch=2), gpus=32, gpu=find_gpu("a100-40g"))
    text = str(caught.value)
    assert "--gpus = 32: needs more memory: the leanest layout, tensor 8 x pipeline 4 with recompute full" in text
    assert (
        "GiB of the 33.5 to fill on one a100-40g. What would fit: 64 GPUs or 32 x a100-80g or train.micro_batch=1"
        in text
    )


def test_the_fewest_gpus_hold_one_copy_and_half_of_them_do_not() -> None:
    # 42.83e9 + 5.6e9 weights at 6 bytes and 12 more over the copies: 873 GB, of 72 GB a GPU.
    gpu = find_gpu("h100-80g")
    assert fewest_gpus(sized("43b"), training(), gpu=gpu) == 16
    with pytest.raises(ConfigError, match="What would fit: 16 GPUs"):
        propose(sized("43b"), training(), gpus=8, gpu=gpu)
    assert fewest_gpus(sized("843m"), training(), gpu=gpu) == 1


def test_what_no_number_of_gpus_holds_is_refused() -> None:
    # One sequence of a billion tokens: each keeps more than 2,000 bytes a layer, split over 8 ranks at most.
    endless = sized("tiny", sequence_length=2**30)
    with pytest.raises(ConfigError, match="--gpu = 'a100-40g': needs a smaller model or micro batch: 1,024 x a100-40g"):
        fewest_gpus(endless, training(), gpu=find_gpu("a100-40g"))
    with pytest.raises(ConfigError, match="Nothing in the table fits: take a smaller model"):
        propose(endless, training(), gpus=8, gpu=find_gpu("a100-40g"))


def test_numbers_that_share_out_nothing_are_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=r"--gpus = 7: needs a number of GPUs that the model's 32 layers, its heads and train\.global_batch = 8",
    ):
        propose(sized("8b"), training(), gpus=7, gpu=find_gpu("h100-80g"))


def test_a_plan_without_a_gpu_has_no_time() -> None:
    plan = make_plan(hand_shape(), training(), ParallelConfig(), gpus=1)
    assert plan.fits
    with pytest.raises(ValueError, match="time needs a GPU"):
        _ = plan.step_seconds
