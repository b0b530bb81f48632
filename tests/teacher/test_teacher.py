"""Cache, order, budget, dry run and report, with a backend that is a function."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ArtifactError, ConfigError, DataError, RetroError
from retro.common.progress import Progress
from retro.teacher.config import TeacherConfig
from retro.teacher.request import Reply, TeacherRequest, estimated_tokens, key_of, most_tokens, sha256_of
from retro.teacher.script import ScriptBackend
from retro.teacher.teacher import REPLIES, REPORT, Teacher
from tests.teacher.asking import asked, echo, numbered, scripted


class Slow:
    """Finishes what was submitted last first, or in order; some prompts fail. 10 tokens in and 5 out, if it tells."""

    def __init__(
        self, at_once: int = 4, *, fails: tuple[str, ...] = (), tells: bool = True, in_order: bool = False
    ) -> None:
        self.in_order = in_order
        self.model, self.at_once, self.fails, self.tells = "slow", at_once, fails, tells
        self.identity: Mapping[str, Any] = {}
        self.running: deque[tuple[int, TeacherRequest]] = deque()
        self.asked: list[str] = []
        self.most_at_once = 0
        self.closed = False

    def submit(self, request: TeacherRequest) -> int:
        self.asked.append(request.beginning)
        self.running.append((len(self.asked), request))
        self.most_at_once = max(self.most_at_once, len(self.running))
        return len(self.asked)

    def wait(self) -> list[tuple[int, Reply | RetroError]]:
        number, request = self.running.popleft() if self.in_order else self.running.pop()
        if request.beginning in self.fails:
            return [(number, DataError("slow", f"fails at {request.beginning}", "Do not ask it"))]
        tokens = (10, 5) if self.tells else (None, None)
        return [(number, Reply(text=echo(request), input_tokens=tokens[0], output_tokens=tokens[1], retries=1))]

    def close(self) -> None:
        self.closed = True


def slow_teacher(folder: Path, backend: Slow, **settings: Any) -> Teacher:
    return Teacher(backend, TeacherConfig(model="slow", **settings), folder)


PRICES = {"input_price": 100_000.0, "output_price": 200_000.0}
"""10 tokens in and 5 out cost 2."""


def test_replies_come_in_the_order_of_the_requests_whatever_the_order_of_the_backend(tmp_path: Path) -> None:
    backend = Slow(at_once=3)
    with slow_teacher(tmp_path, backend) as teacher:
        texts = [completion.text for completion in teacher.complete_all(numbered(10))]
    assert texts == [f"question {number} / 0" for number in range(10)]
    assert backend.most_at_once == 3
    assert backend.closed


def test_a_second_call_asks_nothing(tmp_path: Path) -> None:
    with slow_teacher(tmp_path, Slow()) as teacher:
        first = list(teacher.complete_all(numbered(5)))
    backend = Slow()
    with slow_teacher(tmp_path, backend) as teacher:
        second = list(teacher.complete_all(numbered(5)))
        assert teacher.complete([{"role": "user", "content": "question 3"}]).text == "question 3 / 0"
    assert backend.asked == []
    assert [one.text for one in second] == [one.text for one in first]
    assert {one.cached for one in first} == {False}
    assert {one.cached for one in second} == {True}
    assert {(one.input_tokens, one.output_tokens, one.model) for one in second} == {(10, 5, "slow")}


def test_equal_requests_are_asked_once(tmp_path: Path) -> None:
    backend = Slow()
    with slow_teacher(tmp_path, backend) as teacher:
        found = list(teacher.complete_all([asked("a"), asked("b"), asked("a")]))
    assert sorted(backend.asked) == ["a", "b"]
    assert [(one.text, one.cached) for one in found] == [("a / 0", False), ("b / 0", False), ("a / 0", True)]


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.5},
        {"max_tokens": 7},
        {"stop": ("\n",)},
        {"messages": ({"role": "system", "content": "Be short."}, {"role": "user", "content": "a"})},
    ],
)
def test_whatever_shapes_a_reply_gives_it_another_key(change: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"messages": ({"role": "user", "content": "a"},)}
    assert key_of(Slow(), TeacherRequest(**settings)) != key_of(Slow(), TeacherRequest(**(settings | change)))


def test_the_key_is_the_sha256_of_canonical_json() -> None:
    shape = '"max_tokens":512,"messages":[{"content":"ä","role":"user"}],"model":"slow","seed":null,"stop":[]'
    wanted = '{"identity":{},' + shape.replace("ä", "\\u00e4") + ',"temperature":0.0}'
    assert json.loads(wanted)["messages"][0]["content"] == "ä"
    assert key_of(Slow(), asked("ä")) == sha256_of(json.loads(wanted))
    assert key_of(Slow(), asked("ä")) == hashlib.sha256(wanted.encode()).hexdigest()


def test_samples_differ_by_their_seed_and_stay_the_same(tmp_path: Path) -> None:
    requests = [asked("a", temperature=1.0, seed=seed) for seed in range(3)]
    with slow_teacher(tmp_path, Slow()) as teacher:
        first = [one.text for one in teacher.complete_all(requests)]
    backend = Slow()
    with slow_teacher(tmp_path, backend) as teacher:
        assert [one.text for one in teacher.complete_all(requests)] == first == ["a / 0", "a / 1", "a / 2"]
    assert backend.asked == []


def test_without_a_draw_the_seed_says_nothing(tmp_path: Path) -> None:
    backend = Slow()
    with slow_teacher(tmp_path, backend) as teacher:
        assert [one.text for one in teacher.complete_all([asked("a", seed=1), asked("a", seed=2)])] == ["a / 1"] * 2
    assert backend.asked == ["a"]


def test_after_an_error_what_was_under_way_is_kept_and_nothing_more_is_asked(tmp_path: Path) -> None:
    backend = Slow(at_once=4, fails=("question 3",))
    got = list[str]()
    with slow_teacher(tmp_path, backend) as teacher, pytest.raises(DataError, match="fails at question 3"):
        got += [one.text for one in teacher.complete_all(numbered(9))]
    assert backend.asked == [f"question {number}" for number in range(4)]
    again = Slow(at_once=4)
    with slow_teacher(tmp_path, again) as teacher:
        assert len(list(teacher.complete_all(numbered(9)))) == 9
        assert teacher.report().cached == 3
    assert again.asked == [f"question {number}" for number in (3, *range(4, 9))]


def test_who_stops_listening_keeps_what_was_under_way(tmp_path: Path) -> None:
    backend = Slow(at_once=4, in_order=True)
    with slow_teacher(tmp_path, backend) as teacher:
        for _ in teacher.complete_all(numbered(9)):
            break
        assert not backend.running
        assert teacher.plan(numbered(9)).cached == 4
    assert backend.asked == [f"question {number}" for number in range(4)]


def test_a_killed_process_loses_no_reply_that_was_written(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from tests.teacher.asking import echo, numbered, scripted

def script(request):
    if request.beginning == "question 6":
        os.kill(os.getpid(), 9)
    return echo(request)

list(scripted(Path(sys.argv[1]), script).complete_all(numbered(10)))
"""
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, env=os.environ, check=False)
    assert killed.returncode == -9
    file = tmp_path / REPLIES
    assert file.read_bytes().count(b"\n") == 7
    # As if the kill had come in the middle of the last line.
    file.write_bytes(file.read_bytes()[:-30])
    called = list[str]()

    def script(request: TeacherRequest) -> str:
        called.append(request.beginning)
        return echo(request)

    with scripted(tmp_path, script) as teacher:
        texts = [one.text for one in teacher.complete_all(numbered(10))]
    assert texts == [f"question {number} / 0" for number in range(10)]
    assert called == [f"question {number}" for number in range(5, 10)]


