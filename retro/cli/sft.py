"""`retro sft`: with a config it runs the stage; its commands convert and measure what is tuned on.

retro sft run.yaml                      the stage, as any other
retro sft convert dolly in.jsonl data/dolly
retro sft stats run.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from retro.cli.options import AsJson, DefaultCommandGroup, examples, read_arguments
from retro.cli.stages import stage_command
from retro.common.terminal import output

MeasuredRun = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.yaml] [section.setting=value]...", help="The run whose tuning is measured."),
]


class _SftGroup(DefaultCommandGroup):
    default = "tune"


app = typer.Typer(
    cls=_SftGroup,
    help="Tune on instructions (`retro sft CONFIG.yaml`), or convert and measure what is tuned on.",
    epilog=examples("retro sft run.yaml", "retro sft convert dolly dolly.jsonl data/dolly"),
    rich_markup_mode=None,
)
app.command("tune", epilog=examples("retro sft tune run.yaml", "retro sft tune run.yaml --redo"))(stage_command("sft"))


@app.command(
    epilog=examples(
        "retro sft convert dolly dolly.jsonl data/dolly",
        "retro sft convert squad train-v1.1.json data/squad --dev 0.1 --corpus data/squad.jsonl",
    )
)
def convert(
    form: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="alpaca, dolly, sharegpt, oasst, chat, squad, nq_open, triviaqa, hotpotqa, boolq, "
            "conflictqa, nq_swap, faitheval_unanswerable, faitheval_inconsistent or faitheval_counterfactual.",
        ),
    ],
    path: Annotated[Path, typer.Argument(metavar="IN", help="The public file.")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A set's folder, for OUT/<name>_QA_<part>.json; or a file.")
    ],
    part: Annotated[str, typer.Option(help="What the file is: train, dev or test.")] = "train",
    dev: Annotated[float, typer.Option(help="Share of the questions that go to a dev file, by their ids.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the choice.")] = 1234,
    turns: Annotated[
        Literal["last", "every"], typer.Option(help="Conversations: learn the last reply, or each of them.")
    ] = "last",
    paths: Annotated[
        Literal["best", "all"], typer.Option(help="oasst: the best-ranked replies, or all conversations.")
    ] = "best",
    language: Annotated[str, typer.Option(help="oasst: only this language, as en.")] = "",
    passages: Annotated[bool, typer.Option("--passages", help="dolly: its context becomes a passage.")] = False,
    corpus: Annotated[
        Path | None, typer.Option(help="Write the passages there too (.jsonl), for the corpus stage.")
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Count items that cannot be used, instead of stopping at the first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a public file of questions or chats into question files that `retro` tunes on and asks."""
    from retro.qa.formats.item import Options
    from retro.qa.formats.write import ConversionOptions, run

    options = Options(turns=turns, paths=paths, language=language, passages=passages)
    wanted = ConversionOptions(
        name=form, path=path, out=out, options=options, part=part, dev=dev, seed=seed, corpus=corpus,
        skip_bad=skip_bad,
    )  # fmt: skip
    made = run(wanted)
    if as_json:
        output.json(made)
        return
    for file, count in made["files"].items():
        output.say(f"{file}: {count:,} questions")


@app.command(
    epilog=examples("retro sft stats run.yaml", "retro sft stats run.yaml sft.data.contexts_in_prompt=3 --json")
)
def stats(words: MeasuredRun = None, as_json: AsJson = False) -> None:
    """Measure how long prompts, passages and answers are, and what fits, before any tuning."""
    from retro.cli.sft_stats import show_stats

    show_stats(read_arguments(words), as_json=as_json)
