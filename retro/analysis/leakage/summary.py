"""What the leakage numbers say, in sentences computed from them: nothing here is a fixed claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Bits per byte closer than this are called equal: two seeds of one tiny model differ by as much.
_SAME = 0.001
# On fewer chunks a difference of one percent is noise more often than not.
ENOUGH_CHUNKS = 100

Row = Mapping[str, Any]


def sentences(result: Mapping[str, Any]) -> list[str]:
    """All that can be said of a result as `measure.measure` makes it."""
    found = []
    for name, words in (
        ("training", "in the training text"),
        ("neighbors", "in one of its {saved} saved neighbors and its continuation"),
    ):
        found.append(_how_much(result, result["measures"][name], words.format(saved=result["neighbors_saved"])))
    for against in ("shuffled", "gpt"):
        found += _what_is_left(result["measures"]["training"], against)
    return found


def _how_much(result: Mapping[str, Any], measure: Mapping[str, Any], where: str) -> str:
    total, copied = result["chunks"], measure["copied"]
    if not copied["half"]:
        most = f"No chunk of the {total:,} held-out ones has half of its text in one piece {where}"
    else:
        most = (
            f"{copied['half']:,} of {total:,} held-out chunks ({copied['half'] / total:.1%}) have at least half of "
            f"their text in one piece {where}, {copied['whole']:,} of them all of it"
        )
    return f"{most}; for the median chunk the longest such piece is {measure['median']:.0%} of it."


def _what_is_left(measure: Mapping[str, Any], against: str) -> list[str]:
    """Whether Retro's gain over a baseline outlives the chunks that were copied."""
    retro, other = row_of(measure["rows"], "retro", "real"), _baseline(measure["rows"], against)
    if retro is None or other is None:
        return []
    words = {"shuffled": "Retro with the neighbors of other chunks", "gpt": "the GPT trained on the same tokens"}[
        against
    ]
    pairs = [(mine, theirs) for mine, theirs in zip(retro["points"], other["points"], strict=True) if has_scores(mine)]
    if not pairs:
        return []
    every = _gain(*pairs[-1])
    strict = [(mine, theirs) for mine, theirs in pairs[:-1] if mine["chunks"] >= ENOUGH_CHUNKS]
    head = f"Over all chunks Retro needs {_change(every)} bits per byte {_than(every)} {words}"
    if not strict:
        most = max((mine["chunks"] for mine, _ in pairs[:-1]), default=0)
        return [f"{head}; too few chunks ({most}) lie below any smaller alpha to say more."]
    alpha, chunks = strict[0][0]["alpha"], strict[0][0]["chunks"]
    left = _gain(*strict[0])
    return [
        f"{head}; over the {chunks:,} chunks of which at most {alpha:.1%} stands in the training text, "
        f"{_change(left)}: {_verdict(every, left)}."
    ]


def row_of(rows: Sequence[Row], model: str, neighbors: str) -> Row | None:
    """A row by model and neighbors; None where it was not measured."""
    return next((row for row in rows if (row["model"], row["neighbors"]) == (model, neighbors)), None)


def has_scores(point: Mapping[str, Any]) -> bool:
    """Whether there was any text below this alpha."""
    return point["bits_per_byte"] is not None


def _baseline(rows: Sequence[Row], against: str) -> Row | None:
    return row_of(rows, "retro", "shuffled") if against == "shuffled" else row_of(rows, "gpt", "-")


def _gain(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> float:
    """Share of the other's bits that are saved."""
    return float(1 - mine["bits_per_byte"] / theirs["bits_per_byte"])


def _change(gain: float) -> str:
    if abs(gain) < _SAME:
        return "as many"
    return f"{abs(gain):.2%} {'fewer' if gain > 0 else 'more'}"


def _than(gain: float) -> str:
    return "as" if abs(gain) < _SAME else "than"


def _verdict(every: float, left: float) -> str:
    if every < _SAME:
        return "there is no gain over all chunks that copies could explain" + (
            "" if left < _SAME else ", only one here"
        )
    if left < _SAME:
        return "the gain comes from copied text"
    if left < every:
        return f"{left / every:.0%} of the gain is left where the text is new"
    return "the gain does not come from copied text"
