"""The recipe on a small world of facts: quadrants as constructed, and what tuning on passages changes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from retro.common.artifacts import Manifest, write_manifest
from retro.common.errors import ArtifactError, ConfigError
from retro.generate.engine import BatchEngine
from retro.recipes import base
from retro.recipes.base import RECIPES, run_recipe
from retro.recipes.knowledge_conflict.command import run_compare
from retro.recipes.knowledge_conflict.quadrants import quadrant
from retro.run.config import RunConfig, load_run_config
from retro.run.pipeline import stage
from retro.teacher import script
from retro.teacher.script import ScriptBackend
from tests.qa.formats import samples
from tests.recipes.knowledge_conflict import world

RECIPE = RECIPES.find("knowledge_conflict", "recipe")


def config_of(folder: Path, name: str, steps: int, start_from: Path | None = None) -> RunConfig:
    """A run whose model is tuned on the lessons of that name."""
    train = "{steps: 2, warmup_steps: 0, lr: 1.0e-6, precision: float32}"
    tuning = (
        f"{{steps: {steps}, micro_batch: 64, global_batch: 64, lr: 3.0e-3, schedule: cosine, warmup_steps: 20, "
        "evaluate_every: 100000, precision: float32}"
    )
    form = f"prompts: {folder}/texts.yaml, style: plain, contexts_in_prompt: 2, encoder: false"
    settings = {
        "run_dir": f"{folder}/{name}",
        "corpus.sources": f"[{{name: facts, path: {folder}/corpus.jsonl}}]",
        "corpus.tokenizer": f"{{kind: huggingface, path: {folder}/tokenizer.json}}",
        "corpus.split": "[1.0, 0.0, 0.0]",
        "db.chunk_length": "8",
        "model": "{layers: 3, hidden_size: 64, heads: 4, query_groups: 4, ffn_hidden_size: 128, sequence_length: 24, "
        "retrieval: false, vocabulary_multiple: 1, init_std: 0.1}",
        "train": train,
        "sft.data": f"{{{form}, sets: [{{name: lessons, path: {folder}/{name}.jsonl}}]}}",
        "sft.train": tuning,
        "generate": f"{{{form}, max_new_tokens: 2, batch_size: 50, precision: float32}}",
        "evaluate.bootstrap_samples": "200",
        "recipe.knowledge_conflict": json.dumps(
            {"sets": {"questions": f"{folder}/questions.jsonl", "passages": 2, "supporting_only": False}}
        ),
    }
    if start_from is not None:
        settings["sft.start_from"] = str(start_from)
    return load_run_config(None, [f"{key}={value}" for key, value in settings.items()])


CAREFUL_STEPS, NAIVE_STEPS = 650, 150


@pytest.fixture(scope="module")
def naive(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A model that knows some facts by heart, and says the value of the first passage; all steps run."""
    folder = tmp_path_factory.mktemp("world")
    world.write_tokenizer(folder / "tokenizer.json")
    (folder / "texts.yaml").write_text("name: world\nversion: 1\nstyles: {plain: {question: 'question: {question}'}}\n")
    facts = enumerate(world.facts())
    world.write_lines(folder / "corpus.jsonl", ({"id": str(one), "text": f"e{one} {value}"} for one, value in facts))
    world.write_lines(folder / "questions.jsonl", world.questions())
    world.write_lines(folder / "naive.jsonl", world.lessons(64 * NAIVE_STEPS, 5, careful=False))
    config = config_of(folder, "naive", NAIVE_STEPS)
    for name in ("corpus", "db", "pretrain", "sft"):
        stage(name).run(config)
    run_recipe(RECIPE, config)
    return config


@pytest.fixture(scope="module")
def careful(naive: RunConfig) -> RunConfig:
    """The same model, tuned to follow passages about the entity and else to say what it knows, or that it does not."""
    folder = naive.run_dir.parent
    world.write_lines(folder / "careful.jsonl", world.lessons(64 * CAREFUL_STEPS, 6, careful=True))
    config = config_of(folder, "careful", CAREFUL_STEPS, start_from=stage("sft").path(naive))
    for name in ("corpus", "db", "sft"):
        stage(name).run(config)
    run_recipe(RECIPE, config)
    return config


def home(config: RunConfig) -> Path:
    return config.run_dir / "recipe_knowledge_conflict"


