"""`retro recipe dynamic_prefix ablate CONFIG`: variants of a run, each in a folder of its own, and one table of them.

recipe_dynamic_prefix/ablation/<variant>/      a run directory; a variant that changes nothing is the run itself
recipe_dynamic_prefix/ablation/ablation.json   all rows, as far as they are there; .md the table, .svg the plot

A step, or a stage such as the database, that a variant has in common with the run or with a variant before it is a link
to that one's. Stopped and called again, it goes on; complete rows are skipped.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from retro.common.artifacts import MANIFEST, is_complete, read_manifest
from retro.common.errors import ConfigError, RetroError
from retro.common.files import read_json
from retro.recipes.base import Recipe, Step, StepRun, recipe_path, recipe_settings, run_recipe, shaping_of
from retro.recipes.dynamic_prefix.ablation.config import VariantConfig
from retro.recipes.dynamic_prefix.ablation.variants import changed_sections, laid_over, variants_of
from retro.recipes.dynamic_prefix.evaluation.evaluate import QUESTIONS, SCORES, TASK
from retro.recipes.dynamic_prefix.training.questions import TRAIN, VALID
from retro.run.config import RunConfig
from retro.run.pipeline import STAGES, stage, stage_lock

log = logging.getLogger(__name__)

ABLATION, EVALUATE, TRAIN_STEP = "ablation", "evaluate", "train"
_REDO = "Run it again with --redo"
# Sections of a run that shape a stage; what comes earlier shapes it too.
_SECTIONS = {
    "corpus": {"corpus"},
    "db": {"db"},
    "index": {"index", "bm25"},
    "neighbors": {"neighbors", "database"},
    "pretrain": {"model", "train", "pretrain", "parallel"},
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant, and what came of it."""

    name: str
    group: str
    mode: str
    directory: str = ""
    changed: Mapping[str, Any] = field(default_factory=dict)
    """The settings that differ from the run's."""
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Means with intervals."""
    token_accuracy: Mapping[str, float] | None = None
    trained: int | None = None
    """Parameters that were trained."""
    frozen: int | None = None
    vectors: float | None = None
    """That the model reads of a document."""
    length: int | None = None
    """Learned queries of a document; None: all its tokens, or no document."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Of its steps; of those that are links, as they took where they were made."""
    error: str = ""


def run_ablation(recipe: Recipe, config: RunConfig) -> list[Row]:
    """Run all variants, those that fail too, and write the table after each.

    Args:
        recipe: The dynamic prefix.
        config: The run that is varied.

    Raises:
        ConfigError: A variant's settings cannot work; said before anything is run.
    """
    from retro.recipes.dynamic_prefix.ablation.tables import write_tables

    settings: Any = recipe_settings(config, recipe)
    home = recipe_path(config, recipe) / ABLATION
    variants = variants_of(settings)
    runs = {one.name: variant_run(recipe, config, one, home) for one in variants}
    rows: list[Row] = []
    donors = [config]
    for number, one in enumerate(variants, start=1):
        log.info("[%d/%d] %s", number, len(variants), one.name)
        try:
            rows.append(run_variant(recipe, config, runs[one.name], one, donors))
            donors.append(runs[one.name])
        # What a model or a machine can do to one variant, too little memory among it, says nothing about the next.
        except (RetroError, RuntimeError, MemoryError, OSError) as error:
            log.error("%s: %s", one.name, error)
            rows.append(_empty(one, runs[one.name], f"{type(error).__name__}: {error}"))
        write_tables(home, rows)
    return rows


def variant_run(recipe: Recipe, base: RunConfig, variant: VariantConfig, home: Path) -> RunConfig:
    """A variant's run; the run itself where nothing is changed.

    Raises:
        ConfigError: A setting is unknown, or cannot work; the variant is named.
    """
    if not variant.set and variant.kind == "prefix":
        return base
    try:
        found = laid_over(base, variant.set, home / variant.name)
        recipe_settings(found, recipe)
    except ConfigError as error:
        raise ConfigError(f"{variant.name}: {error.setting}", error.value, error.need) from None
    return found


def run_variant(
    recipe: Recipe, base: RunConfig, config: RunConfig, variant: VariantConfig, donors: Sequence[RunConfig]
) -> Row:
    """Run what a variant lacks, and read its row.

    Args:
        recipe: The dynamic prefix.
        base: The run that is varied.
        config: The variant's.
        variant: Which.
        donors: Runs whose steps may be taken over, the first of which is the base.

    Raises:
        RetroError: A step fails.
    """
    if variant.kind == "cross_attention":
        return _cross_attention(recipe, base, config, variant)
    settings = recipe_settings(config, recipe)
    changed = changed_sections(list(variant.set))
    for step in recipe.steps:
        if not step.wanted(settings):
            continue
        if config is not base:
            for name in step.needed(settings):
                _stage(base, config, name, changed)
            _take_over(StepRun(recipe=recipe, step=step, config=config, settings=settings), donors)
        run_recipe(recipe, config, step.name)
    return read_row(recipe, config, variant)


