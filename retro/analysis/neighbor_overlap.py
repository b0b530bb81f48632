"""How much of the text to be predicted is in the neighbors that are read meanwhile, for one run or two.

Neighbors of chunk u are read while chunk u + 1, its continuation, is predicted. What they are worth there follows the
tokens that they share with it (Norlund et al. 2023, "On the Generalization Ability of Retrieval-Enhanced Transformers";
Doostmohammadi et al. 2023, arXiv:2305.16243), so two ways of finding neighbors can be compared before any model is
trained on them.
"""

# Dims in this file. Q chunks with a continuation   K neighbors read   M tokens in a chunk   R tokens of a neighbor, 2 M
#   D documents

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import read_manifest
from retro.common.config import unknown_name
from retro.common.errors import ConfigError
from retro.common.progress import Progress
from retro.common.statistics import estimate_ratio
from retro.common.terminal import Table
from retro.corpus.reader import SPLITS, Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.db.schema import DOCUMENT_BITS
from retro.db.versions import VERSIONS, open_database
from retro.neighbors.config import STAGE
from retro.neighbors.reader import Neighbors
from retro.neighbors.text_overlap import NO_TOKEN, longest_common_substring
from retro.run.pipeline import stage

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Floats = NDArray[np.float64]

MEASURES = {"unigram": "distinct tokens", "longest": "longest run of tokens"}
_AT_ONCE = 1024
_SAMPLES, _CONFIDENCE = 2000, 0.95


@dataclass(frozen=True)
class RunNeighbors:
    """One run's neighbors."""

    run_dir: Path
    corpus: Corpus
    db: ChunkDatabase
    neighbors: Neighbors

    def text(self, stream: TokenStream, chunk_Q: Int64) -> Int32:
        """[Q, M] tokens of chunks; below zero at the end of a document."""
        tokens_QM = stream.tokens(chunk_Q * stream.chunk_length, stream.chunk_length)
        return np.where(tokens_QM == self.corpus.tokenizer.eod, np.int32(NO_TOKEN), tokens_QM)

    def read(self, ids_QK: Int64) -> Int32:
        """[Q, K, R] tokens of neighbors; below zero where there are none."""
        tokens_QKR, mask_QKR = self.db.neighbor_tokens(ids_QK)
        text_QKR = mask_QKR & (tokens_QKR != self.corpus.tokenizer.eod)
        return np.where(text_QKR, tokens_QKR, np.int32(NO_TOKEN))


def open_run_neighbors(run_dir: Path) -> RunNeighbors:
    """The neighbors of a run, with the database they were found in.

    Raises:
        ArtifactError: The run has no neighbors, or something is damaged or of another database.
    """
    place = {name: run_dir / stage(name).directory for name in ("corpus", "db", STAGE)}
    version = int(read_manifest(place[STAGE], STAGE).counts["database_version"])
    corpus = Corpus.open(place["corpus"])
    db = open_database(run_dir / VERSIONS / f"{version:04d}" if version else place["db"], corpus)
    return RunNeighbors(run_dir, corpus, db, Neighbors.open(place[STAGE], db, corpus))


def compare_neighbors(
    a: RunNeighbors, b: RunNeighbors | None, *, k: int, splits: Sequence[str] = (), seed: int = 1234
) -> dict[str, Any]:
    """The overlap of neighbors with continuations, and how two runs differ in it.

    Args:
        a: A run.
        b: Another one over the same text; None: the one alone.
        k: Neighbors read of a chunk.
        splits: Those to look at; all that both have, unless given.
        seed: Of the resampling.

    Returns:
        By split: chunks, mean overlaps of either, difference b - a with its interval over documents, share of chunks
        whose neighbors are the same rows.

    Raises:
        ConfigError: The runs do not cut the same text into the same chunks, or lack neighbors or a split.
    """
    sides = [a] if b is None else [a, b]
    saved = min(side.neighbors.saved for side in sides)
    if not 1 <= k <= saved:
        raise ConfigError("--neighbors", k, f"needs a number from 1 to {saved}, as many as were saved")
    if b is not None and (a.corpus.manifest.fingerprint, a.db.chunk_length) != (
        b.corpus.manifest.fingerprint,
        b.db.chunk_length,
    ):
        need = f"needs a run over the same corpus, in chunks of the same length, as {a.run_dir}"
        raise ConfigError("RUN_B", str(b.run_dir), need)
    both = [name for name in SPLITS if all(name in side.neighbors.manifest.config["splits"] for side in sides)]
    for name in splits:
        if name not in both:
            raise ConfigError("--split", name, unknown_name(name, both).replace("a setting", "a split of both"))
    runs = {letter: str(side.run_dir) for letter, side in zip("ab", sides, strict=False)}
    found = {name: _of_split(sides, SPLITS.index(name), k, seed) for name in splits or both}
    return {"neighbors": k, "runs": runs, "confidence": _CONFIDENCE, "splits": found}


