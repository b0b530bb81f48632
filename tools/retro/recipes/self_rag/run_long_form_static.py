#!/usr/bin/env python3
r"""Answer questions segment by segment, with citations, from the passages given with each.

    run_long_form_static.py --model_name MODEL --input_file asqa_eval_gtr_top100.json --output_file OUT.json \
        --task asqa --mode always_retrieve --ndocs 5 --max_new_tokens 300 --max_depth 7 --beam_width 2 \
        --use_grounding --use_utility --use_seqscore [setting=value ...]

MODEL is a tuned checkpoint of this toolkit or a folder in HuggingFace's form. Safe to rerun: it goes on from the last
batch. Prints the one command that it ends in; RETRO_PRINT_ONLY=1: runs nothing.
"""

from __future__ import annotations

import os
import shlex
import sys

command = [sys.executable, "-m", "retro.recipes.self_rag", "long", *sys.argv[1:]]
print(shlex.join(command), flush=True)
if os.environ.get("RETRO_PRINT_ONLY") != "1":
    os.execv(command[0], command)
