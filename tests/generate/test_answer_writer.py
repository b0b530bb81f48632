from __future__ import annotations

import json
from pathlib import Path

import pytest

from retro.common.errors import ArtifactError
from retro.generate.answer_writer import AnswerFile, answer_path, header_path, join_slices, write_plain
from retro.qa.answer_files import Answer, answer_line, passage_record, question_lines, read_answers, read_question_lines
from retro.qa.question import Context, Question

HEADER = {"setting": "s", "seed": 1, "start": 0, "count": 5}
IDS = ["a", "b", "c", "d", "e"]


def answer(name: str) -> Answer:
    return Answer(
        id=name,
        question=f"{name}?",
        answers=("gold",),
        prediction=f"says\n{name}",
        passages=(Context("T", "text\u2028more", "doc", 0.5, 3),),
        setting="s",
    )


def fill(path: Path, ids: list[str], batch: int = 2, header: dict[str, object] | None = None) -> AnswerFile:
    file = AnswerFile(path, header or HEADER, ids, batch)
    while not file.complete:
        file.append([answer(name) for name in ids[file.done : file.done + batch]])
    return file


def test_an_answer_is_read_as_it_was_written(tmp_path: Path) -> None:
    fill(tmp_path / "s.jsonl", IDS)
    assert read_answers(tmp_path / "s.jsonl") == [answer(name) for name in IDS]


@pytest.mark.parametrize("cut", [1, 50, 170, 200, 330, 500, 600])
def test_a_file_cut_anywhere_ends_with_the_same_bytes(tmp_path: Path, cut: int) -> None:
    fill(tmp_path / "whole.jsonl", IDS)
    whole = (tmp_path / "whole.jsonl").read_bytes()
    path = tmp_path / "cut.jsonl"
    fill(path, IDS)
    path.write_bytes(whole[:cut])
    again = AnswerFile(path, HEADER, IDS, 2)
    assert again.done % 2 == 0
    fill(path, IDS)
    assert path.read_bytes() == whole


def test_finished_batches_are_not_answered_again(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    file = AnswerFile(path, HEADER, IDS, 2)
    file.append([answer("a"), answer("b")])
    assert AnswerFile(path, HEADER, IDS, 2).done == 2
    fill(path, IDS)
    assert AnswerFile(path, HEADER, IDS, 2).complete


def test_answers_of_other_settings_are_not_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    fill(path, IDS)
    with pytest.raises(ArtifactError, match=r"s.jsonl: was begun with other settings: seed was 1, now 2"):
        AnswerFile(path, HEADER | {"seed": 2}, IDS, 2)


def test_a_file_without_its_header_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    fill(path, IDS)
    header_path(path).unlink()
    with pytest.raises(ArtifactError, match=r"has no s.header.json"):
        AnswerFile(path, HEADER, IDS, 2)


def test_a_file_with_other_questions_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    fill(path, IDS)
    with pytest.raises(ArtifactError, match=r"answers the questions a … e \(5\), not v … z \(5\)"):
        AnswerFile(path, HEADER, ["v", "w", "x", "y", "z"], 2)


def test_answers_out_of_order_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the next questions are"):
        AnswerFile(tmp_path / "s.jsonl", HEADER, IDS, 2).append([answer("b")])


def slices(directory: Path, *bounds: tuple[int, int]) -> None:
    for start, count in bounds:
        header = HEADER | {"start": start, "count": count}
        fill(answer_path(directory, "s", start, count, 5), IDS[start : start + count], header=header)


def test_slices_join_to_the_bytes_of_the_whole(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    fill(answer_path(tmp_path / "whole", "s", 0, 5, 5), IDS)
    slices(tmp_path, (0, 2), (2, 1), (3, 2))
    joined = join_slices(tmp_path, "s", IDS)
    assert joined.name == "s.jsonl"
    assert joined.read_bytes() == (tmp_path / "whole" / "s.jsonl").read_bytes()
    assert header_path(joined).read_bytes() == (tmp_path / "whole" / "s.header.json").read_bytes()


@pytest.mark.parametrize(
    ("bounds", "problem"),
    [
        ([(0, 2), (3, 2)], "begins at question 3, the slices before it end at 2"),
        ([(0, 3), (2, 3)], "begins at question 2, the slices before it end at 3"),
        ([(1, 4)], "begins at question 1, the slices before it end at 0"),
        ([(0, 2), (2, 2)], "its slices hold 4 of 5 questions"),
        ([], "its slices hold 0 of 5 questions"),
    ],
)
def test_a_gap_or_an_overlap_is_an_error(tmp_path: Path, bounds: list[tuple[int, int]], problem: str) -> None:
    slices(tmp_path, *bounds)
    with pytest.raises(ArtifactError, match=problem):
        join_slices(tmp_path, "s", IDS)


def test_an_unfinished_slice_is_an_error(tmp_path: Path) -> None:
    slices(tmp_path, (0, 2), (2, 3))
    path = tmp_path / "s_2_3.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(ArtifactError, match=r"s_2_3.jsonl: answers 2 questions, c … d \(2\); needs c … e \(3\)"):
        join_slices(tmp_path, "s", IDS)


def test_slices_of_two_configs_do_not_join(tmp_path: Path) -> None:
    slices(tmp_path, (0, 2))
    fill(tmp_path / "s_2_3.jsonl", IDS[2:], header=HEADER | {"seed": 9, "start": 2, "count": 3})
    with pytest.raises(ArtifactError, match=r"s_2_3.jsonl: was made by other settings than s_0_2.jsonl"):
        join_slices(tmp_path, "s", IDS)


def test_the_plain_form_is_one_line_per_question(tmp_path: Path) -> None:
    fill(tmp_path / "s.jsonl", IDS)
    assert write_plain(tmp_path / "s.jsonl", tmp_path / "s.txt").read_text() == "".join(f"says {n}\n" for n in IDS)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{}\n", "line 1 is not an answer"),
        ("[]\n", "line 1 is a list, not an object"),
        ("{\n", "line 1 is broken JSON"),
        ("{}", "ends in the middle of a line"),
        (answer_line(answer("a")) * 2, "line 2 answers question 'a', as line 1 does"),
    ],
)
def test_a_damaged_answer_file_is_an_error(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ArtifactError, match=problem):
        read_answers(path)


def test_a_missing_or_binary_answer_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is missing"):
        read_answers(tmp_path / "s.jsonl")
    (tmp_path / "s.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(ArtifactError, match=r"cannot be read .*utf-8"):
        read_answers(tmp_path / "s.jsonl")


def test_the_questions_are_kept_beside_the_answers(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(question_lines([Question(id="a", question="a?", answers=("x", "y"), document_ids=("d",))]))
    (asked,) = read_question_lines(path)
    assert (asked.id, asked.answers, asked.document_ids) == ("a", ("x", "y"), ("d",))
    path.write_text(json.dumps({"id": "a"}) + "\n")
    with pytest.raises(ArtifactError, match="line 1 is not a question"):
        read_question_lines(path)


def test_a_passage_is_recorded_with_six_digits_of_its_score() -> None:
    assert passage_record(Context("T", "x", "d", 0.123456789, 4)).score == 0.123457
