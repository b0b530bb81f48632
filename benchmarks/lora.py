"""What training adapters costs and saves beside training the whole model, or retrieval alone.

Measures, each case in a process of its own, the cases taking turns in `--rounds` so that a busy machine slows all:
processor seconds of an optimizer step on one thread (median over steps, after one to warm up), the peak memory of the
process, libraries included, and the bytes of a checkpoint. Share and bytes of what is trained are counted.

Run:    python -m benchmarks.lora
Writes: docs/results/lora_cpu.md and .json, unless --dry.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results import machine, median, peak_memory, write
from benchmarks.training_speed import RandomSource
from retro.mcore import checkpoint
from retro.model.config import ModelConfig, ModelShape
from retro.model.count import count_parameters
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.data_loader import DataLoader
from retro.training.loop import build_engine
from retro.training.validation import token_losses

ROOT = Path(__file__).parents[1]
CASES: dict[str, dict[str, Any]] = {
    "all weights": {},
    "retrieval alone (`train_only=retrieval`)": {"train_only": "retrieval"},
    "adapters of rank 8, every linear layer": {"lora": {"rank": 8}},
    "adapters of rank 8, `linear_qkv`": {"lora": {"rank": 8, "targets": ["linear_qkv"]}},
    "adapters of rank 64, every linear layer": {"lora": {"rank": 64}},
}
SHAPE = ModelShape(
    model=ModelConfig(
        layers=6, hidden_size=512, heads=8, query_groups=8, ffn_hidden_size=2048, sequence_length=256,
        activation="gelu", normalization="LayerNorm",
        first_cross_attention=3, cross_attention_every=3, encoder_layers=2,
    ),
    vocabulary=8192,
    chunk_length=64,
)  # fmt: skip


def run_case(name: str, steps: int) -> dict[str, Any]:
    """Processor seconds of each step, trained weights, and bytes of memory and of a checkpoint."""
    torch.set_num_threads(1)
    train = TrainConfig(micro_batch=1, global_batch=1, precision="float32", **CASES[name])
    engine = build_engine(SHAPE, train, ParallelConfig())
    seconds = []
    with DataLoader(RandomSource(SHAPE), SHAPE, engine.chunks, 1) as feed:
        work = feed.work(np.arange(1, dtype=np.int64))
        for _ in range(1 + steps):
            started = time.process_time()
            engine.step(work, token_losses)
            seconds.append(time.process_time() - started)
    peak = peak_memory()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(engine.state(), Path(folder))
        stored = sum(file.stat().st_size for file in Path(folder).iterdir())
    trained = sum(one.numel() for one in engine.chunks[0].parameters() if one.requires_grad)
    return {"seconds": seconds[1:], "trained": trained, "peak_bytes": peak, "checkpoint_bytes": stored}


def measure(rounds: int, steps: int) -> list[dict[str, Any]]:
    """One row a case."""
    rows: list[dict[str, Any]] = [{"name": name, "seconds": [], "peak_bytes": 0} for name in CASES]
    for _ in range(rounds):
        for row in rows:
            command = [sys.executable, "-m", "benchmarks.lora", "--steps", str(steps), "--case", row["name"]]
            environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            row["seconds"] += found.pop("seconds")
            row["peak_bytes"] = max(row["peak_bytes"], found.pop("peak_bytes"))
            row |= found
    return rows


def page(rows: list[dict[str, Any]], where: str, rounds: int, steps: int) -> str:
    """The results as Markdown."""
    total, whole = count_parameters(SHAPE).total, median(rows[0]["seconds"])
    model = SHAPE.model
    lines = [
        "# Training of adapters on a CPU",
        "",
        f"Machine: {where}; one thread a process. A Retro of {total:,} weights ({model.layers} layers of width "
        f"{model.hidden_size}), float32, one sequence of {model.sequence_length} tokens, {model.neighbors} neighbors a "
        f"chunk; median of {steps} steps in each of {rounds} rounds, after one to warm up. Made by "
        "`benchmarks/lora.py`. The machine was shared with other work, so steps are in processor seconds, and ratios "
        "are what counts.",
        "",
        "| trained | weights | share | step, CPU s | of all weights' | peak memory, GiB | checkpoint, MiB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        step = median(row["seconds"])
        lines.append(
            f"| {row['name']} | {row['trained']:,} | {row['trained'] / total:.2%} | {step:.2f} | {step / whole:.2f} | "
            f"{row['peak_bytes'] / 2**30:.2f} | {row['checkpoint_bytes'] / 2**20:.1f} |"
        )
    return "\n".join(
        [*lines, "", "A checkpoint holds Adam's two moments of what is trained; one of adapters holds no base.", ""]
    )


def main() -> None:
    """Measure all cases, print the page and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    parser.add_argument("--case", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run_case(options.case, options.steps)))
        return
    rows, where = measure(options.rounds, options.steps), machine("cpu")
    text = page(rows, where, options.rounds, options.steps)
    print(text)
    if not options.dry:
        print(write("lora_cpu", text, {"machine": where, "rows": rows}))


if __name__ == "__main__":
    main()
