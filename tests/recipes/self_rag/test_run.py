"""The recipe from its first step to scores on a small reflective world: at few steps, and (slow) until it works."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from retro.common.artifacts import Manifest, write_manifest
from retro.common.errors import ArtifactError, ConfigError
from retro.recipes import base
from retro.recipes.base import RECIPES, run_recipe
from retro.recipes.passages.search import DatabaseRetriever, as_retrieve
from retro.recipes.self_rag.command import run as run_command
from retro.recipes.self_rag.config import MODES, DataConfig
from retro.recipes.self_rag.critic import Ask, Critic, Verdict
from retro.recipes.self_rag.generator_data import make
from retro.run.config import RunConfig, load_run_config
from retro.run.pipeline import stage
from retro.training import checkpoint
from retro.training.result import of_stage
from tests.recipes.self_rag import world

ROOT = Path(__file__).parents[3]
RECIPE = RECIPES.find("self_rag", "recipe")


def config_of(folder: Path, *, critic_steps: int, generator_steps: int, **counts: int) -> RunConfig:
    """A run in the world, its files written."""
    found = {"critic_items": 200, "items": 40, "questions": 10} | counts
    world.write_tokenizer(folder / "tokenizer.json")
    world.write_corpus(folder / "corpus.jsonl")
    world.write_lines(folder / "critic.jsonl", world.critic_items(found["critic_items"], 3))
    world.write_lines(folder / "items.jsonl", world.generator_items(found["items"], 5))
    world.write_lines(folder / "questions.jsonl", world.questions(world.facts(9), found["questions"], 7))
    (folder / "texts.yaml").write_text(yaml.safe_dump(world.TEXTS))
    train = {
        "micro_batch": 32, "global_batch": 32, "lr": 3e-3, "schedule": "cosine", "evaluate_every": 10_000,
        "precision": "float32",
    }  # fmt: skip
    recipe = {
        "prompts": f"{folder}/texts.yaml",
        "critic": {
            "items": f"{folder}/critic.jsonl",
            "teacher": {"kind": "script", "function": "tests.recipes.self_rag.world:teacher"},
            "dev": 600,
            "batch_size": 64,
            "tune": {"packing": True, "train": train | {"steps": critic_steps, "warmup_steps": critic_steps // 20}},
        },
        "data": {"items": f"{folder}/items.jsonl", "evidence": 3, "top_n": 5, "force_irrelevant": ["tell"]},
        "generator": {
            "batch_size": 25,
            "tune": {
                "packing": True,
                "train": train | {"steps": generator_steps, "warmup_steps": generator_steps // 20},
            },
        },
        "decode": {"modes": list(MODES), "ndocs": 5, "max_new_tokens": 8},
    }
    settings = {
        "run_dir": f"{folder}/run",
        "corpus.sources": f"[{{name: facts, path: {folder}/corpus.jsonl}}]",
        "corpus.tokenizer": f"{{kind: huggingface, path: {folder}/tokenizer.json}}",
        "corpus.split": "[1.0, 0.0, 0.0]",
        "db": "{unit: row, window: 16}",
        "index.embedder": "{kind: hashing, dimension: 4096}",
        "model": "{layers: 3, hidden_size: 64, heads: 4, query_groups: 4, ffn_hidden_size: 256, sequence_length: 128, "
        "retrieval: false, vocabulary_multiple: 1, init_std: 0.1}",
        "train": "{steps: 2, warmup_steps: 0, lr: 1.0e-6, precision: float32}",
        "generate": f"{{questions: [{folder}/questions.jsonl], precision: float32}}",
        "recipe.self_rag": json.dumps(recipe),
    }
    config = load_run_config(None, [f"{name}={value}" for name, value in settings.items()])
    for name in ("corpus", "db", "index", "pretrain"):
        stage(name).run(config)
    return config


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """All steps run, at so few steps of training that nothing is learned."""
    config = config_of(tmp_path_factory.mktemp("few"), critic_steps=3, generator_steps=3)
    run_recipe(RECIPE, config)
    return config


def home(config: RunConfig) -> Path:
    return config.run_dir / "recipe_self_rag"


def manifest(config: RunConfig, step: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home(config) / step / "manifest.json").read_text())
    return found


def test_every_step_leaves_what_it_says(made: RunConfig) -> None:
    steps = {path.parent.name for path in home(made).glob("*/manifest.json")}
    # Questions bring their passages here, so nothing is retrieved for them.
    assert steps == {one.name for one in RECIPE.steps} - {"retrieve"}
    agreement = json.loads((home(made) / "critic_scores" / "agreement.json").read_text())
    assert set(agreement["families"]) <= set(world.FAMILIES)
    assert agreement["published"]["Llama2-7B"]["retrieval"] == 0.938
    original = json.loads((home(made) / "scores" / "adaptive_retrieval.json").read_text())
    assert set(original) == {
        "preds", "prompts", "metric_results", "all_results", "golds", "metric", "metric_mean", "scores",
    }  # fmt: skip
    assert len(original["preds"]) == 10
    modes = json.loads((home(made) / "scores" / "modes.json").read_text())
    assert set(modes["modes"]) == set(MODES)
    assert modes["modes"]["always_retrieve"]["retrieved"] == 10
    assert modes["modes"]["no_retrieval"]["retrieved"] == 0
    assert set(modes["differences"]) == {
        "adaptive_retrieval - no_retrieval", "adaptive_retrieval - always_retrieve", "no_retrieval - always_retrieve",
    }  # fmt: skip


def test_a_second_call_makes_nothing_again(made: RunConfig) -> None:
    before = {path: path.stat().st_mtime_ns for path in home(made).rglob("*") if path.is_file()}
    run_recipe(RECIPE, made)
    after = {path: path.stat().st_mtime_ns for path in home(made).rglob("*") if path.is_file()}
    # The pages of scores are drawn again, and locks are touched.
    changed = {path.name for path in before if after[path] != before[path]}
    assert {name for name in changed if not name.endswith((".html", ".lock"))} == set()


def test_the_models_know_the_tokens(made: RunConfig) -> None:
    for step in ("critic", "generator"):
        info = checkpoint.read_info(checkpoint.find(of_stage(home(made) / step / "sft")))
        before = checkpoint.read_info(checkpoint.find(made.run_dir / "5_pretrain" / "gpt"))
        assert info.shape.vocabulary == before.shape.vocabulary + 15


def test_the_modes_read_what_they_should(made: RunConfig) -> None:
    answers = home(made) / "answer"
    for mode, name in (("always_retrieve", "with_passages"), ("no_retrieval", "closed_book")):
        lines = [json.loads(line) for line in (answers / mode / f"{name}.jsonl").read_text().splitlines()]
        told = [line["details"]["self_rag"] for line in lines]
        assert {one["mode"] for one in told} == {mode}
        assert {len(one.get("candidates", ())) for one in told} == {5 if mode == "always_retrieve" else 0}


def test_a_setting_that_replaces_a_step_needs_it_no_more(made: RunConfig, tmp_path: Path) -> None:
    settings = json.loads(json.dumps(made.recipe["self_rag"]))
    settings["generator"] = {"checkpoint": str(home(made) / "generator" / "sft")}
    settings |= {"data": {}, "critic": {}, "decode": settings["decode"] | {"modes": ["no_retrieval"]}}
    config = made.model_copy(update={"run_dir": tmp_path / "other", "recipe": {"self_rag": settings}})
    run_recipe(RECIPE, config)
    assert {path.parent.name for path in home(config).glob("*/manifest.json")} == {"answer", "scores"}


QUICK = ("no_retrieval", "adaptive_retrieval")


def flags(made: RunConfig, out: Path, mode: str) -> list[str]:
    source = made.generate.questions[0]
    found = ["--model_name", str(home(made) / "generator" / "sft"), "--input_file", str(source)]
    found += ["--output_file", str(out), "--mode", mode, "--dtype", "float32", "--max_new_tokens", "8"]
    return found


@pytest.mark.parametrize("mode", QUICK)
def test_the_short_form_script_answers_as_the_readme_has_it(made: RunConfig, tmp_path: Path, mode: str) -> None:
    out = tmp_path / "out.json"
    script = ROOT / "tools" / "retro" / "recipes" / "self_rag" / "run_short_form.py"
    words = [*flags(made, out, mode), "--threshold", "0.2", "--ndocs", "3", "--metric", "match", "--use_groundness"]
    done = subprocess.run(
        [sys.executable, script, *words], capture_output=True, text=True, check=False, cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "match_raw" in done.stdout
    found = json.loads(out.read_text())
    assert (len(found["preds"]), found["metric"]) == (10, "match_raw")


def test_long_answers_come_with_citations_in_alces_form(made: RunConfig, tmp_path: Path) -> None:
    source = tmp_path / "asqa.json"
    items = [
        {
            "question": "tell e1 r1",
            "docs": [{"id": "7", "title": "", "text": "e1 r1 V3."}],
            "qa_pairs": [{"question": "tell e1 r1", "short_answers": ["V3."]}],
            "annotations": [{"long_answer": "V3."}],
            "answer": "V3.",
        }
    ]
    source.write_text(json.dumps(items))
    out = tmp_path / "out.json"
    words = flags(made, out, "always_retrieve")
    words[words.index("--input_file") + 1] = str(source)
    said = run_command(["long", *words, "--task", "asqa", "--max_depth", "2", "--beam_width", "1", "--ndocs", "1"])
    assert "retro alce" in said
    [item] = json.loads(out.read_text())["data"]
    assert item["qa_pairs"] == items[0]["qa_pairs"]
    assert isinstance(item["output"], str)
    assert item["docs"] in ([], items[0]["docs"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["middle"], "'middle': is not a command"),
        (["short", "--download_dir", "x"], "--download_dir = True: needs to be left out"),
        (["short"], "the following arguments are required"),
        (["short", "--thresold", "1"], "short"),
    ],
)
def test_flags_that_cannot_be_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_command(words)
    assert message in str(caught.value)


def test_more_processes_than_there_are_is_refused(made: RunConfig, tmp_path: Path) -> None:
    words = [*flags(made, tmp_path / "out.json", "no_retrieval"), "--world_size", "4"]
    with pytest.raises(ConfigError, match=r"--world_size = 4: needs so many processes, and there are 1: torchrun"):
        run_command(["short", *words])


class WorldCritic(Critic):
    """Judges by the world's rules."""

    def __init__(self) -> None:
        """Nothing is opened."""

    def judge(self, asked: Sequence[Ask], what: str) -> list[Verdict]:
        labels = [world.label(one.family, one.instruction, one.evidence, one.output) for one in asked]
        return [Verdict(token=label, probability=1.0) for label in labels]


