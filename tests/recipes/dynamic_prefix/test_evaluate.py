"""The step `evaluate` over a run that answered: what it writes, and that given answers are read as they are written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from retro.common.errors import ArtifactError
from retro.common.files import read_json
from retro.evaluate.config import BertScoreConfig, EvaluateConfig
from retro.qa.answer_files import Answer
from retro.qa.question import Context, Question
from retro.recipes.base import recipe_path, run_recipe
from retro.recipes.comparison import answers_of
from retro.recipes.dynamic_prefix.ablation.cross_attention import Rival, run_rival
from retro.recipes.dynamic_prefix.ablation.run import run_ablation
from retro.recipes.dynamic_prefix.evaluation import forced
from retro.recipes.dynamic_prefix.evaluation.evaluate import LINES, SCORES, TABLE, headers_of
from retro.recipes.dynamic_prefix.evaluation.forced import WrittenAnswer, count_weights, gold_and_written
from retro.recipes.dynamic_prefix.training.loading import load_prefix_model
from retro.recipes.dynamic_prefix.training.samples import Sample
from retro.run.pipeline import pretrained
from retro.training import checkpoint
from retro.training.result import of_stage
from tests.recipes.dynamic_prefix.reading_run import RECIPE, Reading, make

MODES = ("prefix", "none", "prompt")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    """A run of its own, answered and scored."""
    found = make(tmp_path_factory.mktemp("scored"))
    run = found.config.model_copy(
        update={"evaluate": EvaluateConfig(bert_score=BertScoreConfig(model="hashing"), bootstrap_samples=100)}
    )
    reading = Reading(run)
    run_recipe(RECIPE, reading.config)
    return reading


def scores_of(reading: Reading) -> dict[str, Any]:
    found: dict[str, Any] = read_json(reading.home / "evaluate" / SCORES, "")
    return found


def test_every_mode_has_every_metric_and_the_published_numbers_are_beside_them(scored: Reading) -> None:
    found = scores_of(scored)
    assert set(found["modes"]) == set(MODES)
    assert found["metrics"] == [
        *("exact_match", "f1", "bleu_1", "rouge_1", "rouge_2", "rouge_l"),
        "bert_score",
    ]
    assert found["questions"] == 8
    assert found["published"]["modes"]["none"]["exact_match"] == 0.0286
    assert set(found["differences"]) == {"prefix", "prompt"}
    for mode in ("prefix", "prompt"):
        one = found["differences"][mode]["f1"]
        assert one["difference"]["mean"] == pytest.approx(one["a"] - one["b"], abs=2e-6)
        assert one["b"] == found["modes"]["none"]["f1"]["mean"]
    text = (scored.home / "evaluate" / TABLE).read_text(encoding="utf-8")
    assert "| prefix, published | 26.2 |" in text


def test_a_question_without_documents_is_not_moved_by_them(scored: Reading) -> None:
    lines = [json.loads(line) for line in (scored.home / "evaluate" / LINES).read_text().splitlines()]
    asked = {one["id"]: one for one in map(json.loads, scored.questions.read_text().splitlines())}
    gold = [one for one in lines if one["given"] == "gold" and one["mode"] == "prefix"]
    assert len(gold) == 8
    for one in gold:
        assert (one["divergence"] < 1e-6) == (not asked[one["id"]]["ctxs"])
        assert one["accuracy"] == one["accuracy_without"] or asked[one["id"]]["ctxs"]


def test_what_the_model_wrote_by_the_likeliest_token_is_read_as_likeliest(scored: Reading) -> None:
    # Answers are greedy, so of each one read again every token is the likeliest: in both ways of giving documents.
    forced_of = scores_of(scored)["forced"]
    for mode in ("prefix", "prompt"):
        assert forced_of[mode]["written"]["accuracy"]["mean"] == 1.0
    assert "written" not in forced_of["none"]
    assert forced_of["none"]["gold"]["divergence"]["mean"] == 0.0
    with_gain = forced_of["prefix"]["gold"]
    assert with_gain["log_likelihood"]["mean"] - with_gain["gain"]["mean"] == pytest.approx(
        forced_of["none"]["gold"]["log_likelihood"]["mean"], abs=1e-5
    )


def test_the_weights_are_those_of_the_network_and_of_what_is_beside_it(scored: Reading) -> None:
    model = load_prefix_model(scored.home / "train").model
    weights = scores_of(scored)["weights"]
    assert sum(weights.values()) == sum(one.numel() for one in model.parameters())
    assert weights == count_weights(model, reads_documents=True)
    assert count_weights(model, reads_documents=False)["trained"] < weights["trained"]


def test_answers_are_read_in_batches_as_alone(scored: Reading) -> None:
    work = scored.work("evaluate", scored.config.run_dir.parent / "elsewhere")
    shutil.rmtree(work.config.run_dir / "recipe_dynamic_prefix")
    (work.config.run_dir / "recipe_dynamic_prefix").symlink_to(scored.home)
    model, reader, _ = forced.open_model(work)
    questions = [
        Question(id="a", question="what is the colour of thing1 ?", answers=("colour1",)),
        Question(
            id="b",
            question="what is the colour of thing2 ? it was painted long ago",
            answers=("colour2 by nobody",),
            contexts=(Context("thing2", "the colour of thing2 is colour2 ."), Context("thing3", "thing3")),
        ),
    ]
    for mode in ("prefix", "prompt"):
        given = reader.given([(one, "gold", True) for one in questions], mode)
        together = model.measure(given)
        for one, alone in zip(given, together, strict=True):
            [single] = model.measure([one])
            assert single.tokens == alone.tokens == len(one.sample.answer)
            assert [*vars(single).values()] == pytest.approx([*vars(alone).values()], abs=1e-5)
        assert together[0].divergence < 1e-6 < together[1].divergence


def test_logits_are_those_of_the_tokens_of_the_answer(scored: Reading) -> None:
    engine = scored.engine()
    network = scored.network(engine)
    sample = Sample(prompt=(2, 3, 4), answer=(5, 6, 0), documents=())
    one = forced.GivenAnswer(id="a", given="gold", sample=sample)
    model = forced.ForcedModel(model=network, vocabulary=30, end=0, documents=2)
    logits, tokens, real = model.logits([one], documents=False)
    with torch.no_grad():
        whole = network(torch.tensor([[2, 3, 4, 5, 6]]))
    assert torch.equal(logits, whole[:, 2:, :30])
    assert tokens.tolist() == [[5, 6, 0]]
    assert real.tolist() == [[True, True, True]]


def test_only_answers_that_are_there_are_read() -> None:
    asked = [Question(id="a", question="?", answers=("x",)), Question(id="b", question="?", answers=())]
    said = {"a": WrittenAnswer(" ", True), "b": WrittenAnswer("y", False)}
    found = gold_and_written(asked, said)
    assert [(one.id, one.answers, kind, whole) for one, kind, whole in found] == [
        ("a", ("x",), "gold", True),
        ("b", ("y",), "written", False),
    ]


def test_written_answers_are_judged_by_the_documents_of_the_question(scored: Reading) -> None:
    found = scores_of(scored)["written"]
    answers: dict[str, list[Answer]] = {mode: answers_of(scored.home / "answer" / mode) for mode in MODES}
    same = sum(a.prediction == b.prediction for a, b in zip(answers["prefix"], answers["none"], strict=True))
    assert found["prefix"]["unchanged"]["count"] == same
    assert "unchanged" not in found["none"]
    # Every third question has no document, so nothing of its answer is in one.
    assert found["prefix"]["nothing_found"]["count"] >= 2


def test_the_step_run_again_writes_the_same_bytes(scored: Reading, tmp_path: Path) -> None:
    place = scored.home / "evaluate"
    before = {name: (place / name).read_bytes() for name in (SCORES, TABLE, LINES)}
    # As a kill leaves it: some modes scored, nothing joined.
    for name in ("manifest.json", SCORES, LINES):
        (place / name).unlink()
    shutil.rmtree(place / "prompt")
    run_recipe(RECIPE, scored.config, "evaluate")
    assert {name: (place / name).read_bytes() for name in before} == before


def test_scores_need_no_passes_over_given_answers(scored: Reading, tmp_path: Path) -> None:
    plain = scored.with_settings(evaluate={"forced": False, "metrics": ["f1"]})
    work = plain.work("evaluate", tmp_path / "run")
    shutil.rmtree(recipe_path(work.config, RECIPE))
    shutil.copytree(scored.home, recipe_path(work.config, RECIPE), ignore=shutil.ignore_patterns("evaluate"))
    for name in ("1_corpus", "5_pretrain"):
        (tmp_path / "run" / name).symlink_to(scored.config.run_dir / name)
    run_recipe(RECIPE, work.config, "evaluate")
    found = read_json(recipe_path(work.config, RECIPE) / "evaluate" / SCORES, "")
    assert (found["metrics"], found["forced"], found["weights"]) == (["f1", "bert_score"], {}, None)


def test_answers_without_a_header_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no answers"):
        headers_of(tmp_path)


def test_the_ablation_has_static_vectors_and_cross_attention_as_rows(scored: Reading) -> None:
    only = ["base", "prompt", "static", "length-1", "cross-attention"]
    run = scored.with_settings(ablate={"only": only, "lengths": [1], "static": 4}).config
    rows = {one.name: one for one in run_ablation(RECIPE, run)}
    assert {name: one.error for name, one in rows.items() if one.error} == {}
    assert list(rows) == only
    weights = scores_of(scored)["weights"]
    assert (rows["base"].trained, rows["base"].frozen) == (weights["trained"], weights["frozen"])
    home = recipe_path(run, RECIPE) / "ablation"
    # Static vectors: those, and each of two layers' projection to 2 groups' keys and values of 8, and 4 gates.
    assert rows["static"].trained == 4 * 16 + 2 * (16 * 2 * 2 * 8 + 4)
    assert rows["length-1"].vectors == 1
    rival = rows["cross-attention"]
    assert rival.trained is not None
    assert rival.frozen is not None
    assert rival.frozen == weights["frozen"]
    assert set(rival.metrics) == set(scores_of(scored)["metrics"])
    frozen, tuned = load_prefix_model(scored.home / "train").model, load_model(home / "cross-attention" / "sft")
    # What is not of retrieval is bit for bit what it was.
    trained = dict(tuned.named_parameters())
    assert all(torch.equal(one, trained[name]) for name, one in frozen.named_parameters() if name in trained)
    assert sum(one.numel() for one in trained.values()) == rival.trained + rival.frozen
    before = (home / "ablation.json").read_bytes()
    run_ablation(RECIPE, run)
    assert (home / "ablation.json").read_bytes() == before


def test_cross_attention_needs_no_corpus_where_the_model_brings_its_tokenizer(scored: Reading, tmp_path: Path) -> None:
    base = frozen_model(scored)
    settings = scored.with_settings(prefix={"documents": 2}).settings
    config = scored.config.model_copy(update={"run_dir": tmp_path / "rival"})
    (tmp_path / "rival").mkdir()
    rival = Rival(
        config=config, settings=settings, base=base, train=scored.home / "retrieve" / "train.jsonl", valid=None,
        questions=scored.home / "answer" / "questions.jsonl", task=scored.home / "evaluate" / "task.yaml", target=9000,
    )  # fmt: skip
    found = run_rival(rival)
    assert abs(found.fit.added - 9000) < 8000
    assert found.means["f1"]["count"] == 8
    assert (tmp_path / "rival" / "1_corpus" / "manifest.json").exists()


def frozen_model(reading: Reading) -> Path:
    """The frozen model, with a tokenizer beside it."""
    found = checkpoint.find(pretrained(reading.config))
    assert checkpoint.read_info(found).tokenizer is not None
    return found


def load_model(directory: Path) -> torch.nn.Module:
    found, _ = checkpoint.load_model(of_stage(directory))
    return found
