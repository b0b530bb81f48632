"""Decoding with a pretrained model: tokens a second and memory of ours, transformers, and llama.cpp if it is there.

    python -m benchmarks.decoding MODEL_FOLDER [--text FILE] [--gguf FILE --llama-python PYTHON]

The same prompts, greedy, as many new tokens, the same number of threads, each in a process of its own, in turn, several
rounds; the median counts. Ours and transformers compute the same numbers, in float32 or both in bfloat16; llama.cpp
multiplies the weights of its file as they are, so its memory and speed are those of another computation. With a text,
its perplexity in each precision of ours is measured too: windows of 512 tokens, each scored from its second half.

Writes docs/results/decoding.md and .json, unless --dry.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.results import machine, median, peak_memory, write

ROOT = Path(__file__).parents[1]
_WINDOW = 512
TEXT = "The history of the city begins with a small harbor, from which ships left for the islands in the south. "


def prompts(tokenizer: Any, length: int, batch: int) -> list[list[int]]:
    """Equal prompts; each in a batch begins elsewhere in the text."""
    ids = tokenizer(TEXT * (length // 8)).input_ids
    return [ids[row : row + length] for row in range(batch)]


def _engine(case: dict[str, Any]) -> Any:
    from retro.generate.config import GenerateConfig, ModelPaths
    from retro.generate.open_model import open_model

    model, none = Path(case["model"]), Path()
    config = GenerateConfig(checkpoint=model, batch_size=case["batch"], precision=case["precision"], style="chat")
    return open_model(config, ModelPaths(checkpoint=model, corpus=none, db=none, index=none)).engine


def ours(case: dict[str, Any]) -> dict[str, float]:
    """Through the engine that `retro generate` uses."""
    from transformers import AutoTokenizer

    from retro.generate.request import Request, Sampling

    begun = time.perf_counter()
    engine = _engine(case)
    opened = time.perf_counter() - begun
    tokenizer = AutoTokenizer.from_pretrained(case["model"])

    def run(new: int) -> None:
        sampling = Sampling(max_new_tokens=new, min_new_tokens=new)
        engine.generate(
            [Request(prompt=one, sampling=sampling) for one in prompts(tokenizer, case["prompt"], case["batch"])]
        )

    return _timed(run, case) | {"opened_s": opened}


def perplexity(case: dict[str, Any]) -> dict[str, float]:
    """Of the first `case["tokens"]` tokens of a text; how often the likeliest token is the text's."""
    from transformers import AutoTokenizer

    from retro.generate.scoring import Scored

    engine = _engine(case)
    text = Path(case["text"]).read_text(encoding="utf-8")
    ids = AutoTokenizer.from_pretrained(case["model"])(text).input_ids[: case["tokens"]]
    half = _WINDOW // 2
    asked = [
        Scored(prompt=ids[start : start + half], continuation=ids[start + half : start + _WINDOW])
        for start in range(0, len(ids) - _WINDOW, half)
    ]
    scores = engine.score(asked)
    tokens = sum(len(one.continuation) for one in asked)
    return {"tokens": tokens, "perplexity": math.exp(-sum(one.logprob for one in scores) / tokens)}


