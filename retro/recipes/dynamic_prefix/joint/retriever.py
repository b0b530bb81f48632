"""The retriever as a module that is trained beside the language model, and written as a folder that embeds.

It pools as the embedder of the same settings does (retro/index/neural.py), so what is trained is what is served.
"""

# Dims in this file. R texts   T tokens of the longest   E width of a vector

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from retro.common.errors import DataError
from retro.common.files import discard, read_json, write_json
from retro.common.pretrained import longest_text
from retro.index.config import EmbedderConfig
from retro.index.embeddings import token_batches
from retro.index.model_loading import load_encoder, load_sentence_transformer
from retro.index.neural import pooled, pooled_positions, text_positions
from retro.index.weights import check_model, find_model

RETRIEVER = "retriever"
"""The name of the module in `training.train(modules=...)`; in the model it is `added_retriever`."""
SETTINGS = "embedder.json"
"""Beside the trained folders: the settings of the embedder that they make."""
PAD, FRAME, COUNTED = 0, 1, 2
"""Marks of a token: padding; one that is read; one that is read, and whose state makes the vector."""


@dataclass(frozen=True)
class Encoded:
    """Texts as a tower reads them."""

    ids_RT: NDArray[np.int64]
    marks_RT: NDArray[np.int8]
    """PAD, FRAME or COUNTED."""


class Tower(nn.Module):
    """One encoder, from marked tokens to vectors.

    Attributes:
        model: A sentence-transformers model, or an encoder of transformers.
    """

    def __init__(self, config: EmbedderConfig, name: str, sha256: str | None) -> None:
        """Load a model in float32.

        Args:
            config: What embedder it is.
            name: Folder or name of the model.
            sha256: Of its weights, where it has to be that.

        Raises:
            DataError, DependencyError: It is missing or cannot be loaded.
        """
        super().__init__()
        own = config.model_copy(update={"model": name, "sha256": sha256})
        folder = find_model(own)
        check_model(folder, own)
        self.config = config
        model: Any
        if config.kind == "sentence_transformers":
            model = load_sentence_transformer(folder, "float32")
            tokenizer, limit = model.tokenizer, model.max_seq_length or config.max_tokens
        else:
            model, tokenizer = load_encoder(folder, "float32")
            limit = longest_text(model, tokenizer, unknown=config.max_tokens)
        self.tokenizer, self._most = tokenizer, min(limit, config.max_tokens)
        for part in model.modules():
            # Not asked, so its gradient would be none, and weight decay alone would move it.
            if isinstance(getattr(part, "pooler", None), nn.Module):
                part.pooler = None
        self.model = model

    def encode(self, texts: Sequence[str], prefix: str = "") -> Encoded:
        """Texts as marked tokens, padded to the longest.

        Args:
            texts: At least one, none of them blank: a text without tokens has no vector.
            prefix: Put before each.

        Raises:
            DataError: One is blank.
        """
        blank = next((number for number, text in enumerate(texts) if not text.strip()), None)
        if blank is not None:
            problem = f"text {blank} of {len(texts)} is blank"
            raise DataError("retriever", problem, "Leave out documents and questions without a text")
        rows = self.tokenizer([prefix + text for text in texts], truncation=True, max_length=self._most)["input_ids"]
        lengths_R = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        real_RT = np.arange(int(lengths_R.max(initial=1))) < lengths_R[:, None]
        ids_RT = np.full(real_RT.shape, self.tokenizer.pad_token_id or 0, dtype=np.int64)
        ids_RT[real_RT] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
        counted_RT = text_positions(ids_RT, real_RT, self.tokenizer.cls_token_id, self.tokenizer.sep_token_id)
        counted_RT = pooled_positions(self.config.pooling, counted_RT, real_RT)
        return Encoded(ids_RT, (real_RT.astype(np.int8) * FRAME + counted_RT).astype(np.int8))

    def forward(self, ids_RT: Tensor, marks_RT: Tensor) -> Tensor:
        """[R, E] float32 vectors, of length 1 where the settings say so; 0 for a row that is all padding."""
        there_R = (marks_RT != PAD).any(dim=1)
        # An encoder that attends to nothing gives NaN: such a row reads its first pad, and its vector is dropped.
        real_RT = (marks_RT != PAD) | (
            ~there_R[:, None] & (torch.arange(marks_RT.size(1), device=marks_RT.device) == 0)
        )
        model: Callable[..., Any] = self.model
        if self.config.kind == "sentence_transformers":
            found = model({"input_ids": ids_RT, "attention_mask": real_RT.long()})["sentence_embedding"].float()
        else:
            states = model(input_ids=ids_RT, attention_mask=real_RT.long()).last_hidden_state.float()
            found = pooled(states, marks_RT == COUNTED, highest=self.config.pooling == "max")
        found_RE: Tensor = functional.normalize(found, dim=-1) if self.config.normalize else found
        return torch.where(there_R[:, None], found_RE, 0.0)


