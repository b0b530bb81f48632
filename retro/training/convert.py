"""A checkpoint of another toolkit, written as one of this one: what can be tuned, asked, measured and exported.

Nothing but weights comes along, so a run goes on from it with a clean optimizer: `retro pretrain --load OUT
--finetune`, or `sft.start_from=OUT`.
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from retro.common.errors import ConfigError
from retro.mcore import parallel
from retro.model.config import ModelShape
from retro.model.convert.legacy import LegacyCheckpoint
from retro.model.model import BuildOptions, RetroModel
from retro.training.saver import save_weights

log = logging.getLogger(__name__)


def convert(folder: Path, out: Path, *, chunk_length: int | None = None, vocabulary: int | None = None) -> ModelShape:
    """Convert a checkpoint of Megatron-LM's legacy GPT or Retro model.

    It takes one process and as much memory as the weights in their own precision.

    Args:
        folder: The folder that holds `latest_checkpointed_iteration.txt`.
        out: The checkpoint to write; must not exist.
        chunk_length: Tokens of a chunk, M; None takes what the checkpoint says, or the published 64.
        vocabulary: Tokens in the tokenizer; None takes what the checkpoint says, or all rows of the embedding.

    Returns:
        The model.

    Raises:
        ConfigError: `out` exists, or the vocabulary is larger than the embedding.
        DataError: The checkpoint cannot be used as it is.
    """
    if out.exists():
        raise ConfigError("OUT", str(out), "needs a path where nothing is yet")
    source = LegacyCheckpoint(folder)
    shape = _with(source.shape, chunk_length, vocabulary)
    source.require(shape)
    parallel.start()
    parallel.seed(0)
    model = RetroModel(shape, BuildOptions(bfloat16=source.dtype == torch.bfloat16))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(source.read(name))
    save_weights(model, shape, {"converted_from": folder.name}, out)
    layers = ", ".join(map(str, shape.model.cross_attention_layers)) or "none"
    log.info(
        "%s: %d weights of %s; layers that read neighbors: %s; chunks of %d; %d tokens",
        out, len(source.names), folder, layers, shape.chunk_length, shape.vocabulary,
    )  # fmt: skip
    return shape


def _with(shape: ModelShape, chunk_length: int | None, vocabulary: int | None) -> ModelShape:
    rows = shape.padded_vocabulary
    if vocabulary is not None and vocabulary > rows:
        raise ConfigError("--vocabulary", vocabulary, f"needs at most the {rows} rows of the embedding")
    tokens = vocabulary or shape.vocabulary
    multiple = 128 if -(-tokens // 128) * 128 == rows else rows
    return shape.model_copy(
        update={
            "chunk_length": chunk_length or shape.chunk_length,
            "vocabulary": tokens,
            "model": shape.model.model_copy(update={"vocabulary_multiple": multiple}),
        }
    )
