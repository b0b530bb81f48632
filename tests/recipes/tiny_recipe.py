"""A recipe as another package would bring it, in one file: every hook of `retro.recipes.base`, at toy size.

The model learns to say whether a passage is about the question, `[Relevant]` or `[Irrelevant]`, before it answers. A
teacher says which; decoding answers once for each passage, the prompt computed once, and takes the answer whose passage
the model finds relevant.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from retro.common.config import StageConfig
from retro.common.errors import ConfigError
from retro.common.files import atomic_path
from retro.evaluate import score
from retro.generate import run as generate
from retro.generate.config import ModelPaths
from retro.generate.engine import BatchEngine
from retro.generate.request import Completion, Request
from retro.generate.runner import PreparedQuestion
from retro.qa.fields import Fields
from retro.qa.metrics.registry import metric
from retro.qa.question import Segment
from retro.qa.question_files import read_questions
from retro.qa.segments import encode_segments
from retro.recipes.base import Made, Step, StepRun
from retro.run.pipeline import database_dirs, pretrained
from retro.sft import tune
from retro.sft.config import SetConfig
from retro.teacher.config import TeacherConfig
from retro.teacher.request import TeacherRequest
from retro.tokenizers.added_tokens import token_ids

TOKENS = ("[Relevant]", "[Irrelevant]")


class TinyConfig(StageConfig):
    """Settings of the tiny recipe."""

    teacher: TeacherConfig = TeacherConfig()
    """Who labels passages."""
    bias: float = 0.0
    """Added to the log-probability of a relevant passage."""


@metric(label="Answered in one word", needs_gold=False)
def one_word(said: str, asked: Any, rules: Any) -> bool:
    """Whether an answer is one word."""
    return len(said.split()) == 1


def label(work: StepRun) -> Made:
    """The teacher labels each question's passage; samples in segments come of it."""
    path = work.config.sft.data.sets[0].path
    if path is None:
        raise ConfigError("sft.data.sets", None, "needs a path to the questions that are labelled")
    questions = read_questions(path, Fields())
    ask = [TeacherRequest(messages=({"role": "user", "content": f"Relevant? {one.question}"},)) for one in questions]
    with work.teacher(work.settings.teacher) as teacher:
        replies = [reply.text for reply in teacher.complete_all(ask)]
        report = teacher.report()
    lines = []
    for question, reply in zip(questions, replies, strict=True):
        token = TOKENS[0] if reply == "yes" else TOKENS[1]
        segments: list[dict[str, Any]] = [{"text": "of the garden", "learn": False}, {"token": token}]
        segments.append({"text": question.answers[0]})
        lines.append(json.dumps({"id": question.id, "question": question.question, "segments": segments}))
    with atomic_path(work.directory / "train.jsonl") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    relevant = sum(reply == "yes" for reply in replies)
    return Made(
        files=["train.jsonl"], counts={"questions": len(questions), "relevant": relevant},
        report={"requests": report.requests},
    )  # fmt: skip


def learn(work: StepRun) -> Made:
    """The sft stage, on the samples of the step before."""
    sets = (SetConfig(name="tiny", path=work.made_by("label") / "train.jsonl", kind="short_span"),)
    data = work.config.sft.data.model_copy(update={"sets": sets, "passages_from": "contexts"})
    sft = work.config.sft.model_copy(update={"data": data, "special_tokens": work.recipe.special_tokens})
    dirs = (work.made_by("corpus"), *database_dirs(work.config), work.directory / "sft")
    manifest = tune.run(sft, work.config.parallel, pretrained(work.config), *dirs)
    return Made(files=["sft/manifest.json"], counts={"steps": manifest.counts["result"]["steps"]})


class ByRelevance:
    """Answers once for each passage and takes the one whose passage is relevant, by the model's own token."""

    def __init__(self, bias: float) -> None:
        self.identity: Mapping[str, Any] = {"policy": "by relevance", "bias": bias}
        self.bias = bias
        self.prefilled = 0

    def generate(self, engine: BatchEngine, asked: Sequence[PreparedQuestion]) -> list[Completion]:
        """One answer for each question."""
        return [self._one(engine, one) for one in asked]

    def _one(self, engine: BatchEngine, one: PreparedQuestion) -> Completion:
        named = tuple(token_ids(engine.tokenizer, TOKENS, "recipe.tiny").values())
        prefix = engine.prefill(one.request.prompt, reading=one.request.reading)
        self.prefilled += 1
        try:
            passages = [one_passage.title for one_passage in one.passages[:2]] or [""]
            requests = [self._continued(engine, one.request, prefix, title, named) for title in passages]
            found = engine.generate(requests)
        finally:
            engine.release(prefix)
        return max(found, key=self._score)

    @staticmethod
    def _continued(engine: BatchEngine, request: Request, prefix: Any, title: str, named: tuple[int, ...]) -> Request:
        ids, _ = encode_segments([Segment(text=f"of the {title}", learn=False)], engine.tokenizer)
        return replace(request, prompt=ids, prefix=prefix, reading=None, named_tokens=named)

    def _score(self, completion: Completion) -> float:
        if not completion.tokens:
            return -math.inf
        relevant, irrelevant = (one.logprob for one in completion.tokens[0].named)
        return relevant + self.bias - irrelevant


def answer(work: StepRun) -> Made:
    """The generate stage, with the policy."""
    db, index = database_dirs(work.config, answers=True)
    paths = ModelPaths(
        checkpoint=work.made_by("learn") / "sft", corpus=work.made_by("corpus"), db=db, index=index,
        search=work.config.search,
    )  # fmt: skip
    policy = ByRelevance(work.settings.bias)
    out = work.directory / "answers"
    manifest = generate.run(work.config.generate, work.config.parallel, paths, out, policy)
    return Made(
        files=["answers/manifest.json"], counts=dict(manifest.counts), report={"prompts_computed": policy.prefilled}
    )


def judge(work: StepRun) -> Made:
    """The evaluate stage, with a metric of the recipe's own."""
    out = work.directory / "scores"
    manifest = score.run(
        work.config.evaluate, work.made_by("answer") / "answers", out,
        report=work.directory / "report.html", run_dir=work.config.run_dir,
    )  # fmt: skip
    return Made(files=["scores/scores.json"], counts=dict(manifest.counts))


class Tiny:
    """The recipe."""

    name = "tiny"
    summary = "Relevance before the answer, at toy size"
    config = TinyConfig
    special_tokens = TOKENS
    steps = (
        Step(name="label", summary="A teacher labels passages.", run=label, settings=("teacher",)),
        Step(
            name="learn", summary="Tune on the labels.", run=learn, collective=True, needs=("label", "corpus"),
            sections=("sft",),
        ),
        Step(
            name="answer", summary="Answer for each passage.", run=answer, collective=True,
            needs=("learn", "corpus", "index"), settings=("bias",), sections=("generate",),
        ),
        Step(name="judge", summary="Score the answers.", run=judge, needs=("answer",), sections=("evaluate",)),
    )  # fmt: skip


def yes_to_gardens(request: TeacherRequest) -> str:
    """What the teacher says."""
    return "yes" if "garden" in request.messages[-1]["content"] else "no"
