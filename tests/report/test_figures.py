from __future__ import annotations

import re

import pytest

from retro.report import format
from retro.report.figures import Series, interval_bar, line_chart, smooth, thin, ticks


def test_a_smoothed_line_is_the_mean_around_each_place() -> None:
    points = [(0.0, 1.0), (1.0, 3.0), (2.0, 8.0), (3.0, 1.0)]
    assert smooth(points, 1) == [(0.0, 2.0), (1.0, 4.0), (2.0, 4.0), (3.0, 4.5)]
    assert smooth(points, 0) == points
    assert smooth([], 3) == []


@pytest.mark.parametrize(
    ("low", "high", "about", "found"),
    [
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (5.1, 6.3, 5, [5.25, 5.5, 5.75, 6.0, 6.25]),
        (0, 600, 6, [0, 100, 200, 300, 400, 500, 600]),
        (0.001, 0.004, 3, [0.001, 0.002, 0.003, 0.004]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, about: int, found: list[float]) -> None:
    assert ticks(low, high, about) == pytest.approx(found)


def test_thinning_keeps_the_ends() -> None:
    points = [(float(n), float(n)) for n in range(1000)]
    kept = thin(points, 10)
    assert (len(kept), kept[0], kept[-1]) == (10, points[0], points[-1])
    assert thin(points[:5], 10) == points[:5]


def test_a_line_runs_from_the_lower_left_to_the_upper_right() -> None:
    chart = line_chart(
        [Series(name="a<b", points=[(0, 1.0), (10, 2.0)], color=0, kind="dots")],
        x_label="step",
        y_label="loss",
        label="one",
    )
    (line,) = re.findall(r'points="([^"]+)"', chart)
    (x0, y0), (x1, y1) = (tuple(map(float, pair.split(","))) for pair in line.split())
    assert x0 < x1
    assert y0 > y1
    assert "<title>a&lt;b, step 10: 2.000</title>" in chart


def test_nothing_to_draw_is_no_chart_and_one_point_is_one() -> None:
    assert line_chart([Series(name="x", points=[], color=0)], x_label="", y_label="", label="") == ""
    assert "<polyline" in line_chart([Series(name="x", points=[(5, 3.0)], color=0)], x_label="", y_label="", label="")


def test_a_bar_ends_where_its_value_is_and_its_whisker_at_the_interval() -> None:
    bar = interval_bar(0.2, 0.1, 0.3, 0.4, 1, "F1")
    assert 'width="50.00"' in bar
    assert 'x1="25.00" x2="75.00"' in bar
    assert "F1: 20.0 %, interval 10.0 % to 30.0 %" in bar
    assert 'width="0.00"' in interval_bar(0.0, 0.0, 0.0, 0.0, 1, "F1")


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
