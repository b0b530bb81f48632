"""What it costs that retrieved neighbors travel with the hidden states between pipeline stages.

Measures, with two processes: (1) seconds to send one tensor from the first to the second and back, in the size that a
GPT needs, [S, B, H], and in the size that a Retro needs, [S + K R L, B, H]; (2) seconds of a whole optimizer step of a
GPT and of a Retro over two pipeline stages, and the share of it that the sends of (1) would take if nothing hid them:
two a micro batch, hidden states forward and their gradient back.

Run:    python -m torch.distributed.run --nproc-per-node 2 -m benchmarks.pipeline_transport
        on GPUs (NCCL) where torch sees two, else on CPUs (gloo); settings of the model as hidden_size=256
Writes: docs/results/pipeline_transport_<size>_<device>.md and .json, unless --dry.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.results import machine, median, write
from benchmarks.training_speed import RandomSource, settings_of
from retro.mcore import parallel
from retro.mcore.cpu import device, on_cpu
from retro.mcore.engine import Engine
from retro.model.model import RetroModel
from retro.model.sizes import find_size
from retro.planning.flops import neighbor_tokens
from retro.training.config import ParallelConfig
from retro.training.data_loader import DataLoader
from retro.training.loop import build_engine
from retro.training.validation import token_losses

LAYOUT = ParallelConfig(pipeline=2)


def round_trips(rows: int, batch: int, width: int, bfloat16: bool, times: int) -> list[float]:
    """Seconds of one send each, half of a way there and back, of [rows, batch, width]."""
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    tensor = torch.zeros(rows, batch, width, dtype=dtype, device=device())
    found = []
    for _ in range(times + 2):
        parallel.barrier()
        started = time.perf_counter()
        if parallel.rank() == 0:
            dist.send(tensor, 1)
            dist.recv(tensor, 1)
        else:
            dist.recv(tensor, 0)
            dist.send(tensor, 0)
        _finish()
        found.append((time.perf_counter() - started) / 2)
    return found[2:]


class Runner:
    """A model over two stages, ready to step."""

    def __init__(self, case: dict[str, Any], micro_batches: int) -> None:
        self.shape, train = settings_of(case)
        self.train = train.model_copy(update={"global_batch": train.micro_batch * micro_batches})
        self.engine: Engine[RetroModel] = build_engine(self.shape, self.train, LAYOUT)
        feed = DataLoader(RandomSource(self.shape), self.shape, self.engine.chunks, train.micro_batch)
        self.work = feed.work(np.arange(self.train.global_batch))

    def step(self) -> float:
        """Seconds of one step."""
        parallel.barrier()
        started = time.perf_counter()
        self.engine.step(self.work, token_losses)
        _finish()
        return time.perf_counter() - started

    @property
    def rows(self) -> int:
        """Rows of what travels."""
        return self.shape.model.sequence_length + neighbor_tokens(self.shape)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row each for GPT and Retro; their steps take turns, so that a busy machine slows both."""
    names = ("GPT", "Retro")
    runners = {name: Runner(_case(options, name), options.micro_batches) for name in names}
    steps: dict[str, list[float]] = {name: [] for name in names}
    for number in range(options.steps + 1):
        for name in names:
            seconds = runners[name].step()
            steps[name] += [seconds] if number else []
    rows = []
    for name in names:
        runner, model = runners[name], runners[name].shape.model
        bfloat16 = options.precision == "bfloat16"
        size = (runner.rows, options.micro_batch, model.hidden_size)
        sends = round_trips(*size, bfloat16, options.sends)
        rows.append(
            {
                "model": name, "tensor": size, "bytes": int(np.prod(size)) * (2 if bfloat16 else 4),
                "send_seconds": median(sends), "sends": sends,
                "step_seconds": median(steps[name]), "steps": steps[name],
                "share": 2 * options.micro_batches * median(sends) / median(steps[name]),
            }
        )  # fmt: skip
    return rows


def page(options: argparse.Namespace, rows: list[dict[str, Any]], where: str) -> str:
    """The results as Markdown."""
    _, train = settings_of(_case(options, "Retro"))
    lines = [
        f"# Pipeline transport, {options.size}, {'CPU (gloo)' if on_cpu() else 'GPU (NCCL)'}",
        "",
        f"Machine: {where}. Two pipeline stages, a process each. {train.precision}, {options.micro_batches} micro",
        f"batches of {train.micro_batch}; settings {', '.join(options.settings) or 'of the size'}. Medians of "
        f"{options.sends} sends and {options.steps} steps, GPT and Retro in turn.",
        f"Made by `benchmarks/pipeline_transport.py`. {options.note}".rstrip(),
        "",
        "| model | what travels | MiB | one send, ms | MiB/s | a step, s | all sends, share of the step |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        mebibytes, send = row["bytes"] / 2**20, row["send_seconds"]
        lines.append(
            f"| {row['model']} | {list(row['tensor'])} | {mebibytes:.2f} | {send * 1e3:.2f} | "
            f"{mebibytes / send:,.0f} | {row['step_seconds']:.3f} | {row['share']:.1%} |"
        )
    gpt, retro = rows
    times = [retro[name] / gpt[name] for name in ("bytes", "send_seconds", "step_seconds")]
    lines.append(f"| Retro over GPT | | {times[0]:.2f} | {times[1]:.2f} | | {times[2]:.2f} | |")
    return "\n".join([*lines, ""])


def _case(options: argparse.Namespace, model: str) -> dict[str, Any]:
    vocabulary = options.vocabulary or find_size(options.size).vocabulary
    return {
        "model": model, "size": options.size, "settings": options.settings, "sequence": options.sequence,
        "chunk_length": 64, "vocabulary": vocabulary, "micro_batch": options.micro_batch,
        "precision": options.precision, "recompute": "none",
    }  # fmt: skip


def _finish() -> None:
    if not on_cpu():
        torch.cuda.synchronize()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("settings", nargs="*", help="settings of the model, as hidden_size=256")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--sequence", type=int, default=256)
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="float32")
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--micro-batches", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=0, help="tokens, if not the size's own")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--sends", type=int, default=50)
    parser.add_argument("--note", default="", help="a sentence for the page, as on what else the machine did")
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    return parser.parse_args()


def main() -> None:
    """Measure on both processes; the first prints and writes."""
    options = arguments()
    rows = measure(options)
    if parallel.is_main():
        where = machine("cpu" if on_cpu() else "cuda")
        text = page(options, rows, where)
        print(text)
        if not options.dry:
            name = f"pipeline_transport_{options.size}_{'cpu' if on_cpu() else 'cuda'}"
            print(write(name, text, {"machine": where, "rows": rows}))
    parallel.stop()


if __name__ == "__main__":
    main()
