"""One process of a test under gloo: a checkpoint decodes one random course after the other, under several layouts.

`python -m tests.parallel.decoding_worker RUNS.json`, in an environment as torchrun makes it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retro.generate.loading import open_decoder
from retro.generate.request import Decoder
from retro.mcore import parallel
from retro.training.config import ParallelConfig
from tests.generate.decoding.scripts import Course, calls


def decode(decoder: Decoder, *, reads: bool, seed: int) -> Tensor:
    """All logits of a course: spans, single tokens, chunks that end anywhere, a sequence closed on the way."""
    random = np.random.default_rng(seed)
    rows = [decoder.open() for _ in range(4)]
    decoder.close(rows.pop(1))
    first = 2 if reads else 99
    courses = [Course(random, row, first=first + row, every=3 + row, counts=[1, 2, 3]) for row in rows]
    found = []
    for number, extensions in enumerate(calls(random, courses, steps=12, longest=30)):
        found += [decoder.extend(extensions)] if number % 2 else decoder.extend_all(extensions)
    return torch.cat(found)


def run(*, start: str, layout: dict[str, Any], out: str, reads: bool) -> None:
    """Save the logits that this rank is given."""
    decoder = open_decoder(Path(start), ParallelConfig(**layout), 0)
    np.save(f"{out}_{parallel.process()[0]}.npy", decode(decoder, reads=reads, seed=11).numpy())


def main() -> None:
    """Do everything in the file."""
    for one in json.loads(Path(sys.argv[1]).read_text()):
        run(**one)
    parallel.stop()


if __name__ == "__main__":
    main()
