from __future__ import annotations

import re

import matplotlib as mpl
import pytest

from retro.report import format
from retro.report.figures import Bar, Series, histogram, interval_bars, line_chart, thin
from retro.report.run_report import smooth


def test_a_smoothed_line_is_the_mean_around_each_place() -> None:
    points = [(0.0, 1.0), (1.0, 3.0), (2.0, 8.0), (3.0, 1.0)]
    assert smooth(points, 1) == [(0.0, 2.0), (1.0, 4.0), (2.0, 4.0), (3.0, 4.5)]
    assert smooth(points, 0) == points
    assert smooth([], 3) == []


def test_thinning_keeps_the_ends() -> None:
    points = [(float(n), float(n)) for n in range(1000)]
    kept = thin(points, 10)
    assert (len(kept), kept[0], kept[-1]) == (10, points[0], points[-1])
    assert thin(points[:5], 10) == points[:5]


def chart(*series: Series, label: str = "one") -> str:
    return line_chart(series, x_label="step", y_label="loss", label=label)


def test_a_line_runs_from_the_lower_left_to_the_upper_right() -> None:
    drawn = chart(Series(name="a<b", points=[(0, 1.0), (10, 2.0), (20, 3.0)], color=0, kind="dots"))
    (line,) = re.findall(r'<path d="([^"]+)"[^>]*stroke: var\(--c0\)', drawn)
    (x0, y0), _, (x1, y1) = (tuple(map(float, pair.split())) for pair in line.replace("M", "").split("L"))
    assert x0 < x1
    assert y0 > y1
    assert "<title>a&lt;b, step 20: 3.000</title>" in drawn


def test_the_steep_beginning_of_a_loss_is_cut_off() -> None:
    drawn = chart(Series(name="a", points=[(0, 900.0), *((float(n), 5.0 + n / 100) for n in range(10, 101))], color=0))
    assert [float(one) for one in re.findall(r"text-anchor: end[^>]*>([\d.]+)</text>", drawn)][-1] == 6.0


def test_nothing_to_draw_is_no_chart_and_one_point_is_one() -> None:
    assert chart(Series(name="x", points=[], color=0)) == ""
    assert "<title>x, step 5: 3.000</title>" in chart(Series(name="x", points=[(5, 3.0)], color=0))
    assert interval_bars([], label="F1") == ""


def test_a_bar_ends_where_its_value_is_and_its_whisker_at_the_interval() -> None:
    bars = [
        Bar(name="a", value=0.2, shown="20.0 % ($10.0 to $30.0)", color=1, interval=(0.1, 0.3)),
        Bar(name="b", value=0.4, shown="40.0 %", color=2),
    ]
    drawn = interval_bars(bars, label="F1")
    track, first, _, second = (edges(path) for path in re.findall(r'<path d="([^"]+z) ?"[^>]*fill: var', drawn))
    whisker = next(edges(path) for path in re.findall(r'<path d="([^"]+)"[^>]*stroke: var\(--ink\)', drawn))
    width = track[1] - track[0]
    assert second == pytest.approx(track, abs=0.02)
    assert first == pytest.approx((track[0], track[0] + width / 2), abs=0.02)
    assert whisker == pytest.approx((track[0] + width / 4, track[0] + 3 * width / 4), abs=0.02)
    assert "<title>F1, a: 20.0 % ($10.0 to $30.0)</title>" in drawn
    assert ">20.0 % ($10.0 to $30.0)</text>" in drawn
    assert "<title>F1, x: 0</title>" in interval_bars([Bar(name="x", value=0.0, shown="0", color=1)], label="F1")


def edges(path: str) -> tuple[float, float]:
    """The least and the greatest x of a path."""
    numbers = [float(one) for one in re.findall(r"-?[\d.]+", path)]
    return min(numbers[::2]), max(numbers[::2])


def test_a_histogram_has_a_bar_for_each_count_whose_height_is_its_share() -> None:
    drawn = histogram([0.0, 1.0, 2.0], [4, 1], names=["0 to 1", "1 < 2"], ticks=False, unit="u", label="a<b", color=2)
    heights = []
    for path in re.findall(r'<path d="([^"]+)"[^>]*fill: var\(--c2\)', drawn):
        ys = [float(one) for one in re.findall(r"-?[\d.]+", path)][1::2]
        heights.append(max(ys) - min(ys))
    assert heights[0] / heights[1] == pytest.approx(4, rel=0.01)
    assert 'aria-label="a&lt;b"' in drawn
    assert "<title>1 &lt; 2: 1 (20.0%)</title>" in drawn
    many = histogram([0.0, 1.0], [2_500_000], names=["a"], ticks=True, unit="u", label="l", color=2)
    assert ">2M</text>" in many
    assert histogram([0.0], [], names=[], ticks=True, unit="", label="", color=0).startswith("<svg")


def test_the_same_data_gives_the_same_bytes_whatever_the_users_style(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Series(name="x", points=[(0, 1.0), (10, 2.0)], color=0, kind="dots")
    first = chart(one)
    monkeypatch.setitem(mpl.rcParams, "axes.facecolor", "black")
    monkeypatch.setitem(mpl.rcParams, "font.size", 20)
    assert chart(one) == first
    assert mpl.rcParams["font.size"] == 20


def test_charts_of_one_page_share_no_ids_and_no_colors_of_their_own() -> None:
    one = Series(name="x", points=[(0, 1.0), (10, 2.0)], color=0, kind="dots")
    ids = [set(re.findall(r' id="([^"]+)"', chart(one, label=label))) for label in ("a", "b")]
    assert ids[0] and not ids[0] & ids[1]
    assert not re.search(r"#[0-9a-f]{6}", re.sub(r'href="#\w+"|url\(#\w+\)', "", chart(one)))


def test_numbers_read_well() -> None:
    assert [format.count(v) for v in (12, 1234, 1_704_320, 2.5e9, 0.25)] == ["12", "1,234", "1.70 M", "2.50 B", "0.25"]
    assert [format.size(v) for v in (12, 2048, 5 * 2**20, 3 * 2**40)] == ["12 B", "2.0 KiB", "5.0 MiB", "3072.0 GiB"]
    assert [format.seconds(v) for v in (0.033, 0.42, 1.24, 12.4, 200, 7500)] == [
        "0.03 s",
        "0.4 s",
        "1.2 s",
        "12 s",
        "3 min 20 s",
        "2 h 5 min",
    ]
    assert [format.signed_percent(v) for v in (0.134, -0.0067, 0.0001)] == ["+13.4 %", "−0.7 %", "0.0 %"]
    assert [format.loss(v) for v in (0.5, 5.24, 191.5, 12345.6)] == ["0.5000", "5.240", "191.5", "12,346"]


def test_unknown_names_are_shown_as_they_are() -> None:
    assert format.setting_name("my_setting") == "my setting"
    assert format.model_name("retro", "real") == "Retro, real neighbors"
    assert format.model_name("gpt_equal") == "GPT of equal parameters"
    assert format.metric_name("my_metric") == "my metric"
    assert format.in_order(["z", "closed_book", "with_passages"]) == ["with_passages", "closed_book", "z"]
