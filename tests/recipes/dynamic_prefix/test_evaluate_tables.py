"""Tables of the scores, from numbers worked by hand."""

from __future__ import annotations

from typing import Any

from retro.recipes.dynamic_prefix.evaluation.support import share_of
from retro.recipes.dynamic_prefix.evaluation.tables import MEASURES, as_markdown, tables
from retro.recipes.dynamic_prefix.published import PUBLISHED


def mean(value: float) -> dict[str, float]:
    return {"mean": value, "low": value - 0.1, "high": value + 0.1, "count": 20}


FOUND: dict[str, Any] = {
    "questions": 20,
    "metrics": ["exact_match", "bert_score"],
    "modes": {
        "prefix": {"exact_match": mean(0.5), "bert_score": mean(0.7)},
        "none": {"exact_match": mean(0.1), "bert_score": mean(0.2)},
    },
    "differences": {
        "prefix": {
            "exact_match": {"difference": {"mean": 0.4, "low": 0.2, "high": 0.6}, "p": 0.0123},
            "bert_score": {"difference": {"mean": -0.05, "low": -0.1, "high": 0.0}, "p": 1.0},
        }
    },
    "written": {
        "prefix": {"unsupported": share_of([True, False], 0.95), "unchanged": share_of([None], 0.95)},
    },
    "forced": {"prefix": {"gold": dict.fromkeys(MEASURES, mean(0.5))}},
    "weights": {"trained": 1, "frozen": 2},
    "published": dict(PUBLISHED),
    "intervals": {"confidence": 0.95},
}


def test_the_published_numbers_stand_beside_ours() -> None:
    scores = tables(FOUND)[0]
    assert [cells for cells, _ in scores.rows] == [
        ("prefix", "50.0 (40.0–60.0)", "70.0 (60.0–80.0)"),
        ("no documents", "10.0 (0.0–20.0)", "20.0 (10.0–30.0)"),
        ("prefix, published", "26.2", "66.7"),
        ("no documents, published", "2.9", "40.0"),
    ]
    assert "Reinforced-Retrieval" in scores.caption


def test_differences_have_their_sign_and_p() -> None:
    [row] = tables(FOUND)[1].rows
    assert row[0] == ("prefix", "+40.0 (+20.0 to +60.0), 0.012", "−5.0 (−10.0 to +0.0), 1")


def test_shares_have_their_numbers_and_a_share_of_nothing_is_a_dash() -> None:
    [(cells, _)] = tables(FOUND)[2].rows
    assert cells[0] == "prefix"
    assert str(cells[1]).startswith("50.0 (")
    assert str(cells[1]).endswith("1/2")
    assert set(cells[2:]) == {"–"}


def test_measures_are_in_percent_and_in_nats() -> None:
    [(cells, _)] = tables(FOUND)[3].rows
    assert cells[:4] == ("prefix", "the gold answer", "50.0 (40.0–60.0)", "0.500 (0.400 to 0.600)")
    assert cells[-1] == "20"


def test_tables_without_rows_are_left_out() -> None:
    assert len(tables(FOUND | {"forced": {}, "differences": {}})) == 2


def test_markdown_has_titles_tables_and_captions() -> None:
    text = as_markdown("Mine", tables(FOUND))
    assert text.startswith("# Mine\n\n## Answers, in %\n\n| documents | Exact match | BERTScore F1 |\n| --- |")
    assert "Paired by question" in text