def transformers(case: dict[str, Any]) -> dict[str, float]:
    """`generate` with its cache."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    begun = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(case["model"], dtype=getattr(torch, case["precision"])).eval()
    opened = time.perf_counter() - begun
    tokenizer = AutoTokenizer.from_pretrained(case["model"])

    def run(new: int) -> None:
        ids = torch.tensor(prompts(tokenizer, case["prompt"], case["batch"]))
        mask = torch.ones_like(ids)
        model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=new, min_new_tokens=new, pad_token_id=0
        )

    return _timed(run, case) | {"opened_s": opened}


def llama_cpp(case: dict[str, Any]) -> dict[str, float]:
    """One sequence, from the quantised file."""
    import llama_cpp  # type: ignore[import-not-found]

    begun = time.perf_counter()
    threads = case["threads"]
    model = llama_cpp.Llama(case["gguf"], n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)
    opened = time.perf_counter() - begun
    ids = model.tokenize((TEXT * (case["prompt"] // 8)).encode())[: case["prompt"]]

    def run(new: int) -> None:
        model.reset()
        for count, _ in enumerate(model.generate(ids, temp=0.0), start=1):
            if count == new:
                break

    return _timed(run, case) | {"opened_s": opened}


def _timed(run: Any, case: dict[str, Any]) -> dict[str, float]:
    """Seconds of reading the prompt, and for each further token, by the clock and by the processor."""
    run(2)
    begun = time.perf_counter()
    run(1)
    first = time.perf_counter() - begun
    wall, processor = time.perf_counter(), time.process_time()
    run(1 + case["new"])
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    rate = case["new"] * case["batch"] / (wall - first)
    return {"prompt_s": first, "tokens_per_s": rate, "cpu_s": processor, "memory": float(peak_memory())}


def main() -> None:
    """Measure and write the page, or be one measurement in a process of its own."""
    if len(sys.argv) == 3 and sys.argv[1] == "--case":
        case = json.loads(sys.argv[2])
        kinds = {"ours": ours, "transformers": transformers, "llama.cpp": llama_cpp, "perplexity": perplexity}
        print(json.dumps(kinds[case["who"]](case)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--gguf")
    parser.add_argument("--llama-python", default=sys.executable)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--precisions", nargs="+", default=["float32", "float16_weights", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--text", type=Path, help="measure perplexity on this file too")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--page", default="decoding", help="name of the page: one for each kind of processor")
    parser.add_argument("--dry", action="store_true")
    wanted = parser.parse_args()
    rows = _measure(wanted)
    losses = _perplexities(wanted) if wanted.text else []
    for row in [*rows, *losses]:
        print(row)
    if not wanted.dry:
        numbers = {"machine": machine("cpu"), "rows": rows, "perplexity": losses}
        print(write(wanted.page, _page(rows, losses, wanted), numbers))


def _perplexities(wanted: argparse.Namespace) -> list[dict[str, Any]]:
    case = {"who": "perplexity", "model": wanted.model, "text": str(wanted.text.resolve()), "tokens": wanted.tokens}
    return [
        {"precision": precision} | _child(sys.executable, case | {"batch": 8, "precision": precision}, wanted.threads)
        for precision in wanted.precisions
    ]


def _measure(wanted: argparse.Namespace) -> list[dict[str, Any]]:
    cases = [
        {"who": who, "batch": batch, "precision": precision}
        for precision in wanted.precisions
        for batch in wanted.batches
        for who in ("ours", "transformers")
        if (who, precision) != ("transformers", "float16_weights")
    ]
    if wanted.gguf:
        cases.append({"who": "llama.cpp", "batch": 1, "precision": "as in the file"})
    shared = {name: getattr(wanted, name) for name in ("model", "gguf", "prompt", "new", "threads")}
    found: list[list[dict[str, float]]] = [[] for _ in cases]
    for _ in range(wanted.rounds):
        for case, mine in zip(cases, found, strict=True):
            python = wanted.llama_python if case["who"] == "llama.cpp" else sys.executable
            mine.append(_child(python, shared | case, wanted.threads))
    middle = [{name: median([one[name] for one in mine]) for name in mine[0]} for mine in found]
    return [case | values for case, values in zip(cases, middle, strict=True)]


def _child(python: str, case: dict[str, Any], threads: int) -> dict[str, float]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    command = [python, "-m", "benchmarks.decoding", "--case", json.dumps(case)]
    done = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _page(rows: list[dict[str, Any]], losses: list[dict[str, Any]], wanted: argparse.Namespace) -> str:
    lines = [
        "# Decoding with a pretrained model, beside transformers",
        "",
        f"{Path(wanted.model).name}: prompts of {wanted.prompt} tokens, {wanted.new} more each, greedy, "
        f"{wanted.threads} threads, median of {wanted.rounds} rounds. {machine('cpu')}.",
        "",
        "| | precision | sequences | opened, s | prompt read, s | tokens/s | peak memory, MB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['who']} | {row['precision']} | {row['batch']} | {row['opened_s']:.1f} | {row['prompt_s']:.2f} "
            f"| {row['tokens_per_s']:.1f} | {row['memory'] / 1e6:,.0f} |"
        )
    if losses:
        lines += [
            "",
            f"| `generate.precision` | perplexity, {losses[0]['tokens']:,.0f} tokens of {wanted.text.name} |",
            "|---|---:|",
        ]
        lines += [f"| {row['precision']} | {row['perplexity']:.4f} |" for row in losses]
    closing = (
        "Ours holds more memory: its weights are made, then filled, so they stand twice for a moment. float16_weights: "
        "linear layers multiply from float16 and sum in float32. llama.cpp multiplies the weights of its file."
    )
    return "\n".join([*lines, "", closing, ""])


if __name__ == "__main__":
    main()
