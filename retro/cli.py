"""The `retro` command: the one place that turns a RetroError into one line and exit code 2."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retro import __version__
from retro.cli_database import database_app
from retro.cli_evaluate import add_evaluation
from retro.cli_plan import plan_app
from retro.cli_sft import sft_app
from retro.common.errors import ConfigError, RetroError
from retro.common.files import discard, failed_write
from retro.common.launcher import join_launcher
from retro.common.progress import set_up_logging
from retro.common.terminal import complain, never_fail_to_encode, output
from retro.common.worker import companions, end_with_parent, worker_of
from retro.pipeline import (
    STAGES,
    Stage,
    drop_replaced,
    leakage_path,
    measure_leakage,
    redoing,
    report_path,
    run_all,
    stage,
    stages_until,
)

if TYPE_CHECKING:
    from retro.run_config import RunConfig

app = typer.Typer(
    name="retro",
    help="Retrieval-augmented language models on megatron-core: corpus → evaluation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Show a run's settings.", no_args_is_help=True)
app.add_typer(config_app, name="config")

log = logging.getLogger(__name__)

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.yaml] [section.setting=value]...", help="A run's YAML file, and settings to change."
    ),
]
Redo = Annotated[bool, typer.Option("--redo", help="Remove what this stage and the following ones wrote, first.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes on this machine that build it together.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")]


def main() -> None:
    """Run the command line; user mistakes become one line on stderr and exit code 2."""
    never_fail_to_encode()
    try:
        # Gives the code of a typer.Exit that a command raised, instead of raising it on.
        if code := app(standalone_mode=False):
            sys.exit(code)
    except RetroError as error:
        # A wrong setting is wrong on every process of a launcher; the first one says so.
        if not (isinstance(error, ConfigError) and int(os.environ.get("RANK", "0"))):
            complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        complain("interrupted; run the same command again to go on")
        sys.exit(130)
    except typer.Abort:
        sys.exit(1)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")):
            _usage_error(error)
        if why := failed_write(error):
            what = getattr(error, "filename", None) or "a file of the run"
            remedy = "everything complete is kept. Free some space or check the disk, and run the same command again"
            complain(f"{what}: could not be written ({why}); {remedy}")
            sys.exit(2)
        raise


def _usage_error(error: Exception) -> None:
    message = getattr(error, "format_message", lambda: str(error))()
    complain(f"{message} Try 'retro --help'")
    sys.exit(2)


def read_arguments(arguments: list[str] | None, extra: list[str] | None = None) -> RunConfig:
    """The run config from a command's arguments: at most one file, then overrides."""
    files = [text for text in arguments or [] if "=" not in text]
    overrides = [text for text in arguments or [] if "=" in text]
    if len(files) > 1:
        raise ConfigError("arguments", files, "needs one config file; settings have the form section.setting=value")
    # Settings cost half of what the shortest commands take, so `retro --help` does without them.
    from retro.run_config import load_run_config

    return load_run_config(Path(files[0]) if files else None, overrides + (extra or []))


def _start(verbose: bool) -> None:
    end_with_parent()
    set_up_logging(verbose=verbose, rank=worker_of().rank)


def _run_stage(name: str, config: RunConfig, again: bool, together: AbstractContextManager[None] | None = None) -> None:
    from retro.common.artifacts import is_complete
    from retro.common.lock import run_lock

    if stage(name).processes:
        join_launcher()
    # Slices of the questions are answered side by side, each holding its own lock too; so do workers on blocks.
    slices = name == "generate" and config.generate.is_slice
    shared = (slices or stage(name).blocks) and not again
    with run_lock(config.run_dir, shared=shared):
        with redoing(config, name) if again else nullcontext(), together or nullcontext():
            manifest = stage(name).run(config)
        if not shared:
            drop_replaced(config, name)
    # A slice that others are to follow has answered its questions; the stage is not complete.
    if is_complete(stage(name).path(config)):
        log.info("%s: complete, fingerprint %s", name, manifest.fingerprint)


def _stage_command(name: str) -> Callable[..., None]:
    def command(arguments: Arguments = None, again: Redo = False, verbose: Verbose = False) -> None:
        _start(verbose)
        _run_stage(name, read_arguments(arguments), again)

    command.__doc__ = stage(name).summary
    return command


