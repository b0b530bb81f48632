"""`python -m retro`: the same as the `retro` command."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from retro import cli


def main(command: Callable[[], None] = cli.main) -> None:
    """Run the command line. One of several processes of a launcher ends without Python's own winding up.

    That one takes apart what threads of torch and gloo still use, and now and then ends in `terminate called without
    an active exception` and exit code 134.
    """
    try:
        command()
    except BaseException as error:
        # Looked at now: processes of srun are found on the way.
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            raise
        if isinstance(error, SystemExit):
            _end(error.code)
        if not isinstance(error, KeyboardInterrupt):
            traceback.print_exc()
        _end(130 if isinstance(error, KeyboardInterrupt) else 1)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _end(0)


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
