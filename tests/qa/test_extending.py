"""docs/extending.md: its examples are installed as a package, as they stand there, and used."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from retro.cli.options import read_arguments
from retro.cli.scores import tasks_numbers
from retro.common.errors import ArtifactError, ConfigError, DataError, DependencyError
from retro.common.registry import GROUPS, Registry
from retro.index.config import EmbedderConfig, IndexConfig
from retro.index.embedder import EMBEDDERS
from retro.index.embedders import make_embedder
from retro.model.config import ModelConfig
from retro.model.positions import POSITIONS, positions_named
from retro.qa.answer_files import Answer, question_line_of
from retro.qa.fields import Fields
from retro.qa.formats.convert import convert_file
from retro.qa.formats.item import Options
from retro.qa.formats.registry import FORMATS, find_format
from retro.qa.layouts import read_task_questions
from retro.qa.metrics.registry import METRICS
from retro.qa.metrics.scoring import score
from retro.qa.prompt_texts import PROMPTS, load_prompts, shipped_prompts
from retro.qa.prompts import build_prompt
from retro.qa.question import Context, Question
from retro.qa.question_files import read_questions
from retro.qa.task import TASKS, load_task
from retro.recipes.base import RECIPES, run_recipe
from retro.recipes.dynamic_prefix.joint.penalties import PENALTIES
from retro.run.config import RunConfig
from tests.outside import installed, write_distribution

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"```(?:python|yaml|toml)\n# (\S+)\n(.*?)```", PAGE, flags=re.DOTALL))
OTHERS = ("my_lab/slow_rope.py", "hedging.yaml")
REGISTRIES: tuple[Registry[Any], ...] = (EMBEDDERS, METRICS, FORMATS, TASKS, PROMPTS, POSITIONS, RECIPES, PENALTIES)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package of the page, installed."""
    folder = tmp_path_factory.mktemp("site")
    files = {path: text for path, text in BLOCKS.items() if path.startswith("my_lab/")}
    project = tomllib.loads(BLOCKS["pyproject.toml"])["project"]
    entries = {
        group: "\n".join(f"{name} = {reference}" for name, reference in lines.items())
        for group, lines in project["entry-points"].items()
    }
    write_distribution(folder, project["name"], {"my_lab/__init__.py": "", **files}, entries)
    with installed(folder, *REGISTRIES):
        yield folder


def test_every_block_is_used_here_and_every_group_is_explained() -> None:
    names = ("pyproject.toml", "run.yaml", *(f"my_lab/{name}" for name in ("letters.py", "brevity.py", "quiz.yaml")))
    assert set(BLOCKS) == {*names, "my_lab/terse.yaml", "my_lab/quizlist.py", "my_lab/hedging.py", *OTHERS}
    assert PAGE.count("```") == 2 * len(BLOCKS)
    assert {registry.group for registry in REGISTRIES} == set(GROUPS)
    assert all(f"`{registry.group}`" in PAGE for registry in REGISTRIES)


def test_the_embedder_makes_the_vectors_that_the_run_asks_for(lab: Path, tmp_path: Path) -> None:
    from retro.common.coordinator import Coordinator

    config = IndexConfig(**yaml.safe_load(BLOCKS["run.yaml"])["index"]).embedder
    coordinator = Coordinator(tmp_path, stage="index")
    embedder = make_embedder(config, tmp_path, list, learned_from="x", coordinator=coordinator)
    assert embedder.dimension == 12
    assert embedder.embed_passages(["Tee", ""]).tolist() == [[2, 1] + [0] * 10, [0] * 12]
    assert embedder.embed_queries(["Tee"]).tolist() == [[1, 1] + [0] * 10]
    assert embedder.embed_passages([]).shape == (0, 12)
    assert not embedder.symmetric
    assert np.asarray(embedder.embed_queries(["x"])).dtype == np.float32
    with pytest.raises(ConfigError, match="pooling = 'cls': needs to be left out for kind 'letters'"):
        EmbedderConfig(kind="letters", pooling="cls")


QUIZ = '{"rounds": [{"topic": "sea", "questions": [{"number": 7, "ask": "A fish?", "right": "cod", "also": "eel"}]}]}'


def test_the_task_reads_its_file_and_scores_with_the_metric(lab: Path, tmp_path: Path) -> None:
    (tmp_path / "quiz.json").write_text(QUIZ, encoding="utf-8")
    task = load_task("quiz")
    (question,) = read_task_questions(tmp_path / "quiz.json", task)
    assert (question.id, question.answers, question.labels) == ("7", ("cod", "eel"), (("round", "sea"),))
    said = [Answer(id="7", question="A fish?", answers=("cod", "eel"), prediction=text, passages=(), setting="s")
            for text in ("Eel.", "it is the eel")]  # fmt: skip
    asked = [question_line_of(question)] * 2
    # One word is 20 of 20, four are 17.
    assert score(task, asked, said) == {"exact_match": [1.0, 0.0], "brevity": [1.0, 0.85]}
    assert "quiz" in [one["name"] for one in tasks_numbers()]


def test_the_prompt_texts_are_laid_over_the_shipped_ones(lab: Path) -> None:
    texts = load_prompts(Path("terse"))
    assert (texts.name, texts.version) == ("terse", 1)
    asked = Question(id="1", question="A fish?", answers=("cod",))
    prompt = build_prompt(
        asked, [Context("", "Cod swim.", "")], style="plain", kind="short_span", contexts_in_prompt=1, texts=texts
    )
    usual = build_prompt(asked, [Context("", "Cod swim.", "")], style="plain", kind="short_span", contexts_in_prompt=1)
    assert texts.kinds["short_span"].instruction == "One word:"
    assert texts.styles == shipped_prompts().styles
    assert "bare" in texts.templates
    assert prompt.text.replace("One word: ", "") == usual.text.replace(
        f"{shipped_prompts().kinds['short_span'].instruction} ", ""
    )


