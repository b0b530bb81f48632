"""Embedders with weights: sentence-transformers models, and any HuggingFace encoder, mean-pooled.

Models are read from a folder, as safetensors, with no code from the folder and no look at the network.
"""

# Dims in this file. N texts   B texts of a batch   T tokens of its longest text   D dimension

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import DataError, DependencyError, short_reason
from retro.common.precision import Precision, choose
from retro.index.config import EmbedderConfig
from retro.index.devices import device
from retro.index.hashing import normalized
from retro.index.texts import ignore, token_batches
from retro.index.weights import check_model, find_model

Float32 = NDArray[np.float32]


class SentenceTransformersEmbedder:
    """A sentence-transformers folder, with the pooling it was trained with."""

    def __init__(self, config: EmbedderConfig) -> None:
        folder = find_model(config)
        digest = check_model(folder, config)
        dtype = _computed_in(config.precision)
        self._model = _load_sentence_transformer(folder, dtype)
        limit = self._model.max_seq_length or config.max_tokens
        self._model.max_seq_length = min(limit, config.max_tokens)
        self._batch_tokens = config.batch_tokens
        self.dimension = len(self._embed_batch([""])[0])
        self.identity = _identity(config, digest, dtype, self.dimension)

    def embed(self, texts: Sequence[str], advance: Callable[[int], None] = ignore) -> Float32:
        """[N, D] float32 of length 1; all zeros for an empty text."""
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        batches = token_batches(self._lengths(texts), self._batch_tokens)
        vectors_ND = _embed_in_batches(texts, batches, self.dimension, self._embed_batch, advance)
        # The model has a vector for nothing, too; it would make all empty chunks neighbors of each other.
        vectors_ND[[not text.strip() for text in texts]] = 0
        return vectors_ND

    def _lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        rows = self._model.tokenizer(list(texts), truncation=True, max_length=self._model.max_seq_length)["input_ids"]
        return np.fromiter(map(len, rows), dtype=np.int64, count=len(texts))

    def _embed_batch(self, texts: Sequence[str]) -> Float32:
        vectors: Float32 = self._model.encode(list(texts), batch_size=len(texts), show_progress_bar=False)
        return vectors


class HuggingFaceEmbedder:
    """Any HuggingFace encoder: the mean of its last layer over the text's tokens.

    For models whose tokenizer frames a text as [CLS] … [SEP], only tokens strictly between the two count, as in the
    BERT embeddings of InstructRetro (arXiv:2310.07713); for others, all tokens.
    """

    def __init__(self, config: EmbedderConfig) -> None:
        folder = find_model(config)
        digest = check_model(folder, config)
        dtype = _computed_in(config.precision)
        self._model, self._tokenizer = _load_encoder(folder, dtype)
        positions = getattr(self._model.config, "max_position_embeddings", config.max_tokens)
        self._max_tokens = min(config.max_tokens, positions, self._tokenizer.model_max_length)
        self._batch_tokens = config.batch_tokens
        self.dimension = int(self._model.config.hidden_size)
        self.identity = _identity(config, digest, dtype, self.dimension)

    def embed(self, texts: Sequence[str], advance: Callable[[int], None] = ignore) -> Float32:
        """[N, D] float32 of length 1; all zeros for a text without tokens."""
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        encoded = self._tokenizer(list(texts), truncation=True, max_length=self._max_tokens, padding=False)
        rows: list[list[int]] = encoded["input_ids"]
        lengths_N = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        batches = token_batches(lengths_N, self._batch_tokens)
        return _embed_in_batches(rows, batches, self.dimension, self._embed_batch, advance)

    def _embed_batch(self, rows: Sequence[list[int]]) -> Float32:
        import torch

        lengths_B = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        mask_BT = np.arange(max(int(lengths_B.max()), 1)) < lengths_B[:, None]
        ids_BT = np.full(mask_BT.shape, self._tokenizer.pad_token_id or 0, dtype=np.int64)
        ids_BT[mask_BT] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
        counted_BT = text_positions(ids_BT, mask_BT, self._tokenizer.cls_token_id, self._tokenizer.sep_token_id)
        where = self._model.device
        with torch.inference_mode():
            states = self._model(
                input_ids=torch.from_numpy(ids_BT).to(where),
                attention_mask=torch.from_numpy(mask_BT.astype(np.int64)).to(where),
            ).last_hidden_state.float()
            weights = torch.from_numpy(counted_BT).to(where)[..., None]
            sums = torch.where(weights, states, 0.0).sum(dim=1)
        means: Float32 = sums.cpu().numpy() / np.maximum(counted_BT.sum(axis=1, keepdims=True), 1)
        return means


