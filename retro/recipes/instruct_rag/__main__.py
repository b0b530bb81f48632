"""`python -m retro.recipes.instruct_rag …`; see `retro.recipes.instruct_rag.command`."""

from __future__ import annotations

import sys

from retro.recipes.instruct_rag.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
