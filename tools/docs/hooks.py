"""What mkdocs does beyond the pages of docs/: pages from elsewhere in the repository, and links between all of them."""

from __future__ import annotations

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page
from reference import filled_in
from site_links import RENAMED, as_in_the_site

ROOT = Path(__file__).resolve().parents[2]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, or have another name there."""
    # Not at the top: mkdocs puts the search path back once it has loaded this file.
    sys.path.insert(0, str(ROOT))
    for source, page in RENAMED.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text, inclusion=InclusionLevel.INCLUDED))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have links lead to the site's pages, and generate what is generated."""
    return filled_in(as_in_the_site(markdown, page.file.src_uri, config.repo_url or ""))
