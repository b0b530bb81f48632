from __future__ import annotations

from typing import Any

from retro.common.terminal import Table
from retro.sweep.table import CellResult, as_json, as_markdown, cells_table, kinds_table, page


def found(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "count": 8}


def scores(metric: str, slices: bool = False, **settings: float) -> dict[str, Any]:
    kinds = {"bridge": {"questions": 1200, "settings": {name: {metric: found(0.5)} for name in settings}}}
    return {
        "metrics": [metric, "exact_match"],
        "settings": {name: {metric: found(mean)} for name, mean in settings.items()},
        "slices": {"type": kinds} if slices else {},
        "intervals": {"confidence": 0.95},
    }


RESULTS = [
    CellResult("retro", "hotpotqa", "x", scores("f1", slices=True, closed_book=0.2, with_passages=0.4)),
    CellResult("retro", "nq", error="DataError: no such\nquestion file | here"),
    CellResult("gpt", "hotpotqa", "y", scores("f1", closed_book=0.3)),
    CellResult("gpt", "nq"),
]


def rows(table: Table) -> list[list[object]]:
    return [list(cells) for cells, _ in table.rows]


def test_rows_are_models_and_what_they_read() -> None:
    assert [heading for heading, _ in cells_table(RESULTS).columns] == ["model", "reads", "hotpotqa, F1", "nq"]
    assert rows(cells_table(RESULTS)) == [
        ["retro", "with passages", "40.0 (30.0–50.0)", "failed"],
        ["retro", "closed-book", "20.0 (10.0–30.0)", "failed"],
        ["gpt", "closed-book", "30.0 (20.0–40.0)", "–"],
    ]


def test_nothing_done_yet_is_a_table_of_gaps() -> None:
    assert rows(cells_table([CellResult("a", "b")])) == [["a", "", "–"]]
    assert "no intervals" in as_markdown("m", [CellResult("a", "b")])


def test_kinds_of_questions_have_rows_of_their_own() -> None:
    assert rows(kinds_table(RESULTS)) == [
        ["retro", "with passages", "hotpotqa", "type", "bridge", "1,200", "50.0 (40.0–60.0)"],
        ["retro", "closed-book", "hotpotqa", "type", "bridge", "1,200", "50.0 (40.0–60.0)"],
    ]


def test_markdown_has_tables_and_what_failed() -> None:
    text = as_markdown("mine", RESULTS)
    assert text.startswith("# mine\n\nMain metric of each task in percent, with 95 % intervals")
    assert "| retro | with passages | 40.0 (30.0–50.0) | failed |" in text
    assert "## Kinds of questions" in text
    assert "* retro × nq: DataError: no such question file | here" in text
    assert r"a\|b" in as_markdown("m", [CellResult("a|b", "t")])


def test_the_page_escapes_what_it_shows() -> None:
    html = page("<mine>", [*RESULTS, CellResult("<b>", "nq", error="<i>")])
    assert "&lt;mine&gt;" in html
    assert "<b>" not in html
    assert "&lt;i&gt;" in html
    assert '<td class="n">40.0 (30.0–50.0)</td>' in html
    assert "https:" not in html


def test_json_has_every_cell() -> None:
    cells = as_json("m", RESULTS)["cells"]
    assert [(cell["checkpoint"], cell["task"], bool(cell["error"])) for cell in cells] == [
        ("retro", "hotpotqa", False),
        ("retro", "nq", True),
        ("gpt", "hotpotqa", False),
        ("gpt", "nq", False),
    ]
