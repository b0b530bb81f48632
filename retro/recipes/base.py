"""What a recipe is: special tokens, steps, a way of decoding, scores. It owns no loop, no file format and no server.

A recipe is one object with the attributes of `Recipe`, registered by name: a line in `RECIPES` here, an entry point
`retro.recipes` of another package, or `RECIPES.register` in a notebook. Its steps run in order, each in a folder of its
own, `recipe_<name>/<step>` of the run directory:

    config.json      what it was made with        report.json   its counts and rates
    manifest.json    written last: settings that shape it, what it was made from, size and SHA-256 of its files
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from retro.common.artifacts import (
    MANIFEST,
    REPORT,
    Manifest,
    command_of,
    describe_files,
    is_complete,
    read_manifest,
    require_parent,
    require_same_config,
    write_manifest,
)
from retro.common.checksum_cache import known_sha256
from retro.common.config import StageConfig, config_json, unknown_name
from retro.common.errors import ArtifactError, ConfigError
from retro.common.files import discard, write_plain_json
from retro.common.launcher import worker_of
from retro.common.leases import run_lock
from retro.common.progress import duration
from retro.common.registry import Registry
from retro.run.config import RunConfig
from retro.run.pipeline import STAGES, stage

if TYPE_CHECKING:
    from retro.generate.config import GenerateConfig, ModelPaths
    from retro.generate.program import BeginRequest
    from retro.teacher.config import TeacherConfig
    from retro.teacher.teacher import Teacher
    from retro.training.loop import AddModules

log = logging.getLogger(__name__)

CONFIG = "config.json"
_POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a step leaves."""

    files: Sequence[str] = ()
    """Below its directory; their checksums go into the manifest."""
    counts: Mapping[str, Any] = field(default_factory=dict)
    """What there is of them: equal for equal settings."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """Rates and whatever else differs from run to run."""


@dataclass(frozen=True, kw_only=True)
class StepRun:
    """A step at work: where it writes, and what the core gives it."""

    recipe: Recipe
    step: Step
    config: RunConfig
    settings: Any
    """The recipe's own, of the type `Recipe.config`."""

    @property
    def home(self) -> Path:
        """The recipe's folder in the run directory."""
        return recipe_path(self.config, self.recipe)

    @property
    def directory(self) -> Path:
        """The step's own; what is half made there is its to find again."""
        return self.home / self.step.name

    def made_by(self, name: str) -> Path:
        """The folder of an earlier step, or of a stage, that this one `needs`; it has finished.

        Raises:
            ValueError: The step does not say that it needs it.
        """
        if name not in self.step.needed(self.settings):
            raise ValueError(f"step {self.step.name} reads {name}, which is not among its needs")
        return _place(self.recipe, self.config, name)

    def teacher(self, settings: TeacherConfig, model: Path | None = None) -> Teacher:
        """A teacher whose replies are kept in the recipe's folder, for all of its steps; its report is the step's.

        Args:
            settings: Who that is.
            model: The checkpoint that replies where the settings ask for an engine and name no run.
        """
        from retro.teacher.teacher import open_teacher

        cache = settings.cache or self.home / "teacher"
        generate = self.config.generate.model_copy(update={"checkpoint": model, "step": None})
        own = None if model is None else self.config.model_copy(update={"generate": generate})
        return open_teacher(settings.model_copy(update={"cache": cache}), self.directory, own)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: reads files, writes files, may be killed at any moment and run again."""

    name: str
    summary: str
    """One line."""
    run: Callable[[StepRun], Made]
    """Goes on with what an earlier call left in the step's directory."""
    needs: tuple[str, ...] | Callable[[Any], tuple[str, ...]] = ()
    """Earlier steps, and stages of the pipeline, that must have finished; made again, this one is out of date. A
    function of the recipe's settings where these say so, such as a checkpoint that takes the place of a step."""
    settings: tuple[str, ...] = ()
    """Names of the recipe's settings that shape it, dotted within a section: `critic.tune`."""
    sections: tuple[str, ...] = ()
    """Sections of the run's settings that shape it, such as `sft`."""
    inputs: Callable[[StepRun], Sequence[Path]] = lambda _: ()
    """Files from outside the run that it reads: a change of their content is a change of its settings."""
    collective: bool = False
    """Whether the processes of a launcher do it together, as they tune and generate. Others need one process."""
    facts: Callable[[StepRun], Mapping[str, Any]] = lambda _: {}
    """What else shapes it, as JSON values, such as the identity of a model: a change is a change of its settings."""
    wanted: Callable[[Any], bool] = lambda _: True
    """Whether the recipe's settings ask for it. One that they do not ask for is passed over when all steps are run."""

    def needed(self, settings: Any) -> tuple[str, ...]:
        """What it needs under these settings of the recipe."""
        return self.needs(settings) if callable(self.needs) else self.needs


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a recipe has `retro serve` answer with."""

    generate: GenerateConfig
    """Prompts and passages; `contexts_in_prompt` passages are at hand for each question."""
    paths: ModelPaths
    """Model and database."""
    kind: str
    """The kind of question that a chat's last message is."""
    begin: BeginRequest
    """The program that answers a request."""
    modules: AddModules | None = None
    """Gives the further modules that the model was trained with."""


