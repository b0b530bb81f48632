"""Samples: which tokens are learned, what is cut, how documents of unequal lengths stand in a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.errors import ConfigError
from retro.qa.layouts import read_task_questions
from retro.qa.question import Context, Question, Turn
from retro.qa.question_files import read_questions
from retro.qa.task import load_task
from retro.recipes.dynamic_prefix.config import PrefixTrainConfig
from retro.recipes.dynamic_prefix.training.encoder_files import ModelTokens
from retro.recipes.dynamic_prefix.training.questions import document_of, records
from retro.recipes.dynamic_prefix.training.samples import (
    IDS,
    REAL,
    PrefixSource,
    Sample,
    document_arrays,
    document_text,
    encode_samples,
    most_of_prompt,
    prompt_ids,
)
from retro.recipes.item_files import write_items
from retro.tokenizers.tokenizer import Tokenizer
from tests.recipes.dynamic_prefix import fact_world

TRAIN = PrefixTrainConfig(question=fact_world.TEMPLATE)
# The world's tokens: </s> 0, say 1, : 2, . 3, food 4, of 5, is 6, alan 7, bea 8, soup 23, bread 24.


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return fact_world.write_tokenizer(tmp_path_factory.mktemp("words"))


def question(text: str = "food of alan", *documents: str, answer: str = "soup", **more: Any) -> Question:
    contexts = tuple(Context("", one, document_id=f"d{place}#2") for place, one in enumerate(documents))
    return Question(id="1", question=text, answers=(answer,), contexts=contexts, **more)


def encoded(tokenizer: Tokenizer, tmp_path: Path, *questions: Question, **settings: Any) -> Any:
    directory = tmp_path / "tokenizer"
    fact_world.write_tokenizer(directory)
    documents = ModelTokens(directory, settings.pop("most_tokens", 8))
    settings = {"most_documents": 2, "length": 20} | settings
    return encode_samples(questions, tokenizer, documents, settings.pop("config", TRAIN), **settings)


def test_a_sample_is_prompt_answer_and_documents(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (sample,), counts = encoded(tokenizer, tmp_path, question("food of alan", "soup .", "bea", "of"))
    assert sample == Sample((1, 2, 4, 5, 7), (23, 0), ((23, 3), (8,)))
    assert counts == {
        "answers_cut": 0, "documents": 2, "documents_cut": 0, "prompts_cut": 0, "questions": 1, "without_documents": 0,
    }  # fmt: skip


def test_a_long_prompt_loses_the_start_of_the_question_and_is_counted(tokenizer: Tokenizer, tmp_path: Path) -> None:
    # Of 8 tokens, 70 % are 5: the fixed sentence `say :` and the last three of the question.
    long = question("bea is food of alan")
    (sample,), counts = encoded(tokenizer, tmp_path, long, length=8)
    assert sample.prompt == (1, 2, 4, 5, 7)
    assert counts["prompts_cut"] == 1
    assert counts["without_documents"] == 1
    assert prompt_ids(["alan"], tokenizer, TRAIN, 1) == [[7]]


def test_long_answers_and_documents_are_cut_and_counted(tokenizer: Tokenizer, tmp_path: Path) -> None:
    long = question("alan", "soup soup soup .", answer="soup bread soup bread")
    (sample,), counts = encoded(tokenizer, tmp_path, long, length=5, most_tokens=3)
    # Three of the prompt and three of the answer: of six tokens the model reads five.
    assert sample == Sample((1, 2, 7), (23, 24, 23), ((23, 23, 23),))
    assert (counts["answers_cut"], counts["documents_cut"]) == (1, 1)


def test_the_share_of_the_prompt_is_a_setting() -> None:
    assert most_of_prompt(PrefixTrainConfig(), 20) == 14
    assert most_of_prompt(PrefixTrainConfig(prompt_share=0.5), 20) == 10
    with pytest.raises(ConfigError, match="needs room for a prompt and an answer"):
        most_of_prompt(PrefixTrainConfig(), 1)


def test_only_the_answer_counts_in_the_loss() -> None:
    one = Sample((7, 8, 9), (4, 0), ((1, 2, 3),))
    other = Sample((5,), (6, 0), ())
    source = PrefixSource([one, other], end=0, documents=2, multiple=4)
    batch = source.fetch(
        np.array([[source.place(0), source.place(1)].index(0), [source.place(0), source.place(1)].index(1)])
    )
    assert batch.tokens_BS.tolist() == [[7, 8, 9, 4], [5, 6, 0, 0]]
    assert batch.labels_BS.tolist() == [[8, 9, 4, 0], [6, 0, 0, 0]]
    assert batch.loss_mask_BS.tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]
    assert batch.further[IDS].tolist() == [[[1, 2, 3], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]
    assert batch.further[REAL].sum(axis=(1, 2)).tolist() == [3, 0]


def test_each_epoch_has_every_sample_in_an_order_of_its_own() -> None:
    source = PrefixSource([Sample((1,), (2,), ())] * 30, end=0, documents=1, seed=3)
    epochs = [[source.place(number) for number in range(first, first + 30)] for first in (0, 30)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(30))
    assert epochs[0] != epochs[1]
    assert source.place(7) == epochs[0][7]


def test_questions_without_any_document_have_an_empty_place() -> None:
    ids_BKn, real_BKn = document_arrays([[], []], 3)
    assert ids_BKn.shape == (2, 3, 1)
    assert not real_BKn.any()


def test_the_encoder_reads_title_and_text() -> None:
    assert document_text(Context("Garden", "It was laid out.")) == "Garden It was laid out."
    assert document_text(Context("", "It was laid out.")) == "It was laid out."


@pytest.mark.parametrize(
    ("asked", "document"),
    [
        (question("q", "a", document_ids=("d9",)), "d9"),
        # A passage is named by its document and its number there.
        (question("q", "a", "b"), "d0"),
        (Question(id="1", question="q", answers=("a",), contexts=(Context("T", "text", "C#"),)), "C#"),
        (Question(id="1", question="q", answers=("a",), contexts=(Context("T", "text"),)), "T"),
        (Question(id="1", question="q", answers=("a",), contexts=(Context("", "text"),)), "text"),
        (question("q"), "q"),
    ],
)
def test_a_question_belongs_to_the_document_with_its_answer_else_to_the_best(asked: Question, document: str) -> None:
    assert document_of(asked) == document


def test_the_files_of_questions_keep_all_that_a_question_says(tmp_path: Path) -> None:
    asked = question(
        "q", "a", document_ids=("d0",), options=("soup", "tea"), turns=(Turn("user", "hello"),),
        answer_groups=(("soup", "broth"),), labels=(("type", "bridge"),),
    )  # fmt: skip
    write_items(tmp_path / "test.jsonl", records([asked]))
    (plain,) = read_questions(tmp_path / "test.jsonl")
    assert plain == asked
    (of_task,) = read_task_questions(tmp_path / "test.jsonl", load_task("hotpotqa"))
    assert of_task.labels == asked.labels
