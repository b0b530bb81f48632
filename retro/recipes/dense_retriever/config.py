"""Settings of the dense retriever: the section `recipe.dense_retriever` of a run."""

from __future__ import annotations

from pydantic import model_validator

from retro.common.config import StageConfig
from retro.common.errors import require
from retro.recipes.dense_retriever.data.data_config import DataConfig
from retro.recipes.dense_retriever.data.segments_config import SegmentsConfig
from retro.recipes.dense_retriever.evaluation.config import EmbedConfig, EvaluationConfig
from retro.recipes.dense_retriever.training.config import PretrainConfig, TrainConfig
from retro.recipes.dense_retriever.training.mine_config import MineConfig, ReaderScoresConfig


class DenseRetrieverConfig(StageConfig):
    """Settings of the recipe."""

    data: DataConfig = DataConfig()
    """Questions with the passages that answer them, split by document."""

    segments: SegmentsConfig = SegmentsConfig()
    """Documents, cut into the passages that are mined and searched."""

    pretrain: PretrainConfig | None = None
    """Training on crops of segments, without questions, before `train`; absent: none."""

    mine: MineConfig | None = None
    """Hard negatives from searches of the segments; absent: none."""

    reader_scores: ReaderScoresConfig | None = None
    """How likely a reader finds the answer given each passage, for train.objective = distillation; absent: none."""

    train: TrainConfig = TrainConfig()
    """Training on questions and passages."""

    embed: EmbedConfig = EmbedConfig()
    """How passages are embedded and searched when all is measured."""

    evaluate: EvaluationConfig = EvaluationConfig()
    """What is measured, and which retrievers are compared."""

    @model_validator(mode="after")
    def _has_what_training_reads(self) -> DenseRetrieverConfig:
        distills = self.train.objective == "distillation"
        need = "settings of the reader for train.objective = distillation"
        require(self, "reader_scores", self.reader_scores is not None or not distills, need)
        need = "settings of mining, with the source dense, for train.refresh_every"
        dense = self.mine is not None and "dense" in self.mine.sources
        require(self, "mine", dense or not self.train.refresh_every, need)
        return self

    @property
    def trains(self) -> bool:
        """Whether a model is tuned: unless no retriever of the comparison is the tuned one."""
        return self.evaluate.tuned

    @property
    def needs_pairs(self) -> bool:
        """Whether questions with passages are needed."""
        return bool(self.data.sources) or self.trains or self.pretrain is not None or bool(self.evaluate.against)

    @property
    def needs_segments(self) -> bool:
        """Whether documents have to be cut."""
        searched = self.evaluate.searches_segments
        return searched or self.pretrain is not None or self.mine is not None or self.train.refresh_every > 0

    @property
    def embeds_segments(self) -> bool:
        """Whether the tuned model embeds the segments."""
        return self.trains and self.evaluate.searches_segments
