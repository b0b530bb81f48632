"""One modelling file for transformers, made from our own sources, so that it cannot drift from them.

The canonical weight names, the reference and `causal_lm.py` are joined: module docstrings and imports go, the imports
that are left come first, and everything else is copied to the letter. One name changes: what reads a `ModelShape` here
reads the folder's `RetroConfig` there, which has the same attributes.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from importlib import resources

from retro import __version__

MODELING = "modeling_retro.py"
_PARTS = (("retro.model", "weight_names.py"), ("retro.model", "reference.py"), ("retro.interop", "causal_lm.py"))
_OURS = ("retro", "__future__")
_HEAD = '''"""Retro for transformers, in plain torch. Written by instruct-retro {version}; change it there."""

from __future__ import annotations

{imports}
'''


def modeling_source() -> str:
    """The text of `modeling_retro.py`."""
    sources = [resources.files(room).joinpath(name).read_text(encoding="utf-8") for room, name in _PARTS]
    bodies = [_body(source).replace("ModelShape", "RetroConfig") for source in sources]
    head = _HEAD.format(version=__version__, imports=_foreign_imports("\n".join(sources)))
    return head + "\n\n" + "\n\n\n".join(bodies) + "\n"


def _foreign_imports(source: str) -> str:
    """The imports of other packages, each module once, as lines: the standard library first."""
    whole: set[str] = set()
    parts: dict[str, set[str]] = defaultdict(set)
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            whole |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] not in _OURS:
            parts[node.module] |= {alias.name for alias in node.names}
    lines = [f"import {name}" for name in sorted(whole)]
    lines += [f"from {module} import {', '.join(_in_order(names))}" for module, names in sorted(parts.items())]
    ours, foreign = ([line for line in lines if _is_foreign(line) == wanted] for wanted in (False, True))
    return "\n".join([*ours, "", *foreign])


def _in_order(names: Iterable[str]) -> list[str]:
    """Classes first, then by letters: as ruff wants imports."""
    return sorted(names, key=lambda name: (not name[0].isupper(), name.casefold()))


def _is_foreign(line: str) -> bool:
    return line.split()[1].split(".")[0] not in sys.stdlib_module_names


def _body(source: str) -> str:
    """The text without its docstring and imports; comments stay."""
    lines = source.splitlines()
    tree = ast.parse(source).body
    dropped: list[ast.stmt] = [node for node in tree if isinstance(node, ast.Import | ast.ImportFrom)]
    if ast.get_docstring(ast.parse(source)) is not None:
        dropped.append(tree[0])
    gone = {number for node in dropped for number in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    kept = [line for number, line in enumerate(lines, start=1) if number not in gone]
    # Where imports were, more blank lines are left than two.
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(kept)).strip("\n")
