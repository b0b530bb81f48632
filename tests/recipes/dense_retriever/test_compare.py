"""Two retrievers of one run or of two, side by side: what is compared, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from retro.cli.main import app as cli
from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.recipes.dense_retriever.command import PAGE, PAIRS, run_beir, run_compare
from retro.recipes.dense_retriever.data.pair_items import plain_pairs
from retro.recipes.dense_retriever.evaluation import page
from retro.recipes.dense_retriever.evaluation.compare import compare, open_side
from tests.recipes.dense_retriever import beir_folder, scored


def test_two_retrievers_of_a_run_are_compared_question_by_question(tmp_path: Path) -> None:
    run = scored.write(tmp_path / "run")
    found = compare(open_side(run, "minilm"), open_side(run, "tuned"))
    top5 = found["sets"]["passages"]["metrics"]["document_top5"]
    # Three of four questions that only the tuned one answers: 2 / 2^3.
    assert {name: top5[name] for name in ("a", "b", "mean", "test", "p")} == {
        "a": 0.25, "b": 1.0, "mean": 0.75, "test": "mcnemar", "p": 0.25,
    }  # fmt: skip
    assert found["sets"]["passages"]["metrics"]["document_mrr"]["test"] == "sign_flips"


def test_a_run_is_found_by_any_of_its_folders(tmp_path: Path) -> None:
    run = scored.write(tmp_path / "run")
    home = run / "recipe_dense_retriever"
    assert {open_side(one, "tuned").directory for one in (run, home, home / "evaluate")} == {home / "evaluate"}


def test_the_command_writes_json_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = (scored.write(tmp_path / name) for name in ("first", "second"))
    run_compare([str(a), str(b), f"out={tmp_path}/out"])
    found = json.loads((tmp_path / "out" / PAIRS).read_text())
    assert found["a"]["name"] == "first"
    assert found["sets"]["passages"]["metrics"]["document_top5"]["mean"] == 0.0
    assert "Two retrievers" in (tmp_path / "out" / PAGE).read_text()
    assert "top-5 by document" in capsys.readouterr().out


def test_one_run_is_enough_for_two_of_its_retrievers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = scored.write(tmp_path / "run")
    run_compare([str(run), "a=minilm", "set=passages"])
    html = (run / "recipe_dense_retriever" / "evaluate" / PAGE).read_text()
    assert "top-5 by document: only B (tuned)" in html
    assert "3 of 3 shown" in html
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "needs RUN_A RUN_B"),
        (["x", "y", "z"], "needs RUN_A RUN_B"),
        (["RUN", "setting=1"], "is not a setting; did you mean 'set'"),
        (["RUN", "out="], "needs something behind the ="),
        (["RUN", "a=minilm", "set=passage"], "is not a set of both; did you mean 'passages'"),
        (["RUN", "a=minlm"], "is not a retriever; did you mean 'minilm'"),
        (["RUN"], "needs another run, or another retriever than tuned"),
    ],
)
def test_a_wrong_word_is_named(tmp_path: Path, words: list[str], problem: str) -> None:
    run = scored.write(tmp_path / "run")
    with pytest.raises(ConfigError, match=problem):
        run_compare([str(run) if word == "RUN" else word for word in words])


def test_a_folder_without_scores_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no scores of dense_retriever"):
        open_side(tmp_path, "tuned")


def two(tmp_path: Path, found: dict[str, Any] | None = None, items: list[dict[str, Any]] | None = None) -> Any:
    a, b = scored.write(tmp_path / "a"), scored.write(tmp_path / "b", found, items or ())
    return compare(open_side(a, "tuned"), open_side(b, "tuned"))


def test_other_passages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="searched other passages for passages than"):
        two(tmp_path, scored.scores(searched="other"))


def test_other_questions_are_refused(tmp_path: Path) -> None:
    items = scored.lines()
    items[2]["question"] = "Another one"
    with pytest.raises(ArtifactError, match="question 3 of passages has question 'Another one'"):
        two(tmp_path, items=items)


def test_fewer_questions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"has 3 questions of passages, .* 4"):
        two(tmp_path, items=scored.lines()[:3])


def test_runs_without_a_set_in_common_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a set of questions that RUN_A has too; they have passages and nq"):
        two(tmp_path, scored.scores(name="nq"), scored.lines(name="nq"))


def test_a_retriever_that_a_set_lacks_is_named(tmp_path: Path) -> None:
    values = {"minilm": scored.VALUES["minilm"]}
    found = scored.scores()
    found["sets"]["passages"]["retrievers"].pop("tuned")
    found["sets"]["nq"] = scored.scores(name="nq")["sets"]["nq"]
    with pytest.raises(ArtifactError, match="has no tuned in passages"):
        two(tmp_path, found, scored.lines(values))


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    run = scored.write(tmp_path / "run")
    path = run / "recipe_dense_retriever" / "evaluate" / "questions.jsonl"
    items = scored.lines()
    del items[1]["values"]
    path.write_text("".join(json.dumps(one) + "\n" for one in items))
    with pytest.raises(ArtifactError, match=r"line 2 \(item 1\) has no values"):
        open_side(run, "tuned")
    path.write_text("{")
    with pytest.raises(DataError, match="broken JSON"):
        open_side(run, "tuned")


def test_tables_have_every_retriever_and_unit() -> None:
    made = page.tables(scored.scores())
    assert [one.title for one in made] == [
        "All passages: by document, in %",
        "All passages: differences from tuned, in points",
        "Published: top-5 among the validation's positives",
    ]
    assert [cells[0] for cells, _ in made[0].rows] == ["tuned", "minilm"]
    assert made[0].rows[1][0][2] == "25.0 (0.0–75.0)"
    assert made[0].caption == "4 questions, 9 passages; 1 questions without a relevant passage count as 0"


def test_metrics_are_named_in_words() -> None:
    names = ("document_top5", "segment_mrr10", "answer_mrr", "ndcg10", "recall100")
    assert [page.metric_words(name) for name in names] == [
        "top-5 by document", "MRR@10 by segment", "MRR by answer string", "nDCG@10", "recall@100",
    ]  # fmt: skip


def test_a_beir_folder_becomes_pairs_that_the_recipe_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = beir_folder.write(tmp_path / "cities", train=[("q1", "d1", 1), ("q2", "d2", 2), ("q2", "d1", 0)])
    out = tmp_path / "made" / "pairs.jsonl"
    run_beir([str(folder), f"out={out}"])
    capsys.readouterr()
    items = [json.loads(line) for line in out.read_text().splitlines()]
    found = [plain_pairs(item, str(number)) for number, item in enumerate(items)]
    assert [(one.id, one.question) for one in found] == [
        ("q1:d1", "Where does Rome lie?"), ("q2:d2", "Which city lies on the Seine?"),
    ]  # fmt: skip
    assert [(one.positives[0].id, one.positives[0].document) for one in found] == [("d1", "d1"), ("d2", "d2")]
    assert [path.name for path in out.parent.iterdir()] == ["pairs.jsonl"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["FOLDER"], r"needs one folder in BEIR's form, and out=FILE.jsonl"),
        (["out=x.jsonl"], r"needs one folder in BEIR's form"),
        (["FOLDER", "out=x.jsonl", "split=tset"], r"split=tset.*: needs one of train, dev, test"),
        (["FOLDER", "out=x.jsonl", "spit=test"], r"did you mean 'split'"),
    ],
)
def test_a_wrong_word_of_beir_is_named(tmp_path: Path, words: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        run_beir([str(tmp_path) if word == "FOLDER" else word for word in words])


def test_all_settings_are_shown() -> None:
    shown = CliRunner().invoke(cli, ["recipe", "dense_retriever", "show"], env={"COLUMNS": "200"}).output
    for name in ("data.sources[].path", "mine.near_duplicate", "train.vicreg.covariance", "evaluate.retrievers[].kind"):
        assert name in shown
    # Of other packages a line is enough.
    assert "evaluate.bm25" in shown
    assert "evaluate.bm25.k1" not in shown