def test_what_another_process_has_asked_meanwhile_is_not_asked_again(tmp_path: Path) -> None:
    mine, theirs = Slow(at_once=1), Slow()
    with slow_teacher(tmp_path, mine) as one, slow_teacher(tmp_path, theirs) as other:
        replies = one.complete_all(numbered(4))
        next(replies)
        assert len(list(other.complete_all(numbered(3)[1:]))) == 2
        assert [reply.cached for reply in replies] == [False, True, False]
    assert mine.asked == ["question 0", "question 1", "question 3"]


def test_replies_of_another_script_are_not_taken(tmp_path: Path) -> None:
    with scripted(tmp_path, lambda _: "old", identity="1") as teacher:
        assert teacher.complete([{"role": "user", "content": "a"}]).text == "old"
    with scripted(tmp_path, lambda _: "new", identity="2") as teacher:
        assert teacher.complete([{"role": "user", "content": "a"}]).text == "new"
        assert teacher.report().cached == 0


def test_a_folder_of_its_own_for_the_cache_is_shared_by_steps(tmp_path: Path) -> None:
    for step, cached in (("one", 0), ("two", 1)):
        with slow_teacher(tmp_path / step, Slow(), cache=tmp_path / "shared") as teacher:
            teacher.complete([{"role": "user", "content": "a"}])
            assert teacher.report().cached == cached
    assert (tmp_path / "shared" / REPLIES).is_file()
    assert {path.name for path in (tmp_path / "two").iterdir()} == {REPORT}


