"""`POST /retrieve` in Search-R1's protocol: answers, limits, batches, many clients at once, and no model behind it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import given
from schemathesis.generation import GenerationMode

from benchmarks.serving_load import Server
from retro.common.errors import ConfigError
from retro.qa.question import Context
from retro.recipes.passages.search import DatabaseRetriever, PassageRetriever
from retro.run.config import RunConfig, as_yaml
from retro.run.pipeline import model_paths
from retro.serve.config import ServeConfig
from retro.serve.loading import load_service
from retro.serve.middleware import Metrics
from retro.serve.retrieval import RetrievalService, retrieval_service
from retro.serve.searches import Searches
from tests.recipes.passages.world import config_of, embedded, made_passages, questions_of
from tests.serve.fake_server import fake_service
from tests.serve.running import RunningServer, running
from tests.serve.search_r1 import ask, observation, read
from tests.serve.test_clients import wait_until
from tests.serve.test_openapi import CHECKS, SETTINGS, sendable
from tests.test_house import command_line, loaded_after

ROOT = Path(__file__).parents[2]
KEY = "sk-0123456789"


class FakeSearch:
    """Finds `<text> <n>` for a text, n from 0; remembers its calls, and that none of them overlaps another."""

    def __init__(self, *, gate: threading.Event | None = None) -> None:
        self.calls: list[tuple[list[str], int]] = []
        self.entered = threading.Event()
        self._gate, self._busy = gate, threading.Lock()

    def __call__(self, texts: list[str], n: int) -> list[list[Context]]:
        assert self._busy.acquire(blocking=False), "two searches at once"
        try:
            self.calls.append((list(texts), n))
            self.entered.set()
            if self._gate is not None:
                assert self._gate.wait(30)
            if "fail" in texts:
                raise RuntimeError("the index is broken")
            return [
                [
                    Context(title=f"On {text}", text=f"{text} {number}", document_id=f"d{number}", score=1 - number / 8)
                    for number in range(min(n, 6))
                ]
                for text in texts
            ]
        finally:
            self._busy.release()


def fake(search: FakeSearch | None = None, **settings: Any) -> RetrievalService:
    return retrieval_service(ServeConfig(**settings), search or FakeSearch(), "fake")


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running(fake(max_queries=8, max_query_characters=20, max_passages=5)) as found:
        yield found


def test_the_answer_is_search_r1s_to_the_letter(server: RunningServer) -> None:
    scored = server.post("/retrieve", {"queries": ["kant", "hume"], "topk": 2, "return_scores": True})
    assert scored.headers["content-type"] == "application/json"

    def document(text: str, number: int) -> dict[str, Any]:
        contents = f'"On {text}"\n{text} {number}'
        return {"id": f"d{number}", "contents": contents, "title": f"On {text}", "text": f"{text} {number}"}

    expected = [
        [{"document": document(text, 0), "score": 1.0}, {"document": document(text, 1), "score": 0.875}]
        for text in ("kant", "hume")
    ]
    assert scored.json == {"result": expected}
    bare = server.post("/retrieve", {"queries": ["kant", "hume"], "topk": 2})
    assert bare.json == {"result": [[one["document"] for one in found] for found in expected]}


def test_a_client_reads_titles_from_the_first_line(server: RunningServer) -> None:
    (found,) = ask(server, ["kant"], topk=2)
    assert read(found) == [('"On kant"', "kant 0"), ('"On kant"', "kant 1")]
    assert observation(found) == 'Doc 1(Title: "On kant") kant 0\nDoc 2(Title: "On kant") kant 1\n'


def test_a_title_of_several_lines_stays_on_the_first_and_the_text_keeps_its_own() -> None:
    def search(texts: list[str], n: int) -> list[list[Context]]:
        return [[Context(title=" A\ntitle \t", text="one\ntwo", document_id="7", score=0.5)] for _ in texts]

    with running(retrieval_service(ServeConfig(), search, "lines")) as server:
        (found,) = ask(server, ["x"])
        assert read(found) == [('"A title"', "one\ntwo")]


def test_three_passages_are_found_where_a_request_does_not_say(server: RunningServer) -> None:
    for body in ({"queries": ["a"]}, {"queries": ["a"], "topk": None, "return_scores": None}):
        assert len(server.post("/retrieve", body).json["result"][0]) == 3
    with running(fake(topk=9, max_passages=4)) as other:
        assert len(other.post("/retrieve", {"queries": ["a"]}).json["result"][0]) == 4


def test_no_texts_and_texts_without_words_find_nothing_and_search_nothing() -> None:
    search = FakeSearch()
    with running(fake(search)) as server:
        assert ask(server, []) == []
        assert ask(server, ["", "  \n"]) == [[], []]
        assert search.calls == []
        found = ask(server, ["", "kant", " ", "hume"], topk=1)
        assert [[text for _, text in read(one)] for one in found] == [[], ["kant 0"], [], ["hume 0"]]
        assert search.calls == [(["kant", "hume"], 1)]


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"queries": ["a"] * 9}, "queries", "has 9 texts; at most 8 are answered"),
        ({"queries": ["a", "b" * 21]}, "queries[1]", "has 21 characters; at most 20 are searched for"),
        ({"queries": ["a"], "topk": 6}, "topk", "is 6; at most 5 passages are given for a text"),
        ({"queries": ["a"], "topk": 0}, "topk", "greater than or equal to 1"),
        ({"queries": ["a"], "topk": 1.5}, "topk", "valid integer"),
        ({"queries": "a"}, "queries", "list"),
        ({"queries": ["a", 3]}, "queries[1]", "string"),
        ({"queries": ["a"], "return_scores": "yes"}, "return_scores", "boolean"),
        ({"topk": 3}, "queries", "is missing"),
        ({"queries": ["a"], "top_k": 3}, "top_k", "did you mean 'topk'?"),
    ],
)
def test_what_is_beyond_the_limits_is_refused_in_the_servers_form(
    server: RunningServer, body: dict[str, Any], param: str, words: str
) -> None:
    found = server.post("/retrieve", body)
    assert (found.status, found.error["type"], found.error["param"]) == (400, "invalid_request_error", param)
    assert words in found.error["message"]


def test_other_errors_have_the_servers_form_too(server: RunningServer) -> None:
    assert server.post("/retrieve", b"{").error["code"] == "invalid_json"
    assert server.get("/retrieve").status == 405
    assert server.send("POST", "/retrieve", b"{}", {"Content-Type": "text/plain"}).status == 415
    for path in ("/v1/chat/completions", "/v1/models", "/"):
        assert server.get(path).status == 404


def test_middleware_guards_it_and_metrics_count_it() -> None:
    with running(fake(api_key=KEY, allowed_origins=("https://app.example",))) as server:
        body, right = {"queries": ["a", "b"]}, {"Authorization": f"Bearer {KEY}"}
        assert server.post("/retrieve", body).status == 401
        assert server.post("/retrieve", body, **right, Host="evil.example").status == 403
        assert server.post("/retrieve", body, **right, Origin="https://evil.example").status == 403
        assert server.post("/retrieve", body, **right, Origin="https://app.example").status == 200
        assert server.get("/health").json["status"] == "ok"
        text = server.get("/metrics", **right).text
    assert 'retro_requests_total{route="/retrieve",status="200"} 1.0' in text
    assert 'retro_requests_total{route="/retrieve",status="401"} 1.0' in text
    assert "retro_searches_total 2.0" in text
    assert "retro_search_seconds_count 1.0" in text


def test_requests_at_once_get_their_own_answers_one_search_after_another() -> None:
    search = FakeSearch()

    def one_client(server: RunningServer, number: int) -> None:
        for turn in range(4):
            queries = [f"c{number}t{turn}q{place}" for place in range(number % 3 + 1)]
            found = ask(server, queries, topk=number % 4 + 1)
            assert [[text for _, text in read(one)] for one in found] == [
                [f"{query} {place}" for place in range(number % 4 + 1)] for query in queries
            ]

    with running(fake(search)) as server, ThreadPoolExecutor(12) as clients:
        for done in [clients.submit(one_client, server, number) for number in range(12)]:
            done.result()
    assert len(search.calls) == 48, "a request is one search"


def test_a_search_that_takes_too_long_is_a_504_and_the_next_one_is_answered() -> None:
    gate, search = threading.Event(), FakeSearch()
    search._gate = gate
    with running(fake(search, seconds_per_request=0.3)) as server:
        slow = server.post("/retrieve", {"queries": ["a"]})
        assert (slow.status, slow.error["code"]) == (504, "timeout")
        wait_until(lambda: server.get("/health").json["status"] == "stalled")
        # It waits behind the one that nobody waits for any more, and does not get its answer.
        late = server.post("/retrieve", {"queries": ["b"]})
        assert late.status == 504
        gate.set()
        assert [text for _, text in read(ask(server, ["c"], topk=1)[0])] == ["c 0"]
        assert [texts for texts, _ in search.calls] == [["a"], ["c"]]


def test_a_failing_search_is_a_500_without_its_cause_and_health_says_so_after_three() -> None:
    with running(fake()) as server:
        for count in (1, 2, 3):
            assert server.get("/health").status == 200
            failed = server.post("/retrieve", {"queries": ["fail"]})
            assert (failed.status, "index is broken" in failed.text) == (500, False)
            assert server.get("/health").json["failed_steps"] == count
        assert (server.get("/health").status, server.get("/health").json["status"]) == (503, "failing")
        assert ask(server, ["a"], topk=1)
        assert server.get("/health").json["status"] == "ok"


def test_a_stopping_server_finishes_what_it_accepted_and_refuses_the_rest() -> None:
    gate = threading.Event()
    search = FakeSearch(gate=gate)
    service = fake(search)
    with running(service) as server, ThreadPoolExecutor(1) as client:
        accepted = client.submit(ask, server, ["a"], 1)
        assert search.entered.wait(30)
        assert (service.work.unfinished, server.get("/health").json["running"]) == (1, 1)
        service.work.stop_accepting()
        refused = server.post("/retrieve", {"queries": ["b"]})
        assert (refused.status, refused.error["code"]) == (503, "stopping")
        assert server.get("/health").json["status"] == "stopping"
        gate.set()
        assert [text for _, text in read(accepted.result()[0])] == ["a 0"]
    assert service.work.unfinished == 0


def test_searches_that_wait_at_the_end_are_told_so() -> None:
    gate = threading.Event()
    search = FakeSearch(gate=gate)
    service = fake(search)
    with running(service) as server, ThreadPoolExecutor(2) as clients:
        first = clients.submit(server.post, "/retrieve", {"queries": ["a"]})
        assert search.entered.wait(30)
        second = clients.submit(server.post, "/retrieve", {"queries": ["b"]})
        wait_until(lambda: service.work.unfinished == 2)
        service.work.end()
        assert second.result().error["code"] == "stopping"
        gate.set()
        assert first.result().status == 200
    assert [texts for texts, _ in search.calls] == [["a"]]


def test_beside_a_model_it_searches_the_models_index() -> None:
    bare = fake_service()
    with running(bare) as server:
        found = server.post("/retrieve", {"queries": ["a"]})
        assert (found.status, found.error["code"]) == (404, "retrieval_not_served")
    searches = Searches(FakeSearch(), Metrics(), 10.0)
    both = dataclasses.replace(fake_service(), searches=searches)
    with running(both) as server:
        assert [text for _, text in read(ask(server, ["a"], topk=2)[0])] == ["a 0", "a 1"]
        assert server.get("/v1/models").status == 200
        both.scheduler.stop_accepting()
        assert server.post("/retrieve", {"queries": ["a"]}).error["code"] == "stopping"
    searches.close()


@pytest.fixture(scope="module")
def api() -> Iterator[Any]:
    service = fake(allowed_hosts=("*",), max_queries=3, max_query_characters=30)
    yield schemathesis.openapi.from_asgi("/openapi.json", service.app())
    service.work.close()


def test_valid_requests_get_what_the_document_promises(api: Any) -> None:
    answered = 0

    @SETTINGS
    @given(case=api["/retrieve"]["POST"].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def check(case: Any) -> None:
        nonlocal answered
        case.body = sendable(case.body)
        answered += case.call_and_validate(checks=CHECKS).status_code == 200

    check()
    assert answered > 10


def test_invalid_requests_are_refused_with_a_documented_error(api: Any) -> None:
    @SETTINGS
    @given(case=api["/retrieve"]["POST"].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def check(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    check()


def test_the_document_has_the_routes_the_bounds_and_the_key_of_this_server() -> None:
    service = fake(max_queries=7, max_query_characters=9, max_passages=2, api_key=KEY)
    document = service.app().openapi()
    assert {*document["paths"]} == {"/retrieve", "/health", "/health/live", "/metrics"}
    fields = document["components"]["schemas"]["RetrieveRequest"]["properties"]
    assert (fields["queries"]["maxItems"], fields["queries"]["items"]["maxLength"]) == (7, 9)
    assert fields["topk"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 2}
    assert all(field["description"] for field in fields.values())
    assert document["paths"]["/retrieve"]["post"]["security"] == [{"bearer": []}]
    service.work.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"recipe": "self_rag"}, r"recipe = 'self_rag': needs no recipe beside only=retrieval"),
        ({"adapters": {"law": "runs/law"}}, r"adapters = .*: needs no adapters beside only=retrieval"),
        ({"retrieval": "none"}, r"retrieval = 'none': needs live beside only=retrieval"),
    ],
)
def test_settings_of_answers_are_refused_where_only_passages_are_served(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ServeConfig(only="retrieval", **settings)


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    """How many items each call of a method got, from now on."""
    seen: list[int] = []
    before = getattr(owner, name)

    def call(items: Sequence[Any], *more: Any) -> Any:
        seen.append(len(items))
        return before(items, *more)

    monkeypatch.setattr(owner, name, call)
    return seen


def test_a_table_of_passages_is_served_and_a_request_is_one_batch_and_one_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path)
    embedded(config)
    retriever = PassageRetriever.open(config)
    batches = counted(monkeypatch, retriever._embedder, "embed_queries")
    searches = counted(monkeypatch, retriever._index, "search")
    passages = made_passages()
    with running(retrieval_service(ServeConfig(), retriever.search, "table")) as server:
        found = ask(server, questions_of(passages))
    assert (batches, searches) == ([30], [30])
    assert [one[0]["document"]["id"] for one in found] == [one.id for one in passages]
    assert [read(one)[0] for one in found] == [(f'"{one.title}"', one.text) for one in passages]
    expected = retriever.search(questions_of(passages)[:1], 3)[0]
    assert [one["score"] for one in found[0]] == [one.score for one in expected]


def test_the_database_of_a_run_is_served_and_a_request_is_one_batch(
    road: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = model_paths(road)
    retriever = DatabaseRetriever(paths.corpus, paths.db, paths.index, paths.search)
    batches = counted(monkeypatch, retriever._retriever.searcher, "prepare")
    queries = ["river1 river2", "engine3", "garden5 garden6"]
    with running(retrieval_service(ServeConfig(), retriever.search, "run")) as server:
        found = ask(server, queries, topk=2)
    assert batches == [3]
    for ours, expected in zip(found, retriever.search(queries, 2), strict=True):
        assert [one["document"]["text"] for one in ours] == [one.text for one in expected]
        assert [one["document"]["id"] for one in ours] == [one.document_id for one in expected]
        assert [one["score"] for one in ours] == pytest.approx([one.score for one in expected], abs=0)


def test_a_served_model_answers_the_same(road: RunConfig) -> None:
    paths, queries = model_paths(road), ["river1 river2", "engine3"]
    retriever = DatabaseRetriever(paths.corpus, paths.db, paths.index, paths.search)
    with running(load_service(road.serve, road.generate, paths, "tiny")) as server:
        found = ask(server, queries, topk=2)
        assert server.post("/retrieve", {"queries": ["a"], "topk": 17}).error["param"] == "topk"
    expected = [[one.text for one in passages] for passages in retriever.search(queries, 2)]
    assert [[one["document"]["text"] for one in passages] for passages in found] == expected


@pytest.fixture(scope="module")
def run_file(road: RunConfig) -> Path:
    path = road.run_dir.parent / "retrieval.yaml"
    path.write_text(as_yaml(road), encoding="utf-8")
    return path


def test_no_language_model_is_loaded(run_file: Path) -> None:
    stand_in = "import retro.serve.run as run; run.serve = lambda service, listener: service.app()"
    words = ("serve", str(run_file), "serve.port=0")
    heavy = {"torch", "megatron", "transformers"}
    assert loaded_after(f"{stand_in}\n{command_line(*words, 'serve.only=retrieval')}").isdisjoint(heavy)
    assert "torch" in loaded_after(f"{stand_in}\n{command_line(*words)}")


def test_the_command_serves_passages_alone_and_ends_with_status_0(
    run_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    server = Server([str(run_file), "serve.only=retrieval"])
    try:
        assert server.health()["status"] == "ok"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0
    finally:
        server.process.kill()
        server.process.wait(timeout=60)


def passages_command(*words: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "retro.recipes.passages", "serve", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_the_command_of_passages_serves_a_table(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    embedded(config)
    table = ("--passages", config.passages, "--passages_embeddings", config.embeddings)
    hashing = ("embedder.kind=hashing", "embedder.dimension=1024", "--topk", 2, "serve.max_queries=3")
    process = passages_command(*table, *hashing, "--port", 0)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "serving passages.tsv at http" in line)
        port = int(line.rstrip().rpartition(":")[2])
        server = RunningServer(fake(), port)
        found = server.post("/retrieve", {"queries": questions_of(made_passages())[:3]}).json["result"]
        assert [[len(one), one[0]["id"]] for one in found] == [[2, "100"], [2, "101"], [2, "102"]]
        assert server.post("/retrieve", {"queries": ["a"] * 4}).error["param"] == "queries"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.communicate(timeout=60)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--index_path", "e5.index"), "--index_path = True: needs to be left out: the index is made of"),
        (("--retriever_name", "e5"), "give --model_name_or_path"),
        (("serve.prot=1",), "did you mean 'port'?"),
        (("--host", "0.0.0.0"), "needs an API key beside it"),
    ],
)
def test_flags_of_search_r1_that_would_do_nothing_are_refused(
    tmp_path: Path, words: Sequence[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RETRO_API_KEY", raising=False)
    process = passages_command(
        "--passages", tmp_path / "p.tsv", "--passages_embeddings", "x", "embedder.kind=hashing", *words
    )
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, told in errors, "Traceback" in errors) == (2, True, False), errors


def test_json_of_many_texts_is_read_by_any_parser(server: RunningServer) -> None:
    found = server.post("/retrieve", {"queries": ["köln", "日本", "a\u2028b"], "topk": 1})
    assert [one[0]["text"] for one in json.loads(found.text)["result"]] == ["köln 0", "日本 0", "a\u2028b 0"]
