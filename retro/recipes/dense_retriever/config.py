"""Settings of the dense retriever: the section `recipe.dense_retriever` of a run."""

from __future__ import annotations

from retro.common.config import StageConfig
from retro.recipes.dense_retriever.data_config import DataConfig
from retro.recipes.dense_retriever.evaluate_config import EmbedConfig, EvaluationConfig
from retro.recipes.dense_retriever.mine_config import MineConfig, ReaderScoresConfig
from retro.recipes.dense_retriever.segments_config import SegmentsConfig
from retro.recipes.dense_retriever.train_config import PretrainConfig, TrainConfig


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

    reader_scores: ReaderScoresConfig = ReaderScoresConfig()
    """How likely a reader finds the answer given each passage, for train.objective = distillation."""

    train: TrainConfig = TrainConfig()
    """Training on questions and passages."""

    embed: EmbedConfig = EmbedConfig()
    """How passages are embedded and searched when all is measured."""

    evaluate: EvaluationConfig = EvaluationConfig()
    """What is measured, and which retrievers are compared."""

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