@pytest.mark.slow
def test_a_generator_retrieves_when_it_must_and_prefers_what_is_supported(tmp_path: Path) -> None:
    config = config_of(tmp_path, critic_steps=1, generator_steps=500, items=6000, questions=100)
    corpus, db, index = (stage(name).path(config) for name in ("corpus", "db", "index"))
    source = DatabaseRetriever(corpus, db, index, config.search)
    data = DataConfig(evidence=3, top_n=5, force_irrelevant=("tell",), irrelevant_share=0.2)
    out = tmp_path / "made"
    out.mkdir()
    make(tmp_path / "items.jsonl", data, WorldCritic(), as_retrieve(source, 5), {}, out)
    settings = config.recipe["self_rag"] | {"critic": {}, "data": {"samples": str(out / "train.jsonl")}}
    config = config.model_copy(update={"recipe": {"self_rag": settings}})
    run_recipe(RECIPE, config)

    found = json.loads((home(config) / "scores" / "modes.json").read_text())
    adaptive = found["modes"]["adaptive_retrieval"]
    lines = (home(config) / "answer" / "adaptive_retrieval" / "with_passages.jsonl").read_text().splitlines()
    told = [(line["question"], line["details"]["self_rag"]) for line in map(json.loads, lines)]
    must = [one["retrieved"] for question, one in told if question.startswith("tell")]
    need_not = [one["retrieved"] for question, one in told if question.startswith("repeat")]
    assert sum(must) / len(must) >= 0.95
    assert sum(need_not) / len(need_not) <= 0.05
    # Of five passages one is about what is asked.
    relevant = [
        one["passages"][one["segments"][0]["passage"]]["text"].startswith(" ".join(question.split()[1:3]))
        for question, one in told
        if question.startswith("tell") and one["retrieved"]
    ]
    assert sum(relevant) / len(relevant) >= 0.7
    for other in ("always_retrieve", "no_retrieval"):
        assert adaptive["low"] > found["modes"][other]["high"]
        assert found["differences"][f"adaptive_retrieval - {other}"]["p"] < 0.001

    # The frequency of retrieval falls with the threshold.
    probabilities = sorted(one["retrieval_probability"] for _, one in told)
    counts = [sum(chance > threshold for chance in probabilities) for threshold in (0.0, 0.2, 0.5, 0.9, 0.999)]
    assert counts == sorted(counts, reverse=True)
    assert counts[1] == sum(one["retrieved"] for _, one in told)


