"""From settings to a loss for the trainer."""

from __future__ import annotations

from typing import Any

from retro.common.launcher import worker_of
from retro.recipes.dense_retriever.training.config import FitConfig, PretrainConfig, StartConfig, TrainConfig


def build_loss(config: FitConfig, start: StartConfig, model: Any) -> Any:
    """The loss of an objective, of `losses.modules`.

    Args:
        config: Of `pretrain` or `train`.
        start: How embeddings are compared.
        model: The sentence-transformers model that it trains.
    """
    from sentence_transformers.util import cos_sim, dot_score, pairwise_cos_sim, pairwise_dot_score

    from retro.recipes.dense_retriever.training.losses import modules

    if not isinstance(config, PretrainConfig | TrainConfig):
        raise ValueError(f"{type(config).__name__} has no objective")
    cosine = start.similarity == "cosine"
    dimension = int(model.get_embedding_dimension())
    if config.objective == "vicreg" and isinstance(config, TrainConfig):
        return modules.VicregLoss(model, config.vicreg, dimension=dimension, cached=config.cached)
    if config.objective == "moco":
        return modules.MocoLoss(
            model, config.moco, dimension=dimension, temperature=config.temperature,
            smoothing=config.label_smoothing, cosine=cosine,
        )  # fmt: skip
    if config.objective == "distillation" and isinstance(config, TrainConfig):
        return modules.DistillationLoss(
            model, similarity_fct=pairwise_cos_sim if cosine else pairwise_dot_score,
            student_temperature=config.temperature, teacher_temperature=config.distillation.reader_temperature,
        )  # fmt: skip
    if config.label_smoothing:
        return modules.SmoothedInfoNceLoss(
            model, temperature=config.temperature, smoothing=config.label_smoothing, cosine=cosine,
            cached=config.cached,
        )  # fmt: skip
    usual = {"scale": 1 / config.temperature, "similarity_fct": cos_sim if cosine else dot_score}
    usual["gather_across_devices"] = worker_of().world > 1
    if config.cached:
        return modules.CachedInfoNceLoss(model, mini_batch_size=config.cached, **usual)
    return modules.InfoNceLoss(model, **usual)
