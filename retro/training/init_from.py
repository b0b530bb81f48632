"""What a run starts from: a checkpoint of ours, a HuggingFace folder, a megatron-core or a legacy Megatron one."""

from __future__ import annotations

import logging
from pathlib import Path

from retro.common.errors import DataError
from retro.mcore.engine import Engine
from retro.model.config import ModelShape
from retro.model.convert.external import resolve
from retro.model.convert.hf_config import is_folder
from retro.model.convert.huggingface import HuggingFaceSource
from retro.model.convert.legacy import LegacyCheckpoint, is_legacy
from retro.model.convert.megatron import MegatronSource, find_megatron
from retro.model.convert.source import AddedTokens, WeightSource, fill_from, require_fits, smaller
from retro.model.model import RetroModel
from retro.model.weight_names import is_retrieval, weight_sizes
from retro.training import checkpoint
from retro.training.architecture import require_same_architecture

log = logging.getLogger(__name__)


def start_from(engine: Engine[RetroModel], shape: ModelShape, path: Path, added: AddedTokens | None = None) -> None:
    """Start clean from the weights that are at a path: a GPT for a Retro, or the same architecture.

    Weights that are not there (a GPT has no cross-attention) keep their fresh values.

    Args:
        engine: Of the model to fill.
        shape: That model.
        path: Where the weights are.
        added: What is there, where the model has more tokens.

    Raises:
        DataError: Nothing there is a model, or it is one that is not supported.
        ArtifactError: A file of it is missing or damaged.
        TrainingError: The architectures differ; the first differing settings are named with both values.
    """
    if checkpoint.holds_one(path):
        found = checkpoint.find(path)
        log.info("starting from the weights of %s", found)
        checkpoint.start_from(engine, shape, found, added)
        if not checkpoint.read_info(found).shape.model.retrieval:
            _say_what_is_kept(shape, found)
        return
    theirs = shape if added is None else smaller(shape, added)
    source = open_source(path, theirs)
    require_fits(source, theirs)
    fresh = [name for name in weight_sizes(shape) if is_retrieval(name) and source.size(name) is None]
    checkpoint.require_all_saved(engine, path, fresh)
    log.info("starting from the weights of %s", source.path)
    known = theirs if added is None else theirs.model_copy(update={"vocabulary": added.known})
    engine.load_weights(fill_from(engine.weights(), source, known))
    if not isinstance(source, LegacyCheckpoint) or not source.shape.model.retrieval:
        _say_what_is_kept(shape, source.path)


def _say_what_is_kept(shape: ModelShape, path: Path) -> None:
    """Whether a Retro made of a GPT still computes what that computes."""
    model = shape.model
    start = model.gate_init if model.gate == "learned" else model.gate
    if model.retrieval and start:
        what = "learned gates start at" if model.gate == "learned" else "the gate is"
        log.warning(
            "%s %g and what reads neighbors is fresh: with neighbors, step 0 does not compute what %s does. "
            "model.gate=learned with model.gate_init=0 would", what, start, path,
        )  # fmt: skip


def require_weights(shape: ModelShape, path: Path, added: AddedTokens | None = None) -> None:
    """Check that the weights of a model are at a path, in the sizes it has, before the model is built. None are read.

    Raises:
        DataError, ArtifactError, TrainingError: As `start_from`.
    """
    if checkpoint.holds_one(path):
        checkpoint.require_whole(checkpoint.find(path))
    else:
        theirs = shape if added is None else smaller(shape, added)
        require_fits(open_source(path, theirs), theirs)


def open_source(path: Path, shape: ModelShape) -> WeightSource:
    """The weights of another toolkit's model, checked against a model's settings as far as it states its own.

    Raises:
        DataError, ArtifactError, TrainingError: As `start_from`.
    """
    path = resolve(path) or path
    if is_folder(path):
        folder = HuggingFaceSource(path)
        require_same_architecture(path, folder.shape(shape), shape)
        folder.require_range(shape.model.sequence_length)
        return folder
    if is_legacy(path):
        return _open_legacy(path, shape)
    found = find_megatron(path)
    if found is not None:
        log.info("%s does not say its rotary settings and norm epsilon; those of the model section are taken", found)
        return MegatronSource(found, shape)
    problem = "holds no model to start from" if path.exists() else "no such directory"
    remedy = (
        "Give a checkpoint of this toolkit, a HuggingFace folder (config.json and *.safetensors), a megatron-core "
        "GPT checkpoint (torch_dist, with .metadata), or a legacy Megatron one (mp_rank_00/model_optim_rng.pt)"
    )
    raise DataError(path, problem, remedy)


def _open_legacy(path: Path, shape: ModelShape) -> LegacyCheckpoint:
    legacy = LegacyCheckpoint(path)
    legacy.require(legacy.shape)
    # Its embedding may not say how many of its rows are tokens; that there are enough is checked with the sizes.
    theirs = legacy.shape.model_copy(update={"vocabulary": shape.vocabulary})
    require_same_architecture(path, theirs, shape)
    return legacy
