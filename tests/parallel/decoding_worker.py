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
from retro.generate.engine import BatchEngine
from retro.generate.loading import AdapterOptions, open_decoder
from retro.generate.request import Decoder, GivenPassages, Request, Sampling
from retro.generate.scoring import Scored
from retro.mcore import parallel
from retro.qa.question import Context
from retro.training.config import ParallelConfig
from tests.generate.decoding.scripts import Course, calls, fork_tree, play
from tests.generate.test_engine_model import NumberTokenizer


def decode(decoder: Decoder, *, reads: bool, seed: int) -> Tensor:
    """All logits of a course: spans, single tokens, chunks that end anywhere, a sequence closed on the way."""
    random = np.random.default_rng(seed)
    rows = [decoder.open() for _ in range(4)]
    decoder.close(rows.pop(1))
    first = 2 if reads else 99
    courses = [
        Course(random, row, first=first + place, every=3 + place, counts=[1, 2, 3])
        for row, place in zip(rows, (0, 2, 3), strict=True)
    ]
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


def continue_prefix(decoder: Decoder, *, reads: bool) -> Tensor:
    """Log-probabilities of answers to samples of one prompt, to continuations of a prefix, and of their scores."""
    engine = BatchEngine(decoder, NumberTokenizer())
    readings = [GivenPassages(passages=(Context("", text),)) if reads else None for text in ("5 6 7", "8 9", "4")]
    sampling = Sampling(max_new_tokens=4, min_new_tokens=4)
    samples = [Request(prompt=[3, 1, 4, 1, 5], reading=readings[0], sampling=sampling)] * 3
    prefix = engine.prefill([3, 1, 4, 1, 5, 9], reading=readings[0])
    answers = engine.generate(
        [*samples]
        + [
            Request(prompt=[2, number + 6], prefix=prefix, reading=reading, sampling=sampling, keep=True)
            for number, reading in enumerate(readings)
        ]
    )
    kept = [one.prefix for one in answers if one.prefix is not None]
    scores = engine.score([Scored(prompt=[], continuation=[7, one, 8], prefix=kept[-1]) for one in (5, 6)])
    for one in (prefix, *kept):
        engine.release(one)
    found = [[token.logprob for token in one.tokens] for one in answers] + [list(one.logprobs) for one in scores]
    return torch.tensor([logprob for mine in found for logprob in mine])


def run(*, start: str, layout: dict[str, Any], out: str, reads: bool, separate: bool = False) -> None:
    """Save the logits and the log-probabilities that this rank is given."""
    options = AdapterOptions(separate=separate)
    decoder = open_decoder(Path(start), ParallelConfig(**layout), 0, options=options)
    rank = parallel.process()[0]
    np.save(f"{out}_{rank}.npy", decode(decoder, reads=reads, seed=11).numpy())
    np.save(f"{out}_{rank}_engine.npy", continue_prefix(decoder, reads=reads).numpy())


def main() -> None:
    """Do everything in the file."""
    for one in json.loads(Path(sys.argv[1]).read_text()):
        run(**one)
    parallel.stop()


if __name__ == "__main__":
    main()
