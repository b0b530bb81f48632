"""One rank searches, all read the same: with a fake exchange in one process, and a thread for each rank."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ArtifactError, RetroError
from retro.generate import ranks
from retro.generate.engine import BatchEngine
from retro.generate.request import Completion, LiveRetrieval, Request, Sampling
from retro.qa.passages import Retrieve
from retro.qa.question import Context
from tests.generate.fake import FakeDecoder, LetterTokenizer, Row, letters


class TwoRanks:
    """Stands in for `retro.mcore.parallel` between two threads."""

    def __init__(self) -> None:
        self.mine = threading.local()
        self.meeting = threading.Barrier(2, timeout=20)
        self.told: list[Any] = [None, None]

    def is_main(self) -> bool:
        return bool(self.mine.rank == 0)

    def gather_objects(self, value: Any) -> list[Any]:
        self.told[self.mine.rank] = value
        self.meeting.wait()
        found = list(self.told)
        self.meeting.wait()
        return found


def on_two_ranks(monkeypatch: pytest.MonkeyPatch, retrieve: Retrieve) -> list[Completion | RetroError]:
    """The same requests on both; the second has no search of its own."""
    group, results = TwoRanks(), dict[int, Completion | RetroError]()
    monkeypatch.setattr(ranks, "parallel", group)

    def reads(row: Row) -> str:
        # What comes next depends on what was read.
        return row.reads(max(row.read))[0][0] if row.read else "x"

    def work(rank: int) -> None:
        group.mine.rank = rank
        search = ranks.search_once(retrieve if rank == 0 else None)
        engine = BatchEngine(FakeDecoder(reads), LetterTokenizer(), search)
        request = Request(prompt=letters("abcd"), reading=LiveRetrieval(), sampling=Sampling(max_new_tokens=9))
        try:
            results[rank] = engine.generate([request])[0]
        except RetroError as error:
            results[rank] = error

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return [results[0], results[1]]


def test_both_ranks_choose_the_same_tokens_though_one_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter("kmn")
    first, second = on_two_ranks(monkeypatch, lambda texts: [[Context("", next(answers))] for _ in texts])
    assert isinstance(first, Completion)
    assert first == second
    assert first.text == "kkkkmmmmn"


def test_a_search_that_fails_on_one_rank_fails_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(texts: list[str]) -> list[list[Context]]:
        raise ArtifactError(Path("index"), "is damaged", "Build it again")

    first, second = on_two_ranks(monkeypatch, fails)
    assert [str(first), str(second)] == ["index: is damaged. Build it again"] * 2
    assert isinstance(first, ArtifactError)


def test_one_process_alone_just_searches() -> None:
    assert ranks.search_once(lambda texts: [[Context("", text)] for text in texts])(["a"]) == [[Context("", "a")]]
    with pytest.raises(ValueError, match="the first rank needs a search"):
        ranks.search_once(None)(["a"])
