"""The terminal: the only place that prints. Users' texts, paths and names are shown as they are and steer nothing.

A corpus, a question or a file name may hold escape sequences, characters that turn the direction of writing, or what
a library for terminals takes for markup (`[/url]`, `:smile:`). Everything that is printed goes through `visible`, and
nothing is ever parsed as markup.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO

# Control characters of ASCII and of Latin-1 (ESC, BEL, CR, CSI …) but for line end and tab, marks that change the
# direction of writing, line and paragraph separators, and halves of surrogate pairs, which cannot be encoded.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

Align = Literal["left", "right"]
Rules = Literal["none", "head", "ends", "all"]


def visible(text: str) -> str:
    r"""The text with every character that would steer a terminal written out (`\x1b`); line ends and tabs stay."""
    return _STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    r"""As `visible`, with line ends and tabs written out too: no text can begin a line that seems to be another's."""
    return visible(text).replace("\n", r"\n").replace("\t", " ")


class Styled(tuple[tuple[str, str], ...]):
    """Pieces of a text, each with a style of rich such as `bold red`; an empty style is plain."""

    __slots__ = ()


def styled(*parts: str | tuple[str, str] | Styled) -> Styled:
    """Join texts, texts with a style, and what this function gave before."""
    pieces: list[tuple[str, str]] = []
    for part in parts:
        pieces += part if isinstance(part, Styled) else [(part, "")] if isinstance(part, str) else [part]
    return Styled(pieces)


Cell = str | Styled


@dataclass
class Table:
    """A table to print: cells are texts, never markup."""

    title: str = ""
    caption: str = ""
    rules: Rules = "head"
    """Lines: none, below the headings, above and below too, or around all cells."""
    wide: bool = False
    """Whether it takes the whole width."""
    columns: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    rows: list[tuple[tuple[Cell, ...], str]] = field(default_factory=list)
    sections: set[int] = field(default_factory=set)
    """A line is drawn below these rows."""

    def add_column(
        self,
        heading: str,
        *,
        align: Align = "left",
        whole: bool = False,
        fold: bool = False,
        cut: bool = False,
        width: int | None = None,
        share: int | None = None,
    ) -> None:
        """Add a column.

        Args:
            heading: Its name.
            align: Of its cells.
            whole: Never break a cell into lines.
            fold: Break words that are longer than the column.
            cut: Show one line of each cell, as much as there is room for.
            width: Characters; None: as its cells need.
            share: Of the width that is left, relative to other columns'.
        """
        overflow = "fold" if fold else "ellipsis"
        options = {"justify": align, "no_wrap": whole or cut, "overflow": overflow, "width": width, "ratio": share}
        self.columns.append((heading, options))

    @classmethod
    def of_numbers(cls, title: str, first: str, *others: str) -> Table:
        """A ruled table whose columns after the first hold numbers."""
        table = cls(title=title, rules="all")
        table.add_column(first)
        for name in others:
            table.add_column(name, align="right")
        return table

    def add_row(self, *cells: Cell, style: str = "") -> None:
        """Add a row; `style` is for all of its cells."""
        self.rows.append((cells, style))

    def end_section(self) -> None:
        """Draw a line below the last row."""
        self.sections.add(len(self.rows) - 1)