def test_a_limit_of_requests_counts_all_that_is_kept(tmp_path: Path) -> None:
    for _ in range(2):
        backend, got = Slow(at_once=2), list[str]()
        refused = pytest.raises(ConfigError, match=r"teacher\.max_requests = 5: needs more than the 5 replies .* kept")
        with slow_teacher(tmp_path, backend, max_requests=5) as teacher, refused:
            for one in teacher.complete_all(numbered(9)):
                got.append(one.text)
        assert got == [f"question {number} / 0" for number in range(5)]
        assert teacher.report().kept_replies == 5
    assert backend.asked == []
    with slow_teacher(tmp_path, Slow(), max_requests=9) as teacher:
        assert len(list(teacher.complete_all(numbered(9)))) == 9


def test_the_budget_stops_before_it_could_be_exceeded(tmp_path: Path) -> None:
    # 10 bytes, and 16 for the template: at most 26 tokens in and 6 out, 3.8; it costs 2.
    requests, got = numbered(9, max_tokens=6), list[str]()
    backend = Slow(at_once=8)
    refused = pytest.raises(ConfigError, match=r"teacher\.max_cost = 9\.9: needs more: 8 is spent, .* up to 3\.8; all")
    with slow_teacher(tmp_path, backend, max_cost=9.9, **PRICES) as teacher, refused:
        for one in teacher.complete_all(requests):
            got.append(one.text)
    assert got == [f"question {number} / 0" for number in range(4)]
    assert teacher.report().cost == teacher.report().kept_cost == 8.0
    # Two under way could cost 7.6 together, three 11.4.
    assert backend.most_at_once == 2
    again = Slow()
    refused = pytest.raises(ConfigError, match="8 is spent")
    with slow_teacher(tmp_path, again, max_cost=9.9, **PRICES) as teacher, refused:
        list(teacher.complete_all(requests))
    assert again.asked == []
    assert teacher.report().cost == 0.0


def test_replies_without_a_count_of_tokens_are_charged_the_most_they_can_be(tmp_path: Path) -> None:
    with slow_teacher(tmp_path, Slow(tells=False), **PRICES) as teacher:
        (one,) = teacher.complete_all(numbered(1, max_tokens=6))
        report = teacher.report()
    assert (one.input_tokens, one.output_tokens) == (None, None)
    assert (report.without_usage, report.input_tokens, report.output_tokens) == (1, 26, 6)
    assert report.cost == pytest.approx(3.8)


def test_other_models_in_the_cache_count_for_nothing(tmp_path: Path) -> None:
    with scripted(tmp_path, echo) as teacher:
        list(teacher.complete_all(numbered(4)))
    with slow_teacher(tmp_path, Slow(), max_requests=1) as teacher:
        list(teacher.complete_all(numbered(1)))
        assert teacher.report().kept_replies == 1


def test_a_dry_run_counts_and_asks_nothing(tmp_path: Path) -> None:
    with slow_teacher(tmp_path, Slow()) as teacher:
        list(teacher.complete_all(numbered(2, max_tokens=6)))
    before = (tmp_path / REPLIES).read_bytes()
    backend = Slow()
    teacher = slow_teacher(tmp_path, backend, **PRICES)
    plan = teacher.plan([*numbered(5, max_tokens=6), asked("question 4", max_tokens=6)])
    assert (plan.requests, plan.cached, plan.to_send) == (6, 3, 3)
    # 10 bytes: 3 tokens, and 4 for the message.
    assert (plan.estimated_input_tokens, plan.most_output_tokens) == (21, 18)
    assert plan.estimated_cost == pytest.approx(21 * 0.1 + 18 * 0.2)
    assert backend.asked == []
    assert (tmp_path / REPLIES).read_bytes() == before
    assert slow_teacher(tmp_path, backend).plan([]).estimated_cost is None


