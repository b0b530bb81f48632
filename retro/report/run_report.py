"""The page of a run: one HTML file that needs nothing else, for a person to read from top to bottom."""

from __future__ import annotations

from html import escape
from importlib import resources
from pathlib import Path

from retro.common import checksummed_json
from retro.common.files import atomic_path
from retro.report import leakage, questions, results, stages
from retro.report.format import count, loss, metric_name, percent, seconds, setting_name, signed_percent
from retro.report.remarks import Remark, perplexity_of, remarks
from retro.report.run_summary import RunSummary, summarize

_SIGNS = {"good": "▲", "bad": "▼", "open": "●"}
_SECTIONS = (
    ("reading", "In words"),
    ("perplexity", "Perplexity"),
    ("leakage", "Leakage"),
    ("answers", "Answers"),
    ("questions", "Side by side"),
    ("stages", "Stages"),
    ("run", "This run"),
)


def write_report(run_dir: Path, path: Path, *, questions_shown: int, asked: str = "") -> Path:
    """Write the page of a run, finished or not; what is missing is said to be missing.

    Args:
        run_dir: The run's directory, with its numbered stage folders.
        path: Where the page goes.
        questions_shown: Questions shown with their passages.
        asked: `generate.name` of the answers to show.

    Returns:
        `path`.
    """
    page = checksummed_json.page(render(summarize(run_dir, asked), questions_shown))
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def render(run: RunSummary, questions_shown: int) -> str:
    """The page as HTML. Every text that comes from files is escaped."""
    style = resources.files("retro.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    name = escape(" · ".join(filter(None, [run.run_dir.resolve().name, run.asked])))
    links = "".join(f'<a href="#{anchor}">{words}</a>' for anchor, words in _SECTIONS)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name} · Retro run</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{style}</style></head><body>'
        f'<header class="mast"><p class="eyebrow">Retro run report</p><h1>{name}</h1>'
        f'<p class="lede">{escape(_lede(run))}</p>{_cards(run)}</header><nav><div>{links}</div></nav><main>'
        f"{_reading(remarks(run))}{results.perplexity_section(run)}{leakage.section(run)}"
        f"{results.answers_section(run)}"
        f"{questions.section(run, questions_shown)}{stages.stages_section(run)}{stages.run_section(run)}</main>"
        f"<footer>Written by retro evaluate from the files in the run directory. Nothing on this page is loaded from "
        f"elsewhere.</footer></body></html>\n"
    )


def _lede(run: RunSummary) -> str:
    """What the run is, in a sentence made of what is known."""
    corpus = run.stage("corpus").manifest
    documents = corpus.counts.get("documents") if corpus else None
    read = f" on {count(documents)} documents" if isinstance(documents, int | float) else ""
    rows = (run.perplexity or {}).get("rows", [])
    sizes = [row["parameters"] for row in rows if str(row["model"]).lower() == "retro" and row.get("parameters")]
    size = f" with {count(sizes[0])} parameters" if sizes else ""
    finished = sum(stage.manifest is not None for stage in run.stages)
    asked = f", then asked {count(run.scores['questions'])} questions" if run.scores else ""
    state = "" if finished == len(run.stages) else f" {finished} of {len(run.stages)} stages are finished."
    return f"A retrieval-augmented language model{size}, trained{read}{asked}.{state}"


def _card(what: str, big: str, so: str) -> str:
    return (
        f'<div class="card"><div class="what">{escape(what)}</div><div class="big">{escape(big)}</div>'
        f'<div class="so">{escape(so)}</div></div>'
    )


def _cards(run: RunSummary) -> str:
    cards = [*_perplexity_card(run), *_answer_cards(run)]
    times = [stage.seconds for stage in run.stages if stage.seconds is not None]
    if times:
        finished = sum(stage.manifest is not None for stage in run.stages)
        cards.append(_card("Time of all stages", seconds(sum(times)), f"{finished} of {len(run.stages)} finished"))
    return f'<div class="cards">{"".join(cards)}</div>'


def _perplexity_card(run: RunSummary) -> list[str]:
    real, shuffled = (perplexity_of(run.perplexity, "retro", given) for given in ("real", "shuffled"))
    if real is None:
        return []
    so = "" if shuffled is None else f"{signed_percent(real / shuffled - 1, 2)} against shuffled neighbors"
    return [_card("Perplexity, real neighbors", loss(real), so)]


def _answer_cards(run: RunSummary) -> list[str]:
    if not run.scores:
        return []
    metric, settings = run.scores["metrics"][0], run.scores["settings"]
    (first, mine), *others = settings.items()
    so = ", ".join(f"{setting_name(name)} {percent(other[metric]['mean'])}" for name, other in others)
    cards = [_card(f"{metric_name(metric)} {setting_name(first)}", percent(mine[metric]["mean"]), so)]
    if mine.get("recall"):
        k, share = max(mine["recall"]["at"].items(), key=lambda item: int(item[0]))
        cards.append(_card("Right document found", percent(share), f"among the first {k} passages"))
    return cards


def _reading(found: list[Remark]) -> str:
    items = "".join(
        f'<li class="{one.tone}"><strong data-sign="{_SIGNS[one.tone]}">{escape(one.head)}</strong>'
        f"{escape(one.text)}</li>"
        for one in found
    )
    return (
        f'<section id="reading"><h2>How to read these numbers</h2><p class="note">These sentences are computed from '
        f"this run's numbers: ▲ speaks for retrieval, ▼ against it, ● leaves it open.</p>"
        f'<ul class="remarks">{items}</ul></section>'
    )
