"""Questions to requests, requests to the engine, its answers to files, some at a time.

The engine is behind its protocol, so this file knows neither checkpoints nor megatron's layers. Where a model is
spread over processes all of them run it, and the first one writes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from retro.common.errors import ConfigError
from retro.common.files import atomic_path
from retro.common.progress import Progress
from retro.generate.answer_writer import answer_path, header_path, plain_name, write_plain
from retro.generate.config import GenerateConfig, SamplingConfig, Setting
from retro.generate.engine import BatchEngine
from retro.generate.questions import Passages, slice_bounds
from retro.generate.ranks import SharedAnswerFile, on_first_rank
from retro.generate.request import Completion, GivenPassages, LiveRetrieval, Reading, Request, Sampling
from retro.generate.request_checks import LONGER
from retro.generate.task_prompt import few_shot_examples, task_chat, task_prompt
from retro.qa.answer_files import QUESTIONS, Answer, passage_record, question_lines
from retro.qa.chat_prompts import STYLE, chat_of, encode_chats
from retro.qa.prompt_texts import PromptTexts, shipped_prompts
from retro.qa.prompts import encode_prompts
from retro.qa.question import Context, Question
from retro.qa.sample_layout import PromptIds, fit_prompt, prompt_room
from retro.qa.task import Task
from retro.tokenizers.conventions import prompt_prefix
from retro.tokenizers.tokenizer import conventions_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PreparedQuestion:
    """A question as it is put to a model."""

    question: Question
    passages: Passages
    """That it was given, best first."""
    request: Request
    """The plain way to ask it: prompt, sampling, and what the encoder reads."""


class Policy(Protocol):
    """A way of decoding in place of the plain one, such as a recipe's."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What shapes its answers, as JSON values: a finished stage of another one is refused."""

    def generate(self, engine: BatchEngine, asked: Sequence[PreparedQuestion]) -> Sequence[Completion]:
        """Answer some questions, in their order."""


@dataclass(frozen=True, kw_only=True)
class QuestionRunner:
    """What all settings of a run have in common."""

    engine: BatchEngine
    config: GenerateConfig
    task: Task
    questions: Sequence[Question]
    """All of them, before slicing."""
    identity: Mapping[str, Any]
    """What else shapes the answers: fingerprints of checkpoint, database, questions."""
    texts: PromptTexts = field(default_factory=shipped_prompts)
    """The prompt texts."""
    policy: Policy | None = None
    """How they are answered; None: each request once."""
    model: str = ""
    """Size and step of the checkpoint, as names of plain files have them."""

    @property
    def slice(self) -> tuple[int, int]:
        """First question and number of questions that are answered."""
        return slice_bounds(self.config, len(self.questions))


def answer_all(runner: QuestionRunner, passages: Mapping[Setting, Sequence[Passages]], out: Path) -> dict[str, Any]:
    """Answer the config's slice of the questions in all its settings; continues where a killed run stopped.

    Args:
        runner: Engine, config and questions.
        passages: Of all questions in each setting, from `find_passages`.
        out: The stage's directory.

    Returns:
        Numbers for report.json, and under "files" the names that belong to the stage.

    Raises:
        ConfigError: The answer's length leaves no room for a prompt, or a setting does not fit the model.
        ArtifactError: `out` holds answers of other settings, or the disk is full.
    """
    on_first_rank(lambda: _write_questions(out, runner.questions))
    files, report = [QUESTIONS], dict[str, Any]()
    for setting in runner.config.settings:
        report[setting], written = _answer_setting(runner, setting, passages[setting], out)
        files += written
    return {"settings": report, "files": files}


def _write_questions(out: Path, questions: Sequence[Question]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / QUESTIONS) as temporary:
        temporary.write_text(question_lines(questions), encoding="utf-8")


