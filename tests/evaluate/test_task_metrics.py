"""Metrics of single tasks, worked by hand."""

from __future__ import annotations

import math
from importlib.metadata import version

import pytest

from retro.common.errors import ArtifactError, ConfigError
from retro.qa.answer_files import Answer, QuestionLine
from retro.qa.metrics.bleu import bleu_1
from retro.qa.metrics.drop import drop_em, drop_f1, normalize
from retro.qa.metrics.normalize import Rules
from retro.qa.metrics.registry import METRICS, metric_facts
from retro.qa.metrics.rouge import (
    _ngram_scorer,
    _scorer,
    _stemming_scorer,
    own_rouge_l,
    own_rouge_lsum,
    own_rouge_n,
    rouge_l,
    rouge_lsum,
    rouge_n,
)
from retro.qa.metrics.scoring import score, task_of
from retro.qa.metrics.words import (
    accuracy,
    answered,
    chosen_option,
    distinct,
    ends_in_loop,
    exact_match,
    f1,
    match_norm,
    match_raw,
    popqa_match,
    quac_f1,
    repeated,
    string_em,
    substring_match,
    verdict,
    word_recall,
)
from retro.qa.task import all_tasks, load_task


def test_every_metric_that_a_task_may_name_is_there() -> None:
    assert "exact_match" in METRICS.built_in
    assert all(METRICS.find(name, "metrics").label for name in METRICS.built_in)


@pytest.mark.parametrize(
    ("said", "right"),
    [("unanswerable", 1.0), ("No answer.", 1.0), ("", 1.0), ("Ada", 0.0), ("unanswerable question", 0.0)],
)
def test_a_question_without_an_answer_is_right_or_wrong_as_a_whole(said: str, right: float) -> None:
    rules = Rules.of(load_task("squad2.0"))
    assert exact_match(said, ["unanswerable"], rules) == f1(said, ["unanswerable"], rules) == right
    assert f1(said, ["Ada"], rules) == (1.0 if said == "Ada" else 0.0)


def test_yes_shares_no_words() -> None:
    rules = Rules.of(load_task("hotpotqa"))
    assert f1("yes he did", ["yes"], rules) == 0.0
    assert f1("Yes.", ["yes"], rules) == 1.0
    assert f1("yes he did", ["yes"]) == 0.5


def test_normalisation_is_the_tasks() -> None:
    nq, trivia = Rules.of(load_task("nq")), Rules.of(load_task("tqa"))
    assert exact_match("cafe\u0301", ["Café"], nq) == 1.0
    assert exact_match("cafe\u0301", ["Café"]) == 0.0
    assert exact_match("the Jean-Paul", ["jean paul"], trivia) == 1.0
    assert exact_match("Jean-Paul", ["jean paul"]) == 0.0
    assert exact_match("Ada", ["ada"], Rules("none")) == 0.0


def test_word_recall_forgives_talk() -> None:
    assert word_recall("It was Ada Lovelace, I think", ["Ada Lovelace"]) == 1.0
    assert word_recall("It was Ada", ["Ada King Lovelace", "Grace"]) == pytest.approx(1 / 3)
    assert word_recall("", ["Ada"]) == 0.0
    assert word_recall("", ["unanswerable"], Rules.of(load_task("squad2.0"))) == 1.0


@pytest.mark.parametrize(
    ("said", "golds", "found"),
    [
        ("She was born in ROME, Italy.", ["Paris", "Rome"], 1.0),
        ("He likes Romeo", ["Rome"], 0.0),
        ("in 1947", ["4"], 0.0),
        ("the answer is: The Who!", ["who"], 1.0),
        ("U.S. army", ["the US"], 1.0),
        ("New Hampshire, York", ["New York"], 0.0),
        ("", ["Rome"], 0.0),
        ("it is ()", ["()"], 1.0),
    ],
)
def test_a_substring_is_made_of_whole_normalized_words(said: str, golds: list[str], found: float) -> None:
    assert substring_match(said, golds) == found


