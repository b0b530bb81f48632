"""Whether a model can start from the weights of another: what of their settings must be equal."""

from __future__ import annotations

from pathlib import Path

from retro.common.config import config_json
from retro.common.errors import TrainingError
from retro.model.config import ModelConfig, ModelShape

# These may differ between a checkpoint and the model it starts: they change no weight of the decoder.
_FREE = {
    "size",
    "dropout",
    "encoder_dropout",
    "init_std",
    "retrieval_init_std",
    "retrieval_init",
    "gate_init",
    "gate",
    "neighbors",
    "sequence_length",
    "vocabulary_multiple",
}
_RETRIEVAL = {
    "retrieval",
    "first_cross_attention",
    "cross_attention_every",
    "encoder_layers",
    "encoder_norm",
    "cross_values",
    "encoder_rope",
    "cross_rope",
}


def require_same_architecture(path: Path, theirs: ModelShape, ours: ModelShape) -> None:
    """Check that the decoder of the model at `path` is the decoder of ours.

    Raises:
        TrainingError: It is not; the differing settings are named with both values.
    """
    there, here = config_json(theirs.model), config_json(ours.model)
    # A GPT's settings for retrieval act on nothing, whether it becomes a Retro or stays a GPT.
    free = _FREE | (set() if theirs.model.retrieval else _RETRIEVAL)
    changed = [name for name in ModelConfig.model_fields if name not in free and there[name] != here[name]]
    differing = [f"model.{name} is {there[name]!r} there, {here[name]!r} here" for name in changed]
    pairs = {"vocabulary": "tokens in the tokenizer", "tokenizer": "tokenizer fingerprint"}
    if theirs.model.retrieval:
        pairs["chunk_length"] = "chunk length"
    for name, words in pairs.items():
        found, wanted = getattr(theirs, name), getattr(ours, name)
        if found and wanted and found != wanted:
            differing.append(f"{words} is {found!r} there, {wanted!r} here")
    if differing:
        raise TrainingError(
            f"{path}: is another architecture: {'; '.join(differing[:4])}. "
            "Give the model section these settings (and the corpus its tokenizer), or another checkpoint"
        )
