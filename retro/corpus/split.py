"""Which documents are held out, and in which order a stream has them. Decided here, once, for every stage."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ConfigError
from retro.corpus.reader import SPLITS

if TYPE_CHECKING:
    from retro.corpus.config import CorpusConfig

Keys = NDArray[np.uint64]
SPLIT, ORDER, SAMPLE = 0, 1, 2
"""What random keys are for; each purpose draws its own."""


def random_keys(seed: int, source: str, purpose: int) -> np.random.PCG64:
    """A generator of one 64-bit key per document, in document order.

    Raw generator output, because NumPy promises it from release to release, which it does not for shuffles; the
    source's name is in the seed, so another source beside it changes nothing.
    """
    name = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "little")
    return np.random.PCG64(np.random.SeedSequence([seed, name, purpose]))


def split_documents(
    documents: int, fractions: tuple[float, float, float], seed: int, source: str, held_out: str = "random"
) -> NDArray[np.uint8]:
    """[documents] 0 (train), 1 (valid) or 2 (test).

    Validation and test get their fraction of the documents, rounded half up; training gets the rest. With `last` held
    out, the splits are in this order, training has its fraction rounded down and validation the rest, in the arithmetic
    of Megatron's Retro tools.
    """
    if held_out == "last":
        return _split_in_order(documents, fractions)
    keys: Keys = random_keys(seed, source, SPLIT).random_raw(documents)
    shuffled = np.argsort(keys, kind="stable")
    # Rounding first: 0.07 * 50 is 3.5000000000000004.
    valid, test = (math.floor(round(fraction * documents, 9) + 0.5) for fraction in fractions[1:])
    test = min(test, documents - min(valid, documents))
    split = np.zeros(documents, dtype=np.uint8)
    split[shuffled[:valid]] = 1
    split[shuffled[valid : valid + test]] = 2
    return split


def split_source(config: CorpusConfig, name: str, documents: int) -> NDArray[np.uint8]:
    """[documents] 0 (train), 1 (valid) or 2 (test) of a source, as its own settings or the corpus's fractions say."""
    own = {source.name: source.split for source in config.sources}[name]
    if own != "fractions":
        return np.full(documents, SPLITS.index(own), dtype=np.uint8)
    return split_documents(documents, config.split, config.seed, name, config.held_out)


def _split_in_order(documents: int, fractions: tuple[float, float, float]) -> NDArray[np.uint8]:
    train = int(fractions[0] * documents)
    test = min(math.floor(round(fractions[2] * documents, 9) + 0.5), documents - train)
    split = np.ones(documents, dtype=np.uint8)
    split[:train] = 0
    split[documents - test :] = 2
    return split


def stream_orders(split: NDArray[np.uint8], splits: int, seed: int, source: str) -> list[NDArray[np.int64]]:
    """For each of `splits` splits, the numbers of its documents, shuffled by the seed."""
    keys: Keys = random_keys(seed, source, ORDER).random_raw(len(split))
    shuffled = np.argsort(keys, kind="stable").astype(np.int64)
    by_split: NDArray[np.uint8] = split[shuffled]
    return [shuffled[by_split == number] for number in range(splits)]


def require_documents_in_splits(splits: Mapping[str, NDArray[np.uint8]], config: CorpusConfig) -> None:
    """Raise ConfigError when a split was asked for and no source has a document in it.

    Args:
        splits: Of each source, [documents].
        config: Says what was asked for.
    """
    fractions = config.split
    parted = [len(splits[source.name]) for source in config.sources if source.split == "fractions"]
    largest = max(parted, default=0)
    for number, name in enumerate(SPLITS):
        if fractions[number] > 0 and not any(np.any(split == number) for split in splits.values()):
            if not parted:
                need = f"needs 0 for {name}, or a source with split: {name}: every source is in one split whole"
                raise ConfigError("corpus.split", fractions, need)
            needed = math.ceil(round(0.5 / fractions[number], 9))
            raise ConfigError(
                "corpus.split",
                fractions,
                f"leaves no document for {name}: {fractions[number]:g} of the largest source's {largest} documents; "
                f"needs at least {needed} documents in a source, a larger fraction, 0, or a source with split: {name}",
            )
