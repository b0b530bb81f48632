"""A model of another toolkit, written as a checkpoint of this one.

Nothing but weights and the tokenizer comes along, and a run continues with a clean optimizer. Most commands take a
HuggingFace folder, a .gguf file or a legacy checkpoint as they are; a megatron-core checkpoint has to be converted,
with the model section that it does not state.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.mcore import parallel
from retro.model.config import ModelConfig, ModelShape
from retro.model.convert import external
from retro.model.convert.legacy import LegacyCheckpoint
from retro.model.convert.legacy_settings import recorded_chunk_length
from retro.model.convert.megatron import MegatronSource, find_megatron
from retro.model.convert.source import WeightSource, require_fits
from retro.model.model import BuildOptions, RetroModel
from retro.model.weight_names import EMBEDDING
from retro.tokenizers.tokenizer import load_tokenizer
from retro.training import checkpoint
from retro.training.checkpoint_writer import save_weights
from retro.training.lora_weights import StoredWeights, read_whole
from retro.training.result import of_stage

log = logging.getLogger(__name__)


def convert(
    path: Path,
    out: Path,
    *,
    chunk_length: int | None = None,
    vocabulary: int | None = None,
    model: ModelConfig | None = None,
) -> ModelShape:
    """Convert a model of another toolkit.

    It takes one process and as much memory as the weights in their own precision.

    Args:
        path: What `retro.model.convert.external` opens, or a megatron-core checkpoint.
        out: The checkpoint to write; must not exist.
        chunk_length: Tokens of a chunk, M; None takes what the checkpoint says, or the published 64.
        vocabulary: Tokens in the tokenizer; None takes what the checkpoint says, or all rows of the embedding.
        model: The model section, for a megatron-core checkpoint.

    Returns:
        The model.

    Raises:
        ConfigError: `out` exists, the model section is missing, the vocabulary is larger than the embedding or smaller
            than the tokenizer, or a chunk is longer than a sequence or not the one that the checkpoint states.
        DataError: The checkpoint cannot be used as it is.
    """
    if out.exists():
        raise ConfigError("OUT", str(out), "needs a path where nothing is yet")
    for option, tokens in (("--chunk-length", chunk_length), ("--vocabulary", vocabulary)):
        if tokens is not None and tokens < 1:
            raise ConfigError(option, tokens, "needs a token at least")
    folder, tokenizer = external.resolve(path), None
    if folder is not None:
        found = external.open_external(folder)
        if vocabulary is not None:
            _require_rows(vocabulary, found.source)
        shape = _with(found.shape, chunk_length, vocabulary)
        weights: StoredWeights = external.ExternalWeights(found.source, shape)
        tokenizer = found.tokenizer
        if isinstance(found.source, LegacyCheckpoint):
            _require_recorded(chunk_length, recorded_chunk_length(found.source.args))
        if vocabulary is not None and tokenizer is not None:
            _require_spelled(vocabulary, load_tokenizer(tokenizer).vocab_size)
    else:
        shape, source = _open_megatron(path, model, chunk_length, vocabulary)
        weights = external.ExternalWeights(source, shape)
    _require_chunk(shape)
    _write(weights, shape, path, out, tokenizer)
    layers = ", ".join(map(str, shape.model.cross_attention_layers)) or "none"
    log.info(
        "%s: %d weights of %s; layers that read neighbors: %s; chunks of %d; %d tokens",
        out, len(weights.sizes), path, layers, shape.chunk_length, shape.vocabulary,
    )  # fmt: skip
    return shape


def _require_recorded(chunk_length: int | None, recorded: int | None) -> None:
    if chunk_length is not None and recorded is not None and chunk_length != recorded:
        raise ConfigError(
            "--chunk-length", chunk_length, f"needs to be absent or {recorded}, which it was trained with"
        )


def _require_rows(vocabulary: int, source: WeightSource) -> None:
    size = source.size(EMBEDDING)
    if size is not None and vocabulary > size[0]:
        raise ConfigError("--vocabulary", vocabulary, f"needs at most the {size[0]} rows of the embedding")


def _require_spelled(vocabulary: int, tokens: int) -> None:
    if vocabulary < tokens:
        raise ConfigError("--vocabulary", vocabulary, f"needs at least {tokens}, the tokens of its tokenizer")


def _require_chunk(shape: ModelShape) -> None:
    """Check that sequences are made of whole chunks, and that a neighbor, two of them, fits a table of positions."""
    chunk, length = shape.chunk_length, shape.model.sequence_length
    most = length // 2 if shape.model.positions == "learned" else length
    if chunk > most:
        raise ConfigError("--chunk-length", chunk, f"needs at most {most}; the model reads {length} tokens")


def _write(weights: StoredWeights, shape: ModelShape, path: Path, out: Path, tokenizer: Path | None) -> None:
    parallel.start()
    parallel.seed(0)
    target: RetroModel | None = None
    for name in weights.sizes:
        stored = read_whole(weights, name)
        if target is None:
            target = RetroModel(shape, BuildOptions(bfloat16=stored.dtype == torch.bfloat16))
            parameters = dict(target.named_parameters())
        with torch.no_grad():
            parameters[name].copy_(stored)
    if target is None:
        raise DataError(path, "has no weights", "Fetch it again")
    save_weights(target, shape, {"converted_from": path.name}, out, tokenizer=tokenizer)


def _open_megatron(
    path: Path, model: ModelConfig | None, chunk_length: int | None, vocabulary: int | None
) -> tuple[ModelShape, WeightSource]:
    found = find_megatron(path)
    if found is None:
        problem = "holds no model that can be converted" if path.exists() else "no such directory"
        remedy = (
            "Give a HuggingFace folder, a .gguf file, a megatron-core checkpoint (.metadata), or a legacy Megatron one"
        )
        raise DataError(path, problem, remedy)
    if model is None or vocabulary is None:
        problem = "is a megatron-core checkpoint, which does not state rotary settings, norm epsilon and vocabulary"
        remedy = "Give --config CONFIG.yaml, whose model section says them, and --vocabulary, the tokenizer's tokens"
        raise DataError(found, problem, remedy)
    plain = model.model_copy(update={"retrieval": False})
    shape = ModelShape(model=plain, vocabulary=vocabulary, chunk_length=chunk_length or external.CHUNK_LENGTH)
    source = MegatronSource(found, shape)
    require_fits(source, shape)
    return shape, source


def _with(shape: ModelShape, chunk_length: int | None, vocabulary: int | None) -> ModelShape:
    rows = shape.padded_vocabulary
    tokens = vocabulary or shape.vocabulary
    multiple = 128 if -(-tokens // 128) * 128 == rows else rows
    return shape.model_copy(
        update={
            "chunk_length": chunk_length or shape.chunk_length,
            "vocabulary": tokens,
            "model": shape.model.model_copy(update={"vocabulary_multiple": multiple}),
        }
    )


PRECISIONS = ("float32", "bfloat16")


def merge(path: Path, out: Path, *, base: Path | None = None, dtype: str | None = None) -> ModelShape:
    """Write a plain checkpoint of the model that adapters make of their base.

    It takes one process, whatever layout the adapters were trained on, and as much memory as the weights in their
    precision. Sums are formed in float32 and rounded once.

    Args:
        path: A checkpoint of adapters, a directory whose newest one is taken, or a finished stage.
        out: The checkpoint to write; must not exist.
        base: Where the checkpoint is that they adapt, if it was moved.
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
    precision = dtype or info.precision
    model, _ = checkpoint.load_model(info.path, bfloat16=precision == "bfloat16", base=base)
    # Its weights are named by what they were made of.
    origin = {"merged_from": checkpoint.identity(info.path), "precision": precision}
    save_weights(model, info.shape, info.config | origin, out, info.step, info.tokenizer)
    log.info("%s: the adapters of %s, of rank %d, in the weights of %s", out, info.path, info.adapters.rank, precision)
    return info.shape
