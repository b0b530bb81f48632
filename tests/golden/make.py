"""Write tests/golden/tiny_losses.json again; print each loss beside the one that it replaces.

`python -m tests.golden.make`, after a change that is meant to alter results; what it prints belongs in the commit.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from benchmarks.results import machine
from tests.golden.losses import FILE, tiny_losses


def main() -> None:
    before = json.loads(FILE.read_text(encoding="utf-8"))["losses"] if FILE.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        losses = tiny_losses(Path(folder))
    for stage, found in losses.items():
        for step, loss in enumerate(found):
            old = before.get(stage, [])[step : step + 1]
            print(f"{stage} step {step + 1}: {old[0] if old else 'none'} -> {loss}")
    golden = {"made_on": machine("cpu"), "losses": losses}
    FILE.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
