"""The training log: one JSON object a line, shown on boards when asked for. A resumed run cuts off what it repeats."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from retro.common import own_checksum
from retro.common.files import atomic_path, failed_writes_are_artifact_errors, read_json_lines
from retro.training.boards import Board


class TrainingLog:
    """Appends to `log.jsonl`; each line is on disk before the next step starts. `path` None keeps nothing."""

    def __init__(self, path: Path | None, *, resumed_step: int, boards: Sequence[Board] = ()) -> None:
        self._stream: TextIO | None = None
        if path is not None:
            keep_lines_up_to(path, resumed_step)
            self._stream = path.open("a", encoding="utf-8")
        self._boards = boards

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
        for board in self._boards:
            board.close()

    def write(self, **values: float | int | str) -> None:
        """Append one line; `step` must be among the values."""
        if self._stream is None:
            return
        with failed_writes_are_artifact_errors(Path(self._stream.name)):
            self._stream.write(own_checksum.line(values))
            self._stream.flush()
            os.fsync(self._stream.fileno())
        numbers = {name: value for name, value in values.items() if name != "step" and not isinstance(value, str)}
        for board in self._boards:
            board.add(int(values["step"]), numbers)


def keep_lines_up_to(path: Path, step: int) -> None:
    """Drop lines after `step`, and a last line that a kill cut short."""
    kept = [own_checksum.line(line) for line in read_log(path) if line["step"] <= step]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")


def read_log(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a log; an absent file is an empty log.

    Raises:
        ArtifactError: A line was changed after it was written.
    """
    if not path.exists():
        return []
    return read_json_lines(path, f"Delete {path}: it only says how training went")