def scores(config: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home(config) / "scores" / "conflicts.json").read_text())
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def agreeing(config: RunConfig, condition: str, expected: list[str]) -> float:
    """Share of the questions whose closed-book answer and answer under a condition are in the expected quadrant."""
    found = []
    for one, wanted in zip(lines(home(config) / "scores" / "judged.jsonl"), expected, strict=True):
        memory, context = (one["conditions"][name]["right"] for name in ("closed_book", condition))
        found.append(quadrant(memory, context) == wanted)
    return sum(found) / len(found)


def test_quadrants_are_as_constructed(naive: RunConfig, careful: RunConfig) -> None:
    known, strange = range(world.KNOWN), range(world.KNOWN, world.ENTITIES)
    # The passage about the entity comes first for every second one: only then it is what the naive model repeats.
    lucky = ["both" if one % 2 == 0 else "memory" for one in known]
    lucky += ["context" if one % 2 == 0 else "neither" for one in strange]
    misled = ["memory" for _ in known] + ["neither" for _ in strange]
    assert agreeing(naive, "original", lucky) >= 0.9
    for condition in ("substituted", "irrelevant", "unanswerable"):
        assert agreeing(naive, condition, misled) >= 0.9
    helped = ["both" for _ in known] + ["context" for _ in strange]
    kept = ["both" for _ in known] + ["neither" for _ in strange]
    assert agreeing(careful, "original", helped) >= 0.9
    assert agreeing(careful, "substituted", misled) >= 0.9
    for condition in ("irrelevant", "unanswerable"):
        assert agreeing(careful, condition, kept) >= 0.9


def test_a_reader_follows_the_passage_against_its_memory(careful: RunConfig) -> None:
    other = scores(careful)["conditions"]["substituted"]
    assert other["counter"]["share"] >= 0.9
    assert other["memorisation_ratio"]["known"]["share"] <= 0.1
    assert other["clash"]["context_bias"]["share"] >= 0.9
    confidence = other["confidence"]
    assert confidence["counter_minus_original"]["low"] > 0
    assert confidence["mean"]["answer"]["mean"] > -0.2


def test_where_nothing_is_known_the_careful_model_abstains(naive: RunConfig, careful: RunConfig) -> None:
    for condition in ("irrelevant", "unanswerable"):
        assert scores(careful)["conditions"][condition]["abstains"]["neither"]["share"] >= 0.8
        assert scores(naive)["conditions"][condition]["abstains"]["all"]["count"] == 0


def test_tuning_on_passages_moves_the_quadrants(naive: RunConfig, careful: RunConfig, tmp_path: Path) -> None:
    """InstructRAG's finding (arXiv:2406.13629): passages are followed where they help, and memory is kept elsewhere."""
    run_compare([str(naive.run_dir), str(careful.run_dir), f"out={tmp_path}"])
    found = json.loads((tmp_path / "conflict_pairs.json").read_text())
    for condition in ("original", "irrelevant", "unanswerable"):
        right = found["conditions"][condition]["right"]
        assert right["difference"]["low"] > 0 and right["p"] < 0.05 and right["table"]["only_a"] <= 1
    # Memory itself stays as it was.
    assert abs(found["conditions"]["closed_book"]["right"]["difference"]["mean"]) <= 0.1
    moves = found["quadrants"]["moves"]
    assert moves["memory"]["both"] >= 0.8 * sum(moves["memory"].values()) > 0
    assert moves["neither"]["context"] >= 0.8 * sum(moves["neither"].values()) > 0
    # The careful model is surer of what a passage about the entity says, against its memory.
    assert found["confidence"]["substituted"]["counter_minus_original"]["low"] > 0
    page = (tmp_path / "conflict_pairs.html").read_text()
    assert "What changes" in page and "irrelevant: only B is right" in page
    assert "A: naive, asked as short_span; B: careful, asked as short_span" in page


def test_every_step_leaves_what_it_says(naive: RunConfig) -> None:
    assert {path.parent.name for path in home(naive).glob("*/manifest.json")} == {
        "sets", "answers", "confidence", "scores",
    }  # fmt: skip
    found = scores(naive)
    assert (found["items"], found["metric"], found["kind"]) == (world.ENTITIES, "substring_match", "short_span")
    original = json.loads((home(naive) / "scores" / "quadrants.json").read_text())
    assert set(original) == {"ids", "inter_gd_list", "exter_gd_list", "condition_list", "condition_num"}
    assert sum(original["condition_num"].values()) == world.ENTITIES
    page = (home(naive) / "scores" / "conflicts.html").read_text()
    for words in ("Memory against passages", "only memory right", "Which side answers take", "<mark>v"):
        assert words in page


