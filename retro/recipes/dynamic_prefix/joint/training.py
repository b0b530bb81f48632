"""Retriever and reader trained together by `retro.training.train`: what it is given, and what is asynchronous.

Modules: the knowledge encoder and the prefix of the step `train`, and the retriever. Source: questions with documents
from the index of their step. Loss: the marginal likelihood. The index is built again in a thread, see refresh.py.

    out/log.jsonl, checkpoints/    as every training run has them
    out/snapshots/                 the retriever's weights that indexes are built from
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from retro.common.errors import ArtifactError
from retro.mcore.cpu import device
from retro.model.config import ModelShape
from retro.model.model import RetroModel
from retro.model.weight_names import ADDED_MODULE
from retro.qa.question import Question
from retro.recipes.dynamic_prefix.joint.config import JointConfig
from retro.recipes.dynamic_prefix.joint.documents import Documents, embed_documents
from retro.recipes.dynamic_prefix.joint.loss import JointLoss, publish
from retro.recipes.dynamic_prefix.joint.penalties import document_groups
from retro.recipes.dynamic_prefix.joint.refresh import FlatIndex, IndexRefresher, Schedule, Searcher
from retro.recipes.dynamic_prefix.joint.retriever import RETRIEVER, JointRetriever
from retro.recipes.dynamic_prefix.joint.source import JointSource, Reader, step_of
from retro.recipes.dynamic_prefix.training.encoder_files import EncoderTokenizer
from retro.recipes.dynamic_prefix.training.samples import PrefixSource
from retro.training import checkpoint
from retro.training.config import ParallelConfig
from retro.training.loop import AddModules, Result, add_modules, train
from retro.training.validation import Validation

SNAPSHOTS = "snapshots"


@dataclass(frozen=True, kw_only=True)
class Part:
    """Questions of one side of the split."""

    questions: Sequence[Question]
    source: PrefixSource
    """Their prompts and answers, in the same order, without documents."""


@dataclass(frozen=True, kw_only=True)
class JointParts:
    """What is trained, on what."""

    shape: ModelShape
    """Of the frozen language model."""
    base: Path | None
    """Where its weights are; None: fresh ones."""
    tokenizer: Path | None
    """The folder of its tokenizer, which goes into checkpoints."""
    reader: AddModules
    """The knowledge encoder and the prefix, filled as the step `train` left them."""
    knowledge: EncoderTokenizer
    """The tokenizer of the knowledge encoder."""
    retriever: JointRetriever
    """As training starts."""
    documents: Documents
    """All that are searched."""
    train: Part
    valid: Part | None


def build_index(
    documents: Documents, retriever: JointRetriever, stopped: Callable[[], bool] = lambda: False
) -> FlatIndex:
    """The index of all documents, as a retriever embeds them; `stopped` as of `embed_documents`."""
    return FlatIndex(embed_documents(documents, retriever.embed_documents, stopped), retriever.embed_questions)


def filled_modules(fresh: AddModules, trained: Path) -> AddModules:
    """Modules with the weights that a checkpoint has of them.

    Args:
        fresh: Gives them as they are built.
        trained: A checkpoint, or a folder whose newest one is taken.

    Raises:
        ArtifactError: It is damaged, or lacks one of the weights; raised when the modules are built.
    """

    def modules(model: RetroModel, shape: ModelShape) -> Mapping[str, nn.Module]:
        info = checkpoint.read_info(checkpoint.find(trained))
        checkpoint.verify(info.path)
        stored = checkpoint.open_weights(info)
        made = fresh(model, shape)
        # Weights are read by the place that a module has in the network; `train` gives it the same once more.
        add_modules([model], shape, lambda _model, _shape: made)
        names = [
            f"{ADDED_MODULE}{name}.{weight}" for name, module in made.items() for weight, _ in module.named_parameters()
        ]
        lacking = next((name for name in names if name not in stored.sizes), None)
        if lacking is not None:
            raise ArtifactError(info.path, f"lacks {lacking}", "Train the reader again under these settings")
        checkpoint.refill([model], stored, set(names))
        return made

    return modules


def schedule_of(config: JointConfig) -> Schedule:
    """Which snapshot a step uses."""
    return Schedule(every=config.refresh_every, delay=config.refresh_delay)


def train_joint(
    config: JointConfig,
    parts: JointParts,
    layout: ParallelConfig,
    out: Path,
    begin: Callable[[], None] = lambda: None,
) -> tuple[Result, float]:
    """Train, or continue where a stopped run left off.

    Args:
        config: How.
        parts: What, on what. `parts.retriever` has the trained weights afterwards.
        layout: Processes.
        out: Directory of the run.
        begin: As of `training.train`.

    Returns:
        What `training.train` gives, and the seconds that steps waited for an index that was not finished.

    Raises:
        ConfigError: A penalty or the groups it reads do not exist, or as `training.train`.
        TrainingError, ArtifactError: As `training.train`; or a snapshot is missing or damaged.
    """

    def build(retriever: nn.Module) -> Searcher:
        if not isinstance(retriever, JointRetriever):
            raise TypeError(f"an index is built of a retriever, not of a {type(retriever).__name__}")
        return build_index(parts.documents, retriever, lambda: refresher.stopped)

    settings = config.train
    # The oldest checkpoint that is kept, and one more for one that is being written.
    kept = (settings.keep_last + 2) * settings.save_every
    schedule = schedule_of(config)
    with IndexRefresher(out / SNAPSHOTS, schedule, build, steps=settings.steps, kept=kept) as refresher:
        loss = JointLoss(config, refresher)
        groups = _groups(config, parts.train.questions)
        reader = Reader(parts.documents, parts.knowledge, parts.retriever, config.documents, groups)

        def modules(model: RetroModel, shape: ModelShape) -> Mapping[str, nn.Module]:
            retriever = parts.retriever.to(device())
            refresher.set_up(retriever)
            return {**parts.reader(model, shape), RETRIEVER: retriever}

        def started() -> None:
            begin()
            if not checkpoint.complete(out / "checkpoints"):
                publish(refresher, 0, parts.retriever)

        def of_numbers(numbers: NDArray[np.int64]) -> Searcher:
            return refresher.index_of(step_of(numbers, settings.global_batch))

        result = train(
            out=out,
            shape=parts.shape,
            config=settings,
            layout=layout,
            source=JointSource(parts.train.source, parts.train.questions, reader, of_numbers),
            validation=_validation(parts.valid, reader, lambda _: refresher.index_of(loss.step)),
            start_from=parts.base,
            loss=loss,
            modules=modules,
            what="joint",
            tokenizer=parts.tokenizer,
            begin=started,
        )
        return result, round(refresher.waited_s, 3)


def _groups(config: JointConfig, questions: Sequence[Question]) -> dict[str, int]:
    if not config.group_label:
        return {}
    return document_groups(questions, config.group_label, "recipe.dynamic_prefix.joint.group_label")[0]


def _validation(part: Part | None, reader: Reader, index: Callable[[Any], Searcher]) -> Validation | None:
    if part is None or not part.questions:
        return None
    return Validation(source=JointSource(part.source, part.questions, reader, index), samples=len(part.questions))
