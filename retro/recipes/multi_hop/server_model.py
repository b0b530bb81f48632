"""A model behind an OpenAI-compatible `/completions`, such as vLLM's and llama.cpp's servers, behind the protocol.

Prompts go as token ids where a tokenizer is given, the same ids as in training; else as text, in which the special
tokens are spelled. The server has to write special tokens: vLLM is asked to, llama.cpp needs `--special`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from retro.common.errors import ConfigError, short_reason
from retro.common.optional import import_optional
from retro.qa.question import Segment
from retro.qa.segments import split_at_tokens
from retro.recipes.multi_hop.answer_config import ModelConfig
from retro.recipes.multi_hop.codec import Codec
from retro.recipes.multi_hop.conversation import BEGIN_CALL, END_CALL, END_TURN, TOKENS
from retro.recipes.multi_hop.models import reply_to_all
from retro.recipes.multi_hop.protocol import Ask, Reply
from retro.teacher.config import HIDDEN
from retro.teacher.openai_backend import api_key

_AT_ONCE = 8
_REFUSED = (400, 413, 422)
"""What a server says of one request that it cannot answer."""
_KEYS, _NO_MODEL = (401, 403), 404
_EXTRA = {"skip_special_tokens": False, "include_stop_str_in_output": True}
"""vLLM's; other servers ignore what they do not know."""
_KEY = "answer.model.api_key_env"


class ServerModel:
    """Sends requests from threads, and waits for all of a batch."""

    def __init__(self, config: ModelConfig, codec: Codec | None) -> None:
        """Set up; nothing is sent yet.

        Args:
            config: Address and model.
            codec: Of the model's tokenizer; None: prompts are sent as text.
        """
        self._config, self._codec = config, codec
        self.identity: Mapping[str, Any] = {"kind": "server", "name": config.name, "ids": codec is not None}

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """See `LanguageModel`."""

        _ = self._client
        return reply_to_all(asks, self._body, self._answer)

    def _answer(self, bodies: list[dict[str, Any]]) -> list[Reply]:
        """A reply to each. One that fails is lost alone, as long as another is replied to.

        Raises:
            ConfigError: The server cannot be reached, refuses the key or the model, or all of a batch alike.
        """
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="server") as pool:
            found = list(pool.map(self._ask, bodies))
        errors = [one for one in found if not isinstance(one, Reply)]
        if errors and len(errors) == len(found) and _concerns_all(errors):
            raise self._refused(errors[0])
        return [one if isinstance(one, Reply) else Reply(problem=self._without_key(one)) for one in found]

    def _body(self, ask: Ask) -> dict[str, Any] | Reply:
        config, codec = self._config, self._codec
        prompt: list[int] | str = spelled(ask.segments) if codec is None else codec.prompt(ask)
        most = config.sequence_length
        if codec is not None and most is not None and len(prompt) + ask.max_new_tokens > most:
            return Reply(excess=len(prompt) + ask.max_new_tokens - most)
        return {
            "model": config.name, "prompt": prompt, "max_tokens": ask.max_new_tokens,
            "temperature": config.temperature, "stop": list(ask.stop_tokens), "extra_body": _EXTRA,
        }  # fmt: skip

    def _ask(self, body: dict[str, Any]) -> Reply | Exception:
        """One reply, or why there is none.

        Raises:
            ConfigError: The server refuses the key or the model.
        """
        try:
            found = self._client.completions.create(**body)
        except (self._openai.OpenAIError, ValueError) as error:
            if _status(error) in (*_KEYS, _NO_MODEL):
                raise self._refused(error) from None
            return error
        choices = getattr(found, "choices", None)
        if not choices:
            return ValueError("a reply without choices")
        # JSON may hold half of a surrogate pair, which no file can.
        text = (choices[0].text or "").encode(errors="replace").decode()
        reason = choices[0].finish_reason
        return Reply(segments=read(text, reason), cut=reason == "length")

    def _refused(self, error: Any) -> ConfigError:
        words = self._without_key(error)
        if _status(error) in _KEYS:
            return ConfigError(
                _KEY, self._config.api_key_env, f"needs a variable with a key that is accepted ({words})"
            )
        if _status(error) == _NO_MODEL:
            return ConfigError("answer.model.name", self._config.name, f"needs a model that is served ({words})")
        need = f"needs a server that answers ({words}); answers so far are kept"
        return ConfigError("answer.model.base_url", self._config.base_url, need)

    def _without_key(self, error: object) -> str:
        text = str(error)
        return short_reason(text.replace(self._key, HIDDEN) if self._config.api_key_env else text)

    @cached_property
    def _openai(self) -> Any:
        return import_optional("openai", extra="teacher", use="asks a model at an OpenAI-compatible address")

    @cached_property
    def _key(self) -> str:
        return api_key(self._config.api_key_env, _KEY)

    @cached_property
    def _client(self) -> Any:
        config = self._config
        return self._openai.OpenAI(
            api_key=self._key, base_url=config.base_url, timeout=config.timeout_s, max_retries=config.max_retries
        )


def _status(error: Exception) -> int | None:
    """The HTTP status that an error is about, if it is about one."""
    return getattr(error, "status_code", None)


def _concerns_all(errors: Sequence[Exception]) -> bool:
    """Whether errors are the server's, and not those of one request, or of each of them for its own reason."""
    own = [isinstance(one, ValueError) or _status(one) in _REFUSED for one in errors]
    return not all(own) or (len(errors) > 1 and len({str(one) for one in errors}) == 1)


def spelled(segments: Sequence[Segment]) -> str:
    """A prompt as text. A text that spells a special token gets a blank into it: the server would take it for one."""
    return "".join(one.token or _harmless(one.text) for one in segments)


def _harmless(text: str) -> str:
    for name in TOKENS:
        text = text.replace(name, f"{name[:2]} {name[2:]}")
    return text


def read(text: str, finish_reason: str | None) -> tuple[Segment, ...]:
    """What a server wrote. One that does not repeat what it stopped at has left out the end of a call, or of a turn."""
    found = split_at_tokens(text, TOKENS)
    names = [one.token for one in found]
    if finish_reason == "stop" and not {END_CALL, END_TURN} & set(names):
        return (*found, Segment(token=END_CALL if BEGIN_CALL in names else END_TURN))
    return found
