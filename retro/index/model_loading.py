"""Embedding models from folders: as safetensors, with no code from the folder and no look at the network."""

from __future__ import annotations

import os
from operator import attrgetter
from pathlib import Path
from typing import Any

from retro.common.errors import DataError, DependencyError
from retro.common.files import read_json
from retro.common.pretrained import device, load_from, longest_text

_WHAT = "an embedding model"


def load_sentence_transformer(folder: Path, dtype: str) -> Any:
    """A sentence-transformers model, computing in the torch dtype of that name, where this process computes.

    Raises:
        DataError, DependencyError: It cannot be loaded.
    """
    import torch

    _quiet_and_offline()
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise _missing("sentence-transformers", error) from None
    model = load_from(
        folder,
        _WHAT,
        lambda: SentenceTransformer(
            str(folder),
            device=device(),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": getattr(torch, dtype), "use_safetensors": True},
        ),
    )
    limit_length(model)
    return model


def limit_length(model: Any) -> None:
    """Have a sentence-transformers model cut texts to what its encoder reads, where it would read on and fail."""
    encoder = getattr(model[0], "auto_model", None)
    if encoder is not None and model.max_seq_length:
        most = model.max_seq_length
        model.max_seq_length = min(most, longest_text(encoder, model.tokenizer, unknown=most))


def load_encoder(folder: Path, dtype: str) -> tuple[Any, Any]:
    """An encoder of transformers and its tokenizer, as above.

    Raises:
        DataError, DependencyError: It cannot be loaded, or lacks weights.
    """
    import torch

    _quiet_and_offline()
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise _missing("transformers", error) from None
    safe = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = load_from(folder, _WHAT, lambda: AutoTokenizer.from_pretrained(str(folder), **safe))
    read = {"dtype": getattr(torch, dtype), "use_safetensors": True, "output_loading_info": True}
    loader, part = _loader(folder, AutoModel)
    model, info = load_from(folder, _WHAT, lambda: loader.from_pretrained(str(folder), **safe, **read))
    # The pooler of a BERT is not asked, and many folders are without it.
    missing = sorted(name for name in info["missing_keys"] if "pooler" not in name.split("."))
    if missing:
        problem = f"lacks {len(missing)} weights of a {type(model).__name__}, {missing[0]} first"
        raise DataError(folder, problem, "Give the folder of an encoder with all its weights")
    encoder = attrgetter(part)(model) if part else model
    return encoder.eval().to(device()), tokenizer


_DPR = {"DPRContextEncoder": "ctx_encoder.bert_model", "DPRQuestionEncoder": "question_encoder.bert_model"}
"""Both towers of DPR have the same type of config, by which transformers always takes the one for questions."""


def _loader(folder: Path, usual: Any) -> tuple[Any, str]:
    """The class that loads a folder, and where in the model its encoder is; empty: it is all of it."""
    import transformers

    file = folder / "config.json"
    if not file.is_file():
        return usual, ""
    settings = read_json(file, "Give a complete model folder", dict[str, Any], error=DataError)
    name = next((one for one in settings.get("architectures") or () if one in _DPR), "")
    if not name:
        return usual, ""
    if settings.get("projection_dim"):
        raise DataError(folder, "projects its vectors, which is not read", "Give a DPR model with projection_dim 0")
    return getattr(transformers, name), _DPR[name]


def _quiet_and_offline() -> None:
    # Read at the first import of the libraries: a local folder must not make them look at the network.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        from transformers.utils import logging as transformers_logging
    except ImportError:
        return
    transformers_logging.disable_progress_bar()


def _missing(package: str, error: ImportError) -> DependencyError:
    return DependencyError(package, f"cannot be imported ({error})", 'Run `pip install "instruct-retro[embed]"`')
