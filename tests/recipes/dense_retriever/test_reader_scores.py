"""Scores of a reader: prompts, what is left out, and that a stopped step goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.generate.request import GivenPassages
from retro.generate.scoring import Score, Scored
from retro.recipes.base import Made
from retro.recipes.dense_retriever.pairs import Pair, PairPassage
from retro.recipes.dense_retriever.training.mine_config import ReaderScoresConfig
from retro.recipes.dense_retriever.training.reader_scores import read_scores, score_pairs


class Words:
    """A reader whose tokens are words: each word of the answer that stands before it costs 1, another one 5."""

    sequence_length, prefix = 14, (0,)

    def __init__(self) -> None:
        self.words, self.asked = ["<begin>"], list[Scored]()
        self.fails_after = math.inf

    def encode(self, text: str) -> list[int]:
        for word in text.split():
            if word not in self.words:
                self.words.append(word)
        return [self.words.index(word) for word in text.split()]

    def score(self, asked: Sequence[Scored]) -> list[Score]:
        if len(self.asked) >= self.fails_after:
            raise KeyboardInterrupt
        self.asked += asked
        found = []
        for one in asked:
            read = set(one.prompt)
            if isinstance(one.reading, GivenPassages):
                read |= set(self.encode(one.reading.passages[0].text))
            values = tuple(-1.0 if token in read else -5.0 for token in one.continuation)
            found.append(Score(logprob=sum(values), greedy=False, logprobs=values))
        return found


def passage(name: str, text: str) -> PairPassage:
    return PairPassage(id=f"{name}#0", text=text)


def pair(number: int, *negatives: str, answer: str = "red sea", text: str = "the red sea") -> Pair:
    return Pair(
        id=f"q{number}", question=f"which {number}?", document=f"d{number}", answers=(answer,) if answer else (),
        positive=passage(f"d{number}", text), negatives=tuple(passage(f"n{number}{one}", one) for one in negatives),
    )  # fmt: skip


def scored(out: Path, pairs: Sequence[Pair], reader: Words | None = None, **settings: Any) -> Made:
    config = ReaderScoresConfig(**({"passages": 2, "prompt": "{text} {question}"} | settings))
    return score_pairs(pairs, config, reader or Words(), {"reader": "words"}, out, out / "train.jsonl")


def test_the_score_is_the_log_likelihood_of_the_answer_given_each_passage(tmp_path: Path) -> None:
    made = scored(tmp_path, [pair(1, "a blue sea"), pair(2, "nothing", "more")])
    pairs, scores = read_scores(tmp_path)
    assert scores == [[-2.0, -6.0], [-2.0, -10.0]]
    assert [len(one.negatives) for one in pairs] == [1, 1]
    assert (made.counts["pairs"], made.report["positive_is_best"]) == (2, 1.0)


def test_a_score_may_be_the_mean_over_the_answers_tokens(tmp_path: Path) -> None:
    scored(tmp_path, [pair(1, "a blue sea")], per_token=True)
    assert read_scores(tmp_path)[1] == [[-1.0, -3.0]]


def test_an_encoder_reads_the_passage_in_place_of_the_prompt(tmp_path: Path) -> None:
    reader = Words()
    scored(tmp_path, [pair(1, "a blue sea")], reader, read_by="encoder", prompt="{question}")
    assert read_scores(tmp_path)[1] == [[-2.0, -6.0]]
    assert [len(one.prompt) for one in reader.asked] == [3, 3]


def test_what_cannot_be_scored_is_left_out_and_counted(tmp_path: Path) -> None:
    long = " ".join(f"w{number}" for number in range(40))
    pairs = [pair(1, "a"), pair(2), pair(3, "a", answer=""), pair(4, "a", answer=long), pair(5, long)]
    counts = scored(tmp_path, pairs).counts
    expected = {"pairs": 2, "with_too_few_negatives": 1, "without_answer": 1, "did_not_fit": 1, "cut_passages": 1}
    assert {name: counts[name] for name in expected} == expected


def test_nothing_to_score_is_an_error_that_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train.jsonl: has no pair to score \(\{'with_too_few_negatives': 1\}\)"):
        scored(tmp_path, [pair(1)])


def test_a_stopped_step_scores_only_what_is_missing_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    pairs = [pair(number, f"{number} blue sea") for number in range(6)]
    scored(tmp_path / "whole", pairs, batch_size=4)
    stopped = Words()
    stopped.fails_after = 8
    with pytest.raises(KeyboardInterrupt):
        scored(tmp_path / "stopped", pairs, stopped, batch_size=4)
    rest = Words()
    scored(tmp_path / "stopped", pairs, rest, batch_size=4)
    assert len(rest.asked) == 4
    assert (tmp_path / "stopped/scores.jsonl").read_bytes() == (tmp_path / "whole/scores.jsonl").read_bytes()


def test_a_line_with_fewer_scores_than_passages_is_refused(tmp_path: Path) -> None:
    scored(tmp_path, [pair(1, "a blue sea")])
    path = tmp_path / "scores.jsonl"
    path.write_text(path.read_text().replace("[-2.0, -6.0]", "[-2.0]"))
    with pytest.raises(DataError, match=r"has \[-2.0\] as scores of 2 passages"):
        read_scores(tmp_path)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"passages": 1}, r"passages = 1: needs at least 2"),
        ({"prompt": "{question}"}, r"prompt = '\{question\}': needs \{text\} and \{question\}"),
        ({"prompt": "{text} {question} {score}"}, r"needs no fields but \{title\}, \{text\} and \{question\}"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        ReaderScoresConfig(**settings)
