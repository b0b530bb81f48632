"""One of several processes that train together, as torchrun starts them: `python -m … HOME SETTINGS_BY_NAME`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.recipes.dense_retriever.runs import do

if __name__ == "__main__":
    for name, sections in json.loads(sys.argv[2]).items():
        do(Path(sys.argv[1]) / name, "train", **sections)