def test_without_an_answer_a_substring_match_is_to_say_so() -> None:
    rules = Rules.of(load_task("squad2.0"))
    assert substring_match("No answer.", ["unanswerable"], rules) == 1.0
    assert substring_match("there is no answer to it", ["unanswerable"], rules) == 0.0
    assert substring_match("", ["unanswerable"], rules) == 1.0
    # `the` has no words of its own, and does not count beside `cat`.
    assert substring_match("", ["the", "cat"], rules) == 0.0
    assert (exact_match("", ["the", "cat"], rules), f1("", ["the", "cat"], rules)) == (0.0, 0.0)


def test_the_rule_of_popqa_takes_part_of_a_word_but_not_other_case() -> None:
    assert popqa_match("born in Rome.", ["Paris", "Rome"]) == 1.0
    assert popqa_match("in rome", ["Rome"]) == 1.0
    assert popqa_match("Romeo", ["Rome"]) == 1.0
    assert popqa_match("ROME", ["Rome"]) == 0.0


@pytest.mark.parametrize(
    ("said", "golds", "raw", "norm"),
    [
        ("born in Rome, Italy", ["Paris", "Rome"], 1.0, 1.0),
        ("It is True.", ["true"], 0.0, 1.0),
        # Part of a word counts, in both.
        ("Romeo", ["Rome"], 1.0, 1.0),
        ("in 1947", ["4"], 1.0, 1.0),
        ("the U.S. army", ["the US"], 0.0, 1.0),
        ("the U.S. army", ["U.S."], 1.0, 1.0),
        # Two spaces, or another way to write an accent, are other characters.
        ("New  York", ["New York"], 0.0, 1.0),
        ("cafe\u0301", ["caf\u00e9"], 0.0, 0.0),
        ("caf\u00e9s", ["caf\u00e9"], 1.0, 1.0),
        ("東京タワー", ["東京"], 1.0, 1.0),
        # An empty gold answer is not in every text.
        ("Rome", [""], 0.0, 0.0),
        ("", [""], 1.0, 1.0),
        ("", ["Rome"], 0.0, 0.0),
        # It is compared as written where nothing of it would be left.
        ("it is ()", ["()"], 1.0, 1.0),
        ("it is", ["()"], 0.0, 0.0),
    ],
)
def test_a_match_is_a_substring_as_written_or_normalized(said: str, golds: list[str], raw: float, norm: float) -> None:
    assert (match_raw(said, golds), match_norm(said, golds)) == (raw, norm)


def test_a_normalized_match_is_normalized_as_the_task_says() -> None:
    nq, none = Rules.of(load_task("nq")), Rules.of(load_task("squad2.0"))
    assert match_norm("cafe\u0301", ["caf\u00e9"], nq) == 1.0
    assert match_norm("No answer.", ["unanswerable"], none) == match_norm("", ["unanswerable"], none) == 1.0
    assert match_norm("Rome", ["unanswerable"], none) == 0.0
    with pytest.raises(ValueError, match="without gold answers"):
        match_raw("Rome", [])


def test_what_is_answered_needs_no_gold_answer() -> None:
    none = Rules.of(load_task("squad2.0"))
    assert [answered(text) for text in ("Ada was.", "", " ", "the")] == [1.0, 0.0, 0.0, 1.0]
    assert [answered(text, none) for text in ("No answer.", "Ada")] == [0.0, 1.0]
    open_ended = QuestionLine(id="q1", question="?", answers=(), document_ids=())
    silent = Answer(id="q1", question="?", answers=(), prediction="", passages=(), setting="s")
    assert score(load_task("factscore"), [open_ended], [silent]) == {"answered": [0.0]}


