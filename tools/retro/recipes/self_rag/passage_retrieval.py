#!/usr/bin/env python3
r"""Put the best passages beside each question: the items of --data, as they are, with ctxs: [{id, title, text, score}].

    passage_retrieval.py --model_name_or_path MODEL --passages psgs_w100.tsv --passages_embeddings "DIR/*" \
        --data questions.jsonl --output_dir OUT [--n_docs 20] [setting=value ...]

OUT is a file that ends in .json or .jsonl, or a folder. An item needs a `question` or an `instruction`. Safe to rerun:
it goes on from the last block of questions.
Prints the one command that it ends in; RETRO_PRINT_ONLY=1: runs nothing.
"""

from __future__ import annotations

import os
import shlex
import sys

command = [sys.executable, "-m", "retro.recipes.passages", "retrieve", *sys.argv[1:]]
print(shlex.join(command), flush=True)
if os.environ.get("RETRO_PRINT_ONLY") != "1":
    os.execv(command[0], command)
