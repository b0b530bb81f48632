"""Searches of many programs on a thread of their own, so that the engine answers others meanwhile."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

from retro.recipes.multi_hop.protocol import Found, Retriever, Search

_GATHER_SECONDS = 0.01
"""How long the first search of a batch waits for others: questions that come together search together."""


class SharedSearches:
    """A retriever for many: what is asked for while it searches is its next batch."""

    def __init__(self, retriever: Retriever) -> None:
        """Begin without a search; the retriever is called by one thread."""
        self._retriever = retriever
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="multi_hop_searches")
        self._lock = threading.Lock()
        self._waiting: list[tuple[Search, Future[Found]]] = []

    def find(self, search: Search) -> Future[Found]:
        """What will be found; an error of the retriever is that of every search in the batch."""
        future: Future[Found] = Future()
        with self._lock:
            self._waiting.append((search, future))
            first = len(self._waiting) == 1
        if first:
            self._thread.submit(self._search)
        return future

    def _search(self) -> None:
        time.sleep(_GATHER_SECONDS)
        with self._lock:
            waiting, self._waiting = self._waiting, []
        batch = [(search, future) for search, future in waiting if future.set_running_or_notify_cancel()]
        try:
            found = self._retriever.find([search for search, _ in batch]) if batch else []
            for (_, future), one in zip(batch, found, strict=True):
                future.set_result(one)
        except Exception as error:
            # Whatever a retriever raises is raised in every program that waits for it; here nobody would see it.
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            raise

    def close(self) -> None:
        """Wait for the search under way; those that were not begun are cancelled."""
        with self._lock:
            for _, future in self._waiting:
                future.cancel()
        self._thread.shutdown()
