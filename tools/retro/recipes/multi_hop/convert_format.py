#!/usr/bin/env python3
r"""Convert files or folders of multi-hop items between the new layout and the old one, and join them; either is read.

    convert_format.py IN [IN ...] OUT [--layout new|old] [--skip-bad] [--validation-share 0.1] [--seed 1234]

IN is a file (.json, .jsonl, .parquet) or a folder with train, validation, test, as HuggingFace's. OUT is a .json or
.jsonl file, or a folder where an IN is one or a part is held out.
Prints the one command that it ends in; RETRO_PRINT_ONLY=1: runs nothing.
"""

from __future__ import annotations

import os
import shlex
import sys

command = [sys.executable, "-m", "retro.recipes.multi_hop", "convert-format", *sys.argv[1:]]
print(shlex.join(command), flush=True)
if os.environ.get("RETRO_PRINT_ONLY") != "1":
    os.execv(command[0], command)
