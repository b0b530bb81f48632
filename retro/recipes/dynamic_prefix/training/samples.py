"""Questions as what is trained on: tokens of prompt and answer for the frozen model, and documents for the encoder.

The loss counts on the answer and its end alone. Batches are padded on the right, where causal attention never looks.
"""

# Dims in this file.
#   N samples   B samples of a batch   S tokens of a sequence   K documents of a question   n tokens of a document

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ConfigError
from retro.qa.question import PassageLike, Question
from retro.recipes.dynamic_prefix.config import PrefixTrainConfig
from retro.recipes.dynamic_prefix.training.encoder_files import EncoderTokenizer
from retro.tokenizers.tokenizer import Tokenizer, conventions_of
from retro.training.batch import Batch, BatchSpec

IDS, REAL = "document_ids", "document_real"
"""Names of the documents' tokens [B, K, n], and of which are real, in `Batch.further`."""


@dataclass(frozen=True)
class Sample:
    """A question, its answer and its documents."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    """With the end token."""
    documents: tuple[tuple[int, ...], ...]
    """Of the encoder's tokens; at most K."""


def document_text(document: PassageLike) -> str:
    """What the encoder reads of a document: its title, a blank, and its text."""
    return f"{document.title} {document.text}".strip()


def prompt_ids(texts: Sequence[str], tokenizer: Tokenizer, config: PrefixTrainConfig, most: int) -> list[list[int]]:
    """The prompts of questions: what the tokenizer's folder puts before every prompt, then the fixed sentence with the
    question; the same for training, generation and scores.

    Args:
        texts: The questions.
        tokenizer: Of the language model.
        config: The fixed sentence.
        most: Tokens of a prompt. Longer ones lose the start of the question; where the fixed sentence alone is too
            long, all but their end.
    """
    before, after = config.question.split("{question}")
    first = list(conventions_of(tokenizer).prefix)
    fixed = len(tokenizer.encode(before)) + len(first)
    found = []
    for ids in tokenizer.encode_batch([f"{before}{text}{after}" for text in texts]):
        whole = [*first, *ids]
        of_question = most - fixed
        cut = [*whole[:fixed], *whole[-of_question:]] if of_question > 0 else whole[-most:]
        found.append(whole if len(whole) <= most else cut)
    return found


def most_of_prompt(config: PrefixTrainConfig, length: int) -> int:
    """Most tokens of a prompt, in sequences of that length.

    Raises:
        ConfigError: The length leaves nothing.
    """
    most = int(config.prompt_share * length)
    if most < 1 or length < 2:
        raise ConfigError(
            "recipe.dynamic_prefix.train.sequence_length", length, "needs room for a prompt and an answer"
        )
    return most


def encode_samples(
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    documents: EncoderTokenizer,
    config: PrefixTrainConfig,
    *,
    most_documents: int,
    length: int,
) -> tuple[list[Sample], dict[str, int]]:
    """The samples of questions with answers, and counts of what was cut.

    Args:
        questions: Their first answers are learned.
        tokenizer: Of the language model.
        documents: Of the encoder.
        config: Prompt and lengths.
        most_documents: K.
        length: S, most tokens of prompt and answer, of which the last is never read.
    """
    most = most_of_prompt(config, length)
    kept = [one.contexts[:most_documents] for one in questions]
    encoded, cut = documents.encode([document_text(document) for of_one in kept for document in of_one])
    rows = iter(encoded)
    prompts = prompt_ids([one.question for one in questions], tokenizer, config, most)
    whole = prompt_ids([one.question for one in questions], tokenizer, config, 1 << 30)
    answers = tokenizer.encode_batch([f" {one.answers[0]}" for one in questions])
    counts = Counter(questions=len(questions), documents=len(encoded), documents_cut=cut)
    samples = []
    for of_one, prompt, long_prompt, answer in zip(kept, prompts, whole, answers, strict=True):
        room = length + 1 - len(prompt)
        ids = [*answer, tokenizer.eod]
        counts["prompts_cut"] += len(prompt) < len(long_prompt)
        counts["answers_cut"] += len(ids) > room
        counts["without_documents"] += not of_one
        samples.append(Sample(tuple(prompt), tuple(ids[:room]), tuple(tuple(next(rows)) for _ in of_one)))
    return samples, dict(sorted(counts.items()))


class PrefixSource:
    """A BatchSource over samples; numbers continue for ever, each epoch in an order of its own."""

    def __init__(
        self, samples: Sequence[Sample], *, end: int, documents: int, multiple: int = 1, seed: int = 0
    ) -> None:
        """Keep the samples.

        Args:
            samples: At least one.
            end: A token of the language model, for padding.
            documents: K.
            multiple: Sequences are padded to a multiple of so many tokens.
            seed: Of the order.
        """
        self.samples, self.end, self.documents = tuple(samples), end, documents
        self.multiple, self.seed = multiple, seed
        self._orders: dict[int, NDArray[np.int64]] = {}

    @property
    def form(self) -> BatchSpec:
        """Batches are as long as their longest sequence."""
        return BatchSpec(None, 0)

    def fetch(self, sample_numbers: NDArray[np.int64]) -> Batch:
        """See `BatchSource`."""
        rows = [self.samples[self.place(int(number))] for number in sample_numbers]
        length = max(len(one.prompt) + len(one.answer) - 1 for one in rows)
        length = -(-length // self.multiple) * self.multiple
        tokens_BS = np.full((len(rows), length), self.end, dtype=np.int64)
        labels_BS = np.full((len(rows), length), self.end, dtype=np.int64)
        mask_BS = np.zeros((len(rows), length), dtype=np.float32)
        for row, one in enumerate(rows):
            ids = [*one.prompt, *one.answer]
            tokens_BS[row, : len(ids) - 1] = ids[:-1]
            labels_BS[row, : len(ids) - 1] = ids[1:]
            mask_BS[row, len(one.prompt) - 1 : len(ids) - 1] = 1.0
        ids_BKn, real_BKn = document_arrays([one.documents for one in rows], self.documents)
        return Batch(
            tokens_BS=tokens_BS,
            labels_BS=labels_BS,
            loss_mask_BS=mask_BS,
            neighbors_BLKR=None,
            neighbor_mask_BLKR=None,
            token_mask_BS=None,
            further={IDS: ids_BKn, REAL: real_BKn},
        )

    def place(self, number: int) -> int:
        """Which sample a number means."""
        epoch, place = divmod(number, len(self.samples))
        if epoch not in self._orders:
            self._orders = {epoch: np.random.default_rng([self.seed, epoch]).permutation(len(self.samples))}
        return int(self._orders[epoch][place])


def document_arrays(
    documents: Sequence[Sequence[Sequence[int]]], most: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """[B, K, n] tokens of each question's documents, and which are real; what is missing is not."""
    longest = max((len(ids) for of_one in documents for ids in of_one), default=0)
    ids_BKn = np.zeros((len(documents), most, max(longest, 1)), dtype=np.int64)
    real_BKn = np.zeros(ids_BKn.shape, dtype=np.bool_)
    for row, of_one in enumerate(documents):
        for place, ids in enumerate(of_one[:most]):
            ids_BKn[row, place, : len(ids)] = ids
            real_BKn[row, place, : len(ids)] = True
    return ids_BKn, real_BKn
