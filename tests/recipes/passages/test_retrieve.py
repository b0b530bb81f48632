"""Passages beside questions: what is written, and that a stop changes no byte."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.qa.question import Context
from retro.recipes.passages.retrieve import RetrievalReport, retrieve_for_file
from retro.recipes.passages.search import PassageRetriever
from tests.recipes.passages.world import config_of, embedded, made_passages, questions_of


class Scripted:
    """Finds passages that say what was asked; for `none` nothing, for `one` only one. Fails after some blocks."""

    def __init__(self, blocks: int = 10**9, name: str = "scripted") -> None:
        self.identity: Mapping[str, Any] = {"kind": name}
        self.blocks = blocks
        self.asked: list[list[str]] = []

    def search(self, queries: Sequence[str], n: int) -> list[list[Context]]:
        """See `PassageSearch`."""
        if len(self.asked) == self.blocks:
            raise KeyboardInterrupt
        self.asked.append(list(queries))
        return [
            [Context("T", f"{query} {k}", f"id{k}", 1 / (k + 3)) for k in range({"none": 0, "one": 1}.get(query, n))]
            for query in queries
        ]


def write(path: Path, items: Sequence[Any]) -> Path:
    lines = [json.dumps(item) for item in items]
    path.write_text("\n".join(lines) + "\n" if path.suffix == ".jsonl" else f"[{','.join(lines)}]", encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    found: list[dict[str, Any]] = (
        [json.loads(line) for line in text[:-1].split("\n")] if path.suffix == ".jsonl" else []
    )
    return found or list(json.loads(text))


ITEMS: list[dict[str, Any]] = [
    {"id": 7, "question": "who?", "answers": ["a"], "more": {"z": [1.5, None], "a": "é\u2028"}},
    {"instruction": "Say it.", "output": "", "topic": "x"},
    {"question": "both", "instruction": "the question is taken"},
]


@pytest.mark.parametrize("source", ["in.json", "in.jsonl"])
@pytest.mark.parametrize("target", ["out.json", "out.jsonl"])
def test_items_are_as_they_were_with_their_passages(source: str, target: str, tmp_path: Path) -> None:
    retriever = Scripted()
    report = retrieve_for_file(write(tmp_path / source, ITEMS), tmp_path / target, retriever, n_docs=2)
    found = read(tmp_path / target)
    assert [{name: one[name] for name in one if name != "ctxs"} for one in found] == ITEMS
    assert [list(one)[:-1] for one in found] == [list(item) for item in ITEMS]
    assert found[0]["ctxs"] == [
        {"id": "id0", "title": "T", "text": "who? 0", "score": 1 / 3},
        {"id": "id1", "title": "T", "text": "who? 1", "score": 0.25},
    ]
    assert retriever.asked == [["who?", "Say it.", "both"]]
    assert (report.items, report.with_fewer, report.without, report.searched) == (3, 0, 0, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({source, target})


def test_questions_with_fewer_passages_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    items = [{"question": one} for one in ("none", "one", "all", "none")]
    items[2]["ctxs"] = "before"
    with caplog.at_level("INFO"):
        report = retrieve_for_file(write(tmp_path / "in.jsonl", items), tmp_path / "out.jsonl", Scripted(), n_docs=2)
    assert report.counts == {"items": 4, "n_docs": 2, "with_fewer": 3, "without": 2, "replaced": 1}
    assert "4 questions, 3 of them with fewer than 2 passages" in caplog.text
    assert "for 2 items no passage was found" in caplog.text
    assert "1 items had ctxs already, which were replaced" in caplog.text
    assert [len(one["ctxs"]) for one in read(tmp_path / "out.jsonl")] == [0, 1, 2, 0]


def run(folder: Path, retriever: Any, target: str = "out.json", **settings: Any) -> RetrievalReport:
    """Search for ten questions, three at a time."""
    if not (folder / "in.json").exists():
        write(folder / "in.json", [{"question": f"q{number}"} for number in range(10)])
    own = {"n_docs": 2, "questions_per_block": 3} | settings
    return retrieve_for_file(folder / "in.json", folder / target, retriever, **own)


@pytest.mark.parametrize("blocks", [0, 1, 2, 3])
@pytest.mark.parametrize("torn", [0, 5])
def test_a_stop_between_blocks_ends_in_the_same_bytes(blocks: int, torn: int, tmp_path: Path) -> None:
    run(tmp_path, Scripted(), "unbroken.json")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Scripted(blocks), "broken.json")
    assert not (tmp_path / "broken.json").exists()
    begun = tmp_path / ".broken.json.begun"
    # As a kill in the middle of a write leaves it.
    begun.write_bytes(begun.read_bytes()[: -torn or None])
    retriever = Scripted()
    report = run(tmp_path, retriever, "broken.json")
    done = max(3 * blocks - (3 if torn else 0), 0)
    assert report.searched == 10 - done
    assert [one for block in retriever.asked for one in block] == [f"q{number}" for number in range(done, 10)]
    assert (tmp_path / "broken.json").read_bytes() == (tmp_path / "unbroken.json").read_bytes()
    assert not begun.exists()


def test_a_stop_of_the_real_thing_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path)
    embedded(config)
    write(tmp_path / "in.json", [{"question": one} for one in questions_of(made_passages())])
    retriever = PassageRetriever.open(config)
    run(tmp_path, retriever, "unbroken.jsonl")
    calls = iter(range(4))
    before = retriever.search

    def search(queries: Sequence[str], n: int) -> list[list[Context]]:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return before(queries, n)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(retriever, "search", search)
        run(tmp_path, retriever, "broken.jsonl")
    assert run(tmp_path, PassageRetriever.open(config), "broken.jsonl").searched == 21
    assert (tmp_path / "broken.jsonl").read_bytes() == (tmp_path / "unbroken.jsonl").read_bytes()
    assert [one["ctxs"][0]["id"] for one in read(tmp_path / "broken.jsonl")] == [one.id for one in made_passages()]


@pytest.mark.parametrize("change", ["questions", "n_docs", "retriever", "block"])
def test_what_was_begun_otherwise_is_not_mixed_in(change: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Scripted(1))
    if change == "questions":
        write(tmp_path / "in.json", [{"question": "another"}])
    settings: dict[str, Any] = {"n_docs": {"n_docs": 3}, "block": {"questions_per_block": 4}}.get(change, {})
    with pytest.raises(ArtifactError, match=r"\.out\.json\.begun: .*Delete .* to search again"):
        run(tmp_path, Scripted(name="other" if change == "retriever" else "scripted"), **settings)


BAD = {
    "[]": "holds no item",
    "": "holds no item",
    '[{"question": "a"}, {"query": "b", "id": 1}]': "item 1 has neither 'question' nor 'instruction'; it has query, id",
    '{"question": "a"}\n\n{}': r"line 3 \(item 1\) has neither 'question' nor 'instruction'; it has nothing",
    '[{"question": " "}]': "item 0 has ' ' as its question, needed is a text",
    '[{"instruction": 5}]': "item 0 has '5' as its instruction",
    '[{"question": null, "instruction": "x"}]': "item 0 has 'None' as its question",
    "[1]": "item 0 is a int",
    '{"question": "a"\n': "broken JSON",
}


@pytest.mark.parametrize("text", BAD)
def test_an_item_that_cannot_be_searched_for_is_named_before_anything_is(text: str, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(text)
    retriever = Scripted()
    with pytest.raises(DataError, match=rf"in\.json: .*{BAD[text]}"):
        run(tmp_path, retriever)
    assert retriever.asked == []


def test_settings_that_cannot_work_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="n_docs = 0: needs at least 1"):
        run(tmp_path, Scripted(), n_docs=0)
    with pytest.raises(ConfigError, match=r"output_dir = .*: needs another place than the questions"):
        run(tmp_path, Scripted(), "in.json")
    with pytest.raises(DataError, match=r"none\.json: no such question file"):
        retrieve_for_file(tmp_path / "none.json", tmp_path / "out.json", Scripted(), n_docs=1)
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ArtifactError, match="is a folder, and a file is to be written there"):
        run(tmp_path, Scripted(), "folder.json")


def test_a_retriever_that_answers_too_few_questions_is_a_mistake(tmp_path: Path) -> None:
    class Short(Scripted):
        def search(self, queries: Sequence[str], n: int) -> list[list[Context]]:
            """Forgets the last."""
            return super().search(queries, n)[:-1]

    with pytest.raises(ValueError, match="answered 2 of 3 questions"):
        run(tmp_path, Short())
