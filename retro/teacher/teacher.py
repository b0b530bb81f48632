"""The teacher: a backend that replies, with a cache on the disk, a budget, and a count of tokens and cost.

    requests → those that the cache lacks → backend, many at once → cache → completions, in the order of the requests

A reply is on the disk before anybody sees it. Work that was stopped, by a kill, an error or the budget, continues
with the first reply that is not there.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retro.common.errors import ArtifactError, RetroError
from retro.common.files import make_writable, write_json
from retro.common.json_files import wrong_type
from retro.common.progress import Progress
from retro.common.response_cache import ResponseCache
from retro.teacher.config import TeacherConfig
from retro.teacher.report import Kept, Tally, TeacherPlan, TeacherReport, over_budget
from retro.teacher.request import Backend, Completion, Reply, TeacherRequest, estimated_tokens, key_of
from retro.tokenizers.chat_template import Message

if TYPE_CHECKING:
    from retro.run.config import RunConfig

log = logging.getLogger(__name__)

REPLIES = "teacher_replies.jsonl"
REPORT = "teacher_report.json"
_HEADER = {"format": "instruct-retro teacher replies", "version": 1}
_REMEDY = "Remove the line, or the file: what it lacks is asked for again"
_Missing = dict[str, TeacherRequest]
_Running = dict[int, tuple[str, TeacherRequest]]


class Teacher:
    """Asks a backend for what the cache lacks. A context manager: at its end the report is logged and saved.

    One thread of a process uses it; several processes may share its folder.
    """

    def __init__(self, backend: Backend, config: TeacherConfig, folder: Path) -> None:
        """Open the cache.

        Args:
            backend: What replies.
            config: Cache folder, prices and budget; the rest is the backend's.
            folder: Where the report goes, and replies where the config names no folder.

        Raises:
            ConfigError: The cache folder cannot be written.
            ArtifactError: The cache is damaged, or the file is something else.
        """
        self._backend, self._config, self._folder = backend, config, folder
        self._kept, self._made = Tally(), Tally()
        self._cached = self._retried = 0
        self._started = time.monotonic()
        place = config.cache or folder
        make_writable(place, "teacher.cache", place)
        self._cache = ResponseCache(place / REPLIES, _HEADER, _REMEDY, self._observe)

    def __enter__(self) -> Teacher:
        return self

    def __exit__(self, *_: object) -> None:
        self._backend.close()
        report = self.report()
        log.info("%s", report.line())
        write_json(self._folder / REPORT, asdict(report))

    def complete(
        self,
        messages: Sequence[Message],
        *,
        temperature: float = 0.0,
        max_tokens: int = 512,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Completion:
        """One reply; arguments as the fields of `TeacherRequest`, errors as `complete_all`."""
        request = TeacherRequest(
            messages=tuple(messages), temperature=temperature, max_tokens=max_tokens, seed=seed, stop=tuple(stop)
        )
        (completion,) = self._complete([request], None)
        return completion

    def complete_all(self, requests: Sequence[TeacherRequest], *, what: str = "teacher") -> Iterator[Completion]:
        """Replies to all requests, in their order; equal requests are asked once.

        Args:
            requests: What is wanted.
            what: The work, for the progress line, with the cost so far and the cost expected; empty: there is none.

        Raises:
            ConfigError: The budget does not allow the next request, or the backend refuses it for good. Replies that
                were under way are kept.
            RetroError: As the backend says.
        """
        if not what:
            yield from self._complete(requests, None)
            return
        with Progress(len(requests), what=what, unit="replies") as bar:
            yield from self._complete(requests, bar)

    def plan(self, requests: Sequence[TeacherRequest]) -> TeacherPlan:
        """A dry run: what the requests would cost. Nothing is asked, and no key or model is needed."""
        missing = self._missing(requests)
        inputs = sum(estimated_tokens(one.messages) for one in missing.values())
        outputs = sum(one.max_tokens for one in missing.values())
        return TeacherPlan(
            requests=len(requests),
            cached=len(requests) - len(missing),
            to_send=len(missing),
            estimated_input_tokens=inputs,
            most_output_tokens=outputs,
            estimated_cost=self._config.cost(inputs, outputs) if self._config.has_prices else None,
        )

    def report(self) -> TeacherReport:
        """What was done so far."""
        made, kept, priced = self._made, self._kept, self._config.has_prices
        return TeacherReport(
            model=self._backend.model,
            requests=made.replies,
            cached=self._cached,
            retried=self._retried,
            input_tokens=made.input_tokens,
            output_tokens=made.output_tokens,
            without_usage=made.without_usage,
            empty=made.empty,
            cut=made.cut,
            cost=self._config.cost(made.input_tokens, made.output_tokens) if priced else None,
            kept_replies=kept.replies,
            kept_cost=self._config.cost(kept.input_tokens, kept.output_tokens) if priced else None,
            seconds=round(time.monotonic() - self._started, 3),
        )

    def _observe(self, key: str, value: Any) -> None:
        """Count what enters the cache, whoever made it."""
        if problem := wrong_type(value, Kept):
            raise ArtifactError(
                (self._config.cache or self._folder) / REPLIES, f"the reply {key[:12]}… {problem}", _REMEDY
            )
        if value["request"]["model"] == self._backend.model:
            self._kept.add(value)

    def _missing(self, requests: Sequence[TeacherRequest]) -> _Missing:
        """Requests without a reply, by key, each once."""
        self._cache.refresh()
        missing = _Missing()
        for one in requests:
            key = key_of(self._backend, one)
            if key not in self._cache:
                missing.setdefault(key, one)
        return missing

    def _complete(self, requests: Sequence[TeacherRequest], bar: Progress | None) -> Iterator[Completion]:
        missing, fresh = self._missing(requests), set[str]()
        wanted, made = len(missing), (self._made.replies, self._spent())
        with closing(self._work(missing)) as work:
            for one in requests:
                key = key_of(self._backend, one)
                while key not in self._cache:
                    fresh.update(next(work))
                cached = key not in fresh
                fresh.discard(key)
                self._cached += cached
                if bar is not None and cached:
                    bar.found(1)
                elif bar is not None:
                    bar.advance(1, self._cost_note(wanted, *made))
                yield Completion(**self._cache[key]["reply"], cached=cached)

    def _spent(self) -> float:
        return self._config.cost(self._made.input_tokens, self._made.output_tokens)

    def _cost_note(self, wanted: int, replies: int, spent: float) -> str:
        """What these requests have cost, and are expected to cost in all; empty without prices.

        Args:
            wanted: Replies that were missing.
            replies: Replies that were made before.
            spent: What those have cost.
        """
        if not self._config.has_prices:
            return ""
        cost = self._spent() - spent
        return f"cost {cost:,.4f} of about {cost / (self._made.replies - replies) * wanted:,.4f}"

    def _work(self, missing: _Missing) -> Generator[list[str]]:
        """Ask for what is missing; gives keys as their replies come to be on the disk."""
        waiting, running = deque(missing.items()), _Running()
        failure: RetroError | None = None
        try:
            while waiting or running:
                failure = failure or self._submit(waiting, running)
                if not running:
                    break
                done, failed = self._collect(running)
                failure = failure or failed
                yield done
            if failure:
                raise failure
        except GeneratorExit:
            # Nobody wants more, but what is under way is paid for.
            while running:
                self._collect(running)
            raise

    def _submit(self, waiting: deque[tuple[str, TeacherRequest]], running: _Running) -> RetroError | None:
        """Submit as many as may run; gives why the next one cannot be asked, now or later."""
        while waiting and len(running) < self._backend.at_once:
            key, request = waiting[0]
            if key in self._cache:
                # Another process was faster.
                waiting.popleft()
                continue
            under_way = [one for _, one in running.values()]
            refused = over_budget(self._config, self._kept, under_way, request)
            if refused:
                # Most cost less than they might: when those under way are done there may be room.
                return None if running else refused
            try:
                running[self._backend.submit(request)] = key, request
            except RetroError as error:
                return error
            waiting.popleft()
        return None

    def _collect(self, running: _Running) -> tuple[list[str], RetroError | None]:
        """Wait for replies and keep them; gives their keys, and the first error."""
        keys, failure = list[str](), None
        for number, outcome in self._backend.wait():
            key, request = running.pop(number)
            if isinstance(outcome, RetroError):
                failure = failure or outcome
                continue
            self._keep(key, request, outcome)
            keys.append(key)
        return keys, failure

    def _keep(self, key: str, request: TeacherRequest, reply: Reply) -> None:
        reported = asdict(reply) | {"model": reply.model or self._backend.model}
        self._retried += reported.pop("retries")
        value: Any = {"request": {"model": self._backend.model, **request.shape}, "reply": reported}
        self._cache.add([key], [value])
        self._made.add(value)


def open_teacher(config: TeacherConfig, folder: Path, own: RunConfig | None = None) -> Teacher:
    """The teacher that a config names.

    Args:
        config: Its settings.
        folder: Where its report goes, and its replies where `config.cache` names no folder.
        own: The run whose model replies where `config.run` names none.

    Raises:
        ConfigError: A setting is missing or wrong, or a folder cannot be written.
        DataError: The file of replies cannot be used.
        ArtifactError: The cache is damaged, or the run has no tuned model.
    """
    backend: Backend
    if config.kind != "engine" or own is None:
        config.require_source()
    if config.kind == "openai":
        from retro.teacher.openai_backend import OpenAIBackend

        backend = OpenAIBackend(config)
    elif config.kind == "engine":
        from retro.run.config import load_run_config
        from retro.teacher.engine import open_run

        run = load_run_config(config.run, config.overrides) if own is None or config.run is not None else own
        backend = open_run(run, config.concurrency)
    else:
        from retro.teacher.script import open_script

        backend = open_script(config)
    return Teacher(backend, config, folder)
