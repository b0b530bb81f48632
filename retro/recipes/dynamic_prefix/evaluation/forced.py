"""The frozen model reads given answers with documents and without: what `hallucination.measure` needs.

Both the gold answer (teacher forcing, as in training) and the answer that the model wrote itself are read, in each mode
of answering that has documents, and without any.
"""

# Dims in this file.
#   B answers of a batch   S tokens of a sequence   A tokens of the longest answer   V vocabulary
#   K documents of a question   n tokens of a document

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from retro.common.progress import Progress
from retro.mcore.cpu import device
from retro.model.weight_names import ADDED_MODULE, is_added_module
from retro.qa.question import Question
from retro.recipes.base import StepRun
from retro.recipes.dynamic_prefix.answering.policy import documents_before, documents_read
from retro.recipes.dynamic_prefix.config import DynamicPrefixConfig
from retro.recipes.dynamic_prefix.evaluation.hallucination import AnswerMeasures, measure
from retro.recipes.dynamic_prefix.training.encoder import KNOWLEDGE
from retro.recipes.dynamic_prefix.training.encoder_files import EncoderTokenizer
from retro.recipes.dynamic_prefix.training.loading import load_prefix_model, prefix_checkpoint
from retro.recipes.dynamic_prefix.training.parts import prefix_inputs
from retro.recipes.dynamic_prefix.training.samples import Sample, document_arrays, encode_samples
from retro.recipes.item_files import write_items
from retro.tokenizers.tokenizer import Tokenizer
from retro.training import checkpoint
from retro.training.model_tokenizer import model_tokenizer

PREFIX, PROMPT = "prefix", "prompt"
"""The modes of answering that read documents."""


@dataclass(frozen=True, kw_only=True)
class GivenAnswer:
    """An answer that is read, not written."""

    id: str
    """Of the question."""
    given: str
    """`gold` or `written`."""
    sample: Sample
    """Prompt, answer with its end token, and the tokens of the documents."""
    prompt: tuple[int, ...] | None = None
    """The prompt with documents as text, for the mode `prompt`; None: documents are a prefix."""


