"""One process of a test under gloo: the generation stage on a finished run, its model spread as asked.

`python -m tests.parallel.generating_worker FOLDER OUT SETTING...`, in an environment as torchrun makes it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from retro.generate import run as generate_run
from retro.mcore import parallel
from retro.run.pipeline import model_paths
from tests.tiny_road import small_config


def main() -> None:
    """Answer the small run's questions."""
    folder, out, *settings = sys.argv[1:]
    config = small_config(Path(folder), *settings, write=False)
    generate_run.run(config.generate, config.parallel, model_paths(config), Path(out))
    parallel.stop()


if __name__ == "__main__":
    main()
