"""A project of NVIDIA's Retro preprocessing becomes the first two stages of a run: same chunks, same row numbers."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from retro.common.errors import DataError
from retro.common.files import atomic_path
from retro.corpus import build as corpus_stage
from retro.corpus.config import CorpusConfig
from retro.corpus.reader import Corpus
from retro.corpus.token_files import TokenFile, idx_path
from retro.db.chunking import tokens_without_end_mark
from retro.importing.database import SPLITS, import_rows
from retro.importing.project import Project, open_project
from retro.importing.rows import Documents, written_rows
from retro.importing.tokenizer import tokenizer_settings

log = logging.getLogger(__name__)

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
    """What lies in the project and was not taken over, and why."""
    run_file: Path
    """The settings with which the run goes on."""


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
    for line in (told := not_imported(project)):
        log.warning("import: %s", line)
    return Imported(rows=rows, left_out=found, not_imported=told, run_file=run_file)


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
    """What lies in a project and cannot be taken over, and why, a line each."""
    told = [
        f"{path}: not imported. It compares vectors that are not normalised by their distance; a search here takes the "
        "inner product of vectors of length 1. Its ids are rows of the imported database; `retro index` makes our own"
        for path in sorted(project.directory.glob("index/**/added_*.faissindex"))
    ]
    told += [
        f"{path}: not imported. Its samples are drawn in another order than our streams; its ids are rows of the "
        "imported database; `retro neighbors` searches for our streams"
        for path in sorted(project.directory.glob("query/*"))
        if path.is_dir()
    ]
    return told
