"""The recipe from its first step to scores in a small world: at few steps, and (slow) until it works."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from retro.common.artifacts import Manifest, read_manifest, write_manifest
from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.common.files import read_json
from retro.generate.task_prompt import few_shot_examples, task_chat, task_prompt
from retro.qa.chat_prompts import build_chat
from retro.qa.prompt_texts import load_prompts
from retro.qa.prompts import build_prompt
from retro.qa.question_files import read_questions
from retro.qa.task import load_task
from retro.recipes import base
from retro.recipes.base import RECIPES, StepRun, recipe_settings, run_recipe
from retro.recipes.comparison import answers_of
from retro.recipes.instruct_rag import data
from retro.recipes.instruct_rag.answers import published_of
from retro.run.config import RunConfig, load_run_config
from retro.run.pipeline import stage
from tests.recipes.instruct_rag import world

RECIPE = RECIPES.find("instruct_rag", "recipe")
CONFLICTS = ["original", "substituted"]
MODES = ["closed_book", "rag", "few_shot", "icl", "ft"]


def config_of(folder: Path, *, steps: int, items: tuple[int, int] = (40, 10), **changes: Any) -> RunConfig:
    """A run in the world, its files written."""
    world.write_tokenizer(folder / "tokenizer.json")
    world.write_corpus(folder / "corpus.jsonl")
    world.write_lines(folder / "train.jsonl", world.questions(items[0], 3))
    world.write_lines(folder / "test.jsonl", world.questions(items[1], 5))
    (folder / "texts.yaml").write_text(yaml.safe_dump(world.TEXTS))
    (folder / "sets.yaml").write_text(
        yaml.safe_dump({"world": {"task": "qa", "documents": 3, "metrics": ["match_norm"]}})
    )
    recipe = {
        "set": "world",
        "sets": f"{folder}/sets.yaml",
        "train": f"{folder}/train.jsonl",
        "test": f"{folder}/test.jsonl",
        "prompts": f"{folder}/texts.yaml",
        "rationale": {"teacher": {"kind": "script", "function": "tests.recipes.instruct_rag.world:teacher"}},
        "modes": MODES,
        "max_new_tokens": 16,
        "batch_size": 50,
        "tune": {
            "packing": True,
            "train": {
                "micro_batch": 32, "global_batch": 32, "lr": 3e-3, "schedule": "cosine", "evaluate_every": 10_000,
                "precision": "float32", "steps": steps, "warmup_steps": steps // 20,
            },
        },
    } | changes  # fmt: skip
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
        "generate": "{precision: float32}",
        "recipe.instruct_rag": json.dumps(recipe),
    }
    return load_run_config(None, [f"{name}={value}" for name, value in settings.items()])


def pretrain(config: RunConfig) -> RunConfig:
    for name in ("corpus", "db", "pretrain"):
        stage(name).run(config)
    return config


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """All steps run, at so few steps of training that nothing is learned."""
    config = pretrain(config_of(tmp_path_factory.mktemp("few"), steps=3))
    run_recipe(RECIPE, config)
    return config


def of_same_model(made: RunConfig, config: RunConfig) -> RunConfig:
    """A run that has the stages of another."""
    config.run_dir.mkdir()
    for name in ("1_corpus", "2_db", "5_pretrain"):
        (config.run_dir / name).symlink_to(made.run_dir / name)
    return config


def home(config: RunConfig) -> Path:
    return config.run_dir / "recipe_instruct_rag"


def counts(config: RunConfig, step: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home(config) / step / "manifest.json").read_text())["counts"]
    return found


def train_items(config: RunConfig) -> list[dict[str, Any]]:
    return lines(home(config) / "rationales" / "train.jsonl")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_step_leaves_what_it_says(made: RunConfig) -> None:
    steps = {path.parent.name for path in home(made).glob("*/manifest.json")}
    assert steps == {one.name for one in RECIPE.steps} - {"retrieve", "recall"}
    table = read_json(home(made) / "scores" / "modes.json", "")
    assert set(table["modes"]) == set(MODES)
    assert "closed_book - rag" in table["differences"]
    original = read_json(home(made) / "scores" / "ft.json", "")
    assert original["metrics"]["num_examples"] == 10
    assert set(original["items"][0]) == {"question", "answers", "qa_pairs", "rationale", "ctxs", "score"}
    assert set(original["items"][0]["ctxs"][0]) == {"id", "title", "text", "score"}


def test_recall_of_answers_in_documents_is_that_of_the_files(made: RunConfig) -> None:
    recall = read_json(home(made) / "data" / "recall.json", "")
    for name, count in (("train.jsonl", 40), ("test.jsonl", 10)):
        helped = sum(one["labels"]["helps"] == "yes" for one in lines(home(made) / "data" / name))
        assert recall[name]["3"] == helped / count


def test_rationales_are_counted_by_whether_they_come_to_the_answer(made: RunConfig) -> None:
    found = counts(made, "rationales")
    helped = sum(one["labels"]["helps"] == "yes" for one in lines(home(made) / "data" / "train.jsonl"))
    assert found["rationales"] == 40
    silent = [one["answer_in_documents"] for one in train_items(made) if not one["rationale"]]
    assert found["empty"] == len(silent) > 0
    assert found["answer_in_documents"] == helped
    assert found["consistent"] == found["consistent_with_answer_in_documents"] == helped - sum(silent)
    assert counts(made, "tune")["empty"] == len(silent)
    assert counts(made, "tune")["samples"] == 40 - len(silent)
    assert found["situations"] == {"given": 40}
    examples = lines(home(made) / "rationales" / "examples.jsonl")
    assert {(one["answer_in_documents"], one["consistent"]) for one in examples} >= {(True, True), (False, False)}


def test_a_rationale_names_the_document_by_its_place_in_the_prompt(made: RunConfig) -> None:
    for one in train_items(made):
        if one["consistent"]:
            # Documents stand from the worst to the best.
            shown = [document["text"] for document in reversed(one["ctxs"])]
            words = one["rationale"].split()
            number = int(words[words.index("helps") - 2])
            assert shown[number - 1].endswith(one["answers"][0])


def test_a_question_is_asked_with_the_words_that_it_was_tuned_with(made: RunConfig) -> None:
    # The published code tunes on a prompt whose slot for the question is not filled in.
    question = data.read_chosen(home(made) / "answer" / "test.jsonl")[0]
    tuned = load_prompts(home(made) / "tune" / "style.yaml")
    asked = load_prompts(home(made) / "answer" / "style.yaml")
    ways: dict[str, Any] = {"style": "plain", "contexts_in_prompt": 3, "order": "best_last"}
    trained = build_prompt(question, question.contexts, kind="instruct_rag", texts=tuned, **ways)
    task = load_task(str(home(made) / "answer" / "ft.yaml"))
    answered = task_prompt(question, question.contexts, task, examples=(), texts=asked, **ways)
    assert trained == answered
    assert "{" not in trained.text
    texts = [one.text for one in question.contexts]
    assert trained.text == (
        f"Document 1: {texts[2]}\n\nDocument 2: {texts[1]}\n\nDocument 3: {texts[0]}\n\n"
        f"read {question.question}\nAnswer:"
    )


def conflict_scores(made: RunConfig, folder: Path, checkpoint: Path, **sets: Any) -> dict[str, Any]:
    """What knowledge_conflict says of a model that is asked with the prompt of tuning."""
    tuned = home(made) / "tune"
    generate = made.generate.model_copy(
        update={
            "style": "plain", "contexts_in_prompt": 3, "prompts": tuned / "style.yaml", "passage_order": "best_last",
            "max_new_tokens": 16, "batch_size": 50,
        }
    )  # fmt: skip
    questions = {"questions": str(home(made) / "data" / "test.jsonl"), "passages": 3, "supporting_only": False}
    recipe = {"checkpoint": str(checkpoint), "kind": "instruct_rag", "sets": questions | sets, "confidence": False}
    config = made.model_copy(update={"run_dir": folder, "generate": generate, "recipe": {"knowledge_conflict": recipe}})
    run_recipe(RECIPES.find("knowledge_conflict", "recipe"), config)
    found: dict[str, Any] = read_json(folder / "recipe_knowledge_conflict" / "scores" / "conflicts.json", "")
    return found


def test_knowledge_conflict_asks_a_tuned_model_with_the_words_that_it_was_tuned_with(
    made: RunConfig, tmp_path: Path
) -> None:
    tuned = home(made) / "tune"
    found = conflict_scores(made, tmp_path, tuned / "sft", limit=4, conditions=["original"])
    assert (found["kind"], found["metric"]) == ("instruct_rag", "substring_match")
    folder = tmp_path / "recipe_knowledge_conflict" / "answers"
    task, texts = load_task(str(folder / "task.yaml")), load_prompts(tuned / "style.yaml")
    ways: dict[str, Any] = {"style": "plain", "contexts_in_prompt": 3, "order": "best_last", "texts": texts}
    for one in read_questions(folder / "with_passages.jsonl"):
        trained = build_prompt(one, one.contexts, kind="instruct_rag", **ways)
        assert task_prompt(one, one.contexts, task, examples=(), **ways) == trained
    assert read_manifest(folder / "with_passages", "generate").config["generate"]["passage_order"] == "best_last"


def test_a_chat_is_asked_as_it_was_tuned(made: RunConfig) -> None:
    question = data.read_chosen(home(made) / "answer" / "test.jsonl")[0]
    texts = load_prompts(home(made) / "tune" / "style.yaml")
    ways: dict[str, Any] = {"contexts_in_prompt": 3, "takes_system": True, "texts": texts, "order": "best_last"}
    trained = build_chat(question, question.contexts, rule=texts.rule_of_kind("instruct_rag"), **ways)
    task = load_task(str(home(made) / "answer" / "ft.yaml"))
    assert trained == task_chat(question, question.contexts, task, examples=(), **ways)
    (turn,) = trained.messages
    assert turn["content"].startswith("Document 1: ")
    assert turn["content"].endswith(f"\n\nread {question.question}")


def test_passages_are_searched_in_the_run_s_database(tmp_path: Path) -> None:
    config = config_of(tmp_path, steps=1, retrieve=True)
    for name in ("corpus", "db", "index"):
        stage(name).run(config)
    run_recipe(RECIPE, config, "data", until=True)
    assert counts(config, "retrieve")["test.jsonl"] == {
        "items": 10, "n_docs": 3, "replaced": 10, "with_fewer": 0, "without": 0,
    }  # fmt: skip
    for one in lines(home(config) / "data" / "test.jsonl"):
        entity = one["question"].split()[1]
        # The corpus has ten documents of each entity, and words are all that a hashing embedder compares.
        assert [document["text"].split()[0] for document in one["ctxs"]] == [entity] * 3
        scores = [document["score"] for document in one["ctxs"]]
        assert scores == sorted(scores, reverse=True)


def test_demonstrations_come_before_the_documents(made: RunConfig) -> None:
    question = data.read_chosen(home(made) / "answer" / "test.jsonl")[0]
    texts = load_prompts(home(made) / "answer" / "style.yaml")
    shown = [one for one in train_items(made) if one["consistent"]][:2]
    for mode, field in (("icl", "rationale"), ("few_shot", "answers")):
        task = load_task(str(home(made) / "answer" / f"{mode}.yaml"))
        examples = few_shot_examples(task)
        prompt = task_prompt(
            question, question.contexts, task, style="plain", contexts_in_prompt=3, examples=examples, texts=texts
        )
        said = [one[field] if field == "rationale" else one[field][0] for one in shown]
        solved = [f"read {one['question']}\nAnswer: {text}\n\n" for one, text in zip(shown, said, strict=True)]
        assert prompt.text.startswith(f"{solved[0]}{solved[1]}Document 1")


def test_the_modes_read_what_they_should(made: RunConfig) -> None:
    for mode in MODES:
        read = [one.passages for one in answers_of(home(made) / "answer" / mode)]
        assert all(len(one) == (0 if mode == "closed_book" else 3) for one in read)


def test_the_page_of_cases_shows_documents_and_answers(made: RunConfig) -> None:
    page = (home(made) / "scores" / "cases.html").read_text()
    question = lines(home(made) / "data" / "test.jsonl")[0]
    assert question["question"] in page
    assert "Document 3" in page
    assert 'class="document faded"' in page
    assert f"<mark>{question['answers'][0]}</mark>" in page or question["labels"]["helps"] == "no"


def test_a_second_call_makes_nothing_again(made: RunConfig) -> None:
    before = {path: path.stat().st_mtime_ns for path in home(made).rglob("[a-z]*.json*")}
    run_recipe(RECIPE, made)
    assert {path: path.stat().st_mtime_ns for path in home(made).rglob("[a-z]*.json*")} == before


def test_a_stop_at_the_end_of_any_step_changes_nothing(
    made: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pretrain(config_of(tmp_path, steps=3))
    stopped: list[str] = []

    def write(directory: Path, found: Manifest) -> Manifest:
        if directory.name not in stopped:
            stopped.append(directory.name)
            raise KeyboardInterrupt
        return write_manifest(directory, found)

    monkeypatch.setattr(base, "write_manifest", write)
    while True:
        try:
            run_recipe(RECIPE, config)
            break
        except KeyboardInterrupt:
            assert not (home(config) / stopped[-1] / "manifest.json").exists()
    assert stopped == ["data", "rationales", "tune", "answer", "scores"]
    names = (
        "data/*.json*",
        "rationales/*.jsonl",
        "tune/*.jsonl",
        "answer/*.jsonl",
        "answer/*/*.jsonl",
        "scores/*.json",
    )
    unlike = ("report.json", "manifest.json", "config.json", ".verified.json", "answers.jsonl")
    found = [path for name in names for path in sorted(home(made).glob(name)) if path.name not in unlike]
    assert len(found) >= 18
    for path in found:
        other = home(config) / path.relative_to(home(made))
        assert other.read_bytes() == path.read_bytes(), path


def test_situations_are_told_apart_and_recalled_knowledge_is_shown(tmp_path: Path) -> None:
    rationale = {
        "teacher": {"kind": "script", "function": "tests.recipes.instruct_rag.world:teacher"}, "by_situation": True,
        "judge": {"kind": "script", "function": "tests.recipes.instruct_rag.world:teacher"}, "keep": "consistent",
    }  # fmt: skip
    config = config_of(tmp_path, steps=1, rationale=rationale, recall=True)
    for name in ("data", "recall", "rationales"):
        run_recipe(RECIPE, config, name)
    found = counts(config, "rationales")
    items = lines(home(config) / "rationales" / "train.jsonl")
    # The teacher recalls one fact, and only of the question for it.
    knows = [one["question"] == "tell e0 r0 ?" and one["answers"] == ["V0"] for one in items]
    holds = [one["answer_in_documents"] for one in items]
    wanted = [
        "both" if k and h else "memory" if k else "context" if h else "neither"
        for k, h in zip(knows, holds, strict=True)
    ]
    assert [one["situation"] for one in items] == wanted
    assert found["consistent"] == sum(one["answers"][0] in one["rationale"].split() for one in items)
    assert found["without_verdict"] == 0
    recalled = lines(home(config) / "recall" / "test.jsonl")
    assert all(one["internal_knowledge"] == "-" or one["question"] == "tell e0 r0 ?" for one in recalled)


def test_documents_that_have_no_room_keep_their_numbers(tmp_path: Path) -> None:
    rationale = {
        "teacher": {"kind": "script", "function": "tests.recipes.instruct_rag.world:teacher"},
        "prompt_tokens": 27,
    }
    config = config_of(tmp_path, steps=1, rationale=rationale)
    for name in ("data", "rationales"):
        run_recipe(RECIPE, config, name)
    assert counts(config, "rationales")["documents_without_room"] >= 40
    for one in train_items(config):
        shown = [document["text"] for document in reversed(one["ctxs"])]
        for number, entity in re.findall(r"Document (\d+) (\S+)", one["rationale"]):
            assert shown[int(number) - 1].startswith(f"{entity} ")


def test_what_was_recalled_is_in_the_prompts_of_tuning_and_test(made: RunConfig, tmp_path: Path) -> None:
    config = of_same_model(made, config_of(tmp_path, steps=1, recall=True, modes=["ft"], learn="answer"))
    known = {one["id"]: one for one in lines(tmp_path / "test.jsonl")}
    known["0"]["question"], known["0"]["answers"] = "tell e0 r0 ?", ["V0"]
    world.write_lines(tmp_path / "test.jsonl", iter(known.values()))
    run_recipe(RECIPE, config)
    asked = {one["id"]: one["question"] for one in lines(home(config) / "answer" / "test.jsonl")}
    assert asked["0"] == "What was recalled before reading: e0 r0 V0\n\ntell e0 r0 ?"
    assert asked["1"] == known["1"]["question"]
    table = read_json(home(config) / "scores" / "modes.json", "")
    assert table["set"] == "world"


def test_published_figures_are_those_of_what_was_tuned_on(made: RunConfig, tmp_path: Path) -> None:
    found = {}
    for learn in ("rationale", "answer"):
        config = config_of(tmp_path, steps=1, set="popqa", learn=learn)
        settings = recipe_settings(config, RECIPE)
        work = StepRun(recipe=RECIPE, step=RECIPE.steps[-1], config=config, settings=settings)
        found[learn] = published_of(work)["published_percent"]["ft"]
    assert found == {"rationale": 66.2, "answer": 61.0}


def test_another_model_or_another_source_of_documents_is_noticed(made: RunConfig) -> None:
    other = {"tune": {"start_from": str(home(made) / "tune" / "sft")}}
    for changes, step in ((other, "answer"), ({"retrieve": True}, "data")):
        settings = {**made.recipe["instruct_rag"], **changes}
        config = made.model_copy(update={"recipe": {"instruct_rag": settings}})
        with pytest.raises(ArtifactError, match=r"was made under other settings|is missing, and step data needs it"):
            run_recipe(RECIPE, config, step)


def test_test_questions_that_are_training_questions_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tmp_path, steps=1)
    world.write_lines(tmp_path / "test.jsonl", world.questions(4, 3))
    run_recipe(RECIPE, config, "data")
    assert counts(config, "data")["in_both"] == 4
    assert "4 of 4 test questions are training questions too" in caplog.text


def test_demonstrations_of_a_file_of_one_s_own_need_answers_and_for_icl_rationales(
    made: RunConfig, tmp_path: Path
) -> None:
    path = tmp_path / "demos.jsonl"
    items = [{"question": "tell e2 r2", "answers": ["V2"]}, {"question": "tell e3 r2", "answers": ["V3"]}]
    world.write_lines(path, iter(items))
    demonstrations = {"file": str(path)}
    config = of_same_model(made, config_of(tmp_path, steps=1, demonstrations=demonstrations, modes=["few_shot"]))
    run_recipe(RECIPE, config, "answer", until=True)
    task = load_task(str(home(config) / "answer" / "few_shot.yaml"))
    assert [(one.question, one.answer) for one in task.few_shot.examples] == [
        ("tell e2 r2?", "V2"),
        ("tell e3 r2?", "V3"),
    ]
    world.write_lines(path, iter([{"question": "tell e2 r2", "rationale": "V2"}]))
    with pytest.raises(
        DataError, match=r"demos.jsonl: item 0 .*has no 'answers'|demos.jsonl: line 1 .*has no 'answers'"
    ):
        run_recipe(RECIPE, config, "answer", redo=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set": "popq"}, r"recipe.instruct_rag.set = 'popq': .*popqa"),
        ({"checkpoint": "popqa/dpr"}, r"recipe.instruct_rag.checkpoint = 'popqa/dpr': .*popqa/contriever"),
        ({"checkpoint": "popqa/contriever"}, r"needs the model meng-lab/PopQA-InstructRAG-FT as a folder"),
        ({"demonstrations": {"count": 400}}, r"demonstrations.count = 400: needs at most \d+, which .*train.jsonl has"),
    ],
)
def test_a_setting_that_cannot_be_is_named(
    made: RunConfig, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = config_of(tmp_path, steps=3, **changes)
    with pytest.raises(ConfigError, match=message):
        run_recipe(RECIPE, of_same_model(made, config))


def test_files_that_are_missing_or_without_documents_are_named(tmp_path: Path) -> None:
    config = config_of(tmp_path, steps=3)
    (tmp_path / "train.jsonl").write_text('{"question": "Where?", "answers": ["Rome"]}\n')
    with pytest.raises(DataError, match=r"train.jsonl: none of its questions has passages"):
        run_recipe(RECIPE, config, "data")
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(DataError, match=r"train.jsonl"):
        run_recipe(RECIPE, config, "data")
    with pytest.raises(ArtifactError, match=r"data/manifest.json: is missing, and step rationales needs it"):
        run_recipe(RECIPE, config, "rationales")


def test_a_run_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe.instruct_rag.test = None: needs a file of questions"):
        run_recipe(RECIPE, config_of(tmp_path, steps=3, train=None, test=None), "data")


@pytest.mark.slow
def test_a_model_tuned_on_rationales_names_the_right_document_and_answers(tmp_path: Path) -> None:
    config = pretrain(config_of(tmp_path, steps=250, items=(6000, 100), modes=["closed_book", "rag", "ft"]))
    run_recipe(RECIPE, config)
    asked = data.read_chosen(home(config) / "answer" / "test.jsonl")
    answers = answers_of(home(config) / "answer" / "ft")
    wanted = []
    for question in asked:
        # Documents stand from the worst to the best.
        shown = [one.text.split() for one in question.contexts[::-1]]
        said = [f"{entity} {f'helps {value}' if value in question.answers else 'no'}" for entity, _, value in shown]
        wanted.append(" ".join(f"Document {number} {one}" for number, one in enumerate(said, start=1)))
    right = [one.prediction == each for one, each in zip(answers, wanted, strict=True)]
    assert sum(right) >= 90
    helped = sum(dict(one.labels)["helps"] == "yes" for one in asked)
    table = read_json(home(config) / "scores" / "modes.json", "")["modes"]
    # Where no document helps nothing can be right but by chance.
    assert table["ft"]["match_norm"]["mean"] >= 0.9 * helped / 100
    assert table["closed_book"]["match_norm"]["mean"] <= 0.3
    # Documents whose answer was replaced are followed, which the base model does not.
    before = conflict_scores(config, tmp_path / "before", stage("pretrain").path(config), conditions=CONFLICTS)
    after = conflict_scores(config, tmp_path / "after", home(config) / "tune" / "sft", conditions=CONFLICTS)
    for condition, side in zip(CONFLICTS, ("original", "counter"), strict=True):
        shares = [one["conditions"][condition][side] for one in (before, after)]
        assert shares[0]["high"] < shares[1]["low"] and shares[1]["count"] >= 0.9 * helped
