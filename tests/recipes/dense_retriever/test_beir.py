"""Folders in the form of BEIR: read as they are, and every mistake in them with its file and line."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from retro.common.errors import DataError
from retro.recipes.dense_retriever.evaluation.beir import pairs_of, passages_of, read_split
from tests.recipes.dense_retriever import beir_folder


def test_questions_and_grades_of_a_split(tmp_path: Path) -> None:
    found = read_split(beir_folder.write(tmp_path), "test")
    # In the order of the judgements; q3 is not judged. A negative grade counts as 0.
    assert found.questions == {"q2": "Which city lies on the Seine?", "q1": "Where does Rome lie?"}
    assert found.relevant == {"q2": {"d2": 2, "d1": 0}, "q1": {"d1": 1, "d4": 0}}
    assert found.counts == {"questions": 2, "judgements": 4, "without_relevant": 0}


def test_questions_without_a_relevant_document_are_counted(tmp_path: Path) -> None:
    found = read_split(beir_folder.write(tmp_path, dev=[("q1", "d1", 0), ("q2", "d2", 1)]), "dev")
    assert found.counts["without_relevant"] == 1


def test_documents_are_passages_and_titles_stand_in_for_texts(tmp_path: Path) -> None:
    corpus = [*beir_folder.CORPUS, {"_id": "d5", "title": "", "text": ""}]
    passages, counts = passages_of(beir_folder.write(tmp_path / "set", corpus), tmp_path / "store")
    assert counts == {"passages": 4, "empty": 1}
    assert [(one.id, one.title, one.text) for one in passages.at(range(4))] == [
        ("d1", "Rome", "Rome lies on the Tiber."),
        ("d2", "", "Paris lies on the Seine."),
        ("d3", "", "Only a title"),
        ("d4", "", "London lies on the Thames."),
    ]


def test_compressed_files_are_read(tmp_path: Path) -> None:
    folder = beir_folder.write(tmp_path / "set")
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    assert len(read_split(folder, "test").questions) == 2
    assert len(passages_of(folder, tmp_path / "store")[0]) == 4


def test_relevant_documents_are_positives_of_pairs(tmp_path: Path) -> None:
    judged = [("q1", "d1", 1), ("q1", "d2", 0), ("q2", "d2", 2), ("q2", "d3", 1)]
    folder = beir_folder.write(tmp_path / "set", train=judged)
    found = [(one.id, one.question, one.document, one.positive.text) for one in pairs_of(folder, "train", tmp_path)]
    assert found == [
        ("q1:d1", "Where does Rome lie?", "d1", "Rome lies on the Tiber."),
        ("q2:d2", "Which city lies on the Seine?", "d2", "Paris lies on the Seine."),
        ("q2:d3", "Which city lies on the Seine?", "d3", "Only a title"),
    ]


def test_a_relevant_document_that_the_corpus_lacks_is_named(tmp_path: Path) -> None:
    folder = beir_folder.write(tmp_path / "set", train=[("q1", "d9", 1)])
    with pytest.raises(DataError, match=r"qrels/train.tsv: judges the document 'd9', which corpus.jsonl does not have"):
        list(pairs_of(folder, "train", tmp_path))


@pytest.mark.parametrize(
    ("name", "line", "problem"),
    [
        ("queries.jsonl", "nonsense", "queries.jsonl: line 4 is no JSON"),
        ("queries.jsonl", "[1]", "queries.jsonl: line 4 is no object"),
        ("queries.jsonl", '{"_id": "q9", "text": "\\ud800"}', "queries.jsonl: line 4 is no object, or holds half a"),
        ("queries.jsonl", '{"id": "q9", "text": "x"}', "queries.jsonl: line 4 has 'None' as its '_id'"),
        ("queries.jsonl", '{"_id": 9, "text": "x"}', "queries.jsonl: line 4 has '9' as its '_id'"),
        ("queries.jsonl", '{"_id": "q9", "text": 3}', "queries.jsonl: line 4 has '3' as its 'text'"),
        ("queries.jsonl", '{"_id": "q9"}', "queries.jsonl: line 4 (question 'q9') has no text"),
        ("queries.jsonl", '{"_id": "q1", "text": "x"}', "queries.jsonl: line 4 has the id 'q1' of a line before"),
        ("qrels/test.tsv", "q1\td1", "qrels/test.tsv: line 6 has 2 cells, needed are 3"),
        ("qrels/test.tsv", "\td1\t1", "qrels/test.tsv: line 6 has 3 cells"),
        ("qrels/test.tsv", "q1\td1\tyes", "qrels/test.tsv: line 6 has the score 'yes', needed is a whole number"),
        ("qrels/test.tsv", "q8\td1\t1", "qrels/test.tsv: line 6 judges the question 'q8', which queries.jsonl"),
        ("qrels/test.tsv", "q1\td1\t0", "qrels/test.tsv: line 6 gives 'd1' another grade for 'q1'"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, name: str, line: str, problem: str) -> None:
    folder = beir_folder.write(tmp_path)
    with (folder / name).open("a", encoding="utf-8") as target:
        target.write(f"{line}\n")
    with pytest.raises(DataError, match=re.escape(problem)):
        read_split(folder, "test")


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    folder = beir_folder.write(tmp_path)
    (folder / "qrels" / "test.tsv").write_bytes(b"query-id\tcorpus-id\tscore\nq1\td\xff\t1\n")
    with pytest.raises(DataError, match=r"test.tsv: line 2 is not UTF-8"):
        read_split(folder, "test")


def test_a_split_needs_its_heading(tmp_path: Path) -> None:
    folder = beir_folder.write(tmp_path)
    (folder / "qrels" / "test.tsv").write_text("q1\td1\t1\n")
    with pytest.raises(DataError, match=r"line 1 is 'q1 d1 1', needed is the heading"):
        read_split(folder, "test")


def test_a_split_without_judgements_is_refused(tmp_path: Path) -> None:
    folder = beir_folder.write(tmp_path, test=[])
    with pytest.raises(DataError, match="holds no judgement"):
        read_split(folder, "test")


@pytest.mark.parametrize("name", ["queries.jsonl", "qrels/test.tsv"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = beir_folder.write(tmp_path)
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"{name}: no such file; {name} is needed"):
        read_split(folder, "test")


def test_a_missing_corpus_is_named(tmp_path: Path) -> None:
    folder = beir_folder.write(tmp_path / "set")
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(DataError, match=r"corpus.jsonl: no such file"):
        passages_of(folder, tmp_path / "store")


def test_a_document_given_twice_is_named_with_its_lines(tmp_path: Path) -> None:
    corpus = [{"_id": "d0", "text": ""}, {"_id": "d1", "text": "x"}, {"_id": "d1", "text": "y"}]
    folder = beir_folder.write(tmp_path / "set", corpus)
    with pytest.raises(DataError, match=r"set/corpus.jsonl: line 3 has the id 'd1' of line 2"):
        passages_of(folder, tmp_path / "store")


def test_a_corpus_of_empty_documents_is_refused(tmp_path: Path) -> None:
    folder = beir_folder.write(tmp_path / "set", [{"_id": "d0", "text": ""}])
    with pytest.raises(DataError, match=r"corpus.jsonl: holds no document with a text"):
        passages_of(folder, tmp_path / "store")
