"""Settings of the server. Model, prompt style and passages are those of the `generate` section."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)

from retro.common.config import StageConfig
from retro.common.errors import require

KEY_VARIABLE = "RETRO_API_KEY"
"""Environment variable that holds the API key where `serve.api_key` is not set."""
ModelName = Annotated[str, Field(pattern=r"^[^\s/][^\s]*$")]
"""What a model can be called."""
MASKED = "**********"
"""What a key looks like where settings are printed."""


class ServeConfig(StageConfig):
    """Serve a model over HTTP."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on. Any but this machine's own (127.0.0.1, ::1, localhost) needs an API key."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0: a free one, which the log names."""

    api_key: SecretStr | None = None
    """What clients must send as `Authorization: Bearer …`; absent: the environment variable RETRO_API_KEY, and
    without that no key. Never logged, and printed as asterisks."""

    open_to_all: bool = False
    """Listen on another address than this machine's own without an API key."""

    allowed_hosts: tuple[str, ...] = ()
    """Names that requests may give as `Host`, beside the address and this machine's own names; `*` allows all. On
    another address than this machine's own, all are allowed while this is empty."""

    allowed_origins: tuple[str, ...] = ()
    """Web pages of other origins that may send requests, as `https://example.org`; none: only the server's own page."""

    model_name: str = Field(default="", pattern=r"^[^\s/][^\s]*$|^$")
    """What the model is called in `/v1/models`; empty: the name of the run directory."""

    retrieval: Literal["live", "none"] = "live"
    """Where passages come from when a request does not say: a search for each chunk, or nowhere. With `none` the index
    is not opened, and requests can only give passages. A model without an encoder reads none in any case."""

    only: Literal["", "retrieval"] = ""
    """`retrieval`: serve `POST /retrieve` alone, over the run's database, without loading a model. Empty: all."""

    recipe: str = ""
    """A recipe whose way of decoding answers chats, such as self_rag: checkpoint, prompts and passages are then those
    of its settings. Empty: none."""

    adapters: dict[ModelName, Path] = Field(default_factory=dict)
    """Adapters (train.lora) on the served checkpoint, by the name that a request gives as its `model`: checkpoints, or
    finished stages. They share the weights of their base, and requests for several are answered together."""

    kind: str = "conversation"
    """What a chat's last message wants, from qa/prompts.yaml: `conversation` asks with the user's own words and shows
    passages, `chat` shows none, `short_span` and others put their instruction before. Style, template and texts are
    those of `generate`."""

    max_running: PositiveInt = 16
    """Answers that are generated at once; each holds its caches in memory."""

    max_queued: NonNegativeInt = 64
    """Answers that may wait beside those; a request that finds no room is refused with 429."""

    max_prompt_tokens: PositiveInt = 4096
    """Longest prompt, in tokens. The sequence length of the model is a separate limit."""

    max_new_tokens: PositiveInt = 1024
    """Most tokens of an answer that a request may ask for; a chat that does not say gets this."""

    max_choices: PositiveInt = 16
    """Most answers of one request: prompts times `n`."""

    max_passages: PositiveInt = 16
    """Most passages that a request may give, or ask for with `k`."""

    topk: PositiveInt = 3
    """Passages that `/retrieve` gives for each text when a request does not say; at most `max_passages`."""

    max_queries: PositiveInt = 4096
    """Most texts of one request to `/retrieve`; they are embedded as one batch."""

    max_query_characters: PositiveInt = 8192
    """Longest text of a request to `/retrieve`."""

    max_body_bytes: PositiveInt = 1_000_000
    """Largest request."""

    max_connections: PositiveInt = 1000
    """Most connections at once. One more takes the place of the one that has waited longest without a request."""

    arrival_seconds: PositiveFloat = 10.0
    """How long the head of a request may take to arrive, from the connection or its first byte, before the connection
    is closed; and then its body, which has a second more for every 10,000 bytes that came, before it is refused."""

    seconds_per_request: PositiveFloat = 300.0
    """Longest time from the first byte of a request to its last answer's end; then it is cancelled, and an error
    says so."""

    grace_seconds: NonNegativeFloat = 120.0
    """How long accepted requests may continue after SIGTERM or SIGINT."""

    @field_validator("api_key", mode="before")
    @classmethod
    def _key_may_look_like_a_number(cls, value: Any) -> Any:
        # On the command line every value is read as YAML. A key must not end in an error message either.
        return value if value is None or isinstance(value, SecretStr) else SecretStr(str(value))

    @model_validator(mode="after")
    def _key_is_a_key(self) -> ServeConfig:
        if self.api_key is not None:
            key = self.api_key.get_secret_value()
            printable = key.isascii() and key.isprintable() and " " not in key
            require(self, "api_key", printable and len(key) >= 8, "8 or more printable ASCII characters, no spaces")
            require(self, "api_key", key != MASKED, "the key itself; this is how `retro config show` prints one")
        return self

    @model_validator(mode="after")
    def _retrieval_alone_retrieves(self) -> ServeConfig:
        if self.only:
            require(self, "recipe", not self.recipe, "no recipe beside only=retrieval, which answers nothing")
            require(self, "adapters", not self.adapters, "no adapters beside only=retrieval, which loads no model")
            require(self, "retrieval", self.retrieval == "live", "live beside only=retrieval: there is nothing else")
        return self

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
