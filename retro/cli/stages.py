"""The stages as commands, and `retro run`, which runs them in order."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retro.cli.options import (
    AsJson,
    Redo,
    Words,
    Workers,
    examples,
    next_command,
    read_arguments,
    read_named,
)
from retro.common.errors import ConfigError
from retro.common.launcher import join_launcher
from retro.common.terminal import output
from retro.run.execution import run_stage, run_stages
from retro.run.pipeline import (
    STAGES,
    measure_checkpoint,
    number_of,
    report_path,
    stage,
    stage_lock,
)

if TYPE_CHECKING:
    from retro.run.config import RunConfig

log = logging.getLogger(__name__)

app = typer.Typer()


@app.command(epilog=examples("retro run run.yaml", "retro run run.yaml --until neighbors --workers 4"))
def run(
    arguments: Words = None,
    again: Redo = False,
    until: Annotated[str, typer.Option(help="The last stage to run.")] = STAGES[-1].name,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """Run all stages in order, skipping what is complete."""
    config = read_named("run", arguments)
    stages = run_stages(config, until, arguments, again, workers)
    if any(one.trains for one in stages):
        show_tables(config, as_json=as_json)
    say_next(stages[-1].name, config, arguments)


def say_next(name: str, config: RunConfig, words: Sequence[str] | None) -> None:
    """Say which command a finished stage makes possible."""
    from retro.common.artifacts import is_complete

    if not is_complete(stage(name).path(config)):
        return
    left = [one for one in STAGES[number_of(name) + 1 :] if not is_complete(one.path(config))]
    if left:
        log.info("next: %s", next_command(left[0].name, words))
    elif name == STAGES[-1].name:
        log.info("next: %s", next_command("ask", [*(words or ["CONFIG.yaml"]), "a question"]))


def stage_command(name: str) -> Callable[..., None]:
    """A stage as a command: for workers too, where it is made in blocks."""

    def command(arguments: Words = None, again: Redo = False) -> None:
        _run_and_say_next(name, arguments, again)

    def blocks(arguments: Words = None, again: Redo = False, workers: Workers = 1) -> None:
        _run_and_say_next(name, arguments, again, workers)

    made = blocks if stage(name).blocks else command
    made.__doc__ = stage(name).summary
    return made


def _run_and_say_next(name: str, words: Sequence[str] | None, again: bool, workers: int = 1) -> None:
    config = read_named(name, words)
    run_stage(name, config, words, again, workers)
    say_next(name, config, words)


app.command("corpus", epilog=examples("retro corpus run.yaml", "retro corpus run.yaml --workers 4"))(
    stage_command("corpus")
)


@app.command(epilog=examples("retro index run.yaml --target-recall 0.95", "retro index run.yaml --workers 8"))
def index(
    arguments: Words = None,
    target_recall: Annotated[
        float | None, typer.Option(help="Share of the ten nearest that a search has to find: index.target_recall.")
    ] = None,
    again: Redo = False,
    workers: Workers = 1,
) -> None:
    """Chunks to embeddings and a Faiss index."""
    words = [*(arguments or []), *([] if target_recall is None else [f"index.target_recall={target_recall}"])]
    config = read_named("index", words)
    run_stage("index", config, words, again, workers)
    say_next("index", config, arguments)


app.command("neighbors", epilog=examples("retro neighbors run.yaml", "retro neighbors run.yaml --workers 8"))(
    stage_command("neighbors")
)


@app.command(
    epilog=examples(
        "retro pretrain run.yaml", "torchrun --nproc-per-node 8 -m retro pretrain run.yaml parallel.tensor=8"
    )
)
def pretrain(
    arguments: Words = None,
    again: Redo = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print layers, parameters and memory; train nothing.")
    ] = False,
    skip_train: Annotated[bool, typer.Option("--skip-train", help="Only measure perplexity.")] = False,
    load: Annotated[Path | None, typer.Option(help="Checkpoint to start from; needs --finetune.")] = None,
    finetune: Annotated[bool, typer.Option("--finetune", help="Start at step 0 from --load's weights.")] = False,
    no_load_optim: Annotated[
        bool, typer.Option("--no-load-optim", help="Start with a clean optimizer (--finetune always does).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Pretrain Retro (or a GPT) and its baselines."""
    extra = []
    if load is not None:
        if not finetune:
            need = "needs --finetune: a stopped run resumes by itself, from its own directory"
            raise ConfigError("--load", str(load), need)
        extra = [f"pretrain.start_from={load}"]
    elif finetune or no_load_optim:
        raise ConfigError("--finetune", True, "needs --load CHECKPOINT")
    if dry_run:
        from retro.cli.plan import show_dry_run

        show_dry_run(read_arguments(arguments, extra))
        return
    config = read_named("pretrain", arguments, extra)
    if not skip_train:
        run_stage("pretrain", config, arguments, again)
    run_stage("perplexity", config, arguments)
    show_tables(config, as_json=as_json)
    say_next("perplexity", config, arguments)


