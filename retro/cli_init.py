"""`retro init`: writes a run's YAML file for somebody's text, and says what was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retro.common.terminal import Table, output


def add_init(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def init(
        folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of text, or one file.")],
        questions: Annotated[
            Path | None, typer.Option(help="Questions with answers (.json, .jsonl) to tune on and to ask.")
        ] = None,
        minutes: Annotated[float, typer.Option(help="How long the run may take on this machine, about.")] = 10.0,
        out: Annotated[Path, typer.Option("--output", help="The YAML file to write.")] = Path("run.yaml"),
        force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    ) -> None:
        """Write a run's YAML file for a folder of text: documents, split, tokenizer, model and steps, with reasons."""
        from retro.init.run import Options, run

        made = run(Options(folder=folder, questions=questions, minutes=minutes, output=out, force=force))
        table = Table(title=f"{made.output}, for about {minutes:g} minutes")
        table.add_column("setting", fold=True)
        table.add_column("why")
        for choice in made.choices:
            if choice.why:
                table.add_row(f"{choice.setting}: {choice.value}", choice.why)
        output.table(table)
        if made.files:
            output.say(f"questions: {', '.join(map(str, made.files))}")
        output.say(f"next: {made.command}")
