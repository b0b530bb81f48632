from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro.common.errors import ConfigError
from retro.common.progress import Progress, duration, set_up_logging, show_only
from retro.common.terminal import Table, Terminal, bar_line, complain, one_line, output, styled, visible

HOSTILE = "\x1b[2J\x1b]0;owned\x07 [/url] [b]x[/b] :smile: \u202egnp.exe\u2066 \x9b31m \r\x00 a\tb"
SHOWN = r"\x1b[2J\x1b]0;owned\x07 [/url] [b]x[/b] :smile: \u202egnp.exe\u2066 \x9b31m \r\x00 a"
STEERING = set("\x1b\x07\r\x00\x9b\u202e\u2066\u2028\ud800")


def test_what_would_steer_a_terminal_is_written_out() -> None:
    assert visible(HOSTILE).startswith(SHOWN)
    assert visible("Größe ½ 漢字 שלום 🙂 👨‍👩‍👧\n\t.") == "Größe ½ 漢字 שלום 🙂 👨‍👩‍👧\n\t."
    assert visible("a\r\nb\rc\udcff\u2028") == "a\nb\\rc\\udcff\\u2028"
    assert one_line("x\nretro: all is well\t!") == r"x\nretro: all is well !"


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_nothing_that_steers_is_left_of_any_text(text: str) -> None:
    shown = visible(text)
    assert not any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c in STEERING for c in shown)
    shown.encode("utf-8")


def test_every_way_to_print_shows_a_hostile_text_as_it_stands() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream, width=400)
    table = Table(title=HOSTILE, caption=HOSTILE, rules="all")
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(styled((HOSTILE, "bold"), HOSTILE))
    terminal.say(HOSTILE, styled((HOSTILE, "red")))
    terminal.wrap(HOSTILE)
    terminal.table(table)
    terminal.panel(HOSTILE, title=HOSTILE, foot=HOSTILE)
    terminal.rule(HOSTILE)
    terminal.stream_text(HOSTILE)
    terminal.json({HOSTILE: HOSTILE})
    text = stream.getvalue()
    assert not STEERING & set(text)
    # say 2, wrap 1, table 6, panel 3, rule 1, stream 1; JSON spells them its own way.
    assert text.count(SHOWN) == 14


def test_a_path_keeps_its_brackets_and_is_not_broken() -> None:
    stream = io.StringIO()
    Terminal(stream, width=20).say("exported: x/[v2]/" + "long/" * 10)
    assert stream.getvalue() == "exported: x/[v2]/" + "long/" * 10 + "\n"


def test_styles_reach_only_a_terminal_that_has_them() -> None:
    stream = io.StringIO()
    Terminal(stream).say(styled(("done", "green"), "."))
    assert stream.getvalue() == "done.\n"


def test_an_error_is_one_line_whatever_it_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    complain("a\x1b[1mb\n\n  c: bad\u202e")
    assert capsys.readouterr().err == "retro: a\\x1b[1mb c: bad\\u202e\n"


@pytest.fixture
def logging_as_before() -> object:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    logging.getLogger("retro").setLevel(logging.NOTSET)
    Progress.drawn = False


@pytest.mark.usefixtures("logging_as_before")
def test_a_log_record_is_one_line_that_steers_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(file=tmp_path / "log")
    logging.getLogger("retro.x").info("%s", "a\x1b[1m\nretro: b")
    logging.getLogger("other").error("c\x9b")
    logging.getLogger("other").info("of no interest")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [r"INFO retro.x: a\x1b[1m\nretro: b", r"ERROR other: c\x9b"]
    assert (tmp_path / "log").read_text().splitlines() == lines


@pytest.mark.usefixtures("logging_as_before")
def test_quiet_is_for_the_terminal_and_not_for_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(quiet=True, file=tmp_path / "log")
    logging.getLogger("retro.x").info("said")
    logging.getLogger("retro.x").warning("warned")
    assert [line[-6:] for line in capsys.readouterr().err.splitlines()] == ["warned"]
    assert [line[-4:] for line in (tmp_path / "log").read_text().splitlines()] == ["said", "rned"]


@pytest.mark.usefixtures("logging_as_before")
def test_a_log_file_that_cannot_be_written_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger().handlers.clear()  # as when a command begins
    with pytest.raises(ConfigError, match=r"--log-file = .*: cannot be written"):
        set_up_logging(file=tmp_path / "absent" / "log")
    # As the command line does after it has printed the line.
    logging.getLogger("retro.x").error("cannot be written", extra={"printed": True})
    assert capsys.readouterr().err == ""


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("logging_as_before")
def test_on_a_terminal_a_line_stands_above_the_bar_which_goes_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "60")
    set_up_logging()
    with Progress(4, what="db", unit="blocks") as bar:
        logging.getLogger("retro.x").warning("look [/b]")
        bar.advance(4)
    drawn, rest = screen.getvalue().split("warning: look [/b]\n")
    assert drawn.startswith("\r\x1b[Kdb [")
    assert drawn.endswith("0/4 blocks, 0.0/s\r\x1b[K") or "0/4 blocks" in drawn
    assert rest.startswith("db: 4/4 blocks, ")


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (80, "pretrain retro [##########....................] 40/120 steps, 3.1/s, 26 s left"),
        (60, "pretrain retro [####.......] 40/120 steps, 3.1/s, 26 s left"),
        (50, "pretrain retro 40/120 steps, 3.1/s, 26 s left"),
        (40, "pretrain retro 40/120 steps, 3.1/s"),
        (12, "pretrain r…"),
    ],
)
def test_a_bar_fits_any_width(width: int, line: str) -> None:
    shown = bar_line(what="pretrain retro", share=1 / 3, facts=["40/120 steps", "3.1/s", "26 s left"], width=width)
    assert len(shown) < width
    assert shown == line


def test_the_loss_has_room_beside_the_bar_at_80_columns() -> None:
    facts = ["600/1,000 steps", "385.7/s", "1.0 s left", "loss 5.879", "lr 6.0e-05", "1742 tokens/s"]
    shown = bar_line(what="pretrain retro", share=0.6, facts=facts, width=80)
    assert shown == "pretrain retro [########.....] 600/1,000 steps, 385.7/s, 1.0 s left, loss 5.879"


@pytest.mark.usefixtures("logging_as_before")
def test_a_command_can_show_some_modules_alone_while_the_file_gets_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_up_logging(file=tmp_path / "log")
    show_only("retro.run.documents")
    for name, level in (
        ("retro.run.documents", logging.INFO),
        ("retro.db", logging.INFO),
        ("retro.db", logging.WARNING),
    ):
        logging.getLogger(name).log(level, "%s at %d", name, level)
    shown = [line.split(" ", 2)[2] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["INFO retro.run.documents: retro.run.documents at 20", "WARNING retro.db: retro.db at 30"]
    assert len((tmp_path / "log").read_text().splitlines()) == 3


def test_a_duration_is_said_in_the_unit_that_fits() -> None:
    assert [duration(s) for s in (0.25, 48, 119, 120, 7199, 7200)] == [
        "0.2 s",
        "48 s",
        "119 s",
        "2 min",
        "120 min",
        "2.0 h",
    ]


def test_what_an_encoding_lacks_is_no_error() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    Terminal(stream).say("± [v2]")
    stream.flush()
    assert stream.buffer.getvalue() == b"\\xb1 [v2]\n"


def test_the_output_of_commands_is_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    output.say("x")
    assert capsys.readouterr() == ("x\n", "")
