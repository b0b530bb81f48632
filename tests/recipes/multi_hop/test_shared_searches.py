"""Searches that several programs share: what waits together is one batch, on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from retro.common.errors import ConfigError
from retro.recipes.multi_hop.protocol import Found, Search
from retro.recipes.multi_hop.shared_searches import SharedSearches
from tests.recipes.multi_hop.scripted import question


class Held:
    """A retriever that searches when it is let; it finds the query."""

    identity: Mapping[str, Any] = {"kind": "held"}

    def __init__(self) -> None:
        self.let, self.batches = threading.Semaphore(0), list[list[str]]()
        self.begun = threading.Semaphore(0)

    def find(self, searches: Sequence[Search]) -> list[Found]:
        self.batches.append([one.query for one in searches])
        self.begun.release()
        assert self.let.acquire(timeout=10)
        if any(one.query == "bad" for one in searches):
            raise ConfigError("address", "x", "needs a server")
        return [Found(problem=one.query) for one in searches]


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def searches(held: Held) -> Iterator[SharedSearches]:
    found = SharedSearches(held)
    yield found
    held.let.release(10)
    found.close()


def search(query: str) -> Search:
    return Search(query=query, question=question())


def test_searches_that_come_while_one_runs_are_the_next_batch(held: Held, searches: SharedSearches) -> None:
    first = searches.find(search("a"))
    assert held.begun.acquire(timeout=10)
    later = [searches.find(search(one)) for one in "bcd"]
    # Nobody wants it any more, so it is not searched.
    assert later[1].cancel()
    held.let.release(2)
    assert first.result(timeout=10).problem == "a"
    assert [one.result(timeout=10).problem for one in (later[0], later[2])] == ["b", "d"]
    assert held.batches == [["a"], ["b", "d"]]


def test_an_error_is_that_of_each_search_of_the_batch_and_of_no_other(held: Held, searches: SharedSearches) -> None:
    first = searches.find(search("a"))
    assert held.begun.acquire(timeout=10)
    failed = [searches.find(search(one)) for one in ("bad", "b")]
    held.let.release(2)
    assert first.result(timeout=10).problem == "a"
    for one in failed:
        with pytest.raises(ConfigError, match="needs a server"):
            one.result(timeout=10)
    held.let.release()
    assert searches.find(search("c")).result(timeout=10).problem == "c"


def test_what_was_not_begun_is_cancelled_at_the_end(held: Held) -> None:
    searches = SharedSearches(held)
    first = searches.find(search("a"))
    assert held.begun.acquire(timeout=10)
    second = searches.find(search("b"))
    second.add_done_callback(lambda _: held.let.release())
    searches.close()
    assert first.result(timeout=10).problem == "a"
    assert second.cancelled()
    assert held.batches == [["a"]]
