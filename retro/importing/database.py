"""The rows of a project become a chunk database, with everything that the project says of their number compared."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from retro.common.artifacts import REPORT, Manifest, describe_files, write_manifest
from retro.common.errors import DataError
from retro.common.files import atomic_path, write_json
from retro.common.hdf5 import create_column, new_file
from retro.common.progress import Progress
from retro.common.resume import completed, fingerprints
from retro.corpus.reader import Corpus
from retro.db.build import DbReport
from retro.db.config import DbConfig
from retro.db.schema import COLUMNS, FILE, STAGE, write_header
from retro.importing.blocks import BlockCounts, count_blocks
from retro.importing.project import Project, recorded_counts
from retro.importing.rows import REBUILD, Documents, read_rows

log = logging.getLogger(__name__)

SPLITS = ("train", "valid")
"""Their merged files; what they call test is in the second."""
Rows = dict[str, list[int]]
"""By split, of each corpus."""


def import_rows(
    project: Project, corpus: Corpus, documents: Sequence[Documents], out: Path, rows: dict[str, int]
) -> dict[str, int]:
    """Write the database into `out`, unless it is there.

    Where nothing was left out the artifact has the bytes that the db stage would have made.

    Args:
        project: Whose rows.
        corpus: The imported corpus.
        documents: Of each corpus, without end marks.
        out: The stage's directory.
        rows: Rows of each merged file.

    Returns:
        Chunks that their tools left out, by split.

    Raises:
        DataError: A row is impossible, or the numbers of rows do not agree.
        ArtifactError: `out` holds another database, or the disk is full.
    """
    started = time.monotonic()
    config, parents = DbConfig(chunk_length=project.chunk_length), {"corpus": corpus.manifest}
    blocks = [count_blocks(one.blocks, found) for one, found in zip(project.corpora, documents, strict=True)]
    left_out = _left_out(project, documents, rows, blocks)
    if completed(out, STAGE, config.shaping, parents) is not None:
        return left_out
    by_source = _write_rows(project, corpus, documents, out, rows)
    _require_same_counts(project, by_source["train"], blocks)
    report = _report(documents, by_source, time.monotonic() - started)
    write_json(out / REPORT, asdict(report) | {"imported_from": str(project.directory), "left_out": left_out})
    counts = {f"rows_{split}": count for split, count in report.chunks_by_split.items()}
    counts |= {"rows": report.chunks, "empty_documents": report.empty_documents, "tokens": report.tokens}
    write_manifest(
        out,
        Manifest(
            stage=STAGE,
            config=dict(config.shaping),
            parents=fingerprints(parents),
            counts=counts,
            files=describe_files(out, [FILE]),
        ),
    )
    return left_out


def _write_rows(
    project: Project, corpus: Corpus, documents: Sequence[Documents], out: Path, rows: dict[str, int]
) -> Rows:
    total, place = sum(rows.values()), 0
    by_source: Rows = {split: [0] * len(documents) for split in SPLITS}
    with atomic_path(out / FILE) as temporary, new_file(temporary) as file:
        for name, dtype in COLUMNS.items():
            create_column(file, name, (total,), dtype)
        with Progress(total, what="import", unit="chunks") as bar:
            for split in SPLITS:
                for columns in read_rows(project.merged / f"{split}.hdf5", split, documents, project.chunk_length):
                    count = len(columns["source"])
                    for name, values in columns.items():
                        file[name][place : place + count] = values
                    here = np.bincount(columns["source"], minlength=len(documents)).tolist()
                    by_source[split] = [sum(pair) for pair in zip(by_source[split], here, strict=True)]
                    place += count
                    bar.advance(count)
        write_header(file, project.chunk_length, corpus.manifest.fingerprint)
    return by_source


def _left_out(
    project: Project, documents: Sequence[Documents], rows: dict[str, int], blocks: Sequence[BlockCounts | None]
) -> dict[str, int]:
    """Chunks of documents that have no row, by split; the blocks must account for them."""
    missing = {}
    for split in SPLITS:
        cut = sum(int((-(-one.tokens[one.of(split)] // project.chunk_length)).sum()) for one in documents)
        missing[split] = cut - rows[split]
        known = [one.left_out[split] for one in blocks if one is not None]
        told = f"{rows[split]} rows for {cut} chunks of {split} documents"
        if len(known) == len(documents) and sum(known) != missing[split]:
            problem = f"has {told}, {sum(known)} of which its blocks left out"
            raise DataError(project.merged / f"{split}.hdf5", problem, REBUILD)
        if missing[split]:
            log.warning("import: %s: their tools left out %d chunks without a wordpiece", told, missing[split])
    return missing


def _require_same_counts(project: Project, rows: Sequence[int], blocks: Sequence[BlockCounts | None]) -> None:
    """Compare the train rows of each corpus with what the project's list and its blocks say."""
    recorded = recorded_counts(project)
    for corpus, found, counted in zip(project.corpora, rows, blocks, strict=True):
        for where, said in (
            ("indexed_dataset_infos.json says", recorded.get(corpus.name)),
            ("its blocks have", counted.kept["train"] if counted else None),
        ):
            if said is not None and said != found:
                problem = f"has {found} rows of {corpus.name}, {where} {said}"
                raise DataError(project.merged / "train.hdf5", problem, REBUILD)


def _report(documents: Sequence[Documents], by_source: Rows, seconds: float) -> DbReport:
    chunks = sum(map(sum, by_source.values()))
    return DbReport(
        documents=sum(len(one.tokens) for one in documents),
        empty_documents=sum(int((one.tokens == 0).sum()) for one in documents),
        chunks=chunks,
        tokens=sum(int(one.tokens.sum()) for one in documents),
        chunks_by_split={split: sum(rows) for split, rows in by_source.items()} | {"test": 0},
        chunks_by_source={one.name: sum(by_source[split][n] for split in SPLITS) for n, one in enumerate(documents)},
        documents_cut=0,
        seconds=round(seconds, 3),
        chunks_per_second=round(chunks / max(seconds, 1e-9), 1),
    )
