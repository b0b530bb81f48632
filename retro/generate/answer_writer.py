"""Writing answers so that a killed run continues where it stopped, and slices that join to the whole.

Beside each answer file stands a header that says what made it; answers of two configs are never mixed in one
file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.errors import ArtifactError
from retro.common.files import atomic_path, failed_writes_are_artifact_errors, read_json, write_json
from retro.generate.config import GenerateConfig, current_names
from retro.qa.answer_files import Answer, answer_line, read_answers

_REDO = "Use another run_dir, or delete it to answer again"


def answer_path(directory: Path, setting: str, start: int, count: int, total: int) -> Path:
    """`<setting>.jsonl` for all questions, `<setting>_<start>_<count>.jsonl` for a slice."""
    whole = start == 0 and count == total
    return directory / (f"{setting}.jsonl" if whole else f"{setting}_{start}_{count}.jsonl")


def header_path(path: Path) -> Path:
    """The header beside an answer file."""
    return path.with_suffix(".header.json")


class AnswerFile:
    """An answer file that grows batch by batch.

    Opening an unfinished one keeps its whole batches: a batch is answered again as a whole, so that the
    finished file has the same bytes as that of an unbroken run.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], ids: Sequence[str], batch_size: int) -> None:
        """Open or continue.

        Args:
            path: The answer file.
            header: What shapes the answers: config, checkpoint, questions.
            ids: The questions that will be answered, in order.
            batch_size: Answers of one `append`, the last excepted.

        Raises:
            ArtifactError: The file was begun with another header, has none, or holds other questions.
        """
        self.path, self.ids = path, tuple(ids)
        _check_header(path, header)
        self.done = self._keep_whole_batches(batch_size)

    def append(self, answers: Sequence[Answer]) -> None:
        """Write one batch and wait until it is on the disk."""
        expected = list(self.ids[self.done : self.done + len(answers)])
        if [answer.id for answer in answers] != expected:
            raise ValueError(f"{self.path}: answers {[a.id for a in answers]}, the next questions are {expected}")
        data = "".join(answer_line(answer) for answer in answers).encode()
        with failed_writes_are_artifact_errors(self.path), self.path.open("ab") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        self.done += len(answers)

    @property
    def complete(self) -> bool:
        """Whether every question has its answer."""
        return self.done == len(self.ids)

    def _keep_whole_batches(self, batch_size: int) -> int:
        if not self.path.exists():
            return 0
        data = self.path.read_bytes()
        lines = data.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            # The kill came while this line was written.
            lines.pop()
        kept = len(lines) if len(lines) == len(self.ids) else len(lines) // batch_size * batch_size
        size = sum(len(line) for line in lines[:kept])
        if size < len(data):
            os.truncate(self.path, size)
        found = [answer.id for answer in read_answers(self.path)]
        if found != list(self.ids[:kept]):
            raise ArtifactError(self.path, f"answers the questions {_ends(found)}, not {_ends(self.ids[:kept])}", _REDO)
        return kept


def _ends(ids: Sequence[str]) -> str:
    return f"{ids[0]} … {ids[-1]} ({len(ids)})" if ids else "(none)"


def _check_header(path: Path, header: Mapping[str, Any]) -> None:
    beside = header_path(path)
    if not beside.exists():
        if path.exists():
            raise ArtifactError(path, f"has no {beside.name} that says what made it", _REDO)
        write_json(beside, dict(header))
        return
    # What an older toolkit did not have.
    added = {"add_special_tokens": "auto"}
    known, header = added | current_names(read_json(beside, _REDO)), added | dict(header)
    if known != header:
        keys = sorted(key for key in {*known, *header} if known.get(key) != header.get(key))
        changes = "; ".join(f"{key} was {_short(known.get(key))}, now {_short(header.get(key))}" for key in keys[:3])
        raise ArtifactError(path, f"was begun with other settings: {changes}", _REDO)


def begun_precision(directory: Path) -> str | None:
    """What the first answer file of a stage was computed in; None where there is none yet."""
    for beside in sorted(directory.glob("*.header.json")):
        header = current_names(read_json(beside, _REDO))
        if isinstance(header, dict) and "precision" in header:
            return str(header["precision"])
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def join_slices(directory: Path, setting: str, ids: Sequence[str]) -> Path:
    """Join the slices of a setting to `<setting>.jsonl`.

    Args:
        directory: Holds the slices.
        setting: Whose slices.
        ids: All questions, in order.

    Raises:
        ArtifactError: A slice is missing, unfinished, overlaps another, or was made by other settings.
    """
    target = directory / f"{setting}.jsonl"
    slices = _slices(directory, setting)
    headers = [_common_header(path) for _, _, path in slices]
    end, lines = 0, []
    for (start, count, path), header in zip(slices, headers, strict=True):
        if start != end:
            problem = f"begins at question {start}, the slices before it end at {end}"
            raise ArtifactError(path, problem, "Answer the gap, or delete the slice that overlaps")
        if header != headers[0]:
            raise ArtifactError(path, f"was made by other settings than {slices[0][2].name}", _REDO)
        answers = read_answers(path)
        if [answer.id for answer in answers] != list(ids[start : start + count]):
            problem = f"answers {len(answers)} questions, {_ends([a.id for a in answers])}"
            raise ArtifactError(path, f"{problem}; needs {_ends(ids[start : start + count])}", "Finish this slice")
        lines += [answer_line(answer) for answer in answers]
        end += count
    if end != len(ids):
        raise ArtifactError(target, f"its slices hold {end} of {len(ids)} questions", f"Answer from {end} on")
    write_json(header_path(target), headers[0] | {"start": 0, "count": len(ids)})
    with atomic_path(target) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    return target


def _slices(directory: Path, setting: str) -> list[tuple[int, int, Path]]:
    pattern = re.compile(rf"{re.escape(setting)}_(\d+)_(\d+)\.jsonl")
    found = []
    for path in sorted(directory.glob(f"{setting}_*.jsonl")):
        match = pattern.fullmatch(path.name)
        if match:
            found.append((int(match[1]), int(match[2]), path))
    return sorted(found)


def _common_header(path: Path) -> dict[str, Any]:
    header: dict[str, Any] = current_names(read_json(header_path(path), _REDO))
    return {key: value for key, value in header.items() if key not in ("start", "count")}


def write_plain(answers: Path, out: Path) -> Path:
    """Write predictions in the form of the original tools: one line per question, line breaks turned to
    spaces."""
    lines = [" ".join(answer.prediction.split()) + "\n" for answer in read_answers(answers)]
    with atomic_path(out) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    return out


def plain_name(config: GenerateConfig, task: str, model: str, setting: str, bounds: tuple[int, int]) -> str:
    """The name that the original tools give a file of answers; with the setting, where they know none.

    Args:
        config: The run's settings.
        task: The task's name.
        model: The checkpoint's size and step, as `843m` and `1000`, joined by a blank.
        setting: What was read.
        bounds: First question, number of questions.
    """
    size, _, step = model.partition(" ")
    parts = [task, config.contexts_in_prompt, config.passages, size, config.split, config.sampling.tag, *bounds, step]
    if setting != "with_passages":
        parts.append(setting)
    return f"retro-generate-{'_'.join(map(str, parts))}.txt"


def covered(directory: Path, setting: str) -> int:
    """Answers that stand in the slices of a setting. Whole lines are counted, and nothing is read: another process
    may be writing its slice."""
    return sum(path.read_bytes().count(b"\n") for _, _, path in _slices(directory, setting))
