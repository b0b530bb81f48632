"""Searches for passages, one at a time on a thread of their own; and the protocol of Search-R1 (arXiv:2503.09516)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

from pydantic import Field, StrictBool, StrictInt, StrictStr

from retro.qa.question import PassageLike
from retro.serve.config import ServeConfig
from retro.serve.errors import ApiError, invalid_value, stopping
from retro.serve.middleware import Metrics
from retro.serve.protocol import RequestModel
from retro.serve.responses import ResponseModel
from retro.serve.scheduler import Health, State

Search = Callable[[list[str], int], Sequence[Sequence[PassageLike]]]
"""Texts and a number to that many passages for each text, best first."""
_FAILURES_IN_A_ROW = 3
"""After so many failed searches the server no longer says that it is well."""


class RetrieveRequest(RequestModel):
    """Body of `POST /retrieve`."""

    queries: Annotated[tuple[StrictStr, ...], Field(fail_fast=True)]
    """Texts to search for; nothing is found for one without text."""
    topk: Annotated[StrictInt, Field(ge=1)] | None = None
    """Passages for each text; absent: the server's `serve.topk`."""
    return_scores: StrictBool = False
    """Give each passage with its score."""


class Document(ResponseModel):
    """A passage."""

    id: str
    """Id of the passage, or of the document that it is from."""
    contents: str
    """The title in quotes on the first line, and the text below it."""
    title: str
    """The title alone; may be empty."""
    text: str
    """The text alone."""


class ScoredDocument(ResponseModel):
    """A passage with its score."""

    document: Document
    """The passage."""
    score: float
    """Inner product with the text, or the score of another search."""


class RetrieveResponse(ResponseModel):
    """Passages for each text, in the order of the texts; best first."""

    result: list[list[ScoredDocument]] | list[list[Document]]
    """With `return_scores` a passage stands beside its score, otherwise alone."""


def document_of(passage: PassageLike) -> Document:
    """A passage as Search-R1's clients read it: the first line is the title."""
    title = " ".join(passage.title.split())
    contents = f'"{title}"\n{passage.text}'
    return Document(id=passage.document_id, contents=contents, title=title, text=passage.text)


def check_request(body: RetrieveRequest, config: ServeConfig) -> int:
    """Check a request against the limits of the server; gives the passages for each text.

    Raises:
        ApiError: There are too many texts, one is too long, or too many passages are wanted.
    """
    if len(body.queries) > config.max_queries:
        raise invalid_value("queries", f"has {len(body.queries):,} texts; at most {config.max_queries:,} are answered")
    longest = config.max_query_characters
    for number, query in enumerate(body.queries):
        if len(query) > longest:
            problem = f"has {len(query):,} characters; at most {longest:,} are searched for"
            raise invalid_value(f"queries[{number}]", problem)
    wanted = min(config.topk, config.max_passages) if body.topk is None else body.topk
    if wanted > config.max_passages:
        raise invalid_value("topk", f"is {wanted:,}; at most {config.max_passages:,} passages are given for a text")
    return wanted


class Searches:
    """The searches of a server. Retrievers are for one thread, so each search waits for the one before."""

    def __init__(self, search: Search, metrics: Metrics, stall_seconds: float) -> None:
        """Begin without a search.

        Args:
            search: Finds passages; called by one thread at a time.
            metrics: Counts texts and seconds.
            stall_seconds: A search that takes longer counts as stalled.
        """
        self._search, self._metrics, self._stall_seconds = search, metrics, stall_seconds
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="searches")
        self._unfinished = self._failures = self._in_a_row = 0
        self._accepting, self._ended = True, False
        self._began: float | None = None

    async def answer(self, queries: Sequence[str], wanted: int, *, scores: bool, deadline: float) -> bytes:
        """The JSON answer to some texts, which are embedded as one batch and searched for at once.

        Args:
            queries: The texts.
            wanted: Passages for each.
            scores: Whether each passage comes with its score.
            deadline: When it must be there, on the event loop's clock.

        Raises:
            ApiError: It was not there in time, or the server is stopping.
        """
        if not self._accepting:
            raise stopping()
        self._unfinished += 1
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(deadline):
                return await loop.run_in_executor(self._thread, self._timed, list(queries), wanted, scores)
        except TimeoutError:
            problem = "the search took longer than this server allows; send fewer queries"
            raise ApiError(504, problem, code="timeout") from None
        except asyncio.CancelledError:
            if self._ended:
                raise stopping() from None
            raise
        finally:
            self._unfinished -= 1

    def _timed(self, queries: list[str], wanted: int, scores: bool) -> bytes:
        self._began = time.monotonic()
        try:
            found = self._found(queries, wanted)
            self._in_a_row = 0
        except Exception:
            self._failures, self._in_a_row = self._failures + 1, self._in_a_row + 1
            raise
        finally:
            self._began = None
        documents = [[document_of(one) for one in passages] for passages in found]
        if not scores:
            return RetrieveResponse(result=documents).json_bytes()
        scored = [
            [ScoredDocument(document=one, score=float(by.score)) for one, by in zip(ours, passages, strict=True)]
            for ours, passages in zip(documents, found, strict=True)
        ]
        return RetrieveResponse(result=scored).json_bytes()

    def _found(self, queries: list[str], wanted: int) -> list[Sequence[PassageLike]]:
        asked = [place for place, query in enumerate(queries) if query.strip()]
        found: list[Sequence[PassageLike]] = [()] * len(queries)
        if asked:
            search = self._metrics.counted(lambda texts: self._search(texts, wanted))
            for place, passages in zip(asked, search([queries[place] for place in asked]), strict=True):
                found[place] = passages[:wanted]
        return found

    def start(self) -> None:
        """Nothing: the thread begins with the first search."""

    def stop_accepting(self) -> None:
        """Refuse searches from now on; accepted ones continue."""
        self._accepting = False

    def end(self) -> None:
        """Drop the searches that wait; the one under way is not waited for."""
        self._accepting, self._ended = False, True
        self._thread.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """`end`, and wait for the search under way."""
        self.end()
        self._thread.shutdown(wait=True)

    @property
    def unfinished(self) -> int:
        """Requests that were accepted and not answered."""
        return self._unfinished

    def health(self) -> Health:
        """The current state."""
        began, unfinished = self._began, self._unfinished
        state: State = "ok"
        if began is not None and time.monotonic() - began > self._stall_seconds:
            state = "stalled"
        elif not self._accepting:
            state = "stopping"
        elif self._in_a_row >= _FAILURES_IN_A_ROW:
            state = "failing"
        running = int(began is not None)
        return Health(state, running, max(0, unfinished - running), self._failures)
