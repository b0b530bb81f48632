"""Questions with the documents that the index of their step finds for them, as batches.

The number of a sample says its step: step t takes the numbers from (t - 1) x global batch on. So a batch's documents
follow from its numbers, however far ahead it is read. Validation has no numbers of its own steps: it searches in the
index of the last step that was trained, which nothing changes while it runs.
"""

# Dims in this file.
#   B questions   K documents found for each   n tokens of a document for the reader, T for the retriever

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.qa.question import Question
from retro.recipes.dynamic_prefix.joint.documents import Documents
from retro.recipes.dynamic_prefix.joint.penalties import group_of
from retro.recipes.dynamic_prefix.joint.refresh import Searcher
from retro.recipes.dynamic_prefix.joint.retriever import Encoded, JointRetriever
from retro.recipes.dynamic_prefix.training.encoder_files import EncoderTokenizer
from retro.recipes.dynamic_prefix.training.samples import IDS, REAL, PrefixSource, document_arrays, document_text
from retro.training.batch import Batch, BatchSpec

NUMBERS, ROWS, GROUPS = "sample_numbers", "document_rows", "groups"
"""In `Batch.further`: [B] number of each sample, [B, K] rows of its documents, and [B, K] their groups, -1 for none."""
QUESTION_IDS, QUESTION_MARKS = "question_ids", "question_marks"
"""[B, T] tokens of the questions for the retriever, and what they are for (retriever.py)."""
DOCUMENT_IDS, DOCUMENT_MARKS = "retriever_document_ids", "retriever_document_marks"
"""[B, K, T] the same of their documents."""


class Reader:
    """What makes arrays of texts. Tokenizers are not safe to share, and training and validation read at a time."""

    def __init__(
        self,
        documents: Documents,
        knowledge: EncoderTokenizer,
        retriever: JointRetriever,
        k: int,
        groups: Mapping[str, int] | None = None,
    ) -> None:
        """Keep the parts.

        Args:
            documents: All of them.
            knowledge: The tokenizer of the knowledge encoder.
            retriever: Its tokenizers alone are used.
            k: Documents of each question.
            groups: The group of a document, by its id; None: none has one.
        """
        self.k, self._groups = k, groups or {}
        self._documents, self._knowledge, self._retriever, self._lock = documents, knowledge, retriever, Lock()

    def arrays(self, questions: Sequence[str], rows_BK: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """What the loss reads of questions and the documents found for them."""
        flat = rows_BK.ravel().tolist()
        with self._lock:
            contexts = self._documents.at(flat)
            texts = [document_text(one) for one in contexts]
            tokens = self._knowledge.encode(texts)[0]
            asked = self._retriever.encode_questions(questions)
            found = self._retriever.encode_documents(texts)
        nested = [tokens[first : first + self.k] for first in range(0, len(flat), self.k)]
        ids_BKn, real_BKn = document_arrays(nested, self.k)
        groups_P = np.array([group_of(self._groups, one.document_id) for one in contexts], dtype=np.int64)
        ids_BKT, marks_BKT = _by_question(found, self.k)
        return {
            IDS: ids_BKn, REAL: real_BKn, ROWS: rows_BK, QUESTION_IDS: asked.ids_RT, QUESTION_MARKS: asked.marks_RT,
            DOCUMENT_IDS: ids_BKT, DOCUMENT_MARKS: marks_BKT, GROUPS: groups_P.reshape(-1, self.k),
        }  # fmt: skip


class JointSource:
    """A BatchSource that finds documents in the index of a sample's step."""

    def __init__(
        self,
        inner: PrefixSource,
        questions: Sequence[Question],
        reader: Reader,
        index: Callable[[NDArray[np.int64]], Searcher],
    ) -> None:
        """Put a search before a source.

        Args:
            inner: Prompts and answers, their samples those of `questions`, without documents.
            questions: In the same order.
            reader: Makes arrays of texts.
            index: From sample numbers, all of one step, to the index to search.
        """
        self._inner, self._reader, self._index = inner, reader, index
        self._questions = [one.question for one in questions]

    @property
    def form(self) -> BatchSpec:
        """See `BatchSource`."""
        return self._inner.form

    def fetch(self, sample_numbers: NDArray[np.int64]) -> Batch:
        """See `BatchSource`."""
        places = [self._inner.place(int(number)) for number in sample_numbers]
        questions = [self._questions[place] for place in places]
        rows_BK = self._index(sample_numbers).search(questions, self._reader.k)
        further = {
            NUMBERS: np.ascontiguousarray(sample_numbers, dtype=np.int64),
            **self._reader.arrays(questions, rows_BK),
        }  # fmt: skip
        return replace(self._inner.fetch(sample_numbers), further=further)


def step_of(sample_numbers: NDArray[np.int64], global_batch: int) -> int:
    """The step, from 1, that takes samples of these numbers.

    Raises:
        ValueError: They are of several steps.
    """
    first, last = int(sample_numbers.min()) // global_batch, int(sample_numbers.max()) // global_batch
    if first != last:
        raise ValueError(f"samples {sample_numbers.min()} to {sample_numbers.max()} are of several steps")
    return first + 1


def _by_question(texts: Encoded, k: int) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
    shape = (-1, k, texts.ids_RT.shape[1])
    return texts.ids_RT.reshape(shape), texts.marks_RT.reshape(shape)
