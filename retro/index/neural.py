"""Embedders with weights: sentence-transformers models, and any HuggingFace encoder, its last layer pooled.

Models are read from a folder, as safetensors, with no code from the folder and no look at the network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ConfigError
from retro.common.precision import Precision, choose
from retro.common.pretrained import longest_text
from retro.index.config import EmbedderConfig
from retro.index.embedder import Embedder, ignore
from retro.index.embeddings import token_batches
from retro.index.hashing import normalized
from retro.index.kinds import HuggingFace, SentenceTransformers
from retro.index.model_loading import load_encoder, load_sentence_transformer
from retro.index.weights import as_trained, check_model, find_model

# Dims in this file. B texts of a batch   T tokens of its longest text   D dimension


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


def pooled_positions(pooling: str, counted_BT: NDArray[np.bool_], mask_BT: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[B, T] True on the tokens whose states make the vector.

    Args:
        pooling: A setting of `EmbedderConfig.pooling`.
        counted_BT: [B, T] True on tokens of the text, without its frame.
        mask_BT: [B, T] True on tokens, the frame included; each row's begin it.
    """
    if pooling == "auto":
        return counted_BT
    if pooling in ("mean", "max"):
        return mask_BT
    places_T = np.arange(mask_BT.shape[1])
    wanted_B = np.zeros(len(mask_BT), dtype=np.int64) if pooling == "cls" else mask_BT.sum(axis=1) - 1
    at_BT: NDArray[np.bool_] = mask_BT & (places_T == wanted_B[:, None])
    return at_BT


def pooled(states_BTD: Any, weights_BT: Any, *, highest: bool) -> Any:
    """[B, D] the mean of the states at the places that are True, or value by value the highest; 0 without any."""
    import torch

    chosen_BT1 = weights_BT[..., None]
    if highest:
        found_BD = torch.where(chosen_BT1, states_BTD, -torch.inf).amax(dim=1)
        return torch.where(weights_BT.any(dim=1, keepdim=True), found_BD, 0.0)
    sums_BD = torch.where(chosen_BT1, states_BTD, 0.0).sum(dim=1)
    return sums_BD / weights_BT.sum(dim=1, keepdim=True).clamp(min=1)


# Dims in this file. N texts   B texts of a batch   T tokens of its longest text   D dimension


Float32 = NDArray[np.float32]


class Tower(ABC):
    """A model that embeds texts; an embedder has one, or one for queries and one for passages.

    Attributes:
        dimension: D, length of the vectors.
        digest: SHA-256 of the weights.
    """

    dimension: int
    digest: str

    @abstractmethod
    def embed(self, texts: Sequence[str], prefix: str, advance: Callable[[int], None]) -> Float32:
        """[N, D] float32, of whatever lengths; all zeros for a text that says nothing, whatever the prefix."""


class _NeuralEmbedder(Embedder, ABC):
    """One tower or two, and the prefixes of their texts."""

    def __init__(self, config: EmbedderConfig) -> None:
        config = as_trained(config)
        dtype = _computed_in(config.precision)
        super().__init__(config)
        self._passages = self._tower(config, dtype)
        self._queries = self._query_tower(config, dtype)
        self.dimension = self._passages.dimension
        self.identity = _identity(config, self._passages, self._queries, dtype)

    @abstractmethod
    def _tower(self, config: EmbedderConfig, dtype: str) -> Tower:
        """The model that `config.model` names."""

    def _query_tower(self, config: EmbedderConfig, dtype: str) -> Tower:
        if config.query_model is None:
            return self._passages
        settings = {"model": config.query_model, "sha256": config.query_sha256, "query_model": None}
        tower = self._tower(config.model_copy(update=settings), dtype)
        if tower.dimension != self._passages.dimension:
            need = f"needs vectors of {self._passages.dimension} values, as model has; it has {tower.dimension}"
            raise ConfigError("index.embedder.query_model", config.query_model, need)
        return tower

    @property
    def symmetric(self) -> bool:
        """See `Embedder`."""
        return self._queries is self._passages and self.config.query_prefix == self.config.passage_prefix

    def embed_queries(self, texts: Sequence[str], advance: Callable[[int], None] = ignore) -> Float32:
        """[N, D] float32, of length 1 unless `normalize` is off; all zeros for an empty text."""
        return self._finished(self._queries.embed(texts, self.config.query_prefix, advance))

    def embed_passages(self, texts: Sequence[str], advance: Callable[[int], None] = ignore) -> Float32:
        """[N, D] float32, of length 1 unless `normalize` is off; all zeros for an empty text."""
        return self._finished(self._passages.embed(texts, self.config.passage_prefix, advance))

    def _finished(self, vectors_ND: Float32) -> Float32:
        # In float32, whatever the model computed in: bfloat16 lengths are off by some thousandths.
        found_ND = np.nan_to_num(vectors_ND)
        return normalized(found_ND) if self.config.normalize else found_ND


class SentenceTransformersEmbedder(_NeuralEmbedder, SentenceTransformers):
    """A sentence-transformers folder, with the pooling it was trained with."""

    def _tower(self, config: EmbedderConfig, dtype: str) -> Tower:
        return _SentenceTransformer(config, dtype)


