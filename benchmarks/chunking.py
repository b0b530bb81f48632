"""Text to token file and chunk database, beside RETRO-pytorch, on the same text with the same tokenizer.

Measures: seconds and CPU-seconds from text to chunks, peak memory, and whether the chunks are the same. Ours is
`retro corpus` and `retro db` (checksums, split and manifests included) in one process of its own; theirs is
retro-pytorch 0.3.9's `text_folder_to_chunks_` in an environment of its own. They take turns in `--rounds`, so that a
busy machine slows both; the ratio is of medians.

The chunks must be equal token by token, or the benchmark ends with an error. For that the peer's tokenizer is told to
put no [CLS] before a document and no [SEP] behind it (by default it does, which shifts every chunk by a token and is a
little more work). What else differs: it pads a document's last chunk with [PAD] and stores each chunk with the first
token of the next; we store where a chunk is, how long it is, and a document's end mark, which belongs to no chunk.

Run:    python -m benchmarks.chunking --text texts.jsonl --tokenizer tokenizer.json --peer-python PYTHON
        The peer's environment: `pip install torch numpy einops faiss-cpu tqdm 'transformers<5'` and
        `pip install --no-deps retro-pytorch==0.3.9`.
Writes: docs/results/chunking.md and .json, unless --dry.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import machine, median, peak_memory, write
from retro.corpus import build as corpus_stage
from retro.corpus.config import CorpusConfig
from retro.corpus.reader import Corpus
from retro.db import build as db_stage
from retro.db.config import DbConfig
from retro.db.reader import ChunkDatabase

PEER = Path(__file__).with_name("peer_retro_pytorch.py")
CHUNK_LENGTH = 64
PAD = 0
UNITS = ("seconds", "cpu_seconds")
LABELS = {"lines": "ours, one JSON lines file", "folder": "ours, the same folder", "peer": "RETRO-pytorch, folder"}


def chunking_rates(text: Path, tokenizer: Path, peer_python: str, rounds: int) -> dict[str, Any]:
    """Time both, in turns, and compare what they wrote.

    Args:
        text: A JSON lines file with `text`.
        tokenizer: A tokenizer.json of BERT's kind, in which [PAD] is token 0.
        peer_python: The interpreter in which retro-pytorch is installed.
        rounds: Times that each is run.

    Returns:
        Bytes of text, the runs of each, and how many times the peer's rate ours is, by the clock and per CPU-second.

    Raises:
        SystemExit: The chunks differ, or a run failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        documents, size = _unfold(text, room / "texts")
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in LABELS}
        for number in range(rounds):
            peer = room / f"peer{number}"
            runs["peer"].append(_peer(room / "texts", tokenizer, peer_python, peer, max_chunks=documents + size // 64))
            for name, source in (("lines", room / "texts.jsonl"), ("folder", room / "texts")):
                ours = room / f"{name}{number}"
                runs[name].append(_ours(source, tokenizer, ours))
                _require_same_chunks(ours, peer, runs["peer"][-1]["chunks"])
    medians = {name: {u: median([run[u] for run in found]) for u in UNITS} for name, found in runs.items()}
    ratios = {name: {u: medians["peer"][u] / medians[name][u] for u in UNITS} for name in ("lines", "folder")}
    return {"bytes": size, "documents": documents, "runs": runs, "medians": medians, "ratio": ratios}


def _unfold(text: Path, folder: Path) -> tuple[int, int]:
    """Write each document into a file of its own, as the peer reads them, and all into one; documents, bytes."""
    folder.mkdir()
    size = count = 0
    with text.open(encoding="utf-8") as lines, folder.with_suffix(".jsonl").open("w", encoding="utf-8") as together:
        for line in lines:
            content = json.loads(line)["text"].strip().replace("\r\n", "\n").replace("\r", "\n")
            if content:
                size += (folder / f"{count:09d}.txt").write_bytes(content.encode())
                together.write(json.dumps({"text": content}, ensure_ascii=False) + "\n")
                count += 1
    return count, size


def _ours(texts: Path, tokenizer: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.chunking", "--ours", str(texts), str(tokenizer), str(out)]
    return _json_of(command)


def _peer(texts: Path, tokenizer: Path, python: str, out: Path, *, max_chunks: int) -> dict[str, Any]:
    out.mkdir()
    case = {"folder": str(texts), "tokenizer": str(tokenizer), "out": str(out), "max_chunks": max_chunks}
    return _json_of([python, str(PEER), json.dumps(case | {"chunk_length": CHUNK_LENGTH})])


def _json_of(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[:3])} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_ours(texts: Path, tokenizer: Path, out: Path) -> dict[str, Any]:
    """Run both stages in this process; seconds, CPU-seconds, and what came out."""
    config = CorpusConfig.model_validate(
        {
            "sources": [{"name": "texts", "path": texts}],
            "tokenizer": {"kind": "huggingface", "path": tokenizer},
            "split": (1.0, 0.0, 0.0),
        }
    )
    started, used = time.perf_counter(), _cpu_seconds()
    corpus_stage.run(config, out / "1_corpus")
    corpus_seconds = time.perf_counter() - started
    manifest = db_stage.run(DbConfig(chunk_length=CHUNK_LENGTH), out / "1_corpus", out / "2_db")
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": _cpu_seconds() - used,
        "corpus_seconds": corpus_seconds,
        "peak_bytes": peak_memory(),
        "chunks": manifest.counts["rows"],
    }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _require_same_chunks(ours: Path, peer: Path, peer_rows: int) -> None:
    """Compare tokens and documents of all chunks, in order."""
    db = ChunkDatabase.open(ours / "2_db", Corpus.open(ours / "1_corpus"))
    rows = np.memmap(peer / "chunks.dat", dtype=np.int32, mode="r").reshape(-1, CHUNK_LENGTH + 1)[:peer_rows]
    documents = np.memmap(peer / "doc_ids.dat", dtype=np.int32, mode="r")[:peer_rows]
    tokens, mask = db.chunk_tokens(np.arange(db.rows))
    same = len(rows) == db.rows and np.array_equal(np.where(mask, tokens, PAD), rows[:, :CHUNK_LENGTH])
    if not same or not np.array_equal(documents, db.columns["document"][:]):
        sys.exit(f"the chunks differ: {db.rows} of ours, {len(rows)} of the peer's")


def in_words(ratio: dict[str, dict[str, float]]) -> str:
    """The ratios that `chunking_rates` found, in a sentence."""
    lines, folder = ratio["lines"], ratio["folder"]
    return (
        f"From one JSON lines file **{lines['cpu_seconds']:.1f} times** RETRO-pytorch's rate per CPU-second, "
        f"{lines['seconds']:.1f} times by the clock; from the folder of small files that it reads "
        f"{folder['cpu_seconds']:.1f} and {folder['seconds']:.1f} times. The chunks are equal, token by token."
    )


def page(found: dict[str, Any], on: str, text: str) -> str:
    """What was found, as Markdown."""
    rows = []
    for name, label in LABELS.items():
        seconds, cpu = (found["medians"][name][unit] for unit in UNITS)
        peak = max(run["peak_bytes"] for run in found["runs"][name]) / 2**20
        rates = f"{found['bytes'] / seconds / 1e6:.2f} | {found['bytes'] / cpu / 1e6:.2f}"
        times = " | ".join(f"{found['ratio'][name][u]:.1f}" if name != "peer" else "1" for u in UNITS)
        chunks = found["runs"][name][-1]["chunks"]
        rows.append(f"| {label} | {chunks:,} | {seconds:.1f} | {cpu:.1f} | {rates} | {times} | {peak:.0f} |")
    return "\n".join(
        [
            "# Text to chunks, beside RETRO-pytorch",
            "",
            f"{text}: {found['documents']:,} documents, {found['bytes'] / 1e6:.1f} MB of text. One process each, in "
            f"turns, medians of {len(found['runs']['peer'])} rounds. {on}.",
            "",
            "| | chunks | s | CPU-s | MB/s | MB/CPU-s | times by the clock | times per CPU-s | peak MB |",
            "|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            in_words(found["ratio"]),
            "",
            "Ours is `retro corpus` and `retro db` and counts everything up to a finished database: checksums of what "
            "is read and written, the split, manifests.",
            "",
            "The peer hands its library one document at a time and turns each answer into three tensors. Ours looks up "
            "the tokens of every word that came by before, where the libraries encode it again; the more text, the "
            "more words have come by.",
            "",
            "Made by `python -m benchmarks.chunking`.",
            "",
        ]
    )


def main() -> None:
    """Measure, print, write."""
    if sys.argv[1:2] == ["--ours"]:
        print(json.dumps(run_ours(*map(Path, sys.argv[2:5]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="JSON lines with `text`")
    parser.add_argument("--what", default="", help="What the text is, for the page")
    parser.add_argument("--tokenizer", type=Path, required=True, help="A tokenizer.json of BERT's kind")
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="", help="What else is to be said of the machine")
    parser.add_argument("--dry", action="store_true", help="Write no file")
    options = parser.parse_args()
    found = chunking_rates(options.text, options.tokenizer, options.peer_python, options.rounds)
    text = page(found, f"{machine('cpu')}{options.note}", options.what or options.text.name)
    print(text)
    if not options.dry:
        write("chunking", text, found)


if __name__ == "__main__":
    main()
