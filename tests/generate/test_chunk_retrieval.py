"""What the encoder is given while an answer grows: where chunks end, what is searched for, and what is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest

from retro.generate.engine import BatchEngine
from retro.generate.request import (
    Action,
    Completion,
    GivenPassages,
    LiveRetrieval,
    Progress,
    Reading,
    Request,
    Sampling,
)
from retro.qa.question import PassageLike
from tests.generate.fake import END, FakeDecoder, LetterTokenizer, Row, letters, passage, says


class Searches:
    """Finds for each text two passages that spell it; remembers the texts of each call."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def __call__(self, texts: list[str]) -> Sequence[Sequence[PassageLike]]:
        self.calls.append(texts)
        return [[] if "q" in text else [passage(text), passage(text[::-1])] for text in texts]


def run(
    prompt: str,
    reading: Reading,
    *,
    says_: str = "xyzuvwxyz",
    hook: dict[int, Action] | None = None,
    max_new_tokens: int = 32,
) -> tuple[Completion, Row, Searches]:
    searches = Searches()
    decoder = FakeDecoder(says(says_, len(prompt)))
    engine = BatchEngine(decoder, LetterTokenizer(), searches)

    def act(progress: Progress) -> Action | None:
        return (hook or {}).get(len(progress.tokens))

    request = Request(
        prompt=letters(prompt), reading=reading, hook=act, sampling=Sampling(max_new_tokens=max_new_tokens)
    )
    (completion,) = engine.generate([request])
    return completion, decoder.closed[-1], searches


def positions(completion: Completion) -> list[int]:
    return [one.position for one in completion.retrieved]


def test_given_passages_are_read_at_every_chunk_counted_from_the_prompts_end() -> None:
    # Chunks of four. Six prompt tokens: the chunks end at 1 and 5, later ones at 9 and 13.
    completion, row, searches = run("abcdef", GivenPassages(passages=(passage("one"), passage("seven"))))
    assert positions(completion) == [1, 5, 9, 13]
    assert {position: row.reads(position) for position in row.read} == {at: ["one", "seven"] for at in (1, 5, 9, 13)}
    assert searches.calls == []


def test_a_passage_is_cut_to_the_neighbors_length_and_its_title_comes_first() -> None:
    long = passage("abcdefghij")
    _, row, _ = run("abcd", GivenPassages(passages=(long,)), max_new_tokens=1)
    assert row.reads(3) == ["abcde"]


@pytest.mark.parametrize("length", range(1, 14))
def test_the_prompts_last_token_ends_a_chunk_whatever_its_length(length: int) -> None:
    completion, _, _ = run("a" * length, GivenPassages(passages=(passage("x"),)), says_="y" * 9)
    places = positions(completion)
    assert length - 1 in places
    assert places[0] < 4
    assert all(later - earlier == 4 for earlier, later in pairwise(places))


def test_each_finished_chunk_searches_with_its_own_text() -> None:
    completion, row, searches = run("abcdef", LiveRetrieval())
    assert searches.calls == [["ab", "cdef"], ["xyzu"], ["vwxy"]]
    assert positions(completion) == [1, 5, 9, 13]
    # A neighbor has room for five tokens.
    assert row.reads(5) == ["cdef", "fedc"]
    assert row.reads(9) == ["xyzu", "uzyx"]
    assert [passage.text for passage in completion.retrieved[2].passages] == ["xyzu", "uzyx"]


def test_a_question_is_searched_once_for_the_whole_prompt() -> None:
    completion, row, searches = run("abcdef", LiveRetrieval(question="who", passages=1), max_new_tokens=5)
    assert searches.calls == [["who"], ["xyzu"]]
    assert {position: row.reads(position) for position in row.read} == {1: ["who"], 5: ["who"], 9: ["xyzu"]}
    assert [[one.text for one in found.passages] for found in completion.retrieved] == [["who"], ["who"], ["xyzu"]]


