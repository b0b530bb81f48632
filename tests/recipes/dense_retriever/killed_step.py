"""A step in a process of its own that is killed by SIGKILL: `python -m … FOLDER STEP WRITES`, after so many writes.

Counted are blocks of embeddings and of what was found, and files that are put in their place.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retro.common import blocks, response_cache
from retro.recipes.base import RECIPES, run_recipe
from tests.recipes.dense_retriever.world import config_of


def main(folder: Path, step: str, writes: int) -> None:
    """Run the step; die behind a write."""
    done = 0

    def dying(own: Callable[..., Any]) -> Callable[..., Any]:
        def write(*args: Any, **more: Any) -> Any:
            nonlocal done
            made = own(*args, **more)
            done += 1
            if done == writes:
                os.kill(os.getpid(), signal.SIGKILL)
            return made

        return write

    for owner, name in ((response_cache.ResponseCache, "add"), (blocks.BlockStore, "write"), (os, "replace")):
        setattr(owner, name, dying(getattr(owner, name)))
    run_recipe(RECIPES.find("dense_retriever", "recipe"), config_of(folder), step)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
