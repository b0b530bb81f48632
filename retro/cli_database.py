"""`retro db`: with a config it runs the stage; its commands change a database that lives.

retro db run.yaml                       the stage, as any other
retro db add run.yaml new.jsonl         and replace, remove, compact, versions
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from retro.cli_common import AsJson, read_arguments
from retro.common.errors import ConfigError, DataError
from retro.common.terminal import output
from retro.run.pipeline import database_home

if TYPE_CHECKING:
    from retro.run.config import RunConfig


Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.yaml] [section.setting=value]...", help="The run that the database belongs to."),
]
WordsAndPath = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.yaml] PATH [section.setting=value]...", help="The run, and a file or folder of documents."
    ),
]
Source = Annotated[
    str | None, typer.Option(help="The source the documents belong to; not needed where there is only one.")
]
STAGE = "build"


class StageOrCommand(TyperGroup):
    """A group of commands that runs the stage when its first word is none of them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the stage's name before the words that are meant for it."""
        if not args or args[0] not in {*self.commands, "--help"}:
            args = [STAGE, *args]
        return super().parse_args(ctx, args)


def database_app(run_stage: Callable[..., None]) -> typer.Typer:
    """The `db` group.

    Args:
        run_stage: The command that runs the db stage.
    """
    app = typer.Typer(
        cls=StageOrCommand,
        help="Token files to the chunk database (`retro db CONFIG.yaml`), or a change of one that lives.",
        rich_markup_mode=None,
    )
    app.command(STAGE)(run_stage)

    @app.command()
    def add(words: WordsAndPath = None, source: Source = None) -> None:
        """Add the documents of a file or folder: the next version of the database."""
        from retro.updates import change

        config, path = _run_and_path(words)
        change.add(database_home(config), path, source)

    @app.command()
    def replace(words: WordsAndPath = None, source: Source = None) -> None:
        """Replace documents by those of the same ids in a file or folder: the next version."""
        from retro.updates import change

        config, path = _run_and_path(words)
        change.replace_documents(database_home(config), path, source)

    @app.command()
    def remove(
        words: Words = None,
        id_: Annotated[list[str] | None, typer.Option("--id", help="A document's id; may be given again.")] = None,
        ids: Annotated[Path | None, typer.Option(help="A file with one id a line.")] = None,
        source: Source = None,
    ) -> None:
        """Remove documents: the next version."""
        from retro.updates import change

        wanted = [*(id_ or []), *(_lines(ids) if ids else [])]
        if not wanted:
            raise ConfigError("--id", wanted, "needs the id of a document, or --ids FILE")
        change.remove(database_home(_own_run(words)), wanted, source)

    @app.command()
    def compact(words: Words = None) -> None:
        """Write what lives into one database and one index, nothing tokenised or embedded again: the next version."""
        from retro.updates.compact import compact as compact_database

        compact_database(database_home(_own_run(words)))

    @app.command()
    def versions(words: Words = None, as_json: AsJson = False) -> None:
        """List the versions of the database."""
        from retro.updates.show import numbers_of, table_of

        home = database_home(_own_run(words))
        if as_json:
            output.json(numbers_of(home))
        else:
            output.table(table_of(home))

    return app


def _own_run(words: list[str] | None) -> RunConfig:
    config = read_arguments(words)
    if config.database.run_dir is not None:
        need = "needs to be left out: a database is changed through its own run's config"
        raise ConfigError("database.run_dir", str(config.database.run_dir), need)
    return config


def _run_and_path(words: list[str] | None) -> tuple[RunConfig, Path]:
    """A config ends in .yaml or .yml, a setting has an equals sign; the word that is left is the path."""
    paths = [word for word in words or [] if "=" not in word and not word.endswith((".yaml", ".yml"))]
    if len(paths) != 1:
        raise ConfigError(
            "PATH", paths, "needs one file or folder of documents, as in `retro db add run.yaml new.jsonl`"
        )
    return _own_run([word for word in words or [] if word != paths[0]]), Path(paths[0])


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read ({error})", "Give a UTF-8 file with one id a line") from None
