"""`retro recipe knowledge_conflict compare RUN_A RUN_B`: two models on the same conflict items, question by question.

What tuning changes, or what parts A from B: for each condition and each outcome (right, original answer, other answer,
abstains) the shares of both, the paired difference with its bootstrap interval, the 2x2 table and McNemar's exact test;
and from which quadrant of A questions come into which of B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retro.common.errors import ArtifactError, ConfigError
from retro.common.files import read_json, write_plain_json
from retro.common.json_files import json_items, read_text
from retro.common.statistics import count_right, estimate, mcnemar
from retro.common.terminal import Table, output
from retro.qa.question import Context
from retro.recipes.knowledge_conflict.items import CLOSED_BOOK, ConflictItem, in_order
from retro.recipes.knowledge_conflict.judgement import Judgement
from retro.recipes.knowledge_conflict.metrics import Intervals, flips
from retro.recipes.knowledge_conflict.page import WORDS, case, words_of
from retro.recipes.knowledge_conflict.quadrants import QUADRANTS, share_of
from retro.report.format import percent, signed_percent
from retro.report.render import render, write_page
from retro.report.tables import new_table

PAIRS, PAGE = "conflict_pairs.json", "conflict_pairs.html"
OUTCOMES: Mapping[str, str] = {
    "right": "right",
    "original": "original answer",
    "counter": "other answer",
    "unknown": "abstains",
}
"""What is compared, in words."""
_COMMAND = "retro recipe knowledge_conflict"
_CASES = 5


@dataclass(frozen=True, kw_only=True)
class Side:
    """One model's judged answers."""

    name: str
    directory: Path
    scores: Mapping[str, Any]
    items: Sequence[Mapping[str, Any]]
    """Lines of judged.jsonl."""

    def judged(self, place: int) -> dict[str, Judgement]:
        """The answers to a question, by condition."""
        return {name: Judgement(**one) for name, one in self.items[place]["conditions"].items()}


def run(words: Sequence[str]) -> None:
    """The command.

    Args:
        words: Two runs, or their folders of scores; and `out=FOLDER`, where JSON and page go.

    Raises:
        ConfigError: There are not two, or another setting is given.
        ArtifactError: A run has no scores, or they are of other questions.
    """
    folders = [Path(word) for word in words if "=" not in word]
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    if len(folders) != 2:
        raise ConfigError(f"{_COMMAND} compare", words, "needs two runs, RUN_A RUN_B, and out=FOLDER if you like")
    if settings.keys() - {"out"} or not settings.get("out", "."):
        raise ConfigError(f"{_COMMAND} compare", settings, "needs no setting but out=FOLDER")
    a, b = map(open_side, folders)
    found = compare(a, b)
    out = Path(settings["out"]) if "out" in settings else b.directory
    write_plain_json(out / PAIRS, found)
    write_page(out / PAGE, page(found, a, b))
    output.table(*tables(found))
    output.say(f"{out / PAIRS}\n{out / PAGE}")


def open_side(path: Path) -> Side:
    """The judged answers of a run.

    Args:
        path: The run's directory, the recipe's folder in it, or that of the step `scores`.

    Raises:
        ArtifactError: There are none.
    """
    places = (path, path / "scores", path / "recipe_knowledge_conflict" / "scores")
    directory = next((one for one in places if (one / "judged.jsonl").is_file()), None)
    remedy = f"Run `{_COMMAND} run CONFIG` first, or give the right folder"
    if directory is None:
        raise ArtifactError(path, "holds no scores of knowledge_conflict", remedy)
    scores = read_json(directory / "conflicts.json", remedy)
    items = [one.value for one in json_items(directory / "judged.jsonl", read_text(directory / "judged.jsonl"))]
    return Side(name=path.resolve().name, directory=directory, scores=scores, items=items)


