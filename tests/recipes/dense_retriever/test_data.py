"""Files of questions become pairs: what of each format is a positive, and that the parts share nothing."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.qa.formats.item import BadItemError
from retro.recipes.dense_retriever.data import build as data
from retro.recipes.dense_retriever.data import item_stream
from retro.recipes.dense_retriever.data.build import document_of
from retro.recipes.dense_retriever.data.pair_items import NoPositiveError, PositiveText, hotpotqa, plain_pairs
from retro.recipes.dense_retriever.data.pair_split import Split, prove_split, write_parts
from retro.recipes.dense_retriever.pairs import Pair, PairPassage, question_key, read_pairs, text_key, write_pairs
from retro.recipes.document_split import part_of
from tests.recipes.dense_retriever.data_steps import manifest, run_step, write_lines
from tests.recipes.dense_retriever.test_natural_questions import LONG, NONE, simplified

"""Real questions; beside the repository, where they are at hand."""
SPLIT = Split(708, 0.05)
HELD_OUT = [name for name in (f"d{number}" for number in range(200)) if part_of(name) == "valid"]
TRAINED = [name for name in (f"d{number}" for number in range(200)) if part_of(name) == "train"]


def pair(name: str, document: str, question: str = "", text: str = "", **more: Any) -> Pair:
    own = PairPassage(id=name, text=text or f"text of {name}")
    return Pair(id=name, question=question or f"what of {name}", document=document, positive=own, **more)


def texts(passages: Any) -> list[str]:
    return [one.text for one in passages]


CONTRIEVER = {
    "question": "who",
    "answers": ["me"],
    "negative_ctxs": [{"title": "T", "text": "random"}],
    "positive_ctxs": [{"title": "A", "text": "gold", "passage_id": "12"}, {"title": "B", "text": "second"}],
    "hard_negative_ctxs": [{"title": "H", "text": "hard"}],
}


def test_contrievers_passages_are_told_apart_by_their_fields_in_any_order() -> None:
    for order in (CONTRIEVER, dict(reversed(CONTRIEVER.items()))):
        found = plain_pairs(order, "4")
        assert texts(found.positives) == ["gold", "second"]
        assert texts(found.negatives) == ["hard", "random"]
        assert (found.id, found.question, found.answers) == ("4", "who", ("me",))
        assert [document_of(one) for one in found.positives] == ["A", "B"]
        assert found.positives[0].id == "12"


@pytest.mark.parametrize(
    ("item", "positives", "negatives", "document"),
    [
        ({"question": "q", "positive": "p", "document": "d"}, ["p"], [], "d"),
        ({"query": "q", "pos": ["p", "r"], "neg": ["n"]}, ["p", "r"], ["n"], ""),
        ({"anchor": "q", "positive": "p", "negative_2": "b", "negative_10": "c"}, ["p"], ["b", "c"], ""),
        ({"question": "q", "positives": [{"title": "T", "text": " p "}], "negatives": []}, ["p"], [], ""),
    ],
)  # fmt: skip
def test_pairs_and_triples_under_their_public_names(
    item: dict[str, Any], positives: list[str], negatives: list[str], document: str
) -> None:
    found = plain_pairs(item, "0")
    assert texts(found.positives) == positives
    assert texts(found.negatives) == negatives
    assert {one.document for one in found.positives} == {document}


def test_a_passage_belongs_to_the_document_that_it_names_else_its_title_else_its_text() -> None:
    assert document_of(PositiveText(text="x", title="T", document="d")) == "d"
    assert document_of(PositiveText(text="x", title="T")) == "T"
    same = {document_of(PositiveText(text="x")), document_of(PositiveText(text="x", id="other"))}
    assert len(same) == 1
    assert document_of(PositiveText(text="y")) not in same


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"positive": "p"}, "no_question"),
        ({"question": 3, "positive": "p"}, "no_question"),
        ({"question": "q", "positive": 3}, "wrong_type"),
        ({"question": "q", "positive": {"title": "t"}}, "wrong_type"),
        ({"question": "q", "positive": {"text": "t", "title": 3}}, "wrong_type"),
        ({"question": "q", "positive": " "}, "empty_passage"),
        ({"question": "q", "positive": "p", "document": 1.5}, "wrong_type"),
        ({"question": "q", "positive": {"text": "t", "doc_id": ["d"]}}, "wrong_type"),
        ({"question": "q", "positive": {"text": "t", "id": {}}}, "wrong_type"),
        ({"question": "q", "positive": "p", "id": True}, "wrong_type"),
        ({"question": "q", "positive": "p", "answers": [3]}, "wrong_type"),
    ],
)
def test_what_is_no_pair_says_why(item: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadItemError) as caught:
        plain_pairs(item, "0")
    assert caught.value.reason == reason


def test_a_question_without_a_positive_is_no_mistake() -> None:
    for item in ({"question": "q"}, {"question": "q", "positive_ctxs": []}):
        with pytest.raises(NoPositiveError):
            plain_pairs(item, "0")


def hotpot(**changes: Any) -> dict[str, Any]:
    context = [["A", ["a one.", " a two."]], ["B", ["b."]], ["C", ["c."]]]
    return {
        "_id": "h1", "question": "q", "answer": "yes", "supporting_facts": [["C", 0], ["A", 1]], "context": context
    } | changes  # fmt: skip


def test_hotpotqas_supporting_paragraphs_are_positives_and_its_distractors_negatives() -> None:
    found = hotpotqa(hotpot(), "0")
    assert texts(found.positives) == ["a one. a two.", "c."]
    assert [one.document for one in found.positives] == ["A", "C"]
    assert texts(found.negatives) == ["b."]
    with pytest.raises(NoPositiveError):
        hotpotqa(hotpot(supporting_facts=[["Z", 0]]), "0")


def test_the_step_writes_both_parts_and_counts_what_it_skips(tmp_path: Path) -> None:
    items = [simplified(LONG, example_id=n, document_url=f"w/{name}", question_text=f"what is {name}",
                        document_text=simplified()["document_text"].replace("Rome is", f"{name} is"))
             for n, name in enumerate([*TRAINED[:30], *HELD_OUT[:3]])]  # fmt: skip
    for one in items:
        one["annotations"][0]["long_answer"] = {"start_token": 3, "end_token": 13, "candidate_index": 1}
    source = write_lines(tmp_path / "nq.jsonl", [*items, simplified(NONE), simplified(None, NONE), items[0]])
    out = run_step(
        tmp_path / "run", "pairs",
        data={"sources": [{"path": source, "format": "natural_questions"}], "max_length": 4},
    )  # fmt: skip
    train, valid = read_pairs(out / "train.jsonl"), read_pairs(out / "valid.jsonl")
    assert {one.document for one in train} == set(TRAINED[:30])
    assert {one.document for one in valid} == set(HELD_OUT[:3])
    counts = manifest(out)["counts"]
    of_source = counts["sources"][0]
    assert (of_source["items"], of_source["pairs"], of_source["skipped.no_long_answer"]) == (36, 34, 2)
    assert (of_source["positives_cut"], of_source["kind.P"]) == (34, 34)
    assert counts["dropped"] == {"duplicate": 1}
    assert train[0].positive.text == f"{TRAINED[0]} is the capital"


def test_equal_texts_and_questions_stay_with_what_is_held_out(tmp_path: Path) -> None:
    train, valid = tmp_path / "train.jsonl", tmp_path / "valid.jsonl"
    (kept, other, third), held = TRAINED[:3], HELD_OUT[0]
    negatives = tuple(
        PairPassage(id=f"n{n}", text=text, title=title)
        for n, (text, title) in enumerate([("TWO", ""), ("fine", other), ("x", held)], start=1)
    )
    pairs = [
        pair("a", kept, "Who is the King?", "one"),
        pair("b", held, "where", "two"),
        pair("c", other, "WHERE?", "three"),
        pair("d", third, "when", "Two"),
        pair("e", kept, "who is king", "ONE"),
        pair("f", kept, "how", "six", negatives=negatives),
    ]  # fmt: skip
    dropped = write_parts(lambda: pairs, SPLIT, train, valid)
    assert [one.id for one in read_pairs(valid)] == ["b"]
    written = read_pairs(train)
    assert [one.id for one in written] == ["a", "f"]
    assert [one.id for one in written[1].negatives] == ["n2"]
    assert dropped == {
        "question_is_held_out": 1, "positive_is_held_out": 1, "duplicate": 1, "negative_is_held_out": 2
    }  # fmt: skip
    proof = prove_split(train, valid)
    assert proof["pairs"] == {"train": 2, "valid": 1}
    assert proof["documents"] == {"train": 1, "valid": 1, "both": 0}


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("documents", pair("a", "d"), pair("b", "d")),
        ("questions", pair("a", "d", "Who is it?"), pair("b", "e", "who is  IT")),
        ("positives", pair("a", "d", text="The  text"), pair("b", "e", text="the text")),
    ],
)
def test_a_part_that_shares_something_is_refused(kind: str, one: Pair, other: Pair, tmp_path: Path) -> None:
    write_pairs(tmp_path / "train.jsonl", [one])
    write_pairs(tmp_path / "valid.jsonl", [other])
    with pytest.raises(DataError, match=f"1 {kind} of train.jsonl"):
        prove_split(tmp_path / "train.jsonl", tmp_path / "valid.jsonl")


def test_keys_see_through_case_spaces_and_punctuation() -> None:
    assert question_key("Who is the  King?") == question_key("who is king")
    assert question_key("???") == "???"
    assert text_key(" A\nb ") == "a b"


def test_a_part_without_pairs_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    train, valid = tmp_path / "train.jsonl", tmp_path / "valid.jsonl"
    with pytest.raises(DataError, match=r"valid\.jsonl: would have no pair"):
        write_parts(lambda: [pair("a", TRAINED[0])], SPLIT, train, valid)
    assert list(tmp_path.iterdir()) == []


def triples(count: int = 200) -> list[dict[str, Any]]:
    return [
        {"question": f"question {n}", "positive": f"text {n} of it", "negative": f"other {n}", "document": f"d{n}"}
        for n in range(count)
    ]  # fmt: skip


def parts_of(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("train.jsonl", "valid.jsonl", "split.json")]


def test_workers_folders_compression_and_a_list_change_no_pair(tmp_path: Path) -> None:
    items = triples()
    write_lines(tmp_path / "one/0.jsonl", items[:120])
    write_lines(tmp_path / "one/1.jsonl", items[120:])
    (tmp_path / "two").mkdir()
    with gzip.open(tmp_path / "two/0.jsonl.gz", "wt", encoding="utf-8") as stream:
        stream.write((tmp_path / "one/0.jsonl").read_text(encoding="utf-8"))
    (tmp_path / "two/1.json").write_text("\n" + json.dumps(items[120:]), encoding="utf-8")
    outs = [
        parts_of(run_step(tmp_path / f"run{number}", "pairs", data={"sources": [{"path": tmp_path / name}]} | more))
        for number, (name, more) in enumerate([("one", {}), ("one", {"workers": 2}), ("two", {})])
    ]
    assert outs[0] == outs[1] == outs[2]
    assert b'"1/0"' in b"".join(outs[0])


def test_passages_keep_the_documents_that_files_name_and_held_out_ones_are_no_negatives(tmp_path: Path) -> None:
    items = [one | {"negatives": [{"id": "1", "text": f"other {n}", "document": TRAINED[0]},
                                  {"id": "2", "text": f"held out {n}", "document": HELD_OUT[0]}]}
             for n, one in enumerate(triples())]  # fmt: skip
    out = run_step(tmp_path / "run", "pairs", data={"sources": [{"path": write_lines(tmp_path / "all.jsonl", items)}]})
    train = read_pairs(out / "train.jsonl")
    for one in train:
        assert one.positive.document == one.document
        assert {negative.document for negative in one.negatives} == {TRAINED[0]}
    assert manifest(out)["counts"]["dropped"] == {"negative_is_held_out": len(train)}


def test_positives_negatives_and_their_limits(tmp_path: Path) -> None:
    many = [
        {"id": f"q{n}", "question": f"question {n}", "positives": [f"p {n}", f"P  {n}", f"r {n}"],
         "negatives": [f"r {n}", "n 1", "n 1", "n 2", "n 3"], "document": f"d{n}"}
        for n in range(100)
    ]  # fmt: skip
    source = write_lines(tmp_path / "all.jsonl", many)
    settings: dict[str, Any] = {"sources": [{"path": source}], "negatives": 2}
    out = run_step(tmp_path / "all", "pairs", data=settings)
    found = {one.id: one for one in read_pairs(out / "train.jsonl")}
    assert {one.partition("#")[2] for one in found} == {"0", "1"}
    first = next(iter(found.values()))
    assert texts(first.negatives) == ["n 1", "n 2"]
    counts = manifest(out)["counts"]["sources"][0]
    assert counts["positives_equal"] == 100
    assert (counts["negatives_equal"], counts["negatives_that_are_positives"]) == (100, 100)
    assert counts["negatives_beyond_most"] == 100
    alone = run_step(tmp_path / "first", "pairs", data=settings | {"positives": "first"})
    for one in read_pairs(alone / "train.jsonl"):
        assert texts(one.other_positives) == [one.positive.text.replace("p", "r")]
    assert all("#" not in one.id and one.positive.text.startswith("p") for one in read_pairs(alone / "train.jsonl"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "broken_json"),
        ("3", "not_an_object"),
        ('{"question": "q", "positive": 3}', "wrong_type"),
        ("ÿ", "not_utf8"),
        ("[" * 2000 + "]" * 2000, "broken_json"),
    ],
)
def test_a_bad_line_is_named_or_counted(line: str, reason: str, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "all.jsonl", triples())
    with source.open("ab") as stream:
        stream.write(line.encode("latin-1") + b"\n")
    settings = {"sources": [{"path": source}]}
    with pytest.raises(DataError, match=r"line 201 (is|has|nests) (?!nests)"):
        run_step(tmp_path / "strict", "pairs", data=settings)
    counts = manifest(run_step(tmp_path / "lax", "pairs", data=settings | {"skip_bad": True}))["counts"]
    assert counts["sources"][0][f"skipped.{reason}"] == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "no item"), (b'{"question": "q"}\n', "items 1, skipped.no_positive 1"),
     ('{"question": "q", "positive": "p"}\n{}\n'.encode("utf-16"),
      r"skipped.broken_json 2, skipped.not_utf8 1\). Give files in UTF-8")],
)  # fmt: skip
def test_sources_without_a_pair_are_named_with_what_became_of_them(content: bytes, said: str, tmp_path: Path) -> None:
    source = tmp_path / "all.jsonl"
    source.write_bytes(content)
    with pytest.raises(DataError, match=rf"data.sources: hold no pair .*all.jsonl as pairs: {said}"):
        run_step(tmp_path / "run", "pairs", data={"sources": [{"path": source}], "skip_bad": True})


def test_what_another_process_cannot_read_is_named_here(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        write_lines(tmp_path / f"in/{number}.jsonl", [{"question": "q"}, {"question": 3}])
    with pytest.raises(DataError, match=r"\.jsonl: line 2 has no text under any of the names question"):
        run_step(tmp_path / "run", "pairs", data={"sources": [{"path": tmp_path / "in"}], "workers": 2})
    assert "Traceback" not in capfd.readouterr().err


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one file"):
        run_step(tmp_path / "run", "pairs")
    with pytest.raises(DataError, match="no such file of questions"):
        run_step(tmp_path / "run", "pairs", data={"sources": [{"path": tmp_path / "none.jsonl"}]})
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no file"):
        run_step(tmp_path / "run", "pairs", data={"sources": [{"path": tmp_path / "empty"}]})
    source = write_lines(tmp_path / "all.jsonl", triples())
    with pytest.raises(DataError, match=r"no such tokenizer\.json"):
        run_step(tmp_path / "run", "pairs", data={"sources": [{"path": source}], "tokenizer": tmp_path / "t.json"})


def test_a_stop_between_files_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        write_lines(tmp_path / f"in/{number}.jsonl", triples()[50 * number : 50 * number + 50])
    settings = {"sources": [{"path": tmp_path / "in"}]}
    whole = parts_of(run_step(tmp_path / "whole", "pairs", data=settings))
    for stop_at in (1, 3, 5):
        stop_after(stop_at, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            run_step(tmp_path / f"stop{stop_at}", "pairs", data=settings)
        monkeypatch.undo()
        out = run_step(tmp_path / f"stop{stop_at}", "pairs", data=settings)
        assert parts_of(out) == whole
        assert {one.name for one in out.iterdir() if not one.name.startswith(".verified")} == {
            *("train.jsonl", "valid.jsonl", "split.json"), *("manifest.json", "report.json", "config.json")
        }  # fmt: skip


def stop_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the process, as it were, when a file is read for the `calls`th time, or the parts are written."""
    before, made = item_stream.items_of, 0

    def counted(*given: Any) -> Any:
        nonlocal made
        made += 1
        if made == calls:
            raise KeyboardInterrupt
        return before(*given)

    def stopped(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "items_of", counted)
    if calls > 4:
        monkeypatch.setattr(data, "prove_split", stopped)


def test_a_list_of_hotpotqa_is_split_with_nothing_on_both_sides(tmp_path: Path) -> None:
    # Neighbors share a paragraph, as questions of HotpotQA do.
    items = [
        {
            "_id": f"q{number}",
            "question": f"What joins {number} and {number + 1}?",
            "answer": f"bridge {number}",
            "supporting_facts": [[f"P{number}", 0], [f"P{number + 1}", 0]],
            "context": [[f"P{each}", [f"Paragraph {each} has a text."]] for each in (number, number + 1, number + 90)],
        }
        for number in range(0, 80, 3)
    ]
    path = tmp_path / "hotpotqa.json"
    path.write_text(json.dumps(items))
    out = run_step(tmp_path / "run", "pairs", data={"sources": [{"path": path, "format": "hotpotqa"}], "valid": 0.3})
    counts = manifest(out)["counts"]
    assert counts["documents"]["both"] == counts["questions"]["both"] == counts["positives"]["both"] == 0
    assert counts["pairs"]["train"] > 0 < counts["pairs"]["valid"]
    assert any(one.negatives for one in read_pairs(out / "train.jsonl"))