def _of_split(sides: Sequence[RunNeighbors], split: int, k: int, seed: int) -> dict[str, Any]:
    documents, same = list[Int64](), list[NDArray[np.bool_]]()
    values: dict[str, list[list[Floats]]] = {name: [[] for _ in sides] for name in MEASURES}
    for source, stream, chunk_Q, next_QM in _continuations(sides[0], split):
        ids = [side.neighbors.of(split, source, chunk_Q, k) for side in sides]
        for number, (side, ids_QK) in enumerate(zip(sides, ids, strict=True)):
            read_QKR = side.read(ids_QK)
            values["unigram"][number].append(unigram_share(next_QM, read_QKR.reshape(len(next_QM), -1)))
            values["longest"][number].append(longest_of(next_QM, read_QKR))
        same.append((np.sort(ids[0], axis=1) == np.sort(ids[-1], axis=1)).all(axis=1))
        documents.append(stream.chunk_documents(chunk_Q)[0] + (source << DOCUMENT_BITS))
    if not documents:
        return {"chunks": 0}
    document_Q = np.unique(np.concatenate(documents), return_inverse=True)[1]
    known: dict[str, Any] = {"chunks": len(document_Q), "documents": int(document_Q.max()) + 1}
    for name in MEASURES:
        means = [np.concatenate(of_side) for of_side in values[name]]
        known[name] = {letter: _summary(mean, document_Q, seed) for letter, mean in zip("ab", means, strict=False)}
        if len(means) > 1:
            known[name]["difference"] = _summary(means[1] - means[0], document_Q, seed)
    if len({side.db.manifest.fingerprint for side in sides}) == 1 < len(sides):
        known["same_neighbors"] = float(np.concatenate(same).mean())
    return known


def _continuations(side: RunNeighbors, split: int) -> Iterator[tuple[int, TokenStream, Int64, Int32]]:
    """Source, its stream, some chunks of it that are followed by text, and that text [Q, M]."""
    streams = [TokenStream(side.corpus, n, split, side.db.chunk_length) for n in range(len(side.corpus.sources))]
    total = sum(max(stream.chunks - 1, 0) for stream in streams)
    with Progress(total, what=f"overlap: {SPLITS[split]}", unit="chunks") as bar:
        for source, stream in enumerate(streams):
            for start in range(0, stream.chunks - 1, _AT_ONCE):
                chunk_Q = np.arange(start, min(start + _AT_ONCE, stream.chunks - 1), dtype=np.int64)
                next_QM = side.text(stream, chunk_Q + 1)
                has_text_Q = (next_QM >= 0).any(axis=1)
                if has_text_Q.any():
                    yield source, stream, chunk_Q[has_text_Q], next_QM[has_text_Q]
                bar.advance(len(chunk_Q))


def unigram_share(text_QM: Int32, read_QR: Int32) -> Floats:
    """[Q] share of the distinct tokens of each text that stand in what is read.

    Args:
        text_QM: [Q, M] tokens, at least one real one in each row; below zero is none.
        read_QR: [Q, any] tokens that are read.
    """
    shares_Q = np.zeros(len(text_QM))
    for number, (text_M, read_R) in enumerate(zip(text_QM, read_QR, strict=True)):
        distinct = np.unique(text_M[text_M >= 0])
        shares_Q[number] = np.isin(distinct, read_R).mean()
    return shares_Q


def longest_of(text_QM: Int32, read_QKR: Int32) -> Floats:
    """[Q] tokens of the longest run that each text shares with any one of its neighbors."""
    k, width = read_QKR.shape[1:]
    lengths = longest_common_substring(np.repeat(text_QM, k, axis=0), read_QKR.reshape(-1, width))
    return np.asarray(lengths.reshape(-1, k).max(axis=1), dtype=np.float64)


def _summary(values_Q: Floats, document_Q: Int64, seed: int) -> dict[str, float]:
    """Mean and interval; documents are drawn, since chunks of one document are alike."""
    sums_D, counts_D = np.bincount(document_Q, weights=values_Q), np.bincount(document_Q)
    found = estimate_ratio(sums_D.tolist(), counts_D.tolist(), samples=_SAMPLES, confidence=_CONFIDENCE, seed=seed)
    return {"mean": found.mean, "low": found.low, "high": found.high}


def overlap_table(found: dict[str, Any]) -> Table:
    """What `compare_neighbors` found, for the terminal."""
    table = Table(title=f"How much of the continuation is in the {found['neighbors']} neighbors read", rules="all")
    table.add_column("split", whole=True)
    table.add_column("chunks", align="right", whole=True)
    table.add_column("continuation's")
    for name in [*found["runs"], *(["b - a"] if len(found["runs"]) > 1 else [])]:
        table.add_column(name, align="right", whole=True)
    for split, one in found["splits"].items():
        for measure, words in MEASURES.items() if one["chunks"] else ():
            table.add_row(split, f"{one['chunks']:,}", words, *_cells(measure, one[measure]))
    lines = [f"{letter}: {run}" for letter, run in found["runs"].items()]
    lines += [
        f"{split}: {one['same_neighbors']:.1%} of the chunks have the same neighbors"
        for split, one in found["splits"].items()
        if "same_neighbors" in one
    ]
    table.caption = "\n".join([*lines, f"in brackets: {found['confidence']:.0%} interval, documents drawn"])
    return table


def _cells(measure: str, values: dict[str, dict[str, float]]) -> list[str]:
    """Means, and the interval of the difference, or of the mean where there is one run."""
    form = "{:.1%}" if measure == "unigram" else "{:.2f}"
    last = list(values)[-1]
    return [
        form.format(value["mean"])
        + (f" [{form.format(value['low'])}, {form.format(value['high'])}]" if name == last else "")
        for name, value in values.items()
    ]
