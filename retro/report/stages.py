"""The page's sections on how the run was made: stages with sizes and rates, settings, machine, versions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import cast

from retro.common.artifacts import Manifest
from retro.report.format import count, seconds, size
from retro.report.run_summary import RunSummary, StageView, is_number, stage_dir

_MOST_CHIPS, _MOST_RATES = 6, 4
_RATE = "_per_second"
_DROPPED = ("dropped", "rejects", "skipped", "fewer_than_saved")


def stages_section(run: RunSummary) -> str:
    """Every stage with what it holds, how long it took, how fast it was, and what it dropped."""
    lines = "".join(_stage_line(stage) for stage in run.stages)
    return (
        f'<section id="stages"><h2>Stages, sizes and rates</h2>'
        f'<p class="note">Each stage reads the files of earlier ones '
        f'and writes its own.</p><div class="panel"><div class="scroll">'
        f'<table class="stages"><thead><tr><th>stage</th><th>holds</th><th class="n">time</th><th class="n">rate</th>'
        f'<th class="n">on disk</th></tr></thead><tbody>{lines}</tbody></table></div></div></section>'
    )


def _stage_line(stage: StageView) -> str:
    name = f'<b>{stage.name}</b><div class="sub">{escape(stage.work)}</div>'
    if stage.manifest is None:
        return (
            f'<tr><td>{name}</td><td colspan="4"><span class="lack">Missing: {escape(stage.problem)}</span></td></tr>'
        )
    time = "–" if stage.seconds is None else seconds(stage.seconds)
    return (
        f'<tr><td>{name}</td><td><div class="chips">{_chips(stage, stage.manifest)}</div></td><td class="n">{time}</td>'
        f'<td class="n">{_rates(stage)}</td><td class="n">{size(stage.size) if stage.size else "–"}</td></tr>'
    )


Path = tuple[str, ...]


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
    return escape(" ".join(path).replace("_", " "))


def _chips(stage: StageView, manifest: Manifest) -> str:
    """Counts that the stage gives at the outermost level, in its manifest or report; else the inner ones."""
    given = {**manifest.counts, **stage.report}
    plain = {key: value for key, value in given.items() if is_number(value) and "second" not in key}
    held = list(numbers(plain))[:_MOST_CHIPS]
    if not held:
        # Without the name of the mapping around them: it is the same for all.
        held = [(path[1:], value) for path, value in numbers(manifest.counts)][: 2 * _MOST_CHIPS]
    chips = [f"<span>{_words(path)} <b>{count(value)}</b></span>" for path, value in held]
    left_out = [(path, value) for path, value in _dropped(stage.report) if value]
    chips += [f'<span class="dropped">{_words(path)} <b>{count(value)}</b></span>' for path, value in left_out]
    return "".join(chips) or '<span class="sub">no counts</span>'


def _dropped(report: object) -> Iterator[tuple[Path, float]]:
    """What was left out, by reason, wherever a report tells it."""
    if isinstance(report, Mapping):
        for key, value in report.items():
            named = key in _DROPPED and not is_number(value)
            yield from numbers(value, (key,)) if named else _dropped(value)
    elif isinstance(report, list):
        for value in report:
            yield from _dropped(value)


def _rates(stage: StageView) -> str:
    """The stage's own rates; else its first count over its seconds; else nothing."""
    told = [(path, value) for path, value in numbers(stage.report) if path[-1].endswith(_RATE) and value > 0]
    if told:
        # One run among several is named by the key before: ("variants", "retro", "tokens_per_second").
        return "<br>".join(
            f"{_words(path[-2:-1])} {count(_rounded(value))} {_words((path[-1].removesuffix(_RATE),))}/s"
            for path, value in told[:_MOST_RATES]
        )
    first = next(numbers(stage.manifest.counts), None) if stage.manifest else None
    if first and stage.seconds:
        return f"{count(_rounded(first[1] / stage.seconds))} {_words(first[0][-1:])}/s"
    return "–"


def _rounded(value: float) -> float:
    return round(value) if value >= 10 else round(value, 2)


def run_section(run: RunSummary) -> str:
    """Where the run stands, what it was made on and with, and every setting."""
    corpus = run.stage("corpus").manifest
    facts = {
        "directory": str(run.run_dir),
        "corpus fingerprint": corpus.fingerprint if corpus else "no corpus",
        **{f"{key}": value for key, value in run.machine.items()},
        **dict(_precisions(run)),
    }
    settings = "".join(_settings(run, stage) for stage in run.stages)
    return (
        f'<section id="run"><h2>This run</h2><div class="two"><div class="panel"><h3>Corpus and machine</h3>'
        f'{_facts(facts)}<p class="small">The machine is the one that wrote this page.</p></div>'
        f'<div class="panel"><h3>Versions</h3>{_facts(run.versions)}</div></div>'
        f'<div class="panel" style="margin-top:1rem"><h3>Settings of each stage</h3>{settings}</div></section>'
    )


def _precisions(run: RunSummary) -> Iterator[tuple[str, str]]:
    """What each stage computed in, and why, as its report says."""
    for stage in run.stages:
        computed, reason = (stage.report.get(name) for name in ("precision", "precision_reason"))
        if isinstance(computed, str):
            yield f"precision of {stage.name}", f"{computed} ({reason})" if isinstance(reason, str) else computed


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    return f'<dl class="facts">{rows}</dl>'


def _settings(run: RunSummary, stage: StageView) -> str:
    if stage.manifest is None:
        return f'<p class="small">{stage.name}: {escape(stage.problem)}</p>'
    made_from = ", ".join(f"{name} {mark}" for name, mark in stage.manifest.parents.items())
    head = f"{stage.name} <code>{stage.manifest.fingerprint}</code>"
    text = json.dumps(stage.manifest.config, indent=2, ensure_ascii=False, sort_keys=True)
    report = json.dumps(stage.report, indent=2, ensure_ascii=False, sort_keys=True)
    below = f"made from {made_from}" if made_from else "made from no other stage"
    return (
        f'<details><summary>{head}</summary><p class="small">{escape(below)}, in '
        f"<code>{escape(stage_dir(run.run_dir, stage.name, run.asked).name)}</code></p><pre>{escape(text)}</pre>"
        f'<p class="small">report.json</p><pre>{escape(report)}</pre></details>'
    )
