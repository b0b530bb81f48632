"""The recipe: its steps in order, each a thin call of the module that does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from retro.recipes.dense_retriever.command import run_beir, run_compare
from retro.recipes.dense_retriever.config import DenseRetrieverConfig
from retro.recipes.dense_retriever.data.build import PAIRS
from retro.recipes.dense_retriever.data.segments import SEGMENTS
from retro.recipes.dense_retriever.evaluation.steps import EMBED, EVALUATE
from retro.recipes.dense_retriever.training.mine import MINE
from retro.recipes.dense_retriever.training.reader_scores import READER_SCORES
from retro.recipes.dense_retriever.training.train import PRETRAIN, TRAIN


class DenseRetriever:
    """A dense retriever tuned to the task (Contriever, InfoNCE, VICReg)."""

    name = "dense_retriever"
    summary = (
        "A dense retriever tuned to the task: InfoNCE, MoCo, VICReg, mined negatives, distillation; measured right"
    )
    config = DenseRetrieverConfig
    special_tokens: tuple[str, ...] = ()
    commands: Mapping[str, Callable[[Sequence[str]], None]] = MappingProxyType(
        {"compare": run_compare, "beir": run_beir}
    )
    steps = (
        replace(PAIRS, wanted=lambda settings: settings.needs_pairs),
        replace(SEGMENTS, wanted=lambda settings: settings.needs_segments),
        PRETRAIN,
        MINE,
        READER_SCORES,
        replace(TRAIN, wanted=lambda settings: settings.trains),
        EMBED,
        EVALUATE,
    )
