"""The step `confidence`: how likely the model finds each candidate and its own answer.

Candidates are scored as continuations of the very prompts that were answered (`BatchEngine.score`), in nats: `sum`
over the tokens of an answer, and `mean` per token. Blocks of scores are kept as they come; a step that was stopped
continues.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.common.artifacts import fingerprint
from retro.common.files import atomic_path
from retro.common.progress import Progress
from retro.common.response_cache import ResponseCache
from retro.generate.config import GenerateConfig
from retro.generate.loading import prompt_texts
from retro.generate.open_model import OpenModel, open_model
from retro.generate.questions import find_passages, load_questions
from retro.generate.request import Request
from retro.generate.runner import QuestionRunner, build_requests
from retro.generate.scoring import Score, Scored
from retro.qa.answer_files import Answer
from retro.qa.chat_prompts import STYLE as CHAT
from retro.qa.prompts import answer_text
from retro.qa.task import load_task
from retro.recipes.base import Made, StepRun
from retro.recipes.knowledge_conflict.answering import (
    PARTS,
    Part,
    generate_config,
    items_of,
    paths_of,
    predictions_of,
    question_id,
)
from retro.recipes.knowledge_conflict.items import CLOSED_BOOK, ConflictItem, in_order
from retro.training import checkpoint as checkpoints

log = logging.getLogger(__name__)

CONFIDENCE, KEPT = "confidence.jsonl", "scored.jsonl"
_REMEDY = "Delete the file, or run the step with --redo: what it lacks is scored again"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An answer to be scored under a condition."""

    item: str
    condition: str
    role: str
    """`original`, `counter`, `gold`, or `answer`: the model's own there."""
    text: str
    scored: Scored | None
    """None: the question was not asked, or the answer does not fit a sequence."""


def run(work: StepRun) -> Made:
    """Score all candidates.

    Raises:
        RetroError: The model cannot be opened, or what was kept is another model's.
    """
    items, answers = items_of(work), predictions_of(work.made_by("answers"))
    configs = {part: generate_config(work, work.made_by("answers"), part, items) for part in PARTS}
    model = open_model(configs["with_passages"], paths_of(work), work.config.parallel)
    found: list[Candidate] = []
    for part, config in configs.items():
        # Of the model's settings only the questions differ.
        requests = _requests(model, config.model_copy(update={"encoder": model.config.encoder}), part)
        found += _candidates(items, answers, requests, model, part)
    lines = _lines(items, found, _scores(found, model, work.directory))
    with atomic_path(work.directory / CONFIDENCE) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    unfit = sum(one.scored is None for one in found)
    return Made(files=[CONFIDENCE], counts={"scored": len(found) - unfit, "did_not_fit": unfit})


def _requests(model: OpenModel, config: GenerateConfig, part: Part) -> dict[str, Request | None]:
    """The prompts that were answered, by the question's id."""
    task = load_task(config.task)
    questions = load_questions(config, None)
    runner = QuestionRunner(
        engine=model.engine, config=config, task=task, questions=questions, identity={},
        texts=prompt_texts(config, task),
    )  # fmt: skip
    passages = find_passages(config, questions, None)[part]
    requests = build_requests(runner, part, passages)
    return {one.id: request for one, request in zip(questions, requests, strict=True)}


def _candidates(
    items: Sequence[ConflictItem],
    answers: dict[str, dict[str, Answer]],
    requests: dict[str, Request | None],
    model: OpenModel,
    part: Part,
) -> Iterator[Candidate]:
    for item in items:
        for name in (CLOSED_BOOK,) if part == "closed_book" else in_order(item.conditions):
            request = requests[item.id if name == CLOSED_BOOK else question_id(item.id, name)]
            for role, text in _texts(item, answers[item.id][name]).items():
                scored = None if request is None else _fitted(request, text, model)
                yield Candidate(item=item.id, condition=name, role=role, text=text, scored=scored)


def _texts(item: ConflictItem, answer: Answer) -> dict[str, str]:
    """What is scored, without what there is not."""
    firsts = {"gold": item.answers[:1], "original": item.original[:1], "counter": item.counter[:1]}
    return {role: found[0] for role, found in firsts.items() if found} | (
        {"answer": answer.prediction} if answer.prediction else {}
    )


def _fitted(request: Request, text: str, model: OpenModel) -> Scored | None:
    written = text if model.config.style == CHAT else answer_text(text)
    tokens = model.tokenizer.encode(written)
    if not tokens or len(request.prompt) + len(tokens) > model.decoder.sequence_length + 1:
        return None
    return Scored(prompt=request.prompt, continuation=tokens, reading=request.reading)


def _scores(found: Sequence[Candidate], model: OpenModel, folder: Path) -> list[Score | None]:
    """In the order of the candidates; equal blocks of them are asked once, whenever."""
    header = {"checkpoint": checkpoints.identity(model.info.path), "precision": model.config.precision}
    kept = ResponseCache(folder / KEPT, header, _REMEDY)
    asked = [one.scored for one in found if one.scored is not None]
    # Whole blocks: the last digits of a score may depend on what is computed beside it.
    blocks = [asked[start : start + model.config.batch_size] for start in range(0, len(asked), model.config.batch_size)]
    with Progress(len(blocks), what="confidence", unit="blocks") as bar:
        for block in blocks:
            key = _key(block)
            if key not in kept:
                scores = model.engine.score(block)
                kept.add([key], [[[round(value, 6) for value in one.logprobs] for one in scores]])
            bar.advance(1)
    logprobs = iter([values for block in blocks for values in kept[_key(block)]])
    return [None if one.scored is None else _score(next(logprobs)) for one in found]


def _key(block: Sequence[Scored]) -> str:
    return fingerprint([[list(one.prompt), list(one.continuation), repr(one.reading)] for one in block])


def _score(logprobs: Sequence[float]) -> Score:
    return Score(logprob=sum(logprobs), greedy=False, logprobs=tuple(logprobs))


def _lines(items: Sequence[ConflictItem], found: Sequence[Candidate], scores: Sequence[Score | None]) -> Iterator[str]:
    records: dict[str, dict[str, dict[str, Any]]] = {one.id: {} for one in items}
    for one, score in zip(found, scores, strict=True):
        records[one.item].setdefault(one.condition, {})[one.role] = {"text": one.text} | _record(score)
    for item in items:
        conditions = {name: records[item.id][name] for name in in_order(records[item.id])}
        yield json.dumps({"id": item.id, "conditions": conditions}, ensure_ascii=False) + "\n"


def _record(score: Score | None) -> dict[str, Any]:
    if score is None:
        return {"sum": None, "mean": None, "tokens": None}
    count = len(score.logprobs)
    return {"sum": round(score.logprob, 6), "mean": round(score.logprob / count, 6), "tokens": count}
