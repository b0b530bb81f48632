from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retro.analysis.inspect.inspect import Options, show, view_and_number
from retro.common.errors import ConfigError
from retro.common.terminal import output
from retro.run.config import RunConfig, load_run_config
from tests.analysis.inspect.test_view import looker_of


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("what", ["chunk", "neighbors", "sample", "database"])
def test_every_view_fits_the_terminal(
    road: RunConfig, capsys: pytest.CaptureFixture[str], what: str, width: int
) -> None:
    output.width = width
    show(road, Options(what=what, number=2))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) > 4


def test_neighbors_are_told_with_score_distance_and_overlap(
    road: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    output.width = 140
    show(road, Options(what="neighbors", number=7, neighbors=3))
    text = capsys.readouterr().out
    neighbor = looker_of(road).chunk(7).neighbors[0]
    assert neighbor is not None
    assert f"row {neighbor.row}" in text
    assert f"score {neighbor.score:.3f}" in text
    assert f"distance {neighbor.distance:.3f}" in text
    assert f"shares {neighbor.longest} tokens" in text
    assert text.count("neighbor 3") == 1


def test_the_database_is_summed_up_before_neighbors_are_searched(
    road: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("1_corpus", "2_db"):
        (tmp_path / name).symlink_to(road.run_dir / name)
    show(load_run_config(None, [f"run_dir={tmp_path}", "db.chunk_length=16"]), Options(what="database"))
    text = capsys.readouterr().out
    assert "Chunk lengths" in text
    assert "No neighbors were searched yet" in text


def test_the_database_names_its_hubs(road: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    output.width = 140
    show(road, Options(what="database"))
    text = capsys.readouterr().out
    assert "Most often a neighbor" in text
    assert "queries of all splits with fewer neighbors than were to be saved" in text


def test_a_number_may_stand_before_the_config() -> None:
    assert view_and_number(["12", "run.yaml", "a=1"]) == (12, ["run.yaml", "a=1"])
    assert view_and_number(["run.yaml"]) == (0, ["run.yaml"])
    assert view_and_number(["-3"]) == (-3, [])
    assert view_and_number([]) == (0, [])


def test_a_stream_without_a_whole_sample_says_so(road: RunConfig) -> None:
    # The test split has fewer tokens than this.
    long = road.model_copy(update={"model": road.model.model_copy(update={"sequence_length": 16 * 10**6})})
    with pytest.raises(ConfigError, match="sample = 0: cannot be shown: there is none"):
        show(long, Options(what="sample", split="test"))
    short = road.model_copy(update={"model": road.model.model_copy(update={"sequence_length": 8})})
    with pytest.raises(ConfigError, match=r"model\.sequence_length = 8: needs at least 16 tokens, one chunk"):
        show(short, Options(what="sample"))


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"what": "chunks"}, "inspect = 'chunks': is not a view; did you mean 'chunk'"),
        ({"what": "chunk", "number": -1}, "chunk = -1: needs a number from 0 to"),
        ({"what": "neighbors", "number": 10**6}, "neighbors = 1000000: needs a number from 0 to"),
        ({"what": "sample", "number": 10**6}, "sample = 1000000: needs a number from 0 to"),
        ({"what": "chunk", "split": "dev"}, "--split = 'dev': is not a split"),
        ({"what": "chunk", "source": 1}, "--source = 1: needs a number from 0 to 0"),
        ({"what": "sample", "neighbors": 4}, "--neighbors = 4: needs a number from 1 to 3, as many as were saved"),
        ({"what": "chunk", "html": Path("x.html")}, "--html = 'x.html': needs `retro inspect sample`"),
        ({"what": "sample", "html": Path("/")}, "--html = '/': needs the name of a file in a folder that exists"),
        ({"what": "sample", "html": Path("/no/x.html")}, "--html = '/no/x.html': needs the name of a file in a folder"),
        # Not even root may make a file there.
        ({"what": "sample", "html": Path("/proc/x.html")}, "--html = '/proc/x.html': cannot be written ("),
        ({"what": "sample", "html": Path("x.html"), "samples": 0}, "--samples = 0: needs a positive number"),
    ],
)
def test_what_is_not_there_to_look_at_is_said(road: RunConfig, wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        show(road, Options(**wanted))
    assert words in str(caught.value)