def test_rouge_lsum_worked_by_hand() -> None:
    # Gold: [the dog run] [polic arriv]; said: [polic arriv] [run dog]. Shared in order: "dog" or "run", and two more;
    # three of five and of four words.
    for found in (rouge_lsum, own_rouge_lsum):
        assert found("Police arrived. Running dogs!", ["The dog runs. Police arrive."]) == pytest.approx(2 * 3 / 9)
        assert found("Running dogs. Police arrived.", ["run dog\npolice arriving"]) == 1.0
        assert found("", ["x"]) == 0.0


def test_a_tasks_answers_are_scored_by_substring_match_too() -> None:
    asked_for_text = {"accuracy", "string_em", "rouge_lsum", "answered"}
    for task in all_tasks():
        assert "substring_match" in task.metrics or asked_for_text & set(task.metrics), task.name


def test_rouge_l_worked_by_hand() -> None:
    # Longest common subsequence "police killed gunman", of four and four words.
    for found in (rouge_l, own_rouge_l):
        assert found("police killed gunman quickly", ["police have killed gunman"]) == pytest.approx(3 / 4)
        assert found("gunman police", ["police gunman"]) == pytest.approx(1 / 2)
        assert found("", ["x"]) == 0.0


def test_rouge_1_and_2_worked_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Three of four words; of three pairs one, "killed gunman", is in both.
    said, gold = "police killed gunman quickly", "police have killed gunman"
    for found in (rouge_n, own_rouge_n):
        assert found(said, ["nothing", gold], 1) == pytest.approx(3 / 4)
        assert found(said, [gold], 2) == pytest.approx(1 / 3)
        # Twice said counts once: precision 1/2, recall 1.
        assert found("gunman gunman", ["gunman"], 1) == pytest.approx(2 / 3)
        assert found("gunman", ["gunman"], 2) == 0.0
    monkeypatch.setattr("retro.qa.metrics.rouge.package_folder", lambda name: None)
    _ngram_scorer.cache_clear()
    assert rouge_n(said, [gold], 2) == pytest.approx(1 / 3)
    _ngram_scorer.cache_clear()


def test_bleu_1_worked_by_hand() -> None:
    # Two of three words; as long as the gold answer.
    assert bleu_1("red fox runs", ["red fox sleeps"]) == pytest.approx(2 / 3)
    # Clipped: one fox of three; longer, so without a penalty.
    assert bleu_1("fox fox fox", ["red fox"]) == pytest.approx(1 / 3)
    # Both words, but two where there are four: exp(1 - 4/2).
    assert bleu_1("red fox", ["red fox runs home"]) == pytest.approx(math.exp(-1))
    # Two gold answers are references of one score: each has one of the words, and the nearer length is 2.
    assert bleu_1("red home", ["red fox", "they went back home"]) == pytest.approx(1.0)
    assert bleu_1("blue", ["red"]) == bleu_1("", ["red"]) == 0.0
    assert bleu_1("The fox!", ["a Fox"]) == 1.0


def test_bleu_1_of_answers_that_say_that_there_is_none() -> None:
    rules = Rules.of(load_task("squad2.0"))
    assert bleu_1("unanswerable", ["unanswerable"], rules) == 1.0
    assert bleu_1("Ada", ["unanswerable"], rules) == bleu_1("", ["Ada"], rules) == 0.0


def test_a_task_may_name_bleu_and_rouge() -> None:
    task = load_task("longform").model_copy(update={"metrics": ("bleu_1", "rouge_1", "rouge_2", "rouge_l")})
    golds = ("red fox sleeps",)
    asked = QuestionLine(id="1", question="?", answers=golds, document_ids=())
    answer = Answer(id="1", question="?", answers=golds, prediction="red fox runs", passages=(), setting="")
    found = score(task, [asked], [answer])
    assert [one for [one] in found.values()] == pytest.approx([2 / 3, 2 / 3, 1 / 2, 2 / 3])
    assert metric_facts("bleu_1")["computed_by"] == f"nltk {version('nltk')}"


