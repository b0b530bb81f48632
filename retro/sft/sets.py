"""The question sets of a blend: where their files are, and what is in them."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retro.common.errors import ConfigError, DataError
from retro.qa.fields import Fields
from retro.qa.prompt_texts import PromptTexts, Rule
from retro.qa.question import Question
from retro.qa.question_files import existing_file, find_question_files, read_questions
from retro.sft.config import SetConfig, SftDataConfig, expand_variables

log = logging.getLogger(__name__)

Part = Literal["train", "dev"]
PARTS: tuple[Part, ...] = ("train", "dev")


@dataclass(frozen=True, kw_only=True)
class QuestionSet:
    """One set of a blend, read."""

    config: SetConfig
    path: Path
    """Its file, or the folder of its files where there are several; places then begin with the file's name."""
    rule: Rule
    """How its questions are asked."""
    questions: tuple[Question, ...]
    without_answer: int
    """Questions left out because they have none."""

    @property
    def name(self) -> str:
        """Its name in the blend."""
        return self.config.name


def read_sets(
    config: SftDataConfig, texts: PromptTexts, part: Part, corpus_dir: Path | None, *, skip: bool | None = None
) -> list[QuestionSet]:
    """Read all sets of the blend that have files for that part.

    Args:
        config: What to tune on.
        texts: The prompt texts, which say how each set is asked.
        part: Training or validation files.
        corpus_dir: The corpus stage's directory, for sets with `from_corpus`.
        skip: Whether to leave out questions without an answer; absent: as `skip_unusable` says.

    Raises:
        ConfigError: A set's kind does not exist, or its place is not given.
        DataError: A file is missing or broken, or a question has no answer.
    """
    blend = config.resolved_blend()
    found = [(one, paths) for one in blend.sets if (paths := question_files(one, blend.data, part, corpus_dir))]
    leave_out = config.skip_unusable if skip is None else skip
    return [_read_set(one, paths, texts, part, leave_out) for one, paths in found]


def _read_set(one: SetConfig, paths: Sequence[Path], texts: PromptTexts, part: Part, skip: bool) -> QuestionSet:
    rule = texts.rule_of_set(one.name, one.kind)
    fields = Fields(answers=one.answers_field, contexts=one.contexts_field, no_answer=rule.texts.no_answer)
    reasons: Counter[str] = Counter()

    def count(reason: str, error: DataError) -> None:
        reasons[reason] += 1

    questions: list[Question] = []
    for path in paths:
        mine = read_questions(path, fields, on_bad=count if skip else None)
        questions += mine if len(paths) == 1 else [_of_file(path, question) for question in mine]
    path = paths[0] if len(paths) == 1 else paths[0].parent
    if part == "train":
        _compare_with_published(one, path, len(questions) + reasons.total())
    return QuestionSet(config=one, path=path, rule=rule, questions=tuple(questions), without_answer=reasons.total())


def _of_file(path: Path, question: Question) -> Question:
    return dataclasses.replace(question, id=f"{path.stem}/{question.id}", place=f"{path.name}, {question.place}")


def _compare_with_published(one: SetConfig, path: Path, found: int) -> None:
    if one.published is None:
        return
    least, greatest = one.published.sizes()
    if not least <= found <= greatest:
        size = f"{least:,}" if least == greatest else f"between {least:,} and {greatest:,}"
        log.warning(
            "%s: %s has %s questions; the published one had %s: another version or another selection of it",
            one.name, path, f"{found:,}", size,
        )  # fmt: skip


def question_files(one: SetConfig, data: str, part: Part, corpus_dir: Path | None) -> list[Path]:
    """The files of a set; none where validation files are wanted and the set has none.

    Raises:
        ConfigError: The set needs `data` or a corpus, and there is none.
        DataError: The file does not exist; the nearest name is given.
    """
    folder = expand_variables("data", data) if data else None
    if one.from_corpus:
        if corpus_dir is None:
            raise ConfigError(
                f"sets.{one.name}.from_corpus", True, "needs a run directory with a finished corpus stage"
            )
        return [existing_file(corpus_dir / "qa" / ("train.json" if part == "train" else "valid.json"))]
    if one.path is not None:
        path = one.path if part == "train" else one.dev
        if path is None:
            return []
        filled = expand_variables(f"sets.{one.name}.path", str(path))
        return [existing_file(folder / filled if folder else filled)]
    if folder is None:
        raise ConfigError("data", data, f"needs the folder that holds {one.name}/{one.name}_QA_train.json")
    try:
        return find_question_files(folder, one.name, part)
    except DataError:
        if part == "train" or not (folder / one.name).is_dir():
            raise
        return []
