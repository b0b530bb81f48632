"""The page at `/`: one file that loads nothing, with a policy that allows its own script and style alone."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources


@cache
def page_text() -> str:
    """The page."""
    return resources.files("retro.serve").joinpath("page.html").read_text(encoding="utf-8")


@cache
def page_policy(text: str) -> str:
    """The Content-Security-Policy of a page: its own inline script and style by their hash, and its own server."""
    script = " ".join(_hashes("script", text)) or "'none'"
    style = " ".join(_hashes("style", text)) or "'none'"
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(element: str, text: str) -> list[str]:
    found = re.findall(rf"<{element}>(.*?)</{element}>", text, flags=re.DOTALL)
    digests = (hashlib.sha256(one.encode("utf-8")).digest() for one in found)
    return [f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests]