def other(made: RunConfig, run_dir: Path, **settings: Any) -> RunConfig:
    """A run that answers with the model that is there."""
    found = {"generator": {"checkpoint": str(home(made) / "generator" / "sft")}, "metrics": ["exact_match"]}
    decode = {"modes": ["always_retrieve"], "ndocs": 2, "max_new_tokens": 8}
    found |= {"decode": decode | settings.pop("decode", {})} | settings.pop("recipe", {})
    generate = made.generate.model_copy(update=settings)
    return made.model_copy(update={"run_dir": run_dir, "recipe": {"self_rag": found}, "generate": generate})


def copied(made: RunConfig, tmp_path: Path, recipe: dict[str, Any]) -> RunConfig:
    """The run in a folder of its own, for a test that makes its steps again."""
    shutil.copytree(made.run_dir, tmp_path / "run")
    return made.model_copy(update={"run_dir": tmp_path / "run", "recipe": {"self_rag": recipe}})


def asked(path: Path, *items: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in items))
    return path


FACT = {"question": "tell e1 r1", "answers": ["V3."], "ctxs": [{"title": "", "text": "e1 r1 V3."}]}


def test_questions_that_changed_are_not_passed_off_as_answered(made: RunConfig, tmp_path: Path) -> None:
    path = asked(tmp_path / "q.jsonl", FACT, FACT | {"question": "tell e2 r1"})
    config = other(made, tmp_path / "run", questions=(path,))
    run_recipe(RECIPE, config)
    asked(path, FACT)
    with pytest.raises(ArtifactError, match=r"inputs\..*q\.jsonl was .*retro recipe self_rag run CONFIG answer"):
        run_recipe(RECIPE, config, "answer")
    run_recipe(RECIPE, config, redo=True)
    assert manifest(config, "answer")["counts"]["questions"] == 1


