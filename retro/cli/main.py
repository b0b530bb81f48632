"""The `retro` command: its groups, and the one place that turns a RetroError into one line and exit code 2."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from retro import __version__
from retro.cli import alce, databases, doctor, models, questions, recipes, sft, stages, tools
from retro.cli.options import examples, print_how_to_resume, share_log_options, summary_of
from retro.common.errors import ConfigError, RetroError
from retro.common.files import failed_write
from retro.common.progress import Progress
from retro.common.stopping import Stopped, end, handle_signals
from retro.common.terminal import complain, never_fail_to_encode, output

HEADINGS: dict[str, tuple[str, ...]] = {
    "Pipeline, in order": (
        *("init", "run", "corpus", "db", "index", "neighbors", "pretrain", "perplexity", "sft", "generate"),
        "evaluate",
    ),
    "Questions": ("ask", "serve", "tasks", "compare", "lm-eval", "sweep", "alce", "export-answers"),
    "Recipes": ("recipe",),
    "Databases": ("import-db", "inspect", "compare-neighbors", "leakage"),
    "Models": ("plan", "convert", "merge-lora", "export", "export-lora", "import-lora"),
    "Tools": ("quickstart", "status", "verify", "doctor", "config"),
}
"""The commands, as `retro --help` lists them."""
_OLD_NAMES = {"matrix": "sweep"}
"""Commands of earlier versions, accepted with a line that names the new one."""


_OLD_OPTIONS = {"--utilisation": "--utilization"}
"""Options of earlier versions, accepted in the same way."""


class _Commands(TyperGroup):
    """The commands under headings, each with its whole first sentence."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of HEADINGS."""
        return [name for names in HEADINGS.values() for name in names]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, options of earlier versions by their new names."""
        return super().parse_args(ctx, [_current_option(word) for word in args])

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or of its old name."""
        if cmd_name in _OLD_NAMES:
            complain(f"`retro {cmd_name}` is `retro {_OLD_NAMES[cmd_name]}` now; the old name works in this version")
        return super().get_command(ctx, _OLD_NAMES.get(cmd_name, cmd_name))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """One list for each heading."""
        for heading, names in HEADINGS.items():
            with formatter.section(heading):
                formatter.write_dl([(name, summary_of(self.commands[name])) for name in names])


def _current_option(word: str) -> str:
    name, equals, value = word.partition("=")
    if name not in _OLD_OPTIONS:
        return word
    complain(f"`{name}` is `{_OLD_OPTIONS[name]}` now; the old name works in this version")
    return _OLD_OPTIONS[name] + equals + value


app = typer.Typer(
    cls=_Commands,
    name="retro",
    help="Retrieval-augmented language models on megatron-core: corpus → evaluation.",
    epilog=examples("retro quickstart", 'retro ask --documents notes/ "When is the meeting?"'),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _group in (stages.app, databases.app, questions.app, alce.app, models.app, recipes.app, tools.app):
    app.add_typer(_group)
app.add_typer(databases.database, name="db")
app.add_typer(sft.app, name="sft")
app.add_typer(models.plan, name="plan")
app.add_typer(tools.config, name="config")
app.add_typer(doctor.app, name="doctor")

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


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        output.say(__version__)
        raise typer.Exit


share_log_options(app)