def test_rouge_is_the_packages_where_it_is_installed_and_ours_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert metric_facts("rouge_l")["computed_by"] == f"rouge-score {version('rouge-score')}"
    monkeypatch.setattr("retro.qa.metrics.rouge.package_folder", lambda name: None)
    monkeypatch.setattr("retro.qa.metrics.registry.package_folder", lambda name: None)
    for scorer in (_scorer, _stemming_scorer):
        scorer.cache_clear()
    assert rouge_l("gunman police", ["police gunman"]) == pytest.approx(1 / 2)
    assert _scorer() is _stemming_scorer() is None
    for scorer in (_scorer, _stemming_scorer):
        scorer.cache_clear()
    assert metric_facts("rouge_l")["computed_by"].startswith("instruct-retro")


def test_string_em_is_the_share_of_meanings_answered() -> None:
    said = "The first was in 1990, and Ada won the second."
    assert string_em(said, [["1990", "nineteen ninety"], ["Bob"], ["ada", "Countess"]]) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="needs a group of short answers"):
        string_em(said, [])


def test_quac_leaves_each_answer_out_once() -> None:
    rules = Rules.of(load_task("quac"))
    # Without "red": best is 0 with "blue big"; without "blue big": 1 with "red". The mean of the two.
    assert quac_f1("red", ["red", "blue big"], rules) == pytest.approx(0.5)
    assert quac_f1("red", ["red"], rules) == 1.0
    assert quac_f1("red", ["red", "red", "CANNOTANSWER"], rules) == 1.0
    assert quac_f1("red", ["red", "CANNOTANSWER"], rules) == 0.0
    assert quac_f1("CANNOTANSWER", ["red", "CANNOTANSWER"], rules) == 1.0


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("The 1,000 men", "1000.0 men"),
        ("3.50", "3.5"),
        ("well-known", "well known"),
        ("$5", "5.0"),
        ("an apple's", "apples"),
    ],
)
def test_drop_compares_numbers_as_numbers(text: str, plain: str) -> None:
    assert normalize(text) == plain


@pytest.mark.parametrize(
    ("said", "golds", "em", "overlap"),
    [
        ("3", [["3"]], 1, 1),
        ("3.0", [["3"]], 1, 1),
        ("4 yards", [["3 yards"]], 0, 0),
        # "yards" is shared: precision and recall 1/2 if no number had to agree, and 2/3 with one word less.
        ("3", [["3 yards"]], 0, 0.67),
        ("three", [["4"], ["three"]], 1, 1),
        # One span unless it is given as several: its two names are in no span alone.
        ("Bob and Ada", [["Ada", "Bob"]], 0, 0.25),
        ('["Bob", "Ada"]', [["Ada", "Bob"]], 1, 1),
        ('["Bob", 3]', [["bob 3"]], 1, 1),
        ("Ada", [["Ada", "Bob"]], 0, 0.5),
        ("Ada, Bob, Eve", [["Ada", "Bob"]], 0, 0.25),
        ("Ada and Bob", [["Ada and Bob"]], 1, 1),
        ("", [["Ada", "Bob"]], 0, 0),
        ("the", [["an"]], 1, 1),
    ],
)
def test_drop_worked_by_hand(said: str, golds: list[list[str]], em: float, overlap: float) -> None:
    assert (drop_em(said, golds), drop_f1(said, golds)) == (em, overlap)


OPTIONS = ("red", "blue", "dark blue", "a")


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("red", 0),
        ("Blue.", 1),
        ("(B)", 1),
        ("B", 1),
        ("b) something", 1),
        ("The answer is (C) dark blue", 2),
        ("Answer: D.", 3),
        ("I would say red", 0),
        ("dark blue it is", None),
        ("a red one", 0),
        ("E", None),
        ("green", None),
        ("", None),
    ],
)
def test_an_answer_chooses_one_option_or_none(said: str, number: int | None) -> None:
    assert chosen_option(said, OPTIONS) == number


def test_letters_go_on_after_z() -> None:
    assert chosen_option("AB", [str(n) for n in range(100, 130)]) == 27


