from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retro.common.artifacts import MANIFEST, Manifest, describe_files, write_manifest
from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.common.files import read_json, write_json
from retro.evaluate.config import EvaluateConfig
from retro.evaluate.predictions import run_plain
from retro.evaluate.score import run
from retro.evaluate.scores import score_answers
from retro.qa.answer_files import Answer, QuestionLine, answer_line, question_lines, read_answers
from retro.qa.question import Context, Question
from retro.qa.task import load_task

CONFIG = EvaluateConfig(bootstrap_samples=50)
GOLD = ["ada", "babbage", "turing", "hopper"]


def question(number: int) -> Question:
    return Question(id=f"q{number}", question=f"Who {number}?", answers=(GOLD[number],), document_ids=(f"d{number}",))


def answers(setting: str, said: list[str], documents: list[str]) -> list[Answer]:
    return [
        Answer(
            id=f"q{n}",
            question=f"Who {n}?",
            answers=(GOLD[n],),
            prediction=word,
            passages=tuple(Context("", f"about {GOLD[n]}", name) for name in ([documents[n]] if documents else [])),
            setting=setting,
        )
        for n, word in enumerate(said)
    ]


GIVEN = answers("with_passages", ["ada", "Babbage!", "x", "grace hopper"], ["d0", "d1", "d9", "d3"])
CLOSED = answers("closed_book", ["ada", "", "", ""], [])


def write_generate(directory: Path, sets: dict[str, list[Answer]], metrics: Any = ("exact_match", "f1")) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "questions.jsonl").write_text(question_lines([question(n) for n in range(4)]))
    files = ["questions.jsonl"]
    for name, mine in sets.items():
        (directory / f"{name}.jsonl").write_text("".join(map(answer_line, mine)))
        write_json(directory / f"{name}.header.json", {"metrics": list(metrics)})
        files += [f"{name}.jsonl", f"{name}.header.json"]
    write_manifest(directory, Manifest(stage="generate", config={}, parents={}, files=describe_files(directory, files)))
    return directory


def evaluate(tmp_path: Path, config: EvaluateConfig = CONFIG) -> dict[str, Any]:
    run(config, tmp_path / "7_generate", tmp_path / "8_evaluate", report=None, run_dir=tmp_path)
    scores: dict[str, Any] = read_json(tmp_path / "8_evaluate" / "scores.json", "")
    return scores


def test_scores_worked_by_hand(tmp_path: Path) -> None:
    write_generate(tmp_path / "7_generate", {"closed_book": CLOSED, "with_passages": GIVEN})
    scores = evaluate(tmp_path)
    given, closed = scores["settings"]["with_passages"], scores["settings"]["closed_book"]
    assert (scores["questions"], given["exact_match"]["mean"], closed["exact_match"]["mean"]) == (4, 0.5, 0.25)
    # "grace hopper" against "hopper": precision 1/2, recall 1, F1 2/3; so (1 + 1 + 0 + 2/3) / 4.
    assert given["f1"]["mean"] == pytest.approx(2.6666667 / 4, abs=1e-5)
    assert given["recall"] == {"at": {"1": 0.75}, "questions": 4}
    assert given["answer_in_passages"] == 1.0
    assert (closed["recall"], closed["answer_in_passages"], closed["unanswered"]) == (None, None, 3)
    (difference,) = scores["differences"]
    assert (difference["setting"], difference["minus"]) == ("with_passages", "closed_book")
    assert difference["exact_match"]["mean"] == 0.25


def test_each_questions_own_scores_are_kept(tmp_path: Path) -> None:
    write_generate(tmp_path / "7_generate", {"with_passages": GIVEN})
    evaluate(tmp_path)
    lines = (tmp_path / "8_evaluate" / "questions.jsonl").read_text().splitlines()
    last = json.loads(lines[3])["settings"]["with_passages"]
    assert (last["prediction"], last["exact_match"], round(last["f1"], 3)) == ("grace hopper", 0.0, 0.667)


