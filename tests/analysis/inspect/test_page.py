"""The HTML page: what is in it, that it is whole and safe, and that a browser shows it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from retro.analysis.inspect.inspect import Options, show
from retro.run.config import RunConfig
from tests.analysis.inspect.test_view import looker_of
from tests.report.page_parser import Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def written(road: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    show(road, Options(what="sample", number=1, html=path, samples=5))
    return path


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page(written.read_text(encoding="utf-8"))


def test_every_element_is_closed(page: Page) -> None:
    assert page.open == []


def test_it_holds_the_samples_asked_for_with_their_chunks_and_neighbors(page: Page) -> None:
    assert [given["id"] for given in page.of_class("sample")] == [f"sample-{n}" for n in range(1, 6)]
    assert [given["id"] for given in page.of_class("chunk")] == [f"chunk-{n}" for n in range(4, 24)]
    assert len(page.of_class("neighbor")) == 20 * 2
    assert [text for tag, text in page.texts if tag == "option"] == [f"sample {n}" for n in range(1, 6)]


def test_nothing_is_loaded_from_elsewhere(page: Page, written: Path) -> None:
    assert all(target.startswith(("#", "data:")) for target in page.loads)
    assert not re.search(r"https?://|@import|url\((?!#)", written.read_text(encoding="utf-8"))


def test_text_from_files_is_text_and_no_markup(page: Page) -> None:
    assert not any("onclick" in given for _, given in page.elements)
    assert any("(<b onclick=x>& island)" in text for _, text in page.texts)


def test_rows_scores_and_texts_are_those_of_the_run(page: Page, road: RunConfig) -> None:
    chunk = looker_of(road).chunk(4)
    neighbor = chunk.neighbors[0]
    assert neighbor is not None
    told = [text for tag, text in page.texts if tag == "span"]
    assert f"row {neighbor.row}" in told
    assert f"score {neighbor.score:.3f}" in told
    assert f"distance {neighbor.distance:.3f}" in told


def test_distributions_and_reasons_are_there(page: Page) -> None:
    assert len([tag for tag, given in page.elements if tag == "svg"]) == 4
    assert {"few", "hubs", "spread"} <= {given.get("id") for _, given in page.elements}
    assert any("an approximate index found no more" in text for _, text in page.texts)


def test_the_same_run_gives_the_same_bytes(written: Path, road: RunConfig, tmp_path: Path) -> None:
    show(road, Options(what="sample", number=1, html=tmp_path / "again.html", samples=5))
    assert (tmp_path / "again.html").read_bytes() == written.read_bytes()


def test_a_missing_neighbor_is_shown_as_none(road: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from retro.neighbors.reader import Neighbors

    monkeypatch.setattr(Neighbors, "of", lambda self, split, source, asked, k: np.full((len(asked), k), -1))
    show(road, Options(what="sample", html=tmp_path / "none.html", samples=1))
    found = Page((tmp_path / "none.html").read_text(encoding="utf-8"))
    assert len(found.of_class("none")) == 4 * 2


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the page in")
def test_a_browser_shows_one_sample_at_a_time_and_no_error(written: Path, tmp_path: Path) -> None:
    command = [
        str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile",
        "--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom", f"file://{written}#chunk-9",
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    shown = Page(found.stdout)
    # Chunk 9 is of sample 2: the script has opened it and put the others away.
    away = {given["id"] for given in shown.of_class("away")}
    assert away == {"sample-1", "sample-3", "sample-4", "sample-5"}
    assert "CONSOLE" not in found.stderr
