"""Find the cheapest search that reaches a requested recall.

Every choice follows from recall and from counts of compared vectors, never from a clock, so that the same index is
always given the same settings. Times are measured for the trade-off curve, which is not part of the artifact.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from retro.index.config import IndexConfig
from retro.index.faiss_index import SearchSettings
from retro.index.faiss_loader import load_faiss
from retro.index.recall import TUNED_AT, RecallSample
from retro.index.vector_index import LEAST_RANKED, VectorIndex

log = logging.getLogger(__name__)

FACTORS = (2, 4, 8, 16, 32)
GRAPH_STEPS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
CURVE_UP_TO = 0.99
"""The curve is followed up to this recall, or to the target if that is higher."""
_FLAT = 0.001
"""A curve that gains less in each of two steps is at its end."""
_NEARLY = 0.005
"""Where no setting reaches the target, the cheapest that comes this near to the best one is taken."""


READ_COST = 30
"""Reading and comparing one full vector costs as much as comparing so many codes of one bit per value: 0.7 us against
23 ns for 384 values, one thread of an Intel Xeon, the vectors in the page cache."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting, tried."""

    settings: SearchSettings
    knobs: tuple[str, ...]
    """Those of the settings that this index reads."""
    recall: float
    """At ten."""
    standard_error: float
    compared: float
    """Vectors that a query was compared with: codes in the lists, nodes of graphs."""
    reranked: int
    """Candidates ranked again by their vectors, per query; 0 without."""
    queries_per_second: float
    """As timed once, by this process; decides nothing."""

    @property
    def cost(self) -> float:
        """Work of one query, in comparisons with a code."""
        return self.compared + READ_COST * self.reranked


@dataclass(frozen=True)
class Tuned:
    """What tuning found."""

    chosen: Trial
    reached: bool
    """Whether the chosen setting reaches the target, by one standard error of the sample."""
    trials: tuple[Trial, ...]


def tune(index: VectorIndex, sample: RecallSample, config: IndexConfig) -> Tuned:
    """Try settings from cheap to expensive and choose the cheapest that reaches the target.

    It counts as reached when recall less its standard error is at the target, so that another sample rarely falls
    below. Settings that the config gives are held.

    Args:
        index: What is asked; its own settings are not used.
        sample: Queries to tune on, and not those to report.
        config: The target, and what is held.
    """
    trials: list[Trial] = []
    for ladder in settings_to_try(index, config):
        recalls: list[float] = []
        for settings in ladder:
            trials.append(try_out(replace(index, settings=settings), sample))
            recalls.append(trials[-1].recall)
            if recalls[-1] >= max(CURVE_UP_TO, config.target_recall) or _is_flat(recalls):
                break
    return choose(trials, config.target_recall)


def choose(trials: list[Trial], target: float) -> Tuned:
    """The cheapest trial that reaches `target`; else the cheapest that is nearly as good as the best."""
    reaching = [trial for trial in trials if trial.recall - trial.standard_error >= target]
    best = max(trial.recall for trial in trials)
    taken = reaching or [trial for trial in trials if trial.recall >= best - _NEARLY]
    return Tuned(min(taken, key=lambda trial: trial.cost), bool(reaching), tuple(trials))


def try_out(index: VectorIndex, sample: RecallSample) -> Trial:
    """Search the sample once with the index's settings."""
    faiss = load_faiss()
    faiss.cvar.indexIVF_stats.reset()
    faiss.cvar.hnsw_stats.reset()
    started = time.perf_counter()
    found = sample.found_by(index)
    seconds = time.perf_counter() - started
    compared = faiss.cvar.indexIVF_stats.ndis + faiss.cvar.hnsw_stats.ndis
    knobs, count = tunable_settings(index), max(len(sample), 1)
    trial = Trial(
        settings=index.settings,
        knobs=knobs,
        recall=found.mean,
        standard_error=found.standard_error,
        compared=compared / count,
        reranked=max(TUNED_AT, LEAST_RANKED) * index.settings.refine_factor if "refine_factor" in knobs else 0,
        queries_per_second=count / max(seconds, 1e-9),
    )
    said = ", ".join(f"{name} {getattr(index.settings, name)}" for name in knobs)
    log.info("index: %s finds %.1f %% of the ten nearest, %.0f queries/s", said, 100 * trial.recall, count / seconds)
    return trial


def settings_to_try(index: VectorIndex, config: IndexConfig) -> Iterator[list[SearchSettings]]:
    """The settings to try, each ladder from cheap to expensive: one per refine factor, or just one."""
    knobs, start = tunable_settings(index), SearchSettings.of(config)
    factors = FACTORS if "refine_factor" in knobs and not config.refine_factor else (start.refine_factor,)
    for factor in factors:
        base = replace(start, refine_factor=factor)
        if "nprobe" in knobs and not config.nprobe:
            # A graph over the centroids has to keep as many candidates as lists are probed; twice that finds them.
            steps = _steps(_lists(index))
            yield [replace(base, nprobe=step, ef_search=config.ef_search or max(16, 2 * step)) for step in steps]
        elif "ef_search" in knobs and not config.ef_search:
            yield [replace(base, ef_search=step) for step in GRAPH_STEPS]
        else:
            yield [base]


def tunable_settings(index: VectorIndex) -> tuple[str, ...]:
    """The settings that this index reads."""
    own = ["refine_factor"] if index.vectors_ND is not None else []
    return tuple(sorted({*own, *_faiss_knobs(index.faiss_index)}))


def _faiss_knobs(index: Any) -> list[str]:
    faiss = load_faiss()
    part = faiss.downcast_index(index)
    if isinstance(part, faiss.IndexPreTransform):
        return _faiss_knobs(part.index)
    if isinstance(part, faiss.IndexRefine):
        return ["refine_factor", *_faiss_knobs(part.base_index)]
    if isinstance(part, faiss.IndexIVF):
        graph = isinstance(faiss.downcast_index(part.quantizer), faiss.IndexHNSW)
        return ["nprobe", *(["ef_search"] if graph else [])]
    return ["ef_search"] if isinstance(part, faiss.IndexHNSW) else []


def _lists(index: VectorIndex) -> int:
    faiss = load_faiss()
    part = faiss.downcast_index(index.faiss_index)
    while not isinstance(part, faiss.IndexIVF):
        inner = part.index if isinstance(part, faiss.IndexPreTransform) else part.base_index
        part = faiss.downcast_index(inner)
    return int(part.nlist)


def _steps(most: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 … up to `most`, which is the last."""
    powers = [base << place for place in range(most.bit_length()) for base in (2, 3)]
    return sorted({1, most, *(step for step in powers if step < most)})


def _is_flat(recalls: list[float]) -> bool:
    return len(recalls) > 2 and recalls[-1] - recalls[-3] < 2 * _FLAT and recalls[-1] - recalls[-2] < _FLAT