def test_another_mode_is_another_setting(made: RunConfig, tmp_path: Path) -> None:
    path = asked(tmp_path / "q.jsonl", FACT)
    run_recipe(RECIPE, other(made, tmp_path / "run", questions=(path,)))
    more = other(made, tmp_path / "run", questions=(path,), decode={"modes": ["always_retrieve", "no_retrieval"]})
    with pytest.raises(ArtifactError, match="modes was"):
        run_recipe(RECIPE, more, "answer")


def test_questions_without_any_passage_are_answered_and_counted(made: RunConfig, tmp_path: Path) -> None:
    path = asked(tmp_path / "q.jsonl", FACT | {"ctxs": []}, {"question": "tell e2 r1", "answers": ["V1."]})
    config = other(made, tmp_path / "run", questions=(path,))
    run_recipe(RECIPE, config)
    assert manifest(config, "answer")["counts"]["always_retrieve"] == {"retrieved": 0, "notes": {"nothing_found": 2}}


def test_instructions_are_questions_too(made: RunConfig, tmp_path: Path) -> None:
    path = asked(tmp_path / "q.jsonl", {"instruction": "tell e1 r1", "answers": ["V3."]})
    direct = other(made, tmp_path / "direct", questions=(path,), decode={"modes": ["no_retrieval"]})
    run_recipe(RECIPE, direct)
    found = copied(made, tmp_path, {"retrieve": str(path), "decode": {"ndocs": 2}})
    run_recipe(RECIPE, found, "retrieve")
    [item] = [json.loads(line) for line in (home(found) / "retrieve" / "retrieved.jsonl").read_text().splitlines()]
    assert (item["question"], len(item["ctxs"])) == ("tell e1 r1", 2)


