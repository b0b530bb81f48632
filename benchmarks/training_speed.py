"""Time and memory of a training step, GPT and Retro, beside what the planner's FLOPs say.

Measures: seconds of a whole optimizer step (forward, backward, Adam) of one process on random tokens, the median over
steps after some to warm up; tokens a second; model FLOPs utilization by `retro.planning.flops`; peak memory (of a GPU,
or of the process on a CPU, libraries included). Prints the measured Retro/GPT ratio beside that of the FLOPs. Each
case is a process of its own; GPT and Retro take turns in `--rounds`, so that a busy machine slows both.

Run:    python -m benchmarks.training_speed                             843m, sequences of 2,048 and 4,096, one GPU
        python -m benchmarks.training_speed --device cpu --size tiny --sequence 256 --precision float32
        ... --peer-python PATH   also time the Retro of megatron-core 0.15.3, in an environment of its own; how to make
                                 one is written in tests/parity/make_fixtures.py
Writes: docs/results/training_speed_<size>_<device>.md and .json, unless --dry.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.results import machine, median, write
from retro.common.config import apply_overrides
from retro.model.config import ModelConfig, ModelShape
from retro.model.sizes import find_size
from retro.planning.activations import Activations
from retro.planning.flops import count_flops
from retro.planning.gpus import find_gpu
from retro.planning.memory import stage_memory
from retro.training.batch import Batch, BatchSpec
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.data_loader import DataLoader
from retro.training.loop import build_engine
from retro.training.validation import token_losses

ROOT = Path(__file__).parents[1]
PEER = Path(__file__).with_name("peer_retro.py")


class RandomSource:
    """Samples of random tokens and neighbors; every neighbor is there and full, as the peer needs them."""

    def __init__(self, shape: ModelShape) -> None:
        self.shape = shape
        model = shape.model
        neighbors = model.neighbors if model.retrieval else 0
        self.form = BatchSpec(sequence_length=model.sequence_length, neighbors=neighbors)

    def fetch(self, sample_numbers: NDArray[np.int64]) -> Batch:
        """Samples by number."""
        model, random = self.shape.model, np.random.default_rng(int(sample_numbers[0]))
        count = len(sample_numbers)
        tokens = random.integers(0, self.shape.vocabulary, (count, model.sequence_length + 1))
        neighbors = None
        if self.form.neighbors:
            chunks = model.sequence_length // self.shape.chunk_length
            size = (count, chunks, model.neighbors, self.shape.retrieved_length)
            neighbors = random.integers(0, self.shape.vocabulary, size)
        return Batch(
            tokens_BS=tokens[:, :-1],
            labels_BS=tokens[:, 1:],
            loss_mask_BS=np.ones((count, model.sequence_length), dtype=np.float32),
            neighbors_BLKR=neighbors,
            neighbor_mask_BLKR=None if neighbors is None else np.ones(neighbors.shape, dtype=bool),
            token_mask_BS=None,
        )


def settings_of(case: dict[str, Any]) -> tuple[ModelShape, TrainConfig]:
    """The shape of a case, and how it is trained."""
    changes: dict[str, Any] = {"sequence_length": case["sequence"], "retrieval": case["model"] != "GPT"}
    model = ModelConfig(**(apply_overrides({"size": case["size"]}, case["settings"]) | changes))
    shape = ModelShape(model=model, vocabulary=case["vocabulary"], chunk_length=case["chunk_length"])
    train = TrainConfig(
        precision=case["precision"],
        micro_batch=case["micro_batch"],
        global_batch=case["micro_batch"],
        recompute=case["recompute"],
    )
    return shape, train


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each step, and the peak of memory in bytes."""
    shape, train = settings_of(case)
    engine = build_engine(shape, train, ParallelConfig())
    feed = DataLoader(RandomSource(shape), shape, engine.chunks, train.micro_batch)
    work = feed.work(np.arange(train.micro_batch, dtype=np.int64))
    seconds = []
    for _ in range(case["warm_up"] + case["steps"]):
        started = time.perf_counter()
        engine.step(work, token_losses)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds[case["warm_up"] :], "peak_bytes": peak_bytes()}


