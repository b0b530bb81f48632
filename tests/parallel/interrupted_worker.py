"""One of two processes under gloo that train until they are stopped; its argument is the directory of the run."""

from __future__ import annotations

import sys

from retro.__main__ import main
from tests.parallel.worker import train_once


def train_for_ever() -> None:
    settings = {"steps": 100_000, "save_every": 2, "async_save": True}
    train_once(out=sys.argv[1], layout={}, model={}, settings=settings)


if __name__ == "__main__":
    main(train_for_ever)
