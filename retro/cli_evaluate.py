"""Commands around evaluation: retro tasks, retro compare, retro matrix, retro lm-eval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retro.cli_common import AsJson, Words, read_arguments
from retro.common.errors import ConfigError
from retro.common.terminal import output


def add_evaluation(app: typer.Typer) -> None:
    """Give the command line these commands."""
    _add_tasks(app)
    _add_compare(app)
    _add_compare_neighbors(app)
    _add_matrix(app)
    _add_harness(app)


def _add_tasks(app: typer.Typer) -> None:
    @app.command()
    def tasks(
        markdown: Annotated[bool, typer.Option("--markdown", help="The table of docs/evaluation.md.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """List the tasks that generate.task names: their kind, metrics and data set."""
        from retro.show_tasks import tasks_markdown, tasks_numbers, tasks_table

        if as_json:
            output.json(tasks_numbers())
        elif markdown:
            output.say(tasks_markdown(), end="")
        else:
            output.table(tasks_table())


def _add_compare(app: typer.Typer) -> None:
    @app.command()
    def compare(
        run_a: Annotated[Path, typer.Argument(help="A run, or the directory of its evaluate stage.")],
        run_b: Annotated[Path, typer.Argument(help="Another, or the same one with --setting-b.")],
        task: Annotated[str | None, typer.Option(help="Where a run answered several tasks: which.")] = None,
        setting: Annotated[str | None, typer.Option(help="As closed_book; without it, a report's first.")] = None,
        setting_b: Annotated[str | None, typer.Option(help="Of RUN_B, if another.")] = None,
        show: Annotated[int, typer.Option(min=0, help="Questions to list, of those on which they part.")] = 20,
        out: Annotated[Path | None, typer.Option(help="A file for all numbers and all those questions.")] = None,
        as_json: AsJson = False,
        # What `--json FILE` was before --json stood for the same everywhere.
        file: Annotated[Path | None, typer.Argument(hidden=True)] = None,
    ) -> None:
        """Say who got what right: two sets of answers to the same questions, with intervals and p-values."""
        from retro.evaluate.compare import compare as compare_sides
        from retro.evaluate.compare import open_side
        from retro.evaluate.show_comparison import show_comparison

        a = open_side(run_a, task=task, setting=setting)
        b = open_side(run_b, task=task, setting=setting_b or setting)
        found = compare_sides(a, b)
        if file is not None and not as_json:
            raise ConfigError("arguments", str(file), "needs two runs")
        if (written := out or file) is not None:
            from retro.common.files import write_plain_json

            write_plain_json(written, found)
        if as_json and file is None:
            output.json(found)
        else:
            show_comparison(found, output, questions=show)


def _add_compare_neighbors(app: typer.Typer) -> None:
    @app.command("compare-neighbors")
    def compare_neighbors(
        run_a: Annotated[Path, typer.Argument(help="A run's directory.")],
        run_b: Annotated[Path | None, typer.Argument(help="Another one over the same corpus.")] = None,
        neighbors: Annotated[int, typer.Option(help="Neighbors that a model reads of a chunk.")] = 2,
        split: Annotated[list[str] | None, typer.Option(help="train, valid or test; may be given again.")] = None,
        out: Annotated[Path | None, typer.Option(help="A file for all numbers.")] = None,
        as_json: AsJson = False,
    ) -> None:
        """Say how much of the text to be predicted stands in the neighbors, in one run or in two."""
        from retro.analysis.neighbor_overlap import compare_neighbors as compare_sides
        from retro.analysis.neighbor_overlap import open_side, overlap_table

        b = None if run_b is None else open_side(run_b)
        found = compare_sides(open_side(run_a), b, k=neighbors, splits=split or ())
        if out is not None:
            from retro.common.files import write_plain_json

            write_plain_json(out, found)
        if as_json:
            output.json(found)
        else:
            output.table(overlap_table(found))


def _add_matrix(app: typer.Typer) -> None:
    @app.command()
    def matrix(
        file: Annotated[Path, typer.Argument(metavar="MATRIX.yaml", help="Checkpoints, tasks, and what is read.")],
        as_json: AsJson = False,
    ) -> None:
        """Ask several checkpoints several tasks, and score all into one table; what is done is not done again."""
        from retro.sweep.run import cells_of, load_matrix, run_matrix
        from retro.sweep.table import as_json as numbers
        from retro.sweep.table import as_markdown, errors

        wanted = load_matrix(file)
        results = run_matrix(wanted, cells_of(wanted))
        if as_json:
            output.json(numbers(wanted.name, results))
        else:
            output.say(as_markdown(wanted.name, results), f"table: {wanted.out}")
        if errors(results):
            raise typer.Exit(1)


def _add_harness(app: typer.Typer) -> None:
    @app.command("lm-eval")
    def lm_eval(
        arguments: Words = None,
        tasks: Annotated[str, typer.Option(help="Tasks of lm-evaluation-harness, with commas between.")] = "",
        include_path: Annotated[Path | None, typer.Option(help="A folder of further tasks.")] = None,
        retrieval: Annotated[str, typer.Option(help="What the encoder reads: none, or live from the index.")] = "none",
        few_shot: Annotated[int | None, typer.Option(min=0, help="Examples; without it, as the task says.")] = None,
        limit: Annotated[
            float | None, typer.Option(help="Questions of each task, or below 1 their share; without it, all.")
        ] = None,
        out: Annotated[Path | None, typer.Option(help="Where results go; without it, lm_eval.json of the run.")] = None,
        apply_chat_template: Annotated[
            bool, typer.Option("--apply-chat-template", help="Ask with the chat template of the model's folder.")
        ] = False,
        system_instruction: Annotated[
            str | None, typer.Option(help="A text before every question; with a chat template, its system turn.")
        ] = None,
        samples: Annotated[
            str | None, typer.Option(help='Which questions, as JSON or a file of it: {"arc_easy": [0, 3]}.')
        ] = None,
        gen_kwargs: Annotated[
            str | None, typer.Option(help="Generation settings over the tasks' own: temperature=0.5,do_sample=true.")
        ] = None,
        batch_size: Annotated[
            int | None, typer.Option(min=1, help="Sequences at once; without it, generate.batch_size.")
        ] = None,
        use_cache: Annotated[
            Path | None, typer.Option(help="A file that keeps responses, to go on after a stop.")
        ] = None,
        log_samples: Annotated[
            bool, typer.Option("--log-samples", help="Write every question with its responses too.")
        ] = False,
        predict_only: Annotated[
            bool, typer.Option("--predict-only", help="Write the responses and score nothing.")
        ] = False,
        as_json: AsJson = False,
    ) -> None:
        """Run tasks of lm-evaluation-harness on a run's model (generate.checkpoint, or the one it tuned)."""
        from retro.cli_harness import run_harness

        run_harness(
            read_arguments(arguments), tasks=tasks, include_path=include_path, retrieval=retrieval, few_shot=few_shot,
            limit=limit, out=out, apply_chat_template=apply_chat_template, samples=samples,
            system_instruction=system_instruction, gen_kwargs=gen_kwargs, batch_size=batch_size, use_cache=use_cache,
            log_samples=log_samples, predict_only=predict_only,
            as_json=as_json,
        )  # fmt: skip
