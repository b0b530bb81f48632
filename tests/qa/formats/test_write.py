from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.qa.formats.item import Options
from retro.qa.formats.write import ConversionOptions, run
from retro.qa.question_files import find_question_file, read_questions
from tests.qa.formats import samples


def nq(tmp_path: Path, count: int = 40) -> Path:
    path = tmp_path / "nq.jsonl"
    items = [{"question": f"who {n}", "answer": [f"a{n}"]} for n in range(count)]
    path.write_text("\n".join(json.dumps(item) for item in items))
    return path


def lists(tmp_path: Path, items: object) -> Path:
    path = tmp_path / "in.json"
    path.write_text(json.dumps(items))
    return path


def ids(path: Path) -> list[str]:
    return [question.id for question in read_questions(path)]


def test_a_folder_becomes_a_set_that_tuning_finds_by_its_name(tmp_path: Path) -> None:
    made = run(ConversionOptions(name="nq_open", path=nq(tmp_path), out=tmp_path / "data" / "nq", part="dev"))
    path = find_question_file(tmp_path / "data", "nq", "dev")
    assert made == {
        "items": 40,
        "questions": 40,
        "unanswerable": 0,
        "passages": 0,
        "skipped": {},
        "ignored_fields": {},
        "files": {str(path): 40},
    }
    assert len(ids(path)) == 40


def test_an_id_goes_to_the_same_part_whatever_else_is_in_the_file(tmp_path: Path) -> None:
    def parts(count: int) -> tuple[set[str], set[str]]:
        out = tmp_path / str(count) / "nq"
        run(ConversionOptions(name="nq_open", path=nq(tmp_path, count), out=out, dev=0.3))
        train, dev = (ids(find_question_file(out.parent, "nq", part)) for part in ("train", "dev"))
        return set(train), set(dev)

    few_train, few_dev = parts(40)
    all_train, all_dev = parts(400)
    assert few_train < all_train
    assert few_dev < all_dev
    assert not all_train & all_dev
    # 400 draws of probability 0.3: five standard deviations are 46.
    assert 74 < len(all_dev) < 166


def test_another_seed_is_another_split(tmp_path: Path) -> None:
    found = []
    for seed in (1, 2):
        run(ConversionOptions(name="nq_open", path=nq(tmp_path), out=tmp_path / f"{seed}" / "nq", dev=0.5, seed=seed))
        found.append(ids(find_question_file(tmp_path / f"{seed}", "nq", "dev")))
    assert found[0] != found[1]


def test_turns_of_one_conversation_are_never_parted(tmp_path: Path) -> None:
    talks = [samples.SHAREGPT[0] | {"id": f"talk{n}"} for n in range(40)]
    wanted = ConversionOptions(
        name="sharegpt", path=lists(tmp_path, talks), out=tmp_path / "set", dev=0.5, options=Options(turns="every")
    )
    run(wanted)
    train, dev = (
        {name.split("/")[0] for name in ids(tmp_path / "set" / f"set_QA_{part}.json")} for part in ("train", "dev")
    )
    assert len(train) + len(dev) == 40
    assert not train & dev


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    def files(folder: str) -> dict[str, bytes]:
        corpus = tmp_path / folder / "corpus.jsonl"
        path = lists(tmp_path, samples.HOTPOTQA)
        run(ConversionOptions(name="hotpotqa", path=path, out=tmp_path / folder / "set", corpus=corpus))
        return {
            str(one.relative_to(tmp_path / folder)): one.read_bytes() for one in (tmp_path / folder).rglob("*.json*")
        }

    first = files("a")
    assert sorted(first) == ["corpus.jsonl", "set/set_QA_train.json"]
    assert files("b") == first


def test_the_passages_become_a_corpus_in_which_the_questions_find_theirs(tmp_path: Path) -> None:
    path, corpus = lists(tmp_path, [*samples.HOTPOTQA, _other("Sea", "It is deep.")]), tmp_path / "corpus.jsonl"
    out = tmp_path / "out.jsonl"
    assert run(ConversionOptions(name="hotpotqa", path=path, out=out, corpus=corpus))["passages"] == 4
    documents = [json.loads(line) for line in corpus.read_text().splitlines()]
    assert [one["id"] for one in documents] == ["Ada", "Sea", "Engine", "Sea #2"]
    assert documents[3] == {"id": "Sea #2", "title": "Sea", "text": "It is deep."}
    first, second = (json.loads(line) for line in out.read_text().splitlines())
    assert [(one["document_id"], one["gold"]) for one in first["ctxs"]] == [
        ("Ada", True),
        ("Sea", False),
        ("Engine", True),
    ]
    assert second["document_ids"] == ["Sea #2"]


def _other(title: str, text: str) -> dict[str, Any]:
    return samples.HOTPOTQA[0] | {"_id": "other", "context": [[title, [text]]], "supporting_facts": [[title, 0]]}


def test_what_is_left_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = lists(tmp_path, [*samples.ALPACA, {"instruction": "Do."}])
    made = run(ConversionOptions(name="alpaca", path=path, out=tmp_path / "out.json", skip_bad=True))
    assert made["skipped"] == {"no_answer": 1}
    assert "in.json: 1 of 3 items left out: no_answer" in caplog.text


def test_nothing_is_written_when_an_item_is_bad(tmp_path: Path) -> None:
    path = lists(tmp_path, [*samples.ALPACA, {"instruction": "Do."}])
    with pytest.raises(DataError, match=r"item 2 has no 'output'. Fix the item, .* or use --skip-bad"):
        run(ConversionOptions(name="alpaca", path=path, out=tmp_path / "set"))
    assert [one.name for one in tmp_path.iterdir()] == ["in.json"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "my_lists"}, "FORMAT = 'my_lists': is not a known format; known: alpaca, boolq"),
        ({"part": "valid"}, "--part = 'valid': is not a part; known: dev, test, train"),
        ({"dev": 1.0}, "--dev = 1.0: needs a share from 0 up to 1"),
        ({"dev": -0.1}, "--dev = -0.1: needs a share from 0 up to 1"),
        ({"dev": 0.5, "part": "dev"}, "--part = 'dev': needs to be left out beside --dev"),
        ({"dev": 0.5, "out": Path("out.json")}, "OUT = 'out.json': needs to be a folder"),
        ({"dev": 1e-9}, "--dev = 1e-09: needs to leave a question to each part: dev got none of 40"),
        ({"options": Options(turns="every")}, "--turns = 'every': needs a format that uses it; nq_open does not"),
        ({"options": Options(passages=True)}, "--passages = True: needs a format that uses it"),
        ({"corpus": Path("corpus.jsonl")}, "--corpus = 'corpus.jsonl': needs a format with passages"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_and_nothing_is_written(
    tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    usual: dict[str, Any] = {"name": "nq_open", "path": nq(tmp_path), "out": tmp_path / "set"}
    with pytest.raises(ConfigError) as caught:
        run(ConversionOptions(**(usual | fields)))
    assert str(caught.value).startswith(message)
    assert [one.name for one in tmp_path.iterdir()] == ["nq.jsonl"]
