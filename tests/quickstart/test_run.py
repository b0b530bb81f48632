"""The quickstart from documents to the page, with a random model in place of the real one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.common.optional import package_folder
from retro.evaluate.compare import ScoredAnswers
from retro.qa.answer_files import Answer
from retro.qa.question import Context
from retro.quickstart import versions
from retro.quickstart.acts import Options, page
from retro.quickstart.answers import SETTINGS, QuestionOutcome, rows, sections, summary
from retro.quickstart.documents import write_documents
from retro.quickstart.run import run, show_quickstart
from retro.quickstart.update import NOTE
from tests.tokenizers.chat_model import make_chat_model

RIGHT = {"closed_book": [0, 0, 1, 0], "with_passages": [1, 1, 1, 0], "gold_passages": [1, 1, 1, 1]}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRO_CACHE", str(tmp_path / "cache"))


def outcome(number: int) -> QuestionOutcome:
    """A question whose answers are right as RIGHT says."""
    right = {setting: bool(RIGHT.get(setting, [0] * 4)[number]) for setting in SETTINGS}
    passage = Context(title="f", text=f"f, parameters: tol : float, default=1e-{number + 4} <b>")
    said = {
        setting: Answer(
            id=str(number),
            question=f"What is <{number}>?",
            answers=(f"1e-{number + 4}",),
            prediction=f"It is 1e-{number + 4}." if right[setting] else "It is 7.",
            passages=(passage,),
            setting=setting,
        )
        for setting in SETTINGS
    }
    return QuestionOutcome(said=said, right=right)


def sides() -> dict[str, ScoredAnswers]:
    """The scored answers of four such questions."""
    value = {"mean": 0.5, "low": 0.25, "high": 0.75, "count": 4}
    mine = {"substring_match": value, "f1": value, "recall": {"at": {"1": 0.5, "2": 0.75}}}
    questions = [
        {"settings": {one: {"substring_match": value, "f1": value / 2} for one, value in outcome(number).right.items()}}
        for number in range(4)
    ]
    scores = {"settings": dict.fromkeys(SETTINGS, mine)}
    return {
        setting: ScoredAnswers(name=setting, directory=Path(), setting=setting, scores=scores, questions=questions)
        for setting in SETTINGS
    }


def test_right_answers_are_counted_and_tested_in_pairs() -> None:
    found = summary(sides())
    assert [found["settings"][setting]["right"] for setting in SETTINGS] == [1, 3, 4, 0]
    # Two questions are right with passages alone, none closed-book alone: 2 x (1/2)^2.
    assert found["with_passages_against"]["closed_book"]["substring_match"] == {"test": "mcnemar", "p": 0.5}
    assert found["with_passages_against"]["shuffled_passages"]["substring_match"]["p"] == 0.25


def test_the_page_shows_first_what_only_retrieval_answers_and_escapes_what_it_shows() -> None:
    act = summary(sides()) | {"documents": {"sections": 5, "docstrings": 2, "made": 9}}
    results = {"model": "<m>", "seed": 1, "packages": ["numpy"], "answers": act}
    text = page(results, sections(results, [outcome(number) for number in range(4)]))
    first, second = text.index("Answered only with retrieval: 2"), text.index("Wrong with retrieval: 1")
    assert first < text.index("What is &lt;0&gt;?") < text.index("What is &lt;1&gt;?") < second
    assert "default=<mark>1e-4</mark> &lt;b&gt;" in text
    assert "What is &lt;2&gt;?" not in text and "<b>" not in text and "<m>" not in text
    share = "50.0 % (25.0 % to 75.0 %)"
    assert rows(act)[1][1:] == ("3 of 4", share, share, "@1 50.0 %, @2 75.0 %")


def test_answers_run_to_the_page_and_are_not_made_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_chat_model(tmp_path / "chatty")
    out = tmp_path / "quick start"
    options = Options(out=out, acts=("answers",), questions=3, model=str(model), packages=("numpy",))
    first = run(options)["answers"]
    answers = (out / "answers/7_generate/with_passages.jsonl").stat().st_mtime_ns
    again = run(options)["answers"]
    assert (out / "answers/7_generate/with_passages.jsonl").stat().st_mtime_ns == answers
    assert {**first, "seconds_now": 0} == {**again, "seconds_now": 0}
    with pytest.raises(ArtifactError, match=r"another quickstart \(questions was 3, now 4\)\. Give another --out"):
        run(replace(options, questions=4))
    with pytest.raises(ArtifactError, match=r"another quickstart \(seed was 1, now 2\)\. Give another --out"):
        run(replace(options, acts=("update",), seed=2))
    # A kill before the questions were whole: they are written again, and are the same.
    (out / "documents.json").unlink()
    (out / "questions.json").write_text("[")
    assert {**first, "seconds_now": 0} == {**run(options)["answers"], "seconds_now": 0}
    assert "What retrieval is worth" in (out / "index.html").read_text()
    assert json.loads((out / "results.json").read_text())["answers"]["questions"] == 3
    show_quickstart(options, as_json=False)
    said = capsys.readouterr().out
    assert "3 of 3" not in said and "retro ask --documents my_folder" in said and f"'{out}/documents.jsonl'" in said


def older_package(folder: Path) -> Path:
    """A few modules of networkx, with another word in the docstrings of one."""
    new = package_folder("networkx")
    assert new is not None
    for name in ("algorithms/clique.py", "algorithms/core.py", "algorithms/covering.py"):
        text = (new / name).read_text()
        (folder / "networkx" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "networkx" / name).write_text(text.replace("the graph", "the net") if "clique" in name else text)
    return folder / "networkx"


def test_the_other_acts_run_to_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_chat_model(tmp_path / "chatty")
    options = Options(
        out=tmp_path / "out", acts=("versions", "learning", "update"), model=str(model), packages=("networkx",),
        questions=2, older=older_package(tmp_path / "old"), targets=3, steps=2,
    )  # fmt: skip
    found = run(options)
    assert [row["passages"] for row in found["versions"]["rows"]] == ["none", "shuffled", "found"]
    assert [row["neighbors"] for row in found["learning"]["rows"]] == ["-", "real", "shuffled", "none"]
    assert all(row["low"] < row["perplexity"] < row["high"] for row in found["learning"]["rows"])
    assert [one["step"] for one in found["learning"]["curve"]] == [2]
    before, added, removed = found["update"]["steps"]
    assert NOTE["text"] in added["read"][0] or added["read"] == [NOTE["title"]]
    assert before["read"] == removed["read"] != added["read"] and before["answer"] == removed["answer"]
    # An act that is not asked for again keeps its place on the page.
    run(replace(options, acts=("update",)))
    with pytest.raises(ArtifactError, match=r"model was .*, now nothere"):
        run(replace(options, acts=("update",), model="nothere"))
    assert (options.out / "update" / "run.yaml").exists()
    page_text = (tmp_path / "out" / "index.html").read_text()
    assert page_text.index("2. Text") < page_text.index("3. Retro") < page_text.index("4. The database")
    show_quickstart(replace(options, acts=("versions", "learning", "update")), as_json=False)
    said = capsys.readouterr().out
    assert "Retro, its own neighbors" in said and "nothing before the text" in said and "retro db remove" in said


def test_without_an_older_version_the_page_says_how_to_give_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "OLDER", tmp_path / "older")
    found = versions.run(Options(out=tmp_path, older=tmp_path / "older"))
    told = f"there is no earlier version in {tmp_path}/older (docs/install.md); --older FOLDER names another"
    (section,) = versions.sections({"versions": found})
    assert section.note == f"Left out: {told}."
    assert versions.report({"versions": found}) == (None, [f"Text of two versions: left out, {told}"])


def test_an_act_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ACT = 'answer': needs to be of answers, versions, learning, update"):
        run(Options(out=tmp_path, acts=("answer",)))


def test_the_halves_of_the_documents_share_no_question(tmp_path: Path) -> None:
    found = {}
    for held_out in (True, False):
        write_documents(tmp_path / str(held_out), ("numpy",), 5, 1, held_out=held_out)
        questions = json.loads((tmp_path / str(held_out) / "questions.json").read_text())
        found[held_out] = {one["ctxs"][0]["title"] for one in questions}
    assert not found[True] & found[False]


def test_packages_that_give_too_few_questions_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"h5py: gives \d+ questions of 500 that are to be asked"):
        write_documents(tmp_path, ("h5py",), 500, 1)
    with pytest.raises(DataError, match="no such package is installed"):
        write_documents(tmp_path, ("no_such_package",), 5, 1)


def test_a_place_that_cannot_be_written_is_named_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"--out = .*needs a place where files can be written \(Not a directory"):
        run(Options(out=tmp_path / "file" / "sub"))


def test_an_older_version_that_is_no_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--older = .*needs the folder of an earlier version"):
        versions.run(Options(out=tmp_path, older=tmp_path / "absent"))
