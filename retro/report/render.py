"""HTML pages from the templates beside this module: one file each, nothing loaded from elsewhere.

Texts are values that templates show, never templates: every one is escaped, `{{` in it stays as it is.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from retro.common.files import atomic_path
from retro.report import format

_FILTERS = ("count", "percent", "seconds", "size", "setting_name", "metric_name", "model_name", "color_of")


def render(template: str, **values: Any) -> str:
    """A page.

    Args:
        template: Name of a template, without `.html.j2`.
        values: What it shows; only `Markup` is taken for HTML.
    """
    return _environment().get_template(f"{template}.html.j2").render(**values)


def write_page(path: Path, html: str) -> None:
    """Write a page in one piece.

    Raises:
        ArtifactError: The disk is full.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("retro.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {name: getattr(format, name) for name in _FILTERS}
    made.globals["resource"] = _resource
    return made


def _resource(name: str) -> Markup:
    """A style or a script of ours, to stand inside a page."""
    return Markup(resources.files("retro.report").joinpath("templates", name).read_text(encoding="utf-8"))
