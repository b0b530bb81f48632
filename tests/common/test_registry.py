from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from retro.common.errors import ConfigError, DependencyError
from retro.common.registry import Registry, package_file, registered_by_instance
from tests.outside import installed, write_distribution

GROUP = "retro.metrics"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry[str]]:
    """Texts by name; what is installed in `tmp_path` is seen."""
    made = Registry(GROUP, "a greeting", {"hello": "string:digits"}, registered_by_instance(str, "a text"))
    with installed(tmp_path, made):
        yield made


def offer(folder: Path, package: str, lines: str, code: str = "hail = 'hail'") -> None:
    write_distribution(folder, package, {f"{package}.py": code}, {GROUP: lines})


def test_a_built_in_is_imported_when_it_is_looked_up_and_no_sooner() -> None:
    made = Registry(GROUP, "a greeting", {"hello": "this_is_no_module:x"}, registered_by_instance(str, "a text"))
    assert "hello" in made
    assert made.require("hello", "greeting") == "hello"
    with pytest.raises(ModuleNotFoundError, match="this_is_no_module"):
        made.find("hello", "greeting")


def test_an_unknown_name_is_answered_with_the_setting_and_the_nearest(registry: Registry[str], tmp_path: Path) -> None:
    offer(tmp_path, "other", "salute = other:hail")
    with pytest.raises(ConfigError) as caught:
        registry.find("salut", "chat.greeting", "a path will do")
    expected = "chat.greeting = 'salut': is not a greeting; did you mean 'salute'?; a path will do"
    assert str(caught.value) == expected
    with pytest.raises(ConfigError, match=r"known: hello, salute$"):
        registry.require("zzz", "chat.greeting")


def test_an_entry_point_of_another_package_is_found(registry: Registry[str], tmp_path: Path) -> None:
    offer(tmp_path, "other", "salute = other:hail")
    assert list(registry) == ["hello", "salute"]
    assert "other" not in sys.modules
    assert registry.find("salute", "greeting") == "hail"
    assert registry.provider("salute") == "other 1.0"
    assert registry.find("hello", "greeting") == "0123456789"


def test_entry_points_are_read_once_until_they_are_asked_for_again(registry: Registry[str], tmp_path: Path) -> None:
    assert "salute" not in registry
    offer(tmp_path, "other", "salute = other:hail")
    assert "salute" not in registry
    registry.reload()
    assert "salute" in registry


def test_a_name_that_two_packages_claim_is_refused_and_both_are_named(registry: Registry[str], tmp_path: Path) -> None:
    offer(tmp_path, "other", "salute = other:hail")
    offer(tmp_path, "third", "salute = third:hail")
    with pytest.raises(DependencyError, match=r"third: claims a greeting of the name 'salute', which other has too\."):
        registry.find("salute", "greeting")


def test_a_package_cannot_take_the_name_of_a_built_in(registry: Registry[str], tmp_path: Path) -> None:
    offer(tmp_path, "other", "hello = other:hail")
    with pytest.raises(DependencyError, match="other: claims a greeting of the name 'hello', which instruct-retro has"):
        registry.find("hello", "greeting")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import no_such_module", r"cannot be loaded \(ModuleNotFoundError: No module named 'no_such_module'\)"),
        ("1 / 0", r"cannot be loaded \(ZeroDivisionError: division by zero\)"),
        ("", r"cannot be loaded \(AttributeError: module 'other' has no attribute 'hail'\)"),
        ("hail = 3", "is of type int, needs to be a text"),
        ("class hail: ...", "is the class hail, needs to be a text"),
    ],
)
def test_an_entry_point_that_does_not_work_names_its_package(
    registry: Registry[str], tmp_path: Path, code: str, told: str
) -> None:
    offer(tmp_path, "other", "salute = other:hail", code)
    with pytest.raises(DependencyError, match=rf"^other: its entry point salute = other:hail \({GROUP}\) {told}\. Fix"):
        registry.find("salute", "greeting")


def test_a_notebook_registers_and_its_cell_may_run_again(registry: Registry[str], tmp_path: Path) -> None:
    class Greeting(str):
        __slots__ = ()

    for said in ("one", "two"):
        registry.register("mine")(Greeting(said))
    assert registry.find("mine", "greeting") == "two"
    assert registry.provider("mine") == __name__
    with pytest.raises(ConfigError, match=f"'mine': needs a name that is free; {__name__} has it"):
        registry.register("mine")("of another module")
    with pytest.raises(ConfigError, match="'hello': needs a name that is free; instruct-retro has it"):
        registry.register("hello")("x")
    with pytest.raises(TypeError, match="is of type int, needs to be a text"):
        registry.register("other")(3)
    registry.unregister("mine")
    assert "mine" not in registry


def test_a_file_of_a_package_is_named_by_the_package_and_its_own_name(tmp_path: Path) -> None:
    write_distribution(tmp_path, "boxed", {"boxed/__init__.py": "", "boxed/a.yaml": "x: 1\n", "alone.py": ""}, {})
    with installed(tmp_path):
        assert package_file("boxed:a.yaml").read_text(encoding="utf-8") == "x: 1\n"
        with pytest.raises(AttributeError, match=r"package 'boxed' has no file 'b\.yaml'"):
            package_file("boxed:b.yaml")
        with pytest.raises((ImportError, AttributeError), match=r"alone"):
            package_file("alone:b.yaml")


def test_a_group_is_one_of_those_that_are_documented() -> None:
    with pytest.raises(ValueError, match=r"retro\.metric is not a group of entry points; known: retro\.embedders,"):
        Registry("retro.metric", "a greeting", {}, registered_by_instance(str, "a text"))
