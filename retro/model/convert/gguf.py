"""A `.gguf` file, as llama.cpp reads them, to a HuggingFace folder: weights, settings, tokenizer, chat template.

Quantised weights become the float32 numbers that they stand for, so that nothing is rounded twice; float16 and bfloat16
stay as they are. Known from llama.cpp's public code: names of settings and tensors, and that the rows of a Llama's
queries and keys are pair by pair, where HuggingFace has first halves before second halves.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from retro.common.cache import cached_folder
from retro.common.errors import DataError, short_reason
from retro.common.files import sampled_sha256, write_plain_json
from retro.common.optional import import_optional
from retro.model.convert.gguf_tokenizer import write_tokenizer
from retro.model.convert.hf_config import CONFIG, LLAMA_3_ROPE, parse_config
from retro.model.convert.safe_files import write_safetensors

log = logging.getLogger(__name__)

SUFFIX = ".gguf"
_FORMAT = 2
"""Part of the cache's key: counts changes of what is written for a file."""
_MOST_BASE_MODELS = 100
_REMEDY = "Fetch the file again, or give the model's HuggingFace folder"
# What of each architecture's settings differs from a Llama's.
_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "qwen2": {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False},
    "qwen3": {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "use_sliding_window": False},
}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ROPE = "rope_freqs.weight"
_READ = {
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "block_count", "context_length", "embedding_length", "feed_forward_length", "rope.dimension_count",
    "rope.freq_base", "rope.scaling.type", "vocab_size",
}  # fmt: skip
"""Settings of an architecture that make its config.json."""
_CHANGES_NOTHING: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.scale": (0.0,),
    "logit_scale": (0.0, 1.0),
    "rope.scale_linear": (0.0, 1.0),
}
"""Others, at values that leave the function as it is."""


def folder_of(file: Path) -> Path:
    """The HuggingFace folder of a `.gguf` file, made once and kept in the cache.

    Raises:
        DataError: The file is damaged, or of an architecture or tokenizer that is not supported.
        DependencyError: The package `gguf` is missing.
        ArtifactError: The disk is full.
    """
    if not file.is_file():
        raise DataError(file, "no such file", "Check the path")
    # The name stands for the model in logs and reports.
    name = "".join(letter if letter.isascii() and (letter.isalnum() or letter in ".-") else "_" for letter in file.stem)
    key = f"{name[:80]}-{sampled_sha256(file)[:16]}-{_FORMAT}"
    return cached_folder("gguf", key, lambda folder: convert_gguf(file, folder))


def convert_gguf(file: Path, out: Path) -> None:
    """Write the HuggingFace folder of a `.gguf` file into an empty folder.

    Raises:
        DataError: As `folder_of`.
    """
    log.info("%s: converting; its tensors are kept as a HuggingFace folder, and found there the next time", file)
    found = GgufFile(file)
    try:
        config = _config(found)
        write_tokenizer(found, out)
    # A setting may be of another kind than its name says: a text where a number belongs, a list that is too short.
    except (AttributeError, TypeError, ValueError, ArithmeticError) as error:
        problem = f"has settings that describe no model ({short_reason(error)})"
        raise DataError(file, problem, _REMEDY) from None
    # Refuses sizes that cannot be before a tensor is read.
    parse_config(config, file)
    write_plain_json(out / CONFIG, config)
    _write_weights(found, config, out)
    _write_card(found, out)


def _write_weights(found: GgufFile, config: dict[str, Any], out: Path) -> None:
    tensors = {_name(found, name): name for name in found.tensors if name != _ROPE}
    sizes = {theirs: found.bytes(name) for theirs, name in tensors.items()}
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    paired = heads if found.architecture == "llama" else {}

    def make(theirs: str) -> Tensor:
        weight, part = found.read(tensors[theirs]), theirs.split(".")[-2]
        if part not in paired:
            return weight
        if weight.dim() != 2 or len(weight) % (2 * paired[part]):
            problem = f"holds {tensors[theirs]} as {list(weight.shape)}, which {paired[part]} heads do not divide"
            raise DataError(found.path, problem, _REMEDY)
        return _halves_apart(weight, paired[part])

    write_safetensors(sizes, make, out)


