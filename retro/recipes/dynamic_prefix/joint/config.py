"""Settings of training retriever and reader together: the section `joint` of the recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from retro.common.config import StageConfig
from retro.common.errors import require
from retro.index.config import EmbedderConfig
from retro.recipes.dynamic_prefix.training.rules import require_prefix_training
from retro.training.config import TrainConfig

FIRST_USE = 3
"""Steps from a snapshot to the first step that may use its index: the snapshot is taken when the step after it begins,
and samples are read one step ahead, so the third step is the first whose samples are read afterwards."""


class PenaltyConfig(StageConfig):
    """A term of the loss beside the answer's, on what the knowledge encoder gives."""

    name: str
    """`group_means`, `group_probe`, or one that another package registers as `retro.penalties`."""

    weight: PositiveFloat = 1.0
    """It is added to the mean loss of a question this many times."""


class JointConfig(StageConfig):
    """How retriever and reader are trained together (REALM, Guu et al. 2020, arXiv:2002.08909)."""

    retriever: EmbedderConfig = EmbedderConfig(
        kind="huggingface", model="facebook/contriever", pooling="mean", normalize=False, max_tokens=512
    )
    """What retriever to start from: of kind `huggingface` or `sentence_transformers`. As trained it is an embedder with
    the same settings."""

    towers: Literal["shared", "separate"] = "shared"
    """One encoder for questions and documents, or two that start alike, as DPR and REALM have them; with
    `retriever.query_model` the second one starts from that."""

    documents: PositiveInt = 8
    """Documents over which the answer's likelihood is summed, k. Each is a pass of the language model: a micro batch
    of B questions has B k sequences."""

    temperature: PositiveFloat = 1.0
    """What f(x, z) is divided by before the softmax. Vectors of length 1 need about 0.05: their inner products differ
    by less than 2, so at 1 all documents would be about as likely."""

    refresh_every: NonNegativeInt = 500
    """Steps between two snapshots of the retriever of which the index is built again; REALM's is about 500. 0: the
    index stays that of the retriever at the start."""

    refresh_delay: PositiveInt = 100
    """Steps from a snapshot to the first step that uses its index: as many steps are trained while it is built. One
    that takes longer is waited for. At least 3, and less than `refresh_every`."""

    penalties: tuple[PenaltyConfig, ...] = ()
    """Terms of the loss on what the knowledge encoder gives; empty: none."""

    group_label: str = ""
    """Which of a question's `labels` says the group of the document that it is about (its `document_ids`, or its first
    document), for penalties that read groups. Documents that no training question is about have none."""

    train: TrainConfig = TrainConfig(train_only="modules", lr=2e-5, weight_decay=0.01)
    """Steps, batch, optimizer, for the retriever, the knowledge encoder and the prefix."""

    @model_validator(mode="after")
    def _what_works(self) -> JointConfig:
        kinds = ("huggingface", "sentence_transformers")
        require(self, "retriever", self.retriever.kind in kinds, f"a kind with weights to train: {' or '.join(kinds)}")
        second = self.retriever.query_model is None or self.towers == "separate"
        require(self, "towers", second, "'separate' with retriever.query_model, which is a second encoder")
        need = f"at least {FIRST_USE}: a snapshot is taken as the next step begins, and samples are read one step ahead"
        require(self, "refresh_delay", self.refresh_delay >= FIRST_USE or not self.refresh_every, need)
        soon = not self.refresh_every or self.refresh_delay < self.refresh_every
        need = f"less than refresh_every = {self.refresh_every}: else indexes would be built sooner than they are used"
        require(self, "refresh_delay", soon, need)
        read = any(one.name.startswith("group_") for one in self.penalties)
        require(self, "group_label", bool(self.group_label) or not read, "a label of questions, which penalties read")
        require_prefix_training(self, self.train)
        return self
