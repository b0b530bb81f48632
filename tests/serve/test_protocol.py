"""Request bodies: what is accepted, what is ignored, and what is refused by its name."""

from __future__ import annotations

from typing import Any, TypeVar

import pytest
from pydantic import ValidationError

from retro.serve.errors import ApiError, invalid_parameter
from retro.serve.protocol import ChatRequest, CompletionRequest, GenerationParameters

P = TypeVar("P", bound=GenerationParameters)


def validated(kind: type[P], data: dict[str, Any]) -> P:
    """The body, or the error that the server answers with."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise invalid_parameter(dict(error.errors()[0])) from None


def completion(**given: Any) -> CompletionRequest:
    return validated(CompletionRequest, {"prompt": "a"} | given)


def chat(**given: Any) -> ChatRequest:
    return validated(ChatRequest, {"messages": [{"role": "user", "content": "a"}]} | given)


def test_defaults_are_openai_s() -> None:
    found = completion()
    assert (found.n, found.temperature, found.top_p, found.stop, found.stream, found.echo) == (
        1,
        1,
        1,
        (),
        False,
        False,
    )
    assert (found.logprobs, found.max_tokens, found.seed, found.retrieval.source) == (None, None, None, None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"best_of": 3}, "best_of: is not supported"),
        ({"best_of": True}, "best_of: is not supported"),
        ({"suffix": "end"}, "suffix: is not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias: is not supported"),
        ({"frequency_penalty": 0.5}, "frequency_penalty: is not supported"),
        ({"tools": [{"type": "function"}]}, "tools: is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format: is not supported"),
        ({"temprature": 1}, "temprature: is not a parameter; did you mean 'temperature'"),
        ({"qqqq": 1}, "qqqq: is not a parameter; known: audio, best_of, echo"),
        ({"a\nb": 1}, r"a\\nb: is not a parameter; known: audio"),
        ({"temperature": 2.5}, "temperature: input should be less than or equal to 2"),
        ({"temperature": "1"}, "temperature: input should be a valid number"),
        ({"temperature": 10**400}, "temperature: input should be a valid number"),
        ({"temperature": float("inf")}, "temperature: input should be a finite number"),
        ({"temperature": True}, "temperature: input should be a valid number"),
        ({"top_p": 0}, "top_p: input should be greater than 0"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty: input should be greater than or equal to 0.01"),
        ({"repetition_penalty": 101}, "repetition_penalty: input should be less than or equal to 100"),
        ({"max_tokens": 0}, "max_tokens: input should be greater than or equal to 1"),
        ({"max_tokens": 5.0}, "max_tokens: input should be a valid integer"),
        ({"max_tokens": True}, "max_tokens: input should be a valid integer"),
        ({"n": 0}, "n: input should be greater than or equal to 1"),
        ({"seed": -1}, "seed: input should be greater than or equal to 0"),
        ({"seed": 2**63}, "seed: input should be less than or equal to"),
        ({"stop": 5}, "stop: input should be a valid list"),
        ({"stop": [""]}, r"stop\[0\]: string should have at least 1 character"),
        ({"stop": ["a"] * 5}, "stop: list should have at most 4 items, not 5"),
        ({"stream": "yes"}, "stream: input should be a valid boolean"),
        ({"logprobs": 21}, "logprobs: input should be less than or equal to 20"),
        ({"retrieval": {"source": "web"}}, "retrieval.source: input should be 'live', 'given' or 'none'"),
        ({"retrieval": {"passages": ["a", {"text": ""}]}}, r"retrieval.passages\[1\].text: string should have"),
        (
            {"retrieval": {"passages": [{"txt": "a"}]}},
            r"retrieval.passages\[0\].txt: is not a parameter; did you mean 'text'",
        ),
        ({"retrieval": {"passages": [{"title": "a"}]}}, r"retrieval.passages\[0\].text: is missing"),
        ({"retrieval": {"kk": 1}}, "retrieval.kk: is not a parameter; did you mean 'k'"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage: input should be a valid boolean"),
    ],
    ids=str,
)
def test_what_would_change_the_answer_is_refused_by_name(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError, match=words) as caught:
        completion(**given)
    assert caught.value.status_code == 400
    assert caught.value.param is not None
    assert caught.value.message.startswith(caught.value.param)


@pytest.mark.parametrize(
    "given",
    [
        {"frequency_penalty": 0}, {"frequency_penalty": 0.0}, {"presence_penalty": 0}, {"logit_bias": {}},
        {"best_of": 1}, {"suffix": None}, {"user": "someone"}, {"metadata": {"a": "b"}}, {"n": None},
        {"temperature": None},        {"response_format": {"type": "text"}}, {"retrieval": None}, {"store": False},
        {"retrieval": {"passages": None, "web": None}}, {"qqqq": None},
    ],
    ids=str,
)  # fmt: skip
def test_what_changes_nothing_is_taken(given: dict[str, Any]) -> None:
    assert completion(**given) == completion()


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (None, "messages: is missing"),
        ([], "messages: list should have at least 1 item, not 0"),
        ("hello", "messages: input should be a valid list"),
        (["hello"], r"messages\[0\]: input should be a valid dictionary"),
        ([{"role": "tool", "content": "a"}], r"messages\[0\].role: input should be 'system', 'developer', 'user' or"),
        ([{"role": "user"}], r"messages\[0\].content: is missing"),
        ([{"role": "user", "content": 5}], r"messages\[0\].content: input should be a valid list"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            r"messages\[0\].content\[0\].type: input should be 'text'",
        ),
        ([{"role": "user", "content": "a", "name": "Ann"}], r"messages\[0\].name: is not a parameter"),
    ],
    ids=str,
)
def test_a_wrong_message_is_named(messages: Any, words: str) -> None:
    with pytest.raises(ApiError, match=words):
        chat(messages=messages)


def test_a_message_is_a_text_or_parts_of_one_and_nulls_in_it_count_as_absent() -> None:
    given = [
        {"role": "assistant", "content": "a", "tool_calls": None, "refusal": None},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
    ]
    assert [message.text for message in chat(messages=given).messages] == ["a", "bc"]


def test_a_passage_is_a_text_or_an_object() -> None:
    found = completion(
        retrieval={"passages": ["a", {"text": "b", "title": "B", "document_id": "1"}]}
    ).retrieval.passages
    assert [(one.text, one.title, one.document_id) for one in found] == [("a", "", ""), ("b", "B", "1")]


def test_one_stop_string_is_a_list_of_one() -> None:
    assert completion(stop="\n").stop == ("\n",)
