"""A corpus of real text through `retro corpus`, `db`, `index` and `neighbors`: seconds, CPU-seconds and peak memory.

Each stage is the command itself, a process of its own; its peak is what the system counted for it (pages of mapped
files included), its counts are those of its report.

Run:    python -m benchmarks.big_corpus --config run.yaml --name hashing_100mb --what "100 MB of Debian documentation"
Writes: docs/results/<name>.json; `benchmarks.retrieval` makes a table of all of them.
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

from benchmarks.results import FOLDER, machine
from retro.run.config import load_run_config
from retro.run.pipeline import stage

STAGES = ("corpus", "db", "index", "neighbors")


def run_stage(name: str, config: Path) -> dict[str, Any]:
    """Seconds, CPU-seconds of all threads and children, and the peak of memory."""
    command = [sys.executable, "-m", "retro", name, str(config)]
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_rss_bytes": used.ru_maxrss * 1024,
    }


def main() -> None:
    """Run the stages and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--name", required=True, help="of the file in docs/results")
    parser.add_argument("--what", required=True, help="the text, in words")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=list(STAGES), help="the others keep their numbers"
    )
    options = parser.parse_args()
    config = load_run_config(options.config, [])
    path = FOLDER / f"{options.name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"stages": {}}
    found |= {"what": options.what, "machine": machine("cpu")}
    for name in options.stages:
        numbers = run_stage(name, options.config)
        folder = stage(name).path(config)
        numbers["report"] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        numbers["bytes"] = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        found["stages"][name] = numbers
        print(name, json.dumps(numbers), flush=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