def _computed_in(precision: Precision) -> str:
    """A torch dtype by its name. What an index was begun in has been put in place of `auto` before, and told."""
    choice = choose(precision)
    if precision == "auto" or choice.cost:
        choice.tell("index.embedder.precision")
    return choice.precision


def text_positions(
    ids_BT: NDArray[np.int64], mask_BT: NDArray[np.bool_], cls_id: int | None, sep_id: int | None
) -> NDArray[np.bool_]:
    """[B, T] True on the tokens to average: `mask_BT` without a leading [CLS] and a trailing [SEP]."""
    counted_BT = mask_BT.copy()
    if cls_id is None or sep_id is None:
        return counted_BT
    rows_B, last_B = np.arange(len(ids_BT)), np.maximum(mask_BT.sum(axis=1) - 1, 0)
    framed_B = (ids_BT[:, 0] == cls_id) & (ids_BT[rows_B, last_B] == sep_id)
    counted_BT[framed_B, 0] = False
    counted_BT[rows_B[framed_B], last_B[framed_B]] = False
    return counted_BT


def _embed_in_batches(
    items: Sequence[Any],
    batches: Sequence[NDArray[np.int64]],
    dimension: int,
    embed_batch: Callable[[list[Any]], Float32],
    advance: Callable[[int], None],
) -> Float32:
    """Embed in batches of like length; results are in the order of `items`."""
    vectors_ND = np.zeros((len(items), dimension), dtype=np.float32)
    for batch in batches:
        vectors_ND[batch] = embed_batch([items[place] for place in batch])
        advance(len(batch))
    # In float32, whatever the model computed in: bfloat16 lengths are off by some thousandths.
    return normalized(np.nan_to_num(vectors_ND))


def _identity(config: EmbedderConfig, digest: str, dtype: str, dimension: int) -> dict[str, str | int]:
    return {
        "kind": config.kind,
        "weights_sha256": digest,
        "dtype": dtype,
        "max_tokens": config.max_tokens,
        "dimension": dimension,
    }


def _load_sentence_transformer(folder: Path, dtype: str) -> Any:
    import torch

    _quiet_and_offline()
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise _missing("sentence-transformers", error) from None
    return _load(
        folder,
        lambda: SentenceTransformer(
            str(folder),
            device=device(),
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": getattr(torch, dtype), "use_safetensors": True},
        ),
    )


def _load_encoder(folder: Path, dtype: str) -> tuple[Any, Any]:
    import torch

    _quiet_and_offline()
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise _missing("transformers", error) from None
    safe = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = _load(folder, lambda: AutoTokenizer.from_pretrained(str(folder), **safe))
    read = {"dtype": getattr(torch, dtype), "use_safetensors": True}
    model = _load(folder, lambda: AutoModel.from_pretrained(str(folder), **safe, **read))
    return model.eval().to(device()), tokenizer


def _load(folder: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    # These libraries raise nearly everything for a folder that lacks a file or names an unknown model.
    except Exception as error:  # noqa: BLE001
        reason = short_reason(error)
        raise DataError(
            folder, f"cannot be loaded as an embedding model ({reason})", "Give a complete model folder"
        ) from None


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