def _block_command(name: str) -> Callable[..., None]:
    def command(
        arguments: Arguments = None, again: Redo = False, workers: Workers = 1, verbose: Verbose = False
    ) -> None:
        _start(verbose)
        _run_stage(name, read_arguments(arguments), again, companions(workers, [name, *(arguments or [])]))

    command.__doc__ = stage(name).summary
    return command


for _one in STAGES:
    if _one.name not in ("db", "index", "pretrain", "sft", "evaluate"):
        app.command(_one.name)((_block_command if _one.blocks else _stage_command)(_one.name))
app.add_typer(database_app(_block_command("db"), read_arguments, _start), name="db")
app.add_typer(sft_app(_stage_command("sft"), read_arguments, _start), name="sft")


@app.command()
def index(
    arguments: Arguments = None,
    target_recall: Annotated[
        float | None, typer.Option(help="Share of the ten nearest that a search has to find: index.target_recall.")
    ] = None,
    again: Redo = False,
    workers: Workers = 1,
    verbose: Verbose = False,
) -> None:
    """Chunks to embeddings and a Faiss index."""
    words = [*(arguments or []), *([] if target_recall is None else [f"index.target_recall={target_recall}"])]
    _start(verbose)
    _run_stage("index", read_arguments(words), again, companions(workers, ["index", *words]))


