from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.sft.config import BlendConfig, SetConfig, SftDataConfig, expand_variables, read_blend
from retro.sft.prompts import kind_of_set

BLENDS = Path(__file__).parents[2] / "tools" / "retro" / "sft" / "blends"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weight": 0}, "SetConfig.weight = 0: needs greater than 0"),
        ({"weight": -1.0}, "SetConfig.weight = -1.0: needs greater than 0"),
        ({"kind": "chta"}, "SetConfig.kind = 'chta': needs "),
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
    with pytest.raises(DataError, match=r"mine.yaml: BlendConfig.sets.0.weight|mine.yaml: SetConfig.weight"):
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


@pytest.mark.parametrize("name", ["quickstart", "open_inst", "sft"])
def test_the_blends_that_are_shipped_can_be_read(name: str) -> None:
    blend = read_blend(BLENDS / f"{name}.yaml")
    assert blend.name == name
    assert math.isclose(sum(one.weight for one in blend.sets), 1.0)


def test_chat_sets_of_the_released_blend_are_known_as_such() -> None:
    for one in read_blend(BLENDS / "sft.yaml").sets:
        assert (kind_of_set(one.name) if one.kind == "auto" else one.kind) == "chat"
