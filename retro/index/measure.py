"""What a finished index is worth: its search is tuned on one sample of chunks and measured on another."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from retro.common.files import atomic_path, write_json
from retro.db.reader import ChunkDatabase
from retro.index.codes import LISTS_FILE
from retro.index.config import IndexConfig
from retro.index.embedder import Embedder
from retro.index.faiss_index import INDEX_FILE
from retro.index.faiss_loader import load_faiss
from retro.index.index_choice import is_exact
from retro.index.recall import RECALL_AT, TUNED_AT, RecallSamples, recall_samples
from retro.index.tune import Trial, Tuned, tunable_settings, tune
from retro.index.vector_index import SEARCH_FILE, VectorIndex, describe_search
from retro.report import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes


CURVE_FILE, PICTURE_FILE = "recall_curve.json", "recall_curve.png"
"""Neither is in the manifest: queries per second differ from run to run."""


def write_curve(out: Path, factory: str, tuned: Tuned, target: float) -> None:
    """Write recall_curve.json and recall_curve.png into `out`.

    Raises:
        ArtifactError: The disk is full.
    """
    points = [asdict(trial) | {"cost": trial.cost} for trial in tuned.trials]
    chosen = tuned.trials.index(tuned.chosen)
    document = {"faiss": factory, "target_recall": target, "reached": tuned.reached, "chosen": chosen}
    write_json(out / CURVE_FILE, document | {"points": points})
    with atomic_path(out / PICTURE_FILE) as temporary:
        _draw(temporary, factory, tuned, target)


def _draw(path: Path, factory: str, tuned: Tuned, target: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    with figures.style("recall curve", **{"font.size": 10}):
        figure = figures.new_figure(10, 4)
        by_cost, by_speed = figure.subplots(1, 2, sharey=True)
        for axes, what in ((by_cost, "cost"), (by_speed, "queries_per_second")):
            _draw_lines(axes, tuned, what)
            axes.axhline(target, color="0.5", linewidth=1, linestyle="--")
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.grid(visible=True, alpha=0.3)
        by_cost.set_xlabel("codes compared per query, reads of vectors converted")
        by_speed.set_xlabel("queries per second, as timed once at building")
        by_cost.set_ylabel("share of the ten nearest found")
        by_speed.legend(fontsize="small")
        figure.suptitle(f"{factory}: target {target:g}, chosen {_name(tuned.chosen)}")
        figures.save(figure, path, kind="png")


def _draw_lines(axes: Axes, tuned: Tuned, what: str) -> None:
    factors = sorted({trial.settings.refine_factor for trial in tuned.trials})
    for factor in factors:
        line = [trial for trial in tuned.trials if trial.settings.refine_factor == factor]
        label = f"{factor} ranked again per neighbor" if line[0].reranked else "settings tried"
        axes.plot(_values(line, what), [trial.recall for trial in line], marker=".", label=label)
    axes.plot(
        *(_values([tuned.chosen], what), [tuned.chosen.recall]),
        marker="o",
        markersize=11,
        markerfacecolor="none",
        color="black",
        linestyle="none",
        label="chosen",
    )


def _values(trials: list[Trial], what: str) -> list[float]:
    return [max(float(getattr(trial, what)), 1.0) for trial in trials]


def _name(trial: Trial) -> str:
    given: dict[str, Any] = asdict(trial.settings)
    return ", ".join(f"{name} {value}" for name, value in given.items() if name in trial.knobs)


log = logging.getLogger(__name__)

LOW_RECALL = 0.9
"""A recall at ten below this is warned of, whatever the target."""


class Measured(NamedTuple):
    """What the report says of an index."""

    recall: dict[int, float]
    """At each K of RECALL_AT, on chunks that nothing was tuned on; empty if not measured."""
    settings: dict[str, int]
    """How hard to look: those that this index reads."""
    bytes_per_vector: float
    """Of the index in memory: its codes and ids, centroids and graph, by its file's length."""


def measure(
    index: VectorIndex,
    factory: str,
    vectors_ND: NDArray[Any],
    db: ChunkDatabase,
    config: IndexConfig,
    out: Path,
    embedder: Embedder | None = None,
) -> Measured:
    """Tune the search of a stored index, measure its recall, write search.json and the trade-off curve.

    Args:
        index: Stored in `out`.
        factory: Its factory string.
        vectors_ND: All vectors.
        db: Whose chunks they are.
        config: What to tune to, and on how many chunks.
        out: The stage's directory.
        embedder: Which made the vectors; None: one whose queries and passages have the same.
    """
    exact = is_exact(load_faiss(), index.faiss_index)
    said: dict[str, Any] = {"recall": {str(k): 1.0 for k in RECALL_AT}} if exact else {"recall": {}}
    if config.recall_queries and not exact:
        samples = recall_samples(db, vectors_ND, config.recall_queries, config.seed, embedder)
        index, said = _tuned(index, factory, samples, config, out)
    in_memory = (out / INDEX_FILE).stat().st_size / max(db.rows, 1)
    on_disk = (out / LISTS_FILE).stat().st_size / max(db.rows, 1) if config.on_disk else 0.0
    said |= {"bytes_per_vector": round(in_memory, 2), "bytes_per_vector_on_disk": round(on_disk, 2)}
    write_json(out / SEARCH_FILE, describe_search(index, said))
    settings = {name: int(getattr(index.settings, name)) for name in tunable_settings(index)}
    measured = Measured({int(k): share for k, share in said["recall"].items()}, settings, round(in_memory, 2))
    _tell(factory, measured, said)
    return measured


def _tuned(
    index: VectorIndex, factory: str, samples: RecallSamples, config: IndexConfig, out: Path
) -> tuple[VectorIndex, dict[str, Any]]:
    tuned = tune(index, samples.tuning, config)
    index = replace(index, settings=tuned.chosen.settings)
    write_curve(out, factory, tuned, config.target_recall)
    recall = {str(k): round(samples.reported.found_by(index, k).mean, 4) for k in RECALL_AT}
    return index, {
        "recall": recall,
        "queries": len(samples.reported),
        "held_out": samples.held_out,
        "target_recall": config.target_recall,
        "reached": tuned.reached,
    }


def _tell(factory: str, measured: Measured, said: dict[str, Any]) -> None:
    size = f"{measured.bytes_per_vector:.1f} bytes per vector in memory"
    if not measured.recall:
        log.info("index: %s, %s; its recall was not measured", factory, size)
        return
    shares = ", ".join(f"{100 * share:.1f} % of the {k} nearest" for k, share in measured.recall.items())
    knobs = ", ".join(f"{name} {value}" for name, value in measured.settings.items()) or "nothing to set"
    log.info("index: %s, %s, finds %s (%s)", factory, size, shares, knobs)
    if not said.get("reached", True):
        log.warning("index: no setting tried reaches target_recall %g with %s", said["target_recall"], factory)
    if measured.recall[TUNED_AT] < LOW_RECALL:
        log.warning(
            "index: %s misses %.0f %% of the ten nearest. index.faiss=auto, or index.refine=on, finds more",
            *(factory, 100 * (1 - measured.recall[TUNED_AT])),
        )
