"""The `retro` command: the one place that turns a RetroError into one line and exit code 2."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retro import __version__
from retro.cli_common import (
    AsJson,
    Redo,
    Words,
    Workers,
    next_command,
    print_how_to_resume,
    read_arguments,
    read_named,
    share_log_options,
)
from retro.cli_database import database_app
from retro.cli_evaluate import add_evaluation
from retro.cli_init import add_init
from retro.cli_plan import plan_app
from retro.cli_sft import sft_app
from retro.common.errors import ConfigError, DataError, RetroError
from retro.common.files import discard, failed_write
from retro.common.launcher import companions, join_launcher, worker_of
from retro.common.progress import Progress, duration, show_only
from retro.common.stopping import Stopped, end, handle_signals
from retro.common.terminal import complain, never_fail_to_encode, output
from retro.run.inputs import require_inputs
from retro.run.pipeline import (
    STAGES,
    drop_replaced,
    leakage_path,
    measure_leakage,
    number_of,
    redoing,
    report_path,
    require_folders,
    stage,
    stage_lock,
    stages_until,
)

if TYPE_CHECKING:
    from retro.run.config import RunConfig

app = typer.Typer(
    name="retro",
    help="Retrieval-augmented language models on megatron-core: corpus → evaluation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config_app = typer.Typer(help="Show a run's settings.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(config_app, name="config")

log = logging.getLogger(__name__)


def main() -> None:
    """Run the command line; user mistakes become one line on stderr and exit code 2."""
    never_fail_to_encode()
    handle_signals(print_how_to_resume)
    try:
        # Gives the code of a typer.Exit that a command raised, instead of raising it on.
        if code := app(standalone_mode=False):
            sys.exit(code)
        sys.stdout.flush()
    except RetroError as error:
        Progress.clear()
        # A wrong setting is wrong on every process of a launcher; the first one says so.
        if not (isinstance(error, ConfigError) and int(os.environ.get("RANK", "0"))):
            complain(str(error))
            log.error("%s", error, extra={"printed": True})
        sys.exit(2)
    except Stopped as stopped:
        end(stopped.number, print_how_to_resume)
    except BrokenPipeError:
        # Who reads the output has seen enough. Nothing is left to flush to, which the interpreter would try.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except typer.Abort:
        sys.exit(1)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")):
            _usage_error(error)
        if why := failed_write(error):
            what = getattr(error, "filename", None) or _leave_output(error) or "a file of the run"
            remedy = "everything complete is kept. Free some space or check the disk, and run the same command again"
            complain(f"{what}: could not be written ({why}); {remedy}")
            sys.exit(2)
        raise


def _leave_output(error: BaseException) -> str:
    """Standard output, where it is what could not be written; the interpreter is then kept from trying again.

    The system's error names no stream: what wrote last tells.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    writer = str(frames[-1].f_globals.get("__name__"))
    if writer.partition(".")[0] not in ("rich", "typer", "click") and writer not in (__name__, output.__module__):
        return ""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return "standard output"


def _usage_error(error: Exception) -> None:
    message = getattr(error, "format_message", lambda: str(error))()
    complain(f"{message} Try 'retro --help'")
    sys.exit(2)


def _run_stage(
    name: str, config: RunConfig, words: Sequence[str] | None, again: bool = False, workers: int = 1, place: str = ""
) -> None:
    """Run a stage, or find it complete.

    Args:
        name: The stage.
        config: The run.
        words: That name the run on the command line, for the processes that help.
        again: Remove what it and the following stages wrote, first.
        workers: Processes that build it.
        place: Among the stages to run, such as `[2/9] `.
    """
    from retro.common.artifacts import is_complete

    if stage(name).processes:
        join_launcher()
    one, started = stage(name), time.monotonic()
    path = one.path(config)
    # Slices of the questions are answered side by side, each holding its own lock too; so do workers on blocks.
    together = one.blocks or (name == "generate" and config.generate.is_slice)
    before = is_complete(path) and not again
    if not before:
        require_inputs(config, [one])
    with stage_lock(config, name, together=together, redo=again):
        # Before any library is loaded, which takes its time.
        log.info("%s%s: %s", place, name, "already complete; checking it" if before else f"begins, in {path}")
        with redoing(config, name) if again else nullcontext(), companions(workers, [name, *(words or [])]):
            one.run(config)
        if again or not together:
            drop_replaced(config, name)
    # A slice that others are to follow has answered its questions; the stage is not complete.
    if is_complete(path) and not before:
        log.info("%s: done in %s: %s", name, duration(time.monotonic() - started), path)