def _answer_setting(
    runner: QuestionRunner, setting: Setting, passages: Sequence[Passages], out: Path
) -> tuple[dict[str, Any], list[str]]:
    """Answer the questions that a setting still lacks: its numbers, and the names of its files."""
    start, count = runner.slice
    config, questions = runner.config, runner.questions[start : start + count]
    given = passages[start : start + count]
    requests = build_requests(runner, setting, given)
    path = answer_path(out, setting, start, count, len(runner.questions))
    file = SharedAnswerFile(path, answer_header(runner, setting), [one.id for one in questions], config.batch_size)
    left, tokens, begun = count - file.done, 0, monotonic()
    with Progress(count, what=f"generate: {setting}", unit="answers", done=file.done) as bar:
        while file.done < count:
            batch = slice(file.done, file.done + config.batch_size)
            completions = _complete(runner, questions[batch], given[batch], requests[batch])
            whole = zip(questions[batch], given[batch], completions, strict=True)
            file.append([record(setting, *one) for one in whole])
            tokens += sum(len(one.tokens) for one in completions if one is not None)
            bar.advance(len(completions))
    skipped = sum(request is None for request in requests)
    if skipped:
        log.warning(
            "generate: %s: %d of %d questions do not fit a sequence of %d tokens%s beside prompt and answer: not asked",
            *(setting, skipped, count, runner.engine.decoder.sequence_length, LONGER),
        )
    numbers = {
        "questions": count,
        "skipped_question_too_long": skipped,
        "answered_now": left,
        "tokens_now": tokens,
        "seconds": round(monotonic() - begun, 3),
    }
    return numbers, [path.name, header_path(path).name, *_plain(runner, setting, path)]


def _plain(runner: QuestionRunner, setting: Setting, path: Path) -> list[str]:
    """Write the file of the original tools, where it is asked for: its name."""
    if not runner.config.plain_output:
        return []
    bounds = runner.slice
    target = path.parent / plain_name(runner.config, runner.task.name, runner.model, setting, bounds)
    on_first_rank(lambda: write_plain(path, target))
    return [target.name]


def _complete(
    runner: QuestionRunner,
    questions: Sequence[Question],
    passages: Sequence[Passages],
    requests: Sequence[Request | None],
) -> list[Completion | None]:
    """Answer what can be asked, all at once."""
    fitting = [request for request in requests if request is not None]
    if runner.policy is None:
        completions: Sequence[Completion] = runner.engine.generate(fitting)
    else:
        whole = zip(questions, passages, requests, strict=True)
        asked = [
            PreparedQuestion(question=one, passages=read, request=put) for one, read, put in whole if put is not None
        ]
        completions = runner.policy.generate(runner.engine, asked)
    if len(completions) != len(fitting):
        raise ValueError(f"{len(fitting)} questions were asked and {len(completions)} answered")
    found = iter(completions)
    return [None if request is None else next(found) for request in requests]


def build_requests(runner: QuestionRunner, setting: Setting, passages: Sequence[Passages]) -> list[Request | None]:
    """The requests of the questions of the slice; None where a question does not fit, even without passages.

    Args:
        runner: Engine, config and questions.
        setting: What is read.
        passages: Of each question of the slice.

    Raises:
        ConfigError: The answer's length leaves no room for a prompt.
    """
    config, decoder = runner.config, runner.engine.decoder
    longest = config.max_new_tokens or runner.task.max_new_tokens
    length = decoder.sequence_length
    room = prompt_room(length, decoder.chunk_length if config.encoder else 1, longest)
    if room == 0:
        need = f"needs to leave a prompt of {decoder.chunk_length} tokens in a sequence of {length}{LONGER}"
        raise ConfigError("generate.max_new_tokens", longest, need)
    start, count = runner.slice
    questions = runner.questions[start : start + count]
    requests: list[Request | None] = []
    for place, ids in enumerate(_prompts(runner, questions, passages)):
        fitted = fit_prompt(ids, room)
        reading = reading_of(config, setting, questions[place], passages[place])
        sampling = sampling_of(config.sampling, runner.task, longest, seed=question_seed(config.seed, start + place))
        requests.append(None if fitted is None else Request(prompt=fitted[0], sampling=sampling, reading=reading))
    return requests