def _cross_attention(recipe: Recipe, base: RunConfig, config: RunConfig, variant: VariantConfig) -> Row:
    """The row of Retro's cross-attention, on what the run's own steps made."""
    from retro.recipes.dynamic_prefix.ablation.cross_attention import Rival, run_rival
    from retro.recipes.dynamic_prefix.training.base_model import base_path

    run_recipe(recipe, base)
    settings: Any = recipe_settings(base, recipe)
    steps = recipe_path(base, recipe)
    weights = read_json(steps / EVALUATE / SCORES, _REDO)["weights"] or {}
    training = next(one for one in recipe.steps if one.name == TRAIN_STEP)
    frozen = base_path(StepRun(recipe=recipe, step=training, config=base, settings=settings))
    valid = steps / "retrieve" / VALID
    _stage(base, config, "corpus", set())
    rival = Rival(
        config=config, settings=settings, base=frozen, train=steps / "retrieve" / TRAIN,
        valid=valid if valid.exists() and valid.stat().st_size else None, questions=steps / "answer" / QUESTIONS,
        task=steps / EVALUATE / TASK, target=weights.get("trained", 0),
    )  # fmt: skip
    found = run_rival(rival)
    return Row(
        name=variant.name, group=variant.group, mode=variant.mode, directory=str(config.run_dir),
        changed=dict(variant.set), metrics=found.means, trained=found.fit.added, frozen=found.frozen,
        vectors=float(found.fit.shape.retrieved_length), seconds=found.seconds,
    )  # fmt: skip


def _stage(base: RunConfig, config: RunConfig, name: str, changed: set[str]) -> None:
    """Have a stage in a variant's run: the base's, or under other settings one of its own."""
    names = [one.name for one in STAGES]
    if name not in names or is_complete(stage(name).path(config)):
        return
    earlier = names[: names.index(name) + 1]
    shaped = set().union(*(_SECTIONS.get(one, set()) for one in earlier))
    if not changed & shaped:
        _link(stage(name).path(base), stage(name).path(config))
        return
    for one in earlier:
        if one in ("corpus", "db") and one != name:
            _stage(base, config, one, changed)
    with stage_lock(config, name):
        stage(name).run(config)


def _link(source: Path, place: Path) -> None:
    if is_complete(source) and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath(source.resolve(), place.parent.resolve()), target_is_directory=True)


def _take_over(work: StepRun, donors: Sequence[RunConfig]) -> None:
    """Link a step to one that was made from the same things under the same settings, where there is one."""
    if work.directory.exists() or not _have_finished(work):
        return
    wanted, parents = shaping_of(work), _parents(work)
    title = f"{work.recipe.name}.{work.step.name}"
    for donor in donors:
        place = recipe_path(donor, work.recipe) / work.step.name
        if not is_complete(place):
            continue
        made = read_manifest(place, title)
        if made.config == wanted and made.parents == parents:
            log.info("%s: taken over from %s", title, place)
            _link(place, work.directory)
            return


def _parents(work: StepRun) -> dict[str, str]:
    found = {}
    for name in work.step.needed(work.settings):
        of_stage = any(one.name == name for one in STAGES)
        title = name if of_stage else f"{work.recipe.name}.{name}"
        found[name] = read_manifest(work.made_by(name), title).fingerprint
    return found


def _have_finished(work: StepRun) -> bool:
    return all((work.made_by(name) / MANIFEST).exists() for name in work.step.needed(work.settings))


def _empty(variant: VariantConfig, config: RunConfig, error: str) -> Row:
    return Row(
        name=variant.name, group=variant.group, mode=variant.mode, directory=str(config.run_dir),
        changed=dict(variant.set), error=error,
    )  # fmt: skip


def read_row(recipe: Recipe, config: RunConfig, variant: VariantConfig) -> Row:
    """A variant's row, from the files of its steps.

    Raises:
        ConfigError: Its run does not answer in that mode.
    """
    settings: Any = recipe_settings(config, recipe)
    home = recipe_path(config, recipe)
    found = read_json(home / EVALUATE / SCORES, _REDO)
    if variant.mode not in found["modes"]:
        need = (
            f"needs one of those that are answered in: {', '.join(found['modes'])} (recipe.dynamic_prefix.answer.modes)"
        )
        raise ConfigError(f"{variant.name}: mode", variant.mode, need)
    reads = variant.mode == "prefix"
    forced = found["forced"].get(variant.mode, {}).get("gold", {})
    weights = (found["weights"] or {}) if reads else {"trained": 0}
    return Row(
        name=variant.name,
        group=variant.group,
        mode=variant.mode,
        directory=str(config.run_dir),
        changed=dict(variant.set),
        metrics={name: found["modes"][variant.mode][name] for name in found["metrics"]},
        token_accuracy=forced.get("accuracy"),
        trained=weights.get("trained"),
        frozen=weights.get("frozen"),
        vectors=_vectors(home / "encode", settings) if reads else None,
        length=settings.prefix.compress if reads else None,
        seconds=_seconds(recipe, home),
    )


def _vectors(encode: Path, settings: Any) -> float | None:
    if settings.prefix.compress is not None:
        return float(settings.prefix.compress)
    report = encode / "report.json"
    return read_json(report, _REDO).get("vectors_per_document") if report.exists() else None


def _seconds(recipe: Recipe, home: Path) -> dict[str, float]:
    reports: Mapping[str, Path] = {one.name: home / one.name / "report.json" for one in _steps(recipe)}
    return {name: read_json(path, _REDO)["seconds"] for name, path in reports.items() if path.exists()}


def _steps(recipe: Recipe) -> Sequence[Step]:
    return recipe.steps


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as JSON values."""
    return [asdict(one) for one in rows]
