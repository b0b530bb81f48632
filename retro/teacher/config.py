"""Settings of the teacher."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from retro.common.config import StageConfig, config_json
from retro.common.errors import ConfigError, require

HIDDEN = "**********"
"""What is in a message in place of what may be a key."""
MILLION = 1_000_000
_SHAPING = ("kind", "model", "leave_out", "extra_body", "run", "overrides", "replies", "function")
_NEEDS = {
    "openai": ("model", "the name of a model that base_url has"),
    "engine": ("run", "the YAML file of a run with a tuned model"),
    "script": ("replies", "a file, or in its place teacher.function; one of the two"),
}


class TeacherConfig(StageConfig):
    """The model that makes training data for a recipe."""

    kind: Literal["openai", "engine", "script"] = "openai"
    """Where replies come from. `openai`: an OpenAI-compatible address. `engine`: a model of this toolkit, in this
    process. `script`: a file of replies, or a Python function. Settings of the other kinds are not read."""

    model: str = ""
    """openai: the model's name at the address. Replies are kept under this name, so another model needs another."""

    base_url: str = "https://api.openai.com/v1"
    """openai: address up to and with the version, as `http://127.0.0.1:8000/v1` for `retro serve`."""

    api_key_env: str = "OPENAI_API_KEY"
    """openai: name of the environment variable that holds the API key, never the key; empty: no key is sent."""

    timeout_s: PositiveFloat = 120.0
    """openai: seconds to wait for the server to answer or to send more of an answer; then the request is retried."""

    max_retries: NonNegativeInt = 10
    """openai: tries after the first one, of each request (docs/teacher.md says which errors are retried). They wait as
    long as the server says, else 0.5 s, 1 s, 2 s, … 8 s: 10 tries take up to 56 s."""

    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """openai: what the server calls the limit of new tokens. OpenAI's newer models need `max_completion_tokens`."""

    leave_out: tuple[Literal["temperature", "seed"], ...] = ()
    """openai: parameters that the server refuses, and that are not sent."""

    extra_body: dict[str, JsonValue] = Field(default_factory=dict)
    """openai: more parameters of each request, as `{reasoning_effort: low}`. They are stored with the replies."""

    run: Path | None = None
    """engine: YAML file of the run whose tuned model replies. Its `generate` section says checkpoint, prompt style and
    precision. Absent, in a recipe: this run, with the model that the recipe starts from."""

    overrides: tuple[str, ...] = ()
    """engine: settings of that run to change, as `generate.style=chat`."""

    replies: Path | None = None
    """script: file of JSON lines with `reply` and one of `messages`, `sha256` or `pattern` (docs/teacher.md)."""

    function: str = Field(default="", pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_]\w*)?$")
    """script: Python function as `module:function`, in place of `replies`. Given a TeacherRequest, it returns the
    text."""

    concurrency: PositiveInt = 8
    """Requests under way at once: threads for openai, sequences of a batch for engine; a script is asked one by one."""

    cache: Path | None = None
    """Folder in which replies are kept, with their prompts, as plain text; absent: that of the recipe, or of who
    asks. Several runs may share one."""

    input_price: NonNegativeFloat | None = None
    """Price of a million prompt tokens, in any currency; absent: not known."""

    output_price: NonNegativeFloat | None = None
    """Price of a million tokens of replies, in the same currency; absent: not known."""

    max_cost: PositiveFloat | None = None
    """Most that all replies of this model in the cache may cost together, in the currency of the prices; absent: no
    limit."""

    max_requests: PositiveInt | None = None
    """Most replies of this model in the cache; absent: no limit."""

    @field_validator("api_key_env")
    @classmethod
    def _is_no_key(cls, value: str) -> str:
        if value and not re.fullmatch(r"[A-Z][A-Z0-9_]{0,63}", value):
            need = "needs the name of an environment variable (capitals, digits and _), never the key itself"
            raise ConfigError("TeacherConfig.api_key_env", HIDDEN, need)
        return value

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            secret = parts.username is not None or bool(parts.query)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            secret, good = False, False
        if secret:
            need = "needs an address without user, password or query, which logs would show; a key is in api_key_env"
            raise ConfigError("TeacherConfig.base_url", HIDDEN, need)
        if not good:
            raise ConfigError("TeacherConfig.base_url", value, "needs an address as https://example.org/v1")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _consistent(self) -> TeacherConfig:
        both = (self.input_price is None) == (self.output_price is None)
        require(self, "output_price", both, "a price where input_price has one, and none where it has none")
        require(self, "max_cost", self.max_cost is None or self.has_prices, "input_price and output_price beside it")
        return self

    def require_source(self) -> None:
        """Check that it says what the kind needs: a section of its own may be empty as long as nobody is asked.

        Raises:
            ConfigError: It does not.
        """
        name, need = _NEEDS[self.kind]
        given = (self.replies is None) == bool(self.function) if self.kind == "script" else bool(getattr(self, name))
        if not given:
            raise ConfigError(f"teacher.{name}", getattr(self, name), f"needs {need}, since kind is {self.kind}")

    @property
    def shaping(self) -> dict[str, Any]:
        """The settings that decide what is replied, for manifests: not how often it is tried, and at what price."""
        return {name: value for name, value in config_json(self).items() if name in _SHAPING}

    @property
    def has_prices(self) -> bool:
        """Whether cost can be computed."""
        return self.input_price is not None and self.output_price is not None

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """Cost of so many tokens; 0 where there are no prices."""
        return (input_tokens * (self.input_price or 0) + output_tokens * (self.output_price or 0)) / MILLION
