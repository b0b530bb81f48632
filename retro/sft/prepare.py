"""From settings to a BatchSource: find the files, read the questions, find passages, encode, blend."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retro.common.errors import DataError
from retro.qa.chat_prompts import STYLE, Chat, build_chat, chat_of, encode_chats
from retro.qa.passages import Encoder, NeighborTokens, Retrieve, neighbor_tokens, passages_of
from retro.qa.prompt_texts import PromptTexts, load_prompts
from retro.qa.prompts import answer_text, build_prompt, encode_prompts, require_template
from retro.qa.question import PassageLike, Question
from retro.qa.sample_layout import AnswerIds, EncodedSample, PromptIds, Skip, encode_sample, prompt_room
from retro.qa.segments import encode_segments
from retro.sft.answer_chunks import Passages, passages_of_answers, rows_of_answers
from retro.sft.blend import Blend, SetShare, mixture_record, shares
from retro.sft.config import SftDataConfig
from retro.sft.sets import Part, QuestionSet, read_sets
from retro.sft.source import EncodedSet, SftSource
from retro.tokenizers.conventions import prompt_prefix
from retro.tokenizers.tokenizer import conventions_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes that the checkpoint fixed."""

    sequence_length: int
    """S, input tokens of a training sequence."""
    chunk_length: int
    """M."""
    passages: int
    """K, passages the encoder reads for each question."""
    retrieved_length: int
    """R, tokens of a passage."""


@dataclass(frozen=True, kw_only=True)
class SetReport:
    """What became of one question set."""

    name: str
    file: str
    questions: int
    samples: int
    skipped: dict[str, int]
    """Questions that were left out, by reason."""
    kind: str
    """How they are asked."""
    without_passages: int
    """Samples whose encoder has nothing to read."""
    answer_chunks: int
    """Finished chunks of answers that have passages of their own to read."""
    lost_context_tokens: int
    """Prompt tokens of passages that were cut."""
    weight: float


@dataclass(frozen=True)
class Prepared:
    """A source and what went into it."""

    source: SftSource
    name: str
    reports: tuple[SetReport, ...]

    def shares(self, sequences: int) -> list[SetShare]:
        """What the first `sequences` sequences take from each set."""
        numbers_N = self.source.samples_in(sequences)
        return shares(self.source.blend, [one.samples for one in self.source.sets], numbers_N)

    def report(self, sequences: int) -> dict[str, Any]:
        """Numbers for report.json: the sets, and the mixture that the first `sequences` sequences achieved."""
        mixture = mixture_record([one.name for one in self.reports], self.shares(sequences))
        filled = self.source.filled(sequences)
        packing = {} if filled is None else {"packing": asdict(filled) | {"efficiency": filled.efficiency}}
        return {"blend": self.name, "sets": [asdict(one) for one in self.reports], "mixture": mixture} | packing


def prepare(
    config: SftDataConfig,
    part: Part,
    tokenizer: Encoder,
    shape: Shape,
    *,
    corpus_dir: Path | None = None,
    retrieve: Retrieve | None = None,
) -> Prepared | None:
    """Build the source of training (`train`) or validation (`dev`) samples.

    Args:
        config: What to tune on.
        part: Which files of each set.
        tokenizer: The checkpoint's.
        shape: The checkpoint's sizes.
        corpus_dir: The corpus stage's directory, for sets with `from_corpus`.
        retrieve: Texts to passages, for `passages_from=retriever` and `live`.

    Returns:
        The source, or None when `part` is `dev` and no set has a validation file.

    Raises:
        DataError: A file is missing or broken, or no question of a set fits the sequence.
    """
    texts = load_prompts(config.prompts)
    require_template("sft.data.template", config.template, texts)
    found = read_sets(config, texts, part, corpus_dir)
    if not found:
        return None
    built = [_encode_set(config, texts, one, tokenizer, shape, retrieve) for one in found]
    sets, reports = [one for one, _ in built], tuple(report for _, report in built)
    mixture = Blend([len(one.samples) for one in sets], [one.config.weight for one in found], config.seed)
    source = SftSource(
        sets,
        mixture,
        end=tokenizer.eod,
        sequence_length=shape.sequence_length,
        chunk_length=shape.chunk_length,
        packing=config.packing and part == "train",
    )
    return Prepared(source, config.resolved_blend().name, reports)


