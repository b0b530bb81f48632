"""An embedder without weights: hashed words and word pairs, weighted by tf-idf.

Weinberger et al. 2009 (arXiv:0902.2206): a feature's hash picks its dimension and its sign, so that collisions cancel
on average. The inverse document frequencies are counted over training chunks and saved with the index.
"""

# Dims in this file. N texts   P features of all texts   D dimension   V buckets of the idf table

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retro.common.hdf5 import map_column
from retro.index.config import EmbedderConfig
from retro.index.embedder import ignore
from retro.index.kinds import Hashing

IDF_BUCKETS = 1 << 18
"""Entries of the table of document frequencies: 1 MB, and few collisions up to some 100,000 features."""
_VERSION = 1
_TEXTS_AT_ONCE = 2048
_WORD = re.compile(r"\w+")
_FEATURE_BITS = np.uint64(40)
_FEATURE_MASK = np.uint64((1 << 40) - 1)
_ODD = np.uint64(0x9E3779B97F4A7C15)

UInt64 = NDArray[np.uint64]


class Features(NamedTuple):
    """The distinct features of some texts, sorted by text."""

    text_P: NDArray[np.int64]
    hash_P: UInt64
    count_P: NDArray[np.int64]


class WordHashes:
    """64-bit hashes of words, the same on every machine; remembers the words it has seen."""

    _REMEMBERED = 1 << 20

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, words: Sequence[str]) -> UInt64:
        """[len(words)] hashes."""
        known = self._known
        for word in set(words).difference(known):
            digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            known[word] = int.from_bytes(digest, "little")
        hashes = np.fromiter((known[word] for word in words), dtype=np.uint64, count=len(words))
        if len(known) > self._REMEMBERED:
            known.clear()
        return hashes


def features_of(texts: Sequence[str], hashes: WordHashes) -> Features:
    """Words and pairs of neighboring words of each text, lower case, with their counts."""
    words_N = [_WORD.findall(text.lower()) for text in texts]
    counts_N = np.fromiter(map(len, words_N), dtype=np.int64, count=len(words_N))
    text_W = np.repeat(np.arange(len(texts), dtype=np.uint64), counts_N)
    word_W = hashes.of([word for words in words_N for word in words])
    within_W = text_W[1:] == text_W[:-1]
    # Multiplying the left word by an odd number makes "a b" and "b a" different pairs.
    pair = _mix(word_W[:-1] * _ODD + word_W[1:])[within_W]
    features = np.concatenate([_mix(word_W), pair]) & _FEATURE_MASK
    owners = np.concatenate([text_W, text_W[1:][within_W]])
    keys, counts = np.unique((owners << _FEATURE_BITS) | features, return_counts=True)
    return Features((keys >> _FEATURE_BITS).astype(np.int64), _mix(keys & _FEATURE_MASK), counts)


def count_documents(blocks: Iterable[Sequence[str]]) -> NDArray[np.float32]:
    """Inverse document frequencies, log((1 + texts) / (1 + texts with the feature)) + 1, smoothed and never below 1.

    Args:
        blocks: Texts, some at a time.

    Returns:
        float32 [V], by feature bucket.
    """
    hashes, texts_seen = WordHashes(), 0
    frequency_V = np.zeros(IDF_BUCKETS, dtype=np.int64)
    for block in blocks:
        texts_seen += len(block)
        for start in range(0, len(block), _TEXTS_AT_ONCE):
            features = features_of(block[start : start + _TEXTS_AT_ONCE], hashes)
            frequency_V += np.bincount(_bucket(features.hash_P), minlength=IDF_BUCKETS)
    idf_V: NDArray[np.float32] = (np.log((1 + texts_seen) / (1 + frequency_V)) + 1).astype(np.float32)
    return np.maximum(idf_V, np.float32(1))


class HashingEmbedder(Hashing):
    """Texts to vectors of tf-idf weights, hashed into a fixed number of dimensions."""

    def __init__(self, dimension: int, idf_V: NDArray[np.float32]) -> None:
        super().__init__(EmbedderConfig(dimension=dimension))
        self.dimension = dimension
        self.idf_V = idf_V
        digest = hashlib.sha256(np.ascontiguousarray(idf_V, dtype="<f4").tobytes()).hexdigest()
        self.identity: dict[str, str | int] = {
            "kind": "hashing",
            "version": _VERSION,
            "dimension": dimension,
            "idf_sha256": digest,
        }
        self._hashes = WordHashes()

    @classmethod
    def read(cls, config: EmbedderConfig, path: Path) -> HashingEmbedder:
        """The embedder with the frequencies in `path`.

        Raises:
            ArtifactError: They are missing or damaged.
        """
        idf_V = np.asarray(map_column(path, "idf", "Run `retro index` again", width=0), dtype=np.float32)
        return cls(config.dimension, idf_V)

    def embed_passages(self, texts: Sequence[str], advance: Callable[[int], None] = ignore) -> NDArray[np.float32]:
        """[N, D] float32 of length 1; all zeros for a text without a word."""
        vectors_ND = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            some = texts[start : start + _TEXTS_AT_ONCE]
            vectors_ND[start : start + len(some)] = self._embed_some(some)
            advance(len(some))
        return vectors_ND

    def _embed_some(self, texts: Sequence[str]) -> NDArray[np.float32]:
        text_P, hash_P, count_P = features_of(texts, self._hashes)
        weight_P = (1 + np.log(count_P)) * self.idf_V[_bucket(hash_P)]
        sign_P = 1.0 - 2.0 * ((hash_P >> np.uint64(63)) & np.uint64(1)).astype(np.float64)
        place_P = (hash_P >> np.uint64(20)) % np.uint64(self.dimension)
        flat = np.bincount(
            text_P * self.dimension + place_P.astype(np.int64),
            weights=weight_P * sign_P,
            minlength=len(texts) * self.dimension,
        )
        return normalized(flat.reshape(len(texts), self.dimension))


def normalized(vectors_ND: NDArray[Any]) -> NDArray[np.float32]:
    """Rows of length 1; a row of zeros stays as it is, and so does not look like anything."""
    lengths_N = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (vectors_ND / np.where(lengths_N > 0, lengths_N, 1)).astype(np.float32)
    return unit


def _bucket(hash_P: UInt64) -> NDArray[np.int64]:
    return (hash_P % np.uint64(IDF_BUCKETS)).astype(np.int64)


def _mix(values: UInt64) -> UInt64:
    """Spread every input bit over the output (the finalizer of SplitMix64)."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