def test_running_again_changes_no_byte_and_rewrites_the_page(tmp_path: Path) -> None:
    write_generate(tmp_path / "7_generate", {"with_passages": GIVEN})
    evaluate(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "8_evaluate").iterdir()}
    (tmp_path / "report.html").unlink()
    evaluate(tmp_path, CONFIG.model_copy(update={"report_questions": 1}))
    assert {path.name: path.read_bytes() for path in (tmp_path / "8_evaluate").iterdir()} == before
    assert (tmp_path / "report.html").exists()


def test_a_killed_stage_ends_with_the_same_bytes(tmp_path: Path) -> None:
    write_generate(tmp_path / "7_generate", {"with_passages": GIVEN})
    evaluate(tmp_path)
    directory = tmp_path / "8_evaluate"
    names = (MANIFEST, "scores.json", "questions.jsonl")
    before = [(directory / name).read_bytes() for name in names]
    (directory / MANIFEST).unlink()
    (directory / "scores.json").write_text("{")
    evaluate(tmp_path)
    assert [(directory / name).read_bytes() for name in names] == before


def test_other_settings_and_other_answers_are_refused(tmp_path: Path) -> None:
    write_generate(tmp_path / "7_generate", {"with_passages": GIVEN})
    evaluate(tmp_path)
    with pytest.raises(ArtifactError, match="seed was 1234, now 7"):
        evaluate(tmp_path, CONFIG.model_copy(update={"seed": 7}))
    write_generate(tmp_path / "7_generate", {"with_passages": GIVEN, "closed_book": CLOSED})
    with pytest.raises(ArtifactError, match="was made from generate"):
        evaluate(tmp_path)


@pytest.mark.parametrize(
    ("mine", "problem"),
    [
        (GIVEN[:3], "holds 3 answers to 4 questions"),
        ([GIVEN[0], GIVEN[2]], r"line 2 answers 'q2' 'Who 2\?', question 2 is 'q1' 'Who 1\?'"),
        ([*GIVEN, Answer(**(vars(GIVEN[0]) | {"id": "q9"}))], "holds 5 answers to 4 questions"),
        ([*GIVEN, GIVEN[0]], "line 5 answers question 'q0', as line 1 does"),
        ([Answer(**(vars(GIVEN[0]) | {"question": "Whom?"}))], "line 1 answers 'q0' 'Whom"),
        ([Answer(**(vars(GIVEN[0]) | {"answers": ("bob",)}))], r"line 1 has the gold answers \('bob',\)"),
    ],
)
def test_short_misaligned_and_doubled_files_are_errors(tmp_path: Path, mine: list[Answer], problem: str) -> None:
    write_generate(tmp_path / "7_generate", {"with_passages": mine})
    with pytest.raises(ArtifactError, match=rf"with_passages\.jsonl: {problem}"):
        evaluate(tmp_path)


def test_a_broken_file_is_an_error(tmp_path: Path) -> None:
    write_generate(tmp_path / "7_generate", {"with_passages": GIVEN})
    path = tmp_path / "7_generate" / "with_passages.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"id": "q1"', b'{"id"; "q1"'))
    with pytest.raises(ArtifactError, match=r"with_passages.jsonl: has SHA-256 .* bytes changed on disk"):
        evaluate(tmp_path)


def test_slices_alone_are_not_scored(tmp_path: Path) -> None:
    write_generate(tmp_path / "7_generate", {"with_passages_0_4": GIVEN})
    with pytest.raises(ArtifactError, match="has no whole answer file, found with_passages_0_4"):
        evaluate(tmp_path)


def test_unknown_metrics_are_an_error(tmp_path: Path) -> None:
    write_generate(tmp_path / "7_generate", {"with_passages": GIVEN}, metrics=("rouge",))
    with pytest.raises(ArtifactError, match=r"names a task that cannot be scored \(metrics = 'rouge'"):
        evaluate(tmp_path)


