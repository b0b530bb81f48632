"""The quickstart's page: a section for each act that was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from retro.evaluate.charts import Series, line_chart
from retro.quickstart.html import note, table
from retro.quickstart.page_answers import answers_section

if TYPE_CHECKING:
    from retro.quickstart.answers import Outcome

VERSION_LABELS = {
    "none": "nothing before the text",
    "shuffled": "a passage that was found for another function",
    "found": "what the search found in the older version",
}
PERPLEXITY_HEADINGS = ("given", "perplexity")


def version_rows(act: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each condition: its perplexity with an interval."""
    return [(VERSION_LABELS[row["passages"]], perplexity_text(row)) for row in act["rows"]]


def version_sentences(act: Mapping[str, Any]) -> list[str]:
    """The paired differences in words."""
    return [
        f"found against {one['minus']}: {one['mean']:+.2f} nats a token ({one['low']:+.2f} to {one['high']:+.2f}), "
        f"p = {one['p_value']:.2g} (sign flips, paired by document)"
        for one in act["differences"]
    ]


def perplexity_text(row: Mapping[str, Any]) -> str:
    """A perplexity with its interval."""
    around = "" if row["low"] is None else f" ({row['low']:.3g} to {row['high']:.3g})"
    return f"{row['perplexity']:.3g}{around}"


def _versions(results: Mapping[str, Any], _: Sequence[Outcome]) -> str:
    act = results["versions"]
    title = "<h2>2. Text that it has half seen</h2>"
    if "left_out" in act:
        return f"<section>{title}{note('Left out: ' + act['left_out'] + '.')}</section>"
    counts = act["documents"]
    places = act["rows"][0]
    what = (
        f"The documentation of {act['package']}, installed, beside an earlier version: {counts['changed']:,} "
        f"docstrings that changed and {counts['new']:,} new ones; {counts['same']:,} that did not change are left "
        f"out. {results['model']} predicts {places['tokens']:,} tokens in {places['documents']} of them, with one "
        "passage in the prompt before the text, searched with the 64 tokens before (BM25). This is reuse of "
        "near-duplicates, the everyday case of documentation, code and law, and this much is shared: "
    )
    return (
        f"<section>{title}{note(what + act['leakage'])}{table(PERPLEXITY_HEADINGS, version_rows(act))}"
        f"{note('; '.join(version_sentences(act)) + '.')}</section>"
    )


LEARNING_LABELS = {
    ("gpt_equal", "-"): "GPT of equal size",
    ("retro", "real"): "Retro, its own neighbors",
    ("retro", "shuffled"): "Retro, another chunk's neighbors",
    ("retro", "none"): "Retro, no neighbors",
}
LEARNING_HEADINGS = ("model", "weights", "perplexity")


def learning_rows(act: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each model and what it read."""
    return [
        (LEARNING_LABELS[row["model"], row["neighbors"]], f"{row['parameters'] / 1e6:.2f} M", perplexity_text(row))
        for row in act["rows"]
    ]


def _learning(results: Mapping[str, Any], _: Sequence[Outcome]) -> str:
    act = results["learning"]
    what = (
        f"A Retro and a GPT of equal size, both from random weights, read the same {act['tokens_trained']:,} tokens "
        f"of {act['documents']:,} docstrings ({act['steps']} steps, seed {act['seed']}, one run each). Perplexity of "
        f"the test split, {act['rows'][0]['tokens']:,} tokens, with the range that holds 95 % of resamples of the "
        "text; settings were chosen on the validation split. A share of the neighbors was hidden from Retro in "
        "training, so that it does without where none are found; wrong ones mislead a model that copies."
    )
    held_out = [
        Series(name=name, points=_curve(act, probe), color=color, kind="dots")
        for color, (name, probe) in enumerate(_PROBES.items())
    ]
    differences = [
        Series(
            name=f"its own minus {one.name}",
            points=[
                (step, own - other) for (step, own), (_, other) in zip(held_out[0].points, one.points, strict=True)
            ],
            color=one.color,
            kind="dots",
        )
        for one in held_out[1:]
    ]
    charts = _chart("Held-out loss while Retro trains", held_out)
    charts += _chart("The difference: below 0, neighbors are read", differences)
    return (
        f"<section><h2>3. Retro learns to read neighbors</h2>{note(what)}{table(LEARNING_HEADINGS, learning_rows(act))}"
        f"<div class='two'>{charts}</div>{note('On sequences of the validation split.')}</section>"
    )


_PROBES = {"its own neighbors": "probe_real", "another chunk's": "probe_shuffled", "none": "probe_none"}


def _curve(act: Mapping[str, Any], probe: str) -> list[tuple[float, float]]:
    return [(one["step"], one[probe]) for one in act["curve"]]


def _chart(title: str, lines: Sequence[Series]) -> str:
    chart = line_chart(lines, x_label="step", y_label="nats per token", label=title)
    legend = "".join(f'<span class="c{one.color}">{escape(one.name)}</span>' for one in lines)
    return f'<div class="panel"><h3>{escape(title)}</h3>{chart}<p class="legend">{legend}</p></div>'


UPDATE_HEADINGS = ("after", "seconds", "answer", "read")


def update_rows(act: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each time the question was asked."""
    return [
        (one["done"], f"{one['seconds']:g}" if one["seconds"] else "", one["answer"], "; ".join(one["read"]))
        for one in act["steps"]
    ]


def _update(results: Mapping[str, Any], _: Sequence[Outcome]) -> str:
    act = results["update"]
    what = f"{act['question']} Asked three times; nothing is trained or built again. The document that comes and goes: "
    return (
        f"<section><h2>4. The database changes, the answer follows</h2>{note(what + act['note'])}"
        f"{table(UPDATE_HEADINGS, update_rows(act))}</section>"
    )


_SECTIONS = {"answers": answers_section, "versions": _versions, "learning": _learning, "update": _update}


def page(results: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    """The page as HTML; every text that comes from files is escaped.

    Args:
        results: As `results.json` has them: the acts that were run, by name.
        outcomes: The questions of the first act with their answers.
    """
    style = resources.files("retro.evaluate").joinpath("report.css").read_text(encoding="utf-8")
    lede = (
        f"{results['model']}, a small chat model, and the documentation of {', '.join(results['packages'])} as it lies "
        "on this machine. Every number was measured here."
    )
    sections = [_SECTIONS[act](results, outcomes) for act in _SECTIONS if act in results]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>What retrieval is worth</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{style}</style></head><body><header class='mast'><p class='eyebrow'>instruct-retro quickstart</p>"
        f"<h1>What retrieval is worth</h1><p class='lede'>{escape(lede)}</p></header><main>{''.join(sections)}"
        "</main></body></html>\n"
    )
