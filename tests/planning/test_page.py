"""docs/plan.md: every number in its tables is its formula worked out, and what the planner says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from retro.model.count import count_parameters
from retro.planning.activations import Activations
from retro.planning.flops import count_flops, recomputed_flops
from retro.planning.gpus import GPUS, find_gpu
from retro.planning.memory import stage_memory
from retro.planning.plan import Plan, make_plan
from retro.planning.stages import stages_of
from retro.training.config import ParallelConfig
from tests.planning.shapes import sized, training

PAGE = (Path(__file__).parents[2] / "docs" / "plan.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (?P<name>[^|]+) \| `(?P<formula>[0-9e .*/+()-]+)` \| (?P<value>[0-9.,]+) \|$", re.MULTILINE)
ROWS = [(row["name"], row["formula"], float(row["value"].replace(",", ""))) for row in ROW.finditer(PAGE)]

SHAPE = sized("843m", sequence_length=2048)
TRAIN = training(global_batch=128)


def one_h100() -> Plan:
    return make_plan(SHAPE, TRAIN, ParallelConfig(), gpus=1, gpu=find_gpu("h100-80g"), utilization=0.4)


def pipeline(retrieval: bool = True) -> Plan:
    layout = ParallelConfig(tensor=8, sequence=True, pipeline=4, virtual_pipeline=2)
    return make_plan(sized("43b", retrieval=retrieval), training(global_batch=768), layout, gpus=64)


def logits_and_kept() -> float:
    return stage_memory(SHAPE, TRAIN, ParallelConfig(), data=1, micro_batches=1)[0].activations


COUNT, FLOPS = count_parameters(SHAPE), count_flops(SHAPE)

# What the planner says of each row, in the order of the page; None for a part that it only gives within a sum.
PLANNED: list[tuple[str, Callable[[], float] | None]] = [
    ("embeddings and output", lambda: COUNT.embeddings),
    ("decoder", lambda: COUNT.decoder),
    ("cross-attention", lambda: COUNT.cross_attention),
    ("encoder", lambda: COUNT.encoder),
    ("all", lambda: COUNT.total),
    ("weights, bfloat16", lambda: one_h100().stages[0].weights),
    ("gradients, fp32", lambda: one_h100().stages[0].gradients),
    ("optimizer: fp32 master weights and two moments", lambda: one_h100().stages[0].optimizer),
    ("decoder", lambda: FLOPS.decoder),
    ("logits", lambda: FLOPS.logits),
    ("cross-attention", lambda: FLOPS.cross_attention),
    ("encoder", lambda: FLOPS.encoder),
    ("all", lambda: FLOPS.total),
    ("Retro / GPT", lambda: FLOPS.ratio),
    ("a decoder layer", None),
    ("cross-attention of a layer", None),
    ("an encoder layer", None),
    ("the encoder's cross-attention", None),
    ("encoded neighbors", None),
    ("final norm and softmax", None),
    ("logits in bfloat16 beside it", lambda: Activations(SHAPE, TRAIN).logits().split),
    ("all", logits_and_kept),
    ("seconds a step of 128 sequences, 40 % of 989 TFLOP/s", lambda: one_h100().step_seconds),
    ("GPU-hours of 100 billion tokens", lambda: one_h100().gpu_hours(100e9)),
    ("bubble, (p - 1) / (v m)", lambda: pipeline().bubble),
    ("bytes to the next stage, a micro batch, (s + K R L) d", lambda: pipeline().transport_bytes),
    ("the same without retrieval", lambda: pipeline(retrieval=False).transport_bytes),
]


def test_every_row_of_the_page_is_checked() -> None:
    assert [name for name, _, _ in ROWS] == [name for name, _ in PLANNED]


@pytest.mark.parametrize(("row", "planned"), list(zip(ROWS, PLANNED, strict=True)), ids=[name for name, _ in PLANNED])
def test_a_number_of_the_page_is_its_formula_and_the_planners(
    row: tuple[str, str, float], planned: tuple[str, Callable[[], float] | None]
) -> None:
    _, formula, value = row
    worked_out = float(eval(formula))  # digits and operators of our own page: see ROW
    # Whole numbers are printed in full, others to four digits.
    assert value == pytest.approx(worked_out, rel=0 if value > 1e6 else 2e-4, abs=0)
    if planned[1] is not None:
        assert planned[1]() == pytest.approx(worked_out, rel=1e-12)


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_what_recomputing_frees_and_costs_is_the_planners(recompute: str) -> None:
    ((block,),) = stages_of(SHAPE, ParallelConfig())
    kept = Activations(SHAPE, training(recompute=recompute)).block(block).on_rank(ParallelConfig())
    assert f"| {recompute} | {kept:,.0f} | {recomputed_flops(SHAPE, block, recompute):,.0f} |" in PAGE


def test_the_imbalance_on_the_page_is_the_planners() -> None:
    assert f"{pipeline().imbalance:.2f} times the mean" in PAGE.replace("\n", " ")
    assert f"slowest has {pipeline(retrieval=False).imbalance:.2f}" in PAGE


def test_the_gpus_on_the_page_are_those_of_the_table() -> None:
    names = set(re.findall(r"\b[abh]\d00-[a-z0-9-]*\d+g\b", PAGE.partition("## GPUs")[2]))
    assert names == set(GPUS)