def test_tokens_are_estimated_by_bytes() -> None:
    messages = [{"role": "system", "content": "ÄÖ" * 10}, {"role": "user", "content": ""}]
    assert estimated_tokens(messages) == (40 // 4 + 1 + 4) + (1 + 4)
    assert most_tokens(messages) == 40 + 16 + 16


def test_the_report_is_logged_and_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "retro")
    with slow_teacher(tmp_path, Slow(), **PRICES) as teacher:
        list(teacher.complete_all([asked("a"), asked("a"), asked("b")]))
    line = "teacher slow: 2 requests, 1 cached, 20 tokens in, 10 out, 2 retried, cost 4.0000"
    assert f"{line} (4.0000 with all that is kept)" in caplog.messages
    saved = json.loads((tmp_path / REPORT).read_text())
    names = ("requests", "cached", "retried", "empty", "cut", "cost", "kept_replies")
    assert [saved[name] for name in names] == [2, 1, 2, 0, 0, 4.0, 2]


def test_progress_is_told_in_replies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "retro")
    with slow_teacher(tmp_path, Slow()) as teacher:
        list(teacher.complete_all(numbered(3), what="self_rag: labels"))
    assert any(line.startswith("self_rag: labels: 3/3 replies") for line in caplog.messages)


def test_progress_has_the_cost_so_far_and_the_cost_expected(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "retro")
    # A line for each reply, where usually there is one every 15 seconds.
    monkeypatch.setattr(Progress.__init__, "__kwdefaults__", {**(Progress.__init__.__kwdefaults__ or {}), "every_s": 0})
    with slow_teacher(tmp_path, Slow(), **PRICES) as teacher:
        list(teacher.complete_all(numbered(1)))
    with slow_teacher(tmp_path, Slow(at_once=1), **PRICES) as teacher:
        list(teacher.complete_all(numbered(4), what="labels"))
    told = [line.rpartition(", ")[2] for line in caplog.messages if line.startswith("labels:")]
    # The first of the four is there already; each of the others costs 2.
    assert told == ["cost 2.0000 of about 6.0000", "cost 4.0000 of about 6.0000", "cost 6.0000 of about 6.0000"]


def test_a_line_of_something_else_in_the_cache_is_told(tmp_path: Path) -> None:
    slow_teacher(tmp_path, Slow())
    with (tmp_path / REPLIES).open("a") as stream:
        stream.write('{"key": "abc", "response": {"reply": "text"}}\n')
    with pytest.raises(ArtifactError, match=r"teacher_replies\.jsonl: the reply abc… has no request\. Remove the line"):
        slow_teacher(tmp_path, Slow())


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"teacher\.cache = .*: needs a place where files can be written"):
        scripted(tmp_path / "file" / "below", echo)


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": ()},
        {"messages": ({"role": "user"},)},
        {"messages": ({"role": "tool", "content": "a"},)},
        {"messages": ({"role": "assistant", "content": "a"},)},
        {"temperature": -0.1},
        {"max_tokens": 0},
    ],
)
def test_a_request_that_can_not_be_asked_is_a_mistake_of_the_caller(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"messages|message|temperature"):
        TeacherRequest(**({"messages": ({"role": "user", "content": "a"},)} | wrong))


def test_an_error_of_a_script_leaves_what_came_before(tmp_path: Path) -> None:
    def script(request: TeacherRequest) -> str:
        if request.beginning == "question 2":
            raise DataError("script", "knows no question 2", "Add it")
        return echo(request)

    teacher = Teacher(ScriptBackend(script, "x"), TeacherConfig(kind="script", function="a:b"), tmp_path)
    got = list[str]()
    with teacher, pytest.raises(DataError, match="knows no question 2"):
        for one in teacher.complete_all(numbered(4)):
            got.append(one.text)
    assert got == ["question 0 / 0", "question 1 / 0"]
