"""What a folder for transformers holds besides weights and card: settings, the modelling file, how to generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retro.common.config import config_json
from retro.common.files import read_json, write_plain_json
from retro.export.modeling import MODELING, modeling_source
from retro.export.tokenizer import CopiedTokenizer
from retro.model.config import ModelConfig, ModelShape
from retro.model.sizes import SIZES
from retro.tokenizers.conventions import Conventions


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


def keep_positions(shape: ModelShape, known: Conventions, out: Path) -> None:
    """Write into `config.json` how far the model that the weights began with reads, where that is further than it was
    trained here: its positions have no table."""
    most, begun = known.max_position_embeddings or 0, shape.model.size not in SIZES
    if begun and shape.model.positions == "rope" and most > shape.model.sequence_length:
        settings = read_json(out / "config.json", "Export again")
        write_plain_json(out / "config.json", settings | {"max_position_embeddings": most})


def _network(model: ModelConfig) -> dict[str, Any]:
    """The model section, and what follows from it; without the size that gave its defaults, which may be a folder."""
    settings = config_json(model)
    del settings["size"]
    return settings | {"cross_attention_layers": list(model.cross_attention_layers)}


def write_generation(tokenizer: CopiedTokenizer | None, out: Path, *, cache: bool) -> None:
    """Write how to generate: greedy, until a token that ends an answer.

    Args:
        tokenizer: What lies in the folder, or None.
        out: The folder.
        cache: Whether the architecture keeps keys and values between steps.
    """
    # Null says that there is none; where the key is missing, some architectures take that of their own tokenizer.
    ids: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if tokenizer is not None:
        ends = list(tokenizer.ends)
        ids = {
            "bos_token_id": tokenizer.conventions.ids.get("bos_token"),
            "eos_token_id": ends if len(ends) > 1 else ends[0],
            "pad_token_id": tokenizer.pad,
        }
    write_plain_json(out / "generation_config.json", ids | {"do_sample": False, "use_cache": cache})
