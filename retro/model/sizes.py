"""Named model sizes, each with where its numbers come from.

The InstructRetro sizes (Wang et al. 2023, arXiv:2310.07713, tables 4 and 5) are published as parameter counts. Layers,
width, heads and SwiGLU are what NVIDIA's public scripts set for GPTs of these names: Megatron-LM's pretraining scripts
of January 2024 for 843m and 43b, a script for question answering with the same options for all five. None sets the
feed-forward width, so it is Megatron's default for SwiGLU: 8 d / 3, cut to a multiple of 64. With the published
tokenizer's 256,000 tokens the counts come out as published (`tests/model/test_count.py`): 823.2M and 2.254B, where GELU
with 4 d would make 826.4M and 2.257B. Cross-attention starts at layer 6 up to 15 layers and at 9 above, then in every
third layer (RETRO, section 2.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.common.config import unknown_name
from retro.common.errors import ConfigError
from retro.model.convert.hf_config import CONFIG, is_folder, read_folder_config


@dataclass(frozen=True, kw_only=True)
class Size:
    """One row of the size table."""

    settings: dict[str, Any]
    """Settings of ModelConfig."""
    source: str
    """Where the numbers come from."""
    vocabulary: int = 256_000
    """Tokens assumed where no tokenizer is given (`--dry-run`)."""


def _shape(layers: int, hidden: int, heads: int, length: int) -> dict[str, Any]:
    return {
        "layers": layers,
        "hidden_size": hidden,
        "heads": heads,
        "query_groups": heads,
        "ffn_hidden_size": 4 * hidden,
        "sequence_length": length,
        "first_cross_attention": 6 if layers <= 15 else 9,
        "cross_attention_every": 3,
    }


def _instruct_retro(layers: int, hidden: int, heads: int) -> dict[str, Any]:
    return _shape(layers, hidden, heads, 4096) | {
        "activation": "swiglu",
        "ffn_hidden_size": 8 * hidden // 3 // 64 * 64,
        "zero_centered_norm": True,
        "rope_percent": 0.5,
        "init_std": 0.007,
        "encoder_dropout": 0.1,
    }


def _from_scratch(layers: int, hidden: int, heads: int) -> dict[str, Any]:
    # The counts of the GPT baselines leave room for one embedding matrix, not two.
    return _shape(layers, hidden, heads, 2048) | {
        "tied_embeddings": True,
        "positions": "learned",
        "encoder_rope": False,
    }


_PUBLISHED = "count published in arXiv:2310.07713"
_PRETRAINED = "shape and SwiGLU confirmed by NVIDIA's pretraining script, feed-forward width inferred"
_ANSWERED = "shape and SwiGLU from an NVIDIA script that answers with it, feed-forward width inferred"

SIZES: dict[str, Size] = {
    "tiny": Size(
        # A width of 128 learns slowly from the usual 0.02: after one epoch of the quickstart's text a GPT has a
        # validation perplexity of 196 with it and of 159 with 0.06.
        settings=_shape(4, 128, 4, 256)
        | {
            # Llama's, so that other toolkits open its GPT, or its decoder alone, as a Llama; and it learns faster: on
            # the validation text of pystdlib.yaml a GPT has a perplexity of 174.8 where GELU and LayerNorm have 181.0,
            # Retro 185.6 and 190.3. 344 is 8 d / 3 to the nearest multiple of 8: as many weights as GELU with 4 d.
            "activation": "swiglu",
            "normalization": "RMSNorm",
            "ffn_hidden_size": 344,
            "first_cross_attention": 2,
            "cross_attention_every": 2,
            "init_std": 0.06,
        },
        source="ours: trains in minutes on two CPU cores",
        vocabulary=4_096,
    ),
    "small": Size(
        settings=_from_scratch(12, 768, 12),
        source="Wang et al. 2023, arXiv:2304.06762, table 9: 12 layers, 768, 126M / 148M with GPT-2 BPE",
        vocabulary=50_257,
    ),
    "medium": Size(
        settings=_from_scratch(24, 1024, 16),
        source="arXiv:2304.06762, table 9: 24 layers, 1024, 357M / 410M with GPT-2 BPE",
        vocabulary=50_257,
    ),
    "843m": Size(
        settings=_instruct_retro(24, 1024, 16),
        source=f"{_PUBLISHED} (823M -> 878M); {_PRETRAINED}",
    ),
    "2b": Size(settings=_instruct_retro(24, 2048, 16), source=f"{_PUBLISHED} (2.25B -> 2.5B); {_ANSWERED}"),
    "8b": Size(
        settings=_instruct_retro(32, 4096, 32),
        # Three scripts have SwiGLU; Megatron-LM's for quantizing an 8B GPT of this shape has squared ReLU and 4 d. They
        # make 8.523B and 9.529B, or 8.540B and 9.547B: both are the published counts.
        source=f"{_PUBLISHED} (8.5B -> 9.5B); {_ANSWERED}; one script has squared ReLU, which has that count too",
    ),
    "22b": Size(
        settings=_instruct_retro(40, 6144, 48),
        # 6144 is a multiple of 3 and 64: SwiGLU has exactly the weights of GELU.
        source=f"{_PUBLISHED} (22B -> 24B; this is 21.3B -> 24.0B); {_ANSWERED}",
    ),
    "43b": Size(settings=_instruct_retro(48, 8192, 64), source=f"{_PUBLISHED} (43B -> 48B); {_PRETRAINED}"),
}


def find_size(name: str) -> Size:
    """The row of the table, or a HuggingFace folder's own settings as such a row.

    Raises:
        ConfigError: It is neither.
        DataError: The folder's architecture is not supported.
    """
    if name in SIZES:
        return SIZES[name]
    if is_folder(Path(name)):
        found = read_folder_config(Path(name))
        return Size(settings=found.settings, source=f"{name}/{CONFIG} ({found.family})", vocabulary=found.vocabulary)
    if "/" in name or Path(name).is_dir():
        need = f"needs a size ({', '.join(SIZES)}) or a HuggingFace folder; there is no {CONFIG} with a model_type"
        raise ConfigError("ModelConfig.size", name, need)
    raise ConfigError("ModelConfig.size", name, unknown_name(name, list(SIZES)).replace("setting", "size"))