@dataclass(frozen=True, kw_only=True)
class ForcedModel:
    """A model with its prefix, ready to read."""

    model: Any
    """A `RetroModel` in evaluation mode, with encoder and prefix beside it."""
    vocabulary: int
    """Tokens of its tokenizer: padding rows of the embedding are no tokens."""
    end: int
    """A token for padding."""
    documents: int
    """K."""

    def measure(self, answers: Sequence[GivenAnswer]) -> list[AnswerMeasures]:
        """All measures of a batch of answers."""
        with torch.inference_mode():
            given_BAV, tokens_BA, real_BA = self.logits(answers, documents=True)
            bare_BAV, _, _ = self.logits(answers, documents=False)
            return measure(given_BAV, bare_BAV, tokens_BA, real_BA)

    def logits(self, answers: Sequence[GivenAnswer], *, documents: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The distributions that the tokens of answers are drawn from.

        Args:
            answers: [B] some.
            documents: Whether they are read.

        Returns:
            [B, A, V] logits, [B, A] the tokens, and which of them are real.
        """
        prompts = [one.prompt if documents and one.prompt is not None else one.sample.prompt for one in answers]
        rows = [[*prompt, *one.sample.answer] for prompt, one in zip(prompts, answers, strict=True)]
        tokens_BS = padded([row[:-1] for row in rows], self.end)
        as_prefix = documents and all(one.prompt is None for one in answers)
        prefix = None
        if as_prefix:
            ids_BKn, real_BKn = document_arrays([one.sample.documents for one in answers], self.documents)
            places = (torch.from_numpy(ids_BKn).to(device()), torch.from_numpy(real_BKn).to(device()))
            prefix = prefix_inputs(self.model, *places)
        logits_BSV = self.model(tokens_BS, prefix=prefix, gather_logits=True)
        lengths = [len(one.sample.answer) for one in answers]
        most = max(lengths)
        kept = [
            logits_BSV[row, len(prompt) - 1 : len(prompt) - 1 + length, : self.vocabulary]
            for row, (prompt, length) in enumerate(zip(prompts, lengths, strict=True))
        ]
        logits_BAV = torch.stack([functional.pad(one, (0, 0, 0, most - len(one))) for one in kept])
        lengths_B1 = torch.tensor(lengths, device=logits_BAV.device)[:, None]
        return (
            logits_BAV,
            padded([one.sample.answer for one in answers], self.end),
            torch.arange(most, device=logits_BAV.device) < lengths_B1,
        )


def padded(rows: Sequence[Sequence[int]], end: int) -> Tensor:
    """[B, longest] rows of tokens, padded on the right."""
    most = max(map(len, rows))
    return torch.tensor([[*row, *([end] * (most - len(row)))] for row in rows], device=device())


def measure_all(
    model: ForcedModel, answers: Sequence[GivenAnswer], batch_size: int, unit: str
) -> list[tuple[GivenAnswer, AnswerMeasures]]:
    """Measures of answers, those of similar length together, in their order.

    Args:
        model: Reads them.
        answers: Any number.
        batch_size: In one pass.
        unit: What they are, for the progress line.
    """
    order = sorted(range(len(answers)), key=lambda place: len(answers[place].prompt or answers[place].sample.prompt))
    found: dict[int, AnswerMeasures] = {}
    with Progress(len(answers), what="dynamic_prefix", unit=unit) as bar:
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            found |= dict(zip(places, model.measure([answers[place] for place in places]), strict=True))
            bar.advance(len(places))
    return [(one, found[place]) for place, one in enumerate(answers)]


def write_measures(path: Path, measured: Mapping[str, Sequence[tuple[GivenAnswer, AnswerMeasures]]]) -> None:
    """Write a line for each given answer: its mode, its question, and the measures."""
    write_items(
        path,
        (
            {"mode": mode, "id": one.id, "given": one.given, **asdict(found)}
            for mode, pairs in measured.items()
            for one, found in pairs
        ),
    )


@dataclass(frozen=True)
class WrittenAnswer:
    """What the model wrote."""

    text: str
    whole: bool
    """Whether it ended it, in place of being cut: then its end is read too."""


def gold_and_written(
    questions: Sequence[Question], said: Mapping[str, WrittenAnswer]
) -> list[tuple[Question, str, bool]]:
    """Questions whose first answer is to be read: the gold one of each, then what was written, where that is a text.

    Args:
        questions: With gold answers, where they have any.
        said: What was written, by the question's id.

    Returns:
        A question, whether its answer is `gold` or `written`, and whether its end is read.
    """
    gold = [(one, "gold", True) for one in questions if one.answers]
    known = [(one, said[one.id]) for one in questions if one.id in said]
    own = [(replace(one, answers=(mine.text,)), "written", mine.whole) for one, mine in known if mine.text.strip()]
    return [*gold, *own]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """What puts questions to the model."""

    settings: DynamicPrefixConfig
    tokenizer: Tokenizer
    """Of the language model."""
    documents: EncoderTokenizer
    """Of the encoder."""
    length: int
    """Most tokens of prompt and answer, as the prefix was trained."""
    longest: int
    """Most tokens that the model reads, documents in its prompt among them."""

    def given(self, asked: Sequence[tuple[Question, str, bool]], mode: str) -> list[GivenAnswer]:
        """Questions and their first answers as they are read in a mode.

        Args:
            asked: Questions with documents, what each answer is, and whether its end is read.
            mode: `prefix` or `prompt`.
        """
        questions, most = [one for one, _, _ in asked], documents_read(self.settings)
        samples, _ = encode_samples(
            questions, self.tokenizer, self.documents, self.settings.train, most_documents=most, length=self.length
        )
        prompts: list[tuple[int, ...] | None] = [None] * len(samples)
        if mode == PROMPT:
            rooms = [self.longest + 1 - len(one.answer) for one in samples]
            prompts = [
                tuple(documents_before(sample.prompt, one.contexts[:most], self.tokenizer, room))
                for sample, one, room in zip(samples, questions, rooms, strict=True)
            ]
        return [
            GivenAnswer(id=one.id, given=kind, sample=sample if whole else _without_end(sample), prompt=prompt)
            for (one, kind, whole), sample, prompt in zip(asked, samples, prompts, strict=True)
        ]


def _without_end(sample: Sample) -> Sample:
    return replace(sample, answer=sample.answer[:-1] or sample.answer)


def open_model(work: StepRun) -> tuple[ForcedModel, Reader, dict[str, int]]:
    """The trained model, what puts questions to it, and how many weights are trained and frozen.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    settings = work.settings
    train = work.made_by(settings.answer.reader)
    info = checkpoint.read_info(prefix_checkpoint(train))
    loaded = load_prefix_model(train)
    tokenizer, _ = model_tokenizer(info, None)
    model = ForcedModel(
        model=loaded.model, vocabulary=tokenizer.vocab_size, end=tokenizer.eod, documents=documents_read(settings)
    )
    longest = info.shape.model.sequence_length
    reader = Reader(
        settings=settings, tokenizer=tokenizer, documents=loaded.encoder.tokenizer,
        length=settings.train.sequence_length or longest, longest=longest,
    )  # fmt: skip
    return model, reader, count_weights(loaded.model, reads_documents=settings.prefix.documents > 0)


def count_weights(model: nn.Module, *, reads_documents: bool) -> dict[str, int]:
    """How many weights are trained and frozen.

    Args:
        model: The network, with encoder and prefix beside it.
        reads_documents: Without any, the encoder is there and neither read nor trained: only its static vectors count.
    """
    found = {"trained": 0, "frozen": 0}
    for name, one in model.named_parameters():
        _, _, part = name.partition(f"{ADDED_MODULE}{KNOWLEDGE}.")
        if part and not reads_documents and not part.startswith("static"):
            continue
        found["trained" if is_added_module(name) and one.requires_grad else "frozen"] += one.numel()
    return found


def measure_modes(
    model: ForcedModel, reader: Reader, questions: Sequence[Question], said: Mapping[str, Mapping[str, WrittenAnswer]]
) -> dict[str, list[tuple[GivenAnswer, AnswerMeasures]]]:
    """Measures of the gold answers and of what was written, in each mode that reads documents.

    Args:
        model: Reads them.
        reader: Puts questions.
        questions: With documents and gold answers.
        said: Written answers, by mode and the question's id.
    """
    found = {}
    for mode in (one for one in (PREFIX, PROMPT) if one in said):
        given = reader.given(gold_and_written(questions, said[mode]), mode)
        found[mode] = measure_all(model, given, reader.settings.evaluate.batch_size, f"answers read, {mode}")
    return found