def test_confidence_is_that_of_the_answers(naive: RunConfig) -> None:
    """The model's own answer is the likeliest one, since it is decoded greedily, and a token long."""
    said = {one["id"]: one["conditions"] for one in lines(home(naive) / "scores" / "judged.jsonl")}
    for one in lines(home(naive) / "confidence" / "confidence.jsonl"):
        for condition, told in one["conditions"].items():
            assert told["answer"]["text"] == said[one["id"]][condition]["prediction"]
            assert all(told["answer"]["sum"] >= other["sum"] for other in told.values())
            assert (told["answer"]["tokens"], told["answer"]["mean"]) == (1, told["answer"]["sum"])


def other_run(made: RunConfig, folder: Path, **recipe: Any) -> RunConfig:
    """A run that asks the naive model, with other settings of the recipe; nothing of it is done."""
    settings = {**made.recipe["knowledge_conflict"], "checkpoint": str(stage("sft").path(made))} | recipe
    return made.model_copy(update={"run_dir": folder, "recipe": {"knowledge_conflict": settings}})


TEACHER = {"teacher": {"kind": "script", "function": "tests.recipes.knowledge_conflict.world:teacher"}}
CONDITIONS = ["original", "counter_memory", "counter_first"]


def with_teacher(made: RunConfig, folder: Path) -> RunConfig:
    sets = made.recipe["knowledge_conflict"]["sets"] | {
        "conditions": CONDITIONS,
        "passages": 1,
        "supporting_only": True,
    }
    return other_run(made, folder, counter_memory=TEACHER, sets=sets)


