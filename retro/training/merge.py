"""Adapters added to the weights that they adapt, for good: a checkpoint of a whole model comes of it."""

from __future__ import annotations

import logging
from pathlib import Path

from retro.common.errors import ArtifactError, ConfigError
from retro.model.config import ModelShape
from retro.training import checkpoint
from retro.training.finished import of_stage
from retro.training.saver import save_weights

log = logging.getLogger(__name__)

PRECISIONS = ("float32", "bfloat16")


def merge(path: Path, out: Path, *, base: Path | None = None, dtype: str | None = None) -> ModelShape:
    """Write a plain checkpoint of the model that adapters make of their base.

    It takes one process, whatever layout the adapters were trained on, and as much memory as the weights in their
    precision. Sums are formed in float32 and rounded once.

    Args:
        path: A checkpoint of adapters, a directory whose newest one is taken, or a finished stage.
        out: The checkpoint to write; must not exist.
        base: Where the checkpoint lies that they adapt, if not where it lay.
        dtype: Precision of the weights; None takes the one that the adapters were trained in.

    Returns:
        The model.

    Raises:
        ConfigError: `out` exists, or the precision is unknown.
        ArtifactError: The checkpoint holds no adapters or is damaged, or the base is missing, damaged, or another one.
    """
    if out.exists():
        raise ConfigError("OUT", str(out), "needs a path where nothing is yet")
    if dtype is not None and dtype not in PRECISIONS:
        raise ConfigError("--dtype", dtype, f"needs {' or '.join(PRECISIONS)}")
    info = checkpoint.read_info(checkpoint.find(of_stage(path)))
    if info.adapters is None:
        raise ArtifactError(info.path, "holds a whole model, no adapters", "Use it as it is")
    precision = dtype or str(info.config["train"]["precision"])
    model, _ = checkpoint.load_model(info.path, bfloat16=precision == "bfloat16", base=base)
    # Its weights are named by what they were made of.
    origin = {"merged_from": checkpoint.identity(info.path), "precision": precision}
    save_weights(model, info.shape, info.config | origin, out, info.step, info.tokenizer)
    log.info("%s: the adapters of %s, of rank %d, in the weights of %s", out, info.path, info.adapters.rank, precision)
    return info.shape
