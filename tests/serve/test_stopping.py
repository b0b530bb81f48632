"""A server in a process of its own, and the signals that end it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path

import pytest

from tests.serve.fake_engine import fake_answer

ROOT = Path(__file__).parents[2]


class Process:
    """A running server, its log read line by line."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-m", "tests.serve.fake_server", "port=0", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        self.port = int(self.until(r"http://127.0.0.1:(\d+)"))

    def until(self, pattern: str) -> str:
        """Read the log up to a line that has the pattern; its group."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(pattern, line):
                return found.group(found.re.groups)
        raise EOFError("".join(self.log))

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """The exit status."""
        assert self.process.stderr is not None
        self.log += list(self.process.stderr)
        return self.process.wait(timeout=60)


@contextmanager
def process(*words: str) -> Iterator[Process]:
    found = Process(*words)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait(timeout=60)
        assert found.process.stderr is not None
        found.process.stderr.close()


class RequestThread:
    """A request on a thread of its own."""

    def __init__(self, port: int, prompt: str, *, tokens: int = 60, stream: bool = False) -> None:
        self.prompt, self.tokens, self.stream = prompt, tokens, stream
        self.status, self.text = 0, ""
        self.begun = threading.Event()
        self._connection = HTTPConnection("127.0.0.1", port, timeout=60)
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        body = {"prompt": self.prompt, "max_tokens": self.tokens, "seed": 1, "stream": self.stream}
        head = {"Content-Type": "application/json"}
        self._connection.request("POST", "/v1/completions", json.dumps(body), head)
        answered = self._connection.getresponse()
        self.begun.set()
        self.status = answered.status
        try:
            self.text = answered.read().decode()
        except IncompleteRead:
            self.text = "cut off"
        self._connection.close()

    def wait(self) -> None:
        self._thread.join(timeout=60)
        self.begun.set()

    def answer(self) -> str:
        self.wait()
        if not self.stream:
            text: str = json.loads(self.text)["choices"][0]["text"]
            return text
        assert self.text.endswith("data: [DONE]\n\n")
        lines = [line.removeprefix("data: ") for line in self.text.split("\n\n")[:-2]]
        return "".join(json.loads(line)["choices"][0]["text"] for line in lines)

    @property
    def expected(self) -> str:
        return fake_answer(tuple(self.prompt.encode()), 1).encode()[: self.tokens].decode(errors="replace")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_every_accepted_answer_finish_and_refuses_new_ones(number: int) -> None:
    with process("step_seconds=0.02", "max_running=4") as server:
        # The first streams, so that it is known to have been accepted; the others are behind it, some waiting.
        first = RequestThread(server.port, "first", tokens=120, stream=True)
        first.begun.wait(timeout=60)
        others = [RequestThread(server.port, f"other {n}", tokens=20, stream=n % 2 == 0) for n in range(8)]
        while waiting(server.port) < 1:
            pass
        server.stop(number)
        told = int(server.until(r"stopping: (\d+) accepted answers to finish"))
        late = RequestThread(server.port, "late")
        late.wait()
        assert (late.status, json.loads(late.text)["error"]["code"]) == (503, "stopping")
        for one in (first, *others):
            one.wait()
        finished = [one for one in (first, *others) if one.status == 200]
        assert len(finished) >= told
        assert [one.answer() for one in finished] == [one.expected for one in finished]
        # What was not accepted was told so: nobody is left without an answer.
        assert {one.status for one in others} <= {200, 503}
        assert server.ended() == 0
        assert "every accepted answer is finished" in server.log[-1]


def waiting(port: int) -> int:
    """Answers that wait to begin."""
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/health")
    found: int = json.loads(connection.getresponse().read())["waiting"]
    connection.close()
    return found


def test_answers_that_outlast_the_grace_end_in_an_error_and_the_server_ends() -> None:
    with process("step_seconds=0.05", "grace_seconds=0.2") as server:
        slow = [
            RequestThread(server.port, "slow", tokens=300, stream=True),
            RequestThread(server.port, "slow", tokens=300),
        ]
        slow[0].begun.wait(timeout=60)
        server.stop()
        for one in slow:
            one.wait()
        assert '"code":"engine_failed"' in slow[0].text
        assert slow[0].text.endswith("data: [DONE]\n\n")
        assert slow[1].status in (500, 503)
        assert server.ended() == 0
        assert any("were not finished in 0.2 s" in line for line in server.log)


def test_a_second_signal_ends_it_at_once() -> None:
    with process("step_seconds=0.05") as server:
        slow = RequestThread(server.port, "slow", tokens=300, stream=True)
        slow.begun.wait(timeout=60)
        server.stop()
        server.until("stopping: 1 accepted")
        server.stop(signal.SIGINT)
        assert server.ended() == 128 + signal.SIGINT
        slow.wait()
        assert slow.text == "cut off"


def test_a_key_is_never_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRO_API_KEY", "sk-0123456789")
    with process() as server:
        asking = RequestThread(server.port, "a")
        asking.wait()
        assert asking.status == 401
        server.stop()
        assert server.ended() == 0
        assert "sk-0123456789" not in "".join(server.log)
