"""Multi-hop questions behind the server: an answer, and the steps to it in its details."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

import pytest

from retro.common.errors import ConfigError
from retro.recipes.base import run_recipe, served
from retro.run.config import RunConfig
from retro.serve.config import ServeConfig
from retro.serve.loading import load_service
from tests.recipes.multi_hop.fact_run import RECIPE, other, small_run
from tests.recipes.multi_hop.http_server import serving
from tests.serve.running import RunningServer, running

CHAT = "/v1/chat/completions"
FACTS = [{"title": "link", "text": "e1 l0 e2 ."}, {"title": "value", "text": "e2 r0 v3 ."}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run with a model that was tuned for a few steps."""
    config = small_run(tmp_path_factory.mktemp("served"))
    for step in ("samples", "model"):
        run_recipe(RECIPE, config, step)
    return config


def service_of(config: RunConfig, **answer: Any) -> Any:
    settings = config.recipe["multi_hop"]
    recipe = {"multi_hop": settings | {"answer": settings["answer"] | answer}}
    config = config.model_copy(update={"recipe": recipe, "serve": ServeConfig(recipe="multi_hop", max_new_tokens=40)})
    found = served(config)
    serve = config.serve.model_copy(update={"kind": found.kind})
    return load_service(serve, found.generate, found.paths, "run", found.begin)


@pytest.fixture(scope="module")
def server(run: RunConfig) -> Iterator[RunningServer]:
    with running(service_of(run, method="one_search")) as found:
        yield found


def chat(**given: Any) -> dict[str, Any]:
    retrieval = {"source": "given", "passages": FACTS}
    return {"messages": [{"role": "user", "content": "e2 r0"}], "temperature": 0, "retrieval": retrieval} | given


def test_the_steps_to_an_answer_are_in_its_details(server: RunningServer) -> None:
    found = server.post(CHAT, chat())
    assert found.status == 200, found.text
    told = found.json["choices"][0]["retrieval"]["details"]["multi_hop"]
    [hop] = told["hops"]
    assert hop["query"] == "e2 r0"
    assert hop["passages"][0]["title"] == "value"


def test_a_stream_brings_them_with_its_last_event(server: RunningServer) -> None:
    events = server.post(CHAT, chat(stream=True)).events
    assert events[-1]["choices"][0]["retrieval"]["details"]["multi_hop"]["hops"][0]["query"] == "e2 r0"


def test_a_plain_continuation_is_continued(server: RunningServer) -> None:
    found = server.post("/v1/completions", {"prompt": "e2 r0", "max_tokens": 3, "temperature": 0})
    assert found.status == 200, found.text


class SlowServer(BaseHTTPRequestHandler):
    """Search-R1's protocol, answered when the test lets it."""

    let, begun = threading.Event(), threading.Event()
    batches: ClassVar[list[list[str]]] = []

    def do_POST(self) -> None:
        queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        self.batches.append(queries)
        self.begun.set()
        self.let.wait(20)
        data = json.dumps({"result": [[{"id": "1", "contents": f"t\n{query}"}] for query in queries]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with serving(SlowServer) as found:
        yield f"{found}/retrieve"
        SlowServer.let.set()


def test_a_search_holds_up_nobody_else_and_questions_share_the_next(run: RunConfig, address: str) -> None:
    service = service_of(run, method="one_search", retriever={"kind": "live", "address": address, "n": 1})
    with running(service) as server, ThreadPoolExecutor(4) as clients:
        asked = [{"messages": [{"role": "user", "content": f"e{number} r0"}], "temperature": 0} for number in range(4)]
        chats = [clients.submit(server.post, CHAT, asked[0])]
        assert SlowServer.begun.wait(20)
        chats += [clients.submit(server.post, CHAT, one) for one in asked[1:]]
        # The search ends only after this continuation.
        plain = server.post("/v1/completions", {"prompt": "e2 r0", "max_tokens": 3, "temperature": 0})
        assert plain.status == 200, plain.text
        deadline = time.monotonic() + 20
        while server.service.work.health().running < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        SlowServer.let.set()
        found = [one.result(timeout=20) for one in chats]
    hops = [one.json["choices"][0]["retrieval"]["details"]["multi_hop"]["hops"][0] for one in found]
    assert [one["passages"][0]["text"] for one in hops] == ["e0 r0", "e1 r0", "e2 r0", "e3 r0"]
    assert [sorted(one) for one in SlowServer.batches] == [["e0 r0"], ["e1 r0", "e2 r0", "e3 r0"]]


def test_a_model_that_is_not_the_engines_is_not_served(run: RunConfig) -> None:
    config = other(run, run.run_dir, model={"kind": "server", "base_url": "http://x/v1", "name": "m", "path": None})
    with pytest.raises(ConfigError, match=r"answer.model.kind = 'server': needs to be engine to be served"):
        served(config.model_copy(update={"serve": ServeConfig(recipe="multi_hop")}))
