"""Embedder, model and steps by hand."""

from __future__ import annotations

from typing import Any

import pytest

from retro.init.training_choices import SHAPES, Machine, Text, Training, search, training
from retro.model.count import count_parameters


def machine(rate: float = 5_000, *, bm25: bool = True) -> Machine:
    return Machine(tokens_per_second=rate, bm25=bm25)


def text(tokens: float = 400_000, *, documents: int = 1000, questions: int = 0, vocabulary: int = 4096) -> Text:
    return Text(documents=documents, tokens=tokens, vocabulary=vocabulary, train_share=0.9, questions=questions)


def plan(of: Text, on: Machine, minutes: float = 10) -> Training:
    return training(of, on, minutes)


def setting(found: Training, name: str) -> Any:
    return next(choice.value for choice in found.choices if choice.setting == name)


def why(found: Training, name: str) -> str:
    return next(choice.why for choice in found.choices if choice.setting == name)


def test_neighbors_come_by_words_where_that_is_installed() -> None:
    found = {choice.setting: choice.value for choice in search(machine())}
    assert found == {"index.embedder": {"kind": "bm25"}, "neighbors.source": "bm25", "search.source": "bm25"}
    (only,) = search(machine(bm25=False))
    assert only.value == {"kind": "hashing"} and "not installed: pip install" in only.why


def test_steps_are_what_the_time_allows() -> None:
    # (2 x 60 s - 20 s) x 0.85 x 5,000 tokens/s / (8 x 256) = 207.5
    found = plan(text(), machine(), 2)
    assert found.steps == setting(found, "train.steps") == 207
    assert why(found, "train.steps") == (
        "what the time allows: 1.2 times the text in some 85 s (5,000 tokens/s, measured here by a few steps)"
    )
    assert setting(found, "train.evaluate_every") == 51


def test_a_small_text_is_read_four_times() -> None:
    # 4 x 36,000 / 2,048 = 70.3
    found = plan(text(40_000), machine(), 10)
    assert found.steps == 71
    assert why(found, "train.steps").startswith("4 times the text; more teaches little: 4 times the text in some 29 s")


def test_however_little_there_is_a_few_steps_are_made() -> None:
    found = plan(text(4_000), machine(), 10)
    assert found.steps == 20
    assert why(found, "train.steps").startswith("the fewest with which a learning rate can rise and fall: 11 times")


def test_questions_take_their_share_of_the_time() -> None:
    # 0.7 and 0.2 of (2 x 60 - 20) x 0.85 s; four times 400 questions are 200 steps.
    found = plan(text(questions=400), machine(), 2)
    assert (found.steps, found.tuning_steps) == (145, 41)
    assert plan(text(questions=100), machine(), 60).tuning_steps == 50
    assert plan(text(questions=3), machine(), 60).tuning_steps == 20


def test_minutes_on_a_cpu_make_the_smallest_model_and_much_time_and_text_a_larger_one() -> None:
    small = plan(text(), machine())
    assert small.shaped == SHAPES[0]
    assert setting(small, "model.size") == "tiny"
    weights = count_parameters(SHAPES[1].shape(4096)).total
    large = plan(text(20 * weights), machine(2_000_000), 600)
    assert large.shaped == SHAPES[1]
    assert setting(large, "model.layers") == 6
    assert "estimated by FLOPs from 2,000,000 measured for tiny" in why(large, "train.steps")
    # The text bounds it too: at four times a text of a fifth of that, there are not 20 tokens a weight.
    assert plan(text(4 * weights), machine(2_000_000), 600).shaped == SHAPES[0]


@pytest.mark.parametrize("shaped", SHAPES, ids=lambda shaped: str(shaped.name))
def test_a_size_sets_everything_whatever_it_takes(shaped: Any) -> None:
    weights = count_parameters(shaped.shape(4096)).total
    plenty, little = text(1e9, questions=400), text(1e6)
    found = training(plenty, machine(), None, shaped.name)
    assert found.shaped == shaped
    assert found.steps == -(-20 * weights // shaped.batch_tokens)
    assert found.tuning_steps == -(-4 * 400 // shaped.global_batch)
    assert "20 tokens a weight" in why(found, "train.steps") and f"{shaped.name}, as asked for" in why(
        found, "model.size"
    )
    short = training(little, machine(), None, shaped.name)
    assert short.steps < found.steps
    assert "4 times the text" in why(short, "train.steps")
    timed = training(plenty, machine(), 2, shaped.name)
    assert timed.shaped == shaped and timed.steps < found.steps


@pytest.mark.parametrize("shaped", SHAPES, ids=lambda shaped: str(shaped.settings))
def test_every_shape_is_one_that_can_be_trained(shaped: Any) -> None:
    assert shaped.model.sequence_length % shaped.shape(4096).chunk_length == 0
    assert shaped.train.global_batch % shaped.train.micro_batch == 0
    assert shaped.tuning_lr < shaped.lr


def test_shapes_are_in_order_of_their_weights() -> None:
    weights = [count_parameters(shaped.shape(4096)).total for shaped in SHAPES]
    assert weights == sorted(weights)


def test_the_smallest_model_reads_from_its_first_layer_and_is_shown_no_neighbors_now_and_then() -> None:
    found = plan(text(), machine(), 2)
    assert setting(found, "model.first_cross_attention") == 1 and setting(found, "model.retrieval_init") == "copying"
    assert setting(found, "train.hidden_neighbors") == 0.4 and setting(found, "train.probe_every") == 51
    larger = plan(text(1e9), machine(1e6), 600)
    names = {choice.setting for choice in larger.choices}
    assert not names & {"train.hidden_neighbors", "model.first_cross_attention"}
