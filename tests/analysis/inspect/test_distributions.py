from __future__ import annotations

import numpy as np
import pytest

from retro.analysis.inspect.distributions import (
    Histogram,
    chunk_lengths,
    distributions,
    evenly,
    rows_by_source,
    times_found,
)
from retro.analysis.inspect.page import bar_name, histogram_chart
from retro.analysis.inspect.terminal import joined_bars, span_name
from retro.run.config import RunConfig
from tests.analysis.inspect.test_view import looker_of


def test_rows_are_read_evenly_and_all_of_few() -> None:
    assert evenly(3, 5).tolist() == [0, 1, 2]
    assert evenly(10, 4).tolist() == [0, 2, 5, 7]
    assert evenly(0, 4).tolist() == []


def test_how_often_rows_are_found_is_counted_by_powers_of_two() -> None:
    found = times_found(np.array([0, 0, 1, 2, 3, 4, 9]), read=5, queries=50)
    assert found.labels == ["never", "1", "2–3", "4–7", "8–15"]
    assert found.counts == [2, 1, 2, 1, 1]
    assert (found.read, found.of) == (5, 50)
    assert times_found(np.array([0, 0]), 1, 1).labels == ["never"]


def test_lengths_of_all_chunks_are_counted(road: RunConfig) -> None:
    db = looker_of(road).db
    found = chunk_lengths(db)
    assert sum(found.counts) == db.rows == found.of
    full = int((np.asarray(db.columns["token_count"]) == 16).sum())
    assert found.counts[15] == full
    assert len(found.edges) == 17


def test_a_run_is_summed_up(road: RunConfig) -> None:
    looker = looker_of(road)
    found = distributions(looker.db, looker.found, 0, 2)
    ids = looker.found.of(0, 0, np.arange(looker.stream.chunks), 2)
    rows, times = np.unique(ids[ids >= 0], return_counts=True)
    assert found.queries == looker.stream.chunks
    assert found.hubs[0].times == times.max()
    assert found.hubs[0].row == rows[times == times.max()].min()
    assert [one.title for one in found.histograms] == [
        "Chunk lengths", "Scores of neighbor 1", "Scores of neighbor 2", "How often a chunk is a neighbor",
    ]  # fmt: skip
    assert sum(found.histograms[1].counts) == (ids[:, 0] >= 0).sum()
    assert sum(found.histograms[3].counts) == len(looker.db.rows_of(0))
    assert found.histograms[3].counts[0] == len(looker.db.rows_of(0)) - len(rows)
    assert found.spread is not None
    assert found.spread.most == times.max()
    assert set(found.few) >= {"few_chunks", "few_found", "no_text"}


def test_of_a_large_split_some_queries_are_read_and_the_page_says_so(road: RunConfig) -> None:
    looker = looker_of(road)
    found = distributions(looker.db, looker.found, 0, 1, most=10)
    assert [one.title for one in found.histograms][1:2] == ["Scores of neighbor 1"]
    assert found.histograms[1].read <= 10 < found.histograms[1].of
    assert found.histograms[0].read == 10


def test_rows_by_split_and_source_add_up(road: RunConfig) -> None:
    db = looker_of(road).db
    rows = rows_by_source(db)
    assert [(row.split, row.source) for row in rows] == [("train", "text"), ("valid", "text"), ("test", "text")]
    assert sum(row.chunks for row in rows) == db.rows
    assert sum(row.documents or 0 for row in rows) == 60
    tokens = np.asarray(db.columns["token_count"][: rows[0].chunks])
    assert rows[0].mean_tokens == pytest.approx(tokens.mean())
    assert rows[0].full == pytest.approx((tokens == 16).mean())
    # When only some rows are read, documents cannot be counted.
    assert rows_by_source(db, most=20)[0].documents is None


def test_bars_are_joined_until_they_fit() -> None:
    histogram = Histogram(
        title="t", unit="tokens", edges=[n + 0.5 for n in range(65)], counts=[1] * 64, read=64, of=64
    )  # fmt: skip
    assert joined_bars(histogram)[0] == ("1 to 4", 4)
    assert len(joined_bars(histogram)) == 16
    assert bar_name(histogram, 63) == "64"
    assert span_name(0.25, 0.5) == "0.250 to 0.500"


def test_a_chart_names_its_bars_and_the_axis() -> None:
    plain = Histogram(title="a<b", unit="u", edges=[0.0, 1.0, 2.0], counts=[4, 1], read=5, of=5)
    assert "<title>0.000 to 1.000: 4 (80.0%)</title>" in histogram_chart(plain, 2)
    assert 'aria-label="a&lt;b, u"' in histogram_chart(plain, 2)
    labelled = times_found(np.array([0, 0, 1, 3]), read=4, queries=4)
    assert ">never</text>" in histogram_chart(labelled, 0)
    assert "<title>never: 2 (50.0%)</title>" in histogram_chart(labelled, 0)