def _say_next(name: str, config: RunConfig, words: Sequence[str] | None) -> None:
    """Say which command a finished stage makes possible."""
    from retro.common.artifacts import is_complete

    if not is_complete(stage(name).path(config)):
        return
    left = [one for one in STAGES[number_of(name) + 1 :] if not is_complete(one.path(config))]
    if left:
        log.info("next: %s", next_command(left[0].name, words))
    elif name == STAGES[-1].name:
        log.info("next: %s", next_command("ask", [*(words or ["CONFIG.yaml"]), "a question"]))


def _stage_command(name: str) -> Callable[..., None]:
    def command(arguments: Words = None, again: Redo = False) -> None:
        config = read_named(name, arguments)
        _run_stage(name, config, arguments, again)
        _say_next(name, config, arguments)

    command.__doc__ = stage(name).summary
    return command


def _block_command(name: str) -> Callable[..., None]:
    def command(arguments: Words = None, again: Redo = False, workers: Workers = 1) -> None:
        config = read_named(name, arguments)
        _run_stage(name, config, arguments, again, workers)
        _say_next(name, config, arguments)

    command.__doc__ = stage(name).summary
    return command


for _one in STAGES:
    if _one.name not in ("db", "index", "pretrain", "perplexity", "sft", "evaluate"):
        app.command(_one.name)((_block_command if _one.blocks else _stage_command)(_one.name))
app.add_typer(database_app(_block_command("db")), name="db")
app.add_typer(sft_app(_stage_command("sft")), name="sft")


@app.command()
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
    _run_stage("index", config, words, again, workers)
    _say_next("index", config, arguments)


@app.command()
def pretrain(
    arguments: Words = None,
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
    as_json: AsJson = False,
) -> None:
    """Pretrain Retro (or a GPT) and its baselines."""
    extra = []
    if load is not None:
        if not finetune:
            need = "needs --finetune: a stopped run goes on by itself, from its own directory"
            raise ConfigError("--load", str(load), need)
        extra = [f"pretrain.start_from={load}"]
    elif finetune or no_load_optim:
        raise ConfigError("--finetune", True, "needs --load CHECKPOINT")
    if dry_run:
        from retro.show_plan import show_dry_run

        show_dry_run(read_arguments(arguments, extra))
        return
    config = read_named("pretrain", arguments, extra)
    if not skip_train:
        _run_stage("pretrain", config, arguments, again)
    _run_stage("perplexity", config, arguments)
    _show_tables(config, as_json=as_json)
    _say_next("perplexity", config, arguments)


