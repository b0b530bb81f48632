"""The text of a page: what a browser would show, laid out in lines, without scripts and styles."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib import metadata
from typing import Any, NamedTuple

from retro.common.errors import short_reason
from retro.common.optional import import_optional

_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]{2,40})", re.IGNORECASE)
_HEAD_BYTES = 4096


class PageError(Exception):
    """A page that cannot be read; `args` are a reason for counting and a detail."""


class Page(NamedTuple):
    """What a page says."""

    title: str
    text: str


def page_of(content: bytes) -> Page:
    """Title and text of an HTML page; both empty where it has none.

    Raises:
        PageError: It is neither UTF-8 nor in the character set that it names, or nests too deep.
        DependencyError: inscriptis is missing.
    """
    inscriptis, lxml_html, etree = _libraries()
    # Always as UTF-8: lxml knows fewer names of character sets than Python does.
    content = _utf8_of(content)
    try:
        parser = lxml_html.HTMLParser(encoding="utf-8", remove_comments=True)
        tree = lxml_html.document_fromstring(content, parser=parser)
        text = inscriptis.Inscriptis(tree, None).get_text()
    except etree.ParserError:
        return Page("", "")
    except (RecursionError, etree.LxmlError) as error:
        raise PageError("unreadable HTML", short_reason(error)) from None
    lines = (line.rstrip() for line in text.split("\n"))
    return Page(" ".join((tree.findtext(".//title") or "").split()), "\n".join(lines).strip("\n"))


def _utf8_of(content: bytes) -> bytes:
    try:
        content.decode("utf-8")
        return content
    except UnicodeDecodeError as error:
        where = f"byte 0x{content[error.start]:02x} at offset {error.start}"
    named = _CHARSET.search(content[:_HEAD_BYTES])
    if named is not None:
        with suppress(UnicodeError, LookupError):
            return content.decode(named.group(1).decode("ascii")).encode("utf-8")
    raise PageError("invalid UTF-8", where)


def html_library() -> str:
    """Name and version of the library that decides what the text of a page is.

    Raises:
        DependencyError: It is missing.
    """
    _libraries()
    return f"inscriptis {metadata.version('inscriptis')}"


def _libraries() -> tuple[Any, Any, Any]:
    inscriptis, lxml_html, etree = (
        import_optional(name, extra="formats", use="takes the text out of HTML")
        for name in ("inscriptis", "lxml.html", "lxml.etree")
    )
    return inscriptis, lxml_html, etree
