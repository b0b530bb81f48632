"""Every template with hostile text in every place: nothing of it is markup, a script, or a template."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from jinja2 import UndefinedError

from retro.analysis.inspect import page as inspect_page
from retro.analysis.inspect.distributions import Distributions, Histogram, Hub
from retro.analysis.inspect.view import ChunkView, NeighborView, Origin, Piece, SampleView
from retro.common.artifacts import Manifest
from retro.neighbors.text_overlap import END, LONGEST, SHARED
from retro.qa.answer_files import Answer
from retro.qa.metrics.normalize import Rules
from retro.qa.question import Context, Question
from retro.quickstart import acts as quickstart_page
from retro.recipes.dense_retriever.evaluation.page import cases as retriever_cases
from retro.recipes.dense_retriever.evaluation.page import scores_page
from retro.recipes.instruct_rag.cases import case_of, cases_page
from retro.recipes.knowledge_conflict.conditions import conflict_metrics
from retro.recipes.knowledge_conflict.config import PhrasesConfig
from retro.recipes.knowledge_conflict.items import ConflictItem
from retro.recipes.knowledge_conflict.judgement import judge, matcher
from retro.recipes.knowledge_conflict.metrics import Intervals
from retro.recipes.knowledge_conflict.page import write_conflicts_page
from retro.report import figures, render
from retro.report.figures import Series
from retro.report.questions import highlight
from retro.report.run_report import run_page
from retro.report.run_summary import Curve, StageView, summarize
from retro.report.tables import new_table
from retro.sweep.table import CellResult
from retro.sweep.table import page as sweep_page
from tests.recipes.dense_retriever import scored
from tests.report.page_parser import Page
from tests.test_house import loaded_after

EVIL = "</title></style></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'{{ 7 * 191 }}{% raw %}{# $x^2$"


def found(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "count": 8}


def scores() -> dict[str, Any]:
    mine = {EVIL: found(0.5), "recall": {"at": {"1": 0.5}}, "answer_in_passages": 0.5, "unanswered": 1, "skipped": 2}
    texts = {"words": 1.0, "distinct_1": 0.5, "distinct_2": 0.5, "repeated_4": None, "in_a_loop": 0.0}
    return {
        "questions": 1,
        "metrics": [EVIL],
        "settings": {EVIL: mine | {"wording": texts}},
        "slices": {EVIL: {EVIL: {"questions": 3, "settings": {EVIL: {EVIL: found(0.5)}}}}},
        "intervals": {"confidence": 0.95},
        "differences": [],
    }


def run_html(folder: Path) -> str:
    passage = Context(title=EVIL, text=f"{EVIL} gold", document_id=f"{EVIL}2", score=0.5, row=3)
    answer = Answer(
        id="0", question=EVIL, answers=(EVIL, "gold"), prediction=EVIL, passages=(passage,), setting="with_passages"
    )
    manifest = Manifest(stage="corpus", config={EVIL: EVIL}, parents={EVIL: EVIL}, counts={EVIL: 4}, files={})
    stages = [
        StageView(name=name, work=EVIL, manifest=one, report={EVIL: 7, "dropped": {EVIL: 5}}, problem=EVIL, size=9)
        for name, one in (("corpus", manifest), ("perplexity", None))
    ]
    curve = Curve(name=EVIL, train=((1, 2.0), (2, 1.0)), valid=((1, 2.0), (2, 1.0)), tokens_per_second=5.0)
    point = {"alpha": 1.0, "chunks": 5, "bits_per_byte": 1.5}
    measure = {"histogram": [5], "rows": [{"model": EVIL, "neighbors": EVIL, "points": [point]}]}
    leakage = {
        "split": EVIL,
        "chunks": 5,
        "chunks_left_out": 1,
        "alphas": [1.0],
        "neighbors_saved": 3,
        "neighbors_read": 2,
        "measures": dict.fromkeys(("training", "neighbors", "read"), measure),
        "sentences": [EVIL],
        "perplexity": EVIL,
    }
    in_context = {
        "measured": {"settings": {"confidence": 0.95, "passages": 2}},
        "split": EVIL,
        "rows": [
            {"model": EVIL, "passages": EVIL, "perplexity": 2.0, "low": 1.0, "high": 3.0, "tokens": 1, "documents": 1}
        ],
        "differences": [],
        "prompts": {"gpt": {"stride": 64, "prefix": 128, "targets": 19, "without_passages": 1}},
    }
    run = replace(
        summarize(folder),
        asked=EVIL,
        stages=tuple(stages),
        pretraining=(curve,),
        tuning=(curve,),
        perplexity={"split": EVIL, "rows": [{"model": EVIL, "neighbors": EVIL, "perplexity": 5.0}]},
        in_context=in_context,
        leakage=leakage,
        scores=scores(),
        answers={EVIL: (answer,)},
        values={EVIL: ({EVIL: 0.5},)},
    )
    return run_page(run, 5)


def sweep_html(folder: Path) -> str:
    return sweep_page(EVIL, [CellResult(EVIL, EVIL, EVIL, scores()), CellResult(EVIL, f"{EVIL}2", error=EVIL)])


def inspect_html(folder: Path) -> str:
    pieces = [Piece(EVIL, mark) for mark in (0, SHARED, LONGEST, END)]
    neighbor = NeighborView(
        row=1, origin=Origin(EVIL, f"{EVIL}2"), score=0.5, chunk=pieces, continuation=pieces, longest=1,
        longest_next=None, share=0.5,
    )  # fmt: skip
    chunk = ChunkView(number=0, own=[Origin(EVIL, EVIL)], text=pieces, neighbors=[neighbor, None])
    histogram = Histogram(
        title=EVIL, unit=EVIL, edges=[0.0, 1.0, 2.0], counts=[1, 2], labels=[EVIL, "b"], read=3, of=3
    )  # fmt: skip
    viewer = SimpleNamespace(
        name=f"train stream of {EVIL}", samples=1, sample_chunks=1, shown=2, stream=SimpleNamespace(chunk_length=64),
        sample=lambda number: SampleView(number=number, chunks=[chunk]),
        db=SimpleNamespace(document_id=lambda row: EVIL, text=lambda row: EVIL),
    )  # fmt: skip
    spread = Distributions(
        histograms=[histogram], few={EVIL: 1}, queries=1, hubs=[Hub(row=0, times=1)], spread=None
    )  # fmt: skip
    inspect_page.write_samples(cast(Any, viewer), [0], spread, folder / "page.html")
    return (folder / "page.html").read_text(encoding="utf-8")


def quickstart_html(folder: Path) -> str:
    table = new_table(EVIL, EVIL, right=(EVIL,))
    table.add_row(EVIL, EVIL)
    series = Series(name=EVIL, points=[(1.0, 2.0)], color=1, kind="dots")
    drawing = figures.line_chart([series], x_label=EVIL, y_label=EVIL, label=EVIL)
    section = quickstart_page.Section(
        title=EVIL,
        note=EVIL,
        table=table,
        charts=[(EVIL, drawing, [(EVIL, 1)])],
        below=EVIL,
        asked=[quickstart_page.AnsweredQuestion(EVIL, [EVIL], [(EVIL, True, EVIL)], [highlight(EVIL, ["alert"])])],
    )
    return quickstart_page.page({"model": EVIL, "packages": [EVIL]}, [section])


def conflicts_html(folder: Path) -> str:
    shown = {name: (Context(EVIL, f"{EVIL} gold"),) for name in ("original", "substituted")}
    item = ConflictItem(
        id=EVIL, question=EVIL, answers=("gold", EVIL), original=("gold",), counter=(EVIL,), conditions=shown
    )
    told = {"closed_book": EVIL, "original": "gold", "substituted": EVIL}
    matches, phrases = matcher("substring_match", Rules()), PhrasesConfig()
    judged = {EVIL: {name: judge(item, name, text, matches, phrases) for name, text in told.items()}}
    sure = {EVIL: {name: {"answer": {"text": EVIL, "mean": -1.0, "sum": -2.0}} for name in told}}
    found = conflict_metrics([item], judged, sure, Intervals(samples=10)) | {"metric": EVIL}
    write_conflicts_page(folder / "page.html", found, [item], judged, 5)
    return (folder / "page.html").read_text(encoding="utf-8")


def rationales_html(_: Path) -> str:
    question = Question(id=EVIL, question=EVIL, answers=("gold", EVIL), contexts=(Context(EVIL, f"{EVIL} gold"),))
    answer = Answer(
        id=EVIL, question=EVIL, answers=question.answers, prediction=f"Document 1 says {EVIL}. {EVIL}", passages=(),
        setting="with_passages", skipped="", ended="stop",
    )  # fmt: skip
    case = case_of(1, question, question.contexts, {"icl": (answer, 1.0), "closed_book": (answer, 0.0)})
    return cases_page(EVIL, EVIL, [(EVIL, EVIL)], [case])


def retrievers_html(_: Path) -> str:
    values = {"tuned": scored.VALUES["tuned"], EVIL: scored.VALUES["minilm"]}
    found = scored.scores(values, EVIL)
    sides = [{"name": name, "key": name} for name in values]
    groups = retriever_cases(scored.lines(values, EVIL, EVIL), sides[0], sides[1], "document_top5")
    return scores_page(found, {EVIL: [(1.0, 2.0), (2.0, 1.0)]}, groups)


PAGES: dict[str, Callable[[Path], str]] = {
    "conflicts": conflicts_html,
    "rationales": rationales_html,
    "retrievers": retrievers_html,
    "run": run_html,
    "sweep": sweep_html,
    "inspect": inspect_html,
    "quickstart": quickstart_html,
}


def test_every_template_of_a_page_is_tried() -> None:
    folder = Path(render.__file__).parent / "templates"
    assert {path.name for path in folder.glob("*.j2")} == {f"{name}.html.j2" for name in (*PAGES, "base", "parts")}


@pytest.mark.parametrize("name", PAGES)
def test_hostile_text_is_text(name: str, tmp_path: Path) -> None:
    html = PAGES[name](tmp_path)
    page = Page(html)
    assert page.open == []
    assert "img" not in page.tags
    assert page.handlers == []
    assert len([tag for tag, _ in page.elements if tag == "script"]) == (1 if name == "inspect" else 0)
    assert all(target.startswith(("#", "data:,")) for target in page.loads)
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    # No template ran in it: the sum was not worked out, the comment was not taken away.
    assert str(7 * 191) not in html
    shown = [text for tag, text in page.texts if tag not in ("script", "style")]
    assert sum(EVIL in text for text in shown) > 5


@pytest.mark.parametrize("name", PAGES)
def test_the_same_values_give_the_same_bytes(name: str, tmp_path: Path) -> None:
    assert PAGES[name](tmp_path) == PAGES[name](tmp_path)


def test_a_value_that_a_template_lacks_is_an_error_and_no_gap() -> None:
    with pytest.raises(UndefinedError, match="'tables' is undefined"):
        render.render("sweep", name="x", lede="y")


def test_tables_and_charts_load_their_libraries_when_they_are_drawn() -> None:
    assert loaded_after("import retro.report.tables, retro.report.leakage", "jinja2", "matplotlib") == set()
    assert loaded_after("import retro.report.run_report", "matplotlib") == set()
