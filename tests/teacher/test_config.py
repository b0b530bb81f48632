"""Settings that cannot work are named; what may be a key is not shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retro.common.config import config_json
from retro.common.errors import ConfigError
from retro.teacher.config import TeacherConfig
from retro.teacher.teacher import open_teacher


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "script", "function": "a.b"}, "TeacherConfig.function = 'a.b': needs "),
        (
            {"model": "m", "base_url": "example.org/v1"},
            "TeacherConfig.base_url = 'example.org/v1': needs an address as",
        ),
        ({"model": "m", "base_url": "http://[::1"}, "TeacherConfig.base_url = 'http://[::1': needs an address as"),
        ({"model": "m", "max_cost": 1}, "TeacherConfig.max_cost = 1.0: needs input_price and output_price beside it"),
        (
            {"model": "m", "input_price": 1},
            "TeacherConfig.output_price = None: needs a price where input_price has one",
        ),
        (
            {"model": "m", "output_price": 1},
            "TeacherConfig.output_price = 1.0: needs a price where input_price has one",
        ),
        ({"model": "m", "concurrency": 0}, "TeacherConfig.concurrency = 0: needs "),
        ({"model": "m", "timeout_s": 0}, "TeacherConfig.timeout_s = 0: needs "),
        ({"model": "m", "modle": 0}, "TeacherConfig.modle = 0: is not a setting; did you mean 'model'?"),
    ],
)
def test_a_bad_setting_is_named_with_its_value(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TeacherConfig(**settings)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "teacher.model = '': needs the name of a model that base_url has, since kind is openai"),
        ({"kind": "engine"}, "teacher.run = None: needs the YAML file of a run with a tuned model, since kind"),
        ({"kind": "script"}, "teacher.replies = None: needs a file, or in its place teacher.function; one of the two"),
        (
            {"kind": "script", "replies": Path("a"), "function": "a:b"},
            "teacher.replies = PosixPath('a'): needs a file, or in its place teacher.function; one of the two",
        ),
    ],
)
def test_a_section_may_lack_what_its_kind_needs_until_it_is_opened(
    settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    config = TeacherConfig(**settings)
    with pytest.raises(ConfigError) as caught:
        open_teacher(config, tmp_path)
    assert str(caught.value).startswith(words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["sk-secret", "sk_secret", "AKsecret", "gsk_1secret", "A" * 70, "A secret"])
def test_a_key_in_the_place_of_its_variable_is_not_shown(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TeacherConfig(model="m", api_key_env=key)
    assert str(caught.value).startswith("TeacherConfig.api_key_env = '**********': needs the name of an environment")
    assert key not in repr(caught.value)


@pytest.mark.parametrize("url", ["https://me:secret@example.org/v1", "https://example.org/v1?key=secret"])
def test_a_password_in_the_address_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TeacherConfig(model="m", base_url=url)
    assert str(caught.value).startswith("TeacherConfig.base_url = '**********': needs an address without user")
    assert "secret" not in repr(caught.value)


def test_every_setting_has_a_description() -> None:
    properties = TeacherConfig.model_json_schema()["properties"]
    assert [name for name, one in properties.items() if not one.get("description")] == []


def test_a_config_survives_json() -> None:
    config = TeacherConfig(
        model="m", base_url="http://localhost:8000/v1/", extra_body={"a": [1, None]}, leave_out=["seed"]
    )
    assert config.base_url == "http://localhost:8000/v1"
    assert TeacherConfig(**config_json(config)) == config


def test_cost_is_per_million_tokens() -> None:
    config = TeacherConfig(model="m", input_price=2.5, output_price=10)
    assert config.cost(1_000_000, 200_000) == pytest.approx(2.5 + 2.0)
    assert TeacherConfig(model="m").cost(5, 5) == 0
