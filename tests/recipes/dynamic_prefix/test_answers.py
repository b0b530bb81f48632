"""Answers with documents as a prefix, as text and without: each what the engine says by hand, resumable, counted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ArtifactError, ConfigError
from retro.generate.engine import BatchEngine
from retro.generate.request import Completion, Request, Sampling
from retro.generate.runner import PreparedQuestion
from retro.qa.question import Context, PassageLike, Question
from retro.recipes.base import StepRun, run_recipe
from retro.recipes.comparison import answers_of
from retro.recipes.dynamic_prefix.answering import answers
from retro.recipes.dynamic_prefix.answering import steps as generation_steps
from retro.recipes.dynamic_prefix.answering.config import AnswerConfig
from retro.recipes.dynamic_prefix.answering.policy import (
    SEPARATOR,
    PrefixPolicy,
    open_source,
    question_prompts,
    with_documents,
)
from retro.recipes.dynamic_prefix.config import DynamicPrefixConfig
from tests.recipes.dynamic_prefix.reading_run import RECIPE, SENTENCE, Reading, document

MODES = ("prefix", "none", "prompt")


@pytest.fixture(scope="module")
def answered(reading: Reading) -> Path:
    """The folder of the step, run as a user runs it."""
    run_recipe(RECIPE, reading.config)
    return reading.home / "answer"


def asked(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]


def contexts(one: Mapping[str, Any]) -> tuple[Context, ...]:
    return tuple(Context(read["title"], read["text"], read["document_id"]) for read in one.get("ctxs", ()))


def by_hand(reading: Reading, one: Mapping[str, Any], mode: str) -> Completion:
    """One question alone, its prompt and its documents put together here."""
    engine = reading.engine()
    prompt = engine.tokenizer.encode_batch([SENTENCE.replace("{question}", one["question"])])[0]
    knowledge = None
    if mode == "prefix":
        knowledge = open_source(engine, reading.settings, reading.trained.identity, None).of(contexts(one))
    if mode == "prompt":
        texts = [f"{read.title} {read.text}{SEPARATOR}" for read in contexts(one)]
        prompt = [*(token for text in texts for token in engine.tokenizer.encode_batch([text])[0]), *prompt]
    sampling = Sampling(max_new_tokens=6, stop=("\n",))
    return engine.generate([Request(prompt=prompt, knowledge=knowledge, sampling=sampling)])[0]


@pytest.mark.parametrize("mode", MODES)
def test_every_answer_is_what_the_engine_says_by_hand(reading: Reading, answered: Path, mode: str) -> None:
    found = answers_of(answered / mode)
    assert len(found) == 8
    for one, item in zip(found, asked(answered), strict=True):
        assert one.prediction == by_hand(reading, item, mode).text.strip()
        details = one.details["dynamic_prefix"]
        assert details["mode"] == mode
        read = [] if mode == "none" else [context.document_id for context in contexts(item)]
        assert details["documents"] == read
        assert bool(details["vectors"]) == (mode == "prefix" and bool(read))


def test_documents_move_answers_and_questions_without_any_are_answered_as_without(answered: Path) -> None:
    prefix, none = answers_of(answered / "prefix"), answers_of(answered / "none")
    empty = [not contexts(item) for item in asked(answered)]
    same = [one.prediction == other.prediction for one, other in zip(prefix, none, strict=True)]
    assert sum(empty) == 2
    assert all(equal for equal, without in zip(same, empty, strict=True) if without)
    assert sum(same) < 8


def test_stored_documents_are_used_and_counted(answered: Path) -> None:
    report = json.loads((answered / "report.json").read_text())["documents_now"]
    # d1 and d7 are each read by two questions, and found in memory the second time.
    assert report["prefix"] == {"stored": 7, "cached": 2, "encoded": 0, "empty": 0}
    assert report["none"] == report["prompt"] == {"stored": 0, "cached": 0, "encoded": 0, "empty": 0}
    manifest = json.loads((answered / "manifest.json").read_text())
    assert manifest["counts"]["questions"] == 8
    assert manifest["counts"]["without_documents"] == 2
    assert manifest["counts"]["vectors_prefix"] > 0
    assert manifest["counts"]["vectors_none"] == manifest["counts"]["vectors_prompt"] == 0


def answer(reading: Reading, directory: Path, **more: Any) -> Path:
    """The step in a folder of its own, without stored documents."""
    work = reading.work("answer", directory)
    answers.answer(work, reading.questions, reading.trained, **more)
    return work.directory


def predictions(folder: Path, mode: str) -> list[str]:
    return [one.prediction for one in answers_of(folder / mode)]


def test_documents_that_are_not_stored_are_encoded_when_they_are_asked_for(
    reading: Reading, answered: Path, tmp_path: Path
) -> None:
    fresh = reading.with_settings(answer={"modes": ["prefix"], "stored": False})
    assert predictions(answer(fresh, tmp_path), "prefix") == predictions(answered, "prefix")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_do_not_depend_on_their_batch(
    reading: Reading, answered: Path, tmp_path: Path, batch_size: int
) -> None:
    other = reading.with_settings(answer={"batch_size": batch_size})
    folder = answer(other, tmp_path)
    assert [predictions(folder, mode) for mode in MODES] == [predictions(answered, mode) for mode in MODES]


@pytest.mark.parametrize("batch", range(4))
def test_a_kill_in_any_batch_ends_in_the_same_bytes(
    reading: Reading, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    two = reading.with_settings(answer={"modes": ["prefix", "prompt"]})
    whole, cut = answer(two, tmp_path / "whole"), two.work("answer", tmp_path / "cut")
    generate, left = PrefixPolicy.generate, [batch]

    def killed(self: PrefixPolicy, engine: BatchEngine, asked: Sequence[PreparedQuestion]) -> list[Completion]:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return generate(self, engine, asked)

    monkeypatch.setattr(PrefixPolicy, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        answers.answer(cut, two.questions, two.trained)
    monkeypatch.setattr(PrefixPolicy, "generate", generate)
    answers.answer(cut, two.questions, two.trained)
    for mode in ("prefix", "prompt"):
        name = f"{mode}/with_passages.jsonl"
        assert (cut.directory / name).read_bytes() == (whole / name).read_bytes()


class OneDocument:
    """Finds the same document for every text, and counts."""

    identity: Mapping[str, Any] = {"kind": "one"}

    def __init__(self) -> None:
        self.queries: list[str] = []

    def search(self, queries: Sequence[str], n: int) -> Sequence[Sequence[PassageLike]]:
        self.queries += queries
        return [[Context("thing3", document(3)["text"], "found", score=0.5)][:n] for _ in queries]


def test_questions_without_documents_get_what_their_text_finds(reading: Reading, tmp_path: Path) -> None:
    search = OneDocument()
    one = reading.with_settings(answer={"modes": ["prefix"]})
    folder = answer(one, tmp_path, search=search)
    assert search.queries == [f"what is the colour of thing{number} ?" for number in (3, 6)]
    read = [one.details["dynamic_prefix"]["documents"] for one in answers_of(folder / "prefix")]
    assert [ids for ids in read if ids == ["found"]] == [["found"]] * 2
    assert all(read)


def test_only_the_best_documents_are_read(reading: Reading, tmp_path: Path) -> None:
    one = reading.with_settings(answer={"modes": ["prefix", "prompt"], "documents": 1})
    folder = answer(one, tmp_path)
    for mode in ("prefix", "prompt"):
        assert {len(one.details["dynamic_prefix"]["documents"]) for one in answers_of(folder / mode)} == {0, 1}


def test_found_documents_go_to_questions_that_have_none_alone() -> None:
    own = (Context("t", "u", "own"),)
    questions = [
        Question(id="a", question="one ?", answers=("x",), contexts=own),
        Question(id="b", question="two ?", answers=("y",)),
    ]
    found = answers.with_found(questions, OneDocument(), 2)
    assert [[one.document_id for one in each.contexts] for each in found] == [["own"], ["found"]]
    assert answers.with_found(questions, None, 2) == questions


def test_the_database_of_the_run_is_searched_where_the_settings_ask_for_it(reading: Reading) -> None:
    [step] = [one for one in RECIPE.steps if one.name == "answer"]
    searching = reading.with_settings(answer={"search": True})
    work = StepRun(recipe=RECIPE, step=step, config=searching.config, settings=searching.settings)
    asked = Question(id="a", question="what is the colour of thing4 ?", answers=("x",))
    [found] = answers.with_found([asked], generation_steps._search(work), 2)
    assert len(found.contexts) == 2
    assert "thing4" in found.contexts[0].text
    quiet = StepRun(recipe=RECIPE, step=step, config=reading.config, settings=reading.settings)
    assert generation_steps._search(quiet) is None


def test_documents_in_a_prompt_are_cut_from_the_worst_and_the_question_never(reading: Reading) -> None:
    engine = reading.engine()
    most = engine.decoder.sequence_length
    prompt = question_prompts(["what is the colour of thing1 ?"], engine, reading.settings.train, 6)[0]
    long = [Context("", " ".join(["ago"] * 60), "1"), Context("", " ".join(["nobody"] * 60), "2")]
    ids = with_documents(prompt, long, engine, 6)
    assert len(ids) == most - 6
    assert ids[-len(prompt) :] == prompt
    ago, nobody = (engine.tokenizer.encode_batch([text])[0][0] for text in ("ago", "nobody"))
    assert (ids.count(ago), ids.count(nobody)) == (60, most - 6 - 60 - len(prompt))
    assert with_documents(prompt, [], engine, 6) == prompt
    assert with_documents(prompt, long, engine, most - 2) == prompt


def test_an_answer_that_leaves_no_room_for_a_prompt_is_refused(reading: Reading) -> None:
    with pytest.raises(ConfigError, match=r"answer\.max_new_tokens = 96: needs to leave a prompt in a sequence of 96"):
        question_prompts(["what ?"], reading.engine(), reading.settings.train, 96)


def test_nothing_asked_is_nothing_answered(reading: Reading) -> None:
    policy = PrefixPolicy(reading.settings, "prefix", reading.trained.identity, None)
    assert policy.generate(reading.engine(), []) == []
    assert policy.counts.record == {"stored": 0, "cached": 0, "encoded": 0, "empty": 0}


def test_the_policy_names_what_shapes_its_answers(reading: Reading) -> None:
    identities = [PrefixPolicy(reading.settings, mode, {"checkpoint": "x"}, None).identity for mode in MODES]  # type: ignore[arg-type]
    assert [one["mode"] for one in identities] == list(MODES)
    assert identities[0]["documents"] == 2
    assert identities[0]["question"] == SENTENCE


def test_each_mode_is_given_once() -> None:
    with pytest.raises(ConfigError, match=r"modes = .*: needs each mode once"):
        AnswerConfig(modes=("prefix", "prefix"))


def test_steps_are_passed_over_where_there_is_nothing_to_ask() -> None:
    steps = {one.name: one for one in RECIPE.steps}
    trained = {"train": "train.jsonl"}
    passages = DynamicPrefixConfig(data=trained, store={"documents": "passages"})
    for nothing in (DynamicPrefixConfig(), DynamicPrefixConfig(data={"test": "test.jsonl"})):
        # Without questions to train on there is no encoder.
        assert not steps["encode"].wanted(nothing)
        assert not steps["answer"].wanted(nothing)
    assert steps["encode"].wanted(passages)
    assert not steps["answer"].wanted(passages)
    assert steps["answer"].wanted(DynamicPrefixConfig(data={**trained, "test": "test.jsonl"}))
    assert steps["encode"].needed(passages) == ("train",)
    unstored = DynamicPrefixConfig(data={**trained, "test": "test.jsonl"}, answer={"stored": False, "search": True})
    assert not steps["encode"].wanted(unstored)
    assert steps["answer"].needed(unstored) == ("retrieve", "train", "corpus", "db", "index")
    joint = DynamicPrefixConfig(data={"test": "test.jsonl"}, answer={"reader": "joint"})
    assert steps["encode"].needed(joint) == ("joint",)
    assert steps["answer"].needed(joint) == ("joint", "encode")
    with pytest.raises(ConfigError, match=r"needs at most prefix.documents = 1 with reader: joint"):
        DynamicPrefixConfig(prefix={"documents": 1}, answer={"reader": "joint", "documents": 2})


def test_how_much_stays_in_memory_does_not_make_answers_others(reading: Reading, answered: Path) -> None:
    run_recipe(RECIPE, reading.with_settings(answer={"cache_mib": 1}).config)
    with pytest.raises(ArtifactError, match=r"answer\.max_new_tokens"):
        run_recipe(RECIPE, reading.with_settings(answer={"max_new_tokens": 5}).config)
    assert answered.exists()
