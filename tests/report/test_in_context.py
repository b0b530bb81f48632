"""Perplexity with passages in the prompt, as a table."""

from __future__ import annotations

import io
import math
from typing import Any

from retro.common.statistics import estimate, estimate_ratio
from retro.common.terminal import Terminal
from retro.report.tables import in_context_table


def measured() -> dict[str, Any]:
    shared = {"model": "gpt", "tokens": 1200, "documents": 3}
    return {
        "measured": {"settings": {"confidence": 0.95, "passages": 2}},
        "split": "test",
        "rows": [
            shared | {"passages": "found", "perplexity": 20.0, "low": 18.0, "high": 22.0},
            shared | {"passages": "none", "perplexity": 25.0, "low": None, "high": None},
        ],
        "differences": [{"model": "gpt", "minus": "none", "mean": math.log(20 / 25), "p_value": 0.004}],
        "prompts": {"gpt": {"stride": 64, "prefix": 128, "targets": 19, "without_passages": 1}},
    }


def test_each_condition_has_a_row_and_found_is_held_against_the_others() -> None:
    (found, _), (none, _) = in_context_table(measured()).rows
    assert found == ("GPT", "passages found for it", "20.00", "18.00–22.00", "", "")
    assert none == ("GPT", "nothing", "25.00", "", "−20.0 %", "0.004")


def test_the_terminal_says_what_was_measured_on() -> None:
    stream = io.StringIO()
    Terminal(stream, width=160).table(in_context_table(measured()))
    text = " ".join(stream.getvalue().split())
    assert "1,200 tokens of 3 documents" in text
    assert "1 of 19 searches found nothing" in text
    assert "−20.0 %" in text


def test_the_mean_over_documents_weighs_their_tokens() -> None:
    # 6 nats over 2 tokens and 2 over 6: one a token. Drawing whole documents gives 3, 1 or 1/3.
    found = estimate_ratio([6.0, 2.0], [2.0, 6.0], samples=400, confidence=0.95, seed=1)
    assert (found.mean, found.low, found.high, found.count) == (1.0, 1 / 3, 3.0, 2)
    one, other = (
        estimate([1.0, 0.0, 0.5], samples=50, confidence=0.9, seed=2),
        estimate_ratio([1.0, 0.0, 0.5], [1.0, 1.0, 1.0], samples=50, confidence=0.9, seed=2),
    )
    assert one == other