def test_accuracy_compares_what_is_chosen() -> None:
    assert accuracy("(A)", ["red"], OPTIONS) == 1.0
    assert accuracy("red", ["A"], OPTIONS) == 1.0
    assert accuracy("blue", ["red"], OPTIONS) == 0.0
    assert accuracy("green", ["red"], OPTIONS) == 0.0
    with pytest.raises(ValueError, match=r"gold answer \['pink'\] is not one of \['red'"):
        accuracy("red", ["pink"], OPTIONS)


def test_yes_and_true_are_one() -> None:
    assert [verdict(text) for text in ("Yes, it is", "It is false", "maybe", "True.")] == [True, False, None, True]
    assert accuracy("yes", ["True"], ()) == accuracy("The answer is no", ["False"], ()) == 1.0
    assert accuracy("maybe", ["False"], ()) == 0.0
    with pytest.raises(ValueError, match=r"gold answer \['Ada'\] is not yes or no"):
        accuracy("yes", ["Ada"], ())


def test_variety_is_counted_over_all_answers() -> None:
    # a b, b a, a b: two different of three.
    assert distinct(["a b a", "A b"], 2) == pytest.approx(2 / 3)
    assert distinct(["a"], 2) is None
    assert repeated("x a b c d a b c d") == pytest.approx(1 / 6)
    assert repeated("a b") == 0.0


@pytest.mark.parametrize(
    ("text", "loop"),
    [
        ("so it is it is it is", True),
        ("it is it is", False),
        ("no no no", False),
        ("no no no no no no", True),
        ("a b c a b c a b c", True),
        ("it is it is it is over", False),
        ("", False),
    ],
)
def test_a_loop_is_a_phrase_said_three_times_at_the_end(text: str, loop: bool) -> None:
    assert ends_in_loop(text) is loop


def asked(**more: object) -> QuestionLine:
    return QuestionLine(**({"id": "q1", "question": "?", "answers": ("pink",), "document_ids": ()} | more))  # type: ignore[arg-type]


def said(text: str) -> Answer:
    return Answer(id="q1", question="?", answers=("pink",), prediction=text, passages=(), setting="s")


def test_a_task_scores_with_what_its_questions_carry() -> None:
    one = asked(answers=("red",), options=("red", "blue"))
    assert score(load_task("race"), [one], [said("(A)")]) == {"accuracy": [1.0]}
    spans = asked(answers=("Ada, Bob",), answer_groups=(("Ada", "Bob"),))
    parted = load_task("quoref").model_copy(update={"metrics": ("drop_split_f1", "drop_split_em")})
    bob = [said("Bob and Ada")]
    assert score(parted, [spans], bob) == {"drop_split_f1": [1.0], "drop_split_em": [1.0]}
    assert score(load_task("quoref"), [spans], bob) == {"drop_f1": [0.25], "drop_em": [0.0], "substring_match": [0.0]}
    right = {"drop_f1": [1.0], "drop_em": [1.0], "substring_match": [1.0]}
    assert score(load_task("drop"), [asked()], [said("pink")]) == right


def test_a_question_that_does_not_fit_its_task_is_named() -> None:
    with pytest.raises(ConfigError, match="metrics = 'accuracy': does not fit question 'q1': the gold answer"):
        score(load_task("race"), [asked(options=("red",))], [said("x")])
    with pytest.raises(ConfigError, match="metrics = 'string_em': does not fit question 'q1': string exact"):
        score(load_task("asqa"), [asked()], [said("x")])


def test_settings_must_have_been_asked_as_one_task() -> None:
    one, other = ({"task_record": load_task(name).record()} for name in ("nq", "tqa"))
    assert task_of({"a": one, "b": one}, "x").record() == load_task("nq").record()
    with pytest.raises(ArtifactError, match=r"different tasks \(name, normalisation\)"):
        task_of({"a": one, "b": other}, "x")
    assert task_of({"a": {"metrics": ["f1"]}}, "x").metrics == ("f1",)
