"""The critic at work: for an item, the likeliest token of its family, and how likely it is among them.

No word outside the family can come out: what is compared are the probabilities of its tokens at the first place of the
answer. Labels are kept as they are made, so a step that was stopped continues.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retro.common.artifacts import fingerprint
from retro.common.progress import Progress
from retro.common.response_cache import ResponseCache
from retro.generate.config import GenerateConfig, ModelPaths
from retro.generate.open_model import OpenModel, open_model
from retro.generate.request import Completion, Request, Sampling
from retro.qa.prompt_texts import load_prompts
from retro.qa.prompts import build_prompt, encode_prompts
from retro.qa.question import Question
from retro.qa.sample_layout import fit_prompt
from retro.recipes.self_rag.critic_data import question_of_item
from retro.recipes.self_rag.prompts import KIND, STYLE, Texts, critic_input
from retro.recipes.self_rag.tokens import FAMILIES, Family, Vocabulary
from retro.training import checkpoint as checkpoints

CACHE = "critic_labels.jsonl"
_REMEDY = "Delete the file: what it lacks is judged again"
_ONE_TOKEN = Sampling(max_new_tokens=1, min_new_tokens=1)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What the critic is to judge."""

    family: Family
    instruction: str
    evidence: str = ""
    output: str = ""
    preceding: str = ""

    def item(self, texts: Texts) -> dict[str, str]:
        """As the critic's training data has it."""
        parts = {name: getattr(self, name) for name in ("instruction", "evidence", "output", "preceding")}
        return {"instruction": texts.critic[self.family], "input": critic_input(texts, parts), "task": self.family}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the critic says."""

    token: str
    """Empty where the item does not fit the critic's sequences."""
    probability: float
    """Of the token, among those of its family."""


class Critic:
    """A tuned critic, opened when it is first asked for something that is not known."""

    def __init__(self, model: OpenModel, texts: Texts, folder: Path, batch_size: int) -> None:
        """Set up.

        Args:
            model: The critic.
            texts: What it is told.
            folder: Where labels are kept.
            batch_size: Items judged at once.

        Raises:
            ArtifactError: The labels that are kept there are damaged, or another critic's.
        """
        self._model, self._texts, self._batch_size = model, texts, batch_size
        self.identity = {"critic": checkpoints.identity(model.info.path), "texts": texts.identity}
        self._kept = ResponseCache(folder / CACHE, self.identity, _REMEDY)

    def judge(self, asked: Sequence[Ask], what: str) -> list[Verdict]:
        """Judge items, in their order; equal ones once.

        Args:
            asked: What to judge.
            what: For the progress line.

        Raises:
            ConfigError: The tokenizer lacks a reflection token.
            ArtifactError: The labels cannot be kept.
        """
        items = [one.item(self._texts) for one in asked]
        keys = [fingerprint(one) for one in items]
        missing = {key: item for key, item in zip(keys, items, strict=True) if key not in self._kept}
        with Progress(len(items), what=what, unit="judged", done=len(items) - len(missing)) as bar:
            waiting = list(missing.items())
            for start in range(0, len(waiting), self._batch_size):
                block = waiting[start : start + self._batch_size]
                verdicts = self.label([item for _, item in block])
                self._kept.add([key for key, _ in block], [[one.token, one.probability] for one in verdicts])
                bar.advance(len(block))
        return [
            Verdict(token=token, probability=probability) for token, probability in map(self._kept.__getitem__, keys)
        ]

    def label(self, items: Sequence[Mapping[str, Any]]) -> list[Verdict]:
        """Judge items in published form, with `task`, nothing kept."""
        engine, vocabulary = self._model.engine, Vocabulary.of(self._model.tokenizer)
        prompts = encode_questions([question_of_item(one) for one in items], self._model)
        requests = [
            Request(prompt=prompt, sampling=_ONE_TOKEN, named_tokens=vocabulary.named)
            for prompt in prompts
            if prompt is not None
        ]
        found = iter(engine.generate(requests))
        return [
            _UNFIT if prompt is None else verdict(next(found), vocabulary, one["task"])
            for prompt, one in zip(prompts, items, strict=True)
        ]


_UNFIT = Verdict(token="", probability=0.0)


def verdict(completion: Completion, vocabulary: Vocabulary, family: Family) -> Verdict:
    """The likeliest token of a family at the first step of an answer."""
    logprobs = vocabulary.logprobs(completion.tokens[0])
    best = max(FAMILIES[family], key=lambda token: logprobs[token])
    total = sum(math.exp(logprobs[token] - logprobs[best]) for token in FAMILIES[family])
    return Verdict(token=best, probability=1.0 / total)


def encode_questions(questions: Sequence[str], model: OpenModel) -> list[tuple[int, ...] | None]:
    """Prompts as tuning has them; None for one that does not fit the model's sequences."""
    texts = load_prompts(model.config.prompts)
    rule = texts.rule_of_kind(KIND)
    prompts = [
        build_prompt(
            Question(id="", question=one, answers=()), (), style="plain", kind=rule, contexts_in_prompt=0, texts=texts
        )
        for one in questions
    ]
    fitted = [
        fit_prompt(ids, model.decoder.sequence_length - 1)
        for ids in encode_prompts(prompts, model.tokenizer, model.prefix)
    ]
    return [None if one is None else tuple(one[0]) for one in fitted]


def open_critic(
    checkpoint: Path, paths: ModelPaths, texts: Texts, folder: Path, batch_size: int, generate: GenerateConfig
) -> Critic:
    """The critic of a checkpoint.

    Args:
        checkpoint: A tuned critic, or the folder of the stage that tuned it.
        paths: The run's corpus; nothing else of it is read.
        texts: What it is told.
        folder: Where labels are kept.
        batch_size: Items judged at once.
        generate: The run's settings of generation; its precision is the critic's.

    Raises:
        ArtifactError: There is no checkpoint, or it is damaged.
        ConfigError: The model cannot do what the settings want.
    """
    config = GenerateConfig(
        settings=("closed_book",), style="plain", prompts=STYLE, encoder=False, contexts_in_prompt=0,
        batch_size=batch_size, precision=generate.precision, add_special_tokens=generate.add_special_tokens,
    )  # fmt: skip
    model = open_model(config, replace(paths, checkpoint=checkpoint))
    return Critic(model, texts, folder, batch_size)