def _bounded(reader: Any) -> Any:
    """The library's reader, which past the end of a file finds nothing and continues, for as many entries as a damaged
    file claims to have: this one stops there."""

    class Bounded(reader):
        def _get(self, offset: int, dtype: Any, count: int = 1, **others: Any) -> Any:
            if int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ValueError("it is cut short")
            return super()._get(offset, dtype, count, **others)

    return Bounded


class GgufFile:
    """The settings of a `.gguf` file by name, and its tensors, which stay on disk until they are read."""

    def __init__(self, path: Path) -> None:
        """Read the settings.

        Raises:
            DataError: The file is damaged, or of an architecture that is not supported.
            DependencyError: The package `gguf` is missing.
        """
        self._library = import_optional("gguf", extra="gguf", use="reads .gguf files")
        self.path = path
        try:
            reader = _bounded(self._library.GGUFReader)(path)
            self.settings = {name: field.contents() for name, field in reader.fields.items()}
            self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        # The library reads numbers wherever the file's own say that they are.
        except (OSError, ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError) as error:
            problem = f"is not a whole .gguf file ({type(error).__name__}: {short_reason(error)})"
            raise DataError(path, problem, _REMEDY) from None
        self.architecture = str(self.settings.get("general.architecture"))
        if self.architecture not in _ARCHITECTURES:
            problem = f"is of architecture {self.architecture[:40]!r}; supported are {', '.join(_ARCHITECTURES)}"
            raise DataError(path, problem, "Give the model's HuggingFace folder, where more families are supported")

    def of_model(self, name: str, default: Any = None) -> Any:
        """A setting of the architecture.

        Raises:
            DataError: It is missing, and there is no default.
        """
        return self.get(f"{self.architecture}.{name}", default)

    def get(self, name: str, default: Any = None) -> Any:
        """A setting by its whole name; see `of_model`."""
        found = self.settings.get(name, default)
        if found is None:
            raise DataError(self.path, f"lacks the setting {name}", _REMEDY)
        return found

    def bytes(self, name: str) -> int:
        """Bytes of a tensor as it is written."""
        tensor = self.tensors[name]
        return int(np.prod(tensor.shape)) * (2 if tensor.tensor_type.name in ("F16", "BF16") else 4)

    def read(self, name: str) -> Tensor:
        """A whole tensor, rows first.

        Raises:
            DataError: It is quantised in a way that the library cannot undo, or damaged.
        """
        tensor = self.tensors[name]
        size = tuple(int(length) for length in reversed(tensor.shape))
        try:
            if tensor.tensor_type.name == "BF16":
                return torch.from_numpy(np.array(tensor.data)).view(torch.bfloat16).reshape(size)
            if tensor.tensor_type.name == "F16":
                return torch.from_numpy(np.array(tensor.data)).reshape(size)
            plain = self._library.quants.dequantize(tensor.data, tensor.tensor_type)
            return torch.from_numpy(np.array(plain, dtype=np.float32)).reshape(size)
        # The library raises NotImplementedError for kinds of quantisation that it cannot undo.
        except (NotImplementedError, ValueError, RuntimeError) as error:
            kind = tensor.tensor_type.name
            problem = f"holds {name} as {kind}, which cannot be read ({short_reason(error)})"
            raise DataError(self.path, problem, _REMEDY) from None


