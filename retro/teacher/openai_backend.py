"""Replies from an OpenAI-compatible address, through the `openai` client.

The client itself tries again after 408, 409, 429 and 5xx, when no connection is made, and when time runs out; it waits
as long as the server says, else twice as long each time. Here a reply that is none (no JSON, no choices) is tried again
too. Any other status stops the work: the same request would have the same answer.

The key is read from the environment when the first request is sent. No setting, file or message ever has it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cached_property
from typing import Any, NotRequired

from typing_extensions import TypedDict

from retro.common.errors import ConfigError, DataError, RetroError, short_reason
from retro.common.json_files import Count, JsonError, parse_json, wrong_type
from retro.common.optional import import_optional
from retro.teacher.config import HIDDEN, TeacherConfig
from retro.teacher.request import RefusedError, Reply, TeacherRequest


class _Message(TypedDict):
    content: NotRequired[str | None]


class _Choice(TypedDict):
    message: _Message
    finish_reason: NotRequired[str | None]


class _Usage(TypedDict):
    prompt_tokens: NotRequired[Count | None]
    completion_tokens: NotRequired[Count | None]


class _Body(TypedDict):
    choices: list[_Choice]
    usage: NotRequired[_Usage | None]
    model: NotRequired[str | None]


class _BadReplyError(Exception):
    """The server says that all is well, and what it sent is not a reply."""


def api_key(name: str, setting: str) -> str:
    """The API key in an environment variable; where no variable is named, a text that is none.

    Raises:
        ConfigError: The variable is empty, or holds what cannot be a key.
    """
    if not name:
        return "none"
    key = os.environ.get(name, "").strip()
    if not key:
        raise ConfigError(
            setting, name, f"needs an environment variable that holds the API key; `{setting}=` sends none"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(setting, name, "needs a variable whose value can be a key: letters and signs")
    return key


class OpenAIBackend:
    """Sends requests from threads of its own."""

    def __init__(self, config: TeacherConfig) -> None:
        """Set up; nothing is sent, and no key is read yet."""
        self._config = config
        self.model, self.at_once = config.model, config.concurrency
        self.identity: Mapping[str, Any] = {"extra_body": config.extra_body} if config.extra_body else {}
        self._running: dict[Future[Reply | RetroError], int] = {}
        self._submitted = 0

    def submit(self, request: TeacherRequest) -> int:
        """Send a request.

        Raises:
            DependencyError: The client is not installed.
            ConfigError: The environment variable holds no key.
        """
        _ = self._client
        self._submitted += 1
        self._running[self._pool.submit(self._ask, request)] = self._submitted
        return self._submitted

    def wait(self) -> list[tuple[int, Reply | RetroError]]:
        """Replies and errors that have come."""
        done, _ = wait(self._running, return_when=FIRST_COMPLETED)
        return [(self._running.pop(future), future.result()) for future in done]

    def close(self) -> None:
        """Send nothing more; what is under way is given up."""
        if self._running:
            self._pool.shutdown(wait=False, cancel_futures=True)
        elif "_pool" in vars(self):
            self._pool.shutdown()
        if "_client" in vars(self):
            self._client.close()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.at_once, thread_name_prefix="teacher")

    @cached_property
    def _openai(self) -> Any:
        return import_optional("openai", extra="teacher", use="asks a teacher at an OpenAI-compatible address")

    @cached_property
    def _key(self) -> str:
        return api_key(self._config.api_key_env, "teacher.api_key_env")

    @cached_property
    def _client(self) -> Any:
        config = self._config
        return self._openai.OpenAI(
            api_key=self._key, base_url=config.base_url, timeout=config.timeout_s, max_retries=config.max_retries
        )

    def _ask(self, request: TeacherRequest) -> Reply | RetroError:
        """Send a request until there is a reply, or no hope of one. On a thread of the pool."""
        retries, problem = 0, ""
        for _ in range(self._config.max_retries + 1):
            try:
                raw = self._client.chat.completions.with_raw_response.create(**self._parameters(request))
                retries += raw.retries_taken
                return _reply(raw.content, retries)
            except _BadReplyError as error:
                retries, problem = retries + 1, str(error)
            except self._openai.OpenAIError as error:
                return self._as_ours(error)
        need = "Check that base_url ends in the version, as /v1, and that no page of a proxy answers"
        return DataError(self._config.base_url, self._without_key(f"its reply {problem}, {retries} times"), need)

    def _parameters(self, request: TeacherRequest) -> dict[str, Any]:
        """The body of a request, as the client takes it."""
        body: dict[str, Any] = {"model": self.model, "messages": [dict(one) for one in request.messages]}
        body |= {self._config.token_limit: request.max_tokens, "temperature": request.temperature}
        body |= {"seed": request.seed} if request.temperature > 0 else {}
        body |= {"stop": list(request.stop)} if request.stop else {}
        body = {name: value for name, value in body.items() if name not in self._config.leave_out}
        return body | ({"extra_body": self._config.extra_body} if self._config.extra_body else {})

    def _as_ours(self, error: Any) -> ConfigError:
        """What the client gave up for, as the setting that it is about."""
        config, status = self._config, getattr(error, "status_code", None) or 0
        # Of a connection that was not made, the cause says why.
        cause = error.__cause__ if isinstance(error, self._openai.APIConnectionError) else None
        words = self._without_key(" ".join(str(one) for one in (error, cause) if one is not None))
        if 400 <= status < 500 and status not in (408, 409, 429):
            return self._refused(status, words)
        tried = f"even with max_retries = {config.max_retries} ({words}); all replies so far are kept: run it again"
        if isinstance(error, self._openai.APITimeoutError):
            need = f"needs more seconds, or a server that is faster: no answer {tried}"
            return ConfigError("teacher.timeout_s", config.timeout_s, need)
        if status == 429:
            need = f"needs to be less: too many requests {tried}"
            return ConfigError("teacher.concurrency", config.concurrency, need)
        return ConfigError("teacher.base_url", config.base_url, f"needs a server that answers: no reply {tried}")

    def _refused(self, status: int, words: str) -> ConfigError:
        """What a server refuses for good, as the setting that it is about."""
        config = self._config
        if status in (401, 403):
            need = f"needs a variable with a key that {config.base_url} accepts for {self.model} ({words})"
            return ConfigError("teacher.api_key_env", config.api_key_env, need)
        if status == 404:
            need = f"needs a model that {config.base_url} has, or teacher.base_url another address ({words})"
            return ConfigError("teacher.model", self.model, need)
        kind = RefusedError if status in (400, 413, 422) else ConfigError
        see = "see teacher.token_limit, teacher.leave_out and teacher.extra_body, and how long the prompt is"
        need = f"needs a server that takes the request ({words}); {see}"
        return kind("teacher.base_url", config.base_url, need)

    def _without_key(self, text: object) -> str:
        """A message on one line, in which a server may have repeated the key."""
        return short_reason(str(text).replace(self._key, HIDDEN) if self._config.api_key_env else text)


def _reply(content: bytes, retries: int) -> Reply:
    """What a body says. A refusal has no content: it is a reply without a text.

    Raises:
        _BadReplyError: It says nothing.
    """
    try:
        body = parse_json(content)
    except JsonError as error:
        raise _BadReplyError(f"is {error}") from None
    problem = wrong_type(body, _Body) or ("" if body["choices"] else "has no choices")
    if problem:
        raise _BadReplyError(problem)
    choice, usage = body["choices"][0], body.get("usage") or {}
    text, ended = choice["message"].get("content"), choice.get("finish_reason") or "stop"
    return Reply(
        # Half of a surrogate pair, which JSON can spell, can be in no file.
        text=(text or "").encode("utf-8", "replace").decode(),
        input_tokens=usage.get("prompt_tokens"),
        output_tokens=usage.get("completion_tokens"),
        finish_reason="refusal" if text is None and ended == "stop" else ended,
        model=body.get("model") or "",
        retries=retries,
    )
