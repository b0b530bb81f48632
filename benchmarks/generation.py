"""Generation: tokens a second of our Retro, of our own GPT of the same decoder, and of RETRO-pytorch.

Measures: one sequence, greedy, random weights and random neighbors of every chunk (so no time of a search in anyone's
figures), 12 layers of width 512, chunks of 64, two neighbors of 128 tokens. A case reads a prompt and continues by so
many tokens, among them one that ends a chunk for every 64. Three comparisons:

- with the peer: in processes of their own, in turn. It has no cache: its own loop computes all tokens, and encodes all
  neighbors, for every new one. At prompts over 256 it is timed over the first tokens only, its fastest;
- with our GPT: both in one process, token by token in turn, so that a busy machine slows both;
- with ourselves: a token after 100 and after 2,000 others (read as one prompt: the caches hold the same as if they had
  been chosen one by one), beside what attention alone costs over as many keys in every layer. All else should not grow.

Rates are by the CPU-seconds of the process, which a busy machine changes least, and by the clock.

Run:    python -m benchmarks.generation [--peer-python PATH]       PATH: a Python with torch and retro-pytorch 0.3.9
Writes: docs/results/generation.md and .json, unless --dry.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.results import machine, median, write
from retro.generate.decoding.decoder import CachedDecoder
from retro.generate.request import Extension, Neighbors
from retro.mcore import parallel
from retro.mcore.inference import for_inference
from retro.mcore.layers import fused_attention
from retro.model.config import ModelConfig, ModelShape
from retro.model.model import BuildOptions, RetroModel

ROOT = Path(__file__).parents[1]
PEER = Path(__file__).with_name("peer_generation.py")
LAYERS, WIDTH, HEADS, VOCABULARY, CHUNK, NEIGHBORS = 12, 512, 8, 30_522, 64, 2
LONG = (100, 2_000)
WINDOW = 64
PEERS_NAME = "RETRO-pytorch"


def build(name: str, *, bfloat16: bool) -> CachedDecoder:
    """Our model with random weights."""
    model = ModelConfig(
        layers=LAYERS,
        hidden_size=WIDTH,
        heads=HEADS,
        query_groups=HEADS,
        ffn_hidden_size=4 * WIDTH,
        activation="gelu",
        normalization="LayerNorm",
        sequence_length=2_304,
        first_cross_attention=6,
        cross_attention_every=3,
        encoder_layers=2,
        neighbors=NEIGHBORS,
        retrieval=name == "Retro",
    )
    parallel.start()
    parallel.seed(1)
    built = RetroModel(
        ModelShape(model=model, vocabulary=VOCABULARY, chunk_length=CHUNK), BuildOptions(bfloat16=bfloat16)
    )
    for_inference(built)
    return CachedDecoder(built, 0)


class Clock:
    """CPU-seconds and seconds since it was last asked."""

    def __init__(self) -> None:
        self.cpu, self.wall = self._now()

    def lap(self) -> tuple[float, float]:
        """Both, and begin again."""
        before, (self.cpu, self.wall) = (self.cpu, self.wall), self._now()
        return self.cpu - before[0], self.wall - before[1]

    @staticmethod
    def _now() -> tuple[float, float]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime, time.perf_counter()


def generate(decoder: CachedDecoder, prompt: int) -> Iterator[tuple[float, float]]:
    """CPU-seconds and seconds of one new token after the other; the first is the prompt's."""
    random = np.random.default_rng(0)
    row, length = decoder.open(), 0
    tokens = random.integers(1, VOCABULARY, prompt).tolist()
    try:
        while True:
            clock = Clock()
            ends = [at for at in range(len(tokens)) if (length + at + 1) % CHUNK == 0]
            chunks = {at: _neighbors(random) for at in ends} if decoder.reads_neighbors else {}
            logits = decoder.extend([Extension(row, tokens, chunks)])
            length += len(tokens)
            tokens = [int(logits.argmax())]
            yield clock.lap()
    finally:
        decoder.close(row)


def times(decoder: CachedDecoder, prompt: int, new: int) -> NDArray[np.float64]:
    """[new, 2] of a whole generation."""
    return np.array(list(islice(generate(decoder, prompt), new)))


