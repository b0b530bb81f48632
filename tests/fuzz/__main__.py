"""Fuzz a reader by hand: `python -m tests.fuzz json --inputs 1000000 --seed 1`; `all` takes one after the other.

`--show NUMBER` writes that input of a run to standard output.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import monotonic

from tests.fuzz.runner import child, input_of, run
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Run what the command line asks for; 1 where anything but a value or one of our errors came out."""
    if sys.argv[2:3] == ["--child"]:
        child(sys.argv[1], Path(sys.argv[3]), *map(int, sys.argv[4:7]))
        return 0
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int)
    given = parser.parse_args()
    if given.show is not None:
        sys.stdout.buffer.write(input_of(given.target, given.show, given.seed))
        return 0
    failed = 0
    for target in TARGETS if given.target == "all" else [given.target]:
        begun = monotonic()
        found = run(target, given.inputs, given.seed)
        failed += len(found.failures)
        seconds = monotonic() - begun
        counts = f"{found.values:,} values, {found.errors:,} errors"
        print(f"{target}: {found.inputs:,} inputs in {seconds:,.0f} s: {counts}", flush=True)
        for what, number in found.failures.items():
            print(f"  {found.counts[what]:,} times, first input {number}: {what}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
