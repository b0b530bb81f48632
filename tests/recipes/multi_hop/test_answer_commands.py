"""Commands that answer, with the flags that users of the original know."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ArtifactError, ConfigError
from retro.recipes import flags
from retro.recipes.multi_hop.answer_command import EVALUATE_FLAGS, settings_of
from retro.recipes.multi_hop.command import run
from retro.run.config import RunConfig
from tests.recipes.multi_hop import fact_world as world
from tests.recipes.multi_hop.fact_run import home

ROOT = Path(__file__).parents[3]


def words_of(made: RunConfig, folder: Path, name: str = "out.json") -> list[str]:
    path = folder / "dev.json"
    path.write_text(json.dumps(world.questions(world.facts(9), 6, 7)))
    texts = made.recipe["multi_hop"]["answer"]["texts"]
    found = ["--model-path", str(home(made) / "model" / "sft"), "--hotpot-qa-dev-path", str(path)]
    found += ["--save-path", str(folder / name), "--num-samples", "4", f"recipe.multi_hop.answer.texts={texts}"]
    return [*found, "recipe.multi_hop.answer.model.max_new_tokens=40", "generate.precision=float32"]


def test_the_script_answers_and_scores_as_the_original(made: RunConfig, tmp_path: Path) -> None:
    script = ROOT / "tools" / "retro" / "recipes" / "multi_hop" / "eval_hotpot_qa.py"
    done = subprocess.run(
        [sys.executable, script, *words_of(made, tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "word_recall" in done.stdout
    found = json.loads((tmp_path / "out.json").read_text())
    assert len(found["results"]) == 4
    assert set(found["metrics"]) == {"answer", "whole_text"}
    assert set(found["results"][0]) >= {"id", "question", "answer", "prediction", "text", "hops"}


def test_two_saved_evaluations_are_compared(made: RunConfig, tmp_path: Path) -> None:
    run(["evaluate", *words_of(made, tmp_path, "a.json")])
    run(["evaluate", *words_of(made, tmp_path, "b.json"), "--method", "one_search"])
    table = run(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert "4 questions" in table
    assert "| word_recall | " in table
    with pytest.raises(ConfigError, match="needs two files that `evaluate` saved"):
        run(["compare", str(tmp_path / "a.json")])
    with pytest.raises(ArtifactError, match="holds no scored answers"):
        run(["compare", str(tmp_path / "a.json"), str(tmp_path / "none.json")])


def test_one_question_is_answered_with_its_steps_shown(
    made: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "facts.txt").write_text("e1 l0 e2 . e2 r0 v3 .")
    texts = made.recipe["multi_hop"]["answer"]["texts"]
    said = run(
        [
            "ask", "--model-path", str(home(made) / "model" / "sft"), "--question", "e1 l0 r0", "--folder", str(folder),
            "--method", "one_search", f"recipe.multi_hop.answer.texts={texts}", "generate.precision=float32",
            "recipe.multi_hop.answer.model.max_new_tokens=20",
        ]
    )  # fmt: skip
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == ["search: e1 l0 r0", "found: facts"]
    assert said


def given(*words: str) -> Any:
    needed = ["--hotpot-qa-dev-path", "q", "--save-path", "s"]
    return flags.parse("p evaluate", [*words, *needed], "", EVALUATE_FLAGS, {})[0]


def test_each_type_of_inference_is_a_kind_of_model() -> None:
    assert settings_of(given("--model-path", "m"))["model"] == {"kind": "engine", "path": "m"}
    hf = settings_of(given("--model-path", "m", "--inference-type", "hf"))
    assert hf["model"] == {"kind": "transformers", "path": "m"}
    for kind in ("vllm", "llama_cpp", "server"):
        found = settings_of(given("--model-path", "http://h/v1", "--inference-type", kind, "--tokenizer-path", "t"))
        assert found["model"] == {"kind": "server", "base_url": "http://h/v1", "name": "default", "tokenizer": "t"}
    e5 = settings_of(given("--model-path", "m", "--retriever-path", "e5", "--num-paragraphs", "3"))["retriever"]
    assert (e5["n"], e5["embedder"]["query_prefix"], e5["embedder"]["model"]) == (3, "query: ", "e5")


def test_flags_that_cannot_be_are_refused(made: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"--model-path = 'm.gguf': needs the address of `llama-server -m FILE.gguf"):
        settings_of(given("--model-path", "m.gguf", "--inference-type", "llama_cpp"))
    with pytest.raises(ConfigError, match=r"--tokenizer-path = 't': needs to be left out"):
        settings_of(given("--model-path", "m", "--tokenizer-path", "t"))
    with pytest.raises(ConfigError, match="settings = 'more': needs the form"):
        run(["evaluate", "--model-path", "m", "--hotpot-qa-dev-path", "q", "--save-path", "s", "more"])
