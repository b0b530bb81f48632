"""Where passages come from: each retriever finds what is nearest, says what it is, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest

from retro.common.errors import ConfigError, DataError
from retro.index.config import EmbedderConfig
from retro.index.hashing import HashingEmbedder
from retro.qa.question import Context
from retro.recipes.multi_hop.answer_config import RetrieverConfig
from retro.recipes.multi_hop.opening import opened_retriever
from retro.recipes.multi_hop.protocol import Outcome, Search, run
from retro.recipes.multi_hop.retrievers import (
    FromAddress,
    FromContexts,
    FromFolder,
    FromSearch,
    opened_embedder,
    windows_of,
)
from retro.run.config import RunConfig
from tests.recipes.multi_hop.http_server import serving
from tests.recipes.multi_hop.scripted import Scripted, question
from tests.recipes.passages.world import config_of as passages_config
from tests.recipes.passages.world import embedded

HASHING = EmbedderConfig(kind="hashing", dimension=4096)
BRIDGE, TOWER = Context("Bridge", "It crosses the river."), Context("Tower", "It has a bell.")


def search(query: str, *contexts: Context) -> Search:
    return Search(query=query, question=question(contexts=contexts))


def titles(found: Any) -> list[list[str]]:
    return [[passage.title for passage in one.passages] for one in found]


def test_a_question_is_answered_from_its_own_passages() -> None:
    with opened_embedder(HASHING, ["Bridge It crosses the river.", "Tower It has a bell."]) as embedder:
        retriever = FromContexts(embedder, 1)
        found = retriever.find([search("which bell", BRIDGE, TOWER), search("which bell", BRIDGE), search("x")])
        assert titles(found) == [["Tower"], ["Bridge"], []]
        assert titles(FromContexts(embedder, 5).find([search("the river", TOWER, BRIDGE)])) == [["Bridge", "Tower"]]
        # Nothing is nearest to a query that says nothing.
        assert titles(retriever.find([search(" ", BRIDGE)])) == [[]]
        assert retriever.identity["n"] == 1


def test_questions_that_bring_no_passages_are_refused_where_these_are_searched() -> None:
    message = r"answer.retriever.kind = 'contexts': needs questions that bring passages, and none of 2 does"
    config = RetrieverConfig(embedder=HASHING)
    with pytest.raises(ConfigError, match=message), opened_retriever(config, RunConfig(), [question(), question()]):
        pass
    some = [question(), question(contexts=(BRIDGE,))]
    with opened_retriever(config, RunConfig(), some) as found:
        assert titles(found.find([search("river", BRIDGE)])) == [["Bridge"]]


def test_an_embedder_without_vectors_is_refused() -> None:
    message = r"answer.retriever.embedder.kind = 'bm25': needs a kind that makes vectors"
    with pytest.raises(ConfigError, match=message), opened_embedder(EmbedderConfig(kind="bm25"), ["a"]):
        pass


def test_a_folder_is_cut_into_windows_that_overlap(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("0123456789")
    (tmp_path / "sub" / "a.md").write_text("short")
    (tmp_path / "c.pdf").write_text("not read")
    found = windows_of(tmp_path, 6, 3)
    assert [(one.document_id, one.text) for one in found] == [
        ("b.txt:0", "012345"),
        ("b.txt:3", "345678"),
        ("b.txt:6", "6789"),
        ("sub/a.md:0", "short"),
    ]
    # The last window ends where the text does, and none is inside the one before.
    assert [one.text for one in windows_of(tmp_path, 9, 3)][:2] == ["012345678", "3456789"]
    assert [one.text for one in windows_of(tmp_path, 10, 10)][:1] == ["0123456789"]
    with opened_embedder(HASHING, [one.text for one in found]) as embedder:
        folder = FromFolder(embedder, found, 1)
        assert folder.find([search("short")])[0].passages[0].document_id == "sub/a.md:0"
        assert folder.identity["kind"] == "folder"


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds 0 text files, and no text"):
        windows_of(tmp_path, 10, 5)
    with pytest.raises(DataError, match="is not a folder"):
        windows_of(tmp_path / "none", 10, 5)


class Source:
    """A `PassageSearch`."""

    identity: ClassVar[dict[str, Any]] = {"kind": "source"}

    def search(self, queries: Any, n: int) -> list[list[Context]]:
        return [[Context("", f"{query}-{place}") for place in range(n)] for query in queries]


def test_whatever_searches_passages_is_a_retriever() -> None:
    retriever = FromSearch(Source(), 2)
    assert [[p.text for p in one.passages] for one in retriever.find([search("a"), search("b")])] == [
        ["a-0", "a-1"],
        ["b-0", "b-1"],
    ]
    assert retriever.identity == {"kind": "source", "n": 2}


def test_settings_say_what_is_searched(tmp_path: Path) -> None:
    table = passages_config(tmp_path)
    embedded(table)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("word7 in a file")
    run = RunConfig()
    made: list[tuple[dict[str, Any], str]] = [
        ({"kind": "passages", "table": table}, "Market 4"),
        ({"kind": "folder", "folder": tmp_path / "texts"}, "a"),
        ({"kind": "contexts"}, "Bridge"),
    ]
    for settings, title in made:
        config = RetrieverConfig(**({"n": 2, "embedder": HASHING} | settings))
        with opened_retriever(config, run, [question(contexts=(BRIDGE,))]) as retriever:
            [found] = retriever.find([search("Was word4 seen in year4?", BRIDGE)])
            assert title in [one.title for one in found.passages]
            assert retriever.identity["n"] == 2
    with opened_retriever(RetrieverConfig(kind="live", address="http://h/retrieve"), run, []) as live:
        assert live.identity == {"kind": "live", "address": "http://h/retrieve", "n": 1}


class Handler(BaseHTTPRequestHandler):
    reply: ClassVar[Any] = None
    status: ClassVar[int] = 200
    refuses: ClassVar[str] = ""
    got: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Handler.got.append(json.loads(body))
        refused = Handler.refuses in Handler.got[-1]["queries"]
        data = json.dumps({"detail": "no such query"} if refused else Handler.reply).encode()
        self.send_response(422 if refused else Handler.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Handler.got.clear()
    Handler.status, Handler.refuses = 200, ""
    with serving(Handler) as found:
        yield f"{found}/retrieve"


def test_an_address_is_asked_in_search_r1s_form(address: str) -> None:
    Handler.reply = {
        "result": [
            [{"document": {"id": 7, "contents": '"Bridge"\nIt crosses the river.'}, "score": 0.5}],
            [{"document": {"id": "8", "title": "Tower", "text": "It has a bell.", "contents": "x\ny"}}],
        ]
    }
    found = FromAddress(address, 3, 5.0).find([search("a"), search("b")])
    assert Handler.got == [{"queries": ["a", "b"], "topk": 3, "return_scores": True}]
    assert found[0].passages == (Context("Bridge", "It crosses the river.", "7", 0.5),)
    assert found[1].passages == (Context("Tower", "It has a bell.", "8"),)


@pytest.mark.parametrize(
    ("status", "reply", "problem"),
    [
        (500, {"detail": "out of order"}, 'status 500: {"detail": "out of order"}'),
        (200, {"other": 1}, "result"),
        (200, {"result": []}, "0 results for 1 queries"),
        (200, {"result": ["text"]}, "'str' object has no attribute 'get'"),
    ],
)
def test_an_address_that_answers_wrongly_is_a_problem_of_the_search(
    address: str, status: int, reply: Any, problem: str
) -> None:
    Handler.status, Handler.reply = status, reply
    [found] = FromAddress(address, 1, 5.0).find([search("a")])
    assert problem in found.problem
    assert found.passages == ()


def test_a_query_that_is_refused_is_lost_alone_and_the_reason_is_told(address: str) -> None:
    Handler.reply, Handler.refuses = {"result": [[{"document": {"text": "It has a bell."}}]]}, "bad"
    one, bad, other = FromAddress(address, 1, 5.0).find([search("a"), search("bad"), search("b")])
    assert [asked["queries"] for asked in Handler.got] == [["a", "bad", "b"], ["a"], ["bad"], ["b"]]
    assert one.passages[0].text == other.passages[0].text == "It has a bell."
    assert (bad.problem, bad.refused) == ('status 422: {"detail": "no such query"}', True)


@pytest.mark.parametrize(
    ("first_line", "title"),
    [
        ('"Sgt. "Pepper""', 'Sgt. "Pepper"'),
        ('"Pepper" and more', '"Pepper" and more'),
        ('"Pepper"', "Pepper"),
        ('"', '"'),
        ('"half \ud800"', "half ?"),
        ("Pepper", "Pepper"),
    ],
)
def test_one_pair_of_quotes_is_taken_off_a_title(address: str, first_line: str, title: str) -> None:
    Handler.reply = {"result": [[{"document": {"contents": f"{first_line}\ntext"}}]]}
    [found] = FromAddress(address, 1, 5.0).find([search("a")])
    assert found.passages == (Context(title, "text"),)


def test_an_address_where_nothing_can_be_searched_stops_the_work(address: str) -> None:
    """A question after the other would get no passages, and a score."""

    def asked(*queries: str) -> list[Any]:
        def way(query: str) -> Any:
            found = yield search(query)
            return Outcome(text=found.problem)

        return run([way(one) for one in queries], Scripted(), FromAddress(address, 1, 5.0))

    Handler.refuses = "bad"
    # A single query that is refused is noted.
    assert asked("bad")[0].text == 'status 422: {"detail": "no such query"}'
    with pytest.raises(ConfigError, match=r"answer.retriever = .*/retrieve.*: needs to be there and to search"):
        asked("bad", "bad")
    Handler.status, Handler.reply = 503, {}
    with pytest.raises(ConfigError, match=r"\(status 503: \{\}\); answers so far are kept"):
        asked("a")


def test_an_address_that_is_not_there_is_a_problem_of_the_search() -> None:
    [found] = FromAddress("http://127.0.0.1:9/retrieve", 1, 1.0).find([search("a")])
    assert found.problem


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "folder"}, "folder = None: needs a folder, since kind is folder"),
        ({"kind": "live"}, "address = '': needs an address, as http://127.0.0.1:8000/retrieve, since kind is live"),
        ({"step": 5, "window": 4}, "step = 5: needs at most window = 4, or text would be left out"),
    ],
)
def test_settings_of_a_retriever_that_cannot_be_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RetrieverConfig(**settings)
    assert message in str(caught.value)


@pytest.mark.parametrize("address", ["http://user:hunter2@host/retrieve", "http://host/retrieve?key=hunter2"])
def test_an_address_with_a_secret_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(ConfigError, match="needs an address without user, password or query") as caught:
        RetrieverConfig(kind="live", address=address)
    assert "hunter2" not in str(caught.value)


def test_passages_of_a_question_are_embedded_once_for_all_its_hops(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    real = HashingEmbedder.embed_passages

    def embed(self: HashingEmbedder, texts: Any, *more: Any) -> Any:
        counted.append(len(texts))
        return real(self, texts, *more)

    monkeypatch.setattr(HashingEmbedder, "embed_passages", embed)
    with opened_embedder(HASHING, ["Bridge", "Tower"]) as embedder:
        retriever = FromContexts(embedder, 1)
        retriever.find([search("river", BRIDGE, TOWER), search("bell", TOWER)])
        assert titles(retriever.find([search("bell", BRIDGE, TOWER)])) == [["Tower"]]
    # Three passages at first, and none again; queries are embedded as passages are.
    assert counted == [3, 2, 1]
