"""Commands with the names and flags of other programs: each ends in one call of ours, a mistake in one line.

A flag that would do nothing here is refused: who gives it expects something of it. Settings of ours may follow.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from retro.common.config import unknown_name
from retro.common.errors import ConfigError, RetroError
from retro.common.launcher import worker_of
from retro.common.progress import Progress, set_up_logging
from retro.common.terminal import complain, never_fail_to_encode, output

Flags = Mapping[str, Mapping[str, Any]]
"""By name, the arguments of `ArgumentParser.add_argument`."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise what the command ends with."""
        raise ConfigError(self.prog.rpartition(" ")[2], None, f"{message}; see `{self.prog} --help`")


def main(run: Callable[[Sequence[str]], str], words: Sequence[str]) -> int:
    """Run a command; a user's mistake is one line on standard error and exit code 2.

    Args:
        run: Does it, and says in a line what was made.
        words: The command line.

    Returns:
        The exit code.
    """
    never_fail_to_encode()
    set_up_logging(rank=worker_of().rank)
    try:
        output.say(run(words))
    except RetroError as error:
        Progress.clear()
        complain(str(error))
        return 2
    except KeyboardInterrupt:
        Progress.clear()
        complain("stopped; the same command goes on from here")
        return 130
    return 0


def command_of(program: str, words: Sequence[str], known: Sequence[str]) -> str:
    """The first word, which says what is to be done.

    Raises:
        ConfigError: It is none of the known ones.
    """
    name = words[0] if words else ""
    if name not in known:
        raise ConfigError(program, name or None, unknown_name(name, list(known)).replace("a setting", "a command"))
    return name


def parse(
    program: str, words: Sequence[str], summary: str, flags: Flags, inapplicable: Mapping[str, str]
) -> tuple[argparse.Namespace, list[str]]:
    """The flags of a command, and the settings behind them.

    Args:
        program: With the command, as people type it.
        words: What follows the command.
        summary: One line of help.
        flags: Those that it has.
        inapplicable: Flags of the other program that would do nothing here, and why.

    Raises:
        ConfigError: A flag is unknown, missing, or of no use here.
    """
    for word in words:
        flag = word.partition("=")[0]
        if flag in inapplicable:
            raise ConfigError(flag, True, f"needs to be left out: {inapplicable[flag]}")
    parser = _Parser(prog=program, description=summary, allow_abbrev=False)
    for flag, options in flags.items():
        parser.add_argument(flag, **options)
    parser.add_argument("settings", nargs="*", metavar="setting=value", help="settings of ours")
    given, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        name = program.rpartition(" ")[2]
        need = unknown_name(unknown[0], list(flags)).replace("a setting", f"a flag of {name}")
        raise ConfigError("flags", unknown[0], need)
    return given, list(given.settings)