def peak_bytes() -> int:
    """The most memory that this process had allocated: of the GPU, or else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_own_process(case: dict[str, Any], device: str, peer_python: Path | None) -> dict[str, Any]:
    """`run_case`, or the peer's, in a new process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, str(Path(__file__)), "--case", json.dumps(case)]
    if case["model"].startswith("peer"):
        command = [str(peer_python), str(PEER), _for_peer(case)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _for_peer(case: dict[str, Any]) -> str:
    shape, _ = settings_of(case)
    model = shape.model.model_dump() | {"vocabulary": shape.padded_vocabulary, "chunk_length": shape.chunk_length}
    return json.dumps(case | {"shape": model})


def measure(options: argparse.Namespace, sequence: int) -> list[dict[str, Any]]:
    """One row a model, at one sequence length."""
    models = ["GPT", "Retro"] + (["peer Retro"] if options.peer_python else [])
    cases = [_case(options, sequence, model) for model in models]
    rows: list[dict[str, Any]] = [case | {"seconds": [], "peak_bytes": 0} for case in cases]
    for _ in range(options.rounds):
        for case, row in zip(cases, rows, strict=True):
            found = in_own_process(case, options.device, options.peer_python)
            row["seconds"] += found["seconds"]
            row["peak_bytes"] = max(row["peak_bytes"], found["peak_bytes"])
    return [row | _derived(row, options) for row in rows]


def _case(options: argparse.Namespace, sequence: int, model: str) -> dict[str, Any]:
    return {
        "model": model, "size": options.size, "settings": options.settings, "sequence": sequence,
        "chunk_length": 64, "vocabulary": options.vocabulary or find_size(options.size).vocabulary,
        "micro_batch": options.micro_batch, "precision": options.precision, "recompute": options.recompute,
        "steps": options.steps, "warm_up": options.warm_up,
    }  # fmt: skip


def _derived(row: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    shape, train = settings_of(row)
    flops, step = count_flops(shape), median(row["seconds"])
    tokens = train.micro_batch * shape.model.sequence_length
    (planned,) = stage_memory(shape, train, ParallelConfig(), data=1, micro_batches=1)
    rate = tokens / step
    return {
        "step_seconds": step,
        "tokens_per_second": rate,
        "training_flops_per_token": flops.training,
        "flops_per_second": flops.training * rate,
        "utilization": flops.training * rate / find_gpu(options.gpu).peak if options.gpu else None,
        "planned_bytes": planned.total,
        "planned_logits_bytes": Activations(shape, train).logits().split,
    }


def page(options: argparse.Namespace, rows: list[dict[str, Any]], where: str) -> str:
    """The results as Markdown."""
    lines = [
        f"# Training step, {options.size}, on {'a GPU' if options.device == 'cuda' else 'a CPU'}",
        "",
        f"Machine: {where}. {options.precision}, micro batch {options.micro_batch}, recompute {options.recompute}; "
        f"median of {options.steps} steps in each of {options.rounds} rounds, after {options.warm_up} to warm up.",
        f"Settings {', '.join(options.settings) or 'of the size'}; vocabulary {rows[0]['vocabulary']:,}.",
        f"Made by `benchmarks/training_speed.py`. {options.note}".rstrip(),
        "",
        "| model | sequence | step, s | tokens/s | TFLOP/s | of the peak | peak memory, GiB | by the plan, GiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        peak = "-" if row["utilization"] is None else f"{row['utilization']:.1%}"
        planned = "-" if row["model"].startswith("peer") else f"{row['planned_bytes'] / 2**30:.2f}"
        lines.append(
            f"| {row['model']} | {row['sequence']:,} | {row['step_seconds']:.4g} | {row['tokens_per_second']:,.0f} | "
            f"{row['flops_per_second'] / 1e12:.4g} | {peak} | {row['peak_bytes'] / 2**30:.2f} | "
            f"{planned} |"
        )
    if options.device == "cpu":
        lines += ["", "Peak memory is that of the process, Python and torch included; the plan counts tensors."]
    return "\n".join([*lines, "", *_ratios(rows), ""])


def _ratios(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| Retro over GPT | sequence | measured | by FLOPs |", "|---|---:|---:|---:|"]
    gpts = {row["sequence"]: row for row in rows if row["model"] == "GPT"}
    for row in rows:
        if row["model"] != "GPT":
            gpt = gpts[row["sequence"]]
            measured = row["step_seconds"] / gpt["step_seconds"]
            theory = row["training_flops_per_token"] / gpt["training_flops_per_token"]
            lines.append(f"| {row['model']} | {row['sequence']:,} | {measured:.3f} | {theory:.3f} |")
    return lines


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("settings", nargs="*", help="settings of the model, as layers=4")
    parser.add_argument("--size", default="843m")
    parser.add_argument("--sequence", type=int, nargs="+", default=[2048, 4096])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--gpu", default="", help="a name of the planner's table, for the share of its peak")
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--recompute", choices=["none", "selective", "full"], default="none")
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=0, help="tokens, if not the size's own")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peer-python", type=Path, default=None)
    parser.add_argument("--note", default="", help="a sentence for the page, as on what else the machine did")
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    parser.add_argument("--case", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure all cases, print the page and write it."""
    options = arguments()
    if options.case:
        print(json.dumps(run_case(json.loads(options.case))))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here; --device cpu --size tiny --sequence 256 --precision float32 runs anywhere")
    rows = [row for sequence in options.sequence for row in measure(options, sequence)]
    where = machine(options.device)
    text = page(options, rows, where)
    print(text)
    if not options.dry:
        name = f"training_speed_{options.size}_{options.device}"
        print(write(name, text, {"machine": where, "rows": rows}))


if __name__ == "__main__":
    main()