def compare(a: Side, b: Side) -> dict[str, Any]:
    """Differences of b from a, as JSON values.

    Raises:
        ArtifactError: They answered other questions, or read other passages.
        ConfigError: They were scored by other metrics.
    """
    _require_comparable(a, b)
    how = a.scores["intervals"]
    intervals = Intervals(confidence=how["confidence"], samples=how["resamples"], seed=how["seed"])
    judged = [(a.judged(place), b.judged(place)) for place in range(len(a.items))]
    names = in_order({name for one, _ in judged for name in one})
    return {
        "a": {"name": a.name, "directory": str(a.directory), "model": a.scores["model"]},
        "b": {"name": b.name, "directory": str(b.directory), "model": b.scores["model"]},
        "items": len(judged),
        "metric": a.scores["metric"],
        "intervals": how,
        "conditions": {name: _condition([one for one in judged if name in one[0]], name, intervals) for name in names},
        "quadrants_of": a.scores["quadrants_of"],
        "quadrants": _moves(a, b, intervals),
    }


def _require_comparable(a: Side, b: Side) -> None:
    remedy = "Only answers to the same conflict items can be compared: give both runs the same file, settings and seed"
    if a.directory.resolve() == b.directory.resolve():
        raise ConfigError("RUN_B", str(b.directory), "needs another run than RUN_A")
    for number, (one, other) in enumerate(zip(a.items, b.items, strict=False), start=1):
        for key in ("id", "question", "answers", "original", "counter", "passages"):
            if one[key] != other[key]:
                problem = f"item {number} has {key} {str(other[key])[:80]!r}, {a.directory} has {str(one[key])[:80]!r}"
                raise ArtifactError(b.directory, problem, remedy)
    if len(a.items) != len(b.items):
        raise ArtifactError(b.directory, f"holds {len(b.items)} items, {a.directory} holds {len(a.items)}", remedy)
    if a.scores["metric"] != b.scores["metric"]:
        raise ConfigError("metric", f"{a.scores['metric']} and {b.scores['metric']}", "needs both scored alike")


def _condition(
    judged: Sequence[tuple[Mapping[str, Judgement], Mapping[str, Judgement]]], name: str, intervals: Intervals
) -> dict[str, Any]:
    pairs = [(one[name], other[name]) for one, other in judged]
    return {
        "items": len(pairs),
        **{
            outcome: paired([(getattr(one, outcome), getattr(other, outcome)) for one, other in pairs], intervals)
            for outcome in OUTCOMES
        },
        "flips": flips([one.right for one, _ in pairs], [other.right for _, other in pairs], intervals),
    }


def paired(values: Sequence[tuple[bool | None, bool | None]], intervals: Intervals) -> dict[str, Any]:
    """An outcome of two models on the same questions.

    Args:
        values: [N] of one and of the other; pairs of which one is not known are left out.
        intervals: How intervals are made.

    Returns:
        `a` and `b` (shares), `difference` (b - a, with its interval; nulls of no pair), `table` (`both`, `only_a`,
        `only_b`, `neither`) and `p` (McNemar's exact test; null of no pair).
    """
    known = [(bool(one), bool(other)) for one, other in values if one is not None and other is not None]
    a, b = ([float(pair[side]) for pair in known] for side in (0, 1))
    table = count_right(a, b)
    nothing: dict[str, Any] = {"mean": None, "low": None, "high": None, "count": 0}
    if known:
        differences = [other - one for one, other in zip(a, b, strict=True)]
        how = {"samples": intervals.samples, "seed": intervals.seed}
        found = asdict(estimate(differences, confidence=intervals.confidence, **how))
        nothing = {key: round(value, 6) for key, value in found.items()}
    return {
        "a": share_of(int(sum(a)), len(known), intervals.confidence),
        "b": share_of(int(sum(b)), len(known), intervals.confidence),
        "difference": nothing,
        "table": asdict(table),
        "p": mcnemar(table.only_a, table.only_b) if known else None,
    }


def _moves(a: Side, b: Side, intervals: Intervals) -> dict[str, Any]:
    """From each quadrant of a, how many questions come into which of b, and the quadrants of both."""
    pairs = [(one["quadrant"], other["quadrant"]) for one, other in zip(a.items, b.items, strict=True)]
    known = [pair for pair in pairs if None not in pair]
    return {
        "moves": {start: {end: known.count((start, end)) for end in QUADRANTS} for start in QUADRANTS},
        **{name: paired([(one == name, other == name) for one, other in known], intervals) for name in QUADRANTS},
    }


