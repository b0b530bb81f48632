"""One process of a test under gloo: a frozen model with a prefix decodes with documents, under several layouts.

`python -m tests.parallel.reading_worker RUNS.json`, in an environment as torchrun makes it.
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
from retro.generate.engine import BatchEngine
from retro.generate.loading import open_decoder
from retro.generate.request import Extension
from retro.mcore import parallel
from retro.recipes.dynamic_prefix.answering.policy import TrainedPrefix, open_source
from retro.recipes.dynamic_prefix.config import DynamicPrefixConfig
from retro.training.config import ParallelConfig
from tests.generate.test_engine_model import NumberTokenizer
from tests.recipes.dynamic_prefix.reading_run import contexts


def decode(home: Path, layout: ParallelConfig, *, stored: bool) -> Tensor:
    """Logits of rows with two documents, with one, and with none: a prompt, then tokens one by one, then forks."""
    trained = TrainedPrefix.of(home / "train")
    decoder = open_decoder(trained.run, layout, 0, modules=trained.modules)
    assert isinstance(decoder, CachedDecoder)
    engine = BatchEngine(decoder, NumberTokenizer())
    store = home / "encode" if stored else None
    source = open_source(engine, DynamicPrefixConfig(), trained.identity, store)
    read = source.of_all([contexts(2, 7), contexts(4), ()])
    assert (source.counts.stored, source.counts.encoded) == ((3, 0) if stored else (0, 3))
    rows = [decoder.open("", one) for one in read]
    found = [decoder.extend([Extension(row, [3, 4 + row, 5, 6][: 3 + row % 2]) for row in rows])]
    for token in (7, 8, 9):
        found.append(decoder.extend([Extension(row, [token + row]) for row in reversed(rows)]))
    forks = [decoder.fork(row, 1)[0] for row in rows]
    found.append(decoder.extend([Extension(row, [5, 4, 3]) for row in forks]))
    return torch.cat(found)


def do_all(runs: list[dict[str, Any]]) -> None:
    """Do what each of them says."""
    for one in runs:
        layout = ParallelConfig(**one["layout"])
        logits = decode(Path(one["home"]), layout, stored=one["stored"])
        np.save(f"{one['out']}_{parallel.process()[0]}.npy", logits.numpy())


def main() -> None:
    """Do everything in the file."""
    do_all(json.loads(Path(sys.argv[1]).read_text()))
    parallel.stop()


if __name__ == "__main__":
    main()
