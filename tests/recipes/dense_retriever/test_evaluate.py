"""Sets of questions, retrievers over them, and the files that come of it, in a world of a few passages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.common.response_cache import ResponseCache
from retro.recipes.base import RECIPES, StepRun
from retro.recipes.dense_retriever.config import DenseRetrieverConfig
from retro.recipes.dense_retriever.evaluation.config import BeirConfig, EmbedConfig, EvaluationConfig
from retro.recipes.dense_retriever.evaluation.curves import curves_of, draw
from retro.recipes.dense_retriever.evaluation.evaluate import judged_by, measure, summary, write_all
from retro.recipes.dense_retriever.evaluation.judgement import Asked
from retro.recipes.dense_retriever.evaluation.retrievers import Retrievers, embed_all, passages_config
from retro.recipes.dense_retriever.evaluation.sets import (
    EvaluationSet,
    among_passages,
    among_positives,
    grouped,
    of_beir,
    with_answers,
)
from retro.recipes.dense_retriever.evaluation.steps import EVALUATE
from retro.recipes.dense_retriever.pairs import Pair, PairPassage
from retro.recipes.knowledge_conflict.metrics import Intervals
from retro.recipes.passages.passages import Passages
from retro.run.config import RunConfig
from tests.recipes.dense_retriever import beir_folder
from tests.recipes.passages.world import HASHING, files_of

FEW = Intervals(samples=20)


def pair(number: str, question: str, document: str, text: str, *answers: str, title: str = "") -> Pair:
    positive = PairPassage(id=f"p{number}", text=text, title=title)
    return Pair(id=number, question=question, document=document, positive=positive, answers=answers)


def segments(path: Path, *lines: tuple[str, str, str]) -> Path:
    written = [json.dumps({"id": name, "title": title, "text": text}) for name, title, text in lines]
    path.write_text("\n".join(written) + "\n", encoding="utf-8")
    return path


def of_id(name: str) -> str:
    return name.rpartition("#")[0]


def test_pairs_of_one_question_are_asked_once() -> None:
    pairs = [pair("1", "q", "d1", "one"), pair("2", "r", "d1", "two"), pair("3", "q", "d2", "three")]
    assert [[one.id for one in some] for some in grouped(pairs)] == [["1", "3"], ["2"]]


def test_the_positives_are_passages_and_equal_ones_are_one(tmp_path: Path) -> None:
    pairs = [
        pair("1", "q", "d1", "one", "Rome"),
        pair("2", "r", "d2", "two"),
        pair("3", "q", "d2", "two", "Rome", "Paris"),
        pair("4", "s", "d1", "one"),
    ]
    found = among_positives(pairs, tmp_path / "positives.jsonl")
    lines = [json.loads(line) for line in found.passages.read_text().splitlines()]
    assert [(one["id"], one["text"]) for one in lines] == [("0", "one"), ("1", "two")]
    first = Asked(
        id="1", question="q", relevant={"0": 1, "1": 1}, documents=frozenset({"d1", "d2"}), answers=("Rome", "Paris")
    )
    assert found.asked[0] == first
    assert [one.relevant for one in found.asked[1:]] == [{"1": 1}, {"0": 1}]
    assert found.document_of("1") == "d2"


def test_segments_that_share_half_of_the_positive_are_right(tmp_path: Path) -> None:
    path = segments(
        tmp_path / "passages.jsonl",
        ("d1#0", "", "x y z a b c d"),  # two of four trigrams of a b c d e f
        ("d1#1", "", "c d e f g h"),  # two of four
        ("d1#2", "", "f g h i j k"),  # none
        ("d9#0", "", "a b c d e f"),  # another document
        ("77#0", "d2", "k l m n"),  # of d2 by its title
    )
    pairs = [pair("1", "q", "d1", "a b c d e f"), pair("2", "r", "d2", "K l m"), pair("3", "s", "d3", "no segment")]
    found = among_passages(pairs, path, of_id, 0.5)
    assert [one.relevant for one in found.asked] == [{"d1#0": 1, "d1#1": 1}, {"77#0": 1}, {}]
    assert [found.document_of(name) for name in ("d1#2", "77#0", "d9#0")] == ["d1", "d2", ""]
    assert found.counts == {"documents": 3, "documents_without_segment": 1}
    assert [one.without_relevant for one in found.asked] == [False, False, True]
    assert among_passages(pairs, path, of_id, 0.6).asked[0].relevant == {}


def test_pairs_of_documents_that_are_named_otherwise_are_refused(tmp_path: Path) -> None:
    path = segments(tmp_path / "passages.jsonl", ("x1#0", "T", "a b c"))
    with pytest.raises(DataError, match=r"has no segment of the 1 documents .*, as 'd1'. Its first is 'x1#0'"):
        among_passages([pair("1", "q", "d1", "a b c")], path, of_id, 0.5)


def test_questions_without_any_answer_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"question": "Who?", "answers": []}\n')
    with pytest.raises(DataError, match="has no question with an answer string"):
        with_answers(path, tmp_path)


def world(folder: Path) -> tuple[list[Pair], Path]:
    """Twelve documents of two segments, with a word of their own each, and a question for each of the first six."""
    lines, pairs = [], []
    for number in range(12):
        text = f"In town{number} the mayor is person{number} and the river is long"
        lines += [(f"d{number}#0", "", text), (f"d{number}#1", "", f"Others write on town{number}")]
        if number < 6:
            pairs.append(pair(f"q{number}", f"Who is mayor of town{number}?", f"d{number}", text, f"person{number}"))
    return pairs, segments(folder / "passages.jsonl", *lines)


def settings(**more: Any) -> EvaluationConfig:
    retrievers = [
        {"name": "words", "kind": "bm25"},
        {"name": "hashed", "kind": "embedder", "embedder": HASHING},
        {"name": "both", "kind": "hybrid", "of": ["words", "hashed"]},
    ]
    return EvaluationConfig(**({"retrievers": retrievers, "at": [1, 2], "questions_per_block": 4} | more))


def retrievers(folder: Path, one: EvaluationSet, config: EvaluationConfig) -> Retrievers:
    embed = EmbedConfig(passages_per_block=5, passages_per_shard=10)
    passages = Passages.open(one.passages, folder / "stores" / "table")
    return Retrievers(passages=passages, stores=folder / "stores", embed=embed, settings=config, tuned=None)


def measured(folder: Path, one: EvaluationSet, config: EvaluationConfig) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return measure(one, retrievers(folder, one, config), folder, FEW)


def test_every_retriever_is_measured_on_the_same_questions(tmp_path: Path) -> None:
    pairs, path = world(tmp_path)
    scores, lines = measured(tmp_path, among_passages(pairs, path, of_id, 0.5), settings())
    assert (scores["questions"], scores["passages"]) == (6, 24)
    assert (scores["without_relevant"], scores["without_answers"]) == (0, 0)
    metrics = {name: one["metrics"] for name, one in scores["retrievers"].items()}
    # The first segment has `mayor` and the town, the second one the town alone.
    assert {metrics["words"][f"{unit}_top1"]["mean"] for unit in ("segment", "document", "answer")} == {1.0}
    assert metrics["words"]["ndcg10"]["mean"] == metrics["words"]["recall2"]["mean"] == 1.0
    # tf-idf of words prefers the shorter one of the same document; nDCG of a second place is 1 / log2(3).
    assert [metrics["hashed"][name]["mean"] for name in ("document_top1", "segment_top1", "segment_top2")] == [1, 0, 1]
    assert metrics["hashed"]["ndcg10"]["mean"] == pytest.approx(0.63093, abs=1e-5)
    assert scores["retrievers"]["words"]["differences"] is None
    assert scores["retrievers"]["both"]["differences"]["document_top1"]["mean"] == 0.0
    assert len(lines) == 6
    assert lines[2]["best"]["words"]["text"].startswith("In town2")
    # Lists that are joined are longer than the greatest of `at`.
    for name in ("words", "both"):
        rankings = (tmp_path / f"rankings/passages.{name}.jsonl").read_text().splitlines()
        assert all(len(json.loads(line)["ids"]) > 2 for line in rankings)


def test_questions_that_share_no_word_are_counted(tmp_path: Path) -> None:
    pairs, path = world(tmp_path)
    odd = [*pairs, pair("q9", "Wherefore?", "d9", "In town9 the mayor is person9 and the river is long")]
    scores, _ = measured(tmp_path, among_passages(odd, path, of_id, 0.5), settings())
    assert scores["retrievers"]["words"]["found_nothing"] == 1
    top1 = scores["retrievers"]["words"]["metrics"]["segment_top1"]
    assert (top1["mean"], top1["count"]) == (0.857143, 7)
    assert scores["without_answers"] == 1


def test_embeddings_come_in_as_many_shards_as_they_need_and_are_made_once(tmp_path: Path) -> None:
    _, path = world(tmp_path)
    embed = EmbedConfig(passages_per_block=5, passages_per_shard=10)
    config = passages_config(path, settings().retrievers[1].embedder or pytest.fail(), embed, title=True)
    made = embed_all(config, tmp_path / "out", 10)
    assert (made.files, made.passages, made.dimension) == (["passages_00", "passages_01", "passages_02"], 24, 1024)
    times = {one: one.stat().st_mtime_ns for one in (tmp_path / "out").glob("passages_*")}
    embed_all(config, tmp_path / "out", 10)
    assert {one: one.stat().st_mtime_ns for one in (tmp_path / "out").glob("passages_*")} == times


def written(folder: Path, *sets: EvaluationSet, curves: Any = None) -> list[str]:
    config = settings()
    found = [(one.name, *measured(folder, one, config)) for one in sets]
    assert set(summary(found, config)) == {one.name for one in sets}
    return write_all(folder, found, config, FEW, curves or {})


def test_scores_page_and_curves_are_written(tmp_path: Path) -> None:
    pairs, path = world(tmp_path)
    positives = among_positives(pairs, tmp_path / "positives.jsonl")
    curves = curves_of([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "eval_top5": 0.5}])
    names = written(tmp_path, among_passages(pairs, path, of_id, 0.5), positives, curves=curves)
    assert names == ["embedders.json", "questions.jsonl", "embedders.html", "curves.json", "curves.svg", "curves.png"]
    scores = json.loads((tmp_path / "embedders.json").read_text())
    assert list(scores["sets"]) == ["passages", "positives"]
    assert scores["sets"]["positives"]["passages"] == 6
    html = (tmp_path / "embedders.html").read_text()
    assert "Positives of the held-out pairs alone, as the original measured: by document, in %" in html
    assert "Training: held-out top5" in html
    assert json.loads((tmp_path / "curves.json").read_text()) == {"loss": [[1, 2.0], [2, 1.0]], "eval_top5": [[2, 0.5]]}


def test_a_beir_folder_is_searched_in_its_own_corpus(tmp_path: Path) -> None:
    folder = beir_folder.write(tmp_path / "cities", test=[*beir_folder.QRELS, ("q2", "d9", 1)])
    one = of_beir(BeirConfig(path=folder), tmp_path / "stores" / "cities")
    assert one.counts == {"judgements": 5, "empty": 0, "relevant_not_in_corpus": 1}
    scores, _ = measured(tmp_path, one, settings())
    metrics = scores["retrievers"]["words"]["metrics"]
    assert metrics["ndcg10"]["count"] == 2
    # Nothing is known of documents or answers.
    assert {name.partition("_")[0] for name in metrics} == {"segment", "ndcg10", "recall2"}


def test_a_document_with_the_question_s_id_is_left_out(tmp_path: Path) -> None:
    corpus = [{"_id": "a", "text": "lies on the Seine"}, {"_id": "b", "text": "a city on the Seine"}]
    folder = beir_folder.write(
        tmp_path / "set", corpus, [{"_id": "a", "text": "lies on the Seine"}], test=[("a", "b", 1)]
    )
    for exclude, top in ((True, 1.0), (False, 0.0)):
        one = of_beir(BeirConfig(path=folder, exclude_own_id=exclude), tmp_path / "stores" / "set")
        scores, _ = measured(tmp_path / str(exclude), one, settings())
        assert scores["retrievers"]["words"]["metrics"]["segment_top1"]["mean"] == top


def test_the_same_questions_are_judged_alike_only_by_the_same_marks() -> None:
    one = Asked(id="q", question="?", relevant={"a": 1}, documents=frozenset({"x", "y"}), answers=("z",))
    same = Asked(id="q", question="?", relevant={"a": 1}, documents=frozenset({"y", "x"}), answers=("z",))
    assert judged_by(one) == judged_by(same)
    assert judged_by(one) != judged_by(Asked(id="q", question="?", relevant={"a": 2}))


def test_curves_leave_out_what_is_not_a_number() -> None:
    rows = [{"step": 5, "epoch": 1, "loss": float("nan"), "top5": 0.5, "note": "x", "done": True}]
    assert curves_of(rows) == {"top5": [(5.0, 0.5)]}


def test_curves_are_drawn_alike_each_time(tmp_path: Path) -> None:
    curves = {"loss": [(1.0, 2.0), (2.0, 1.0)], "one point": [(1.0, 0.5)]}
    for kind in ("svg", "png"):
        for name in ("a", "b"):
            draw(curves, tmp_path / f"{name}.{kind}")
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_stopped_anywhere_the_files_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(folder: Path) -> None:
        pairs, path = world(folder)
        written(folder, among_passages(pairs, path, of_id, 0.5), among_positives(pairs, folder / "positives.jsonl"))

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    run(tmp_path / "a")
    stop_after = 2
    calls = []

    class StopError(Exception):
        pass

    original = ResponseCache.add

    def add(self: Any, keys: Sequence[str], responses: Sequence[Any]) -> None:
        calls.append(keys)
        original(self, keys, responses)
        if len(calls) % 3 == stop_after:
            raise StopError

    monkeypatch.setattr(ResponseCache, "add", add)
    for _ in range(20):
        try:
            run(tmp_path / "b")
            break
        except StopError:
            continue
    else:
        pytest.fail("it never ended")
    assert len(calls) > 5
    assert made_in(tmp_path / "a") == made_in(tmp_path / "b")


def made_in(folder: Path) -> dict[str, bytes]:
    return {
        name: content for name, content in files_of(folder).items() if ".begun" not in name and "stores" not in name
    }


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"retrievers": [{"name": "x", "kind": "bm25"}, {"name": "x", "kind": "tuned"}]}, "needs each name once"),
        ({"retrievers": [{"name": "x y", "kind": "bm25"}]}, "needs letters, digits, dots"),
        ({"retrievers": [{"name": "x", "kind": "embedder"}]}, "needs an embedder for kind = embedder"),
        ({"retrievers": [{"name": "x", "kind": "bm25", "embedder": HASHING}]}, "needs an embedder for kind = embedder"),
        ({"retrievers": [{"name": "x", "kind": "embedder", "embedder": {"kind": "bm25"}}]}, "needs a kind that makes"),
        ({"retrievers": [{"name": "x", "kind": "hybrid", "of": ["a"]}]}, "needs the names of two other retrievers"),
        ({"retrievers": [{"name": "x", "kind": "bm25", "of": ["a", "b"]}]}, "needs the names of two other retrievers"),
        ({"retrievers": [{"name": "x", "kind": "hybrid", "of": ["a", "x"]}]}, "needs in `of` of x two that are no"),
        ({"at": [5, 1]}, "needs ascending numbers, each once"),
        ({"against": []}, "needs something to search in"),
        ({"beir": [{"path": "x/passages"}]}, "needs names of their own, beside passages, positives"),
        ({"beir": [{"path": "x", "name": "a b"}]}, "needs letters, digits, dots"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        EvaluationConfig(**settings)


def names(found: Iterable[Any]) -> list[str]:
    return [one.name for one in found]


def test_the_default_retrievers_are_the_tuned_one_minilm_bm25_and_both() -> None:
    config = EvaluationConfig()
    assert names(config.retrievers) == ["tuned", "minilm", "bm25", "hybrid"]
    assert (config.depth, config.tuned, config.searches_segments) == (100, True, True)
    assert (EvaluationConfig(at=(1, 5)).depth, EvaluationConfig(at=(1, 500)).depth) == (100, 500)
    assert not EvaluationConfig(against=("positives",)).searches_segments


def test_a_tuned_model_that_is_not_there_is_a_mistake_of_whoever_calls(tmp_path: Path) -> None:
    pairs, path = world(tmp_path)
    config = EvaluationConfig(retrievers=[{"name": "tuned", "kind": "tuned"}])
    with pytest.raises(ValueError, match="the tuned model is not there"):
        measured(tmp_path, among_passages(pairs, path, of_id, 0.5), config)


def test_another_model_in_the_same_folder_is_another_fact(tmp_path: Path) -> None:
    embedder = {"kind": "sentence_transformers", "model": str(tmp_path / "model")}
    evaluate = {"retrievers": [{"name": "x", "kind": "embedder", "embedder": embedder}]}
    recipe = RECIPES.find("dense_retriever", "recipe")
    settings = DenseRetrieverConfig(evaluate=evaluate)
    work = StepRun(recipe=recipe, step=EVALUATE, config=RunConfig(run_dir=tmp_path), settings=settings)
    (tmp_path / "model").mkdir()
    facts = []
    for weights in (b"one", b"two"):
        (tmp_path / "model" / "model.safetensors").write_bytes(weights)
        facts.append(EVALUATE.facts(work)["models"])
    assert set(facts[0]) == set(facts[1]) == {"x"}
    assert facts[0] != facts[1]
    assert EVALUATE.needed(settings) == ("pairs", "segments")
    assert EVALUATE.needed(DenseRetrieverConfig()) == ("pairs", "segments", "train", "embed")
