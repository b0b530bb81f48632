"""Rates of this machine, from small benchmarks of some seconds each, and what a large database would take at them.

How they are extrapolated: one layer of an encoder stands for all of them; clustering goes with sample x lists; finding
a vector's lists with their number, or over a graph with its logarithm and with the lists searched; reading codes with
their bytes.
"""

# Dims in this file. N vectors   D values of a vector

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.index.faiss_loader import load_faiss
from retro.planning.database import FRAME, PER_CENTROID, DatabasePlan, EmbedderShape
from retro.planning.faiss_bytes import coarse_work, code_bytes, training_flops
from retro.planning.faiss_string import FaissString

VECTORS = 50_000
LISTS = 512
QUERIES = 500
_TEXTS = 64
_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What this machine did."""

    machine: str
    threads: int
    device: str
    embedding_flops: float
    """FLOP/s in one encoder layer."""
    clustering_flops: float
    """FLOP/s in k-means; 0 without inverted lists."""
    built: str
    """The index that was built."""
    vectors: int
    share: float
    """Of the threads' time that this machine gave to adding them; well below 1, other work held it up."""
    add_seconds: float
    """Of one vector, in an index of `built`."""
    nprobe: int
    """Lists that were searched for a query."""
    coarse_seconds: float
    """Of finding them for one query."""
    byte_seconds: float
    """Of one byte of codes read; 0 where codes are not read in order."""
    coarse: float
    """Work to find a vector's lists in `built`, in the unit of `faiss_bytes.coarse_work`."""

    def embedding_hours(self, plan: DatabasePlan) -> float:
        """Of all chunks on this device."""
        return plan.embedding_flops / self.embedding_flops / 3600

    def training_hours(self, plan: DatabasePlan) -> float:
        """Of the clustering."""
        return plan.training_flops / self.clustering_flops / 3600 if self.clustering_flops else 0.0

    def adding_hours(self, plan: DatabasePlan) -> float:
        """Of all vectors: the cost of one grows as finding its list does."""
        return plan.rows * self.add_seconds * self._growth(plan) / 3600

    def query_hours(self, plan: DatabasePlan) -> float | None:
        """Of all queries: finding lists grows, and each byte of code costs the same. None for a graph over all
        vectors, whose path no formula gives."""
        if plan.searched_bytes is None:
            return None
        # A graph keeps as many candidates as lists are asked for.
        kept = min(plan.nprobe, plan.index.lists) / self.nprobe if plan.index.coarse_links else 1.0
        coarse = self.coarse_seconds * self._growth(plan) * kept
        return plan.queries * (coarse + plan.searched_bytes * self.byte_seconds) / 3600

    def _growth(self, plan: DatabasePlan) -> float:
        return coarse_work(plan.index) / self.coarse if plan.index.lists else 1.0


def measure(plan: DatabasePlan, vectors: int = VECTORS) -> Rates:
    """Benchmark embedding, clustering, adding and searching at a size that takes seconds.

    Args:
        plan: Gives the index string and the encoder's shape; its lists become at most `LISTS`, its OPQ a rotation of
            the same shape, which costs the same to apply and nothing to train.
        vectors: How many, random ones: rates do not depend on what they hold, recall would.
    """
    faiss = load_faiss()
    small = plan.index.with_lists(LISTS)
    width = plan.embedder.width
    data_ND = np.random.default_rng(1).standard_normal((vectors, width), dtype=np.float32)
    index = faiss.index_factory(width, small.factory(width), faiss.METRIC_INNER_PRODUCT)
    _train_roughly(faiss, index, small, data_ND)
    processor = time.process_time()
    adding = _seconds(lambda: index.add(data_ND), rounds=1)
    share = (time.process_time() - processor) / (adding * faiss.omp_get_max_threads())
    coarse_seconds, byte_seconds = _search(faiss, index, small, data_ND)
    flops, device = embedding_flops(plan.embedder, plan.chunk_length)
    return Rates(
        machine=f"{platform.machine()}, {platform.system()}", threads=faiss.omp_get_max_threads(), device=device,
        embedding_flops=flops, clustering_flops=_clustering(faiss, small, data_ND) if small.lists else 0.0,
        built=small.factory(width), vectors=vectors, share=round(min(share, 1.0), 3), add_seconds=adding / vectors,
        nprobe=_nprobe(small), coarse_seconds=coarse_seconds, byte_seconds=byte_seconds, coarse=coarse_work(small),
    )  # fmt: skip


