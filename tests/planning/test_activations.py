"""The activation formula against what autograd really saves, and against hand-worked sums."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.activation_memory import CASES, LAYOUTS, measured, planned, settings_of
from retro.planning.activations import Activations, ShardedBytes
from retro.planning.stages import stages_of
from retro.training.config import ParallelConfig
from tests.planning.shapes import hand_shape, training


def is_close(row: dict[str, Any]) -> bool:
    """Within 1 %, or within 0.1 MB: token ids and statistics of norms, which the formula leaves out.

    These are 0.02 to 0.07 MB, which shows only where full recompute keeps hardly more than 1 MB.
    """
    return abs(row["planned"] - row["measured"]) < max(0.01 * row["measured"], 0.1e6)


@pytest.mark.parametrize("changes", [changes for _, changes in CASES], ids=[name for name, _ in CASES])
def test_the_formula_is_within_1_percent_of_what_autograd_saves(changes: dict[str, Any]) -> None:
    shape, train = settings_of(changes)
    one = ParallelConfig()
    assert is_close({"planned": planned(shape, train, one), "measured": measured(shape, train, one)})


def test_it_is_so_on_each_of_two_ranks_that_share_a_model(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "benchmarks.activation_memory", "--json", str(out)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert len(rows) == len(LAYOUTS) * 6 * 2
    assert [row for row in rows if not is_close(row)] == []


def test_a_gpt_keeps_what_is_worked_by_hand() -> None:
    # Values a token: 4 d = 64 whole; d + kv = 32, d + kv / 2 = 24, d = 16 and 2 f = 64 split. bfloat16, 32 tokens, and
    # 4 bytes of log-sum-exp for each of 4 heads; cosines and sines of 4 values for queries and for keys, 32 rows.
    shape, train = hand_shape(retrieval=False, layers=1), training()
    kept = Activations(shape, train).block(stages_of(shape, ParallelConfig())[0][0])
    output = 32 * 2 * 16 * 2
    assert kept.whole == 32 * 64 * 2 + output
    assert kept.split == 32 * ((32 + 24 + 16 + 64) * 2 + 16) + 32 * 50 * 4
    assert kept.fixed == 4 * 32 * 4 * 2


def test_ranks_share_what_is_split_and_the_rest_under_sequence_parallel() -> None:
    kept = ShardedBytes(whole=80.0, split=400.0, fixed=5.0)
    assert kept.on_rank(ParallelConfig()) == 485
    assert kept.on_rank(ParallelConfig(tensor=4)) == 80 + 100 + 5
    assert kept.on_rank(ParallelConfig(tensor=4, sequence=True)) == 20 + 100 + 5


def test_full_recompute_keeps_the_inputs_of_layers_and_makes_the_largest_anew() -> None:
    # 3 inputs of decoder layers, embedded and encoded neighbors (4 times as many tokens each), the output's two.
    shape, train = hand_shape(), training(recompute="full")
    activations, blocks = Activations(shape, train), stages_of(shape, ParallelConfig())[0]
    assert activations.block(blocks[0]).whole == (3 + 4 + 4 + 2) * 32 * 16 * 2
    plain = Activations(shape, training())
    again, everything = activations.recomputed(blocks), plain.block(blocks[0])
    assert 0 < again.split < everything.split
    assert plain.recomputed(blocks) == ShardedBytes()


def test_selective_recompute_keeps_no_feed_forward_and_makes_the_largest_anew() -> None:
    # 2 f = 64 values a token of 3 decoder layers and, for 4 times as many tokens, of 2 encoder layers; 16 bytes of
    # log-sum-exp a token of 5 self-attentions and 3 cross-attentions; in these, a second copy of the output. The
    # encoder's self-attentions rotate 16 values of queries and 8 of keys in what is computed again.
    shape = hand_shape()
    blocks = stages_of(shape, ParallelConfig())[0]
    plain, selective = Activations(shape, training()), Activations(shape, training(recompute="selective"))
    feed_forward = (3 * 32 + 2 * 128) * 64 * 2
    cores = (3 * 32 + 2 * 128 + 2 * 32 + 128) * 16 + (2 * 32 + 128) * 16 * 2
    freed = plain.block(blocks[0]).split - selective.block(blocks[0]).split
    assert freed == feed_forward + cores + 2 * 128 * (16 + 8) * 2
    assert selective.block(blocks[0]).whole == plain.block(blocks[0]).whole
    assert selective.recomputed(blocks) == ShardedBytes(split=128 * 64 * 2)
    assert Activations(hand_shape(retrieval=False), training(recompute="selective")).recomputed(blocks) == ShardedBytes(
        split=32 * 64 * 2
    )


def test_dropout_keeps_a_byte_a_value() -> None:
    # Two masks in each of 3 decoder layers, one in each of 2 cross-attentions, of 32 tokens x 16 values.
    def whole(dropout: float) -> float:
        shape = hand_shape(dropout=dropout)
        return Activations(shape, training()).block(stages_of(shape, ParallelConfig())[0][0]).whole

    assert whole(0.1) - whole(0.0) == (3 * 2 + 2) * 32 * 16


def test_bfloat16_holds_the_logits_beside_their_softmax() -> None:
    shape = hand_shape()
    assert Activations(shape, training()).logits().split == 32 * 50 * 2
    assert Activations(shape, training(precision="float32")).logits().split == 0


def test_a_later_block_leaves_out_what_it_received() -> None:
    shape, train = hand_shape(layers=4), training()
    layout = ParallelConfig(pipeline=2)
    activations = Activations(shape, train)
    one = stages_of(shape, ParallelConfig())[0][0]
    (first,), (last,) = stages_of(shape, layout)
    apart = activations.block(first) + activations.block(last)
    hidden = 32 * 16 * 2
    assert activations.block(one).whole - apart.whole == hidden
    assert activations.transport().whole == 5 * hidden
    # Of two sequences, the neighbors are copied out of the packed tensor: 4 tokens for each of the 2 x 32.
    two = Activations(shape, training(micro_batch=2))
    apart = two.block(first) + two.block(last)
    assert two.block(one).whole - apart.whole == 2 * hidden - 8 * hidden
