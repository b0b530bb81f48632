"""What all commands share: options of the log, words that name a run, examples in their help, how they end."""

from __future__ import annotations

import inspect
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from retro.common.errors import ConfigError
from retro.common.launcher import SPAWNED, end_with_parent, worker_of
from retro.common.progress import Progress, set_up_logging
from retro.common.terminal import complain
from retro.run.pipeline import STAGES

if TYPE_CHECKING:
    from retro.run.config import RunConfig

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.yaml] [section.setting=value]...", help="A run's YAML file and settings that override it."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Redo = Annotated[bool, typer.Option("--redo", help="Remove the results of this stage and the later ones first.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes on this machine that share the work.")]

EXAMPLES = "tools/retro/examples/configs"
_GOES_ON = {*(stage.name for stage in STAGES), "run", "leakage", "sweep"}
"""Commands that continue where they were stopped."""


def _log_options(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log only warnings and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log debug messages too.")] = False,
    log_file: Annotated[Path | None, typer.Option("--log-file", help="Also append the log to this file.")] = None,
) -> None:
    """Set up the log. Every command has these options."""
    end_with_parent()
    set_up_logging(quiet=quiet, verbose=verbose, rank=worker_of().rank, file=log_file)


_LOG_PARAMETERS = inspect.signature(_log_options, eval_str=True).parameters


def share_log_options(app: typer.Typer) -> None:
    """Give every command of `app`, and of the groups below it, the options of the log."""
    for command in app.registered_commands:
        if command.callback is not None:
            command.callback = _with_log_options(command.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            share_log_options(group.typer_instance)


def _with_log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    own = inspect.signature(command, eval_str=True)

    def both(**given: Any) -> Any:
        _log_options(**{name: given.pop(name) for name in _LOG_PARAMETERS})
        return command(**given)

    both.__name__, both.__doc__ = command.__name__, command.__doc__
    both.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*own.parameters.values(), *_LOG_PARAMETERS.values()]
    )
    return both


def read_arguments(arguments: Sequence[str] | None, extra: Sequence[str] = ()) -> RunConfig:
    """The run config from a command's words: at most one file, then overrides."""
    files = [text for text in arguments or [] if "=" not in text]
    overrides = [text for text in arguments or [] if "=" in text]
    if len(files) > 1:
        raise ConfigError("arguments", files, "needs one config file; settings have the form section.setting=value")
    # Settings cost half of what the shortest commands take, so `retro --help` does without them.
    from retro.run.config import load_run_config

    config = load_run_config(Path(files[0]) if files else None, [*overrides, *extra])
    if config.recipe:
        from retro.recipes.base import require_recipes

        require_recipes(config)
    return config


def read_named(command: str, arguments: Sequence[str] | None, extra: Sequence[str] = ()) -> RunConfig:
    """As `read_arguments`, for commands that work long: what they work on must have been named.

    Raises:
        ConfigError: It was not. Defaults alone would read Python's documentation and train for an hour.
    """
    config = read_arguments(arguments, extra)
    words = arguments or []
    # A stage after the first needs what the ones before it made, so that its run is named by its directory.
    begins = command in ("run", "corpus")
    nothing = begins and config.model_fields_set <= {"run_dir"}
    if nothing or not any("=" not in word or not begins or word.startswith("corpus.") for word in words):
        found = f"retro {shlex.join([command, *words])}"
        need = f"needs a run's YAML file, as in `retro {command} {EXAMPLES}/quickstart.yaml`"
        raise ConfigError("CONFIG", None, f"{need}; `{found}` names no text to work on" if begins else need)
    return config


def next_command(command: str, arguments: Sequence[str] | None) -> str:
    """A command for the same run, as it is typed."""
    return shlex.join(["retro", *command.split(), *(arguments or [])])


def examples(*commands: str) -> str:
    """The end of a command's help: command lines that can be typed as they are, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def summary_of(command: Any) -> str:
    """The first paragraph of a command's help, whole; click's own list cuts it at the terminal's width."""
    return " ".join((command.help or "").split("\n\n")[0].split())


class DefaultCommandGroup(TyperGroup):
    """A group of commands whose first word may be left out: it is then `default`, whose options the help shows too."""

    default = ""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command before the words that are meant for it."""
        if not args or args[0] not in {*self.commands, "--help"}:
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The options of the default command, then the list of the others."""
        self.commands[self.default].format_options(ctx, formatter)
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary_of(command)) for name, command in self.commands.items()])


def print_how_to_resume(number: int) -> None:
    """Say why the process ends, and how to continue; spawned workers and ranks above 0 leave it to the first."""
    if SPAWNED in os.environ or os.environ.get("RANK", "0") != "0":
        return
    Progress.clear()
    why = "stopped by Ctrl-C" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    words = [word for word in sys.argv[1:] if word != "--redo"]
    names = [word for word in words if not word.startswith("-")]
    if not names or names[0] not in _GOES_ON or (len(names) > 1 and f"{names[0]} {names[1]}" in _CHANGES):
        complain(why)
    elif "WORLD_SIZE" in os.environ:
        complain(f"{why}; what is finished is kept. Go on with the same command, without --redo")
    else:
        complain(f"{why}; what is finished is kept. Go on with: {next_command('', words)}")


_CHANGES = {f"db {change}" for change in ("add", "replace", "remove", "compact", "versions")} | {"sft stats"}
