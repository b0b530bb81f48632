#!/usr/bin/env python3
r"""Answer questions in a few words, from the best of the passages given with each, and score them.

    run_short_form.py --model_name MODEL --input_file popqa_longtail_w_gs.jsonl --output_file OUT.json \
        --mode adaptive_retrieval --threshold 0.2 --ndocs 10 --max_new_tokens 100 --metric match \
        --use_groundness --use_utility --use_seqscore [--task arc_c] [setting=value ...]

MODEL is a tuned checkpoint of this toolkit or a folder in HuggingFace's form. Safe to rerun: it goes on from the last
batch. Prints the one command that it ends in; RETRO_PRINT_ONLY=1: runs nothing.
"""

from __future__ import annotations

import os
import shlex
import sys

command = [sys.executable, "-m", "retro.recipes.self_rag", "short", *sys.argv[1:]]
print(shlex.join(command), flush=True)
if os.environ.get("RETRO_PRINT_ONLY") != "1":
    os.execv(command[0], command)
