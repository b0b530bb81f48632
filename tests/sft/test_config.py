from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.qa.prompts import kind_of_set
from retro.sft.config import (
    BlendConfig,
    PublishedSet,
    SetConfig,
    SftDataConfig,
    SftTrainConfig,
    expand_variables,
    read_blend,
)

BLENDS = Path(__file__).parents[2] / "tools" / "retro" / "sft" / "blends"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight": 0}, "SetConfig.weight = 0: needs greater than 0"),
        ({"weight": -1.0}, "SetConfig.weight = -1.0: needs greater than 0"),
        (
            {"published": {"samples": 5, "epochs": 0.0005}},
            "SetConfig.published.epochs = 0.0005: needs greater than 0.00",
        ),
        ({"path": Path("a"), "from_corpus": True}, "needs no path beside from_corpus"),
        ({"dev": Path("a")}, "SetConfig.dev = PosixPath('a'): needs a path beside it"),
        ({"wieght": 1.0}, "SetConfig.wieght = 1.0: is not a setting; did you mean 'weight'?"),
    ],
)
def test_a_bad_set_is_named_with_its_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SetConfig(name="one", **fields)
    assert message in str(caught.value)


def test_a_blend_names_each_set_once() -> None:
    with pytest.raises(ConfigError, match="found twice: one"):
        BlendConfig(name="b", sets=(SetConfig(name="one"), SetConfig(name="one")))


def test_a_blend_file_and_sets_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="needs no sets beside a blend file"):
        SftDataConfig(blend=Path("b.yaml"), sets=(SetConfig(name="one"),))


def test_a_mistake_in_a_blend_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("sets:\n  - {name: one, weight: none}\n")
    with pytest.raises(DataError, match=r"mine.yaml: sets.0.weight"):
        read_blend(path)


def test_a_blend_without_a_name_is_named_after_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("sets: [{name: one}]\ndata: /there\n")
    blend = SftDataConfig(blend=path).resolved_blend()
    assert (blend.name, blend.data) == ("mine", "/there")
    assert SftDataConfig(blend=path, data=Path("/here")).resolved_blend().data == "/here"


def test_variables_in_paths_are_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "/questions")
    monkeypatch.delenv("NOT_SET", raising=False)
    assert expand_variables("data", "$DATA/sets") == Path("/questions/sets")
    with pytest.raises(ConfigError, match="needs its variables set"):
        expand_variables("data", "$NOT_SET/sets")


@pytest.mark.parametrize("name", ["quickstart", "open_inst", "qc", "sft"])
def test_the_blends_that_are_shipped_can_be_read(name: str) -> None:
    blend = read_blend(BLENDS / f"{name}.yaml")
    assert blend.name == name
    assert math.isclose(sum(one.weight for one in blend.sets), 1.0)


def test_the_released_blend_has_the_published_numbers() -> None:
    sets = read_blend(BLENDS / "sft.yaml").sets
    published = [one.published for one in sets if one.published is not None]
    assert [one.samples for one in published] == [
        2560, 1536, 604, 421, 1280, 2560, 2560, 1280, 6400, 104_558, 4243,
    ]  # fmt: skip
    weights = [0.020, 0.012, 0.005, 0.003, 0.010, 0.020, 0.020, 0.010, 0.050, 0.817, 0.033]
    assert [one.weight for one in sets] == weights
    # The samples are draws of a run of 1000 steps with 128 samples, not sizes of the sets.
    assert [round(one.samples / 128_000, 3) for one in published] == weights
    assert sum(one.samples for one in published) == 128_002


def test_the_size_of_a_published_set_follows_from_its_samples_and_epochs() -> None:
    # 6400 / 0.9385 = 6819.4, 6400 / 0.9375 = 6826.7
    assert PublishedSet(samples=6400, epochs=0.938).sizes() == (6819, 6827)


def test_sets_of_the_shipped_blends_are_asked_as_they_are() -> None:
    kinds = {one.name: kind_of_set(one.name) for one in read_blend(BLENDS / "sft.yaml").sets}
    assert {name for name, kind in kinds.items() if kind != "chat"} == {"eli5_1", "eli5_2", "eli5_3"}
    for name in ("open_inst", "qc"):
        [one] = read_blend(BLENDS / f"{name}.yaml").sets
        assert kind_of_set(one.name) == "chat"


@pytest.mark.parametrize(
    "text",
    [
        'DATA_BLEND="0.7 dolly 0.3 soda"\n',
        '#!/bin/bash\n# a blend\nexport DATA_BLEND="0.7 dolly \\\n  0.3 soda"\n',
        "  export DATA_BLEND='0.7 dolly\n 0.3 soda'\n",
    ],
)
def test_a_blend_of_the_original_is_read_from_its_shell_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.sh"
    path.write_text(text)
    blend = SftDataConfig(blend=path).resolved_blend()
    assert (blend.name, blend.data) == ("mine", "$DATA")
    assert [(one.name, one.weight) for one in blend.sets] == [("dolly", 0.7), ("soda", 0.3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo hi", "sets DATA_BLEND 0 times"),
        ('DATA_BLEND="1 a"\nDATA_BLEND="1 b"', "sets DATA_BLEND 2 times"),
        ('DATA_BLEND="1 a 2"', "has 3 words in DATA_BLEND"),
        ('DATA_BLEND=""', "has 0 words in DATA_BLEND"),
        ('DATA_BLEND="a 1 b 2"', "has the weight 'a' before '1'"),
        ('DATA_BLEND="0 a"', "SetConfig.weight = 0.0: needs greater than 0"),
        ('DATA_BLEND="1 a 2 a"', "found twice: a"),
    ],
)
def test_a_shell_file_that_is_no_blend_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.sh"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_blend(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    with pytest.raises(DataError, match="no such blend file"):
        read_blend(tmp_path / "none.sh")


def test_hidden_neighbors_are_refused_where_nothing_hides_them() -> None:
    with pytest.raises(ConfigError, match=r"hidden_neighbors = 0\.5: needs 0: only pretraining hides neighbors"):
        SftTrainConfig(hidden_neighbors=0.5)
