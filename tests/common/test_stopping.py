from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEGIN = """
import sys, threading, time
from retro.common.stopping import Stopped, end, handle_signals
def announce(number):
    sys.stderr.write(f"announce {number}\\n")
handle_signals(announce)
"""
WAIT = """
try:
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("tidied up", flush=True)
except Stopped as stopped:
    end(stopped.number, announce)
"""


def told(code: str, *numbers: int, ready: str = "ready", ignored: bool = False) -> tuple[int, str, str]:
    """Exit code, output and errors of a program that gets signals, each after it has said that it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None,
    )
    assert process.stdout is not None
    said = ""
    for number in numbers:
        while ready not in (line := process.stdout.readline()):
            said += line
        said += line
        process.send_signal(number)
    rest, errors = process.communicate(timeout=60)
    return process.returncode, said + rest, errors


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_program_after_it_tidied_up_and_said_why(number: int, code: int) -> None:
    assert told(WAIT, number) == (code, "ready\ntidied up\n", f"announce {number}\n")


def test_what_does_not_come_to_an_end_is_ended() -> None:
    stuck = WAIT.replace('print("tidied up", flush=True)', "time.sleep(600)")
    assert told(stuck, signal.SIGTERM) == (143, "ready\n", f"announce {signal.SIGTERM}\n")


def test_pressing_ctrl_c_twice_ends_at_once() -> None:
    patient = "import retro.common.stopping as stopping\nstopping.GRACE_S = 600\n" + WAIT
    slow = patient.replace('print("tidied up", flush=True)', 'print("ready again", flush=True); time.sleep(600)')
    assert told(slow, signal.SIGINT, signal.SIGINT) == (130, "ready\nready again\n", f"announce {signal.SIGINT}\n")


def test_no_thread_of_a_library_holds_the_end_up() -> None:
    thread = "threading.Thread(target=time.sleep, args=(600,)).start()\n"
    assert told(thread + WAIT, signal.SIGINT)[0] == 130


def test_a_signal_that_arrives_in_a_destructor_leaves_no_trace() -> None:
    dying = """
class Dying:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(60)
one = Dying()
del one
time.sleep(60)
"""
    assert told(dying, signal.SIGTERM) == (143, "ready\n", f"announce {signal.SIGTERM}\n")


def test_an_error_handler_does_not_take_a_signal_for_an_error() -> None:
    swallowing = WAIT.replace("    finally:", "    except Exception:")
    assert told(swallowing, signal.SIGTERM) == (143, "ready\n", f"announce {signal.SIGTERM}\n")


def test_a_signal_that_the_parent_ignores_stays_ignored() -> None:
    # As Ctrl-C is for a job in the background.
    short = WAIT.replace("time.sleep(60)", "time.sleep(0.3)")
    assert told(short, signal.SIGINT, ignored=True) == (0, "ready\ntidied up\n", "")
