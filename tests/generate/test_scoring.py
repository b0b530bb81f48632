from __future__ import annotations

import math

import pytest
import torch

from retro.common.errors import ConfigError
from retro.generate.engine import BatchEngine
from retro.generate.request import GivenPassages, LiveRetrieval
from retro.generate.scoring import Scored
from tests.generate.fake import LETTERS, FakeDecoder, LetterTokenizer, Row, letters, passage, says

LOW = -math.log(math.exp(10) + len(LETTERS) - 1)
HIGH = 10 + LOW


def engine_of(decoder: FakeDecoder, max_running: int = 16) -> BatchEngine:
    return BatchEngine(decoder, LetterTokenizer(), lambda texts: [[passage(text)] for text in texts], max_running)


def scored(prompt: str, continuation: str, **more: object) -> Scored:
    return Scored(prompt=letters(prompt), continuation=letters(continuation), **more)  # type: ignore[arg-type]


def test_a_continuation_has_the_sum_of_its_tokens_log_probabilities() -> None:
    decoder = FakeDecoder(says("paris", 2))
    right, half, single, wrong = engine_of(decoder).score(
        [scored("ab", "paris"), scored("ab", "past"), scored("ab", "p"), scored("ab", "x")]
    )
    assert right.logprobs == pytest.approx([HIGH] * 5, abs=1e-5)
    assert right.logprob == pytest.approx(5 * HIGH, abs=1e-4)
    assert half.logprobs == pytest.approx([HIGH, HIGH, LOW, LOW], abs=1e-5)
    assert [one.greedy for one in (right, half, single, wrong)] == [True, False, True, False]
    assert len(single.logprobs) == 1
    assert wrong.logprob == pytest.approx(LOW, abs=1e-5)
    assert decoder.rows == {}


def test_scores_do_not_depend_on_how_many_are_scored_at_once() -> None:
    asked = [scored("ab", "paris"[:n]) for n in (1, 3, 2, 5, 4)]
    together = engine_of(FakeDecoder(says("paris", 2))).score(asked)
    decoder = FakeDecoder(says("paris", 2))
    assert engine_of(decoder, max_running=2).score(asked) == together
    assert max(decoder.calls) == 2


def test_nothing_to_score_is_nothing() -> None:
    assert engine_of(FakeDecoder(says("paris", 2))).score([]) == []


def test_passages_are_read_on_the_grid_of_the_prompt() -> None:
    decoder = FakeDecoder(says("paris", 6))
    given = GivenPassages(passages=(passage("one"),))
    (found,) = engine_of(decoder).score([scored("abcdef", "parisxyz", reading=given)])
    assert [one.position for one in found.retrieved] == [1, 5, 9]
    assert sorted(decoder.closed[0].read) == [1, 5, 9]
    (live,) = engine_of(FakeDecoder(says("paris", 6))).score([scored("abcdef", "parisxyz", reading=LiveRetrieval())])
    assert [one.passages[0].text for one in live.retrieved] == ["ab", "cdef", "pari"]


def test_the_last_token_of_a_full_sequence_is_scored() -> None:
    decoder = FakeDecoder(says("xyz", 62), sequence_length=64)
    (found,) = engine_of(decoder).score([scored("a" * 62, "xyz")])
    assert found.greedy


def test_rows_are_closed_when_the_model_fails() -> None:
    def breaks(row: Row) -> torch.Tensor:
        raise KeyError("broken")

    decoder = FakeDecoder(breaks)
    with pytest.raises(KeyError):
        engine_of(decoder).score([scored("ab", "c")])
    assert decoder.rows == {}


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        (Scored(prompt=[], continuation=[1]), r"Scored\.prompt = \[\]: needs at least one token"),
        (Scored(prompt=[1], continuation=[]), r"Scored\.continuation = \[\]: needs at least one token to score"),
        (Scored(prompt=[1], continuation=[1] * 65), r"Scored\.continuation = '65 tokens': needs at most 64"),
        (Scored(prompt=[1], continuation=[1, 30]), r"Scored\.continuation = 30: needs tokens of the vocabulary"),
        (Scored(prompt=[1], continuation=[30, 1]), r"Scored\.continuation = 30: needs tokens of the vocabulary"),
        (
            Scored(prompt=[1], continuation=[1], reading=LiveRetrieval(interval=9)),
            r"LiveRetrieval\.interval = 9: needs 1 to 4",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(asked: Scored, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        engine_of(FakeDecoder(says("a", 2))).score([asked])
