"""Reads a page as a browser would: its elements, what it would load, its texts."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br"}
SVG = {"path", "use", "rect", "g"}
"""Elements that may close themselves."""


class Page(HTMLParser):
    """Elements, their attributes and texts; raises on elements that are closed out of turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID | SVG:
            raise ValueError(f"<{tag}/> does not close itself in HTML")
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if self.open[-1] != tag:
            raise ValueError(f"</{tag}> closes <{self.open[-1]}>")
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        """Attributes of the elements of a class."""
        return [given for _, given in self.elements if name in (given.get("class") or "").split()]

    @property
    def tags(self) -> set[str]:
        """Names of all elements."""
        return {tag for tag, _ in self.elements}

    @property
    def loads(self) -> list[str]:
        """Every address in an attribute that a browser follows or loads."""
        names = ("src", "href", "srcset", "data", "action", "poster")
        return [given[name] or "" for _, given in self.elements for name in names if name in given]

    @property
    def handlers(self) -> list[str]:
        """Attributes that hold scripts."""
        return [name for _, given in self.elements for name in given if name.startswith("on")]
