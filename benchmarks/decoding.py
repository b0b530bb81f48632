"""Decoding with a pretrained model: tokens a second and memory of ours, transformers, and llama.cpp if it is there.

    python -m benchmarks.decoding MODEL_FOLDER [--gguf FILE --llama-python PYTHON]

The same prompts, greedy, as many new tokens, the same number of threads, each in a process of its own, in turn, several
rounds; the median counts. Ours and transformers compute the same numbers, in float32 or both in bfloat16; llama.cpp
multiplies the quantised weights as they are, so its memory and speed are those of another computation.

Writes docs/results/decoding.md and .json, unless --dry.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.results import machine, median, peak_memory, write

ROOT = Path(__file__).parents[1]
TEXT = "The history of the city begins with a small harbor, from which ships left for the islands in the south. "


def prompts(tokenizer: Any, length: int, batch: int) -> list[list[int]]:
    """Equal prompts; each in a batch begins elsewhere in the text."""
    ids = tokenizer(TEXT * (length // 8)).input_ids
    return [ids[row : row + length] for row in range(batch)]


def ours(case: dict[str, Any]) -> dict[str, float]:
    """Through the engine that `retro generate` uses."""
    from transformers import AutoTokenizer

    from retro.generate.config import GenerateConfig, ModelPaths
    from retro.generate.open_model import open_model
    from retro.generate.request import Request, Sampling

    precision = "bfloat16" if case["bfloat16"] else "float32"
    config = GenerateConfig(checkpoint=Path(case["model"]), batch_size=case["batch"], precision=precision, style="chat")
    begun = time.perf_counter()
    engine = open_model(
        config, ModelPaths(checkpoint=Path(case["model"]), corpus=Path(), db=Path(), index=Path())
    ).engine
    opened = time.perf_counter() - begun
    tokenizer = AutoTokenizer.from_pretrained(case["model"])

    def run(new: int) -> None:
        sampling = Sampling(max_new_tokens=new, min_new_tokens=new)
        engine.generate(
            [Request(prompt=one, sampling=sampling) for one in prompts(tokenizer, case["prompt"], case["batch"])]
        )

    return _timed(run, case) | {"opened_s": opened}


def transformers(case: dict[str, Any]) -> dict[str, float]:
    """`generate` with its cache."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    begun = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(
        case["model"], dtype=torch.bfloat16 if case["bfloat16"] else torch.float32
    ).eval()
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
        print(json.dumps({"ours": ours, "transformers": transformers, "llama.cpp": llama_cpp}[case["who"]](case)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--gguf")
    parser.add_argument("--llama-python", default=sys.executable)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--new", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dry", action="store_true")
    wanted = parser.parse_args()
    rows = _measure(wanted)
    for row in rows:
        print(row)
    if not wanted.dry:
        print(write("decoding", _page(rows, wanted), {"machine": machine("cpu"), "rows": rows}))


def _measure(wanted: argparse.Namespace) -> list[dict[str, Any]]:
    cases = [
        {"who": who, "batch": batch, "bfloat16": bfloat16}
        for bfloat16 in (False, True)
        for batch in wanted.batches
        for who in ("ours", "transformers")
    ]
    if wanted.gguf:
        cases.append({"who": "llama.cpp", "batch": 1, "bfloat16": False})
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


def _page(rows: list[dict[str, Any]], wanted: argparse.Namespace) -> str:
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
        precision = "as in the file" if row["who"] == "llama.cpp" else "bfloat16" if row["bfloat16"] else "float32"
        lines.append(
            f"| {row['who']} | {precision} | {row['batch']} | {row['opened_s']:.1f} | {row['prompt_s']:.2f} "
            f"| {row['tokens_per_s']:.1f} | {row['memory'] / 1e6:,.0f} |"
        )
    closing = (
        "Ours holds more memory: its weights are made, then filled, so they stand twice for a moment. llama.cpp "
        "multiplies the quantised weights as they are."
    )
    return "\n".join([*lines, "", closing, ""])


if __name__ == "__main__":
    main()