def _neighbors(random: np.random.Generator) -> Neighbors:
    size = (NEIGHBORS, 2 * CHUNK)
    return Neighbors(random.integers(1, VOCABULARY, size), np.ones(size, dtype=bool))


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """What one process measures."""
    torch.set_num_threads(case["threads"])
    names = ("Retro",) if case["measures"] == "Retro" else ("Retro", "GPT")
    decoders = {name: build(name, bfloat16=case["bfloat16"]) for name in names}
    for decoder in decoders.values():
        times(decoder, 64, 8)
    measures = {"Retro": _alone, "pair": _pair, "long": _long}[case["measures"]]
    found: dict[str, Any] = measures(decoders, case)
    return found


def _alone(decoders: dict[str, CachedDecoder], case: dict[str, Any]) -> dict[str, Any]:
    """CPU-seconds and seconds of a prompt and its new tokens, and how many these are."""
    new = case["new"]
    return {str(n): [*times(decoders["Retro"], n, new).sum(axis=0).tolist(), new] for n in case["prompts"]}


def _pair(decoders: dict[str, CachedDecoder], case: dict[str, Any]) -> dict[str, Any]:
    """CPU-seconds of the prompt, and of the tokens after it, of both models in turn."""
    found = {}
    for prompt in case["prompts"]:
        in_turn = zip(*(generate(decoder, prompt) for decoder in decoders.values()), strict=True)
        cpu = np.array(list(islice(in_turn, 2 * CHUNK + 1)))[..., 0]
        sums = {"prompt": cpu[0], "rest": cpu[1:].sum(axis=0)}
        found[str(prompt)] = {name: dict(zip(decoders, one.tolist(), strict=True)) for name, one in sums.items()}
    return found


