"""Tuning on short samples, packed and one by one: real tokens a CPU second, and what the mask of packed samples costs.

Measures: CPU seconds of whole optimizer steps (forward, backward, Adam) of one process over the same samples, packed in
sequences and alone in theirs (cropped to the longest of a micro batch, as tuning does); the cases take turns in
`--rounds`, since CPU seconds too depend on what else the machine does. The mask's cost is that of a packed step beside
the same step without segments, where attention is plainly causal (and wrong).

Run:    python -m benchmarks.packing
        ... --size tiny --sequence 512 --sequences 8 --rounds 5
Writes: docs/results/packing_<size>.md and .json, unless --dry.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.results import machine, median, write
from retro.mcore.engine import Engine, Work
from retro.model.config import ModelConfig, ModelShape
from retro.model.model import RetroModel
from retro.model.sizes import find_size
from retro.qa.passages import NeighborTokens
from retro.qa.sample_layout import EncodedSample, input_tokens
from retro.sft.blend import Blend
from retro.sft.source import EncodedSet, SftSource
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.data_loader import DataLoader, MicroBatch
from retro.training.loop import build_engine
from retro.training.validation import token_losses

VOCABULARY, CHUNK, SETS = 8192, 64, 4096


def samples() -> list[EncodedSample]:
    """Short questions: prompts of 50 tokens and answers of 8 in the median, lengths log-normal."""
    random = np.random.default_rng(0)
    prompts = np.clip(random.lognormal(np.log(50), 0.5, SETS), 4, 200).astype(int)
    answers = np.clip(random.lognormal(np.log(8), 0.7, SETS), 1, 60).astype(int)
    return [
        EncodedSample(
            random.integers(1, VOCABULARY, prompt).astype(np.int32),
            np.append(random.integers(1, VOCABULARY, answer), 0).astype(np.int32),
            0,
        )
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def source(shape: ModelShape, *, packing: bool) -> SftSource:
    """The samples, each with passages of its own where the model reads any."""
    known = None
    if shape.model.retrieval:
        sizes = (SETS, shape.model.neighbors, shape.retrieved_length)
        tokens = np.random.default_rng(1).integers(1, VOCABULARY, sizes).astype(np.int32)
        known = NeighborTokens(tokens, np.full(sizes[:2], shape.retrieved_length, np.int32))
    length = shape.model.sequence_length
    blend = Blend([SETS], [1.0], 0)
    sets = [EncodedSet("short", samples(), known)]
    return SftSource(sets, blend, end=0, sequence_length=length, chunk_length=CHUNK, packing=packing)


def cases(shape: ModelShape, engine: Engine[RetroModel], options: argparse.Namespace) -> dict[str, Any]:
    """Work and real tokens of each case; all take the samples of the same packed sequences."""
    packed, alone = (source(shape, packing=packing) for packing in (True, False))
    numbers = packed.samples_in(options.sequences)
    numbers = numbers[: len(numbers) // options.micro_batch * options.micro_batch]
    in_sequences = DataLoader(packed, shape, engine.chunks, 1).work(np.arange(options.sequences))
    one_by_one = DataLoader(alone, shape, engine.chunks, options.micro_batch).work(numbers)
    plain = [replace(one, segments_BS=None) for one in in_sequences.micro_batches]
    works: dict[str, Work[MicroBatch]] = {
        "one by one": one_by_one,
        "packed": in_sequences,
        "packed, no mask": replace(in_sequences, micro_batches=plain),
    }
    filled = packed.filled(options.sequences)
    in_all = 0 if filled is None else filled.real_tokens
    _, items = alone.blend.draw(numbers)
    real = {"one by one": sum(input_tokens(alone.sets[0].samples[item]) for item in items)}
    return {
        name: {"work": work, "real_tokens": real.get(name, in_all), "places": places(work), "seconds": []}
        for name, work in works.items()
    }


def places(work: Work[MicroBatch]) -> int:
    """Tokens of all micro batches, pads included."""
    batches: Any = work.micro_batches
    return sum(int(one.tokens_BS.numel()) for one in batches)


def measure(options: argparse.Namespace, *, retrieval: bool) -> list[dict[str, Any]]:
    """A row for each case of one model."""
    settings = find_size(options.size).settings | {"sequence_length": options.sequence, "retrieval": retrieval}
    shape = ModelShape(model=ModelConfig(**settings), vocabulary=VOCABULARY, chunk_length=CHUNK)
    config = TrainConfig(micro_batch=1, global_batch=1, steps=1000, precision="float32")
    engine = build_engine(shape, config, ParallelConfig())
    found = cases(shape, engine, options)
    for round_ in range(options.rounds + 1):
        for case in found.values():
            started = time.process_time()
            engine.step(case["work"], token_losses)
            if round_:  # the first warms up
                case["seconds"].append(time.process_time() - started)
    rows = []
    for name, case in found.items():
        seconds = median(case["seconds"])
        row = {"model": "Retro" if retrieval else "GPT", "case": name, "cpu_seconds": seconds}
        row |= {key: case[key] for key in ("real_tokens", "places")}
        rows.append(row | {"tokens_per_cpu_second": case["real_tokens"] / seconds})
    return rows


def page(options: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        f"# Packed samples, {options.size}, on a CPU",
        "",
        f"Machine: {machine('cpu')}; shared with other work, hence CPU seconds. float32, sequences of "
        f"{options.sequence}, chunks of {CHUNK}; median of {options.rounds} rounds in which the cases take turns. "
        "Made by `benchmarks/packing.py`.",
        "",
        "Samples have prompts of 50 tokens and answers of 8 in the median. One by one: a micro batch of "
        f"{options.micro_batch}, cropped to its longest; packed: sequences one at a time.",
        "",
        "| model | samples | real tokens | of all places | CPU s | real tokens per CPU s |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['case']} | {row['real_tokens']:,} | {row['real_tokens'] / row['places']:.1%} | "
            f"{row['cpu_seconds']:.2f} | {row['tokens_per_cpu_second']:,.0f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure both models, print, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--sequence", type=int, default=512)
    parser.add_argument("--sequences", type=int, default=8, help="packed sequences in a step")
    parser.add_argument("--micro-batch", type=int, default=8, help="samples at a time, one by one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="print, write nothing")
    options = parser.parse_args()
    rows = [row for retrieval in (False, True) for row in measure(options, retrieval=retrieval)]
    text = page(options, rows)
    print(text)
    if not options.dry:
        write(f"packing_{options.size}", text, {"machine": machine("cpu"), "rows": rows})


if __name__ == "__main__":
    main()