@app.command()
def perplexity(
    arguments: Words = None,
    again: Redo = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Measure this one, of a stopped run too; --redo is then its own."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Perplexity with real, shuffled and no neighbors; perplexity.in_context={}: with passages in the prompt too."""
    config = read_named("perplexity", arguments)
    if checkpoint is not None:
        from retro.cli_perplexity import show_checkpoint

        show_checkpoint(config, checkpoint, again=again, as_json=as_json)
        return
    _run_stage("perplexity", config, arguments, again)
    _show_tables(config, as_json=as_json)
    _say_next("perplexity", config, arguments)


app.add_typer(plan_app(), name="plan")
add_evaluation(app)
add_init(app)


@app.command()
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
        from retro.evaluate.megatron_answers import run_plain

        if questions is None:
            raise ConfigError("--plain", str(plain), "needs --questions FILE beside it")
        # Beside the run's own scores, which belong to its own answers.
        out = config.run_dir / f"{stage('evaluate').directory}_plain_{plain.stem}"
        scores = run_plain(config.evaluate, plain, questions, out, start=start, limit=limit)
        output.json(scores)
        return
    _run_stage("evaluate", config, arguments, again)
    _show_tables(config, as_json=as_json)
    _say_next("evaluate", config, arguments)


@app.command()
def run(
    arguments: Words = None,
    again: Redo = False,
    until: Annotated[str, typer.Option(help="The last stage to run.")] = STAGES[-1].name,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """Run all stages in order, skipping what is complete."""
    from retro.common.artifacts import is_complete

    config = read_named("run", arguments)
    stages = stages_until(until)
    require_folders(config, stages)
    require_inputs(config, [one for one in stages if again or not is_complete(one.path(config))])
    if any(one.processes for one in stages):
        join_launcher()
    from retro.common.leases import run_lock

    # Stages of blocks only may be run by many at once, as the tasks of an array do.
    with run_lock(config.run_dir, shared=all(one.blocks for one in stages) and not again):
        for number, one in enumerate(stages, start=1):
            place, first = f"[{number}/{len(stages)}] ", number == 1
            _run_stage(one.name, config, arguments, again and first, workers if one.blocks else 1, place)
    if any(one.trains for one in stages):
        _show_tables(config, as_json=as_json)
    _say_next(stages[-1].name, config, arguments)


@app.command()
def convert(
    model: Annotated[
        Path,
        typer.Argument(
            help="A HuggingFace folder, a .gguf file, a megatron-core checkpoint, or a legacy Megatron one."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The checkpoint to write.")],
    chunk_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a chunk; 64 where the checkpoint does not say.")
    ] = None,
    vocabulary: Annotated[
        int | None, typer.Option(min=1, help="Tokens in its tokenizer; all rows of its embedding without.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A run's YAML file with the model section, which megatron-core does not state.")
    ] = None,
) -> None:
    """Turn a model of another toolkit into a checkpoint of this one; print its model section."""
    from retro.training.convert import convert as run_conversion

    given = None if config is None else read_arguments([str(config)]).model
    shape = run_conversion(model, out, chunk_length=chunk_length, vocabulary=vocabulary, model=given)
    from retro.run.config import model_section

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
) -> None:
    """Add adapters (train.lora) to the weights they were trained on: a checkpoint that stands alone."""
    from retro.training.convert import merge

    merge(checkpoint, out, base=base, dtype=dtype)


@app.command("import-db")
def import_db(
    project: Annotated[Path, typer.Argument(help="A project of Megatron-LM's Retro preprocessing.")],
    out: Annotated[Path, typer.Argument(help="The run directory to make corpus and database in.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="SentencePiece .model or tokenizer.json; without it, what the project names.")
    ] = None,
    eod_token: Annotated[str | None, typer.Option(help="Token that ends a document, if not the usual one.")] = None,
) -> None:
    """Take over a chunk database that NVIDIA's tools built: same chunks, same row numbers."""
    from retro.interop.nvidia_import import import_project
    from retro.run.config import RunConfig

    run_config = RunConfig(run_dir=out)
    dirs = (stage(name).path(run_config) for name in ("corpus", "db"))
    new = not out.exists()
    with stage_lock(run_config, "corpus", redo=True):
        try:
            found = import_project(project, out, *dirs, tokenizer=tokenizer, eod_token=eod_token)
        except (ConfigError, DataError):
            if new:
                discard(out)
            raise
    rows = ", ".join(f"{count:,} {split}" for split, count in found.rows.items())
    output.say(f"imported: {rows} chunks; go on with: {next_command('index', [str(found.run_file)])}")


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
    as_json: AsJson = False,
) -> None:
    """Look at a chunk, a chunk's neighbors, training samples, or the whole database."""
    from retro.analysis.inspect.inspect import Wanted, show, view_and_number

    number, arguments = view_and_number(words or [])
    wanted = Wanted(
        what=what, number=number, split=split, source=source, neighbors=neighbors, html=html, samples=samples,
        as_json=as_json,
    )  # fmt: skip
    show(read_arguments(arguments), wanted)


@app.command()
def leakage(
    arguments: Words = None,
    again: Annotated[bool, typer.Option("--redo", help="Measure the overlaps anew.")] = False,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """Say how much of the held-out text stands in the training text, and what perplexity is without it."""
    config = read_named("leakage", arguments)
    from retro.analysis.leakage.tables import print_leakage

    # It reads what perplexity reads, and its numbers.
    with stage_lock(config, "perplexity", together=True):
        if again:
            discard(leakage_path(config))
        with companions(workers, ["leakage", *(arguments or [])]):
            result = measure_leakage(config)
    if worker_of().rank:
        return
    if as_json:
        output.json(result)
        return
    print_leakage(result, output)
    output.say(f"pictures and all numbers: {leakage_path(config)}")


@app.command()
def ask(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG.yaml QUESTION [section.setting=value]...",
            help="A run's YAML file (not with --documents), a question in quotes, and settings to change.",
        ),
    ] = None,
    documents: Annotated[
        Path | None,
        typer.Option(help="Answer from this folder of text files: its database is built, and kept for the next time."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="With --documents: a checkpoint, HuggingFace folder or .gguf file; else SmolLM2-135M."),
    ] = None,
    passages_from: Annotated[
        str, typer.Option(help="retriever, live (search on while the answer grows) or none.")
    ] = "retriever",
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Write the answer while it grows.")] = True,
    as_json: AsJson = False,
) -> None:
    """Answer one question with the tuned model, or any other from a folder of documents, and say what it read."""
    from retro.generate.config import setting_of
    from retro.show_answer import run_and_question, show_answer

    setting_of(passages_from)  # refused before a database is built
    arguments, question = run_and_question(words or [], needs_run=documents is None)
    if documents is None:
        if model is not None:
            raise ConfigError("--model", model, "needs --documents; of a run it is generate.checkpoint=...")
        config = read_arguments(arguments)
    else:
        from retro.run.documents import MODEL, documents_run

        # Who asks wants the answer; what takes time before it is told.
        show_only("retro.run.documents", "retro.common.progress")
        config = documents_run(documents, model or MODEL, arguments)
    show_answer(config, question, passages_from=passages_from, stream=stream and not as_json, as_json=as_json)


@app.command()
def quickstart(
    acts: Annotated[
        list[str] | None, typer.Argument(metavar="[ACT]...", help="answers, versions, learning, update; else all.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where documents, runs and the page go.")] = Path("runs/quickstart"),
    questions: Annotated[int, typer.Option(min=2, help="How many to ask.")] = 40,
    seed: Annotated[int, typer.Option(help="Draws the questions.")] = 1,
    model: Annotated[
        str | None, typer.Option(help="A checkpoint, HuggingFace folder or .gguf file; else SmolLM2-135M.")
    ] = None,
    older: Annotated[
        Path | None, typer.Option(help="Folder of an earlier version of an installed package, for `versions`.")
    ] = None,
    targets: Annotated[int, typer.Option(min=2, help="Places that `versions` predicts the text after.")] = 48,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training in `learning`.")] = 150,
    as_json: AsJson = False,
) -> None:
    """See what retrieval is worth, on the documentation of this machine's Python packages, in four acts."""
    from retro.quickstart.options import ACTS, OLDER, Options
    from retro.quickstart.show import show_quickstart
    from retro.run.documents import MODEL

    options = Options(
        out=out,
        acts=tuple(acts or ACTS),
        questions=questions,
        seed=seed,
        model=model or MODEL,
        older=older or OLDER,
        targets=targets,
        steps=steps,
    )
    show_quickstart(options, as_json=as_json)


@app.command()
def serve(arguments: Words = None) -> None:
    """Answer over HTTP, as OpenAI's API does, with the passages that were read; a page to ask on at /."""
    from retro.cli_serve import serve_run

    serve_run(read_named("serve", arguments))


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or the directory of a finished stage or model.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; must not exist, or be empty.")],
    decoder_only: Annotated[
        bool,
        typer.Option("--decoder-only", help="Leave out encoder and cross-attention: a plain Llama, Qwen or GPT-2."),
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; without it, the precision of the training.")
    ] = None,
    step: Annotated[int | None, typer.Option(help="Which checkpoint; without it, the newest.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="The run that made it; without it, the one above the checkpoint.")
    ] = None,
) -> None:
    """Write a checkpoint as a folder that transformers opens."""
    from retro.interop.export import export as write

    write(checkpoint, out, decoder_only=decoder_only, dtype=dtype, step=step, run_dir=run)
    output.say(f"exported: {out}")


@app.command()
def status(
    arguments: Words = None,
    as_json: AsJson = False,
) -> None:
    """Say how far a run is (by its config or its directory): done, running, stopped, stale, missing, broken."""
    from retro.run.show import show_status

    show_status(arguments or [], as_numbers=as_json)


@app.command()
def verify(
    arguments: Words = None,
    recompute: Annotated[float, typer.Option(help="Share of the blocks to make once more and compare.")] = 0.0,
    repair: Annotated[bool, typer.Option("--repair", help="Make damaged blocks again.")] = False,
    seed: Annotated[int, typer.Option(help="Draws the blocks to make once more.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Read every file of a run again, and compare it with what was written down of it."""
    from retro.run.show import run_verification

    run_verification(arguments or [], share=recompute, repair=repair, seed=seed, as_json=as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, what is missing or wrong, and what to do."""
    from retro.run import doctor as examination

    raise typer.Exit(examination.run(as_json=as_json))


@config_app.command("show")
def config_show(arguments: Words = None) -> None:
    """Print a run's settings, every default filled in."""
    config = read_arguments(arguments)
    from retro.run.config import as_yaml

    output.say(as_yaml(config), end="")


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of a run's settings."""
    from retro.run.config import RunConfig

    output.json(RunConfig.model_json_schema())


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        output.say(__version__)
        raise typer.Exit


def _show_tables(config: RunConfig, *, as_json: bool = False) -> None:
    if int(os.environ.get("RANK", "0")):
        return
    from retro.evaluate.tables import print_tables, table_numbers

    report = report_path(config)
    if as_json:
        shown = {"report": str(report)} if report.exists() else {}
        output.json(table_numbers(config.run_dir, config.generate.name) | shown)
        return
    print_tables(config.run_dir, output, config.generate.name)
    if report.exists():
        output.say(f"report: {report}")


share_log_options(app)
