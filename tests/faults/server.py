"""Runs stages in forked processes, so that torch, faiss and h5py are imported once; `LD_PRELOAD` has the shim.

Each line of standard input is a job: {"arguments": [...], "folder": ..., "nth": ..., "kind": ...}.
Each line of standard output is what came of it: {"code": ..., "calls": ..., "errors": ...}.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import tempfile
from typing import Any

_IMPORTED = (
    "faiss",
    "retro.cli.main",
    "retro.corpus.build",
    "retro.db.build",
    "retro.index.build",
    "retro.index.searcher",
    "retro.neighbors.build",
    "retro.pretrain.run",
    "retro.pretrain.perplexity",
    "retro.training.checkpoint_writer",
    "retro.sft.tune",
    "retro.index.retriever",
    "retro.generate.run",
    "retro.evaluate.score",
)
"""What the stages load, before any is run."""


def main() -> None:
    """Answer jobs until there are no more."""
    for name in _IMPORTED:
        importlib.import_module(name)
    answers = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin:
        os.write(answers, (json.dumps(_run(json.loads(line))) + "\n").encode())


def _run(job: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if not child:
            _stage(job, errors.fileno(), writing)
        os.close(writing)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reading) as calls:
            counted = calls.read()
        errors.seek(0)
        text = errors.read().decode("utf-8", "replace")
    return {"code": os.waitstatus_to_exitcode(status), "calls": int(counted or -1), "errors": text}


def _stage(job: dict[str, Any], errors: int, writing: int) -> None:
    from retro.cli.main import main as retro

    shim = ctypes.CDLL(None)
    shim.fault_count.restype = ctypes.c_long
    for stream in (1, 2):
        os.dup2(errors, stream)
    sys.argv = ["retro", *job["arguments"]]
    try:
        shim.fault_arm(job["folder"].encode(), ctypes.c_long(job["nth"]), job["kind"])
        retro()
        # Leaves as a process of its own would, through whatever the interpreter still has to say.
        sys.exit(0)
    finally:
        os.write(writing, str(shim.fault_count()).encode())
        os.close(writing)


if __name__ == "__main__":
    main()
