"""The rows of an ablation: the run's settings with some changed, and the built-in list of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.config import config_json, unknown_name
from retro.common.errors import ConfigError
from retro.recipes.dynamic_prefix.ablation.config import VariantConfig
from retro.recipes.dynamic_prefix.config import DynamicPrefixConfig
from retro.run.config import RunConfig

OWN = "recipe.dynamic_prefix"
_SETTING = f"{OWN}.ablate"
BASE = "base"
"""The row of the run itself."""


def variants_of(settings: DynamicPrefixConfig) -> list[VariantConfig]:
    """The rows that settings ask for, those of a group together.

    Raises:
        ConfigError: Two have one name, or `only` names none.
    """
    config = settings.ablate
    rows = [*(config.variants or built_in(settings)), *config.more]
    names = [one.name for one in rows]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{_SETTING}.more", twice, "needs names that no other row has")
    known = list(dict.fromkeys([*names, *(one.group for one in rows)]))
    for name in config.only:
        if name not in known:
            raise ConfigError(
                f"{_SETTING}.only", name, unknown_name(name, known).replace("a setting", "a row or group")
            )
    kept = [one for one in rows if not config.only or {one.name, one.group} & set(config.only)]
    groups = list(dict.fromkeys(one.group for one in kept))
    return sorted(kept, key=lambda one: groups.index(one.group))


def built_in(settings: DynamicPrefixConfig) -> list[VariantConfig]:
    """The rows of the paper's questions: what documents do, which retriever, how long a prefix, which encoder."""
    rows = [
        VariantConfig(name=BASE, group="documents"),
        VariantConfig(name="none", group="documents", mode="none"),
        VariantConfig(name="prompt", group="documents", mode="prompt"),
        *_static(settings),
        *_retrievers(settings),
        *_lengths(settings),
        *_heads(settings),
        *(_row(f"documents-{count}", "documents read", {"prefix.documents": count}) for count in _counts(settings)),
    ]
    if settings.ablate.cross_attention:
        rows.append(VariantConfig(name="cross-attention", group="cross-attention", kind="cross_attention"))
    return rows


def _row(name: str, group: str, own: Mapping[str, Any]) -> VariantConfig:
    return VariantConfig(name=name, group=group, set={f"{OWN}.{key}": value for key, value in own.items()})


def _static(settings: DynamicPrefixConfig) -> list[VariantConfig]:
    """Prefix tuning (Li & Liang 2021): vectors that are the same for every question, and no document."""
    if not settings.ablate.static:
        return []
    own = {"prefix.static": settings.ablate.static, "prefix.documents": 0}
    # There is no document to store, or to put into a prompt.
    return [_row("static", "documents", {**own, "answer.documents": None, "answer.stored": False})]


def _retrievers(settings: DynamicPrefixConfig) -> list[VariantConfig]:
    found = settings.ablate.retrievers
    if found and not settings.data.retrieve:
        need = f"needs {OWN}.data.retrieve=true: questions that bring their documents are not searched for"
        raise ConfigError(f"{_SETTING}.retrievers", sorted(found), need)
    return [VariantConfig(name=name, group="retriever", set=given) for name, given in found.items()]


def _lengths(settings: DynamicPrefixConfig) -> list[VariantConfig]:
    """Numbers of vectors of a document; all of its token states are the last row."""
    lengths = [one for one in settings.ablate.lengths if one != settings.prefix.compress]
    rows = [_row(f"length-{one}", "prefix length", {"prefix.compress": one}) for one in lengths]
    if settings.prefix.compress is not None and settings.ablate.lengths:
        rows.append(_row("uncompressed", "prefix length", {"prefix.compress": None}))
    return rows


def _heads(settings: DynamicPrefixConfig) -> list[VariantConfig]:
    encoder = settings.prefix.encoder
    if encoder.model is not None:
        return []
    fit = [one for one in settings.ablate.heads if encoder.hidden_size % one == 0 and one != encoder.heads]
    return [_row(f"heads-{one}", "encoder heads", {"prefix.encoder.heads": one}) for one in fit]


def _counts(settings: DynamicPrefixConfig) -> list[int]:
    return [one for one in settings.ablate.documents if one != settings.prefix.documents]


def laid_over(base: RunConfig, given: Mapping[str, Any], run_dir: Path) -> RunConfig:
    """A run under other settings, in another folder.

    Args:
        base: The run.
        given: Settings by their dotted names.
        run_dir: The folder.

    Raises:
        ConfigError: A setting is unknown, or cannot work.
    """
    data: dict[str, Any] = config_json(base)
    for name, value in given.items():
        *sections, last = name.split(".")
        target = data
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError(name, value, f"needs {section!r} to be a section of settings")
        target[last] = value
    return RunConfig(**(data | {"run_dir": str(run_dir)}))


def changed_sections(given: Sequence[str]) -> set[str]:
    """The sections of a run that settings belong to."""
    return {name.partition(".")[0] for name in given}
