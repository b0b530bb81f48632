"""The documents that a retriever in training chooses from, by row: the passages of a file, or those of questions."""

# Dims in this file. N documents

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ConfigError
from retro.qa.question import Context, Question
from retro.recipes.dynamic_prefix.config import DataConfig
from retro.recipes.dynamic_prefix.training.samples import document_text
from retro.recipes.passages.passages import Passages

log = logging.getLogger(__name__)

BLOCK = 1_024
"""Documents read and embedded at a time."""


class Documents(Protocol):
    """Documents by row."""

    blank: int
    """How many were left out because neither their title nor their text holds anything."""

    def __len__(self) -> int:
        """N."""

    def at(self, rows: Sequence[int]) -> list[Context]:
        """Those of some rows, in the order given; their `row` is that."""


class QuestionDocuments:
    """The documents that come with questions, each once."""

    def __init__(self, questions: Iterable[Question]) -> None:
        """Collect them in the order in which they first come; equal ones are one, by id, title and text.

        Blank ones are left out: no embedder takes them.
        """
        found: dict[tuple[str, str, str], Context] = {}
        blank: set[tuple[str, str, str]] = set()
        for question in questions:
            for one in question.contexts:
                key = (one.document_id, one.title, one.text)
                if document_text(one).strip():
                    found.setdefault(key, Context(*key[1:], document_id=key[0], row=len(found)))
                else:
                    blank.add(key)
        self._documents = list(found.values())
        self.blank = len(blank)
        if blank:
            log.warning("joint: %d blank documents of questions are left out", len(blank))

    def __len__(self) -> int:
        return len(self._documents)

    def at(self, rows: Sequence[int]) -> list[Context]:
        """See `Documents`."""
        return [self._documents[row] for row in rows]


class FileDocuments:
    """The passages of a file, read where they are on disk."""

    def __init__(self, file: Path, store: Path) -> None:
        """Open it.

        Args:
            file: .tsv or .jsonl, also .gz.
            store: Folder for the table of where each passage begins.

        Raises:
            DataError, ArtifactError: As `Passages.open`.
        """
        self._passages = Passages.open(file, store)
        # A line without text is refused when the file is opened.
        self.blank = 0

    def __len__(self) -> int:
        return len(self._passages)

    def at(self, rows: Sequence[int]) -> list[Context]:
        """See `Documents`."""
        found = self._passages.at(rows)
        return [
            Context(title=one.title, text=one.text, document_id=one.id, row=row)
            for row, one in zip(rows, found, strict=True)
        ]


def open_documents(data: DataConfig, store: Path, questions: Iterable[Question], k: int) -> Documents:
    """The documents of a recipe's settings.

    Args:
        data: With `retrieve`, the passages of `data.passages`.
        store: Folder of what is derived of a file of passages.
        questions: Else all the documents that come with these.
        k: How many are to be found for a question.

    Raises:
        ConfigError: There are fewer than that, or the documents are those of the run's database.
        DataError, ArtifactError: The file cannot be used.
    """
    if data.retrieve and data.passages.passages is None:
        need = "needs a file of passages: the index of a retriever in training is built of these, not of the database's"
        raise ConfigError("recipe.dynamic_prefix.data.passages.passages", None, need)
    from_file = data.retrieve
    documents = FileDocuments(data.passages.passages_file, store) if from_file else QuestionDocuments(questions)
    if k > len(documents):
        raise ConfigError("recipe.dynamic_prefix.joint.documents", k, f"needs at most {len(documents)}, all there are")
    return documents


def embed_documents(
    documents: Documents,
    embed: Callable[[Sequence[str]], NDArray[np.float32]],
    stopped: Callable[[], bool] = lambda: False,
) -> NDArray[np.float32]:
    """[N, E] vectors of all documents.

    Args:
        documents: N of them.
        embed: From some texts to their vectors.
        stopped: Whether nobody waits for them any more; called between blocks.

    Raises:
        CancelledError: Nobody does.
    """
    parts = []
    for first in range(0, len(documents), BLOCK):
        if stopped():
            raise CancelledError
        block = documents.at(range(first, min(first + BLOCK, len(documents))))
        parts.append(embed([document_text(one) for one in block]))
    return np.concatenate(parts)
