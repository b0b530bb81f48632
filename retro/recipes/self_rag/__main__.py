"""`python -m retro.recipes.self_rag short …` and `… long …`."""

from __future__ import annotations

import sys

from retro.recipes.self_rag.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
