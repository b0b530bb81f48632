"""The prompt of a task: its instruction, its examples, then the question."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from retro.common.artifacts import fingerprint
from retro.common.errors import DataError
from retro.common.files import read_json
from retro.generate.config import GenerateConfig
from retro.qa.chat_prompts import Chat, build_chat
from retro.qa.layouts import read_task_questions
from retro.qa.prompt_texts import PromptTexts, Rule, shipped_prompts
from retro.qa.prompts import Prompt, Style, answer_text, build_prompt, require_template
from retro.qa.question import Context, PassageLike, PassageOrder, Question
from retro.qa.task import Example, Task


def few_shot_examples(task: Task) -> list[Question]:
    """The examples that a task shows, each with its answer first among its answers.

    Raises:
        DataError: Its file is missing or broken, holds fewer than it shows, or one has no answer.
    """
    few = task.few_shot
    if few.count == 0:
        return []
    if few.file is None:
        return [_as_question(number, one) for number, one in enumerate(few.examples[: few.count])]
    found = read_task_questions(few.file, task)
    if len(found) < few.count:
        problem = f"holds {len(found)} examples, task {task.name!r} shows {few.count}"
        raise DataError(few.file, problem, "Lower few_shot.count, or add examples")
    unanswered = next((one.place for one in found[: few.count] if not one.answers), None)
    if unanswered is not None:
        raise DataError(few.file, f"{unanswered} has no answer", "Give every example the answer that is shown")
    return found[: few.count]


def _as_question(number: int, example: Example) -> Question:
    contexts = tuple(Context("", text) for text in example.contexts)
    return Question(
        id=str(number),
        question=example.question,
        answers=(example.answer,),
        contexts=contexts,
        options=example.options,
    )


def task_identity(task: Task) -> str:
    """A name for all of a task that shapes answers and scores, the examples of its file among it."""
    shown = few_shot_examples(task)
    texts = [[one.question, *one.answers, *(context.text for context in one.contexts)] for one in shown]
    return fingerprint([task.record(), texts])


def rule_of_task(task: Task, texts: PromptTexts) -> Rule:
    """How a task's questions are asked: as the set of its name is while tuning, if that has the task's kind."""
    known = texts.known_set(task.name)
    rule = texts.rule_of_set(task.name) if known and known.kind == task.kind else texts.rule_of_kind(task.kind)
    if task.instruction is None:
        return rule
    return Rule(kind=rule.kind, texts=rule.texts.model_copy(update={"instruction": task.instruction}))


def task_chat(
    question: Question,
    passages: Sequence[PassageLike],
    task: Task,
    *,
    contexts_in_prompt: int,
    examples: Sequence[Question],
    takes_system: bool,
    texts: PromptTexts | None = None,
    template: str = "",
    order: PassageOrder = "best_first",
) -> Chat:
    """The conversation of one question, with the task's examples as turns of their own; arguments as `task_prompt`.

    Raises:
        ConfigError: The task names a template that there is not.
    """
    known = texts or shipped_prompts()
    require_template(f"{task.name}.template", task.template, known)
    return build_chat(
        question,
        passages,
        rule=rule_of_task(task, known),
        contexts_in_prompt=contexts_in_prompt,
        takes_system=takes_system,
        texts=known,
        template=template or task.template,
        examples=examples,
        example_contexts=task.few_shot.contexts,
        order=order,
    )


def task_prompt(
    question: Question,
    passages: Sequence[PassageLike],
    task: Task,
    *,
    style: Style,
    contexts_in_prompt: int,
    examples: Sequence[Question],
    texts: PromptTexts | None = None,
    template: str = "",
    order: PassageOrder = "best_first",
) -> Prompt:
    """The prompt of one question.

    Examples stand between preamble and passages, and belong to the head: where a prompt is too long, passages are cut,
    and never an example.

    Args:
        question: With its options, if it has any.
        passages: Candidates for the prompt, best first.
        task: Its kind, and how many passages are shown with each example.
        style: `instructretro` or `plain`.
        contexts_in_prompt: How many passages to show at most.
        examples: From `few_shot_examples`.
        texts: The prompt texts; absent: the shipped ones.
        template: One of their templates, in place of the task's own; the examples are shown in it too.
        order: How passages stand.

    Raises:
        ConfigError: The task names a template that there is not.
    """
    known = texts or shipped_prompts()
    require_template(f"{task.name}.template", task.template, known)
    ways: dict[str, Any] = {"style": style, "kind": rule_of_task(task, known), "texts": known, "order": order}
    ways["template"] = template or task.template
    own = build_prompt(question, passages, contexts_in_prompt=contexts_in_prompt, **ways)
    shown = [build_prompt(one, one.contexts, contexts_in_prompt=task.few_shot.contexts, **ways) for one in examples]
    form = known.styles[style]
    preamble = form.preamble + form.separator if form.preamble else ""
    solved = [
        prompt.text.removeprefix(preamble) + answer_text(one.answers[0]) + form.separator
        for one, prompt in zip(examples, shown, strict=True)
    ]
    # A template begins the user's turn in the head: the examples stand before that. A talk whose first turn is the
    # system's has no preamble.
    rest = own.head.removeprefix(preamble)
    head = own.head[: len(own.head) - len(rest)] + "".join(solved) + rest
    return replace(own, head=head)


log = logging.getLogger(__name__)

_COMPARED = ("style", "add_special_tokens", "template", "contexts_in_prompt", "passage_order", "neighbor_text")


def warn_of_other_prompts(config: GenerateConfig, checkpoint: Path, texts: PromptTexts | None = None) -> list[str]:
    """Warn where questions are asked in another form than the model was tuned on. Other forms may be meant: they are
    no error.

    Args:
        config: How questions are asked.
        checkpoint: The model's, below the directory of its run.
        texts: The prompt texts that they are asked with; absent: the shipped ones.

    Returns:
        The differences, in words.
    """
    settings = _settings(checkpoint)
    tuned = _data_of(settings)
    asked = config.model_dump(mode="json")
    compared = [*_COMPARED, *(["encoder"] if config.encoder else [])]
    found = [
        f"generate.{name} is {asked[name]!r}, it was tuned with sft.data.{name} = {tuned[name]!r}"
        for name in compared
        if name in tuned and tuned[name] != asked[name]
    ]
    found += _other_texts(settings.get("prompts"), texts or shipped_prompts())
    for words in found:
        log.warning("%s: %s; answers may be worse than the model can", checkpoint, words)
    return found


def _other_texts(tuned: Any, texts: PromptTexts) -> list[str]:
    asked = texts.identity
    if not isinstance(tuned, dict) or tuned == asked:
        return []
    names = [f"{one.get('name')!r} version {one.get('version')} ({one.get('fingerprint')})" for one in (asked, tuned)]
    return [f"the prompt texts are {names[0]}, it was tuned with {names[1]}"]


def _settings(checkpoint: Path) -> dict[str, Any]:
    """The settings of the tuning; nothing for a model that was not tuned here."""
    path = checkpoint.parent.parent / "config.json"
    if not path.exists():
        return {}
    settings = read_json(path, f"Delete {path}; it only says how the model was tuned")
    return settings if isinstance(settings, dict) else {}


def _data_of(settings: dict[str, Any]) -> dict[str, Any]:
    data = (settings.get("sft") or {}).get("data")
    return data if isinstance(data, dict) else {}
