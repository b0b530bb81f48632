"""One process of a test under gloo: a checkpoint decodes a random course and a tree of forks, under several layouts.

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

from retro.generate.decoding.decoder import CachedDecoder
from retro.generate.model import open_decoder
from retro.generate.request import Decoder
from retro.mcore import parallel
from retro.training.config import ParallelConfig
from tests.generate.decoding.scripts import Course, calls, fork_tree, play


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
    for row in rows:
        decoder.close(row)
    return torch.cat([*found, decode_forks(decoder, reads=reads, seed=seed)])


def decode_forks(decoder: Decoder, *, reads: bool, seed: int) -> Tensor:
    """All logits of a tree of forks, some of which share memory and some of which are copies."""
    assert isinstance(decoder, CachedDecoder)
    decoder.share_from = 4
    tree = fork_tree(
        np.random.default_rng(seed), steps=8, longest=30, first=2 if reads else 99, every=3, counts=[1, 2, 3]
    )
    found = [logits for call in play(decoder, tree) for logits in call]
    assert len(found) > 20
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
