"""`python -m retro.recipes.multi_hop create …`, and the other commands of `command.py`."""

from __future__ import annotations

import sys

from retro.recipes.multi_hop.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
