"""Commands around evaluation: retro tasks, retro compare, retro matrix, retro lm-eval."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retro.common.terminal import output

if TYPE_CHECKING:
    from retro.run_config import RunConfig

    Read = Callable[[list[str] | None], RunConfig]

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.yaml] [section.setting=value]...", help="The run, and settings to change."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")]


def add_evaluation(app: typer.Typer, read: Read, start: Callable[[bool], None]) -> None:
    """Give the command line these commands.

    Args:
        app: The command line.
        read: From a command's words to the run's settings.
        start: Sets up the log; told whether to say more.
    """
    _add_tasks(app)
    _add_compare(app, start)
    _add_matrix(app, start)
    _add_harness(app, read, start)


def _add_tasks(app: typer.Typer) -> None:
    @app.command()
    def tasks(
        markdown: Annotated[bool, typer.Option("--markdown", help="The table of docs/evaluation.md.")] = False,
    ) -> None:
        """List the tasks that generate.task names: their kind, metrics and data set."""
        from retro.show_tasks import tasks_markdown, tasks_table

        if markdown:
            output.say(tasks_markdown(), end="")
        else:
            output.table(tasks_table())


def _add_compare(app: typer.Typer, start: Callable[[bool], None]) -> None:
    @app.command()
    def compare(
        run_a: Annotated[Path, typer.Argument(help="A run, or the directory of its evaluate stage.")],
        run_b: Annotated[Path, typer.Argument(help="Another, or the same one with --setting-b.")],
        task: Annotated[str | None, typer.Option(help="Where a run answered several tasks: which.")] = None,
        setting: Annotated[str | None, typer.Option(help="As closed_book; without it, a report's first.")] = None,
        setting_b: Annotated[str | None, typer.Option(help="Of RUN_B, if another.")] = None,
        show: Annotated[int, typer.Option(min=0, help="Questions to list, of those on which they part.")] = 20,
        json: Annotated[Path | None, typer.Option(help="A file for all numbers and all those questions.")] = None,
    ) -> None:
        """Say who got what right: two sets of answers to the same questions, with intervals and p-values."""
        start(False)
        from retro.evaluate.compare import compare as compare_sides
        from retro.evaluate.compare import open_side
        from retro.evaluate.show_comparison import show_comparison

        a = open_side(run_a, task=task, setting=setting)
        b = open_side(run_b, task=task, setting=setting_b or setting)
        found = compare_sides(a, b)
        if json is not None:
            from retro.common.files import write_plain_json

            write_plain_json(json, found)
        show_comparison(found, output, questions=show)


def _add_matrix(app: typer.Typer, start: Callable[[bool], None]) -> None:
    @app.command()
    def matrix(
        file: Annotated[Path, typer.Argument(metavar="MATRIX.yaml", help="Checkpoints, tasks, and what is read.")],
        verbose: Verbose = False,
    ) -> None:
        """Ask several checkpoints several tasks, and score all into one table; what is done is not done again."""
        start(verbose)
        from retro.matrix.cells import cells_of, load_matrix
        from retro.matrix.run import run_matrix
        from retro.matrix.table import as_markdown, errors

        wanted = load_matrix(file)
        results = run_matrix(wanted, cells_of(wanted))
        output.say(as_markdown(wanted.name, results))
        output.say(f"table: {wanted.out}")
        if errors(results):
            raise typer.Exit(1)


def _add_harness(app: typer.Typer, read: Read, start: Callable[[bool], None]) -> None:
    @app.command("lm-eval")
    def lm_eval(
        arguments: Words = None,
        tasks: Annotated[str, typer.Option(help="Tasks of lm-evaluation-harness, with commas between.")] = "",
        include_path: Annotated[Path | None, typer.Option(help="A folder of further tasks.")] = None,
        retrieval: Annotated[str, typer.Option(help="What the encoder reads: none, or live from the index.")] = "none",
        few_shot: Annotated[int | None, typer.Option(min=0, help="Examples; without it, as the task says.")] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="Questions of each task; without it, all.")] = None,
        out: Annotated[Path | None, typer.Option(help="Where results go; without it, lm_eval.json of the run.")] = None,
        verbose: Verbose = False,
    ) -> None:
        """Run tasks of lm-evaluation-harness on a run's model (generate.checkpoint, or the one it tuned)."""
        start(verbose)
        from retro.cli_harness import run_harness

        run_harness(
            read(arguments), tasks=tasks, include_path=include_path, retrieval=retrieval, few_shot=few_shot,
            limit=limit, out=out,
        )  # fmt: skip