def served(config: RunConfig) -> Served:
    """What the recipe `serve.recipe` serves.

    Raises:
        ConfigError: There is no such recipe, or it serves nothing.
    """
    name = config.serve.recipe
    recipe = RECIPES.find(name, "serve.recipe")
    serve = getattr(recipe, "serve", None)
    if serve is None:
        raise ConfigError("serve.recipe", name, "needs a recipe with a way of decoding; this one has none to serve")
    found: Served = serve(config, recipe_settings(config, recipe))
    return found


@runtime_checkable
class Recipe(Protocol):
    """What one paper or project adds."""

    @property
    def name(self) -> str:
        """As it is registered."""

    @property
    def summary(self) -> str:
        """One line, with the paper."""

    @property
    def config(self) -> type[StageConfig]:
        """Its settings: the section `recipe.<name>` of the run's YAML."""

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """Tokens that it adds to a model: steps that tune pass them to `sft.special_tokens`."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """In order."""


_ATTRIBUTES = ("name", "summary", "config", "special_tokens", "steps")


def _accept(found: object) -> Recipe:
    made = found() if isinstance(found, type) else found
    # A subclass of the protocol has all attributes, which return None.
    lacking = [name for name in _ATTRIBUTES if getattr(made, name, None) is None]
    if lacking or not isinstance(made, Recipe):
        raise TypeError(f"is not a recipe: it lacks {', '.join(lacking)}; see retro.recipes.base.Recipe")
    if not made.steps or not all(isinstance(one, Step) for one in made.steps):
        raise TypeError("is not a recipe: its `steps` need to be a tuple of at least one retro.recipes.base.Step")
    return made


RECIPES: Registry[Recipe] = Registry(
    "retro.recipes",
    "a recipe",
    {
        "self_rag": "retro.recipes.self_rag.recipe:SelfRag",
        "instruct_rag": "retro.recipes.instruct_rag.recipe:InstructRag",
        "knowledge_conflict": "retro.recipes.knowledge_conflict.recipe:KnowledgeConflict",
        "multi_hop": "retro.recipes.multi_hop.recipe:MultiHop",
        "dense_retriever": "retro.recipes.dense_retriever.recipe:DenseRetriever",
        "dynamic_prefix": "retro.recipes.dynamic_prefix.recipe:DynamicPrefix",
    },
    _accept,
)
"""All recipes by name."""


def recipe_path(config: RunConfig, recipe: Recipe) -> Path:
    """The recipe's folder in the run directory."""
    return config.run_dir / f"recipe_{recipe.name}"


def recipe_settings(config: RunConfig, recipe: Recipe) -> StageConfig:
    """The recipe's settings in a run.

    Raises:
        ConfigError: One is unknown, or cannot work.
    """
    return recipe.config(**config.recipe.get(recipe.name, {}))


def require_recipes(config: RunConfig) -> None:
    """Check that the sections of recipes name recipes.

    Raises:
        ConfigError: One does not; the nearest is named.
    """
    for name in config.recipe:
        RECIPES.require(name, f"recipe.{name}", "a package that brings one has to be installed")