def _encode_set(
    config: SftDataConfig,
    texts: PromptTexts,
    one: QuestionSet,
    tokenizer: Encoder,
    shape: Shape,
    retrieve: Retrieve | None,
) -> tuple[EncodedSet, SetReport]:
    questions = one.questions
    passages = _passages(config, one, retrieve)
    outcomes = _encode_samples(config, texts, one, passages, tokenizer, shape)
    kept = [number for number, sample in enumerate(outcomes) if isinstance(sample, EncodedSample)]
    samples = [sample for sample in outcomes if isinstance(sample, EncodedSample)]
    skipped: Counter[str] = Counter(reason for reason in outcomes if isinstance(reason, str))
    if one.without_answer:
        skipped["no_answer"] = one.without_answer
    if not samples:
        raise DataError(
            one.path,
            f"none of its {len(questions)} questions fits {shape.sequence_length} tokens ({dict(skipped)})",
            "Use style=plain, or a model with longer sequences",
        )
    read = [passages[number] for number in kept]
    asked = [questions[number] for number in kept]
    found = _answer_passages(config, one, asked, samples, tokenizer, shape, retrieve)
    report = SetReport(
        name=one.name,
        file=one.path.name,
        questions=len(questions) + one.without_answer,
        samples=len(samples),
        skipped=dict(skipped),
        kind=one.rule.kind,
        without_passages=sum(not mine for mine in read),
        answer_chunks=sum(bool(passages) for mine in found for passages in mine or ()),
        lost_context_tokens=sum(sample.lost_context for sample in samples),
        weight=one.config.weight,
    )
    if config.encoder and not any(read):
        log.warning(
            "sft: %s: no question has a passage, so the encoder learns nothing; passages_from=retriever", one.name
        )
    for reason, count in skipped.items():
        log.warning("sft: %s: %d of %d questions left out: %s", one.name, count, report.questions, reason)
    of_chunks, answer_rows = rows_of_answers(found)
    return EncodedSet(one.name, samples, _neighbors(config, [*read, *of_chunks], tokenizer, shape), answer_rows), report


def _passages(config: SftDataConfig, one: QuestionSet, retrieve: Retrieve | None) -> list[tuple[PassageLike, ...]]:
    if not config.encoder and config.contexts_in_prompt == 0:
        return [() for _ in one.questions]
    return passages_of(one.questions, config.passages_from, retrieve, what=f"sft: {one.name}")


def _answer_passages(
    config: SftDataConfig,
    one: QuestionSet,
    questions: Sequence[Question],
    samples: Sequence[EncodedSample],
    tokenizer: Encoder,
    shape: Shape,
    retrieve: Retrieve | None,
) -> list[list[Passages] | None]:
    if not config.encoder:
        return [None] * len(samples)
    source, what = config.passages_from, f"sft: {one.name}"
    chunk = shape.chunk_length
    return passages_of_answers(questions, samples, source, retrieve, tokenizer, chunk_length=chunk, what=what)


def _neighbors(
    config: SftDataConfig, passages: Sequence[Sequence[PassageLike]], tokenizer: Encoder, shape: Shape
) -> NeighborTokens | None:
    if not config.encoder:
        return None
    return neighbor_tokens(
        passages,
        tokenizer,
        passages_per_question=shape.passages,
        retrieved_length=shape.retrieved_length,
        form=config.neighbor_text,
    )