def test_answers_can_be_held_against_a_question_file(tmp_path: Path) -> None:
    write_generate(tmp_path / "7_generate", {"with_passages": GIVEN})
    items = [
        {"id": f"q{n}", "question": f"Who {n}?", "answers": [GOLD[n]], "document_ids": [f"d{n}"]} for n in range(4)
    ]
    path = tmp_path / "asked.json"
    path.write_text(json.dumps(items))
    config = CONFIG.model_copy(update={"questions": path})
    assert evaluate(tmp_path, config)["questions"] == 4
    items[2]["answers"] = ["other"]
    path.write_text(json.dumps(items))
    (tmp_path / "8_evaluate" / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="they part at question 2"):
        evaluate(tmp_path, config)
    path.write_text(json.dumps(items[:1]))
    with pytest.raises(ArtifactError, match=r"holds 4 questions, .*asked.json holds 1; they part at question 1"):
        evaluate(tmp_path, config)


def test_recall_is_never_asked_beyond_the_passages_there_are() -> None:
    asked = [QuestionLine(id="q0", question="Who 0?", answers=("ada",), document_ids=("d0",))]
    task = load_task("qa").model_copy(update={"metrics": ("f1",)})
    scores, _ = score_answers(CONFIG, task, asked, {"with_passages": GIVEN[:1]})
    assert scores["settings"]["with_passages"]["recall"]["at"] == {"1": 1.0}
    assert "exact_match" not in scores["settings"]["with_passages"]


def plain(tmp_path: Path, text: str) -> dict[str, Any]:
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps([{"question": f"Who {n}?", "answers": [GOLD[n]]} for n in range(3)]))
    predictions = tmp_path / "said.txt"
    predictions.write_text(text)
    return run_plain(CONFIG, predictions, asked, tmp_path / "scores")


def test_the_original_tools_files_are_scored_line_by_line(tmp_path: Path) -> None:
    scores = plain(tmp_path, "Answer: Ada\nx\nA: Turing\n")
    assert scores["settings"]["said"]["exact_match"]["mean"] == pytest.approx(2 / 3, abs=1e-5)
    assert read_json(tmp_path / "scores" / "scores.json", "") == scores


def test_an_empty_line_is_an_empty_answer(tmp_path: Path) -> None:
    assert plain(tmp_path, "Ada\n\n\n")["settings"]["said"]["unanswered"] == 2


@pytest.mark.parametrize(("text", "lines"), [("Ada\nx\n", 2), ("Ada\nx\ny\nz\n", 4), ("", 0)])
def test_a_plain_file_of_another_length_is_an_error(tmp_path: Path, text: str, lines: int) -> None:
    with pytest.raises(DataError, match=rf"said.txt: has {lines} lines for 3 questions"):
        plain(tmp_path, text)


def test_a_missing_or_binary_plain_file_is_an_error(tmp_path: Path) -> None:
    plain(tmp_path, "a\nb\nc\n")
    with pytest.raises(DataError, match="no such prediction file"):
        run_plain(CONFIG, tmp_path / "none.txt", tmp_path / "asked.json", tmp_path / "scores")
    (tmp_path / "latin.txt").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match=r"cannot be read .*UTF-8"):
        run_plain(CONFIG, tmp_path / "latin.txt", tmp_path / "asked.json", tmp_path / "scores")


def test_nothing_is_lost_between_writing_and_reading(tmp_path: Path) -> None:
    write_generate(tmp_path / "7_generate", {"with_passages": GIVEN})
    assert read_answers(tmp_path / "7_generate" / "with_passages.jsonl") == GIVEN


@pytest.mark.parametrize(
    ("field", "value"),
    [("bootstrap_samples", 0), ("confidence", 1.0), ("recall_at", (0,)), ("report_questions", -1), ("seed", -1)],
)
def test_a_bad_setting_is_named_with_its_value(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"EvaluateConfig\.{field}"):
        EvaluateConfig(**{field: value})