@app.command(epilog=examples("retro perplexity run.yaml", 'retro perplexity run.yaml "perplexity.in_context={}"'))
def perplexity(
    arguments: Words = None,
    again: Redo = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Measure this checkpoint, also one of a stopped run; --redo is then its own."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Perplexity with real, shuffled and no neighbors; perplexity.in_context={}: with passages in the prompt too."""
    config = read_named("perplexity", arguments)
    if checkpoint is not None:
        show_checkpoint(config, checkpoint, again=again, as_json=as_json)
        return
    run_stage("perplexity", config, arguments, again)
    show_tables(config, as_json=as_json)
    say_next("perplexity", config, arguments)


app.command(
    "generate",
    epilog=examples(
        "retro generate run.yaml", "retro generate run.yaml generate.task=nq generate.start=0 generate.limit=100"
    ),
)(stage_command("generate"))


@app.command(
    epilog=examples("retro evaluate run.yaml", "retro evaluate run.yaml --plain answers.txt --questions test.json")
)
def evaluate(
    arguments: Words = None,
    again: Redo = False,
    plain: Annotated[
        Path | None, typer.Option(help="Score a file with one answer a line instead; needs --questions.")
    ] = None,
    questions: Annotated[Path | None, typer.Option(help="The question file that --plain answers.")] = None,
    start: Annotated[int, typer.Option(help="The question that the first line of --plain answers, from 0.")] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Score so many lines of --plain; the original scorer: 3000 of a dev file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score the answers and write the report."""
    config = read_arguments(arguments) if plain is not None else read_named("evaluate", arguments)
    if plain is not None:
        from retro.evaluate.predictions import run_plain

        if questions is None:
            raise ConfigError("--plain", str(plain), "needs --questions FILE beside it")
        # Beside the run's own scores, which belong to its own answers.
        out = config.run_dir / f"{stage('evaluate').directory}_plain_{plain.stem}"
        scores = run_plain(config.evaluate, plain, questions, out, start=start, limit=limit)
        output.json(scores)
        return
    run_stage("evaluate", config, arguments, again)
    show_tables(config, as_json=as_json)
    say_next("evaluate", config, arguments)


def show_tables(config: RunConfig, *, as_json: bool = False) -> None:
    """Print what a run measured, on the first process alone."""
    if int(os.environ.get("RANK", "0")):
        return
    from retro.report.tables import print_tables, table_numbers

    report = report_path(config)
    if as_json:
        shown = {"report": str(report)} if report.exists() else {}
        output.json(table_numbers(config.run_dir, config.generate.name) | shown)
        return
    print_tables(config.run_dir, output, config.generate.name)
    if report.exists():
        output.say(f"report: {report}")


def show_checkpoint(config: RunConfig, path: Path, *, again: bool = False, as_json: bool = False) -> None:
    """Measure a checkpoint, or find it measured, and print its tables.

    Args:
        config: The run whose text and neighbors are read.
        path: As `retro.run.pipeline.measure_checkpoint` takes it.
        again: Measure once more what was measured.
        as_json: Print numbers in place of tables.
    """
    from retro.report.tables import measured_numbers, print_measured

    join_launcher()
    with stage_lock(config, "perplexity", together=True):
        out = measure_checkpoint(config, path, again=again)
    if int(os.environ.get("RANK", "0")):
        return
    if as_json:
        output.json(measured_numbers(out) | {"directory": str(out)})
        return
    print_measured(out, output)
    output.say(f"all numbers: {out}")
