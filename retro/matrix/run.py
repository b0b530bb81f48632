"""`retro matrix`: answer and score every cell through the stages, one after another, and keep the table up to date."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from retro.common.errors import RetroError
from retro.common.files import atomic_path, read_json, write_plain_json
from retro.matrix.cells import Cell
from retro.matrix.config import MatrixConfig
from retro.matrix.page import page
from retro.matrix.table import Result, as_json, as_markdown
from retro.pipeline import stage, stage_lock

log = logging.getLogger(__name__)

STAGES = ("generate", "evaluate")


def run_cell(cell: Cell) -> Path:
    """Answer and score one cell, as far as it is not done; the folder of its scores.

    Raises:
        RetroError: A stage cannot be run.
    """
    for name in STAGES:
        with stage_lock(cell.config, name):
            stage(name).run(cell.config)
    return stage("evaluate").path(cell.config)


def run_matrix(matrix: MatrixConfig, cells: Sequence[Cell], run: Callable[[Cell], Path] = run_cell) -> list[Result]:
    """Run all cells, those that fail too, and write the table after each.

    Args:
        matrix: Its settings.
        cells: All of them, from `cells_of`.
        run: Answers and scores a cell.

    Returns:
        One result for each cell; those that failed say why.
    """
    results = [Result(cell.checkpoint, cell.task) for cell in cells]
    for number, cell in enumerate(cells):
        log.info("[%d/%d] %s", number + 1, len(cells), cell.label)
        try:
            directory = run(cell)
            scores = read_json(directory / "scores.json", "Run `retro evaluate` with --redo")
            results[number] = Result(cell.checkpoint, cell.task, str(directory), scores)
        # What a model or a machine can do to one cell, too little memory among it, says nothing about the next.
        except (RetroError, RuntimeError, MemoryError, OSError) as error:
            log.error("%s: %s", cell.label, error)
            results[number] = Result(cell.checkpoint, cell.task, error=f"{type(error).__name__}: {error}")
        write_table(matrix, results)
    return results


def write_table(matrix: MatrixConfig, results: Sequence[Result]) -> None:
    """Write matrix.json, matrix.md and matrix.html, as far as the results go."""
    write_plain_json(matrix.out / "matrix.json", as_json(matrix.name, results))
    for name, text in (("matrix.md", as_markdown(matrix.name, results)), ("matrix.html", page(matrix.name, results))):
        with atomic_path(matrix.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