def _encode_samples(
    config: SftDataConfig,
    texts: PromptTexts,
    one: QuestionSet,
    passages: Sequence[Sequence[PassageLike]],
    tokenizer: Encoder,
    shape: Shape,
) -> list[EncodedSample | Skip]:
    prompts, answers = sample_ids(config, texts, one, passages, tokenizer)
    chunk = shape.chunk_length if config.encoder else 1
    outcomes = [
        encode_sample(prompt, answer, sequence_length=shape.sequence_length, chunk_length=chunk)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    if not config.skip_unusable:
        _refuse_what_does_not_fit(
            one, outcomes, prompts, [answer.ids for answer in answers], shape.sequence_length, chunk
        )
    return outcomes


def _refuse_what_does_not_fit(
    one: QuestionSet,
    outcomes: Sequence[EncodedSample | Skip],
    prompts: Sequence[PromptIds],
    answers: Sequence[Sequence[int]],
    sequence_length: int,
    chunk: int,
) -> None:
    bad = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, str)]
    if not bad:
        return
    first = bad[0]
    asked, said = len(prompts[first].head) + len(prompts[first].tail), len(answers[first])
    if outcomes[first] == "question_too_long":
        room = prompt_room(sequence_length, chunk, 1)
        problem = f"its prompt takes {asked} tokens without passages, and {room} fit"
    else:
        room = prompt_room(sequence_length, chunk, said)
        problem = f"its answer of {said} tokens leaves {room} of {sequence_length} to a prompt of {asked}"
    raise DataError(
        one.path,
        f"{one.questions[first].place}: {problem} ({len(bad)} of {len(one.questions)} questions do not fit)",
        "See `retro sft stats`; shorten them, tune with longer sequences, or leave them out with "
        "sft.data.skip_unusable=true, which counts them",
    )


def sample_ids(
    config: SftDataConfig,
    texts: PromptTexts,
    one: QuestionSet,
    passages: Sequence[Sequence[PassageLike]],
    tokenizer: Encoder,
) -> tuple[list[PromptIds], list[AnswerIds]]:
    """The prompt of each question of a set, with as many passages as the settings show, and the answer that it teaches.

    All gold answers count in evaluation; one sequence can teach only one, and the first is the canonical one.
    """
    pairs = list(zip(one.questions, passages, strict=True))
    golds = [question.answers[0] for question in one.questions]
    if config.style == STYLE:
        template = chat_of(tokenizer, "sft.data.style")
        chats = [_chat(config, texts, one, *pair, takes_system=template.takes_system) for pair in pairs]
        written = [template.answer(chat.messages, gold) for chat, gold in zip(chats, golds, strict=True)]
        answers = [AnswerIds(ids, end) for ids, end in written]
        return _with_segments(config, one, encode_chats(chats, template), answers, tokenizer)
    prompts = [
        build_prompt(
            question,
            mine,
            style=config.style,
            kind=one.rule,
            contexts_in_prompt=config.contexts_in_prompt,
            texts=texts,
            template=config.template,
            order=config.passage_order,
        )
        for question, mine in pairs
    ]
    prefix = _prefix(config, tokenizer)
    encoded = tokenizer.encode_batch([answer_text(gold) for gold in golds])
    answers = [AnswerIds(ids, tokenizer.eod) for ids in encoded]
    return _with_segments(config, one, encode_prompts(prompts, tokenizer, prefix), answers, tokenizer)


def _prefix(config: SftDataConfig, tokenizer: Encoder) -> tuple[int, ...]:
    return prompt_prefix(conventions_of(tokenizer), config.add_special_tokens, "sft.data.add_special_tokens")


def _with_segments(
    config: SftDataConfig, one: QuestionSet, prompts: list[PromptIds], answers: list[AnswerIds], tokenizer: Encoder
) -> tuple[list[PromptIds], list[AnswerIds]]:
    """Prompts and answers, those of questions that bring segments in place of the first gold answer.

    Raises:
        DataError: The segments are a whole sample, and have no token that is learned.
    """
    for place, question in enumerate(one.questions):
        if not question.segments:
            continue
        ids, learned = encode_segments(question.segments, tokenizer)
        if not question.segments_only:
            answers[place] = AnswerIds(ids, answers[place].end, learned)
            continue
        if not any(learned):
            problem = f"{question.place} has segments that are learned, and they have no token with this tokenizer"
            raise DataError(one.path, problem, "Leave it out: it teaches nothing")
        first = learned.index(True)
        prompts[place] = PromptIds([*_prefix(config, tokenizer), *ids[:first]], (), ())
        answers[place] = AnswerIds(ids[first:], None, learned[first:])
    return prompts, answers


def _chat(
    config: SftDataConfig,
    texts: PromptTexts,
    one: QuestionSet,
    question: Question,
    passages: Sequence[PassageLike],
    *,
    takes_system: bool,
) -> Chat:
    return build_chat(
        question,
        passages,
        rule=one.rule,
        contexts_in_prompt=config.contexts_in_prompt,
        takes_system=takes_system,
        texts=texts,
        template=config.template,
        order=config.passage_order,
    )
