"""`retro doctor`: the installation, and files of other trainers beside a run's settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from retro.cli.options import AsJson, DefaultCommandGroup, Words, examples, read_named
from retro.common.errors import ConfigError, RetroError

if TYPE_CHECKING:
    from retro.interop.deepspeed.run_settings import RunSettings
    from retro.run.config import RunConfig


class _DoctorGroup(DefaultCommandGroup):
    default = "installation"


app = typer.Typer(
    cls=_DoctorGroup,
    help="Check the installation: what is there, what is missing or wrong, and what to do.\n\n"
    "`retro doctor deepspeed` and `retro doctor trainer` compare the files of other trainers with a run.",
    epilog=examples("retro doctor", "retro doctor deepspeed ds_config.json run.yaml"),
    rich_markup_mode=None,
)
StageChoice = Literal["pretrain", "sft"]
StageOption = Annotated[
    StageChoice | None, typer.Option("--stage", help="The stage to compare; else sft where the run sets it.")
]
Processes = Annotated[
    int | None, typer.Option(min=1, help="Processes that train; else WORLD_SIZE, or one copy of the model.")
]
Quantized = Annotated[bool, typer.Option("--quantized", help="The base of the adapters is quantized (QLoRA).")]


@app.command("installation", epilog=examples("retro doctor installation", "retro doctor installation --json"))
def installation(as_json: AsJson = False) -> None:
    """Check the installation: what is there, what is missing or wrong, and what to do."""
    from retro.run import doctor as examination

    raise typer.Exit(examination.run(as_json=as_json))


@app.command(
    "deepspeed",
    epilog=examples(
        "retro doctor deepspeed ds_config.json run.yaml --processes 8",
        "retro doctor deepspeed ds_config.json run.yaml train.lr=1e-4 --write ds_run.json",
    ),
)
def deepspeed(
    file: Annotated[
        Path, typer.Argument(metavar="DEEPSPEED.json", help="A DeepSpeed file; with --write, or run.yaml.")
    ],
    arguments: Words = None,
    stage: StageOption = None,
    processes: Processes = None,
    quantized: Quantized = False,
    write: Annotated[Path | None, typer.Option(help="Write the DeepSpeed file that matches the run.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite that file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare a DeepSpeed file with a run: every mismatch at once, and what to do; exit code 1 if there is one."""
    from retro.cli.doctor_report import report, say_written
    from retro.interop.deepspeed.config_check import check_config
    from retro.interop.deepspeed.settings_file import SettingsFile
    from retro.interop.deepspeed.write import matching_config, write_config
    from retro.run.doctor_cuda import examine

    alone = file.suffix in (".yaml", ".yml")
    if alone and write is None:
        need = "needs a DeepSpeed file, in JSON, before the run's YAML file; or --write, which makes one"
        raise ConfigError("DEEPSPEED.json", str(file), need)
    words = [str(file), *(arguments or [])] if alone else arguments
    config = read_named("doctor deepspeed ds_config.json", words)
    run = run_settings(config, stage, processes)
    theirs = None if alone else SettingsFile.read(file, "DeepSpeed file")
    if write is not None:
        write_config(write, matching_config(run, theirs, quantized=quantized), force=force)
    if theirs is None:
        say_written(write, run, as_json=as_json)
        return
    found = check_config(theirs, run, quantized=quantized)
    raise typer.Exit(report(found, run, examine(), written=write, as_json=as_json))


@app.command(
    "trainer",
    epilog=examples(
        "retro doctor trainer training_args.json run.yaml",
        "retro doctor trainer args.yaml run.yaml --stage sft --processes 4 --samples 6000",
    ),
)
def trainer(
    file: Annotated[Path, typer.Argument(metavar="ARGUMENTS", help="Arguments of a Trainer, .json or .yaml.")],
    arguments: Words = None,
    stage: StageOption = None,
    processes: Processes = None,
    quantized: Quantized = False,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Training samples; else the questions that sft is set to read.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the arguments of HuggingFace's Trainer with a run; a DeepSpeed file that they name is compared too."""
    from retro.cli.doctor_report import report
    from retro.interop.deepspeed.settings_file import SettingsFile
    from retro.interop.deepspeed.trainer_check import check_arguments
    from retro.run.doctor_cuda import examine

    config = read_named("doctor trainer training_args.json", arguments)
    run = run_settings(config, stage, processes)
    theirs = SettingsFile.read(file, "file of a Trainer's arguments")
    counted, why_not = (samples, "") if samples is not None else count_samples(config, run)
    found = check_arguments(theirs, run, samples=counted, quantized=quantized)
    found.notes += [why_not] if why_not else []
    raise typer.Exit(report(found, run, examine(), as_json=as_json))


def run_settings(config: RunConfig, stage: StageChoice | None, processes: int | None) -> RunSettings:
    """What a stage of a run trains with.

    Args:
        config: The run.
        stage: Which; None: sft where the run sets anything of it, else pretrain.
        processes: How many; None: as the launcher says, or as many as hold one copy of the model.

    Raises:
        ConfigError: The processes do not fit the run, or WORLD_SIZE is no number.
    """
    from retro.interop.deepspeed.run_settings import RunSettings

    named = stage or ("sft" if "sft" in config.model_fields_set else "pretrain")
    if processes is None:
        world = os.environ.get("WORLD_SIZE", str(config.parallel.model_ranks))
        if not (world.isdecimal() and world.isascii()):
            raise ConfigError("WORLD_SIZE", world, "needs a number of processes")
        processes = int(world)
    return RunSettings.of(named, config.sft.train if named == "sft" else config.train, config.parallel, processes)


def count_samples(config: RunConfig, run: RunSettings) -> tuple[int | None, str]:
    """The training samples of a run's sft stage, or why they are not known."""
    if run.stage != "sft":
        return None, "the samples of pretraining are counted by `retro pretrain`; --samples says them here"
    if config.sft.data.packing:
        return None, "sft.data.packing puts several samples in a sequence; --samples says how many sequences there are"
    from retro.qa.prompt_texts import load_prompts
    from retro.run.pipeline import stage as stage_named
    from retro.sft.sets import read_sets

    try:
        corpus = stage_named("corpus").path(config)
        sets = read_sets(config.sft.data, load_prompts(config.sft.data.prompts), "train", corpus, skip=True)
    except RetroError as error:
        return None, f"the samples of sft cannot be counted here ({error}); --samples says them"
    return sum(len(one.questions) for one in sets), ""