def embedding_flops(embedder: EmbedderShape, chunk_length: int) -> tuple[float, str]:
    """FLOP/s in one layer of such an encoder, bfloat16 on a GPU and float32 on a CPU, and on which device."""
    import torch

    gpu = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if gpu else ("cpu", torch.float32)
    layer = torch.nn.TransformerEncoderLayer(
        embedder.width, embedder.width // 64, 4 * embedder.width, activation="gelu", batch_first=True,
        device=device, dtype=dtype,
    ).eval()  # fmt: skip
    texts = _TEXTS * (16 if gpu else 1)
    states_BTD = torch.randn(texts, chunk_length + FRAME, embedder.width, device=device, dtype=dtype)

    def run() -> None:
        with torch.inference_mode():
            layer(states_BTD)
        if gpu:
            torch.cuda.synchronize()

    run()
    seconds = _seconds(run, rounds=_ROUNDS)
    return texts * embedder.flops(chunk_length) / embedder.layers / seconds, device


def _clustering(faiss: Any, small: FaissString, data_ND: NDArray[np.float32]) -> float:
    inner = small.inner_dimension(data_ND.shape[1])
    some = np.ascontiguousarray(data_ND[: min(len(data_ND), 256 * small.lists), :inner])
    kmeans = faiss.Kmeans(inner, small.lists, niter=1, max_points_per_centroid=256)
    done = training_flops(small, data_ND.shape[1], len(some), iterations=1)
    return done / _seconds(lambda: kmeans.train(some), rounds=1)


def _train_roughly(faiss: Any, index: Any, small: FaissString, data_ND: NDArray[np.float32]) -> None:
    """Train with one iteration where there would be 25: a rate does not depend on how good the codebooks are."""
    part = faiss.downcast_index(index.base_index if small.refine else index)
    part = faiss.downcast_index(part.index) if small.transforms else part
    if small.code.kind == "product" and hasattr(part, "pq"):
        part.pq.cp.niter, part.do_polysemous_training = 1, False
    index.train(data_ND[: max(small.lists * PER_CENTROID, PER_CENTROID << 8)])


def _nprobe(small: FaissString) -> int:
    return max(1, small.lists // 4)


def _search(faiss: Any, index: Any, small: FaissString, data_ND: NDArray[np.float32]) -> tuple[float, float]:
    """Seconds of finding the lists of a query, and of reading a byte of codes, both in a batch of queries."""
    queries = np.ascontiguousarray(data_ND[:QUERIES])
    inner = small.inner_dimension(data_ND.shape[1])
    if small.lists:
        faiss.ParameterSpace().set_index_parameter(index, "nprobe", _nprobe(small))
    each = _seconds(lambda: index.search(queries, 10), rounds=_ROUNDS) / len(queries)
    read = len(data_ND) * code_bytes(small.code, inner)
    if not small.lists:
        return (each, 0.0) if small.links else (0.0, each / read)
    quantizer = faiss.extract_index_ivf(index.base_index if small.refine else index).quantizer
    rotated = np.ascontiguousarray(queries[:, :inner])
    coarse = _seconds(lambda: quantizer.search(rotated, _nprobe(small)), rounds=_ROUNDS) / len(queries)
    return coarse, max(each - coarse, 0.0) / (read * _nprobe(small) / small.lists)


def _seconds(act: Callable[[], object], *, rounds: int) -> float:
    """The quickest of some rounds: other work on the machine only ever adds to it."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        act()
        taken.append(time.perf_counter() - started)
    return min(taken)