@app.command()
def pretrain(
    arguments: Arguments = None,
    again: Redo = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print layers, parameters and memory; train nothing.")
    ] = False,
    skip_train: Annotated[bool, typer.Option("--skip-train", help="Only measure perplexity.")] = False,
    load: Annotated[Path | None, typer.Option(help="A checkpoint to start from; needs --finetune.")] = None,
    finetune: Annotated[bool, typer.Option("--finetune", help="Start at step 0 from --load's weights.")] = False,
    no_load_optim: Annotated[
        bool, typer.Option("--no-load-optim", help="Start with a clean optimizer (--finetune always does).")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Pretrain Retro (or a GPT) and its baselines."""
    _start(verbose)
    extra = []
    if load is not None:
        if not finetune:
            need = "needs --finetune: a stopped run goes on by itself, from its own directory"
            raise ConfigError("--load", str(load), need)
        extra = [f"pretrain.start_from={load}"]
    elif finetune or no_load_optim:
        raise ConfigError("--finetune", True, "needs --load CHECKPOINT")
    config = read_arguments(arguments, extra)
    if dry_run:
        from retro.show_plan import show_dry_run

        show_dry_run(config)
        return
    if not skip_train:
        _run_stage("pretrain", config, again)
    _run_stage("perplexity", config, again=False)
    _show_tables(config)


app.add_typer(plan_app(read_arguments, _start), name="plan")
add_evaluation(app, read_arguments, _start)


@app.command()
def evaluate(
    arguments: Arguments = None,
    again: Redo = False,
    plain: Annotated[
        Path | None, typer.Option(help="Score a file with one answer a line instead; needs --questions.")
    ] = None,
    questions: Annotated[Path | None, typer.Option(help="The question file that --plain answers.")] = None,
    start: Annotated[int, typer.Option(help="The question that the first line of --plain answers, from 0.")] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Score so many lines of --plain; the original scorer: 3000 of a dev file.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Score the answers and write the report."""
    _start(verbose)
    config = read_arguments(arguments)
    if plain is not None:
        from retro.evaluate.plain import run_plain

        if questions is None:
            raise ConfigError("--plain", str(plain), "needs --questions FILE beside it")
        # Beside the run's own scores, which belong to its own answers.
        out = config.run_dir / f"{stage('evaluate').directory}_plain_{plain.stem}"
        scores = run_plain(config.evaluate, plain, questions, out, start=start, limit=limit)
        output.json(scores)
        return
    _run_stage("evaluate", config, again)
    _show_tables(config)


@app.command()
def run(
    arguments: Arguments = None,
    again: Redo = False,
    until: Annotated[str, typer.Option(help="The last stage to run.")] = STAGES[-1].name,
    workers: Workers = 1,
    verbose: Verbose = False,
) -> None:
    """Run all stages in order, skipping what is complete."""
    _start(verbose)
    config = read_arguments(arguments)
    stages = stages_until(until)
    if any(one.processes for one in stages):
        join_launcher()
    from retro.common.lock import run_lock

    # Stages of blocks only may be run by many at once, as the tasks of an array do.
    shared = all(one.blocks for one in stages) and not again

    def together(one: Stage) -> AbstractContextManager[None]:
        return companions(workers if one.blocks else 1, [one.name, *(arguments or [])])

    with run_lock(config.run_dir, shared=shared):
        with redoing(config, "corpus") if again else nullcontext(), together(stages[0]):
            stages[0].run(config)
        run_all(config, stages, together)
        if not shared:
            drop_replaced(config, stages[0].name)
    if any(one.trains for one in stages):
        _show_tables(config)


@app.command()
def convert(
    folder: Annotated[Path, typer.Argument(help="It holds latest_checkpointed_iteration.txt and release/.")],
    out: Annotated[Path, typer.Argument(help="The checkpoint to write.")],
    chunk_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a chunk; 64 where the checkpoint does not say.")
    ] = None,
    vocabulary: Annotated[
        int | None, typer.Option(min=1, help="Tokens in its tokenizer; all rows of its embedding without.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Turn a legacy Megatron checkpoint (InstructRetro's layout) into one of this toolkit; print its model section."""
    _start(verbose)
    from retro.training.convert import convert as run_conversion

    shape = run_conversion(folder, out, chunk_length=chunk_length, vocabulary=vocabulary)
    from retro.run_config import model_section

    output.say(model_section(shape.model), end="")


@app.command("merge-lora")
def merge_lora(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of adapters, or the directory of a finished stage.")],
    out: Annotated[Path, typer.Argument(help="The checkpoint to write; nothing may be there.")],
    base: Annotated[
        Path | None, typer.Option(help="The checkpoint they were trained on, if it no longer lies where it did.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; without it, the precision of the training.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Add adapters (train.lora) to the weights they were trained on: a checkpoint that stands alone."""
    _start(verbose)
    from retro.training.merge import merge

    merge(checkpoint, out, base=base, dtype=dtype)


@app.command("import-db")
def import_db(
    project: Annotated[Path, typer.Argument(help="A project of Megatron-LM's Retro preprocessing.")],
    out: Annotated[Path, typer.Argument(help="The run directory to make corpus and database in.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="SentencePiece .model or tokenizer.json; without it, what the project names.")
    ] = None,
    eod_token: Annotated[str | None, typer.Option(help="Token that ends a document, if not the usual one.")] = None,
    verbose: Verbose = False,
) -> None:
    """Take over a chunk database that NVIDIA's tools built: same chunks, same row numbers."""
    _start(verbose)
    from retro.common.lock import run_lock
    from retro.importing.run import import_project
    from retro.run_config import RunConfig

    run_config = RunConfig(run_dir=out)
    dirs = (stage(name).path(run_config) for name in ("corpus", "db"))
    with run_lock(out):
        found = import_project(project, out, *dirs, tokenizer=tokenizer, eod_token=eod_token)
    rows = ", ".join(f"{count:,} {split}" for split, count in found.rows.items())
    output.say(f"imported: {rows} chunks; go on with: retro index {found.run_file}")


@app.command()
def inspect(
    what: Annotated[str, typer.Argument(help="chunk, neighbors, sample or database.")],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NUMBER] [CONFIG.yaml] [section.setting=value]...",
            help="Row of the database, chunk of the stream, or training sample; a run's YAML file, and settings.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Of neighbors and samples: train, valid or test.")] = "train",
    source: Annotated[int, typer.Option(help="Of neighbors and samples: which corpus, counted from 0.")] = 0,
    neighbors: Annotated[int | None, typer.Option(help="Shown of a chunk; as many as the model reads.")] = None,
    html: Annotated[Path | None, typer.Option(help="Of samples: write them as a page that needs nothing else.")] = None,
    samples: Annotated[int, typer.Option(help="On that page, from NUMBER on.")] = 20,
) -> None:
    """Look at a chunk, a chunk's neighbors, training samples, or the whole database."""
    _start(verbose=False)
    from retro.inspect.show import Wanted, show, view_and_number

    number, arguments = view_and_number(words or [])
    wanted = Wanted(
        what=what, number=number, split=split, source=source, neighbors=neighbors, html=html, samples=samples
    )
    show(read_arguments(arguments), wanted)


@app.command()
def leakage(
    arguments: Arguments = None,
    again: Annotated[bool, typer.Option("--redo", help="Measure the overlaps anew.")] = False,
    workers: Workers = 1,
    verbose: Verbose = False,
) -> None:
    """Say how much of the held-out text stands in the training text, and what perplexity is without it."""
    _start(verbose)
    config = read_arguments(arguments)
    from retro.common.lock import run_lock
    from retro.leakage.tables import print_leakage

    with run_lock(config.run_dir, shared=True):
        if again:
            discard(leakage_path(config))
        with companions(workers, ["leakage", *(arguments or [])]):
            result = measure_leakage(config)
    if worker_of().rank:
        return
    print_leakage(result, output)
    output.say(f"pictures and all numbers: {leakage_path(config)}")


@app.command()
def ask(
    run_config: Annotated[str, typer.Argument(metavar="CONFIG.yaml", help="A run's YAML file.")],
    question: Annotated[str, typer.Argument(help="The question, in quotes.")],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[section.setting=value]...", help="Settings to change.")
    ] = None,
    passages_from: Annotated[
        str, typer.Option(help="retriever, live (search on while the answer grows) or none.")
    ] = "retriever",
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Write the answer while it grows.")] = True,
    verbose: Verbose = False,
) -> None:
    """Answer one question with the tuned model, and say which passages it read."""
    _start(verbose)
    from retro.show_answer import show_answer

    config = read_arguments([run_config, *(settings or [])])
    show_answer(config, question, passages_from=passages_from, stream=stream)


@app.command()
def serve(arguments: Arguments = None, verbose: Verbose = False) -> None:
    """Answer over HTTP, as OpenAI's API does, with the passages that were read; a page to ask on at /."""
    _start(verbose)
    from retro.cli_serve import serve_run

    serve_run(read_arguments(arguments))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or the directory of a finished stage or model.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; must not exist, or be empty.")],
    decoder_only: Annotated[
        bool, typer.Option("--decoder-only", help="Leave out encoder and cross-attention: a plain Llama or GPT-2.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; without it, the precision of the training.")
    ] = None,
    step: Annotated[int | None, typer.Option(help="Which checkpoint; without it, the newest.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="The run that made it; without it, the one above the checkpoint.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Write a checkpoint as a folder that transformers opens."""
    _start(verbose)
    from retro.export.run import export as write

    write(checkpoint, out, decoder_only=decoder_only, dtype=dtype, step=step, run_dir=run)
    output.say(f"exported: {out}")


@app.command()
def status(
    arguments: Arguments = None,
    as_json: Annotated[bool, typer.Option("--json", help="Numbers for machines.")] = False,
) -> None:
    """Say how far a run is (by its config or its directory): done, running, stopped, stale, missing, broken."""
    _start(verbose=False)
    from retro.upkeep.show import show_status

    show_status(arguments or [], as_numbers=as_json)


@app.command()
def verify(
    arguments: Arguments = None,
    recompute: Annotated[float, typer.Option(help="Share of the blocks to make once more and compare.")] = 0.0,
    repair: Annotated[bool, typer.Option("--repair", help="Make damaged blocks again.")] = False,
    seed: Annotated[int, typer.Option(help="Draws the blocks to make once more.")] = 0,
    verbose: Verbose = False,
) -> None:
    """Read every file of a run again, and compare it with what was written down of it."""
    _start(verbose)
    from retro.upkeep.show import run_verification

    run_verification(arguments or [], share=recompute, repair=repair, seed=seed)


@app.command()
def doctor() -> None:
    """Say what is installed, what is missing or wrong, and what to do."""
    from retro import doctor as examination

    raise typer.Exit(examination.run())


@config_app.command("show")
def config_show(arguments: Arguments = None) -> None:
    """Print a run's settings, every default filled in."""
    config = read_arguments(arguments)
    from retro.run_config import as_yaml

    output.say(as_yaml(config), end="")


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of a run's settings."""
    from retro.run_config import RunConfig

    output.json(RunConfig.model_json_schema())


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        output.say(__version__)
        raise typer.Exit


def _show_tables(config: RunConfig) -> None:
    if int(os.environ.get("RANK", "0")):
        return
    from retro.evaluate.tables import print_tables

    print_tables(config.run_dir, output, config.generate.name)
    report = report_path(config)
    if report.exists():
        output.say(f"report: {report}")