@pytest.fixture(scope="module")
def whole(naive: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """All steps, with a teacher's passages."""
    config = with_teacher(naive, tmp_path_factory.mktemp("whole") / "run")
    run_recipe(RECIPE, config)
    return config


def test_a_teacher_writes_and_what_does_not_fit_is_counted(whole: RunConfig) -> None:
    counts = json.loads((home(whole) / "counter_memory" / "manifest.json").read_text())["counts"]
    assert counts["rejected"] == {"empty": 1, "original_answer_is_mentioned": 1, "other_answer_is_missing": 1}
    assert (counts["asked"], counts["kept"], counts["no_other_answer"]) == (world.ENTITIES, world.ENTITIES - 3, 0)
    rejected = lines(home(whole) / "counter_memory" / "rejected.jsonl")
    assert [(one["id"], one["problem"]) for one in rejected] == [
        ("e1", "empty"), ("e2", "other_answer_is_missing"), ("e3", "original_answer_is_mentioned"),
    ]  # fmt: skip
    found = scores(whole)["conditions"]
    assert (found["counter_memory"]["items"], found["original"]["items"]) == (world.ENTITIES - 3, world.ENTITIES)
    # It repeats the first passage, whosever it is.
    assert found["counter_memory"]["counter"]["share"] >= 0.9 and found["counter_first"]["counter"]["share"] >= 0.9


FILES = (
    "sets/items.jsonl", "counter_memory/items.jsonl", "counter_memory/rejected.jsonl", "answers/*/*_*.jsonl",
    "confidence/confidence.jsonl", "scores/*.json", "scores/*.jsonl", "scores/*.html",
)  # fmt: skip


def same_files(one: RunConfig, other: RunConfig) -> None:
    found = sorted(path.relative_to(home(one)) for name in FILES for path in home(one).glob(name))
    kept = [path for path in found if path.name not in ("report.json", "manifest.json", "config.json")]
    assert len(kept) == 10
    for path in kept:
        assert (home(one) / path).read_bytes() == (home(other) / path).read_bytes(), path


def test_a_stop_at_the_end_of_any_step_changes_no_byte(
    naive: RunConfig, whole: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, stopped = with_teacher(naive, tmp_path / "run"), list[str]()

    def write(directory: Path, found: Manifest) -> Manifest:
        if directory.name not in stopped:
            stopped.append(directory.name)
            raise KeyboardInterrupt
        return write_manifest(directory, found)

    monkeypatch.setattr(base, "write_manifest", write)
    for _ in RECIPE.steps:
        with pytest.raises(KeyboardInterrupt):
            run_recipe(RECIPE, config)
        assert not (home(config) / stopped[-1] / "manifest.json").exists()
    run_recipe(RECIPE, config)
    assert stopped == [one.name for one in RECIPE.steps]
    same_files(whole, config)


def test_a_stop_in_the_middle_of_a_step_changes_no_byte(
    naive: RunConfig, whole: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_teacher(naive, tmp_path / "run")
    replies, batches, blocks = list[str](), list[int](), list[int]()

    def reply(request: Any) -> str:
        replies.append(request.messages[-1]["content"])
        if len(replies) == 5:
            raise KeyboardInterrupt
        return world.teacher(request)

    def generate(engine: BatchEngine, asked: Any) -> Any:
        batches.append(len(asked))
        if len(batches) == 2:
            raise KeyboardInterrupt
        return whole_generate(engine, asked)

    def score(engine: BatchEngine, asked: Any) -> Any:
        blocks.append(len(asked))
        if len(blocks) == 3:
            raise KeyboardInterrupt
        return whole_score(engine, asked)

    whole_generate, whole_score = BatchEngine.generate, BatchEngine.score
    monkeypatch.setattr(BatchEngine, "generate", generate)
    monkeypatch.setattr(script, "_open_function", lambda name: ScriptBackend(reply, "the same"))
    monkeypatch.setattr(BatchEngine, "score", score)
    for step in ("counter_memory", "answers", "confidence"):
        with pytest.raises(KeyboardInterrupt):
            run_recipe(RECIPE, config)
        assert (home(config) / step).is_dir() and not (home(config) / step / "manifest.json").exists()
    run_recipe(RECIPE, config)
    # What was replied and scored before the stop is asked for no second time, but for the last one.
    assert len(replies) == world.ENTITIES + 1
    assert len(set(replies)) == world.ENTITIES
    same_files(whole, config)


def test_a_second_call_makes_nothing_again(whole: RunConfig) -> None:
    before = {path: path.stat().st_mtime_ns for path in home(whole).rglob("*") if path.is_file()}
    run_recipe(RECIPE, whole)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_another_model_at_the_same_place_is_refused(naive: RunConfig, whole: RunConfig, tmp_path: Path) -> None:
    moved = tmp_path / "model"
    shutil.copytree(stage("sft").path(naive), moved)
    config = with_teacher(naive, tmp_path / "run")
    config.recipe["knowledge_conflict"]["checkpoint"] = str(moved)
    run_recipe(RECIPE, config)
    (moved / "manifest.json").write_text((moved / "manifest.json").read_text().replace("{", "{ ", 1))
    with pytest.raises(ArtifactError, match=r"inputs\..*model/manifest\.json was .*run CONFIG answers"):
        run_recipe(RECIPE, config)


def test_the_answers_may_be_asked_for_with_an_instruction(naive: RunConfig, tmp_path: Path) -> None:
    sets = naive.recipe["knowledge_conflict"]["sets"] | {"limit": 2, "conditions": ["original"]}
    config = other_run(naive, tmp_path / "run", instruction="abstain", sets=sets, confidence=False)
    run_recipe(RECIPE, config)
    task = (home(config) / "answers" / "task.yaml").read_text()
    assert "unknown" in task and "conflict" in task
    assert scores(config)["closed_book"]["confidence"] is None
    assert not (home(config) / "confidence").exists()


def test_a_kind_that_there_is_not_is_named(naive: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe.knowledge_conflict.kind = 'instruct_rag'"):
        run_recipe(RECIPE, other_run(naive, tmp_path / "run", kind="instruct_rag"))


def test_questions_of_true_or_false_are_asked_and_scored_as_such(naive: RunConfig, tmp_path: Path) -> None:
    items = [{"id": "a", "question": "e0", "answers": ["True"], "ctxs": ["e0 v6"], "labels": {}}]
    items += [
        {"id": "b", "question": "e1", "answers": ["false"], "ctxs": ["e1 v1. They said false. So."], "labels": {}}
    ]
    world.write_lines(tmp_path / "questions.jsonl", iter(items))
    config = other_run(naive, tmp_path / "run", sets={"questions": str(tmp_path / "questions.jsonl")}, confidence=False)
    run_recipe(RECIPE, config)
    assert (scores(config)["kind"], scores(config)["metric"]) == ("true_false", "accuracy")


@pytest.mark.parametrize(
    ("form", "sample", "condition", "faithful"),
    [
        ("conflictqa", samples.CONFLICTQA, "counter_memory", 2),
        ("nq_swap", samples.NQ_SWAP, "substituted", 1),
        ("faitheval_unanswerable", samples.FAITHEVAL_UNANSWERABLE, "unanswerable", 2),
        ("faitheval_inconsistent", samples.FAITHEVAL_INCONSISTENT, "contradicting", 1),
        ("faitheval_counterfactual", samples.FAITHEVAL_COUNTERFACTUAL, "substituted", 1),
    ],
)
def test_published_sets_run_to_the_page(
    naive: RunConfig, tmp_path: Path, form: str, sample: list[dict[str, Any]], condition: str, faithful: int
) -> None:
    world.write_lines(tmp_path / "in.jsonl", iter(sample))
    config = other_run(naive, tmp_path / "run", sets={"questions": str(tmp_path / "in.jsonl"), "form": form})
    config = config.model_copy(update={"generate": config.generate.model_copy(update={"max_new_tokens": 1})})
    run_recipe(RECIPE, config)
    found = scores(config)
    assert found["conditions"][condition]["faithful"]["non_strict"]["of"] == faithful
    assert (home(config) / "scores" / "conflicts.html").is_file()
    if form == "faitheval_counterfactual":
        # What is true of it the file does not say.
        assert found["metric"] == "accuracy" and found["closed_book"]["right"]["share"] is None
        assert found["conditions"][condition]["clash"]["context_bias"]["of"] == 0
        page = (home(config) / "scores" / "conflicts.html").read_text()
        assert "not known what is right" in page and "Quadrants" not in page and "Which side answers take" in page


def test_a_teacher_without_a_source_is_named(naive: RunConfig, tmp_path: Path) -> None:
    config = with_teacher(naive, tmp_path / "run")
    config.recipe["knowledge_conflict"]["counter_memory"] = {"teacher": {"kind": "script"}}
    with pytest.raises(ConfigError, match=r"teacher.replies = None: needs a file"):
        run_recipe(RECIPE, config)


def test_two_runs_are_needed(naive: RunConfig, careful: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"compare = .*needs two runs"):
        run_compare([str(naive.run_dir)])
    with pytest.raises(ConfigError, match=r"compare = .*needs no setting but out=FOLDER"):
        run_compare([str(naive.run_dir), str(careful.run_dir), "seed=3"])
    with pytest.raises(ConfigError, match=r"RUN_B = .*needs another run than RUN_A"):
        run_compare([str(naive.run_dir), str(home(naive))])
    with pytest.raises(ArtifactError, match="holds no scores of knowledge_conflict"):
        run_compare([str(naive.run_dir), str(naive.run_dir / "1_corpus")])


def test_only_the_same_items_are_compared(
    naive: RunConfig, careful: RunConfig, whole: RunConfig, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=r"item 1 has passages .*Only answers to the same conflict items"):
        run_compare([str(naive.run_dir), str(whole.run_dir)])
    folder = tmp_path / "scores"
    shutil.copytree(home(careful) / "scores", folder)
    judged = (folder / "judged.jsonl").read_text().splitlines()
    (folder / "judged.jsonl").write_text("\n".join(judged[:-1]) + "\n")
    with pytest.raises(ArtifactError, match=rf"holds {world.ENTITIES - 1} items, .* holds {world.ENTITIES}"):
        run_compare([str(naive.run_dir), str(folder)])
    (folder / "judged.jsonl").write_text("\n".join(judged) + "\n")
    (folder / "judged.jsonl").write_text(judged[0] + '\n{"id": "e1"}\n')
    with pytest.raises(ArtifactError, match=r"judged.jsonl: line 2 \(item 1\) has no question"):
        run_compare([str(naive.run_dir), str(folder)])
    (folder / "judged.jsonl").write_text("\n".join(judged) + "\n")
    data = json.loads((folder / "conflicts.json").read_text())
    for key, other in (("metric", "exact_match"), ("instruction", "abstain"), ("phrases", {"unknown": ["not"]})):
        (folder / "conflicts.json").write_text(json.dumps(data | {key: other}))
        with pytest.raises(ConfigError, match=rf"knowledge_conflict.{key} = .* and .*: needs to be the same in both"):
            run_compare([str(naive.run_dir), str(folder)])


def test_the_command_line_compares_two_runs(naive: RunConfig, careful: RunConfig, tmp_path: Path) -> None:
    words = ["recipe", "knowledge_conflict", "compare", str(naive.run_dir), str(careful.run_dir), f"out={tmp_path}"]
    done = subprocess.run([sys.executable, "-m", "retro", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "From the quadrants of A" in done.stdout and str(tmp_path / "conflict_pairs.html") in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "retro", *words[:2], "compair"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "compare" in done.stderr