def _long(decoders: dict[str, CachedDecoder], case: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of CPU for a token about each place, and of attention over as many keys in all layers."""
    del case
    found = {}
    for name, decoder in decoders.items():
        tokens = [float(np.median(times(decoder, place, 1 + WINDOW)[1:, 0])) * 1e3 for place in LONG]
        found[name] = {"token": tokens, "attention": [_attention(place + WINDOW // 2) for place in LONG]}
    return found


def _attention(keys: int) -> float:
    """As the cache holds them: the keys of a head side by side, in memory that later tokens will fill."""
    cached = torch.randn(LAYERS, 2, 1, HEADS, 2_304, WIDTH // HEADS)
    query = torch.randn(1, 1, HEADS, WIDTH // HEADS)

    def all_layers() -> None:
        for layer in cached:
            key, value = (x[:, :, :keys].permute(2, 0, 1, 3) for x in layer)
            fused_attention(query, key, value, None, causal=False)

    return median([_milliseconds(all_layers) for _ in range(7)])


@torch.inference_mode()
def _milliseconds(work: Callable[[], None], repeats: int = 8) -> float:
    work()
    clock = Clock()
    for _ in range(repeats):
        work()
    return clock.lap()[0] / repeats * 1e3


def in_own_process(case: dict[str, Any], peer_python: Path | None) -> dict[str, Any]:
    """`run_case`, or the peer's, in a new process."""
    environment = os.environ | {"OMP_NUM_THREADS": str(case["threads"]), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", str(Path(__file__)), "--case", json.dumps(case)]
    if case["measures"] == PEERS_NAME:
        environment.pop("PYTHONPATH")
        command = [str(peer_python), str(PEER), json.dumps(case)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds."""
    shared = {"threads": options.threads, "bfloat16": options.bfloat16, "new": options.new, "prompts": options.prompts}
    rounds: list[dict[str, Any]] = []
    for _ in range(options.rounds):
        kinds = ["Retro", "pair", "long"] + ([PEERS_NAME] if options.peer_python else [])
        rounds.append({kind: in_own_process(shared | {"measures": kind}, options.peer_python) for kind in kinds})
        print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    return {"rounds": rounds}


def page(options: argparse.Namespace, rounds: list[dict[str, Any]], where: str) -> str:
    """The results as Markdown."""
    precision = "bfloat16" if options.bfloat16 else "float32"
    lines = [
        "# Generation: our Retro, our GPT, RETRO-pytorch",
        "",
        f"Machine: {where}. {precision}, {options.threads} thread(s), one sequence, {options.rounds} rounds; medians "
        f"of rounds, ratios are medians of the rounds' ratios. {options.note}".rstrip(),
        "Made by `benchmarks/generation.py`, which says what is compared how:",
        "",
        "```",
        f"python -m benchmarks.generation --rounds {options.rounds} --threads {options.threads}"
        + (" --bfloat16" if options.bfloat16 else "")
        + (
            " --peer-python /path/to/venv/bin/python    # torch 2.13.0, retro-pytorch 0.3.9" * bool(options.peer_python)
        ),
        "```",
    ]
    return "\n".join([*lines, *_peer_lines(options, rounds), *_pair_lines(options, rounds), *_long_lines(rounds), ""])


def _peer_lines(options: argparse.Namespace, rounds: list[dict[str, Any]]) -> list[str]:
    names = [name for name in ("Retro", PEERS_NAME) if name in rounds[0]]
    title = f"Tokens a second of CPU time, the prompt's reading included, {options.new} new tokens (by the clock)"
    lines = ["", f"## {title}", "", f"| prompt | {' | '.join(names)} | ratio |", "|---:|" + "---:|" * (len(names) + 1)]
    for prompt in map(str, options.prompts):
        rates = {name: [_rates(one[name][prompt]) for one in rounds] for name in names}
        cells = [
            f"{median([cpu for cpu, _ in rate]):.3g} ({median([clock for _, clock in rate]):.3g})"
            for rate in rates.values()
        ]
        ratio = "-"
        if len(names) > 1:
            pairs = zip(*rates.values(), strict=True)
            ratio = f"{median([ours[0] / theirs[0] for ours, theirs in pairs]):.1f}"
        lines.append(f"| {prompt} | {' | '.join(cells)} | {ratio} |")
    return lines


def _rates(one: list[float]) -> tuple[float, float]:
    cpu, clock, tokens = one
    return tokens / cpu, tokens / clock


def _pair_lines(options: argparse.Namespace, rounds: list[dict[str, Any]]) -> list[str]:
    title = f"Retro beside our GPT: ms of CPU a token, {2 * CHUNK} tokens and two chunks after the prompt"
    lines = ["", f"## {title}", "", "| prompt | Retro | GPT | Retro's rate / GPT's | with the prompt's reading |"]
    lines.append("|---:|---:|---:|---:|---:|")
    for prompt in map(str, options.prompts):
        found = [one["pair"][prompt] for one in rounds]
        ours, theirs = (median([one["rest"][name] for one in found]) / (2 * CHUNK) * 1e3 for name in ("Retro", "GPT"))
        alone = median([one["rest"]["GPT"] / one["rest"]["Retro"] for one in found])
        whole = median(
            [
                (one["rest"]["GPT"] + one["prompt"]["GPT"]) / (one["rest"]["Retro"] + one["prompt"]["Retro"])
                for one in found
            ]
        )
        lines.append(f"| {prompt} | {ours:.2f} | {theirs:.2f} | {alone:.2f} | {whole:.2f} |")
    return lines


def _long_lines(rounds: list[dict[str, Any]]) -> list[str]:
    first, last = (f"after {place:,} tokens" for place in LONG)
    title = f"A late token: ms of CPU, median of {WINDOW} tokens"
    lines = ["", f"## {title}", "", f"| | {first} | {last} | grown by |", "|---|---:|---:|---:|"]
    for name in ("Retro", "GPT"):
        for what, label in (("token", name), ("attention", f"{name}: self-attention alone")):
            early, late = (median([one["long"][name][what][which] for one in rounds]) for which in (0, 1))
            lines.append(f"| {label} | {early:.2f} | {late:.2f} | {late - early:.2f} |")
    return lines


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompts", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--new", type=int, default=65, help="new tokens; the first is the prompt's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bfloat16", action="store_true", help="ours alone; the peer computes in float32")
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
    torch.set_num_threads(options.threads)
    found, where = measure(options), machine("cpu")
    text = page(options, found["rounds"], where)
    print(text)
    if not options.dry:
        print(write("generation", text, {"machine": where} | found))


if __name__ == "__main__":
    main()
