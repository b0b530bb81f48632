"""Train an index: transforms, coarse centroids, codes, one after the other.

Faiss can do it in one call. Taken apart, the centroids can be clustered on GPUs, and on all cores even where a graph of
them is built on one: the shape of an HNSW graph depends on the order in which threads take turns.
"""

# Dims in this file. S vectors of the training sample   D dimension

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retro.common.errors import ConfigError, DependencyError
from retro.index.faiss_loader import apply_each, load_faiss, on_one_thread, vector_by_vector
from retro.index.index_choice import SETTING, is_graph

log = logging.getLogger(__name__)

Float32 = NDArray[np.float32]
Device = Literal["auto", "cpu", "gpu"]


def train_index(
    index: Any, factory: str, vectors_SD: NDArray[Any], *, device: Device = "auto", reproducible: bool = True
) -> None:
    """Train an empty index; nothing happens where it is trained or needs no training.

    Args:
        index: From `policy.create_index`.
        factory: Its factory string.
        vectors_SD: The training sample, of any float type.
        device: Where the coarse centroids are clustered.
        reproducible: Give the same bytes on any number of threads.

    Raises:
        ConfigError: Faiss cannot train such an index on these vectors.
        DependencyError: `device` is gpu, and Faiss sees none.
    """
    gpus = gpus_for(device)
    if index.is_trained:
        return
    where = f"{gpus} GPUs" if gpus else "the CPU"
    log.info("index: training %s on %d vectors, its centroids on %s", factory, len(vectors_SD), where)
    faiss = load_faiss()
    try:
        with vector_by_vector(faiss) if reproducible else nullcontext():
            _train(faiss, index, np.ascontiguousarray(vectors_SD, dtype=np.float32), gpus, reproducible)
    except RuntimeError as error:
        raise ConfigError(SETTING, factory, f"cannot be trained ({reason(error)}); use 'auto'") from None


def gpus_for(device: Device) -> int:
    """GPUs to train on; 0 for the CPU.

    Raises:
        DependencyError: `device` is gpu, and Faiss sees none.
    """
    seen = 0 if device == "cpu" else int(load_faiss().get_num_gpus())
    if device == "gpu" and not seen:
        remedy = 'Install `instruct-retro[gpu]` on a machine with CUDA, or set index.device to "auto" or "cpu"'
        raise DependencyError("faiss", "sees no GPU, which index.device = 'gpu' asks for", remedy)
    return seen


def _train(faiss: Any, index: Any, vectors_SD: Float32, gpus: int, reproducible: bool) -> None:
    # A name of its own: the downcast does not keep the index alive.
    part = faiss.downcast_index(index)
    _without_warnings(faiss, part)
    if isinstance(part, faiss.IndexPreTransform):
        for place in range(part.chain.size()):
            step = faiss.downcast_VectorTransform(part.chain.at(place))
            if not step.is_trained:
                with on_one_thread(faiss, when=reproducible):
                    _train_transform(faiss, step, vectors_SD)
            vectors_SD = apply_each(faiss, step, vectors_SD) if reproducible else step.apply(vectors_SD)
        _train(faiss, part.index, vectors_SD, gpus, reproducible)
    elif isinstance(part, faiss.IndexRefine):
        _train(faiss, part.base_index, vectors_SD, gpus, reproducible)
        _train(faiss, part.refine_index, vectors_SD, gpus, reproducible)
    else:
        if isinstance(part, faiss.IndexIVF):
            _train_lists(faiss, part, vectors_SD, gpus, reproducible)
        with on_one_thread(faiss, when=reproducible and is_graph(faiss, part)):
            part.train(vectors_SD)
    part.is_trained = True


def _train_transform(faiss: Any, step: Any, vectors_SD: Float32) -> None:
    codes = None
    if isinstance(step, faiss.OPQMatrix) and step.pq is None:
        # As Faiss would make it, but for the warnings: it clusters M codebooks 50 times.
        codes = faiss.ProductQuantizer(step.d_out, step.M, 8)
        codes.cp.min_points_per_centroid = 1
        step.pq = codes
    step.train(vectors_SD)
    if codes is not None:
        step.pq = None


def _without_warnings(faiss: Any, index: Any) -> None:
    """Have Faiss not say, for every codebook, on the terminal, that it has few vectors: `policy` says it once."""
    holders = [index, *(getattr(index, name, None) for name in ("pq", "refine_pq", "rq", "lsq", "prq", "plsq"))]
    for holder in holders:
        if holder is not None and hasattr(holder, "cp"):
            holder.cp.min_points_per_centroid = 1
    if isinstance(index, faiss.IndexHNSW):
        _without_warnings(faiss, faiss.downcast_index(index.storage))


def _train_lists(faiss: Any, index: Any, vectors_SD: Float32, gpus: int, reproducible: bool) -> None:
    """Cluster the sample and give the centroids to the index's coarse quantizer, which Faiss then takes as trained."""
    quantizer = faiss.downcast_index(index.quantizer)
    if quantizer.ntotal == index.nlist:
        return
    clustering = faiss.Clustering(index.d, index.nlist, index.cp)
    nearest = faiss.IndexFlat(index.d, index.metric_type)
    if gpus:
        nearest = faiss.index_cpu_to_all_gpus(nearest)
    clustering.train(vectors_SD, nearest)
    centroids = faiss.vector_to_array(clustering.centroids).reshape(index.nlist, index.d)
    with on_one_thread(faiss, when=reproducible and is_graph(faiss, quantizer)):
        if not quantizer.is_trained:
            quantizer.train(centroids)
        quantizer.add(centroids)


def reason(error: BaseException) -> str:
    """What Faiss means: its messages start with a C++ signature, and the reason is at the end."""
    return " ".join(str(error).split()).rpartition("Error: ")[2][:200]