class HuggingFaceEmbedder(_NeuralEmbedder, HuggingFace):
    """Any HuggingFace encoder, its last layer pooled as `pooling` says.

    `auto`, for models whose tokenizer frames a text as [CLS] … [SEP], counts only tokens strictly between the two, as
    in the BERT embeddings of InstructRetro (arXiv:2310.07713); for others, all tokens.
    """

    def _tower(self, config: EmbedderConfig, dtype: str) -> Tower:
        return _Encoder(config, dtype)


class _SentenceTransformer(Tower):
    def __init__(self, config: EmbedderConfig, dtype: str) -> None:
        folder = find_model(config)
        self.digest = check_model(folder, config)
        self._model = load_sentence_transformer(folder, dtype)
        limit = self._model.max_seq_length or config.max_tokens
        self._model.max_seq_length = min(limit, config.max_tokens)
        self._batch_tokens = config.batch_tokens
        self.dimension = len(self._embed_batch([""])[0])

    def embed(self, texts: Sequence[str], prefix: str, advance: Callable[[int], None]) -> Float32:
        """See `Tower`."""
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        prefixed = [prefix + text for text in texts]
        batches = token_batches(self._lengths(prefixed), self._batch_tokens)
        vectors_ND = _embed_in_batches(prefixed, batches, self.dimension, self._embed_batch, advance)
        # The model has a vector for nothing, too; it would make all empty chunks neighbors of each other.
        vectors_ND[_blank(texts)] = 0
        return vectors_ND

    def _lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        rows = self._model.tokenizer(list(texts), truncation=True, max_length=self._model.max_seq_length)["input_ids"]
        return np.fromiter(map(len, rows), dtype=np.int64, count=len(texts))

    def _embed_batch(self, texts: Sequence[str]) -> Float32:
        vectors: Float32 = self._model.encode(list(texts), batch_size=len(texts), show_progress_bar=False)
        return vectors


class _Encoder(Tower):
    def __init__(self, config: EmbedderConfig, dtype: str) -> None:
        folder = find_model(config)
        self.digest = check_model(folder, config)
        self._model, self._tokenizer = load_encoder(folder, dtype)
        longest = longest_text(self._model, self._tokenizer, unknown=config.max_tokens)
        self._max_tokens = min(config.max_tokens, longest)
        self._batch_tokens = config.batch_tokens
        self._pooling = config.pooling
        self.dimension = int(self._model.config.hidden_size)

    def embed(self, texts: Sequence[str], prefix: str, advance: Callable[[int], None]) -> Float32:
        """See `Tower`."""
        if not texts:
            return np.zeros((0, self.dimension), dtype=np.float32)
        prefixed = [prefix + text for text in texts]
        encoded = self._tokenizer(prefixed, truncation=True, max_length=self._max_tokens, padding=False)
        rows: list[list[int]] = encoded["input_ids"]
        lengths_N = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        batches = token_batches(lengths_N, self._batch_tokens)
        vectors_ND = _embed_in_batches(rows, batches, self.dimension, self._embed_batch, advance)
        # Tokenizers add tokens of their own to nothing, and a prefix does.
        vectors_ND[_blank(texts)] = 0
        return vectors_ND

    def _embed_batch(self, rows: Sequence[list[int]]) -> Float32:
        import torch

        lengths_B = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        mask_BT = np.arange(max(int(lengths_B.max()), 1)) < lengths_B[:, None]
        ids_BT = np.full(mask_BT.shape, self._tokenizer.pad_token_id or 0, dtype=np.int64)
        ids_BT[mask_BT] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
        counted_BT = text_positions(ids_BT, mask_BT, self._tokenizer.cls_token_id, self._tokenizer.sep_token_id)
        where = self._model.device
        with torch.inference_mode():
            states_BTD = self._model(
                input_ids=torch.from_numpy(ids_BT).to(where),
                attention_mask=torch.from_numpy(mask_BT.astype(np.int64)).to(where),
            ).last_hidden_state.float()
            weights_BT = torch.from_numpy(pooled_positions(self._pooling, counted_BT, mask_BT)).to(where)
            pooled_BD = pooled(states_BTD, weights_BT, highest=self._pooling == "max")
        vectors: Float32 = pooled_BD.cpu().numpy()
        # A text without tokens of its own has no vector, whatever the state of [CLS] is.
        vectors[~counted_BT.any(axis=1)] = 0
        return vectors


def _blank(texts: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([not text.strip() for text in texts], dtype=np.bool_)


def _computed_in(precision: Precision) -> str:
    """A torch dtype by its name. What an index was begun in has been put in place of `auto` before, and logged."""
    choice = choose(precision)
    if precision == "auto" or choice.cost:
        choice.tell("index.embedder.precision")
    return choice.precision


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
    return vectors_ND


_SHAPING = ("query_prefix", "passage_prefix", "pooling", "normalize")


def _identity(config: EmbedderConfig, passages: Tower, queries: Tower, dtype: str) -> dict[str, str | int]:
    """What decides the vectors. Later settings stand in it only where they are given: earlier indexes stay valid."""
    usual = type(config).model_fields
    given = {name: getattr(config, name) for name in _SHAPING if getattr(config, name) != usual[name].default}
    second: dict[str, str | int] = {} if queries is passages else {"query_weights_sha256": queries.digest}
    return {
        "kind": config.kind,
        "weights_sha256": passages.digest,
        "dtype": dtype,
        "max_tokens": config.max_tokens,
        "dimension": passages.dimension,
        **second,
        **given,
    }