def tables(found: Mapping[str, Any]) -> list[Table]:
    """What changes: each outcome under each condition, and the quadrants."""
    return [*(_outcome_table(found, outcome) for outcome in OUTCOMES), _moves_table(found), _quadrant_table(found)]


_COLUMNS = ("A", "B", "B − A", "both", "only A", "only B", "neither", "p")


def _outcome_table(found: Mapping[str, Any], outcome: str) -> Table:
    table = new_table(f"{OUTCOMES[outcome].capitalize()}, in %", "condition", right=_COLUMNS)
    if outcome == "right":
        table.caption = (
            f"A: {found['a']['name']}; B: {found['b']['name']}; p: McNemar's exact test of only A and only B"
        )
    for name, one in found["conditions"].items():
        table.add_row(words_of(name), *_cells(one[outcome]))
    return table


def _quadrant_table(found: Mapping[str, Any]) -> Table:
    title = f"Quadrants of closed-book and {words_of(found['quadrants_of'])}, in %"
    table = new_table(title, "quadrant", right=_COLUMNS)
    for name in QUADRANTS:
        table.add_row(WORDS[name], *_cells(found["quadrants"][name]))
    return table


def _moves_table(found: Mapping[str, Any]) -> Table:
    table = new_table("From the quadrants of A (rows) to those of B", "", right=[WORDS[one] for one in QUADRANTS])
    for name, row in found["quadrants"]["moves"].items():
        table.add_row(WORDS[name], *[str(row[one]) for one in QUADRANTS])
    return table


def _cells(one: Mapping[str, Any]) -> list[str]:
    if one["p"] is None:
        return ["–"] * len(_COLUMNS)
    change = one["difference"]
    low, high = (signed_percent(change[end]).removesuffix(" %") for end in ("low", "high"))
    shares = [percent(one[side]["share"]).removesuffix(" %") for side in ("a", "b")]
    shift = f"{signed_percent(change['mean']).removesuffix(' %')} ({low} to {high})"
    return [*shares, shift, *[str(one["table"][part]) for part in one["table"]], f"{one['p']:.2g}"]


def page(found: Mapping[str, Any], a: Side, b: Side) -> str:
    """The page: the tables, and questions that one of both has right."""
    lede = (
        f"{found['items']:,} questions under the same conditions, answered by A ({a.name}) and B ({b.name}). "
        f"Differences have {percent(found['intervals']['confidence'], 0)} bootstrap intervals over questions."
    )
    groups = [
        _group(a, b, name, title, first)
        for name in found["conditions"]
        for title, first in (("only A is right", True), ("only B is right", False))
    ]
    shown = [one for one in groups if one["count"]]
    return render("conflicts", name="What changes", lede=lede, tables=tables(found), charts=[], groups=shown)


def _group(a: Side, b: Side, condition: str, title: str, first: bool) -> dict[str, Any]:
    cases, count = list[dict[str, Any]](), 0
    for place, line in enumerate(a.items):
        one, other = a.judged(place), b.judged(place)
        if condition not in one or (one[condition].right, other[condition].right) != (first, not first):
            continue
        count += 1
        if len(cases) < _CASES:
            cases.append(case(_item(line, condition), {"A": _only(one, condition), "B": _only(other, condition)}))
    return {"title": f"{words_of(condition)}: {title}", "count": count, "cases": cases}


def _only(judged: Mapping[str, Judgement], condition: str) -> dict[str, Judgement]:
    return {name: judged[name] for name in dict.fromkeys((CLOSED_BOOK, condition))}


def _item(line: Mapping[str, Any], condition: str) -> ConflictItem:
    passages = tuple(Context(one["title"], one["text"]) for one in line["passages"].get(condition, ()))
    return ConflictItem(
        id=line["id"],
        question=line["question"],
        answers=tuple(line["answers"]),
        original=tuple(line["original"]),
        counter=tuple(line["counter"]),
        conditions={condition: passages} if passages else {},
    )
