"""A recipe of another package runs like the stages: in order, once, resumable, refused when it is out of date."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from retro.cli.main import app
from retro.common.artifacts import read_manifest
from retro.common.errors import ArtifactError, ConfigError, DependencyError
from retro.common.files import read_json
from retro.qa.answer_files import read_answers
from retro.qa.metrics.registry import METRICS
from retro.recipes.base import RECIPES, recipe_path, recipe_settings, run_recipe
from retro.run.config import RunConfig, as_yaml
from retro.tokenizers.added_tokens import added_tokens
from retro.tokenizers.tokenizer import load_tokenizer
from retro.training import checkpoint
from retro.training.result import of_stage
from tests.outside import installed, write_distribution
from tests.recipes.tiny_recipe import Tiny
from tests.tiny_road import run_stages, small_config

TEACHER = "{kind: script, function: 'tests.recipes.tiny_recipe:yes_to_gardens'}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tiny recipe, offered by a distribution of its own."""
    folder = tmp_path_factory.mktemp("site")
    offers = {"retro.recipes": "tiny = tests.recipes.tiny_recipe:Tiny"}
    offers["retro.metrics"] = "one_word = tests.recipes.tiny_recipe:one_word"
    write_distribution(folder, "tiny-recipe", {}, offers)
    with installed(folder, RECIPES, METRICS):
        yield folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a pretrained model."""
    folder = tmp_path_factory.mktemp("run")
    run_stages(small_config(folder), "corpus", "db", "index", "neighbors", "pretrain")
    return folder


def config_of(folder: Path, *overrides: str) -> RunConfig:
    task = folder / "words.yaml"
    task.write_text("extends: qa\nname: words\nmetrics: [f1, one_word]\n")
    settings = [
        f"recipe={{tiny: {{teacher: {TEACHER}}}}}",
        "generate.settings=[with_passages]",
        f"generate.task={task}",
    ]
    return small_config(folder, *settings, *overrides)


@pytest.fixture(scope="module")
def made(site: Path, folder: Path) -> RunConfig:
    """All steps, run."""
    config = config_of(folder)
    run_recipe(RECIPES.find("tiny", "recipe"), config)
    return config


def test_every_step_leaves_its_settings_report_and_manifest(made: RunConfig) -> None:
    home = recipe_path(made, Tiny())
    for step in Tiny.steps:
        assert {"config.json", "report.json", "manifest.json"} <= {path.name for path in (home / step.name).iterdir()}
    manifest = read_manifest(home / "label", "tiny.label")
    assert manifest.counts["questions"] == 40
    assert 0 < manifest.counts["relevant"] < 40
    assert set(manifest.config["recipe"]) == {"teacher"}
    assert read_manifest(home / "learn", "tiny.learn").parents["label"] == manifest.fingerprint


def test_the_tuned_model_has_the_tokens_and_its_decoding_computes_each_prompt_once(made: RunConfig) -> None:
    home = recipe_path(made, Tiny())
    info = checkpoint.read_info(checkpoint.find(of_stage(home / "learn" / "sft")))
    assert info.tokenizer is not None
    assert added_tokens(load_tokenizer(info.tokenizer)) == Tiny.special_tokens
    answers = read_answers(home / "answer" / "answers" / "with_passages.jsonl")
    assert len(answers) == 10
    assert read_json(home / "answer" / "report.json", "")["prompts_computed"] == 10
    scores = read_json(home / "judge" / "scores" / "scores.json", "")
    assert "one_word" in json.dumps(scores)


def test_what_is_complete_is_not_run_again(made: RunConfig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="retro"):
        run_recipe(RECIPES.find("tiny", "recipe"), made)
    lines = [record.getMessage() for record in caplog.records if record.name == "retro.recipes.base"]
    assert lines == [
        f"[{n}/4] recipe tiny: {step.name}: already complete" for n, step in enumerate(Tiny.steps, start=1)
    ]


def test_settings_that_do_not_shape_a_step_leave_it_as_it_is(made: RunConfig, folder: Path) -> None:
    other = config_of(folder, "recipe.tiny.bias=1.5")
    run_recipe(RECIPES.find("tiny", "recipe"), other, "label")
    with pytest.raises(ArtifactError, match=r"recipe.bias was 0.0, now 1.5"):
        run_recipe(RECIPES.find("tiny", "recipe"), other, "answer")


def test_a_step_that_failed_goes_on_where_it_was(site: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(folder, f"recipe={{tiny: {{teacher: {TEACHER}}}}}", run="broken", write=False)
    run_stages(config, "corpus")
    monkeypatch.setattr("retro.recipes.base.write_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_recipe(RECIPES.find("tiny", "recipe"), config, "label")
    monkeypatch.undo()
    run_recipe(RECIPES.find("tiny", "recipe"), config, "label")
    # The replies of the teacher were kept: the second run asked nothing.
    assert read_json(recipe_path(config, Tiny()) / "label" / "report.json", "")["requests"] == 0


def test_a_step_without_what_it_needs_names_the_command(site: Path, folder: Path) -> None:
    config = small_config(folder, run="empty", write=False)
    with pytest.raises(
        ArtifactError, match=r"is missing, and step learn needs it. Run `retro recipe tiny run CONFIG lab"
    ):
        run_recipe(RECIPES.find("tiny", "recipe"), config, "learn")
    with pytest.raises(ConfigError, match=r"STEP = 'lern': is not a step of tiny; did you mean 'learn'"):
        run_recipe(RECIPES.find("tiny", "recipe"), config, "lern")


def test_an_unknown_setting_of_a_recipe_is_named(site: Path, folder: Path) -> None:
    config = small_config(folder, "recipe={tiny: {bais: 1}}", write=False)
    with pytest.raises(ConfigError, match=r"bais = 1: is not a setting; did you mean 'bias'"):
        recipe_settings(config, Tiny())


def test_what_is_no_recipe_says_what_it_lacks(tmp_path: Path) -> None:
    write_distribution(
        tmp_path, "wrong", {"wrong.py": "class Wrong: name = 'wrong'"}, {"retro.recipes": "wrong = wrong:Wrong"}
    )
    with (
        installed(tmp_path, RECIPES),
        pytest.raises(DependencyError, match="is not a recipe: it lacks summary, config"),
    ):
        RECIPES.find("wrong", "recipe")


def test_the_command_lists_shows_and_runs(made: RunConfig, folder: Path) -> None:
    path = folder / "run.yaml"
    path.write_text(as_yaml(made))
    run = CliRunner().invoke
    assert "tiny" in run(app, ["recipe", "list"], env={"COLUMNS": "120"}).output
    shown = run(app, ["recipe", "tiny", "show"], env={"COLUMNS": "120"}).output
    assert "learn" in shown
    assert "Added to the log-probability of a relevant passage." in shown
    assert run(app, ["recipe", "tiny", "run", str(path), "label"]).exit_code == 0
    assert "is not a recipe" in str(run(app, ["recipe", "tyni"]).exception)
    assert "run or show" in str(run(app, ["recipe", "tiny", "rnu"]).exception)


def test_status_shows_the_steps(made: RunConfig) -> None:
    found = CliRunner().invoke(app, ["status", str(made.run_dir), "--json"]).output
    states = {one["stage"]: one["state"] for one in json.loads(found[found.index("[") :])}
    assert states["recipe tiny: label"] == states["recipe tiny: judge"] == "done"


def test_a_subclass_without_steps_is_no_recipe(tmp_path: Path) -> None:
    base = "from retro.recipes.base import Recipe\nfrom retro.common.config import StageConfig\n"
    text = "class Wrong(Recipe):\n name = summary = 'wrong'\n config = StageConfig\n special_tokens = ()\n"
    for more, problem in (("", "it lacks steps"), (" steps = ('one',)\n", "its `steps` need to be a tuple")):
        folder = tmp_path / problem[:4]
        write_distribution(folder, "wrong", {"wrong.py": base + text + more}, {"retro.recipes": "wrong = wrong:Wrong"})
        with installed(folder, RECIPES), pytest.raises(DependencyError, match=f"is not a recipe: {problem}"):
            RECIPES.find("wrong", "recipe")
