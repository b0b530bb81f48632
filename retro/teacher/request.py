"""What is asked of a teacher, what comes back, and the interface of whatever replies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from retro.common.errors import ConfigError, RetroError
from retro.tokenizers.chat_template import Message


class RefusedError(ConfigError):
    """One request cannot be answered, and others can: its prompt is too long, for instance."""


ROLES = ("system", "user", "assistant")
_BYTES_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 4
_MOST_TOKENS_PER_MESSAGE = 16


@dataclass(frozen=True, kw_only=True)
class TeacherRequest:
    """One reply that is wanted."""

    messages: tuple[Message, ...]
    """`role` (system, user, assistant) and `content` of each; the last one is the user's."""
    temperature: float = 0.0
    """Divides the logits; 0 takes the likeliest token."""
    max_tokens: int = 512
    """Longest reply, in tokens."""
    seed: int = 0
    """Number of the sample, where the temperature is above 0: each has its own reply, the same one every time."""
    stop: tuple[str, ...] = ()
    """Texts that end the reply, and are not part of it."""

    def __post_init__(self) -> None:
        if not self.messages or any(
            set(one) != {"role", "content"} or one["role"] not in ROLES for one in self.messages
        ):
            raise ValueError(f"messages need role ({', '.join(ROLES)}) and content: {self.messages!r}")
        if self.messages[-1]["role"] != "user":
            raise ValueError("the last message needs to be the user's")
        if self.temperature < 0 or self.max_tokens < 1:
            raise ValueError(f"temperature = {self.temperature}, max_tokens = {self.max_tokens}")

    @property
    def shape(self) -> dict[str, Any]:
        """All that the reply depends on beside the model, as JSON values; without a draw there is no seed."""
        return {
            "messages": [dict(one) for one in self.messages],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed if self.temperature > 0 else None,
            "stop": list(self.stop),
        }

    @property
    def beginning(self) -> str:
        """How the last message begins, for error messages."""
        text = self.messages[-1]["content"]
        return text if len(text) <= 60 else f"{text[:60]}…"


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A reply of the teacher."""

    text: str
    """Empty where the model refused, or used up its tokens before it said anything."""
    input_tokens: int | None
    """Tokens of the prompt, as the model counts; None where it does not tell."""
    output_tokens: int | None
    """Tokens of the reply, those that are not shown included; None where it does not tell."""
    finish_reason: str
    """`stop`, `length` (cut at max_tokens), `refusal`, or another word of the server's."""
    model: str
    """As it names itself."""
    cached: bool
    """Whether it was there already."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a backend gives for one request."""

    text: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    finish_reason: str = "stop"
    model: str = ""
    retries: int = 0
    """Tries that failed before."""


class Backend(Protocol):
    """Whatever replies. One thread calls it; it may use threads of its own."""

    model: str
    """Its name, under which replies are kept and counted."""
    identity: Mapping[str, Any]
    """What replies depend on beside the request and the name, as JSON values."""
    at_once: int
    """Most requests under way."""

    def submit(self, request: TeacherRequest) -> int:
        """Take a request in. Returns its number.

        Raises:
            RetroError: It cannot be asked.
        """

    def wait(self) -> list[tuple[int, Reply | RetroError]]:
        """Wait until at least one request that was submitted is done; gives all that are, in any order."""

    def close(self) -> None:
        """Let go of what it holds; requests under way are given up."""


def sha256_of(data: object) -> str:
    """SHA-256, as hex, of JSON with sorted keys, no white space, and ASCII alone."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def key_of(backend: Backend, request: TeacherRequest) -> str:
    """The name under which a reply is kept."""
    return sha256_of({"model": backend.model, "identity": dict(backend.identity), **request.shape})


def estimated_tokens(messages: Sequence[Message]) -> int:
    """Tokens of a prompt, roughly: 4 bytes of UTF-8 each, as in English text, and 4 more for each message."""
    return sum(_bytes(one) // _BYTES_PER_TOKEN + 1 + _TOKENS_PER_MESSAGE for one in messages)


def most_tokens(messages: Sequence[Message]) -> int:
    """Tokens that a prompt has at most: one for each byte, and 16 for each message's place in the chat template."""
    return sum(_bytes(one) + _MOST_TOKENS_PER_MESSAGE for one in messages)


def _bytes(message: Message) -> int:
    return len(message["content"].encode("utf-8", "surrogatepass"))
