"""Metrics by name. One is a function that gives a number for one answer to one question, and what is known of it.

Another package adds one in one file (docs/extending.md); a task names it like those that are here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retro.common.optional import package_folder
from retro.common.registry import Registry, registered_by_instance

if TYPE_CHECKING:
    from retro.qa.answer_files import QuestionLine
    from retro.qa.metrics.normalize import Rules

    Measure = Callable[[str, QuestionLine, Rules], float]
    """From the prediction, the question with its gold answers, and how the task compares answers, to a number."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric. A setting's score is its mean over all questions, with a bootstrap interval."""

    measure: Measure
    """What it computes. A ValueError says that a question does not fit it."""

    label: str
    """As reports and tables call it."""

    needs_gold: bool = True
    """Whether it compares with gold answers: a question without any is then an error."""

    low: float = 0.0
    high: float = 1.0
    """The least and the greatest number that it can give. Scores are shares of this range, shown in percent: 2 on a
    scale from 1 to 5 is 25 %."""

    higher_is_better: bool = True
    """Whether more is better. A task's first metric has to be of this kind."""

    library: str = ""
    """The package that computes it where it is installed; empty: what brings the metric does."""

    @property
    def defined_in(self) -> str:
        """The module of its function."""
        return self.measure.__module__

    def share(self, value: float) -> float:
        """A number that `measure` gave as a share of the range.

        Raises:
            ValueError: It is outside, or is not a number.
        """
        if not self.low <= value <= self.high:
            raise ValueError(f"it gave {value}, which is not from {self.low:g} to {self.high:g}")
        return (value - self.low) / (self.high - self.low)


def metric(
    *,
    label: str,
    needs_gold: bool = True,
    low: float = 0.0,
    high: float = 1.0,
    higher_is_better: bool = True,
    library: str = "",
) -> Callable[[Measure], Metric]:
    """Decorator that makes a metric of a function; the arguments are the fields of `Metric`.

    Raises:
        ValueError: The range is empty.
    """
    if not low < high:
        raise ValueError(f"a metric needs a range, and {low:g} to {high:g} is none")

    def make(measure: Measure) -> Metric:
        return Metric(
            measure=measure,
            label=label,
            needs_gold=needs_gold,
            low=low,
            high=high,
            higher_is_better=higher_is_better,
            library=library,
        )

    return make


_BUILT_IN = (
    *("exact_match", "f1", "substring_match", "popqa_match", "word_recall", "rouge_l", "rouge_lsum", "accuracy"),
    *("string_em", "drop_em", "drop_f1", "drop_split_em", "drop_split_f1", "quac_f1"),
    *("match_raw", "match_norm", "answered", "bleu_1", "rouge_1", "rouge_2"),
)

METRICS: Registry[Metric] = Registry(
    "retro.metrics",
    "a metric",
    {name: f"retro.qa.metrics.built_in:{name}" for name in _BUILT_IN},
    registered_by_instance(Metric, "a Metric, as `retro.qa.metrics.registry.metric` makes one"),
)
"""Every metric, for the `metrics` of a task."""


def metric_facts(name: str) -> dict[str, Any]:
    """What scores record of a metric, as JSON values.

    Raises:
        ConfigError, DependencyError: There is no such metric, or it cannot be loaded.
    """
    found = METRICS.find(name, "metrics")
    return {
        "label": found.label,
        "range": [found.low, found.high],
        "higher_is_better": found.higher_is_better,
        "aggregate": "mean",
        "computed_by": _computed_by(name, found.library),
    }


def _computed_by(name: str, library: str) -> str:
    from importlib.metadata import version

    # Asked as the metric asks, so that both say the same of one installation.
    if not library or package_folder(library.replace("-", "_")) is None:
        return METRICS.provider(name)
    return f"{library} {version(library)}"