def test_the_format_converts_and_refuses_by_name(lab: Path, tmp_path: Path) -> None:
    path = tmp_path / "quiz.jsonl"
    path.write_text('{"number": 7, "ask": "A fish?", "right": "cod", "by": "Bo"}\n{"ask": ""}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"quiz\.jsonl: line 2 \(item 1\) has a blank 'ask'"):
        convert_file(path, find_format("quizlist"), Options(), skip_bad=False)
    made = convert_file(path, find_format("Quizlist"), Options(), skip_bad=True)
    assert made.questions == [Question(id="7", question="A fish?", answers=("cod",))]
    assert made.counts()["skipped"] == {"no_question": 1}
    assert made.ignored == {"by": 1}
    with pytest.raises(ConfigError, match=r"FORMAT = 'xyz': is not a known format; known: alpaca, .*, quizlist, "):
        find_format("xyz")


@pytest.mark.parametrize(
    ("look_up", "told"),
    [
        (
            lambda: load_task("quizz"),
            "task = 'quizz': is not a task; did you mean 'quiz'.*; a task of your own is a path",
        ),
        (lambda: load_prompts(Path("ters")), "prompts = 'ters': is not a set of prompt texts; did you mean 'terse'"),
        (lambda: EmbedderConfig(kind="leters"), "kind = 'leters': is not a kind of embedder; did you mean 'letters'"),
        (lambda: METRICS.find("brevty", "metrics"), "metrics = 'brevty': is not a metric; did you mean 'brevity'"),
    ],
)
def test_a_name_that_is_nearly_theirs_is_answered_with_it(lab: Path, look_up: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        look_up()


def test_a_task_may_extend_that_of_another_package(lab: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("{extends: quiz, name: mine, metrics: [f1]}", encoding="utf-8")
    task = load_task(tmp_path / "mine.yaml")
    assert (task.name, task.max_new_tokens, task.metrics) == ("mine", 16, ("f1",))


def test_a_packaged_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    files = {
        "bad/__init__.py": "",
        "bad/a.yaml": "{extends: nq, name: other}",
        "bad/b.yaml": "{extends: nq, name: b, metrics: [fl]}",
        "bad/c.yaml": "version: 1",
        "bad/d.txt": "",
    }
    entries = {"retro.tasks": "a = bad:a.yaml\nb = bad:b.yaml\nd = bad:d.txt\ne = bad:e.yaml"}
    write_distribution(tmp_path, "bad", files, entries | {"retro.prompts": "c = bad:c.yaml"})
    with installed(tmp_path, *REGISTRIES):
        with pytest.raises(DataError, match=r"a\.yaml: is the task 'other', which its package offers as 'a'\. Give it"):
            load_task("a")
        with pytest.raises(DataError, match=r"b\.yaml: metrics = 'fl': is not a metric; did you mean 'f1'"):
            load_task("b")
        with pytest.raises(DataError, match=r"c\.yaml: has no 'name'"):
            load_prompts(Path("c"))
        with pytest.raises(
            DependencyError, match=r"bad: its entry point d = bad:d\.txt \(retro\.tasks\) is 'd\.txt', nee"
        ):
            load_task("d")
        with pytest.raises(
            DependencyError, match=r"e = bad:e\.yaml \(retro\.tasks\) cannot be loaded \(AttributeError: p"
        ):
            load_task("e")


def test_the_recipe_labels_answers(lab: Path, tmp_path: Path) -> None:
    asked = [{"question": "Where?", "answers": ["Rome"]}, {"question": "Who?", "answers": ["nobody at all"]}]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    replies = [{"pattern": "Rome", "reply": "Yes."}, {"pattern": "", "reply": "no"}]
    (tmp_path / "replies.jsonl").write_text("".join(json.dumps(one) + "\n" for one in replies))
    data = yaml.safe_load(BLOCKS["hedging.yaml"])
    data["recipe"]["hedging"]["questions"] = str(tmp_path / "asked.jsonl")
    data["recipe"]["hedging"]["teacher"]["replies"] = str(tmp_path / "replies.jsonl")
    config = RunConfig(**data | {"run_dir": tmp_path / "run"})
    run_recipe(RECIPES.find("hedging", "recipe"), config)
    [first, second] = read_questions(tmp_path / "run/recipe_hedging/label/train.jsonl", Fields())
    assert [one.token for one in (first.segments[0], second.segments[0])] == ["[Sure]", "[Unsure]"]
    assert first.segments[1].text == "Rome"

    # How often a teacher is asked at once shapes nothing; what it says does.
    data["recipe"]["hedging"]["teacher"]["concurrency"] = 2
    run_recipe(RECIPES.find("hedging", "recipe"), RunConfig(**data | {"run_dir": tmp_path / "run"}))
    data["recipe"]["hedging"]["teacher"] = {"kind": "script", "function": "my_lab.other:reply"}
    with pytest.raises(ArtifactError, match="add --redo to run `retro recipe hedging run CONFIG judge`"):
        run_recipe(RECIPES.find("hedging", "recipe"), RunConfig(**data | {"run_dir": tmp_path / "run"}))
    with pytest.raises(ConfigError, match=r"recipe\.hegding = 'hegding': .*did you mean 'hedging'"):
        read_arguments(["recipe.hegding.questions=a.jsonl"])


def test_the_positions_are_a_setting(lab: Path) -> None:
    config = ModelConfig(size="tiny", positions="slow_rope")
    frequencies = positions_named(config.positions).frequencies
    assert frequencies is not None
    assert frequencies(config)[0] == pytest.approx(1 / 3)