class JointRetriever(nn.Module):
    """One tower for questions and documents, or two."""

    def __init__(self, config: EmbedderConfig, *, separate: bool) -> None:
        """Load the model that the settings name.

        Args:
            config: What embedder to start from.
            separate: Two towers.

        Raises:
            DataError, DependencyError: It is missing or cannot be loaded.
        """
        super().__init__()
        self.config = config
        self.document = Tower(config, str(config.model), config.sha256)
        self.question_tower: Tower | None = None
        if separate:
            second = (config.query_model, config.query_sha256) if config.query_model else (config.model, config.sha256)
            self.question_tower = Tower(config, str(second[0]), second[1])

    @property
    def question(self) -> Tower:
        """The tower of questions."""
        return self.document if self.question_tower is None else self.question_tower

    def encode_questions(self, texts: Sequence[str]) -> Encoded:
        """Questions as marked tokens."""
        return self.question.encode(texts, self.config.query_prefix)

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        """Documents as marked tokens."""
        return self.document.encode(texts, self.config.passage_prefix)

    def embed_questions(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[R, E] vectors of questions, without gradients."""
        return _embedded(self.question, self.encode_questions(texts), self.config.batch_tokens)

    def embed_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[R, E] vectors of documents, without gradients."""
        return _embedded(self.document, self.encode_documents(texts), self.config.batch_tokens)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write what `EmbedderConfig` loads: `document/`, with two towers `question/`, and the settings.

        Args:
            folder: Written from nothing: what is there is removed.

        Returns:
            The settings, paths as they are in the folder.
        """
        discard(folder)
        folder.mkdir(parents=True)
        _save(self.document, folder / "document")
        changed: dict[str, Any] = {"model": "document", "sha256": None, "query_model": None, "query_sha256": None}
        if self.question_tower is not None:
            _save(self.question_tower, folder / "question")
            changed["query_model"] = "question"
        settings = self.config.model_copy(update=changed).model_dump(mode="json")
        write_json(folder / SETTINGS, settings)
        return settings


def trained_embedder(folder: Path) -> EmbedderConfig:
    """The settings of the embedder that `JointRetriever.save` wrote into a folder, wherever it is now.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    settings = read_json(folder / SETTINGS, "Run the step `joint` again")
    names = {name: str(folder / settings[name]) for name in ("model", "query_model") if settings[name]}
    return EmbedderConfig(**(settings | names))


def _save(tower: Tower, folder: Path) -> None:
    # As the settings load it: in fp32, whatever it was trained in. A copy, without what training hung on it.
    model: Any = copy.deepcopy(tower.model).to(device="cpu", dtype=torch.float32)
    tokenizer = model.tokenizer if tower.config.kind == "sentence_transformers" else tower.tokenizer
    if getattr(tokenizer, "is_fast", False):
        # Left over from the last texts, and written with the rest.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    if tower.config.kind == "sentence_transformers":
        model.save(str(folder), create_model_card=False)
        return
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def _embedded(tower: Tower, texts: Encoded, batch_tokens: int) -> NDArray[np.float32]:
    """[R, E] vectors of at least one text; those of like length together, results in their order."""
    where = next(tower.parameters()).device
    lengths_R = (texts.marks_RT != PAD).sum(axis=1)
    found = np.zeros((len(lengths_R), 0), dtype=np.float32)
    with torch.inference_mode():
        for batch in token_batches(lengths_R, batch_tokens):
            length = int(lengths_R[batch].max())
            ids, marks = (torch.from_numpy(one[batch, :length]) for one in (texts.ids_RT, texts.marks_RT))
            vectors = tower(ids.to(where), marks.to(where)).cpu().numpy()
            if not found.size:
                found = np.zeros((len(lengths_R), vectors.shape[1]), dtype=np.float32)
            found[batch] = vectors
    return found