def test_answers_can_be_scored_as_another_task(tmp_path: Path) -> None:
    write_generate(tmp_path / "7_generate", {"with_passages": GIVEN})
    scores = evaluate(tmp_path, CONFIG.model_copy(update={"task": "popqa"}))
    assert (scores["task"]["name"], scores["metrics"][0]) == ("popqa", "popqa_match")
    # "Babbage!" is in no other case in "babbage"; "grace hopper" holds "hopper".
    assert scores["settings"]["with_passages"]["popqa_match"]["mean"] == 0.75
    assert scores["settings"]["with_passages"]["substring_match"]["mean"] == 0.75
    with pytest.raises(ArtifactError, match="task"):
        evaluate(tmp_path, CONFIG.model_copy(update={"task": "nq"}))


def test_scores_made_before_a_setting_existed_hold_under_its_default(tmp_path: Path) -> None:
    write_generate(tmp_path / "7_generate", {"with_passages": GIVEN})
    evaluate(tmp_path)
    path = tmp_path / "8_evaluate" / MANIFEST
    old = read_json(path, "")
    for name in ("slices", "task", "gold", "fingerprint"):
        old.get("config", {}).pop(name, None)
    old.pop("fingerprint", None)
    write_manifest(tmp_path / "8_evaluate", Manifest(**old))
    evaluate(tmp_path)
    with pytest.raises(ArtifactError, match="gold was 'all', now 'first'"):
        evaluate(tmp_path, CONFIG.model_copy(update={"gold": "first"}))


def test_any_settings_stand_side_by_side_on_the_page(tmp_path: Path) -> None:
    names = ["gold_passages", "retrieved_passages", "live_retrieval", "closed_book", "shuffled_passages"]
    kinds = {name: [Answer(**(vars(one) | {"setting": name})) for one in GIVEN] for name in names}
    write_generate(tmp_path / "7_generate", kinds | {"closed_book": CLOSED})
    scores = evaluate(tmp_path)
    firsts = {(one["setting"], one["minus"]) for one in scores["differences"]}
    assert firsts == {("retrieved_passages", name) for name in names if name != "retrieved_passages"}
    page = (tmp_path / "report.html").read_text()
    order = [page.index(f">{words}<") for words in ("with retrieved passages", "with live retrieval", "closed-book")]
    assert order == sorted(order)
    assert "No sure difference, with retrieved passages against closed-book" in page
    assert "How the answers read" in page
    assert "No sure difference, with retrieved passages against with gold passages" in page


def test_questions_without_gold_answers_are_scored_by_what_needs_none(tmp_path: Path) -> None:
    asked = [Question(id=f"q{n}", question=f"Who {n}?", answers=(), labels=(("topic", "Ada"),)) for n in range(2)]
    passages = (Context("T", "about Ada", "d0", 1.5),)
    said = [
        Answer(
            id=f"q{n}", question=f"Who {n}?", answers=(), prediction=text, passages=passages, setting="with_passages"
        )
        for n, text in enumerate(["Ada was.", ""])
    ]
    directory = tmp_path / "7_generate"
    files = write_generate(directory, {"with_passages": said}).joinpath("questions.jsonl")
    files.write_text(question_lines(asked))
    names = [path.name for path in sorted(directory.iterdir()) if path.name != MANIFEST]
    made = Manifest(stage="generate", config={}, parents={}, files=describe_files(directory, names))
    write_manifest(directory, made)
    scores = evaluate(tmp_path, CONFIG.model_copy(update={"task": "factscore"}))
    found = scores["settings"]["with_passages"]
    assert (found["answered"]["mean"], found["answer_in_passages"], found["unanswered"]) == (0.5, None, 1)
    assert "Answered" in (tmp_path / "report.html").read_text(encoding="utf-8")
