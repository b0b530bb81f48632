"""GPU-hours that others published for the same models: how far a plan's arithmetic can be trusted.

From scratch: Wang et al. 2023, arXiv:2304.06762, tables 9 to 11, 330 billion tokens, sequences of 2,048, GPT-2's
vocabulary. Retro-fitting: Wang et al. 2023, arXiv:2310.07713, tables 4 and 5, 100 billion tokens more, sequences of
4,096, 256,000 tokens of vocabulary. Both were trained on A100s, and no table says in which layout.
"""

from __future__ import annotations

from dataclasses import dataclass

from retro.model.config import ModelConfig, ModelShape
from retro.model.sizes import SIZES
from retro.planner.flops import Flops, count_flops
from retro.planner.gpus import GPUS

GPU = GPUS["a100-80g"]
CHUNK_LENGTH = 64


@dataclass(frozen=True, kw_only=True)
class Published:
    """One row: a GPT and its Retro."""

    name: str
    model: ModelConfig
    vocabulary: int
    tokens: float
    """What the hours bought."""
    global_batch: int
    """Sequences of an optimizer step."""
    gpt_hours: float
    retro_hours: float

    @property
    def flops(self) -> Flops:
        """Of our model of that size."""
        shape = ModelShape(model=self.model, vocabulary=self.vocabulary, chunk_length=CHUNK_LENGTH)
        return count_flops(shape)

    @property
    def ratio(self) -> float:
        """Hours of the Retro for each hour of the GPT."""
        return self.retro_hours / self.gpt_hours

    @property
    def gpt_utilisation(self) -> float:
        """Share of the A100's peak that the GPT reached, by our count of FLOPs."""
        return _utilisation(3 * self.flops.gpt * self.tokens, self.gpt_hours)

    @property
    def retro_utilisation(self) -> float:
        """The same for the Retro."""
        return _utilisation(self.flops.training * self.tokens, self.retro_hours)


def _utilisation(flops: float, hours: float) -> float:
    return flops / (hours * 3600 * GPU.peak)


def _row(size: str, tokens: float, batch: int, gpt: float, retro: float, **changes: object) -> Published:
    name = str(changes.pop("name", size))
    model = ModelConfig.model_validate({"size": size, **changes})
    return Published(
        name=name, model=model, vocabulary=SIZES[size].vocabulary, tokens=tokens, global_batch=batch,
        gpt_hours=gpt, retro_hours=retro,
    )  # fmt: skip


_XL = {"name": "xl", "hidden_size": 2048, "heads": 32, "query_groups": 32, "ffn_hidden_size": 8192}

PUBLISHED: list[Published] = [
    _row("small", 330e9, 256, 1240, 1560),
    _row("medium", 330e9, 256, 3600, 4480),
    _row("medium", 330e9, 512, 12_000, 13_440, **_XL),
    _row("843m", 100e9, 128, 1408, 1920),
    _row("2b", 100e9, 256, 3226, 4096),
    _row("8b", 100e9, 512, 12_698, 17_325),
    _row("22b", 100e9, 512, 37_888, 52_152),
    _row("43b", 100e9, 768, 53_329, 69_995),
]


def published_batch(size: str) -> int:
    """Sequences in a step, as published for that size; 256 for others."""
    return next((row.global_batch for row in PUBLISHED if row.name == size), 256)
