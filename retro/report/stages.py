"""How a run was made: what each stage holds, how fast it was, what it dropped, and what it was made with."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple, cast

import psutil

from retro.common.precision import CPUINFO
from retro.report.format import count
from retro.report.run_summary import RunSummary, StageView, is_number

_MOST_COUNTS, _MOST_RATES = 6, 4
_RATE = "_per_second"
_PACKAGES = ("instruct-retro", "torch", "megatron-core", "faiss-cpu", "faiss-gpu", "sentence-transformers", "numpy")
_DROPPED = ("dropped", "rejects", "skipped", "fewer_than_saved")

Path = tuple[str, ...]
Count = tuple[str, float]
"""What was counted, in words, and how many."""


class StageRow(NamedTuple):
    """A stage as the page shows it."""

    stage: StageView
    held: list[Count]
    dropped: list[Count]
    rates: list[str]
    config: str
    """Its settings, as JSON."""
    report: str
    """Its report, as JSON."""


def stage_row(stage: StageView) -> StageRow:
    """What a finished stage tells; nothing of one that is missing."""
    dropped = [(_words(path), value) for path, value in _dropped(stage.report) if value]
    config = _json(stage.manifest.config) if stage.manifest else ""
    return StageRow(stage, _held(stage), dropped, _rates(stage), config, _json(stage.report))


def _json(data: object) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False, sort_keys=True)


def numbers(data: object, path: Path = ()) -> Iterator[tuple[Path, float]]:
    """All numbers in nested mappings and lists, each with the keys that lead to it."""
    if is_number(data):
        yield path, cast(float, data)
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from numbers(value, (*path, str(key)))
    elif isinstance(data, list):
        for value in data:
            yield from numbers(value, path)


def _words(path: Path) -> str:
    return " ".join(path).replace("_", " ")


def _held(stage: StageView) -> list[Count]:
    """Counts that the stage gives at the outermost level, in its manifest or report; else the inner ones."""
    if stage.manifest is None:
        return []
    given = {**stage.manifest.counts, **stage.report}
    plain = {key: value for key, value in given.items() if is_number(value) and "second" not in key}
    held = list(numbers(plain))[:_MOST_COUNTS]
    if not held:
        # Without the name of the mapping around them: it is the same for all.
        held = [(path[1:], value) for path, value in numbers(stage.manifest.counts)][: 2 * _MOST_COUNTS]
    return [(_words(path), value) for path, value in held]


def _dropped(report: object) -> Iterator[tuple[Path, float]]:
    """What was left out, by reason, wherever a report tells it."""
    if isinstance(report, Mapping):
        for key, value in report.items():
            named = key in _DROPPED and not is_number(value)
            yield from numbers(value, (key,)) if named else _dropped(value)
    elif isinstance(report, list):
        for value in report:
            yield from _dropped(value)


def _rates(stage: StageView) -> list[str]:
    """The stage's own rates; else its first count over its seconds; else nothing."""
    reported = [(path, value) for path, value in numbers(stage.report) if path[-1].endswith(_RATE) and value > 0]
    # One run among several is named by the key before: ("variants", "retro", "tokens_per_second").
    rates = [
        f"{_words(path[-2:-1])} {_rate(value)} {_words((path[-1].removesuffix(_RATE),))}/s".strip()
        for path, value in reported[:_MOST_RATES]
    ]
    first = next(numbers(stage.manifest.counts), None) if stage.manifest else None
    if not rates and first and stage.seconds:
        rates = [f"{_rate(first[1] / stage.seconds)} {_words(first[0][-1:])}/s"]
    return rates


def _rate(value: float) -> str:
    return count(round(value) if value >= 10 else round(value, 2))


def run_facts(run: RunSummary) -> dict[str, str]:
    """Where the run is, the machine that this process runs on, and what each stage computed in, and why."""
    corpus = run.stage("corpus").manifest
    facts = {"directory": str(run.run_dir), "corpus fingerprint": corpus.fingerprint if corpus else "no corpus"}
    facts |= machine()
    for stage in run.stages:
        computed, reason = (stage.report.get(name) for name in ("precision", "precision_reason"))
        if isinstance(computed, str):
            words = f"{computed} ({reason})" if isinstance(reason, str) else computed
            facts[f"precision of {stage.name}"] = words
    return facts


def machine() -> dict[str, str]:
    """The machine that this process runs on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": f"{cores}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines() if CPUINFO.exists() else ()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor()])[0] or "unknown"


def versions() -> dict[str, str]:
    """Python and the packages that shape the numbers; without importing them."""
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
