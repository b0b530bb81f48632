"""A recipe's way of decoding behind the server: whole, streamed, on the page; probabilities by hand."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError
from retro.generate.engine import BatchEngine
from retro.generate.program import ProgramEngine
from retro.generate.request import Engine
from retro.qa.prompt_texts import load_prompts
from retro.recipes.base import RECIPES, served
from retro.recipes.self_rag.config import DecodeConfig
from retro.recipes.self_rag.policy import program_for
from retro.run.config import RunConfig
from retro.serve.config import ServeConfig
from tests.recipes.self_rag.fake import ReflectionTokenizer, ScriptedDecoder, passage
from tests.recipes.self_rag.test_short_answers import WRITES
from tests.serve.chromium import Browser
from tests.serve.fake_server import fake_service
from tests.serve.running import RunningServer, running
from tests.serve.test_page import fill, ready, text_of

CHAT = "/v1/chat/completions"
LONG = 57
AA = {"text": "aa", "title": "ta"}


class ServedTokenizer(ReflectionTokenizer):
    """With what the server asks of a tokenizer."""

    vocab_size = ScriptedDecoder.vocabulary


def open_engine() -> Engine:
    rules = {"q ": {"[Retrieval]": 0.6, "[No Retrieval]": 0.4}} | WRITES
    decoder = ScriptedDecoder(rules, sequence_length=60)
    engine = BatchEngine(decoder, ServedTokenizer(), lambda texts: [[passage("bb")] for _ in texts])
    return ProgramEngine(engine, partial(program_for(DecodeConfig(form="long", max_depth=1)), engine))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    path: Path = tmp_path_factory.mktemp("texts") / "texts.yaml"
    path.write_text("name: letters\nversion: 1\nstyles: {plain: {question: '{question} q '}}\n")
    facts: dict[str, Any] = {
        "tokenizer": ServedTokenizer(), "token_bytes": None, "sequence_length": 60, "answer_tokens": 20,
        "reads_neighbors": False, "contexts_in_prompt": 2, "texts": load_prompts(path),
        "recipe": "self_rag", "kind": "chat",
        "retrieve": lambda texts: [[passage("bb")] for _ in texts],
    }  # fmt: skip
    with running(fake_service(ServeConfig(max_new_tokens=LONG), open_engine=open_engine, **facts)) as found:
        yield found


def chat(**given: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "who"}], "max_tokens": 20, "temperature": 0} | given


def test_the_answer_has_no_tokens_and_its_segments_are_told(server: RunningServer) -> None:
    found = server.post(CHAT, chat(retrieval={"source": "given", "passages": [AA]}))
    assert found.status == 200, found.text
    [choice] = found.json["choices"]
    assert choice["message"]["content"] == "x"
    assert choice["finish_reason"] == "stop"
    told = choice["retrieval"]["details"]["self_rag"]
    assert (told["mode"], told["retrieved"], told["cited"]) == ("adaptive_retrieval", True, "x [1]")
    [segment] = told["segments"]
    assert segment["tokens"][:2] == ["[Relevant]", "[Fully supported]"]
    assert segment["relevance"] == pytest.approx(0.9)
    assert told["docs"] == [{"id": "", "title": "ta", "text": "aa"}]


def test_a_stream_brings_them_with_its_last_event(server: RunningServer) -> None:
    body = chat(retrieval={"source": "given", "passages": [AA]}, stream=True)
    events = server.post(CHAT, body).events
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == "x"
    last = events[-1]["choices"][0]
    assert last["retrieval"]["details"]["self_rag"]["segments"][0]["text"] == "x"


def test_live_retrieval_and_none(server: RunningServer) -> None:
    live = server.post(CHAT, chat(retrieval={"source": "live", "k": 1})).json["choices"][0]
    assert live["message"]["content"] == "y"
    assert live["retrieval"]["details"]["self_rag"]["segments"][0]["tokens"][0] == "[Irrelevant]"
    none = server.post(CHAT, chat(retrieval={"source": "none"})).json["choices"][0]
    assert none["message"]["content"] == "z"
    assert none["retrieval"]["details"]["self_rag"]["notes"] == ["nothing_found"]


def test_an_answer_that_leaves_no_room_is_one_requests_error(server: RunningServer) -> None:
    found = server.post(CHAT, {"messages": [{"role": "user", "content": "who"}], "temperature": 0})
    # Without max_tokens an answer has what the recipe's settings say.
    assert found.status == 200
    refused = server.post(CHAT, chat(max_tokens=LONG))
    assert refused.status == 400
    assert "needs fewer than the 60 tokens of a sequence" in refused.error["message"]
    assert server.get("/health").json["failed_steps"] == 0


def test_a_completion_is_plainly_continued_and_has_no_details(server: RunningServer) -> None:
    found = server.post("/v1/completions", {"prompt": "aa", "max_tokens": 3}).json["choices"][0]
    assert (found["text"], found["retrieval"].get("details")) == ("", None)


def test_log_probabilities_of_an_answer_that_was_put_together_are_refused(server: RunningServer) -> None:
    found = server.post(CHAT, chat(logprobs=True))
    assert found.status == 400
    assert "put together" in found.error["message"]


def test_the_page_colors_what_is_supported_and_what_is_not(server: RunningServer, chromium: Browser) -> None:
    ready(chromium, server.url)
    chromium.until("document.getElementById('name').textContent === 'fake'")
    chromium.evaluate("document.getElementById('more').open = true")
    for source, given, words, judged in (("given", "aa", "x ", "supported"), ("live", "", "y ", "unsupported")):
        chromium.evaluate(f"document.getElementById('source').value = '{source}'")
        chromium.evaluate("document.getElementById('source').dispatchEvent(new Event('change'))")
        chromium.evaluate(f"document.getElementById('given').value = '{given}'")
        fill(chromium, "tokens", "20")
        fill(chromium, "question", "who")
        chromium.press("Enter", 13)
        chromium.until("document.getElementById('status').textContent.includes('tokens in')")
        assert text_of(chromium, "answer") == words
        assert chromium.evaluate("document.querySelector('#answer span').className").split() == [
            "chunk",
            "done",
            judged,
        ]
        assert "[Utility:" in chromium.evaluate("document.querySelector('#answer span').title")
        assert chromium.evaluate("document.querySelectorAll('.passage').length") == 1
    assert chromium.messages == []


def test_a_recipe_that_serves_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"serve\.recipe = 'self_rage': .*did you mean 'self_rag'"):
        served(RunConfig(serve=ServeConfig(recipe="self_rage")))
    monkeypatch.delattr(type(RECIPES.find("self_rag", "")), "serve")
    with pytest.raises(ConfigError, match="none to serve"):
        served(RunConfig(serve=ServeConfig(recipe="self_rag")))


def test_the_recipe_says_what_is_served(tmp_path: Path) -> None:
    settings = {"self_rag": {"decode": {"ndocs": 7, "max_new_tokens": 9}}}
    found = served(RunConfig(run_dir=tmp_path, recipe=settings, serve=ServeConfig(recipe="self_rag")))
    assert found.paths.checkpoint == tmp_path / "recipe_self_rag" / "generator" / "sft"
    assert (found.generate.contexts_in_prompt, found.generate.style, found.kind) == (7, "plain", "self_rag")
