"""Answering as a step: which questions, what is kept of a killed run, scores of both parts, two models compared."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from retro.common.artifacts import Manifest, write_manifest
from retro.common.errors import ArtifactError, ConfigError
from retro.qa.answer_files import Answer, read_answers
from retro.qa.question import Context, Question
from retro.recipes import base
from retro.recipes.base import StepRun, recipe_settings, run_recipe
from retro.recipes.multi_hop import answers as module
from retro.recipes.multi_hop import protocol
from retro.recipes.multi_hop.answer_config import AnswerConfig
from retro.recipes.multi_hop.answers import answer_of, comparison_table, drawn_questions, task_of
from retro.recipes.multi_hop.hop_scores import documents_found, hop_table
from retro.recipes.multi_hop.protocol import Hop, Outcome
from retro.run.config import RunConfig
from tests.recipes.multi_hop import fact_world as world
from tests.recipes.multi_hop.fact_run import RECIPE, home, other, read, small_run
from tests.recipes.passages.world import config_of as passages_config
from tests.recipes.passages.world import embedded


def config_of(folder: Path, **settings: Any) -> AnswerConfig:
    path = folder / "questions.json"
    path.write_text(json.dumps(world.questions(world.facts(9), 30, 7)))
    return AnswerConfig(questions=path, **settings)


def test_questions_are_drawn_by_the_seed_in_the_order_of_the_file(tmp_path: Path) -> None:
    config = config_of(tmp_path, count=10)
    task = task_of(config)
    drawn = [one.id for one in drawn_questions(config, task)]
    every = [one.id for one in drawn_questions(config.model_copy(update={"count": None}), task)]
    assert len(drawn) == 10
    assert drawn == [one for one in every if one in drawn]
    assert drawn == [one.id for one in drawn_questions(config, task)]
    assert drawn != [one.id for one in drawn_questions(config.model_copy(update={"seed": 1}), task)]
    assert len(every) == 30


def test_more_questions_than_there_are_and_none_at_all_are_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, count=31)
    with pytest.raises(
        ConfigError, match=r"answer.count = 31: needs at most 30, .*questions.json; null takes all \(.*--num-samples 0"
    ):
        drawn_questions(config, task_of(config))
    with pytest.raises(ConfigError, match=r"answer.questions = None: needs a question file"):
        drawn_questions(AnswerConfig(), task_of(config))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "ircot"}, "method = 'ircot': needs form=chat for ircot"),
        ({"model": {"kind": "teacher"}}, "form = 'function_calls': needs chat, since the model is a teacher"),
        (
            {"form": "chat", "model": {"kind": "server", "base_url": "http://x/v1", "name": "m"}},
            "form = 'chat': needs function_calls, since a server is asked by /completions",
        ),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AnswerConfig(**settings)
    assert message in str(caught.value)


# Worked by hand.

HOPS: list[dict[str, Any]] = [
    {"passages": [{"id": "", "title": "A"}, {"id": "", "title": "X"}]},
    {"passages": [{"id": "B", "title": "other"}]},
    {"passages": []},
]


def test_a_document_is_found_by_its_id_or_title_in_any_hop_up_to_that_one() -> None:
    assert documents_found(HOPS, ["A", "B"]) == [0.5, 1.0, 1.0]
    assert documents_found(HOPS, ["A", "B", "C", "A"]) == [1 / 3, 2 / 3, 2 / 3]
    assert documents_found([], ["A"]) == []


def answer(outcome: Outcome) -> Answer:
    return answer_of(Question(id="1", question="q", answers=("a",)), outcome)


def hop(*titles: str) -> Hop:
    return Hop(query="q", passages=tuple(Context(title, "text") for title in titles))


def test_hops_are_counted_and_failures_are_not_empty_predictions_alone() -> None:
    questions = [
        Question(id=str(n), question="q", answers=("a",), document_ids=documents)
        for n, documents in enumerate([("A", "B"), ("A", "B"), ("A",), ()])
    ]
    outcomes = [
        Outcome(answer="x", hops=(hop("A"), hop("B"))),
        Outcome(answer="y", hops=(hop("B"),), notes=("nothing_found", "malformed_call: one")),
        Outcome(failed="model: refused", hops=(), notes=("malformed_call: other",)),
        Outcome(answer="z", hops=(hop("A"),), route="B"),
    ]
    table = hop_table(questions, [answer(one) for one in outcomes])
    # After the first hop 1/2, 1/2 and nothing; after the second all, still 1/2, still nothing.
    assert table["recall_after_hop"] == pytest.approx([1 / 3, 1 / 2])
    assert table["questions_with_documents"] == 3
    assert table["counts"] == {
        "hops": {"0": 1, "1": 2, "2": 1},
        "several_hops": 1,
        "notes": {"malformed_call": 2, "nothing_found": 1},
        "failed": 1,
        "failures": {"model": 1},
        "routes": {"B": 1},
    }
    assert table["lines"][0] == "1 of 4 questions were answered in more than one hop, 1 have no answer"
    failed = answer(outcomes[2])
    assert (failed.prediction, failed.skipped) == ("", "model: refused")


def test_both_parts_of_what_was_said_are_scored(made: RunConfig) -> None:
    out = home(made) / "answer" / "answers"
    for short, whole in zip(read_answers(out / "answer.jsonl"), read_answers(out / "whole_text.jsonl"), strict=True):
        assert short.id == whole.id
        assert whole.prediction == short.details["multi_hop"]["text"]
    scores = read(home(made) / "scores" / "evaluate" / "scores.json")
    # What contains the answer part contains what that contains.
    assert scores["settings"]["whole_text"]["match_norm"]["mean"] >= scores["settings"]["answer"]["match_norm"]["mean"]


def test_the_progress_line_has_the_metrics_so_far() -> None:
    config = AnswerConfig(metrics=("exact_match", "word_recall"))
    asked = [Question(id=str(n), question="q", answers=("one two",)) for n in range(3)]
    said = [answer_of(one, Outcome(answer=text)) for one, text in zip(asked, ("one two", "one", "no"), strict=True)]
    scores = module.RunningScores(task_of(config), said[:1], asked)
    assert scores.note == "exact_match 100.0, word_recall 100.0"
    scores.add(asked[1:], said[1:])
    # 1, 0, 0 and 1, 1/2, 0.
    assert scores.note == "exact_match 33.3, word_recall 50.0"


def bytes_of(folder: Path) -> dict[str, bytes]:
    names = ("answer.jsonl", "whole_text.jsonl", "questions.jsonl", "manifest.json")
    return {name: (folder / "answers" / name).read_bytes() for name in names}


def test_a_killed_run_goes_on_and_leaves_the_same_bytes(
    made: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = other(made, tmp_path / "whole", batch_size=3)
    run_recipe(RECIPE, whole, "answer")
    broken, calls = other(made, tmp_path / "broken", batch_size=3), list[int]()

    def killed(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return protocol.run(*arguments)

    monkeypatch.setattr(module, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(RECIPE, broken, "answer")
    assert not (home(broken) / "answer" / "manifest.json").exists()
    run_recipe(RECIPE, broken, "answer")
    # Two batches before, two after: none was answered again but the one that was begun.
    assert len(calls) == 5
    assert bytes_of(home(broken) / "answer") == bytes_of(home(whole) / "answer")


STEPS = ("samples", "model", "export", "answer", "scores")


def test_a_stop_at_the_end_of_any_step_changes_no_byte(
    made: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_run(tmp_path)
    stopped: list[str] = []

    def write(directory: Path, found: Manifest) -> Manifest:
        if directory.name in STEPS and directory.name not in stopped:
            stopped.append(directory.name)
            raise KeyboardInterrupt
        return write_manifest(directory, found)

    monkeypatch.setattr(base, "write_manifest", write)
    for step in STEPS:
        with pytest.raises(KeyboardInterrupt):
            run_recipe(RECIPE, config)
        assert stopped[-1] == step
        assert not (home(config) / step / "manifest.json").exists()
    run_recipe(RECIPE, config)
    names = (
        "samples/*.jsonl",
        "export/model/*",
        "answer/answers/*.jsonl",
        "scores/hops.json",
        "scores/evaluate/*s.json*",
    )
    found = [path.relative_to(home(made)) for name in names for path in sorted(home(made).glob(name))]
    # The card and the settings name the run's folder.
    kept = [path for path in found if path.name not in ("README.md", "run.yaml")]
    assert len(kept) >= 11
    for path in kept:
        assert (home(config) / path).read_bytes() == (home(made) / path).read_bytes(), path


def test_questions_that_changed_are_not_passed_off_as_answered(made: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    path.write_text(json.dumps(world.questions(world.facts(9), 3, 7)))
    config = other(made, tmp_path / "run", questions=str(path))
    run_recipe(RECIPE, config, "answer")
    path.write_text(json.dumps(world.questions(world.facts(9), 2, 7)))
    with pytest.raises(ArtifactError, match=r"inputs\..*q\.json was .*retro recipe multi_hop run CONFIG answer"):
        run_recipe(RECIPE, config, "answer")


def test_a_model_that_changed_at_its_place_answers_again(made: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(home(made) / "export" / "model", folder)
    stage = home(made) / "model" / "sft"
    (checkpoint,) = stage.glob("*/checkpoints/*")
    for path, file in ((folder, folder / "model.safetensors"), (checkpoint, checkpoint / "__0_0.distcp")):
        config = other(made, tmp_path / f"run {path.name}", model={"path": str(path)})
        work = StepRun(recipe=RECIPE, step=RECIPE.steps[5], config=config, settings=recipe_settings(config, RECIPE))
        assert file in work.step.inputs(work)
    config = other(made, tmp_path / "run", model={"path": str(folder)})
    run_recipe(RECIPE, config, "answer")
    run_recipe(RECIPE, config, "answer")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"0123")
    with pytest.raises(ArtifactError, match=r"inputs\..*model\.safetensors was "):
        run_recipe(RECIPE, config, "answer")
    # Of a stage of ours, the manifest says it, and opening one leaves it as it was.
    config = other(made, tmp_path / "stage")
    work = StepRun(recipe=RECIPE, step=RECIPE.steps[5], config=config, settings=recipe_settings(config, RECIPE))
    assert stage / "manifest.json" in work.step.inputs(work)


def test_passages_that_changed_are_searched_again(made: RunConfig, tmp_path: Path) -> None:
    table = passages_config(tmp_path)
    embedded(table)
    retriever = {"kind": "passages", "table": table.model_dump(mode="json")}
    config = other(made, tmp_path / "run", retriever=retriever)
    run_recipe(RECIPE, config, "answer")
    passages = table.passages_file
    passages.write_text(passages.read_text().replace("river", "brook"))
    with pytest.raises(ArtifactError, match=r"inputs\..*passages\.tsv was "):
        run_recipe(RECIPE, config, "answer")


def test_scores_of_another_model_that_are_gone_or_others_are_compared_again(made: RunConfig, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(home(made) / "scores", theirs)
    config = other(made, tmp_path / "run", compare_with=str(theirs))
    run_recipe(RECIPE, config)
    run_recipe(RECIPE, config, "scores")
    found = theirs / "evaluate" / "questions.jsonl"
    found.write_text("".join(reversed(found.read_text().splitlines(keepends=True))))
    with pytest.raises(ArtifactError, match=r"inputs\..*theirs/evaluate/questions\.jsonl was "):
        run_recipe(RECIPE, config, "scores")
    theirs.rename(tmp_path / "moved")
    with pytest.raises(ArtifactError, match="theirs: holds no scored answers"):
        run_recipe(RECIPE, config, "scores")


def test_two_models_are_compared_in_a_table(made: RunConfig, tmp_path: Path) -> None:
    once = other(made, tmp_path / "run", method="one_search", compare_with=str(home(made) / "scores"))
    run_recipe(RECIPE, once)
    found = read(home(once) / "scores" / "comparison.json")
    assert set(found["metrics"]) == {"word_recall", "match_norm", "exact_match", "f1"}
    table = (home(once) / "scores" / "comparison.md").read_text()
    assert table.startswith(f"A: {home(made)}/scores/evaluate")
    one = found["metrics"]["f1"]
    assert f"| f1 | {100 * one['a']:.1f} | {100 * one['b']:.1f} |" in table


def test_a_table_says_which_is_better_by_how_much() -> None:
    found = {
        "a": {"directory": "A"}, "b": {"directory": "B"}, "questions": 4, "intervals": {"confidence": 0.95},
        "metrics": {"f1": {"a": 0.75, "b": 0.5, "difference": {"mean": 0.25, "low": -0.125, "high": 0.5}, "p": 0.5}},
    }  # fmt: skip
    assert comparison_table(found).splitlines()[-1] == "| f1 | 75.0 | 50.0 | +25.0 (-12.5 to +50.0) | 0.5 |"


def test_a_folder_of_texts_is_searched(made: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "facts.txt").write_text(" ".join(world.fact(*one) for one in world.facts(9).items()))
    retriever = {"kind": "folder", "folder": str(tmp_path / "texts"), "window": 40, "step": 20}
    config = other(made, tmp_path / "run", retriever=retriever)
    run_recipe(RECIPE, config, "answer")
    told = [one.details["multi_hop"] for one in read_answers(home(config) / "answer" / "answers" / "answer.jsonl")]
    found = [passage for one in told for hop in one["hops"] for passage in hop["passages"]]
    assert all(passage["title"] == "facts" for passage in found)


def test_a_chat_model_that_was_not_tuned_decomposes(made: RunConfig, tmp_path: Path) -> None:
    teacher = {"kind": "script", "function": "tests.recipes.multi_hop.fact_world:instruct_model"}
    settings: dict[str, Any] = {"model": {"kind": "teacher", "path": None, "teacher": teacher}, "form": "chat"}
    config = other(made, tmp_path / "run", **settings)
    run_recipe(RECIPE, config)
    scores = read(home(config) / "scores" / "evaluate" / "scores.json")
    assert scores["settings"]["answer"]["exact_match"]["mean"] == 1.0
    for method, least in (("ircot", 1.0), ("adaptive", 1.0), ("one_search", 0.0)):
        config = other(made, tmp_path / method, **settings, method=method)
        run_recipe(RECIPE, config)
        scores = read(home(config) / "scores" / "evaluate" / "scores.json")
        assert scores["settings"]["answer"]["exact_match"]["mean"] == least
