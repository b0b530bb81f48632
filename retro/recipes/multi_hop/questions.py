"""Multi-hop questions by a teacher: what is drawn for each, tries until one passes, and a record of every try."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from retro.qa.formats.item import BadItemError
from retro.recipes.multi_hop.config import CreateConfig, Flow, QuestionType
from retro.recipes.multi_hop.filters import key_of, require_good
from retro.recipes.multi_hop.flows import Draft, draft_of, require_category
from retro.recipes.multi_hop.prompts import Texts, question_prompt, request_of, wanted_fields
from retro.recipes.multi_hop.replies import fields_of_completion
from retro.teacher.request import Completion, TeacherRequest
from retro.teacher.teacher import Teacher

log = logging.getLogger(__name__)

POPULARITY = (1, 5)
"""From hardly known to known to all."""


@dataclass(frozen=True, kw_only=True)
class QuestionSpec:
    """A question that is to be made, with all that was drawn for it."""

    flow: Flow
    category: str
    number: int
    """Among those of its flow and category."""
    popularity: tuple[int, int]
    question_type: QuestionType
    temperatures: tuple[float, ...]
    """Of each try."""

    @property
    def id(self) -> str:
        """Its name among all."""
        return f"{self.flow}/{self.category}/{self.number}"

    @property
    def drawn(self) -> dict[str, str]:
        """What the prompt says of it."""
        first, second = map(str, self.popularity)
        named = {"popularity_1": first, "popularity_2": second}
        return {"category": self.category, **named, "question_type": self.question_type}


@dataclass
class Questions:
    """What came of them all."""

    drafts: dict[str, Draft] = field(default_factory=dict)
    """By the id of their spec, those that passed."""
    tries: list[dict[str, Any]] = field(default_factory=list)
    """Every try: what was asked with, the reply, the reason where it did not pass."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Tries that did not pass, by reason."""
    given_up: Counter[str] = field(default_factory=Counter)
    """Specs without a question after the last try, by its reason."""


def specs_of(config: CreateConfig, categories: Sequence[str]) -> list[QuestionSpec]:
    """What is to be made: so many questions of each category in each flow, or so many of them, drawn by the seed."""
    found = list[QuestionSpec]()
    for flow in config.flows:
        of_flow = [
            _spec(config, flow, category, number)
            for number in range(config.items_per_category)
            for category in categories
        ]
        if config.items is not None and config.items < len(of_flow):
            chosen = random.Random(f"{config.seed} {flow}").sample(range(len(of_flow)), config.items)
            of_flow = [of_flow[place] for place in sorted(chosen)]
        found += of_flow
    return found


def _spec(config: CreateConfig, flow: Flow, category: str, number: int) -> QuestionSpec:
    # Each from a seed of its own: another category in the file changes nothing about the others.
    draw = random.Random(f"{config.seed} {flow} {category.casefold()} {number}")
    low, high = config.temperature
    return QuestionSpec(
        flow=flow,
        category=category,
        number=number,
        popularity=(draw.randint(*POPULARITY), draw.randint(*POPULARITY)),
        question_type=draw.choice(config.question_types),
        temperatures=tuple(round(draw.uniform(low, high), 2) for _ in range(1 + config.retries)),
    )


def make(teacher: Teacher, texts: Texts, config: CreateConfig, specs: Sequence[QuestionSpec]) -> Questions:
    """Ask for all questions, and again for those that did not pass, up to `retries` times.

    Raises:
        ConfigError: A prompt does not ask for all that is wanted.
        RetroError: As the teacher says.
    """
    fields = {flow: wanted_fields(texts, flow, whole=not config.re_generate_answer) for flow in config.flows}
    made, seen, left = Questions(), set[str](), list(specs)
    for attempt in range(1 + config.retries):
        if not left:
            break
        requests = [_request(texts, config, fields[one.flow], one, attempt) for one in left]
        if attempt == 0:
            _say_plan(teacher, requests)
        again = list[QuestionSpec]()
        replies = teacher.complete_all(requests, what=f"create: questions, try {attempt + 1} of {1 + config.retries}")
        for one, request, reply in zip(left, requests, replies, strict=True):
            problem = _take(made, seen, fields[one.flow], one, reply)
            made.tries.append(_record(one, attempt, request, reply.text, problem))
            if problem is not None:
                made.rejected[f"{one.flow}: {problem.reason}"] += 1
                again.append(one)
                if attempt == config.retries:
                    made.given_up[f"{one.flow}: {problem.reason}"] += 1
        left = again
    return made


def _request(
    texts: Texts, config: CreateConfig, fields: Sequence[str], spec: QuestionSpec, attempt: int
) -> TeacherRequest:
    # Two with equal draws have equal prompts: the number keeps their samples apart, as the try does.
    seed = spec.number * (1 + config.retries) + attempt
    prompt = question_prompt(texts, spec.flow, fields, spec.drawn)
    return request_of(
        prompt, max_tokens=config.max_tokens, temperature=spec.temperatures[attempt], seed=config.seed + seed
    )


def _take(
    made: Questions, seen: set[str], fields: Sequence[str], spec: QuestionSpec, reply: Completion
) -> BadItemError | None:
    """Keep what a reply makes, or say why not."""
    try:
        found = fields_of_completion(reply, fields, quoted=spec.category)
        require_category(spec.category, found)
        draft = draft_of(spec.flow, found)
        require_good(draft)
        if key_of(draft) in seen:
            raise BadItemError("duplicate", f"asks what was asked before: {draft.question[:60]!r}")
    except BadItemError as error:
        return error
    seen.add(key_of(draft))
    made.drafts[spec.id] = draft
    return None


def _record(
    spec: QuestionSpec, attempt: int, request: TeacherRequest, reply: str, problem: BadItemError | None
) -> dict[str, Any]:
    about = {"id": spec.id, "flow": spec.flow, "category": spec.category, "popularity": list(spec.popularity)}
    asked = {"question_type": spec.question_type, "temperature": request.temperature, "seed": request.seed}
    failed = {"reason": problem.reason, "problem": problem.problem} if problem else {"reason": "", "problem": ""}
    return {**about, **asked, "try": attempt + 1, "reply": reply, **failed}


def _say_plan(teacher: Teacher, requests: Sequence[TeacherRequest]) -> None:
    plan = teacher.plan(requests)
    cost = "" if plan.estimated_cost is None else f", cost {plan.estimated_cost:,.4f} at most without second tries"
    log.info(
        "create: %d questions, %d to ask for: about %d tokens in, %d out at most%s",
        plan.requests, plan.to_send, plan.estimated_input_tokens, plan.most_output_tokens, cost,
    )  # fmt: skip