def _config(found: GgufFile) -> dict[str, Any]:
    """config.json."""
    _require_known(found)
    heads, hidden = int(found.of_model("attention.head_count")), int(found.of_model("embedding_length"))
    scaling = found.of_model("rope.scaling.type", "none")
    if scaling != "none":
        raise DataError(found.path, f"has rope.scaling.type = {scaling!r}, which is not supported", _REMEDY)
    width = int(found.of_model("attention.key_length", hidden // max(heads, 1)))
    if int(found.of_model("attention.value_length", width)) != width:
        raise DataError(found.path, "has values of another width than keys, which is not supported", _REMEDY)
    if int(found.of_model("rope.dimension_count", width)) != width:
        raise DataError(found.path, "rotates a part of each head, which is not supported", _REMEDY)
    config = {
        "hidden_size": hidden,
        "intermediate_size": int(found.of_model("feed_forward_length")),
        "num_hidden_layers": int(found.of_model("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(found.of_model("attention.head_count_kv", heads)),
        "head_dim": width,
        "hidden_act": "silu",
        "max_position_embeddings": int(found.of_model("context_length")),
        # Stored in float32: 1e-5 comes back as 9.9999997e-06.
        "rms_norm_eps": float(f"{found.of_model('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": float(found.of_model("rope.freq_base", 10_000.0)),
        "rope_scaling": _rope_scaling(found, width),
        "tie_word_embeddings": "output.weight" not in found.tensors,
        "vocab_size": len(found.get("tokenizer.ggml.tokens")),
        "bos_token_id": found.settings.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": found.settings.get("tokenizer.ggml.eos_token_id"),
    }
    return _ARCHITECTURES[found.architecture] | config


def _require_known(found: GgufFile) -> None:
    """Refuse settings of the architecture that may change what it computes and are not read here."""
    for name, value in found.settings.items():
        setting = name.removeprefix(f"{found.architecture}.")
        if setting == name or setting in _READ or value in _CHANGES_NOTHING.get(setting, (0, None, "", [])):
            continue
        problem = f"has {name[:60]} = {str(value)[:40]}, which may change what the model computes and is not known here"
        raise DataError(found.path, problem, _REMEDY)


def _rope_scaling(found: GgufFile, width: int) -> dict[str, Any] | None:
    """Llama 3.1's scaling, which such a file holds as a factor for each pair; the largest is that of the config."""
    if _ROPE not in found.tensors:
        return None
    factors = found.read(_ROPE).double()
    factor, base = float(factors.max()), float(found.of_model("rope.freq_base"))
    period = 2 * torch.pi * base ** (torch.arange(0, width, 2, dtype=torch.double) / width)
    kept = ((LLAMA_3_ROPE["original_max_position_embeddings"] / period - 1) / 3).clamp(0, 1)
    usual = 1 / (kept + (1 - kept) / factor)
    if factors.shape != usual.shape or not torch.allclose(factors, usual, rtol=1e-3):
        raise DataError(found.path, "scales rotary periods otherwise than Llama 3.1 does (rope_freqs)", _REMEDY)
    return LLAMA_3_ROPE | {"rope_type": "llama3", "factor": factor}


def _name(found: GgufFile, name: str) -> str:
    """The HuggingFace name of a tensor."""
    part, _, kind = name.rpartition(".")
    if part in _WHOLE:
        return f"{_WHOLE[part]}.{kind}"
    block, _, part = part.partition(".")[2].partition(".")
    if part not in _LAYER or not block.isdecimal():
        problem = f"has the tensor {name[:60]!r}, which a {found.architecture} has no place for"
        raise DataError(found.path, problem, _REMEDY)
    return f"model.layers.{block}.{_LAYER[part]}.{kind}"


def _halves_apart(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head from pair by pair to first halves, then second halves."""
    paired = weight.unflatten(0, (heads, -1, 2))
    return paired.transpose(1, 2).flatten(0, 2).contiguous()


def _write_card(found: GgufFile, out: Path) -> None:
    """What the file says of itself, as the head of a model card."""
    said = {"license": "license", "license.name": "license_name", "license.link": "license_link"}
    said |= {"name": "model_name", "organization": "organization"}
    head: dict[str, Any] = {}
    for name, theirs in said.items():
        value = found.settings.get(f"general.{name}")
        if isinstance(value, str) and value.strip():
            head[theirs] = " ".join(value.split())
    head |= {"base_model": models} if (models := _base_models(found)) else {}
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    text = f"---\n{front}---\nConverted from `{found.path.name}`.\n"
    (out / "README.md").write_text(text, encoding="utf-8")


def _base_models(found: GgufFile) -> list[str]:
    """What the model was made from: names on the hub where the file has their addresses, else as it calls them."""
    count = found.settings.get("general.base_model.count", 0)
    models = []
    for number in range(min(count, _MOST_BASE_MODELS) if isinstance(count, int) else 0):
        said = {
            name: " ".join(str(found.settings.get(f"general.base_model.{number}.{name}", "")).split())
            for name in ("repo_url", "organization", "name")
        }
        _, hub, repository = said["repo_url"].partition("huggingface.co/")
        named = "/".join(filter(None, (said["organization"], said["name"]))).replace(" ", "-")
        models.append(repository.strip("/") if hub else named if said["name"] else "")
    return list(filter(None, models))
