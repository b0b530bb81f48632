"""What a folder for transformers holds besides weights and card: settings, the modelling file, how to generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retro.common.config import config_json
from retro.common.files import write_plain_json
from retro.export.modeling import MODELING, modeling_source
from retro.model.config import ModelConfig, ModelShape


def write_retro(shape: ModelShape, dtype: str, out: Path) -> None:
    """Write `config.json` and the modelling file.

    Args:
        shape: The model, its vocabulary without padding.
        dtype: Precision of the weights, as torch calls it.
        out: The folder.
    """
    write_plain_json(out / "config.json", retro_config(shape) | {"dtype": dtype})
    (out / MODELING).write_text(modeling_source(), encoding="utf-8")


def retro_config(shape: ModelShape) -> dict[str, Any]:
    """The settings of RetroForCausalLM, with the sizes that other programs look for under the names they know."""
    model = shape.model
    module = MODELING.removesuffix(".py")
    return {
        "architectures": ["RetroForCausalLM"],
        "auto_map": {"AutoConfig": f"{module}.RetroConfig", "AutoModelForCausalLM": f"{module}.RetroForCausalLM"},
        "model_type": "instruct_retro",
        "vocab_size": shape.vocabulary,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "max_position_embeddings": model.sequence_length,
        "chunk_length": shape.chunk_length,
        "retrieved_length": shape.retrieved_length,
        "tie_word_embeddings": model.tied_embeddings,
        "use_cache": False,
        "network": _network(model),
    }


def _network(model: ModelConfig) -> dict[str, Any]:
    """The model section, and what follows from it; without the size that gave its defaults, which may be a folder."""
    settings = config_json(model)
    del settings["size"]
    return settings | {"cross_attention_layers": list(model.cross_attention_layers)}


def write_generation(eod: int | None, out: Path, *, cache: bool) -> None:
    """Write how to generate: greedy, until the token that ends a document.

    Args:
        eod: Its id; None when the folder has no tokenizer.
        out: The folder.
        cache: Whether the architecture keeps keys and values between steps.
    """
    # Null says that there is none; where the key is missing, some architectures take that of their own tokenizer.
    ids = {"bos_token_id": None, "eos_token_id": eod, "pad_token_id": eod}
    write_plain_json(out / "generation_config.json", ids | {"do_sample": False, "use_cache": cache})
