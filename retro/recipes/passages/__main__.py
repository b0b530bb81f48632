"""`python -m retro.recipes.passages embed …` and `… retrieve …`."""

from __future__ import annotations

import sys

from retro.recipes.passages.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
