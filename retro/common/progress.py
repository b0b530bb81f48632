"""Log set-up and progress: one line for people on a terminal, with a redrawn bar; dated lines in a file or a pipe."""

from __future__ import annotations

import copy
import logging
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar, TypeVar

from retro.common.errors import ConfigError
from retro.common.terminal import bar_line, one_line, visible

T = TypeVar("T")

log = logging.getLogger(__name__)
_REDRAW_S = 0.1
_DATED = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LEVELS = {logging.WARNING: "warning: ", logging.ERROR: "error: ", logging.CRITICAL: "error: "}


def set_up_logging(*, verbose: bool = False, quiet: bool = False, rank: int = 0, file: Path | None = None) -> None:
    """Send the log to stderr, and to a file. Called once, by the command line.

    Args:
        verbose: Say more.
        quiet: On stderr only warnings, and no progress.
        rank: Ranks above 0 speak only of warnings, on stderr.
        file: Gets everything, whether `quiet` or not; what it holds is kept.

    Raises:
        ConfigError: The file cannot be written.
    """
    level = logging.WARNING if rank else logging.DEBUG if verbose else logging.INFO
    terminal = sys.stderr.isatty()
    screen = _BesideBars()
    screen.setFormatter(_ForPeople() if terminal and not verbose else _Visible(_DATED))
    screen.addFilter(lambda record: not getattr(record, "printed", False))
    screen.setLevel(logging.WARNING if quiet else level)
    # Before the file: without a handler, logging itself prints what is wrong with it.
    logging.basicConfig(level=logging.WARNING, handlers=[screen], force=True)
    logging.getLogger("retro").setLevel(level)
    if file is not None and not rank:
        try:
            beside = logging.FileHandler(file, encoding="utf-8")
        except OSError as error:
            raise ConfigError("--log-file", str(file), f"cannot be written ({error.strerror})") from None
        beside.setFormatter(_Visible(_DATED))
        logging.getLogger().addHandler(beside)
    Progress.drawn = terminal and not quiet and not rank


def show_only(*modules: str) -> None:
    """On stderr, show only warnings and what these modules say, unless more is asked for; a log file gets everything.

    Args:
        modules: Names of loggers.
    """
    if logging.getLogger("retro").isEnabledFor(logging.DEBUG):
        return
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _BesideBars):
            handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name in modules)


class _Visible(logging.Formatter):
    """Each message is one line, and nothing in it steers a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        shown = copy.copy(record)
        shown.msg, shown.args = one_line(record.getMessage()), ()
        return visible(super().format(shown))


class _ForPeople(_Visible):
    """The message alone, with a word before it where something is wrong."""

    def format(self, record: logging.LogRecord) -> str:
        return _LEVELS.get(record.levelno, "") + super().format(record)


class _BesideBars(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes lines above the bar that is being drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        Progress.clear()
        # The one of now: whoever captures what is written puts another stream in its place, and closes it later.
        self.stream = sys.stderr
        super().emit(record)


class Progress:
    """Counts units of work; shows count, rate and time left.

    Use as a context manager and call `advance`. The rate is over work done here, so `done` (work found finished
    on a resume) must be given apart or the time left is wrong.
    """

    drawn: ClassVar[bool] = False
    """Whether a bar is drawn; else a line is logged now and then."""
    _on_screen: ClassVar[bool] = False

    def __init__(self, total: int, *, what: str, unit: str, done: int = 0, every_s: float = 15.0) -> None:
        self.total, self.what, self.unit, self.every_s = total, what, unit, every_s
        self.start_count = self.count = done
        self.note = ""
        self.started = self.last_line = self.last_drawn = time.monotonic()

    def __enter__(self) -> Progress:
        if self.drawn:
            self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        if self.count > self.start_count:
            log.info(self.line())

    def advance(self, by: int = 1, note: str = "") -> None:
        """Record `by` more finished units, with a short note such as the loss."""
        self.count += by
        self.note = note
        now = time.monotonic()
        if self.drawn:
            if now - self.last_drawn >= _REDRAW_S:
                self._draw()
        elif now - self.last_line >= self.every_s and self.count < self.total:
            self.last_line = now
            log.info(self.line())

    def found(self, by: int) -> None:
        """Record `by` more units that somebody else has finished: they count, but not for the rate."""
        self.start_count += by
        self.count += by

    def line(self) -> str:
        """`db: 412/1280 blocks, 3.1/s, 280 s left`; at the end the seconds that it took."""
        return f"{self.what}: {', '.join(self._facts())}"

    def _facts(self) -> list[str]:
        elapsed = max(time.monotonic() - self.started, 1e-9)
        rate = (self.count - self.start_count) / elapsed
        shown = f"{rate:,.1f}/s" if rate >= 0.1 else f"{rate:.2g}/s"
        if self.count >= self.total:
            left = [f"{duration(elapsed)}"]
        else:
            left = [f"{duration((self.total - self.count) / rate)} left"] if rate > 0 else []
        counted = f"{self.count:,}/{self.total:,} {self.unit}"
        return [counted, shown, *left, *(self.note.split(", ") if self.note else [])]

    def _draw(self) -> None:
        self.last_drawn = time.monotonic()
        share = self.count / self.total if self.total else 1.0
        sys.stderr.write(f"\r\x1b[K{bar_line(what=self.what, share=share, facts=self._facts())}")
        sys.stderr.flush()
        Progress._on_screen = True

    @classmethod
    def clear(cls) -> None:
        """Remove the bar from the terminal; the next `advance` draws it again."""
        if cls._on_screen:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            Progress._on_screen = False


def duration(seconds: float) -> str:
    """`48 s`, `12 min`, `3.4 h`."""
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 2:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"


def human_size(size: float) -> str:
    """Bytes in a unit that keeps the number small, of 1000: 1.37 TB."""
    units = ("B", "kB", "MB", "GB", "TB", "PB")
    step = 0
    while size >= 1000 and step < len(units) - 1:
        size, step = size / 1000, step + 1
    return f"{size:.3g} {units[step]}"


def progress(items: Iterable[T], *, total: int, what: str, unit: str, every_s: float = 15.0) -> Iterator[T]:
    """Yield `items`, showing progress.

    Args:
        items: The work left to do. Finished work must already be taken out, or the rate is wrong.
        total: How many there are.
        what: The stage, as the user typed it.
        unit: What one item is, in the plural.
        every_s: Seconds between two lines in a log file.
    """
    with Progress(total, what=what, unit=unit, every_s=every_s) as bar:
        for item in items:
            yield item
            bar.advance()
