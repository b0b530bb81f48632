from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import DependencyError
from retro.corpus.config import SourceConfig
from retro.corpus.files import resolve
from retro.corpus.html import page_of
from retro.corpus.layouts import Document, Reject, read_source

PAGE = """<!DOCTYPE html><html><head><title> A  caf\u00e9 </title><style>p {color: red}</style>
<script>var hidden = "<p>no</p>";</script></head><body><!-- no comment --><h1>Opening</h1>
<p>One <b>bold</b> word &amp; more.</p><ul><li>first</li><li>second</li></ul></body></html>"""


def test_without_inscriptis_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(
        DependencyError, match=r'inscriptis: takes the text .*Run `pip install "instruct-retro\[formats\]"`'
    ):
        page_of(b"<p>text</p>")


def test_a_page_is_its_text_without_markup_scripts_and_styles() -> None:
    pytest.importorskip("inscriptis")
    page = page_of(PAGE.encode())
    assert page.title == "A caf\u00e9"
    assert [line.strip() for line in page.text.split("\n") if line.strip()] == [
        "Opening",
        "One bold word & more.",
        "* first",
        "* second",
    ]


# The second name is one that Python knows and lxml does not.
@pytest.mark.parametrize("name", ["iso-8859-1", "latin-1"])
def test_the_character_set_of_a_page_is_used_where_it_is_not_utf8(name: str) -> None:
    pytest.importorskip("inscriptis")
    assert page_of(f'<meta charset="{name}"><p>caf\u00e9</p>'.encode("latin-1")).text == "caf\u00e9"


def test_a_declaration_of_xml_is_no_hindrance() -> None:
    pytest.importorskip("inscriptis")
    assert page_of('<?xml version="1.0" encoding="utf-8"?><html><p>caf\u00e9</p></html>'.encode()).text == "caf\u00e9"


def test_each_page_of_a_folder_is_a_document(tmp_path: Path) -> None:
    pytest.importorskip("inscriptis")
    pages = {"b.html": PAGE.encode(), "a/c.htm": b"<p>sea", "d.html": b"", "e.html": b"<p>caf\xe9</p>"}
    for name, content in pages.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    source = resolve(SourceConfig(name="s", path=tmp_path), tmp_path)
    items = list(read_source(source, 1, lambda count: None))
    assert source.kind == "html"
    assert [(one.id, one.title) for one in items if isinstance(one, Document)] == [
        ("a/c.htm", "a/c.htm"),
        ("b.html", "A caf\u00e9"),
    ]
    assert [(one.file, one.reason) for one in items if isinstance(one, Reject)] == [
        ("d.html", "empty text"),
        ("e.html", "invalid UTF-8"),
    ]


@pytest.mark.parametrize("content", [b"<" * 100_000, b"<div>" * 100_000, b"<p>&#xffffffff;</p>", b"\0", b"<!--"])
def test_any_bytes_are_a_page_or_set_aside(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("inscriptis")
    (tmp_path / "a.html").write_bytes(content)
    source = resolve(SourceConfig(name="s", path=tmp_path / "a.html"), tmp_path / "a.html")
    assert len(list(read_source(source, 1, lambda count: None))) == 1