def test_a_retrieval_step_below_a_chunk_asks_with_the_last_chunk_of_tokens() -> None:
    completion, _, searches = run("abcdef", LiveRetrieval(interval=2), max_new_tokens=5)
    assert positions(completion) == [1, 5, 7, 9]
    assert searches.calls == [["ab", "cdef"], ["efxy"], ["xyzu"]]


def test_what_was_found_goes_out_of_view_when_the_next_search_finds_nothing() -> None:
    # No passage is found for a text with q.
    completion, row, _ = run("abcd", LiveRetrieval(interval=2), says_="xqxx", max_new_tokens=3)
    assert [len(one.passages) for one in completion.retrieved] == [2, 0]
    assert row.read[5].mask_KR.tolist() == [[False] * 5]
    # Nothing in view, nothing found: nothing is given.
    completion, row, _ = run("qqqq", LiveRetrieval(interval=2), says_="xxx", max_new_tokens=3)
    assert [len(one.passages) for one in completion.retrieved] == [0, 0]
    assert row.read == {}


def test_the_searches_of_all_requests_are_one_call() -> None:
    searches = Searches()
    decoder = FakeDecoder(lambda row: "x")
    engine = BatchEngine(decoder, LetterTokenizer(), searches)
    requests = [
        Request(prompt=letters(text), reading=LiveRetrieval(), sampling=Sampling(max_new_tokens=5))
        for text in ("abcd", "bcda", "abcd")
    ]
    engine.generate(requests)
    # Equal texts are one query.
    assert searches.calls == [["abcd", "bcda"], ["xxxx"]]


def test_a_chunk_of_control_tokens_asks_nothing() -> None:
    searches = Searches()
    engine = BatchEngine(FakeDecoder(lambda row: "x"), LetterTokenizer(), searches)
    request = Request(prompt=[END], reading=LiveRetrieval(), sampling=Sampling(max_new_tokens=1))
    (completion,) = engine.generate([request])
    assert (searches.calls, completion.retrieved[0].passages) == ([], ())


def test_without_reading_nothing_is_given_or_recorded() -> None:
    completion, row, searches = run("abcdef", None)
    assert (completion.retrieved, row.read, searches.calls) == ((), {}, [])


def test_a_hook_swaps_what_is_read_from_the_next_token_on() -> None:
    swap = {2: Action(passages=(passage("new"),))}
    completion, row, searches = run("abcd", LiveRetrieval(), hook=swap, max_new_tokens=8)
    # At 3 the prompt's chunk was searched; the second answer token, at 5, is the first to see what the hook brought.
    assert searches.calls == [["abcd"]]
    assert positions(completion) == [3, 5, 9]
    assert (row.reads(5), row.reads(9)) == (["new"], ["new"])


def test_a_hook_that_swaps_to_nothing_takes_away_what_is_in_view() -> None:
    given = GivenPassages(passages=(passage("one"),))
    completion, row, _ = run("abcd", given, hook={2: Action(passages=())}, max_new_tokens=4)
    assert not row.read[5].mask_KR.any()
    assert completion.retrieved[-1].passages == ()


def test_passages_that_a_hook_brings_with_tokens_are_seen_from_the_last_of_these_on() -> None:
    action = Action(append=tuple(letters("mno")), passages=(passage("new"),))
    completion, row, _ = run("abcd", None, hook={1: action}, max_new_tokens=6)
    # Prompt 0 to 3, one answer token, three appended: the last is at 7.
    assert positions(completion) == [7]
    assert row.reads(7) == ["new"]


def test_a_retriever_that_loses_a_text_is_a_mistake() -> None:
    engine = BatchEngine(FakeDecoder(lambda row: "x"), LetterTokenizer(), lambda texts: [])
    with pytest.raises(ValueError, match="answered 0 of 1 texts"):
        engine.generate([Request(prompt=[1], reading=LiveRetrieval())])
