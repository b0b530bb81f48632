#!/usr/bin/env python3
r"""Embed a shard of the passages, as Contriever's tools do: <output_dir>/<prefix>_<shard_id>.

    generate_passage_embeddings.py --model_name_or_path MODEL --passages psgs_w100.tsv --output_dir DIR \
        [--shard_id 0 --num_shards 4] [setting=value ...]

Shards may be made at the same time, one process on each GPU (CUDA_VISIBLE_DEVICES). Safe to rerun: a shard that is
there stays, one that was begun goes on.
Prints the one command that it ends in; RETRO_PRINT_ONLY=1: runs nothing.
"""

from __future__ import annotations

import os
import shlex
import sys

command = [sys.executable, "-m", "retro.recipes.passages", "embed", *sys.argv[1:]]
print(shlex.join(command), flush=True)
if os.environ.get("RETRO_PRINT_ONLY") != "1":
    os.execv(command[0], command)
