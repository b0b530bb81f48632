"""The processes of a test under gloo: forked from one that has imported everything, which takes seconds each time.

`python -m tests.parallel.forked MODULE ARGUMENT ...` in an environment as torchrun makes it, but for the rank. One that
fails ends the others, which would wait for it.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable


def main() -> int:
    """Run the module's `main` in all processes; 1 where one of them failed."""
    module = importlib.import_module(sys.argv[1])
    sys.argv = sys.argv[1:]
    running = {_forked(rank, module.main) for rank in range(int(os.environ["WORLD_SIZE"]))}
    failed = 0
    while running:
        process, status = os.wait()
        running.discard(process)
        if status and not failed:
            failed = 1
            for other in running:
                os.kill(other, signal.SIGKILL)
    return failed


def _forked(rank: int, work: Callable[[], None]) -> int:
    process = os.fork()
    if process:
        return process
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001 - a forked process must not continue as the one it is a copy of
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
