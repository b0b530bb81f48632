"""Figures that others published of models and databases, beside what the formulas say.

From scratch: Wang et al. 2023, arXiv:2304.06762, tables 9 to 11, 330 billion tokens, sequences of 2,048, GPT-2's
vocabulary. Retro-fitting: Wang et al. 2023, arXiv:2310.07713, tables 4 and 5, 100 billion tokens more, sequences of
4,096, 256,000 tokens of vocabulary. Both were trained on A100s, and no table says in which layout.

Wang et al. 2023, arXiv:2310.07713, appendices A and B: 19 billion chunks of 64 tokens. Wang et al. 2023,
arXiv:2304.06762: 5.3 billion chunks. Peaks and memory: NVIDIA's datasheets of the A100 and the DGX A100.
"""

from __future__ import annotations

from dataclasses import dataclass

from retro.model.config import ModelConfig, ModelShape
from retro.model.sizes import SIZES
from retro.planning.database import EMBEDDERS, DatabasePlan
from retro.planning.faiss_bytes import index_bytes
from retro.planning.faiss_string import parse
from retro.planning.flops import Flops, count_flops
from retro.planning.gpus import GPUS

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
    def gpt_utilization(self) -> float:
        """Share of the A100's peak that the GPT reached, by our count of FLOPs."""
        return _utilization(3 * self.flops.gpt * self.tokens, self.gpt_hours)

    @property
    def retro_utilization(self) -> float:
        """The same for the Retro."""
        return _utilization(self.flops.training * self.tokens, self.retro_hours)


def _utilization(flops: float, hours: float) -> float:
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


TOKENS, ROWS, SAMPLE = 1.2e12, 19e9, 600e6
INDEX = "OPQ64_128,IVF4194304_HNSW32,PQ64"
HALF_INDEX = "OPQ64_128,IVF4194304_HNSW32,PQ32"
EMBEDDED_PER_HOUR = 6.22e6
"""Chunks, BERT-large, one A100."""
EMBEDDING_HOURS = 3054.0
"""GPU-hours."""
TRAINING_HOURS = 4.0
"""At most, on the 8 GPUs of a DGX A100."""
ADDING_HOURS = 192.0
QUERY_SECONDS = 0.004
"""Of one chunk, in batches of 40,000 on one DGX A100, nprobe 4,096 and efSearch 32."""
QUERY_NPROBE = 4096
QUERY_TOKENS, QUERY_HOURS = 100e9, 1736.0
MEMORY = 1e12
"""The index takes less than this, as the paper says."""
EARLIER_ROWS, EARLIER_MEMORY = 5.3e9, 400e9
SAVED = 20
A100_BF16, A100_FP32, A100_TF32 = 312e12, 19.5e12, 156e12
DGX_GPUS, DGX_MEMORY = 8, 2e12


@dataclass(frozen=True)
class Comparison:
    """A published figure and the formula's."""

    what: str
    unit: str
    published: float
    formula: float
    limit: bool
    """Whether the published figure is an upper limit."""
    says: str
    """What follows, in words."""

    @property
    def agrees(self) -> bool:
        """Within 2 %, or below the limit."""
        if self.limit:
            return self.formula < self.published
        return abs(self.formula / self.published - 1) <= 0.02


def published_plan(index: str = INDEX) -> DatabasePlan:
    """The database of arXiv:2310.07713."""
    return DatabasePlan(
        tokens=TOKENS, chunk_length=CHUNK_LENGTH, index=parse(index), embedder=EMBEDDERS["bert-large"],
        queries=QUERY_TOKENS / CHUNK_LENGTH, saved=SAVED, sample=SAMPLE, nprobe=QUERY_NPROBE,
    )  # fmt: skip


def embedding_utilization() -> float:
    """Share of an A100's bfloat16 peak that the published embedding reached, by our count of FLOPs."""
    return EMBEDDED_PER_HOUR / 3600 * EMBEDDERS["bert-large"].flops(CHUNK_LENGTH) / A100_BF16


def searched_per_second() -> float:
    """Bytes of codes that the published search read in a second."""
    return (published_plan().searched_bytes or 0.0) / QUERY_SECONDS


def training_speed() -> float:
    """FLOP/s of each GPU with which the published clustering takes its 4 hours."""
    return published_plan().training_flops / (TRAINING_HOURS * 3600 * DGX_GPUS)


def compare() -> list[Comparison]:
    """Every published figure beside the formula's."""
    plan, half = published_plan(), published_plan(HALF_INDEX)
    width = plan.embedder.width
    earlier = index_bytes(parse(INDEX), width, int(EARLIER_ROWS)).total
    sample = plan.memory["training, sample in float32"]
    return [
        Comparison(
            "chunks", "10^9", ROWS / 1e9, plan.rows / 1e9, False,
            "by a mean document of 2,400 tokens, which was chosen to give it",
        ),
        Comparison(
            "memory of the index", "TB", MEMORY / 1e12, plan.index_bytes.total / 1e12, True,
            f"64 bytes of code and 8 of id for each chunk: PQ64 does not fit; PQ32 would, in {_tera(half)} TB",
        ),
        Comparison(
            "memory of the earlier one", "TB", EARLIER_MEMORY / 1e12, earlier / 1e12, True,
            "5.3 billion chunks (arXiv:2304.06762) of the same 72 bytes",
        ),
        Comparison(
            "embedding, A100-hours", "h", EMBEDDING_HOURS, plan.rows / EMBEDDED_PER_HOUR, False,
            f"{embedding_utilization():.0%} of an A100's bfloat16 peak, by our count of FLOPs",
        ),
        Comparison(
            "training, memory of the sample", "TB", DGX_MEMORY / 1e12, sample / 1e12, True,
            "600 million float32 vectors: a DGX A100 (2 TB) holds two thirds, as a public script loads",
        ),
        Comparison(
            "training, TFLOP/s of each of 8 GPUs", "TF/s", A100_FP32 / 1e12, training_speed() / 1e12, True,
            f"to be done in 4 h, 10 iterations need TF32 (peak {A100_TF32 / 1e12:.0f}), or there were fewer",
        ),
        Comparison(
            "queries, hours for 10^11 tokens", "h", QUERY_HOURS, plan.queries * QUERY_SECONDS / 3600, False,
            f"4 ms each, which read {searched_per_second() / 1e9:,.0f} GB of codes a second",
        ),
    ]  # fmt: skip


def _tera(plan: DatabasePlan) -> str:
    return f"{plan.index_bytes.total / 1e12:.2f}"
