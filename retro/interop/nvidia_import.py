"""A project of NVIDIA's Retro preprocessing becomes the first two stages of a run: same chunks, same row numbers."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml

from retro.common.artifacts import REPORT, Manifest, describe_files, write_manifest
from retro.common.block_stage import completed, fingerprints
from retro.common.errors import DataError
from retro.common.files import atomic_path, write_json
from retro.common.hdf5 import create_column, new_file
from retro.common.progress import Progress
from retro.corpus import build as corpus_stage
from retro.corpus.config import CorpusConfig
from retro.corpus.reader import Corpus
from retro.corpus.token_files import TokenFile, idx_path
from retro.db.build import DbReport
from retro.db.chunking import tokens_without_end_mark
from retro.db.config import DbConfig
from retro.db.schema import COLUMNS, FILE, STAGE, write_header
from retro.interop.nvidia_project import Project, open_project, recorded_counts, tokenizer_settings
from retro.interop.nvidia_rows import REBUILD, BlockCounts, Documents, count_blocks, read_rows, written_rows

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
        reported = f"{rows[split]} rows for {cut} chunks of {split} documents"
        if len(known) == len(documents) and sum(known) != missing[split]:
            problem = f"has {reported}, {sum(known)} of which its blocks left out"
            raise DataError(project.merged / f"{split}.hdf5", problem, REBUILD)
        if missing[split]:
            log.warning("import: %s: their tools left out %d chunks without a wordpiece", reported, missing[split])
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


IMPORTED = "imported"
RUN_FILE = "run.yaml"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What came of a project."""

    rows: dict[str, int]
    """By split."""
    left_out: dict[str, int]
    """Chunks that the project's tools left out, by split."""
    not_imported: list[str]
    """What is in the project and was not taken over, and why."""
    run_file: Path
    """The settings with which the run continues."""


def import_project(
    directory: Path,
    run_dir: Path,
    corpus_dir: Path,
    db_dir: Path,
    *,
    tokenizer: Path | None = None,
    eod_token: str | None = None,
) -> Imported:
    """Make corpus and database of a run from a project.

    Args:
        directory: The project.
        run_dir: The run; its settings are written there.
        corpus_dir: Where the corpus goes.
        db_dir: Where the database goes.
        tokenizer: A tokenizer file, in place of the one that the project names.
        eod_token: The token that ends a document, if not the usual one.

    Raises:
        DataError: The project is not whole, a row is impossible, or its tokenizer cannot be read.
        ArtifactError: The run holds another corpus or database.
    """
    project = open_project(directory)
    documents = [_documents_of(project, number) for number in range(len(project.corpora))]
    rows = {split: written_rows(project.merged / f"{split}.hdf5") for split in SPLITS}
    if (project.merged / "sampled.hdf5").exists():
        written_rows(project.merged / "sampled.hdf5")
    config = _corpus_config(project, run_dir, tokenizer, eod_token)
    corpus_stage.run(config, corpus_dir)
    corpus = Corpus.open(corpus_dir)
    documents = [_without_end(corpus, number, one) for number, one in enumerate(documents)]
    found = import_rows(project, corpus, documents, db_dir, rows)
    run_file = _write_run_file(config, project, run_dir)
    for line in (reported := not_imported(project)):
        log.warning("import: %s", line)
    return Imported(rows=rows, left_out=found, not_imported=reported, run_file=run_file)


def _documents_of(project: Project, number: int) -> Documents:
    """The documents of a corpus, with their end marks still counted."""
    corpus = project.corpora[number]
    file = TokenFile(corpus.prefix)
    if file.sequences != file.documents:
        problem = f"has {file.sequences} sequences in {file.documents} documents; their rows count sequences"
        raise DataError(idx_path(corpus.prefix), problem, "Give a corpus with one sequence a document")
    train = int(project.train_fraction * file.documents)
    return Documents(corpus.name, file.document_starts, np.diff(file.document_starts), train)


def _without_end(corpus: Corpus, number: int, documents: Documents) -> Documents:
    tokens = tokens_without_end_mark(corpus.token_file(number).tokens, documents.starts, corpus.tokenizer.eod)
    return Documents(documents.name, documents.starts, tokens, documents.train)


def _corpus_config(project: Project, run_dir: Path, tokenizer: Path | None, eod_token: str | None) -> CorpusConfig:
    return CorpusConfig(
        sources=[
            {"name": one.name, "path": one.prefix.resolve(), "kind": "megatron", "weight": one.ratio}
            for one in project.corpora
        ],
        tokenizer=tokenizer_settings(project, run_dir / IMPORTED, tokenizer, eod_token),
        split=(project.train_fraction, 1 - project.train_fraction, 0.0),
        held_out="last",
    )


def _write_run_file(config: CorpusConfig, project: Project, run_dir: Path) -> Path:
    path = run_dir / RUN_FILE
    # Only what was set: a size of the vocabulary that is spelled out has to be the file's.
    corpus = json.loads(config.model_dump_json(exclude_unset=True))
    settings = {"run_dir": str(run_dir), "corpus": corpus, "db": {"chunk_length": project.chunk_length}}
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def not_imported(project: Project) -> list[str]:
    """What is in a project and cannot be taken over, and why, a line each."""
    reported = [
        f"{path}: not imported. It compares vectors that are not normalized by their distance; a search here takes the "
        "inner product of vectors of length 1. Its ids are rows of the imported database; `retro index` makes our own"
        for path in sorted(project.directory.glob("index/**/added_*.faissindex"))
    ]
    reported += [
        f"{path}: not imported. Its samples are drawn in another order than our streams; its ids are rows of the "
        "imported database; `retro neighbors` searches for our streams"
        for path in sorted(project.directory.glob("query/*"))
        if path.is_dir()
    ]
    return reported
