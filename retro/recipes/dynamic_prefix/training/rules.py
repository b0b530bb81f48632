"""What the steps `train` and `joint` both ask of settings of training."""

from __future__ import annotations

from typing import Any

from retro.common.errors import require
from retro.training.config import TrainConfig


def require_prefix_training(section: Any, train: TrainConfig) -> None:
    """Check that a frozen language model can be trained through.

    Args:
        section: The settings that have `train`, for the message.
        train: How it is trained.

    Raises:
        ConfigError: More than the modules beside it is trained, or layers are computed again without their prefix.
    """
    frozen = train.train_only == "modules"
    require(section, "train", frozen, "train_only: modules, which keeps the language model as it is")
    need = (
        "recompute none or selective: a layer that is computed again in the backward pass is handed its tokens alone, "
        "and would be computed without its prefix"
    )
    require(section, "train", train.recompute != "full", need)