class Terminal:
    """Prints to one stream. Colors only where it is a terminal."""

    def __init__(self, stream: TextIO | None = None, *, width: int | None = None) -> None:
        """Print to `stream`, standard output without one; `width` in characters, the terminal's own without one."""
        self._stream, self.width = stream, width
        self._made: Any = None

    @property
    def _console(self) -> Any:
        # When it is first needed: importing rich takes a tenth of a second, which most commands need not spend.
        wanted = self.width, os.environ.get("COLUMNS")
        if self._made is None or self._made[0] != wanted:
            from rich.console import Console

            console = Console(file=self._stream, width=self.width, markup=False, emoji=False, highlight=False)
            self._made = wanted, console
        return self._made[1]

    @property
    def columns(self) -> int:
        """Characters in a line."""
        return int(self._console.width)

    def say(self, *lines: Cell, style: str = "", end: str = "\n") -> None:
        """Print lines; none is broken, so that a path can be copied."""
        for line in lines or ("",):
            self._console.print(_text(line, style), soft_wrap=True, end=end)

    def wrap(self, text: Cell, style: str = "") -> None:
        """Print a paragraph, broken into lines as wide as the terminal."""
        self._console.print(_text(text, style))

    def table(self, *tables: Table) -> None:
        """Print tables."""
        for table in tables:
            self._console.print(_rich_table(table))

    def panel(self, text: str, *, title: str, foot: str = "", style: str = "none") -> None:
        """Print a text in a box."""
        from rich.panel import Panel

        sides = {"title": _text(title), "subtitle": _text(foot) if foot else None, "border_style": style}
        self._console.print(Panel(_text(text), title_align="left", subtitle_align="left", **sides))

    def rule(self, title: str) -> None:
        """Print a line with a title."""
        from rich.rule import Rule

        self._console.print(Rule(_text(title), align="left"))

    def stream_text(self, text: str) -> None:
        """Print a piece of a growing text at once."""
        stream = self._stream or sys.stdout
        stream.write(visible(text))
        stream.flush()

    def json(self, value: object) -> None:
        """Print a value for machines; JSON writes control characters out itself."""
        stream = self._stream or sys.stdout
        stream.write(json.dumps(value, indent=2) + "\n")


output = Terminal()
"""What a command is asked for; the log goes to standard error."""


def complain(text: str) -> None:
    """Print one line to standard error: why a command ends."""
    sys.stderr.write(f"retro: {one_line(' '.join(text.split()))}\n")
    sys.stderr.flush()


def never_fail_to_encode() -> None:
    r"""Have both streams write what their encoding lacks as `\u…` instead of failing in the middle of a table."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def bar_line(*, what: str, share: float, facts: Sequence[str], width: int | None = None) -> str:
    """One line with a bar that fits any width: facts are dropped from the end, then the bar, then letters.

    Args:
        what: What is under way.
        share: Done, 0 to 1.
        facts: From the most to the least important.
        width: Characters; None: the terminal's.
    """
    width = (width or shutil.get_terminal_size().columns) - 1
    kept = list(facts)
    bar = 13 if width > 58 else 0
    while len(kept) > 1 and len(_joined(what, kept)) > width - bar:
        kept.pop()
    text = _joined(what, kept)
    room = min(width - len(text) - 3, 30)
    if room >= 5:
        done = round(room * min(max(share, 0.0), 1.0))
        text = f"{what} [{'#' * done}{'.' * (room - done)}] {', '.join(kept)}"
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"


def _joined(what: str, facts: Sequence[str]) -> str:
    return f"{what} {', '.join(facts)}"


def _text(cell: Cell, style: str = "") -> Any:
    from rich.text import Text

    pieces = cell if isinstance(cell, Styled) else ((cell, ""),)
    text = Text(style=style)
    for piece, own in pieces:
        text.append(visible(piece).expandtabs(), style=own or None)
    return text


def _rich_table(table: Table) -> Any:
    from rich import box
    from rich.table import Table as RichTable

    boxes = {"none": None, "head": box.SIMPLE_HEAD, "ends": box.HORIZONTALS, "all": box.HEAVY_HEAD}
    made = RichTable(
        title=_text(table.title, "table.title") if table.title else None,
        title_justify="left",
        caption=_text(table.caption, "table.caption") if table.caption else None,
        caption_justify="left",
        box=boxes[table.rules],
        pad_edge=table.rules in ("ends", "all"),
        padding=(0, 2, 0, 0) if table.rules == "none" else (0, 1),
        show_lines=table.rules == "all" and table.wide,
        expand=table.wide,
    )
    for heading, options in table.columns:
        made.add_column(_text(heading), **options)
    for number, (cells, style) in enumerate(table.rows):
        made.add_row(*map(_text, cells), style=style or None, end_section=number in table.sections)
    return made