def _prompts(runner: QuestionRunner, questions: Sequence[Question], passages: Sequence[Passages]) -> list[PromptIds]:
    config, tokenizer = runner.config, runner.engine.tokenizer
    ways: dict[str, Any] = {
        "contexts_in_prompt": config.contexts_in_prompt,
        "examples": few_shot_examples(runner.task),
        "texts": runner.texts,
        "template": config.template,
        "order": config.passage_order,
    }
    pairs = list(zip(questions, passages, strict=True))
    if config.style == STYLE:
        chat = chat_of(tokenizer, "generate.style")
        ways["takes_system"] = chat.takes_system
        return encode_chats([task_chat(*pair, runner.task, **ways) for pair in pairs], chat)
    prefix = prompt_prefix(conventions_of(tokenizer), config.add_special_tokens, "generate.add_special_tokens")
    prompts = [task_prompt(*pair, runner.task, style=config.style, **ways) for pair in pairs]
    return encode_prompts(prompts, tokenizer, prefix)


def reading_of(config: GenerateConfig, setting: Setting, question: Question, passages: Passages) -> Reading:
    """What the encoder reads for a question, of its passages."""
    if not config.encoder or setting == "closed_book":
        return None
    if setting == "live_retrieval":
        return LiveRetrieval(passages=config.passages, interval=config.retrieval_interval, question=question.question)
    return GivenPassages(passages=tuple(passages[: config.passages]))


def sampling_of(config: SamplingConfig, task: Task, max_new_tokens: int, *, seed: int) -> Sampling:
    """How the tokens of one answer are chosen; the task's stop texts go before the config's own."""
    return Sampling(
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        repetition_penalty=config.repetition_penalty,
        min_new_tokens=config.min_new_tokens,
        max_new_tokens=max_new_tokens,
        stop=tuple(dict.fromkeys((*task.stop, *config.stop))),
        seed=seed,
    )


def question_seed(seed: int, number: int) -> int:
    """A stream of random numbers for each question.

    Args:
        seed: The run's.
        number: The question's place among all, not in its slice or batch.
    """
    return (seed << 32) + number


def passages_read(shown: Passages, completion: Completion | None) -> tuple[Context, ...]:
    """The passages that were read: in the prompt, then by the encoder, each once."""
    retrieved = () if completion is None else completion.retrieved
    read = [*shown, *(passage for one in retrieved for passage in one.passages)]
    return tuple(dict.fromkeys(map(passage_record, read)))


def record(setting: Setting, question: Question, shown: Passages, completion: Completion | None) -> Answer:
    """An answer with the passages that were read."""
    return Answer(
        id=question.id,
        question=question.question,
        answers=question.answers,
        prediction="" if completion is None else completion.text.strip(),
        passages=passages_read(shown, completion),
        setting=setting,
        skipped="question_too_long" if completion is None else "",
        ended="" if completion is None else completion.ended,
        details={} if completion is None else completion.details,
    )


# What a header leaves out: which answers are wanted, where questions and prompt texts are (their fingerprints are in),
# and a mere check.
_SHAPES_NOTHING = {"name", "size", "settings", "start", "count", "questions", "data", "prompts", "plain_output"}


def answer_header(runner: QuestionRunner, setting: Setting) -> dict[str, Any]:
    """What shapes the answers of one file: settings, task, checkpoint, questions."""
    data: dict[str, Any] = runner.config.model_dump(mode="json", exclude=_SHAPES_NOTHING)
    start, count = runner.slice
    return data | {
        "setting": setting,
        "task_version": runner.task.version,
        "prompts_version": runner.texts.version,
        "metrics": list(runner.task.metrics),
        "task_record": runner.task.record(),
        "identity": dict(runner.identity),
        "start": start,
        "count": count,
    }
