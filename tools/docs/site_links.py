"""Where the files of the repository are in the site, and links between them as the site has them."""

from __future__ import annotations

import posixpath
import re

RENAMED = {
    "docs/README.md": "index.md",
    "docs/index.md": "indexes.md",
    "README.md": "quickstart.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "retro/recipes/self_rag/README.md": "recipes/self_rag.md",
    "retro/recipes/instruct_rag/README.md": "recipes/instruct_rag.md",
    "retro/recipes/knowledge_conflict/README.md": "recipes/knowledge_conflict.md",
    "retro/recipes/multi_hop/README.md": "recipes/multi_hop.md",
    "retro/recipes/dense_retriever/README.md": "recipes/dense_retriever.md",
    "retro/recipes/dynamic_prefix/README.md": "recipes/dynamic_prefix.md",
    "retro/recipes/dynamic_prefix/EVALUATION.md": "recipes/dynamic_prefix_evaluation.md",
    "retro/recipes/dynamic_prefix/GENERATION.md": "recipes/dynamic_prefix_generation.md",
}
"""Pages that are not in docs/, or have another name there: path in the repository, and in the site."""

_SOURCES = {page: source for source, page in RENAMED.items()}
# Code keeps what looks like a link in it; a link's words may have one level of brackets, as an image's do.
_PART = re.compile(
    r"(?P<code>^ *```.*?^ *```$|`[^`\n]+`)"
    r"|\[(?P<words>(?:[^\[\]]|\[[^\[\]]*\](?:\([^()]*\))?)*)\]\((?P<target>[^()\s]+)\)",
    re.MULTILINE | re.DOTALL,
)


def source_of(page: str) -> str:
    """The file of the repository that a page of the site is made from."""
    return _SOURCES.get(page, f"docs/{page}")


def page_of(source: str) -> str | None:
    """The page or file of the site that a file of the repository is; None where it is none."""
    if source in RENAMED:
        return RENAMED[source]
    return source.removeprefix("docs/") if source.startswith("docs/") else None


def as_in_the_site(text: str, page: str, repository: str) -> str:
    """Markdown whose links to files lead to pages of the site, or into the repository.

    Args:
        text: Markdown with links relative to its own file.
        page: Its path in the site.
        repository: Address of the repository; empty: words of a link to what is no page stay, without the link.
    """
    folder = posixpath.dirname(source_of(page))

    def replaced(found: re.Match[str]) -> str:
        target = found["target"]
        if found["code"] or "://" in target or target.startswith(("#", "mailto:")):
            return found[0]
        path, sign, anchor = target.partition("#")
        source = posixpath.normpath(posixpath.join(folder, path))
        words = _PART.sub(replaced, found["words"])
        there = page_of(source)
        if there is not None:
            return f"[{words}]({posixpath.relpath(there, posixpath.dirname(page) or '.')}{sign}{anchor})"
        return f"[{words}]({repository.rstrip('/')}/blob/main/{source})" if repository else words

    return _PART.sub(replaced, text)
