"""The page's sections on how the run was made: stages with sizes and rates, settings, machine, versions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from retro.evaluate.run_summary import RunSummary, StageView, stage_dir
from retro.evaluate.wording import count, seconds, size

_MOST_CHIPS = 6
_RATE_ENDINGS = ("_per_second", "_per_s", "/s")


def stages_section(run: RunSummary) -> str:
    """Every stage with what it holds, how long it took, how fast it was, and what it dropped."""
    lines = "".join(_stage_line(number, stage) for number, stage in enumerate(run.stages, start=1))
    return (
        f'<section id="stages"><h2>Stages, sizes and rates</h2>'
        f'<p class="note">Each stage reads the files of earlier ones '
        f'and writes its own.</p><div class="panel"><div class="scroll">'
        f'<table class="stages"><thead><tr><th>stage</th><th>holds</th><th class="n">time</th><th class="n">rate</th>'
        f'<th class="n">on disk</th></tr></thead><tbody>{lines}</tbody></table></div></div></section>'
    )


def _stage_line(number: int, stage: StageView) -> str:
    name = f'<b>{number} {stage.name}</b><div class="sub">{escape(stage.work)}</div>'
    if stage.manifest is None:
        return (
            f'<tr><td>{name}</td><td colspan="4"><span class="lack">Missing: {escape(stage.problem)}</span></td></tr>'
        )
    took = stage.report.get("seconds")
    time = seconds(float(took)) if isinstance(took, int | float) else "–"
    return (
        f'<tr><td>{name}</td><td><div class="chips">{_chips(stage)}</div></td><td class="n">{time}</td>'
        f'<td class="n">{_rate(stage)}</td><td class="n">{size(stage.size) if stage.size else "–"}</td></tr>'
    )


def numbers(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """All numbers in nested mappings, named by their path; the outer ones first."""
    for key, value in data.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", value
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{key} ")


def _chips(stage: StageView) -> str:
    if stage.manifest is None:
        return ""
    known = list(numbers(stage.manifest.counts))[:_MOST_CHIPS]
    held = [f"<span>{escape(_words(key))} <b>{count(value)}</b></span>" for key, value in known]
    dropped = stage.report.get("dropped")
    if isinstance(dropped, Mapping):
        held += [
            f'<span class="dropped">dropped, {escape(_words(key))} <b>{count(value)}</b></span>'
            for key, value in numbers(dropped)
            if value
        ]
    return "".join(held) or '<span class="sub">no counts</span>'


def _words(key: str) -> str:
    return key.replace("_", " ")


def _rate(stage: StageView) -> str:
    """The stage's own rate; else its first count over its seconds; else nothing."""
    for key, value in numbers(stage.report):
        ending = next((ending for ending in _RATE_ENDINGS if key.endswith(ending)), None)
        if ending:
            return f"{count(_rounded(value))} {escape(_words(key.removesuffix(ending).split(' ')[-1]))}/s"
    took = stage.report.get("seconds")
    first = next(numbers(stage.manifest.counts), None) if stage.manifest else None
    if first and isinstance(took, int | float) and took > 0:
        return f"{count(_rounded(first[1] / took))} {escape(_words(first[0]))}/s"
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
    }
    settings = "".join(_settings(run, stage) for stage in run.stages)
    return (
        f'<section id="run"><h2>This run</h2><div class="two"><div class="panel"><h3>Corpus and machine</h3>'
        f'{_facts(facts)}<p class="small">The machine is the one that wrote this page.</p></div>'
        f'<div class="panel"><h3>Versions</h3>{_facts(run.versions)}</div></div>'
        f'<div class="panel" style="margin-top:1rem"><h3>Settings of each stage</h3>{settings}</div></section>'
    )


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
        f"<code>{escape(stage_dir(run.run_dir, stage.name).name)}</code></p><pre>{escape(text)}</pre>"
        f'<p class="small">report.json</p><pre>{escape(report)}</pre></details>'
    )