def test_an_answer_ends_before_its_stop_text(made: RunConfig, tmp_path: Path) -> None:
    path = asked(tmp_path / "q.jsonl", FACT)
    sampling = made.generate.sampling.model_copy(update={"stop": ("V",)})
    config = other(made, tmp_path / "run", questions=(path,), sampling=sampling)
    run_recipe(RECIPE, config)
    [line] = (home(config) / "answer" / "always_retrieve" / "with_passages.jsonl").read_text().splitlines()
    assert "V" not in json.loads(line)["prediction"]


def test_a_call_with_other_flags_needs_redo(made: RunConfig, tmp_path: Path) -> None:
    path = asked(tmp_path / "q.jsonl", FACT, {"question": "tell e2 r1", "ctxs": []})
    words = flags(made, tmp_path / "out_0.2.json", "no_retrieval")
    words[words.index("--input_file") + 1] = str(path)
    # One of the questions has no answer, so none is scored against any.
    asked(path, {"question": "tell e2 r1", "ctxs": []})
    assert "answered" in run_command(["short", *words])
    assert (tmp_path / "out_0.2.json.run").is_dir()
    with pytest.raises(ArtifactError, match="add --redo"):
        run_command(["short", *words, "--ndocs", "3"])
    assert "answered" in run_command(["short", *words, "--ndocs", "3", "--redo"])
    with pytest.raises(ConfigError, match=r"--metric = 'accuracy': needs --task arc_c or fever"):
        run_command(["short", *words, "--metric", "accuracy"])


def test_items_that_the_critic_cannot_read_are_dropped_and_counted(made: RunConfig, tmp_path: Path) -> None:
    path = asked(
        tmp_path / "items.jsonl", *world.generator_items(4, 1), {"instruction": "tell e1 r1", "output": "V1. " * 150}
    )
    recipe = dict(made.recipe["self_rag"])
    recipe |= {"data": {"items": str(path), "keep_no_retrieval": 1.0, "evidence": 3}}
    recipe |= {"critic": {"checkpoint": str(home(made) / "critic" / "sft")}}
    config = copied(made, tmp_path, recipe)
    run_recipe(RECIPE, config, "generator_data", redo=True)
    assert manifest(config, "generator_data")["counts"]["dropped"]["too_long_for_the_critic"] == 1


def test_a_stop_at_the_end_of_any_step_changes_nothing(
    made: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, critic_steps=3, generator_steps=3)
    stopped: list[str] = []

    def write(directory: Path, found: Manifest) -> Manifest:
        if directory.name not in stopped:
            stopped.append(directory.name)
            raise KeyboardInterrupt
        return write_manifest(directory, found)

    monkeypatch.setattr(base, "write_manifest", write)
    for _ in RECIPE.steps:
        try:
            run_recipe(RECIPE, config)
            break
        except KeyboardInterrupt:
            assert not (home(config) / stopped[-1] / "manifest.json").exists()
    assert stopped == [one.name for one in RECIPE.steps if one.name != "retrieve"]
    names = (
        "critic_data/*.jsonl",
        "critic_scores/*.json",
        "generator_data/*.jsonl",
        "answer/*/*_*.jsonl",
        "scores/*.json",
    )
    found = sorted(path.relative_to(home(made)) for name in names for path in home(made).glob(name))
    unlike = ("report.json", "manifest.json", "config.json", "made.jsonl", ".verified.json")
    kept = [path for path in found if path.name not in unlike]
    assert len(kept) >= 14
    for path in kept:
        assert (home(config) / path).read_bytes() == (home(made) / path).read_bytes(), path
