"""The `openai` client against a server on this machine that does what servers do."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError, DependencyError, RetroError
from retro.teacher.config import TeacherConfig
from retro.teacher.request import RefusedError, TeacherRequest
from retro.teacher.teacher import REPLIES, open_teacher
from tests.serve.fake_server import fake_service
from tests.serve.running import running
from tests.teacher.asking import asked, numbered
from tests.teacher.server import KEY, Sent, Server, error, reply, serving

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", KEY)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def config_of(server: Server, **settings: Any) -> TeacherConfig:
    given = {"model": "m", "base_url": server.url, "api_key_env": "TEACHER_KEY", "max_retries": 3, "timeout_s": 30}
    return TeacherConfig(**(given | settings))


def texts_of(config: TeacherConfig, folder: Path, requests: list[TeacherRequest]) -> list[str]:
    with open_teacher(config, folder) as teacher:
        return [one.text for one in teacher.complete_all(requests)]


def error_of(config: TeacherConfig, folder: Path, requests: list[TeacherRequest] | None = None) -> RetroError:
    with pytest.raises(RetroError) as caught:
        texts_of(config, folder, requests or numbered(1))
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_request_says_all_that_is_wanted_of_it(tmp_path: Path) -> None:
    messages = ({"role": "system", "content": "Be short."}, {"role": "user", "content": "Wörter?"})
    request = TeacherRequest(messages=messages, temperature=0.7, max_tokens=20, seed=3, stop=("\n", "."))
    with serving(lambda *_: reply("Ja.")) as server, open_teacher(config_of(server), tmp_path) as teacher:
        (one,) = teacher.complete_all([request])
    assert server.bodies == [
        {
            "model": "m",
            "messages": [dict(one) for one in messages],
            "temperature": 0.7,
            "max_tokens": 20,
            "seed": 3,
            "stop": ["\n", "."],
        }
    ]
    assert server.authorizations == [f"Bearer {KEY}"]
    assert (one.text, one.finish_reason, one.model) == ("Ja.", "stop", "teacher-2026")
    assert (one.input_tokens, one.output_tokens, one.cached) == (7, 3, False)


def test_settings_change_what_is_sent(tmp_path: Path) -> None:
    changes = {
        "token_limit": "max_completion_tokens",
        "leave_out": ("temperature",),
        "extra_body": {"reasoning_effort": "low"},
        "api_key_env": "",
    }
    with serving(lambda *_: reply("x")) as server:
        texts_of(config_of(server, **changes), tmp_path, [asked("a", temperature=1.0, seed=2, max_tokens=9)])
        texts_of(config_of(server, leave_out=("seed",)), tmp_path, [asked("a", temperature=1.0, seed=2)])
    assert {name: value for name, value in server.bodies[0].items() if name != "messages"} == {
        "model": "m",
        "max_completion_tokens": 9,
        "seed": 2,
        "reasoning_effort": "low",
    }
    assert (server.bodies[1]["temperature"], "seed" in server.bodies[1]) == (1.0, False)
    assert server.authorizations == ["Bearer none", f"Bearer {KEY}"]


def test_many_are_asked_at_once_and_come_in_order(tmp_path: Path) -> None:
    def answer(body: dict[str, Any], _: int) -> Sent:
        number = int(body["messages"][-1]["content"].split()[1])
        if number % 4 == 0:
            # Until three others are there too: fewer at once, and this would wait for the end of its time.
            for _ in range(2000):
                if server.most_at_once >= 4:
                    break
                server.leaving.wait(0.01)
        return reply(f"reply {number}")

    with serving(answer) as server:
        texts = texts_of(config_of(server, concurrency=4), tmp_path, numbered(20))
    assert texts == [f"reply {number}" for number in range(20)]
    assert sorted(server.prompts()) == sorted(f"question {number}" for number in range(20))
    assert server.most_at_once == 4


def test_what_passes_is_tried_again_and_counted(tmp_path: Path) -> None:
    troubles = {
        "question 0": [error(429, "slow down"), error(429, "slow down")],
        "question 1": [error(500, "oops"), error(503, "busy")],
        "question 2": [Sent(200, b"{not JSON")],
        "question 3": [Sent(200, b'{"choices": []}'), Sent(200, b'{"choices": null}'), Sent(200, b"[]")],
        "question 4": [error(408, "too slow"), Sent(200, b'{"choices": [{"message": {"content": 3}}]}')],
        "question 5": [Sent(200, reply("half").body, breaks_off=True)],
    }

    def answer(body: dict[str, Any], before: int) -> Sent:
        trouble = troubles.get(body["messages"][-1]["content"], [])
        return trouble[before] if before < len(trouble) else reply("good")

    with serving(answer) as server, open_teacher(config_of(server), tmp_path) as teacher:
        found = list(teacher.complete_all(numbered(7)))
    assert [(one.text, one.cached) for one in found] == [("good", False)] * 7
    assert [server.seen[f"question {number}"] for number in range(7)] == [3, 3, 2, 4, 3, 2, 1]
    report = teacher.report()
    assert (report.retried, report.requests, report.cached) == (11, 7, 0)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (error(429, "slow down"), r"teacher\.concurrency = 8: needs to be less: too many requests even .*slow down"),
        (error(500, "oops"), r"teacher\.base_url = 'http.*': needs a server that answers: no reply even .*oops"),
        (Sent(200, b"<html>"), r"http://.*/v1: its reply is broken JSON: .*, 4 times\. Check that base_url ends"),
        (Sent(200, b'{"choices": []}'), r"http://.*: its reply has no choices, 4 times\. Check"),
        (Sent(200, b'{"error": "x"}'), r"http://.*: its reply has no choices, 4 times\. Check"),
        (Sent(200, b"\xff"), r"http://.*: its reply is broken JSON: byte 0xff is not UTF-8"),
    ],
)
def test_what_does_not_pass_ends_after_the_last_try(sent: Sent, words: str, tmp_path: Path) -> None:
    with serving(lambda *_: sent) as server:
        caught = error_of(config_of(server), tmp_path)
    assert re.search(words, str(caught)), str(caught)
    assert server.seen["question 0"] == 4


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, r"teacher\.api_key_env = 'TEACHER_KEY': needs a variable with a key that http.* accepts for m \(.*told"),
        (403, r"teacher\.api_key_env = 'TEACHER_KEY': needs a variable with a key"),
        (404, r"teacher\.model = 'm': needs a model that http.* has, or teacher\.base_url another address \(.*told"),
        (
            400,
            r"teacher\.base_url = 'http.*': needs a server that takes the request \(.*told.*\); see teacher\.token_lim",
        ),
        (422, r"teacher\.base_url = 'http.*': needs a server that takes the request"),
    ],
)
def test_what_the_server_refuses_for_good_is_asked_once(status: int, words: str, tmp_path: Path) -> None:
    with serving(lambda *_: error(status, "as the server told")) as server:
        caught = error_of(config_of(server), tmp_path)
    assert isinstance(caught, ConfigError)
    # Of these others may be answered; of the rest none can.
    assert isinstance(caught, RefusedError) == (status in (400, 422))
    assert re.match(words, str(caught)), str(caught)
    assert len(server.bodies) == 1


def test_a_server_that_hangs_is_given_up_and_what_others_said_is_kept(tmp_path: Path) -> None:
    def answer(body: dict[str, Any], _: int) -> Sent:
        if body["messages"][-1]["content"] == "question 1":
            server.leaving.wait(60)
        return reply("good")

    with serving(answer) as server:
        settings = {"timeout_s": 0.5, "max_retries": 1, "concurrency": 2}
        caught = error_of(config_of(server, **settings), tmp_path, numbered(2))
        assert str(caught).startswith("teacher.timeout_s = 0.5: needs more seconds, or a server that is faster")
        assert server.seen["question 1"] == 2
    assert (tmp_path / REPLIES).read_text().count('"good"') == 1


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(lambda *_: reply(""), port=port)
    caught = error_of(config_of(server, max_retries=0), tmp_path)
    assert str(caught).startswith(f"teacher.base_url = '{server.url}': needs a server that answers: no reply")
    assert "refused" in str(caught)


@pytest.mark.parametrize(
    ("sent", "text", "ended"),
    [
        (reply(None), "", "refusal"),
        (reply(None, finish_reason="content_filter"), "", "content_filter"),
        (reply(None, finish_reason="length"), "", "length"),
        (reply("cut of", finish_reason="length"), "cut of", "length"),
        (reply("whole", finish_reason=None), "whole", "stop"),
        (Sent(200, b'{"choices": [{"message": {"content": "half \\ud83d"}}]}'), "half ?", "stop"),
        (Sent(200, b'{"choices": [{"message": {}}], "usage": null}'), "", "refusal"),
    ],
)
def test_a_reply_without_a_text_or_cut_short_is_a_reply_and_says_so(
    sent: Sent, text: str, ended: str, tmp_path: Path
) -> None:
    with serving(lambda *_: sent) as server, open_teacher(config_of(server), tmp_path) as teacher:
        (one,) = teacher.complete_all(numbered(1))
    assert (one.text, one.finish_reason) == (text, ended)
    assert len(server.bodies) == 1
    report = teacher.report()
    assert (report.empty, report.cut) == (int(not text), int(ended == "length"))
    told = b'"prompt_tokens"' in sent.body
    assert report.without_usage == int(not told)
    assert one.input_tokens == (7 if told else None)


def test_work_that_was_refused_half_way_goes_on_where_it_was(tmp_path: Path) -> None:
    def answer(body: dict[str, Any], _: int) -> Sent:
        last = body["messages"][-1]["content"] == "question 5"
        return error(401, "no more credit") if last else reply("good")

    with serving(answer) as server:
        error_of(config_of(server, concurrency=1), tmp_path, numbered(8))
    with serving(lambda *_: reply("better")) as server:
        texts = texts_of(config_of(server, concurrency=1), tmp_path, numbered(8))
    assert texts == ["good"] * 5 + ["better"] * 3
    assert server.prompts() == ["question 5", "question 6", "question 7"]


@pytest.mark.parametrize("status", [200, 401, 400, 429, 500, 302])
def test_the_key_is_in_no_file_no_log_and_no_message(
    status: int, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    words = f"Incorrect API key provided: {KEY}; header 'Bearer {KEY}'"

    def answer(*_: Any) -> Sent:
        return Sent(200, f'{{"{KEY}": 1}}'.encode()) if status == 200 else error(status, words)

    with serving(answer) as server:
        config = config_of(server, max_retries=1)
        caught = error_of(config, tmp_path, numbered(3))
        text = texts_of(config_of(server), tmp_path / "fine", []) or str(caught)
    assert server.authorizations[0] == f"Bearer {KEY}"
    assert not caught.__cause__
    assert status == 200 or "**********" in text
    written = [file.read_text() for folder in (tmp_path, tmp_path / "fine") for file in folder.glob("*.json*")]
    assert len(written) == 4
    out, err = capfd.readouterr()
    everything = [str(caught), repr(caught), repr(config), config.model_dump_json(), caplog.text, out, err, *written]
    assert [place for place, one in enumerate(everything) if KEY in one or "very-secret" in one] == []


def test_a_key_that_no_header_can_hold_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda *_: reply("x")) as server:
        for bad in ("sk-schlüssel", "sk-two words", "sk-line\nbreak"):
            monkeypatch.setenv("TEACHER_KEY", bad)
            caught = error_of(config_of(server), tmp_path)
            assert str(caught).startswith("teacher.api_key_env = 'TEACHER_KEY': needs a variable whose value can be")
            assert bad not in str(caught)
        monkeypatch.delenv("TEACHER_KEY")
        caught = error_of(config_of(server), tmp_path)
        assert str(caught).startswith("teacher.api_key_env = 'TEACHER_KEY': needs an environment variable that holds")
    assert server.bodies == []


def test_our_own_server_is_a_teacher(tmp_path: Path) -> None:
    request = TeacherRequest(
        messages=({"role": "system", "content": "s"}, {"role": "user", "content": "u"}),
        temperature=0.5,
        max_tokens=300,
        seed=4,
        stop=("12",),
    )
    with running(fake_service()) as server:
        config = TeacherConfig(model="fake", base_url=f"{server.url}/v1", api_key_env="")
        with open_teacher(config, tmp_path) as teacher:
            one, other = teacher.complete_all([request, dataclasses.replace(request, seed=5)])
    assert one.text != other.text
    assert one.text.split()[2].endswith("2")
    assert "12" not in one.text
    assert (one.finish_reason, one.model, one.cached) == ("stop", "fake", False)
    assert one.output_tokens == len(one.text.encode()) + 1 + len("12")


def test_a_dry_run_needs_neither_key_nor_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEACHER_KEY")
    with serving(lambda *_: reply("x")) as server, open_teacher(config_of(server), tmp_path) as teacher:
        assert teacher.plan(numbered(3)).to_send == 3
    assert server.bodies == []


def test_without_the_client_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with serving(lambda *_: reply("x")) as server:
        caught = error_of(config_of(server), tmp_path)
    assert isinstance(caught, DependencyError)
    assert 'pip install "instruct-retro[teacher]"' in str(caught)


def test_the_budget_holds_for_requests_that_are_sent_at_once(tmp_path: Path) -> None:
    # 7 tokens in and 3 out cost 1.3; each may cost up to 0.1 * 26 + 0.2 * 4 = 3.4.
    settings = {"input_price": 100_000, "output_price": 200_000, "max_cost": 8.0, "concurrency": 8}
    with serving(lambda *_: reply("x")) as server:
        caught = error_of(config_of(server, **settings), tmp_path, numbered(9, max_tokens=4))
    assert str(caught).startswith(
        "teacher.max_cost = 8.0: needs more: 5.2 is spent, and the next request may cost up to 3.4"
    )
    assert len(server.bodies) == 4
    assert server.most_at_once <= 2
    kept = [json.loads(line) for line in (tmp_path / REPLIES).read_text().splitlines()[1:]]
    asked_for = {one["response"]["request"]["messages"][0]["content"] for one in kept}
    assert asked_for == {f"question {number}" for number in range(4)}


def test_bad_replies_are_data_errors_and_leave_no_reply(tmp_path: Path) -> None:
    with serving(lambda *_: Sent(200, b"no")) as server:
        assert isinstance(error_of(config_of(server, max_retries=0), tmp_path), DataError)
    assert (tmp_path / REPLIES).read_text().count("\n") == 1
