"""Tools: a first run, its settings, how far it is and whether it is whole, and what is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retro.cli.options import AsJson, Words, examples, read_arguments
from retro.common.terminal import Table, output

app = typer.Typer()
config = typer.Typer(
    help="Show a run's settings.",
    epilog=examples("retro config show run.yaml", "retro config schema"),
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(epilog=examples("retro init notes/", "retro init wiki.jsonl --questions questions.json --minutes 60"))
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of text, or one file.")],
    questions: Annotated[
        Path | None, typer.Option(help="Questions with answers (.json, .jsonl), for tuning and evaluation.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Approximate duration of the run on this machine; 10 without --size.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="tiny, mini or small: sets model, batch, rates and steps, whatever it takes.")
    ] = None,
    out: Annotated[Path, typer.Option("--output", help="The YAML file to write.")] = Path("run.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
) -> None:
    """Write a run's YAML file for a folder of text: documents, split, tokenizer, model and steps, with reasons."""
    from retro.init.run import Options, run

    made = run(Options(folder=folder, questions=questions, minutes=minutes, size=size, output=out, force=force))
    table = Table(title=f"{made.output}, for about {made.minutes:g} minutes" if made.minutes else str(made.output))
    table.add_column("setting", fold=True)
    table.add_column("why")
    for choice in made.choices:
        if choice.why:
            table.add_row(f"{choice.setting}: {choice.value}", choice.why)
    output.table(table)
    if made.files:
        output.say(f"questions: {', '.join(map(str, made.files))}")
    output.say(f"next: {made.command}")


@app.command(epilog=examples("retro quickstart", "retro quickstart answers --questions 10"))
def quickstart(
    acts: Annotated[
        list[str] | None, typer.Argument(metavar="[ACT]...", help="answers, versions, learning, update; else all.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for documents, runs and the page.")] = Path("runs/quickstart"),
    questions: Annotated[int, typer.Option(min=2, help="Number of questions.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the choice of questions.")] = 1,
    model: Annotated[
        str | None, typer.Option(help="A checkpoint, HuggingFace folder or .gguf file; else SmolLM2-135M.")
    ] = None,
    older: Annotated[
        Path | None, typer.Option(help="Folder of an earlier version of an installed package, for `versions`.")
    ] = None,
    targets: Annotated[int, typer.Option(min=2, help="Positions after which `versions` predicts the text.")] = 48,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training in `learning`.")] = 150,
    as_json: AsJson = False,
) -> None:
    """Measure what retrieval is worth on the documentation of installed Python packages, in four acts."""
    from retro.quickstart.acts import ACTS, OLDER, Options
    from retro.quickstart.run import show_quickstart
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


@app.command(epilog=examples("retro status run.yaml", "retro status runs/wiki --json"))
def status(
    arguments: Words = None,
    as_json: AsJson = False,
) -> None:
    """Show the state of each stage of a run: done, running, stopped, stale, missing or broken."""
    from retro.cli.status import show_status

    show_status(arguments or [], as_numbers=as_json)


@app.command(epilog=examples("retro verify run.yaml", "retro verify runs/wiki --recompute 0.05 --repair"))
def verify(
    arguments: Words = None,
    recompute: Annotated[float, typer.Option(help="Share of the blocks to recompute and compare.")] = 0.0,
    repair: Annotated[bool, typer.Option("--repair", help="Rebuild damaged blocks.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the choice of blocks to recompute.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Read every file of a run again and compare it with its checksum; rebuild what is damaged with --repair."""
    from retro.cli.status import run_verification

    run_verification(arguments or [], share=recompute, repair=repair, seed=seed, as_json=as_json)


@config.command("show", epilog=examples("retro config show run.yaml", "retro config show run.yaml model.size=8b"))
def config_show(arguments: Words = None) -> None:
    """Print a run's settings, every default filled in."""
    run_config = read_arguments(arguments)
    from retro.run.config import as_yaml

    output.say(as_yaml(run_config), end="")


@config.command("schema", epilog=examples("retro config schema", "retro config schema > run.schema.json"))
def config_schema() -> None:
    """Print the JSON schema of a run's settings."""
    from retro.run.config import RunConfig

    output.json(RunConfig.model_json_schema())
