"""The rows of the ablation: the built-in list, what it leaves out, and settings laid over a run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError
from retro.recipes.dynamic_prefix.ablation.config import AblateConfig, VariantConfig
from retro.recipes.dynamic_prefix.ablation.variants import built_in, changed_sections, laid_over, variants_of
from retro.recipes.dynamic_prefix.config import DynamicPrefixConfig, PrefixConfig
from retro.run.config import RunConfig

SMALL: dict[str, Any] = {"lengths": [1, 8], "heads": [1, 3, 4], "documents": [1, 2]}


def settings(**sections: Any) -> DynamicPrefixConfig:
    return DynamicPrefixConfig(**sections)


def names(found: list[VariantConfig]) -> list[str]:
    return [one.name for one in found]


def test_the_built_in_rows() -> None:
    found = built_in(settings(ablate=SMALL))
    # The run itself has all token states, 4 heads and one document; 3 does not divide 128.
    assert names(found) == [
        *("base", "none", "prompt", "static", "length-1", "length-8", "heads-1", "documents-2", "cross-attention")
    ]
    by_name = {one.name: one for one in found}
    assert by_name["none"].mode == "none"
    assert by_name["length-8"].set == {"recipe.dynamic_prefix.prefix.compress": 8}
    assert by_name["static"].set["recipe.dynamic_prefix.prefix.documents"] == 0
    assert by_name["cross-attention"].kind == "cross_attention"


def test_a_run_that_compresses_has_an_uncompressed_row() -> None:
    found = built_in(settings(prefix={"compress": 8}, ablate=SMALL))
    assert [one for one in names(found) if one.startswith(("length", "un"))] == ["length-1", "uncompressed"]


def test_what_does_not_apply_is_left_out() -> None:
    own = {"prefix": {"encoder": {"model": "folder"}, "documents": 2}}
    found = built_in(settings(**own, ablate=SMALL | {"static": 0, "cross_attention": False}))
    assert names(found) == ["base", "none", "prompt", "length-1", "length-8", "documents-1"]


def test_retrievers_are_rows_of_runs_that_search() -> None:
    rows = {"untuned": {"search.source": "bm25"}}
    found = variants_of(settings(data={"retrieve": True}, ablate=SMALL | {"retrievers": rows, "only": ["retriever"]}))
    assert [(one.name, one.set) for one in found] == [("untuned", rows["untuned"])]
    with pytest.raises(ConfigError, match=r"ablate\.retrievers = \['untuned'\]: needs .*retrieve=true"):
        variants_of(settings(ablate={"retrievers": rows}))


def test_rows_are_chosen_by_name_and_group_and_stand_together() -> None:
    more = [{"name": "mine", "group": "documents"}]
    found = variants_of(settings(ablate=SMALL | {"more": more, "only": ["documents", "length-8"]}))
    assert names(found) == ["base", "none", "prompt", "static", "mine", "length-8"]
    with pytest.raises(ConfigError, match=r"ablate\.only = 'lenght-8': .*length-8"):
        variants_of(settings(ablate=SMALL | {"only": ["lenght-8"]}))
    with pytest.raises(ConfigError, match=r"ablate\.more = 'base': needs names that no other row has"):
        variants_of(settings(ablate={"more": [{"name": "base"}]}))


def test_own_rows_take_the_place_of_the_built_in_ones() -> None:
    assert names(variants_of(settings(ablate={"variants": [{"name": "b"}, {"name": "a"}]}))) == ["b", "a"]
    with pytest.raises(ConfigError, match="needs each name once"):
        AblateConfig(variants=(VariantConfig(name="a"), VariantConfig(name="a")))


def test_a_name_names_a_folder() -> None:
    with pytest.raises(ConfigError, match=r"VariantConfig\.name"):
        VariantConfig(name="../a")


def test_a_prefix_has_a_document_or_a_static_vector() -> None:
    assert PrefixConfig(documents=0, static=1).documents == 0
    with pytest.raises(ConfigError, match=r"PrefixConfig\.documents = 0: needs 1 at least, or static vectors"):
        PrefixConfig(documents=0)


def test_settings_are_laid_over_a_run() -> None:
    base = RunConfig(recipe={"dynamic_prefix": {"prefix": {"compress": 4, "static": 1}}})
    given = {"recipe.dynamic_prefix.prefix.compress": None, "search.source": "bm25"}
    found = laid_over(base, given, Path("elsewhere"))
    assert found.run_dir == Path("elsewhere")
    assert found.recipe["dynamic_prefix"]["prefix"] == {"compress": None, "static": 1}
    assert found.search.source == "bm25"
    assert base.recipe["dynamic_prefix"]["prefix"]["compress"] == 4
    assert changed_sections(list(given)) == {"recipe", "search"}


def test_a_section_that_a_run_lacks_is_made_only_for_recipes() -> None:
    assert laid_over(RunConfig(), {"recipe.dynamic_prefix.prefix.static": 1}, Path("a")).recipe == {
        "dynamic_prefix": {"prefix": {"static": 1}}
    }
    with pytest.raises(ConfigError, match="needs 'run_dir' to be a section"):
        laid_over(RunConfig(), {"run_dir.x": 1}, Path("a"))
    with pytest.raises(ConfigError, match="serach"):
        laid_over(RunConfig(), {"serach.source": 1}, Path("a"))
