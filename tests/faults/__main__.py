"""The sweep by hand: `python -m tests.faults RUN CONFIG.yaml`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from retro.run.pipeline import STAGES
from tests.faults.inject import KINDS, Tried, build_shim, inject, serving


def main() -> None:
    """Print what came of each stage and kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="A finished run.")
    parser.add_argument("config", type=Path, help="Its settings.")
    parser.add_argument("--stages", default=",".join(one.name for one in STAGES))
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--every", type=int, default=1, help="Try every so many-th call.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.run.parent) as folder:
        shim = build_shim(Path(folder))
        if shim is None:
            raise SystemExit("needs gcc or cc")
        total = Tried()
        with serving(shim) as server:
            for name in given.stages.split(","):
                for kind in given.kinds.split(","):
                    tried = inject(
                        server, given.run, given.config, name, kind, Path(folder), numbers=None, every=given.every
                    )
                    print(_line(f"{name} {kind}", tried), *tried.wrong, sep="\n  ", flush=True)
                    total += tried
        print(_line("all", total))


def _line(what: str, tried: Tried) -> str:
    return (
        f"{what}: {tried.failures} failures, {tried.one_line} ended with one line, {tried.survived} survived; "
        f"{tried.identical} identical afterwards; {len(tried.wrong)} wrong"
    )


main()
