"""Numbers and names as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from retro.qa.metrics.registry import METRICS

_SETTINGS = {
    "with_passages": "with passages",
    "retrieved_passages": "with retrieved passages",
    "live_retrieval": "with live retrieval",
    "gold_passages": "with gold passages",
    "closed_book": "closed-book",
    "shuffled_passages": "shuffled passages",
}
READING = ("with_passages", "retrieved_passages", "live_retrieval", "gold_passages")
"""Settings in which the model reads passages that are meant for its question."""

_MODELS = {"retro": "Retro", "gpt": "GPT", "gpt_equal": "GPT of equal parameters", "tuning": "Tuning"}
_METRICS = {"bert_score": "BERTScore F1"}
_NEIGHBORS = {"real": "real neighbors", "shuffled": "shuffled neighbors", "none": "no neighbors", "-": ""}
_COLORS = {
    "retro": 0,
    "gpt": 1,
    "gpt_equal": 2,
    "with_passages": 0,
    "closed_book": 1,
    "gold_passages": 2,
    "shuffled_passages": 4,
    "retrieved_passages": 5,
    "live_retrieval": 6,
}
_COLORS |= {(_SETTINGS.get(name) or _MODELS[name]).lower(): color for name, color in _COLORS.items()}


def color_of(name: str) -> int:
    """Number of the page's color of a model or a setting, named or in words: the same on all pages."""
    return _COLORS.get(name.lower(), 3)


def in_order(settings: Iterable[str]) -> list[str]:
    """Names of settings as they are shown: those with passages first, unknown ones last."""
    known = list(_SETTINGS)
    return sorted(settings, key=lambda name: (known.index(name) if name in known else len(known), name))


def setting_name(name: str) -> str:
    """A setting's name in words."""
    return _SETTINGS.get(name, name.replace("_", " "))


def metric_name(name: str) -> str:
    """A metric's name in words; of one that is not installed here, the name itself."""
    other = _METRICS.get(name, name.replace("_", " "))
    return METRICS.find(name, "metric").label if name in METRICS else other


def model_name(name: str, neighbors: str = "-") -> str:
    """A model's name in words, with the neighbors it was given."""
    words = _MODELS.get(name.lower(), name.replace("_", " "))
    given = _NEIGHBORS.get(neighbors, neighbors)
    return f"{words}, {given}" if given else words


def count(value: float) -> str:
    """`1,234`, or `1.71 M` from a million on."""
    for limit, unit in ((1e9, "B"), (1e6, "M")):
        if abs(value) >= limit:
            return f"{value / limit:.2f} {unit}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def size(value: float) -> str:
    """Bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("the loop returns at GiB")


def seconds(value: float) -> str:
    """`0.03 s`, `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if value < 10:
        return f"{value:.1g} s" if value < 1 else f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def percent(share: float, digits: int = 1) -> str:
    """A share of one as a percentage."""
    return f"{100 * share:.{digits}f} %"


def signed_percent(share: float, digits: int = 1) -> str:
    """A change with its sign; a change that rounds to nothing has none."""
    if abs(100 * share) < 0.5 * 10**-digits:
        return f"{0:.{digits}f} %"
    sign = "+" if share > 0 else "−"
    return f"{sign}{abs(100 * share):.{digits}f} %"


def loss(value: float) -> str:
    """A loss or perplexity with three to four digits that mean something."""
    return f"{value:.4f}" if abs(value) < 1 else f"{value:,.{max(0, 3 - int(math.log10(abs(value))))}f}"


def span(found: Mapping[str, float]) -> str:
    """`12.0 (8.1–16.2)`, in percent."""
    mean, low, high = (percent(found[key]).removesuffix(" %") for key in ("mean", "low", "high"))
    return f"{mean} ({low}–{high})"
