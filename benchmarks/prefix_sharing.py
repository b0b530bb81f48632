"""Continuations of one prefix: as separate prompts, as forks that copy its caches, and as forks that share them.

Each continues a prefix of 512 tokens with 16 of its own and 32 that the model chooses, greedy, through the engine;
random weights, and neighbors of every chunk where the model reads them. The three ways take turns in one process.
Cache bytes are those of all tensors that the decoder holds, at their most, the moment of forking included.

Run:    python -m benchmarks.prefix_sharing [--threads 1] [--rounds 5]
Writes: docs/results/prefix_sharing.md and .json, unless --dry.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import generation
from benchmarks.results import machine, median, write
from retro.generate.decoding.decoder import CachedDecoder
from retro.generate.engine import BatchEngine
from retro.generate.request import Completion, GivenPassages, Reading, Request, Sampling
from retro.mcore import parallel
from retro.mcore.inference import for_inference
from retro.model.config import ModelConfig, ModelShape
from retro.model.model import BuildOptions, RetroModel
from retro.model.sizes import SIZES
from retro.qa.question import Context

WAYS = {"separate prompts": None, "forks that copy": 10**9, "forks that share": 128}
"""By tokens from which on forks share."""


class NumberTokenizer:
    """A text is its token ids, written out."""

    eod = 0

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts."""
        return [[int(word) for word in text.split()] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return " ".join(map(str, ids))

    def decode_batch(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """As `decode`."""
        return [self.decode(row) for row in ids]


class MeasuredDecoder(CachedDecoder):
    """Notes the most bytes that its caches had."""

    peak = 0

    def fork(self, row: int, count: int) -> list[int]:
        """As ever; a new segment is beside the slot that it is made from."""
        before, segments = self.cache_bytes, self._rows.segments
        forks = super().fork(row, count)
        new = [one.nbytes for made in self._rows.segments - segments for one in (*made.keys, *made.values)]
        self.peak = max(self.peak, before + sum(new), self.cache_bytes)
        return forks

    def extend(self, extensions: Any) -> torch.Tensor:
        """As ever."""
        logits = super().extend(extensions)
        self.peak = max(self.peak, self.cache_bytes)
        return logits


def tiny(*, retrieval: bool) -> RetroModel:
    """Of size `tiny`, for longer sequences."""
    settings = SIZES["tiny"].settings | {"sequence_length": 1024, "neighbors": generation.NEIGHBORS}
    parallel.start()
    parallel.seed(1)
    shape = ModelShape(model=ModelConfig(**settings, retrieval=retrieval), vocabulary=4_096, chunk_length=64)
    model = RetroModel(shape, BuildOptions(bfloat16=False))
    for_inference(model)
    return model


def models() -> dict[str, RetroModel]:
    """What is measured."""
    return {
        "GPT, 4 layers of width 128 (`tiny`)": tiny(retrieval=False),
        "Retro, 4 layers of width 128 (`tiny`)": tiny(retrieval=True),
        "GPT, 12 layers of width 512": generation.build("GPT", bfloat16=False).model,
        "Retro, 12 layers of width 512": generation.build("Retro", bfloat16=False).model,
    }


def answer(model: RetroModel, way: str, options: argparse.Namespace) -> tuple[dict[str, float], list[Completion]]:
    """One measurement, and what was answered."""
    random = np.random.default_rng(0)
    decoder = MeasuredDecoder(model, 0, share_from=WAYS[way] or 0)
    prefix = random.integers(1, decoder.vocabulary, options.prefix).tolist()
    suffixes = random.integers(1, decoder.vocabulary, (options.continuations, options.suffix)).tolist()
    reading: Reading = None
    if decoder.reads_neighbors:
        texts = random.integers(1, decoder.vocabulary, (decoder.neighbors, decoder.retrieved_length)).tolist()
        reading = GivenPassages(passages=tuple(Context("", " ".join(map(str, one))) for one in texts))
    sampling = Sampling(max_new_tokens=options.new, min_new_tokens=options.new)
    engine = BatchEngine(decoder, NumberTokenizer(), max_running=options.continuations)
    begun = time.perf_counter()
    if WAYS[way] is None:
        requests = [Request(prompt=[*prefix, *one], reading=reading, sampling=sampling) for one in suffixes]
    else:
        held = engine.prefill(prefix, reading=reading)
        requests = [Request(prompt=one, prefix=held, reading=reading, sampling=sampling) for one in suffixes]
    for request in requests:
        engine.submit(request)
    events = engine.step()
    first = time.perf_counter()
    while engine.running:
        events = engine.step()
    ended = time.perf_counter()
    completions = [event.completion for _, event in events if event.completion is not None]
    rate = options.continuations * options.new / (ended - begun)
    return {
        "seconds": ended - begun,
        "first_token_s": first - begun,
        "step_ms": (ended - first) / (options.new - 1) * 1e3,
        "tokens_per_s": rate,
        "cache_mb": decoder.peak / 1e6,
    }, completions


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each model and way: medians of the rounds."""
    rows: list[dict[str, Any]] = []
    for name, model in models().items():
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for number in range(options.rounds + 1):
            for way in WAYS:
                numbers, completions = answer(model, way, options)
                assert all(len(one.tokens) == options.new for one in completions)
                # The first round warms up.
                if number:
                    found[way].append(numbers)
        for way, mine in found.items():
            rows.append({"model": name, "way": way} | {key: median([one[key] for one in mine]) for key in mine[0]})
            print(rows[-1])
    return rows


def page(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """The result page."""
    lines = [
        "# Continuations of one prefix: separate prompts, and forks",
        "",
        f"Machine: {machine('cpu')}. float32, {options.threads} thread(s), median of {options.rounds} rounds. "
        f"{options.continuations} continuations of {options.prefix} tokens, each with {options.suffix} of its own and "
        f"{options.new} new ones.",
        "Made by `benchmarks/prefix_sharing.py`, which says what is compared how.",
        "",
        "| model | | seconds | until the first tokens, s | a step, ms | new tokens/s | caches at most, MB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['way']} | {row['seconds']:.2f} | {row['first_token_s']:.2f} "
            f"| {row['step_ms']:.1f} | {row['tokens_per_s']:.0f} | {row['cache_mb']:.1f} |"
        )
    closing = (
        "A step of forks that share is shorter than one of separate prompts: the keys and values of the prefix are\n"
        "read once for all of them. At the moment of forking they stand twice, in the slot and in the segment."
    )
    return "\n".join([*lines, "", closing, ""])


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prefix", type=int, default=512)
    parser.add_argument("--suffix", type=int, default=16)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--continuations", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dry", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options)
    if not options.dry:
        print(write("prefix_sharing", page(rows, options), {"machine": machine("cpu"), "rows": rows}))


if __name__ == "__main__":
    main()
