"""A tiny frozen model, a tiny encoder and random samples, for tests that train a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from retro.common.files import write_plain_json
from retro.model.config import ModelShape
from retro.recipes.dynamic_prefix.config import PrefixConfig
from retro.recipes.dynamic_prefix.training.encoder_files import bert_settings
from retro.recipes.dynamic_prefix.training.parts import answer_losses, modules_of
from retro.recipes.dynamic_prefix.training.samples import PrefixSource, Sample
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.loop import Result, train
from retro.training.validation import Validation
from tests.model.tiny import VOCABULARY, tiny_shape

TOKENS = 20
"""Of the encoder."""
DOCUMENTS = 2

LLAMA: dict[str, Any] = {"normalization": "RMSNorm", "activation": "swiglu", "query_groups": 2, "retrieval": False}
GPT: dict[str, Any] = {"retrieval": False, "positions": "learned", "bias": True, "activation": "gelu_tanh"}
SETTINGS: dict[str, Any] = {
    "steps": 6,
    "micro_batch": 2,
    "global_batch": 4,
    "lr": 1e-2,
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "precision": "float32",
    "log_every": 1,
    "evaluate_every": 3,
    "save_every": 3,
    "train_only": "modules",
}


def prefix_config(**settings: Any) -> PrefixConfig:
    """An encoder of two layers of width 8, over two documents of at most six tokens."""
    encoder: dict[str, Any] = {"layers": 2, "hidden_size": 8, "heads": 2, "vocabulary": "documents"}
    encoder |= settings.pop("encoder", {})
    return PrefixConfig(**({"encoder": encoder, "documents": DOCUMENTS, "max_document_tokens": 6} | settings))


def write_encoder(directory: Path, config: PrefixConfig) -> Path:
    """Its files, with a word for each token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    directory.mkdir(parents=True, exist_ok=True)
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(TOKENS)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(directory / "tokenizer.json"))
    write_plain_json(directory / "config.json", bert_settings(config.encoder, TOKENS, config.max_document_tokens))
    return directory


def samples(number: int = 10) -> list[Sample]:
    """Random ones; number 3 has no document, number 4 one, documents are of unequal lengths."""
    random = np.random.default_rng(1)

    def some(most: int, length: int) -> tuple[int, ...]:
        return tuple(int(one) for one in random.integers(1, most, length))

    return [
        Sample(
            some(VOCABULARY, 3 + one % 3),
            some(VOCABULARY, 1 + one % 2),
            tuple(some(TOKENS, 2 + (one + place) % 5) for place in range({3: 0, 4: 1}.get(one, DOCUMENTS))),
        )
        for one in range(number)
    ]


def source(**settings: Any) -> PrefixSource:
    """Over the samples."""
    return PrefixSource(samples(), end=0, **({"documents": DOCUMENTS} | settings))


def train_base(out: Path, shape: ModelShape, steps: int = 2) -> Path:
    """A whole model, of a few steps."""
    config = TrainConfig(**(SETTINGS | {"train_only": "all", "steps": steps, "lr": 1e-3}))
    train(out=out, shape=shape, config=config, layout=ParallelConfig(), source=source(), validation=None)
    return out


def train_prefix(
    out: Path,
    base: Path,
    encoder: Path,
    config: PrefixConfig,
    model: dict[str, Any],
    layout: ParallelConfig | None = None,
    from_source: Any = None,
    **settings: Any,
) -> Result:
    """The prefix on a base."""
    given = from_source or source(multiple=4)
    return train(
        out=out,
        shape=tiny_shape(**model),
        config=TrainConfig(**(SETTINGS | settings)),
        layout=layout or ParallelConfig(),
        source=given,
        validation=Validation(source=source(multiple=4), samples=7),
        start_from=base,
        loss=answer_losses,
        modules=modules_of(encoder, config, initial=True),
    )
