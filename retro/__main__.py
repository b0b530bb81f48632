"""The `retro` command, and `python -m retro`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


def main(command: Callable[[], None] | None = None) -> None:
    """Run the command line. One of several processes of a launcher ends without Python's own winding up.

    That one takes apart what threads of torch and gloo still use, and now and then ends in `terminate called without
    an active exception` and exit code 134.
    """
    # Closed by the shell: what is printed goes nowhere, and is not an error.
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    try:
        (command or _command_line())()
    except BaseException as error:
        # Looked at now: processes of srun are found on the way.
        if not _is_one_of_several():
            raise
        if isinstance(error, SystemExit):
            _end(error.code)
        if not isinstance(error, KeyboardInterrupt):
            traceback.print_exc()
        _end(130 if isinstance(error, KeyboardInterrupt) else 1)
    if _is_one_of_several():
        _end(0)


def _is_one_of_several() -> bool:
    world = os.environ.get("WORLD_SIZE", "1")
    return world.isdecimal() and int(world) > 1


def _command_line() -> Callable[[], None]:
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        # Until the command line has set its own: loading it takes a moment, in which nothing is begun.
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    from retro.cli.main import main as command_line

    return command_line


def _end(code: object) -> NoReturn:
    """End this process at once; only after success are the others waited for."""
    status = code if isinstance(code, int) else 0 if code is None else 1
    parallel = sys.modules.get("retro.mcore.parallel")
    if parallel is not None and status == 0:
        parallel.stop()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
