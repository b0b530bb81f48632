"""Retrieval beside RETRO-pytorch and the row-by-row pattern of the original, in one run: reading, chunking, searching.

Each part takes its turns in alternating rounds and gives ratios; a part whose inputs are not given is left out with a
word. What the parts measure is at the top of `benchmarks.reading`, `.chunking` and `.neighbor_search`.

Run:    python -m benchmarks.retrieval --folder /somewhere                       reading alone; takes 3.2 GB there
        ... --vectors embeddings.npy                                              and searching
        ... --text texts.jsonl --tokenizer tokenizer.json --peer-python PYTHON    and chunking
Writes: docs/results/reading.md and .json, unless --dry.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks import neighbor_search, reading
from benchmarks.results import machine, median, write

LABELS = {
    "original": "one row at a time, the neighbor file opened for every chunk",
    "ours": "`retro pretrain`'s loader",
    "bare": "bare gather from the map",
    "plain": "`retro pretrain`'s loader, plain map",
    "random": "`retro pretrain`'s loader, `train.reading=random`",
}


def reading_tables(found: dict[str, Any]) -> list[str]:
    """Warm and cold."""
    warm, cold = found["warm"], found["cold"]
    lines = [
        "## Training samples",
        "",
        "2,048 tokens, 2 neighbors of 128 tokens for each of 32 chunks; all files in memory:",
        "",
    ]
    lines += ["| | samples per CPU-second | samples/s |", "|---|---:|---:|"]
    for name, rates in warm["rates"].items():
        lines.append(f"| {LABELS[name]} | {median(rates['cpu']):,.0f} | {median(rates['wall']):,.0f} |")
    lines += ["", f"Ours takes **{warm['of_bare']:.2f} times** the CPU time of the bare gather, and gives "
              f"**{warm['over_original']:,.0f} times** the samples of the row-by-row pattern.", ""]  # fmt: skip
    lines += ["Nothing in memory (evicted, and verified page by page):", ""]
    lines += ["| | samples/s | MB read per sample |", "|---|---:|---:|"]
    for name, runs in cold["runs"].items():
        moved = median([one["bytes_per_sample"] for one in runs]) / 1e6
        lines.append(f"| {LABELS[name]} | {cold['rates'][name]:,.1f} | {moved:.1f} |")
    lines += [
        "",
        f"Asking for a batch's pages beforehand gives **{cold['over_plain']:.0f} times** the samples of a plain map.",
        "",
    ]
    return lines


def search_table(found: dict[str, Any]) -> list[str]:
    """Rates and recall."""
    ways, peer = found["ways"], median(found["ways"]["peer"]["cpu"])
    lines = [
        "## Neighbor queries",
        "",
        f"{found['vectors']:,} real MiniLM vectors, {found['queries']:,} held-out queries:",
        "",
    ]
    lines += [
        "| | queries per CPU-second | queries/s | recall@2 | over the peer, per CPU-second |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, told in ways.items():
        rates = f"{median(told['cpu']):,.0f} | {median(told['wall']):,.0f} | {told['recall']:.4f}"
        label = "RETRO-pytorch's index: HNSW32, efSearch 3574" if name == "peer" else name
        lines.append(f"| {label} | {rates} | {median(told['cpu']) / peer:.1f} |")
    return [*lines, ""]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the synthetic run goes, or lies")
    parser.add_argument("--tokens", type=int, default=512_000_000)
    parser.add_argument("--vectors", type=Path, help="embeddings of real chunks, .npy")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--peer-python", help="an interpreter that has retro-pytorch; see benchmarks/chunking.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    numbers: dict[str, Any] = {"machine": machine("cpu")}
    shared = "Shared with other work: read the ratios, which are of CPU time in alternating rounds where they can be."
    made = f"Machine: {numbers['machine']}. {shared} Made by `benchmarks/retrieval.py`."
    lines = ["# Reading and searching", "", made, ""]
    # Cold first: what this process maps later cannot be evicted.
    numbers["cold"] = reading.cold(options.folder, options.tokens, min(options.rounds, 3))
    numbers["warm"] = reading.warm(options.folder, options.tokens, options.rounds)
    lines += reading_tables(numbers)
    if options.vectors:
        numbers["search"] = neighbor_search.compare(options.vectors, options.queries, options.rounds)
        lines += search_table(numbers["search"])
    else:
        print("no --vectors: searching is left out")
    if options.text and options.tokenizer and options.peer_python:
        from benchmarks.chunking import chunking_rates, in_words

        numbers["chunking"] = chunking_rates(options.text, options.tokenizer, options.peer_python, options.rounds)
        lines += ["## Text to chunks", "", in_words(numbers["chunking"]["ratio"]), ""]
    else:
        print("no --text, --tokenizer and --peer-python: chunking is left out")
    print("\n".join(lines))
    if not options.dry:
        print(write("reading", "\n".join(lines), numbers))


if __name__ == "__main__":
    main()
