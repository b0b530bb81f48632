"""`/v1/completions` and `/v1/chat/completions` over a socket, with an engine whose answers are known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from retro.serve.config import ServeConfig
from tests.serve.fake_engine import TOKENIZER, FakeEngine, fake_answer
from tests.serve.fake_server import fake_service
from tests.serve.running import RunningServer, running

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    config = ServeConfig(max_prompt_tokens=200, max_new_tokens=100, max_choices=6, max_passages=4)
    with running(fake_service(config)) as found:
        yield found


def answer(prompt: str, seed: int, tokens: int) -> str:
    return fake_answer(tuple(prompt.encode()), seed).encode()[:tokens].decode()


def chat_body(text: str = "Who?", **given: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "seed": 1, "max_tokens": 20} | given


PLAIN = "question: Who?\nanswer:"
"""The prompt of `chat_body()` in the plain style."""


def test_a_completion_is_openai_s_object(server: RunningServer) -> None:
    found = server.post(COMPLETIONS, {"model": "fake", "prompt": "Once", "max_tokens": 20, "seed": 4})
    assert found.status == 200
    body = found.json
    assert body["id"].startswith("cmpl-")
    assert (body["object"], body["model"]) == ("text_completion", "fake")
    (choice,) = body["choices"]
    assert (choice["index"], choice["text"]) == (0, answer("Once", 4, 20))
    assert (choice["finish_reason"], choice["logprobs"]) == ("length", None)
    assert body["usage"] == {"prompt_tokens": 4, "completion_tokens": 20, "total_tokens": 24}


def test_without_max_tokens_a_completion_has_sixteen_and_a_chat_as_many_as_may_be(server: RunningServer) -> None:
    plain = server.post(COMPLETIONS, {"prompt": "Once", "seed": 4}).json
    assert plain["usage"]["completion_tokens"] == 16
    chat = server.post(CHAT, chat_body(max_tokens=None)).json
    assert chat["usage"]["completion_tokens"] == 100


def test_prompts_may_be_many_texts_or_token_ids_and_choices_come_prompt_by_prompt(server: RunningServer) -> None:
    body = {"prompt": ["one", "two"], "n": 2, "seed": 7, "max_tokens": 9}
    choices = server.post(COMPLETIONS, body).json["choices"]
    expected = [answer(prompt, seed, 9) for prompt in ("one", "two") for seed in (7, 8)]
    assert [choice["text"] for choice in choices] == expected
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    ids = [list(b"one"), list(b"two")]
    again = server.post(COMPLETIONS, body | {"prompt": ids}).json["choices"]
    assert [choice["text"] for choice in again] == expected
    single = server.post(COMPLETIONS, body | {"prompt": ids[0], "n": 1}).json["choices"]
    assert [choice["text"] for choice in single] == expected[:1]


def test_an_empty_prompt_begins_a_document(server: RunningServer) -> None:
    found = server.post(COMPLETIONS, {"prompt": "", "seed": 0, "max_tokens": 8}).json["choices"][0]
    assert found["text"] == fake_answer((TOKENIZER.eod,), 0).encode()[:8].decode()


def test_stop_strings_end_an_answer_and_are_not_part_of_it(server: RunningServer) -> None:
    whole = answer("Once", 4, 60)
    stop = whole[25:28]
    (choice,) = server.post(COMPLETIONS, {"prompt": "Once", "seed": 4, "max_tokens": 60, "stop": stop}).json["choices"]
    assert (choice["text"], choice["finish_reason"]) == (whole[: whole.index(stop)], "stop")


def test_echo_gives_the_prompt_back_before_the_answer(server: RunningServer) -> None:
    body = {"prompt": "Once", "seed": 4, "max_tokens": 6, "echo": True}
    assert server.post(COMPLETIONS, body).json["choices"][0]["text"] == "Once" + answer("Once", 4, 6)
    pieces = server.post(COMPLETIONS, body | {"stream": True}).events
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == "Once" + answer("Once", 4, 6)


def test_log_probabilities_of_a_completion(server: RunningServer) -> None:
    body = {"prompt": "Once", "seed": 4, "max_tokens": 3, "logprobs": 2}
    found = server.post(COMPLETIONS, body).json["choices"][0]["logprobs"]
    assert "".join(found["tokens"]) == answer("Once", 4, 3)
    assert found["token_logprobs"] == [-0.5, -0.5, -0.5]
    assert found["top_logprobs"] == [{"a": -1.0, "b": -2.0}] * 3
    assert found["text_offset"] == [0, 1, 2]
    pieces = server.post(COMPLETIONS, body | {"stream": True}).events
    streamed = [piece["choices"][0]["logprobs"] for piece in pieces if piece["choices"][0]["logprobs"]]
    assert [one["text_offset"] for one in streamed] == [[0], [1], [2]]
    assert [one["tokens"] for one in streamed] == [[token] for token in found["tokens"]]


def test_a_chat_uses_the_prompt_of_tuning_and_its_answer_has_no_leading_space(server: RunningServer) -> None:
    body = server.post(CHAT, chat_body()).json
    assert (body["object"], body["id"][:9]) == ("chat.completion", "chatcmpl-")
    assert answer(PLAIN, 1, 20).startswith(" ")
    assert body["choices"][0]["message"] == {"role": "assistant", "content": answer(PLAIN, 1, 20)[1:]}
    assert body["usage"]["prompt_tokens"] == len(PLAIN)


def test_earlier_turns_and_a_system_message_come_before_the_question(server: RunningServer) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Ada.", "retrieval": None},
        {"role": "user", "content": "When?"},
    ]
    prompt = "Be brief.\nquestion: Who?\nanswer: Ada.\nquestion: When?\nanswer:"
    body = server.post(CHAT, chat_body() | {"messages": messages}).json
    assert body["choices"][0]["message"]["content"] == answer(prompt, 1, 20)[1:]
    with running(fake_service(style="instructretro")) as other:
        said_by = other.post(CHAT, chat_body() | {"messages": messages}).json["choices"][0]["message"]["content"]
    prompt = "System: Be brief.\n\nUser: Who?\n\nAssistant: Ada.\n\nUser: When?\n\nAssistant:"
    assert said_by == answer(prompt, 1, 20)[1:]


def test_log_probabilities_of_a_chat(server: RunningServer) -> None:
    body = chat_body(max_tokens=2, logprobs=True, top_logprobs=1)
    found = server.post(CHAT, body).json["choices"][0]["logprobs"]["content"]
    assert [one["logprob"] for one in found] == [-0.5, -0.5]
    assert found[0]["top_logprobs"] == [{"token": "a", "logprob": -1.0, "bytes": [97]}]
    assert found[0]["bytes"] == [32]


def test_a_streamed_chat_has_the_role_then_text_then_the_finish_reason_then_the_usage(server: RunningServer) -> None:
    body = chat_body(stream=True, stream_options={"include_usage": True}, n=2)
    events = server.post(CHAT, body).events
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1
    for index in range(2):
        mine = [event["choices"][0] for event in events if event["choices"] and event["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        text = "".join(choice["delta"].get("content", "") for choice in mine)
        assert text == answer(PLAIN, 1 + index, 20)[1:]
        assert [choice["finish_reason"] for choice in mine] == [None] * (len(mine) - 1) + ["length"]
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == {
        "prompt_tokens": len(PLAIN),
        "completion_tokens": 40,
        "total_tokens": len(PLAIN) + 40,
    }
    assert all(event["usage"] is None for event in events[:-1])


def test_each_chunk_has_its_passages_its_end_and_their_distances(server: RunningServer) -> None:
    found = server.post(CHAT, chat_body(max_tokens=40, retrieval={"k": 1})).json["choices"][0]
    chunks = found["retrieval"]["chunks"]
    assert found["retrieval"]["source"] == "live"
    assert [chunk["position"] for chunk in chunks] == [len(PLAIN) - 1 + 16 * turn for turn in range(3)]
    assert [chunk["answer_token"] for chunk in chunks] == [0, 16, 32]
    # The space at the start is not given out, ö is one letter of two tokens, and the second chunk ends within one.
    assert found["message"]["content"][:30] == "cobalt0 köln1 köln2 birch3 köl"
    assert [chunk["text_offset"] for chunk in chunks] == [0, len("cobalt0 köln1 "), len("cobalt0 köln1 köln2 birch3 k")]
    assert chunks[0]["passages"] == [
        {
            "text": "Passage 0 about 'Who?'",
            "title": "Page 0",
            "document_id": "d0",
            "row": 0,
            "score": 0.9,
            "distance": 0.447214,  # √(2 − 2 · 0.9)
        }
    ]
    streamed = server.post(CHAT, chat_body(max_tokens=40, retrieval={"k": 1}, stream=True)).events
    told = [event["choices"][0]["retrieval"] for event in streamed if "retrieval" in event["choices"][0]]
    assert [chunk for one in told for chunk in one["chunks"]] == chunks


def test_passages_are_searched_given_or_none_as_the_request_says(server: RunningServer) -> None:
    def chunks(retrieval: Any) -> Any:
        return server.post(COMPLETIONS, {"prompt": "a", "max_tokens": 20, "retrieval": retrieval}).json["choices"][0][
            "retrieval"
        ]

    assert chunks({"source": "none"}) == {"source": "none", "chunks": []}
    assert [len(one["passages"]) for one in chunks({"source": "live", "k": 3, "every": 8})["chunks"]] == [3, 3, 3]
    given = chunks({"passages": ["mine", {"title": "T", "text": "also mine"}]})
    assert given["source"] == "given"
    assert [one["text"] for one in given["chunks"][0]["passages"]] == ["mine", "also mine"]
    assert {one["row"] for one in given["chunks"][0]["passages"]} == {None}
    assert {one["distance"] for one in given["chunks"][0]["passages"]} == {None}


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        ({"model": "gpt-4"}, 404, "model: 'gpt-4' is not served here; served are: 'fake'"),
        ({"prompt": []}, 400, "prompt: is an empty list"),
        ({"prompt": {}}, 400, "prompt: needs a text"),
        ({"prompt": ["a", 1]}, 400, "prompt: needs a text"),
        ({"prompt": [True]}, 400, "prompt: needs a text"),
        ({"prompt": [[]]}, 400, "prompt: needs a text"),
        ({"prompt": [257]}, 400, "prompt: has the token id 257; ids are 0 to 256"),
        ({"prompt": [1, -5]}, 400, "prompt: has the token id -5"),
        ({"prompt": [10**300]}, 400, "prompt: has the token id 1e20 or more"),
        ({"prompt": "a" * 201}, 400, "prompt: has 201 tokens; this server takes 200 (serve.max_prompt_tokens)"),
        ({"prompt": ["a", "b" * 300]}, 400, "prompt[1]: has 300 tokens"),
        ({"max_tokens": 101}, 400, "max_tokens: needs at most 100"),
        ({"max_tokens": 10**30}, 400, "max_tokens: needs at most 100"),
        ({"min_tokens": 17}, 400, "min_tokens: needs at most 16"),
        ({"n": 7}, 400, "n: asks for 1 × 7 answers; this server gives 6 at once"),
        ({"n": 10**40}, 400, "n: asks for 1 × 1e20 or more answers"),
        ({"echo": True, "logprobs": 1}, 400, "echo: is not supported together with logprobs"),
        ({"retrieval": {"k": 5}}, 400, "retrieval: asks for more than 4 passages"),
        ({"retrieval": {"every": 17}}, 400, "retrieval.every: needs 1 to 16"),
        ({"retrieval": {"source": "given"}}, 400, "retrieval.passages: is empty"),
        ({"retrieval": {"source": "live", "passages": ["a"]}}, 400, "retrieval.passages: needs retrieval.source"),
        ({"retrieval": {"passages": []}}, 400, "retrieval.passages: is empty"),
        ({"retrieval": {"source": "none", "k": 1}}, 400, "retrieval.k: needs retrieval.source 'live', found 'none'"),
        ({"retrieval": {"source": "none", "every": 8}}, 400, "retrieval.every: needs retrieval.source 'live', found"),
        ({"retrieval": {"passages": ["a"], "k": 1}}, 400, "retrieval.k: needs retrieval.source 'live', found 'given'"),
        ({"retrieval": {"passages": ["a"], "every": 8}}, 400, "retrieval.every: needs retrieval.source 'live', found"),
        ({"prompt": "lose a file"}, 500, "the answer failed on the server; its log says why"),
        ({"prompt": "refuse me"}, 400, "Request.prompt = '9 tokens': needs at most 400"),
        ({"prompt": "break the step"}, 500, "the answer failed on the server; its log says why"),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused(server: RunningServer, given: Any, status: int, words: str) -> None:
    found = server.post(COMPLETIONS, {"prompt": "a", "seed": 1} | given)
    assert found.status == status
    assert set(found.error) == {"message", "type", "param", "code"}
    assert found.error["message"].startswith(words)
    assert "secret" not in found.text
    assert "Traceback" not in found.text


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"messages": [{"role": "assistant", "content": "a"}]},
            "messages[0].role: needs to be 'user' in the last message",
        ),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages[0].content: is empty"),
        (
            {"messages": [{"role": "user", "content": "a" * 300}]},
            "messages: has 318 tokens; this server takes 200 (serve.max_prompt_tokens)",
        ),
        ({"top_logprobs": 2}, "top_logprobs: needs logprobs: true"),
        ({"max_completion_tokens": 9, "max_tokens": 9}, "max_tokens: is set beside max_completion_tokens"),
        ({"max_completion_tokens": 101, "max_tokens": None}, "max_completion_tokens: needs at most 100"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_chat_that_cannot_be_answered_is_refused(server: RunningServer, given: Any, words: str) -> None:
    found = server.post(CHAT, chat_body() | given)
    assert (found.status, found.error["message"][: len(words)]) == (400, words)


def test_a_stream_that_is_refused_before_it_begins_has_a_status_and_one_that_fails_later_an_event(
    server: RunningServer,
) -> None:
    assert server.post(COMPLETIONS, {"prompt": "refuse me", "stream": True}).status == 400
    found = server.post(COMPLETIONS, {"prompt": "break the step", "stream": True})
    assert found.status == 200
    assert found.events[-1]["error"]["code"] == "engine_failed"
    assert "".join(piece["choices"][0]["text"] for piece in found.events[:-1]) != ""


def test_a_model_without_an_encoder_reads_nothing_and_says_so() -> None:
    with running(fake_service(reads_neighbors=False)) as gpt:
        choice = gpt.post(COMPLETIONS, {"prompt": "a"}).json["choices"][0]
        assert choice["retrieval"] == {"source": "none", "chunks": []}
        error = gpt.post(COMPLETIONS, {"prompt": "a", "retrieval": {"source": "live"}}).error
        assert error["message"].startswith("retrieval.source: is 'live', and this model has no encoder")


@pytest.mark.parametrize("name", ["k", "every"])
def test_what_only_an_encoder_could_follow_is_refused_where_there_is_none(name: str) -> None:
    with running(fake_service(reads_neighbors=False, contexts_in_prompt=2)) as gpt:
        assert gpt.post(CHAT, chat_body(retrieval={"source": "live"})).status == 200
        error = gpt.post(CHAT, chat_body(retrieval={"source": "live", name: 1})).error
        assert error["message"] == (
            f"retrieval.{name}: is for an encoder, and this model has none; its prompts show 2 passages, whatever is "
            "asked for"
        )


def test_a_server_without_an_index_takes_given_passages_alone() -> None:
    with running(fake_service(retrieve=None)) as bare:
        assert bare.post(COMPLETIONS, {"prompt": "a"}).json["choices"][0]["retrieval"]["source"] == "none"
        error = bare.post(COMPLETIONS, {"prompt": "a", "retrieval": {"source": "live"}}).error
        assert error["message"].startswith("retrieval.source: is 'live', and this server has no index")
        assert bare.get("/v1/models").json["data"][0]["retrieval"]["sources"] == ["none", "given"]
        assert bare.post(COMPLETIONS, {"prompt": "a", "retrieval": {"passages": ["b"]}}).status == 200


def test_a_chat_s_prompt_shows_passages_where_the_model_was_tuned_so_and_they_are_cut_to_fit() -> None:
    engine = FakeEngine()
    with running(fake_service(open_engine=lambda: engine, contexts_in_prompt=1)) as shown:
        body = shown.post(CHAT, chat_body(retrieval={"passages": [{"title": "T", "text": "told"}]})).json
        prompt = "T: told\nquestion: Who?\nanswer:"
        assert body["choices"][0]["message"]["content"] == answer(prompt, 1, 20)[1:]
        searched = shown.post(CHAT, chat_body()).json
        assert searched["usage"]["prompt_tokens"] == len("Page 0: Passage 0 about 'Who?'\n" + PLAIN)
        long = {"title": "T", "text": "x" * 1000}
        cut = shown.post(CHAT, chat_body(retrieval={"passages": [long]})).json
        assert cut["usage"]["prompt_tokens"] == 400 - 20


def test_a_seed_is_drawn_where_none_is_given(server: RunningServer) -> None:
    texts = {server.post(COMPLETIONS, {"prompt": "a", "max_tokens": 60}).json["choices"][0]["text"] for _ in range(4)}
    assert len(texts) > 1