def run_recipe(recipe: Recipe, config: RunConfig, only: str = "", *, redo: bool = False, until: bool = False) -> None:
    """Run the steps of a recipe in order, skipping what is complete.

    Args:
        recipe: Which.
        config: The run.
        only: One step; empty: all.
        redo: Remove what the step, or the first of them, and those after it wrote, first.
        until: That step, and those before it that the settings ask for.

    Raises:
        ConfigError: There is no such step, or a setting cannot work.
        ArtifactError: What a step needs has not finished, or it was made from other things or under other settings.
    """
    names = [one.name for one in recipe.steps]
    if only and only not in names:
        raise ConfigError("STEP", only, unknown_name(only, names).replace("a setting", f"a step of {recipe.name}"))
    settings = recipe_settings(config, recipe)
    with run_lock(config.run_dir, name=f".locks/recipe_{recipe.name}", what=f"recipe {recipe.name}"):
        if redo and worker_of().world > 1:
            raise ConfigError("--redo", True, "needs one process, which removes the results; then start the launcher")
        if redo:
            for one in recipe.steps[names.index(only) if only else 0 :]:
                discard(recipe_path(config, recipe) / one.name)
        steps = recipe.steps[: names.index(only) + 1] if until and only else recipe.steps
        if until:
            only = ""
        for number, one in enumerate(steps, start=1):
            where = f"[{number}/{len(recipe.steps)}] recipe {recipe.name}: {one.name}"
            if not only and not one.wanted(settings):
                log.info("%s: passed over, the settings do not ask for it", where)
            elif only in ("", one.name):
                _run_step(StepRun(recipe=recipe, step=one, config=config, settings=settings), where)


def _run_step(work: StepRun, where: str) -> None:
    step, out = work.step, work.directory
    parents = {name: _parent(work, name) for name in step.needed(work.settings)}
    shaping = shaping_of(work)
    title = f"{work.recipe.name}.{step.name}"
    if is_complete(out):
        made = read_manifest(out, title)
        for name, parent in parents.items():
            require_parent(out, made, name, parent)
        require_same_config(out, made, shaping)
        log.info("%s: already complete", where)
        return
    log.info("%s: starting in %s", where, out)
    out.mkdir(parents=True, exist_ok=True)
    write_plain_json(out / CONFIG, {"settings": config_json(work.settings), "run": config_json(work.config)})
    started = time.monotonic()
    worker = worker_of()
    if worker.world > 1 and not step.collective:
        need = (
            f"needs one process: run `retro recipe {work.recipe.name} run CONFIG {step.name}` without a launcher first"
        )
        raise ConfigError("STEP", step.name, need)
    found = step.run(work)
    seconds = time.monotonic() - started
    if worker.rank:
        # The first process writes the manifest; a launcher ends all of them where that one fails.
        while not is_complete(out):
            time.sleep(_POLL_S)
        return
    write_plain_json(out / REPORT, {**found.report, "seconds": round(seconds, 3)})
    write_manifest(
        out,
        Manifest(
            stage=title,
            config=shaping,
            parents={name: parent.fingerprint for name, parent in parents.items()},
            counts=dict(found.counts),
            files=describe_files(out, list(found.files)),
        ),
    )
    log.info("%s: done in %s", where, duration(seconds))


def shaping_of(work: StepRun) -> dict[str, Any]:
    """The settings that shape a step, those of the recipe and of the run: what its manifest records."""
    own, run = config_json(work.settings), config_json(work.config)
    return {
        "recipe": {name: _content(*_setting(work.settings, own, name)) for name in work.step.settings},
        "run": {name: run[name] for name in work.step.sections},
        "special_tokens": list(work.recipe.special_tokens),
        "inputs": {str(path): _content_of(path, work.config.run_dir) for path in work.step.inputs(work)},
        "facts": dict(work.step.facts(work)),
    }


def _content_of(path: Path, memory: Path) -> str:
    """A checksum of a file, read again only if it changed; whoever reads it says what is wrong with one that cannot be
    read."""
    return known_sha256(path, memory) if path.is_file() else "missing"


def _setting(settings: Any, data: Any, name: str) -> tuple[Any, Any]:
    """A setting and its JSON value."""
    for part in name.split("."):
        settings, data = getattr(settings, part), data[part]
    return settings, data


def _content(value: Any, data: Any) -> Any:
    """What of a setting shapes results: a section may leave out how its work is done, such as a teacher's retries."""
    if not isinstance(value, StageConfig):
        return data
    kept = getattr(value, "shaping", None)
    return {name: _content(getattr(value, name), data[name]) for name in data} if kept is None else dict(kept)


def _place(recipe: Recipe, config: RunConfig, name: str) -> Path:
    if any(one.name == name for one in recipe.steps):
        return recipe_path(config, recipe) / name
    return stage(name).path(config)


def _parent(work: StepRun, name: str) -> Manifest:
    """The manifest of what a step needs.

    Raises:
        ArtifactError: It has not finished.
    """
    path = _place(work.recipe, work.config, name)
    title = name if any(one.name == name for one in STAGES) else f"{work.recipe.name}.{name}"
    if not is_complete(path):
        raise ArtifactError(
            path / MANIFEST, f"is missing, and step {work.step.name} needs it", f"Run `{command_of(title)}` first"
        )
    return read_manifest(path, title)
