#!/usr/bin/env python3
r"""Answer 500 questions of HotpotQA's distractor setting by decomposition, and score them.

    eval_hotpot_qa.py --model-path MODEL --hotpot-qa-dev-path hotpot_dev_distractor_v1.json --save-path OUT.json \
        [--retriever-path intfloat/e5-base-v2] [--inference-type hf|engine|vllm|llama_cpp|server] \
        [--tokenizer-path FOLDER] [--num-paragraphs 1] [setting=value ...]

Of a served model --model-path is its address. Safe to rerun: it goes on from the last batch.
Prints the one command that it ends in; RETRO_PRINT_ONLY=1: runs nothing.
"""

from __future__ import annotations

import os
import shlex
import sys

command = [sys.executable, "-m", "retro.recipes.multi_hop", "evaluate", *sys.argv[1:]]
print(shlex.join(command), flush=True)
if os.environ.get("RETRO_PRINT_ONLY") != "1":
    os.execv(command[0], command)
