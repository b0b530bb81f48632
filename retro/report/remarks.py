"""What the numbers say, in sentences computed from them.

Nothing here is a fixed claim: whether retrieval helped, hurt, or is not known is decided by the numbers of
this run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from retro.report.format import READING, loss, metric_name, model_name, percent, setting_name, signed_percent
from retro.report.run_summary import RunSummary

Tone = Literal["good", "bad", "open"]

# Perplexities closer than this are called equal: two seeds of one tiny model differ by as much.
_SAME_PERPLEXITY = 0.001
_FEW_QUESTIONS = 200
_LOW_SCORE = 0.1


@dataclass(frozen=True)
class Remark:
    """One statement about the run."""

    tone: Tone
    """Whether retrieval comes out well, badly, or it is not known."""
    head: str
    text: str


def remarks(run: RunSummary) -> list[Remark]:
    """All statements that this run's numbers support."""
    found = [*_perplexity_remarks(run.perplexity), *_answer_remarks(run.scores)]
    missing = [stage.name for stage in run.stages if stage.manifest is None]
    if missing:
        found.append(
            Remark("open", "Not everything is here", f"Stages without a result: {', '.join(missing)}. See Stages.")
        )
    if run.damaged:
        found.append(
            Remark("open", "Files that cannot be used", f"What they hold is left out. {' '.join(run.damaged)}")
        )
    return found


def perplexity_of(perplexity: Mapping[str, Any] | None, model: str, neighbors: str) -> float | None:
    """One row's perplexity, or None where there is no such row."""
    for row in (perplexity or {}).get("rows", []):
        if str(row["model"]).lower() == model and row.get("neighbors", "-") == neighbors:
            return float(row["perplexity"])
    return None


def _perplexity_remarks(perplexity: Mapping[str, Any] | None) -> Iterator[Remark]:
    real = perplexity_of(perplexity, "retro", "real")
    if real is None:
        yield Remark("open", "Perplexity was not measured", "There is no row for Retro with real neighbors.")
        return
    shuffled, none = (perplexity_of(perplexity, "retro", given) for given in ("shuffled", "none"))
    if shuffled is not None:
        yield _neighbor_remark(real, shuffled, none)
    gpt, equal = (perplexity_of(perplexity, name, "-") for name in ("gpt", "gpt_equal"))
    if gpt is not None or equal is not None:
        yield _gpt_remark(real, gpt, equal)


def _neighbor_remark(real: float, shuffled: float, none: float | None) -> Remark:
    change = real / shuffled - 1
    also = ""
    if none is not None:
        also = f" Against no neighbors at all ({loss(none)}) that is {signed_percent(real / none - 1, 2)}."
    facts = f"Perplexity {loss(real)} with real neighbors, {loss(shuffled)} with those of other chunks"
    if abs(change) < _SAME_PERPLEXITY:
        return Remark("open", "Neighbors make no difference to perplexity", f"{facts}: the same to 0.1 %.{also}")
    if change < 0:
        tail = f"{signed_percent(change, 2)}. The weights are the same in both; only the text beside differs.{also}"
        return Remark("good", "The right neighbors lower perplexity", f"{facts}: {tail}")
    text = f"{facts}: {signed_percent(change, 2)}. This model has not learned to use what it retrieves.{also}"
    return Remark("bad", "The right neighbors do not lower perplexity", text)


def _gpt_remark(real: float, gpt: float | None, equal: float | None) -> Remark:
    name, other = ("gpt_equal", equal) if equal is not None else ("gpt", gpt)
    if other is None:
        raise ValueError("needs one of the two")
    change = real / other - 1
    parts = [f"{model_name(name)} reaches {loss(other)}, Retro {loss(real)}: {signed_percent(change)}."]
    if gpt is not None and equal is not None and gpt > real:
        share = min(1.0, max(0.0, (gpt - equal) / (gpt - real)))
        parts.append(
            f"Of Retro's gain over the smaller GPT ({loss(gpt)}), {percent(share, 0)} comes with the added "
            f"parameters alone."
        )
    elif equal is None:
        parts.append("That GPT has fewer parameters, so this is not the worth of retrieval alone.")
    if abs(change) < _SAME_PERPLEXITY:
        return Remark("open", "Retro and GPT are level", " ".join(parts))
    if change < 0:
        return Remark("good" if equal is not None else "open", "Retro is ahead of GPT", " ".join(parts))
    return Remark("bad", "Retro is behind GPT", " ".join(parts))


def _answer_remarks(scores: Mapping[str, Any] | None) -> Iterator[Remark]:
    if not scores:
        yield Remark("open", "Answers were not scored", "There is no scores.json.")
        return
    metric = scores["metrics"][0]
    for difference in scores["differences"]:
        if difference["setting"] in READING:
            yield _difference_remark(difference, metric, scores)
    yield from _limits(scores, metric)


def _difference_remark(difference: Mapping[str, Any], metric: str, scores: Mapping[str, Any]) -> Remark:
    found = difference[metric]
    first, other = (setting_name(difference[key]) for key in ("setting", "minus"))
    sure = percent(scores["intervals"]["confidence"], 0)
    text = (
        f"{metric_name(metric)} is {percent(scores['settings'][difference['setting']][metric]['mean'])} {first} and "
        f"{percent(scores['settings'][difference['minus']][metric]['mean'])} {other}: a difference of "
        f"{_points(found['mean'])} points, {sure} interval {_points(found['low'])} to {_points(found['high'])} "
        f"over {found['count']:.0f} questions."
    )
    # Against another choice of passages, neither outcome speaks for or against reading any.
    tones: tuple[Tone, Tone] = ("open", "open") if difference["minus"] in READING else ("good", "bad")
    if found["low"] > 0:
        return Remark(tones[0], f"Answers are better {first} than {other}", text)
    if found["high"] < 0:
        return Remark(tones[1], f"Answers are worse {first} than {other}", text)
    more = " The interval holds zero, so these questions cannot tell the two apart."
    return Remark("open", f"No sure difference, {first} against {other}", text + more)


def _points(value: float) -> str:
    return signed_percent(value).removesuffix(" %")


def _limits(scores: Mapping[str, Any], metric: str) -> Iterator[Remark]:
    notes: list[str] = []
    best = max(mine[metric]["mean"] for mine in scores["settings"].values())
    if best < _LOW_SCORE:
        notes.append(f"No setting gets above {percent(best)}: a model of this size answers few questions at all.")
    if scores["questions"] < _FEW_QUESTIONS:
        notes.append(f"{scores['questions']} questions are few; the intervals are wide for that reason.")
    given: Mapping[str, Any] = next((scores["settings"][name] for name in READING if name in scores["settings"]), {})
    notes += _coverage_notes(given, metric)
    if notes:
        yield Remark("open", "What bounds these scores", " ".join(notes))


def _coverage_notes(given: Mapping[str, Any], metric: str) -> Sequence[str]:
    notes = []
    if given.get("recall"):
        k, share = max(given["recall"]["at"].items(), key=lambda item: int(item[0]))
        notes.append(f"The document with the answer is among the first {k} passages for {percent(share)} of questions.")
    if given.get("answer_in_passages") is not None:
        held = given["answer_in_passages"]
        notes.append(f"A gold answer occurs verbatim in the passages for {percent(held)}.")
        if given[metric]["mean"] > held:
            notes.append("The model is right more often than that, so some answers come from its weights.")
    if given.get("unanswered"):
        notes.append(f"{given['unanswered']} answers are empty.")
    if given.get("skipped"):
        notes.append(f"{given['skipped']} questions did not fit and count as wrong.")
    return notes
