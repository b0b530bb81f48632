"""One process of a test under gloo: a step of the tiny recipe.

`python -m tests.parallel.recipe_worker FOLDER STEP SETTING...`, in an environment as torchrun makes it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from retro.mcore import parallel
from retro.recipes.base import run_recipe
from tests.recipes.tiny_recipe import Tiny
from tests.tiny_road import small_config


def main() -> None:
    """Run the step."""
    folder, step, *settings = sys.argv[1:]
    run_recipe(Tiny(), small_config(Path(folder), *settings, write=False), step)
    parallel.stop()


if __name__ == "__main__":
    main()
