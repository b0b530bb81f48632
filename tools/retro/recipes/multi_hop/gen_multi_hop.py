#!/usr/bin/env python3
r"""Make multi-hop questions with a teacher: two entities, two attributes of one entity, or the older comparison.

    gen_multi_hop.py --category-path categories.txt --num-items-per-category 1 --output-folder OUT --llm MODEL|URL \
        [--flow entities] [--multi-qa-prompt FILE] [--temperature 0.7] [--re-generate-answer] [--continue-gen] \
        [setting=value ...]

Leaves raw_multi_hop_qa.json, filtered.json and final.json in OUT. Safe to rerun: it goes on, and asks for nothing
twice.
Prints the one command that it ends in; RETRO_PRINT_ONLY=1: runs nothing.
"""

from __future__ import annotations

import os
import shlex
import sys

command = [sys.executable, "-m", "retro.recipes.multi_hop", "create", *sys.argv[1:]]
print(shlex.join(command), flush=True)
if os.environ.get("RETRO_PRINT_ONLY") != "1":
    os.execv(command[0], command)
