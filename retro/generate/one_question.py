"""Questions that stand in no file: one at the terminal, or some from a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from retro.common.errors import ConfigError
from retro.generate.config import GenerateConfig, ModelPaths, setting_of
from retro.generate.engine import BatchEngine
from retro.generate.loading import prompt_texts
from retro.generate.open_model import open_model
from retro.generate.questions import Passages, find_passages
from retro.generate.request import Request
from retro.generate.request_checks import LONGER
from retro.generate.runner import QuestionRunner, build_requests, record
from retro.generate.task_prompt import warn_of_other_prompts
from retro.qa.answer_files import Answer
from retro.qa.passages import Retrieve
from retro.qa.prompt_texts import PromptTexts
from retro.qa.question import Question
from retro.qa.task import Task, load_task
from retro.training.config import ParallelConfig


def answer_one(
    config: GenerateConfig,
    layout: ParallelConfig,
    paths: ModelPaths,
    question: str,
    *,
    passages_from: str,
    say: Callable[[str], None],
) -> Answer:
    """Answer a question that is in no file.

    Args:
        config: Prompt, sampling, passages; its questions are left aside.
        layout: Processes.
        paths: Checkpoint, corpus, database and index.
        question: Its text.
        passages_from: `retriever`, searched with the question; `live`, also while the answer grows; or `none`.
        say: Called with each piece of the answer's text, as it becomes certain.

    Raises:
        ConfigError: There is no such source, the question is empty or too long, or a setting does not fit the model.
        ArtifactError: Something is missing or damaged.
    """
    asked, setting = question_of(question), setting_of(passages_from)
    config = config.model_copy(update={"settings": (setting,), "start": 0, "count": None})
    model, task = open_model(config, paths, layout), load_task(config.task)
    texts = prompt_texts(config, task)
    warn_of_other_prompts(model.config, model.info.path, texts)
    engine = model.engine
    ((request, found),) = requests_of(engine, model.config, task, texts, [asked], model.retrieve)
    completion = None
    for event in engine.stream(request):
        say(event.text)
        completion = event.completion
    return record(setting, asked, found, completion)


def question_of(text: str, number: int = 0) -> Question:
    """A question without gold answers.

    Raises:
        ConfigError: It is empty.
    """
    if not text.strip():
        raise ConfigError("question", text, "needs a text")
    return Question(id=str(number), question=text.strip(), answers=())


def requests_of(
    engine: BatchEngine,
    config: GenerateConfig,
    task: Task,
    texts: PromptTexts,
    questions: Sequence[Question],
    retrieve: Retrieve | None,
) -> list[tuple[Request, Passages]]:
    """The requests of questions, each with the passages that stand in its prompt.

    Args:
        engine: The one that is to answer.
        config: Prompt, sampling, and the one setting in which questions are asked.
        task: How they are asked.
        texts: Its prompt texts.
        questions: All of them.
        retrieve: The search, where the setting needs one.

    Raises:
        ConfigError: A question does not fit the model, even without passages.
        RetroError: The search failed.
    """
    (setting,) = config.settings
    runner = QuestionRunner(engine=engine, config=config, task=task, questions=questions, identity={}, texts=texts)
    found = find_passages(config, questions, retrieve, needed=False)[setting]
    made: list[tuple[Request, Passages]] = []
    for question, request, passages in zip(questions, build_requests(runner, setting, found), found, strict=True):
        if request is None:
            most = engine.decoder.sequence_length
            need = f"needs to fit a sequence of {most} tokens beside the prompt and the answer{LONGER}"
            raise ConfigError("question", f"{question.question[:40]}…", need)
        made.append((request, passages))
    return made
