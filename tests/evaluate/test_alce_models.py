"""Models of entailment, reading and MAUVE's features: tiny ones, from folders, beside transformers alone."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from retro.common.errors import DataError, DependencyError
from retro.evaluate.alce import run_alce
from retro.evaluate.alce_models import (
    MauveOfFeatures,
    PairClassifier,
    ReadingModel,
    TrueModel,
    best_span,
    load_entails,
    load_scorers,
)
from tests.evaluate.tiny_models import bert_folder, language_model_folder, true_folder

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def true_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return true_folder(tmp_path_factory.mktemp("models") / "t5")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("models") / "reader", "BertForQuestionAnswering")


def test_an_encoder_decoder_says_what_is_entailed_in_the_form_of_true(true_model: Path) -> None:
    entails = load_entails(true_model)
    assert isinstance(entails, TrueModel)
    premises = ["red fox", "red dog", "fox", "dog red"] * 5
    hypotheses = ["fox", "fox", "dog", "dog"] * 5
    assert entails(premises, hypotheses) == [True, False, False, True] * 5
    assert TrueModel(true_model, batch=1)(premises, hypotheses) == [True, False, False, True] * 5
    assert entails([], []) == []


def test_an_answer_file_is_scored_with_such_a_model(true_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    docs = [{"text": "red fox"}, {"text": "red dog"}]
    # Without its full stop the hypothesis is a word that the model knows.
    data = [{"question": "?", "output": "fox [1]", "docs": docs}, {"question": "?", "output": "fox [2]", "docs": docs}]
    path.write_text(json.dumps({"data": data}))
    found = run_alce(path, nli=str(true_model))
    assert (found["citation_rec"], found["citation_prec"]) == (50.0, 50.0)
    assert found["models"] == {"nli": str(true_model)}


LABELS = {0: "neutral", 1: "Entailment", 2: "contradiction"}


def classifier(folder: Path, names: dict[int, str]) -> Path:
    settings = {"num_labels": 3, "id2label": names, "label2id": {name: number for number, name in names.items()}}
    return bert_folder(folder, "BertForSequenceClassification", seed=1, **settings)


def test_a_classifier_says_what_is_entailed_by_the_name_of_its_class(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = classifier(tmp_path / "nli", LABELS)
    entails = load_entails(folder)
    assert isinstance(entails, PairClassifier)
    premises, hypotheses = ["red fox", "who was ada", "dog", "blue sky " * 40], ["fox", "red", "blue dog", "ada"]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    expected = []
    for one, two in zip(premises, hypotheses, strict=True):
        read = tokenizer(one, two, truncation="only_first", max_length=32, return_tensors="pt")
        with torch.no_grad():
            expected.append(int(model(**read).logits.argmax()))
    assert entails(premises, hypotheses) == [number == 1 for number in expected]
    # The same weights under other names: what was said for one class is said for another.
    said = [
        load_entails(classifier(tmp_path / str(n), {n: "ENTAILMENT", (n + 1) % 3: "no", (n + 2) % 3: "so"}))(
            premises, hypotheses
        )
        for n in range(3)
    ]
    assert [[one[place] for one in said].index(True) for place in range(4)] == expected


def test_a_model_without_entailment_is_refused(tmp_path: Path, reader: Path) -> None:
    with pytest.raises(DataError, match=r"has no class 'entailment' in its config, but label_0, label_1, not_e"):
        load_entails(classifier(tmp_path / "nli", {0: "LABEL_0", 1: "LABEL_1", 2: "not_entailment"}))
    with pytest.raises(DataError, match=r"is a BertForQuestionAnswering\. Give an encoder-decoder of TRUE's form"):
        load_entails(reader)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"config\.json: is missing. Give a complete model folder"):
        load_entails(tmp_path / "empty")


def test_a_model_without_the_part_that_answers_is_refused(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "bert", "BertModel")
    with pytest.raises(DataError, match=r"lacks 2 weights of a BertForQuestionAnswering, qa_outputs\.bias first"):
        ReadingModel(folder)


def test_weights_as_pickles_are_not_read(tmp_path: Path, reader: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = tmp_path / "pickled"
    shutil.copytree(reader, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match="cannot be loaded as a reading model"):
        ReadingModel(folder)


def test_spans_worked_by_hand() -> None:
    everywhere = [True] * 4
    assert best_span([0, 5, 1, 0], [9, 0, 2, 3], everywhere) == [(9, 0, 0)]
    assert best_span([0, 5, 1, 0], [0, 0, 2, 3], everywhere) == [(8, 1, 3)]
    # The best places are outside the text, and an end is never before its beginning.
    assert best_span([9, 5, 1, 0], [0, 3, 2, 9], [False, True, True, False]) == [(8, 1, 1)]
    assert best_span([0, 0, 5], [5, 0, 0], [True] * 3) == [(5, 0, 0)]
    assert best_span([1.0], [1.0], [False]) == []
    # Fifteen tokens at most.
    assert best_span([5] + [0] * 15, [0] * 15 + [5], [True] * 16) == [(5, 0, 0)]
    assert best_span([5] + [0] * 14, [0] * 14 + [5], [True] * 15) == [(10, 0, 14)]


def spans_by_transformers(folder: Path, question: str, context: str) -> str:
    """The best span of a text that fits into one window, found by trying all of them."""
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForQuestionAnswering.from_pretrained(folder)
    with torch.no_grad():
        said = model(**tokenizer(question, context, return_tensors="pt"))
    words, first = context.split(), len(question.split()) + 2
    starts, ends = said.start_logits[0].tolist(), said.end_logits[0].tolist()
    found = {" ".join(words[i : j + 1]): starts[first + i] + ends[first + j] for i in range(8) for j in range(i, 8)}
    best = max(found, key=lambda text: found[text])
    return best if found[best] >= starts[0] + ends[0] else ""


def test_a_reader_takes_the_best_span_or_none(reader: Path, tmp_path: Path) -> None:
    read = ReadingModel(reader)
    question, context = "who was ada", "red fox blue dog sky ada was who"
    (answer,) = read([question], [context])
    assert answer == spans_by_transformers(reader, question, context)
    # With another seed the first token wins: the text does not answer.
    other = next(
        folder
        for seed in range(1, 20)
        if not spans_by_transformers(
            folder := bert_folder(tmp_path / str(seed), "BertForQuestionAnswering", seed=seed), question, context
        )
    )
    assert ReadingModel(other)([question], [context]) == [""]
    assert answer
    assert read([question, question], ["", "  "]) == ["", ""]
    assert read([], []) == []


def test_a_long_text_and_a_long_question_are_read_in_pieces(reader: Path) -> None:
    read = ReadingModel(reader)
    assert read.window == 34
    long = "red fox blue dog sky ada was who " * 20
    answers = read(["who was ada", "who was " * 60], [long, "red fox " * 30])
    assert answers[0]
    assert all(answer in text for answer, text in zip(answers, [long, "red fox " * 30], strict=True))


def states(folder: Path, text: str) -> Any:
    import torch
    from transformers import AutoModel, AutoTokenizer

    with torch.no_grad():
        read = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
        return AutoModel.from_pretrained(folder)(**read).last_hidden_state[0, -1].numpy()


def test_mauve_is_the_packages_over_the_last_state_of_each_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def compute_mauve(**ways: Any) -> Any:
        given.update(ways)
        return SimpleNamespace(mauve=np.float64(0.5))

    monkeypatch.setitem(sys.modules, "mauve", SimpleNamespace(compute_mauve=compute_mauve))
    folder = language_model_folder(tmp_path / "gpt2")
    mauve = load_scorers({"mauve": str(folder)})["mauve"]
    assert isinstance(mauve, MauveOfFeatures)
    said, gold = ["red fox dog", "dog"], ["fox", "dog red dog red", "0"]
    assert mauve(said, gold) == 0.5
    assert np.allclose(given["q_features"], [states(folder, text) for text in said], atol=1e-5)
    assert np.allclose(given["p_features"], [states(folder, text) for text in gold], atol=1e-5)


def test_models_need_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DependencyError, match=r"transformers: reads answers out of texts, and cannot be imported"):
        ReadingModel(reader)
