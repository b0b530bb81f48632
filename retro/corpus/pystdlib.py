"""The built-in corpus `pystdlib`: the documentation inside the running Python, nothing downloaded.

`help()`'s topics and the standard library's docstrings, about 290,000 words under Python 3.11. The words differ
between Python releases, so a corpus made from them records the interpreter and the text's SHA-256.
"""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from retro.common.errors import DataError
from retro.common.files import atomic_path, read_kept_json, sha256_file, write_json
from retro.corpus import pystdlib_collect

log = logging.getLogger(__name__)

_COLLECTOR_VERSION = 1
_TIMEOUT_S = 300


def interpreter() -> str:
    """Which Python this is: `CPython 3.11.7 linux`; the docstrings of C modules differ by platform."""
    return f"{platform.python_implementation()} {platform.python_version()} {sys.platform}"


def origin_path(path: Path) -> Path:
    """Where it is written which interpreter the text file `path` comes from."""
    return path.with_suffix(".origin.json")


def is_collected(path: Path) -> bool:
    """Whether this interpreter has written the corpus to `path`, and it is whole."""
    known = read_kept_json(origin_path(path), "the documentation is read again")
    return known is not None and path.exists() and known == _origin() | {"sha256": sha256_file(path)}


def collect_documents(path: Path) -> None:
    """Write the corpus to `path` as JSON lines, unless this interpreter already has.

    Raises:
        DataError: The collecting process failed, or found nothing.
    """
    if is_collected(path):
        return
    log.info("corpus: reading the documentation of %s", interpreter())
    with atomic_path(path) as temporary:
        _collect(temporary)
    write_json(origin_path(path), _origin() | {"sha256": sha256_file(path)})


def _origin() -> dict[str, Any]:
    return {"interpreter": interpreter(), "collector": _COLLECTOR_VERSION}


def _collect(path: Path) -> None:
    script = Path(pystdlib_collect.__file__)
    # No site packages, no user's start-up files, and an environment in which nothing finds a display or a browser.
    command = [sys.executable, "-S", "-s", "-P", "-B", str(script), str(path.resolve())]
    with tempfile.TemporaryDirectory() as empty:
        environment = {
            "PATH": os.defpath,
            "HOME": empty,
            "TERM": "dumb",
            "LC_ALL": "C.UTF-8",
            "PYTHONHASHSEED": "0",
            "BROWSER": "true",
        }
        try:
            done = subprocess.run(
                command, env=environment, cwd=empty, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DataError("pystdlib", f"the collecting process failed ({error})", _REMEDY) from None
    if done.returncode != 0 or not path.exists() or path.stat().st_size == 0:
        tail = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        problem = f"the collecting process ended with code {done.returncode} {' '.join(tail)}".strip()
        raise DataError("pystdlib", problem, _REMEDY)


_REMEDY = f"Check that `{sys.executable} -c 'import pydoc_data.topics'` works, or give a text of your own as source"
