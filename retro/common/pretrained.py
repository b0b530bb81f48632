"""Models of transformers, from folders or from the HuggingFace Hub: safetensors alone, and no code that a model brings.

An embedder, a judge of entailment and a reader of answers are loaded alike; which class computes is theirs to say.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from retro.common import cache
from retro.common.errors import DataError, short_reason
from retro.common.launcher import worker_of
from retro.common.optional import import_optional

# A worker's number on its machine, as torchrun and Slurm say it.
_LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+|[\w.-]+")
_NO_LIMIT = 2**31
# No .bin, .pt or .h5: the first two are pickles, which run what they name.
_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.spm")


def device(environment: Mapping[str, str] = os.environ) -> str:
    """`cpu`, or this process's GPU: each worker of a machine has its own, and they share when there are fewer."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        return "cpu"
    local = next((environment[name] for name in _LOCAL_RANKS if name in environment), None)
    number = worker_of(environment).rank if local is None else int(local)
    return f"cuda:{number % count}"


def find_model(name: str) -> Path:
    """The folder of a model: the one of that path, or that of a repository of the Hub, which is fetched.

    Several models are to be found before the first is loaded: what loads one may keep the Hub's client off the network.

    Args:
        name: A folder, or `ORG/NAME`.

    Raises:
        DataError: There is none.
        DependencyError: It is not a folder, and the Hub's client is missing.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not _REPOSITORY.fullmatch(name):
        raise DataError(name, "is not a folder", "Give the folder of a model, or ORG/NAME of the HuggingFace Hub")
    remedy = "Check the name and the network, or download the model elsewhere and give its folder"
    return cache.fetch(name, _FILES, kind="model", extra="embed", name=name, remedy=remedy)


def load_model(
    folder: Path, loader: str, *, what: str, use: str, dtype: str = "float32", may_lack: str = ""
) -> tuple[Any, Any]:
    """A model, ready to compute where this process computes, and its tokenizer.

    Args:
        folder: With `config.json`, weights as safetensors, and the tokenizer's files.
        loader: A class of transformers: `AutoModelForQuestionAnswering`.
        what: What it is loaded as, for errors: `a reading model`.
        use: What transformers is needed for: `reads answers`.
        dtype: A torch dtype by its name.
        may_lack: A part of the model that is not used, such as `pooler`: its weights may be missing.

    Raises:
        DataError: It cannot be loaded, or lacks weights.
        DependencyError: transformers is missing.
    """
    transformers = import_optional("transformers", extra="embed", use=use)
    transformers.utils.logging.disable_progress_bar()
    import torch

    safe = {"local_files_only": True, "trust_remote_code": False}
    read = {"dtype": getattr(torch, dtype), "use_safetensors": True, "output_loading_info": True}
    tokenizer = load_from(folder, what, lambda: transformers.AutoTokenizer.from_pretrained(str(folder), **safe))
    kind = getattr(transformers, loader)
    model, info = load_from(folder, what, lambda: kind.from_pretrained(str(folder), **safe, **read))
    missing = sorted(name for name in info["missing_keys"] if not may_lack or may_lack not in name.split("."))
    if missing:
        # They would be random: a model without the part that answers says whatever it likes.
        problem = f"lacks {len(missing)} weights of a {type(model).__name__}, {missing[0]} first"
        raise DataError(folder, problem, f"Give the folder of {what} with all its weights")
    return model.eval().to(device()), tokenizer


def longest_text(model: Any, tokenizer: Any, *, unknown: int) -> int:
    """Tokens of the longest text that a model of transformers reads, with those that frame it.

    RoBERTa and its kin count positions from the one after that of padding, and have rows for those before it, too: a
    table of 514 is for texts of 512.

    Args:
        model: For its table of positions, or what its settings say of it.
        tokenizer: May know of a lower limit.
        unknown: Where neither knows one.
    """
    limits = [int(getattr(model.config, "max_position_embeddings", None) or 0), int(tokenizer.model_max_length)]
    for name, table in model.named_modules():
        if name.endswith("position_embeddings") and getattr(table, "padding_idx", None) is not None:
            limits.append(table.num_embeddings - table.padding_idx - 1)
    # XLNet says -1, having no limit, and a tokenizer that knows none 10^30.
    return min((one for one in limits if 0 < one < _NO_LIMIT), default=unknown)


def load_from(folder: Path, what: str, load: Callable[[], Any]) -> Any:
    """What `load` gives.

    Args:
        folder: Where it loads from, for errors.
        what: What it loads: `an embedding model`.
        load: Calls transformers.

    Raises:
        DataError: It fails.
    """
    try:
        return load()
    # These libraries raise nearly everything for a folder that lacks a file or names an unknown model.
    except Exception as error:  # noqa: BLE001
        reason = short_reason(error)
        raise DataError(folder, f"cannot be loaded as {what} ({reason})", "Give a complete model folder") from None
