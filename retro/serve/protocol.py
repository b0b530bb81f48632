"""What a request may say: OpenAI's parameters, ours, and by name those that are refused.

A parameter that would change the answer and is not supported is refused, never ignored; at the value that changes
nothing (`frequency_penalty: 0`) it is taken. What says nothing about the answer (`user`) is ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, ValidationError
from pydantic_core import PydanticCustomError

from retro.common.config import unknown_name
from retro.generate.config import LARGEST_PENALTY, LEAST_PENALTY
from retro.serve.errors import ApiError, invalid_value

LARGEST_SEED = 2**63 - 1
MOST_STOPS = 4
MOST_LOGPROBS = 20

IGNORED = ("user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key")
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "best_of": (1,),
    "suffix": ("",),
    "store": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
}
"""Parameters of OpenAI's that are not supported, with the values at which they change nothing; so does null."""


def _one_or_many(value: Any) -> Any:
    return [] if value is None else [value] if isinstance(value, str) else value


def _in_range(penalty: float) -> float:
    if not LEAST_PENALTY <= penalty <= LARGEST_PENALTY:
        raise PydanticCustomError("range", f"needs {LEAST_PENALTY:g} to {LARGEST_PENALTY:g}; 1 changes nothing")
    return penalty


Text = Annotated[str, Field(strict=True)]
Probability = Annotated[float, Field(strict=True, gt=0, le=1)]


class _Parameters(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class PassageParameters(_Parameters):
    """A passage that comes with the request."""

    text: Annotated[str, Field(strict=True, min_length=1)]
    title: Text = ""
    document_id: Text = ""


def _passage(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


class RetrievalParameters(_Parameters):
    """What the encoder reads: `retrieval` in a request."""

    source: Literal["live", "given", "none"] | None = None
    """A search for each chunk, the request's own passages, or nothing. Without it `given` where there are passages,
    else the server's own choice."""
    k: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Passages of a chunk; null: as many as the model was trained with."""
    every: Annotated[int, Field(strict=True, ge=1)] | None = None
    """Generated tokens between two searches; null: one search a chunk."""
    passages: tuple[Annotated[PassageParameters, BeforeValidator(_passage)], ...] = ()
    """With `source: given`: objects with text, title and document_id, or texts."""


class StreamOptions(_Parameters):
    """`stream_options` of a request."""

    include_usage: StrictBool = False


class CommonParameters(_Parameters):
    """What both ways to ask have in common; the defaults are OpenAI's."""

    model: Text | None = None
    n: Annotated[int, Field(strict=True, ge=1)] = 1
    temperature: Annotated[float, Field(strict=True, ge=0, le=2)] = 1.0
    top_p: Probability = 1.0
    top_k: Annotated[int, Field(strict=True, ge=0)] = 0
    repetition_penalty: Annotated[float, Field(strict=True), AfterValidator(_in_range)] = 1.0
    min_tokens: Annotated[int, Field(strict=True, ge=0)] = 0
    stop: Annotated[
        tuple[Annotated[str, Field(strict=True, min_length=1)], ...],
        BeforeValidator(_one_or_many),
        Field(max_length=MOST_STOPS),
    ] = ()
    seed: Annotated[int, Field(strict=True, ge=0, le=LARGEST_SEED)] | None = None
    max_tokens: Annotated[int, Field(strict=True, ge=1)] | None = None
    stream: StrictBool = False
    stream_options: StreamOptions = StreamOptions()
    retrieval: RetrievalParameters = RetrievalParameters()


class CompletionParameters(CommonParameters):
    """A request to `/v1/completions`."""

    prompt: Any
    logprobs: Annotated[int, Field(strict=True, ge=0, le=MOST_LOGPROBS)] | None = None
    echo: StrictBool = False


class PartParameters(_Parameters):
    """A part of a message."""

    type: Literal["text"]
    text: Text


class MessageParameters(_Parameters):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[tuple[PartParameters, ...], BeforeValidator(lambda value: _parts(value))]

    @property
    def text(self) -> str:
        """Its parts as one text."""
        return "".join(part.text for part in self.content)


def _parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class ChatParameters(CommonParameters):
    """A request to `/v1/chat/completions`."""

    messages: Annotated[tuple[MessageParameters, ...], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(strict=True, ge=1)] | None = None
    logprobs: StrictBool = False
    top_logprobs: Annotated[int, Field(strict=True, ge=0, le=MOST_LOGPROBS)] | None = None


_EXTRA = "extra_forbidden"
P = TypeVar("P", bound=CommonParameters)


def read_parameters(kind: type[P], data: dict[str, Any]) -> P:
    """The parameters of a request. Null says nothing, as a parameter that is not there.

    Raises:
        ApiError: One is missing, unknown, not supported, or has a value that cannot be; it is named.
    """
    given = {name: value for name, value in data.items() if name not in IGNORED and value is not None}
    for name in [name for name in given if name in NEUTRAL and name not in kind.model_fields]:
        value = given.pop(name)
        if not any(value == same and isinstance(value, bool) == isinstance(same, bool) for same in NEUTRAL[name]):
            raise ApiError(400, f"{name}: is not supported by this server", param=name, code="unsupported_parameter")
    # An assistant's own message, sent back as clients got it, has nulls such as its tool_calls.
    if isinstance(messages := given.get("messages"), list):
        given["messages"] = [_without_nulls(message) for message in messages]
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _refusal_of(kind, error) from None


def _without_nulls(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    return {key: value for key, value in message.items() if value is not None}


def _refusal_of(kind: type[CommonParameters], error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    # A part with a bracket is the name of a validator.
    path = [part for part in first["loc"] if isinstance(part, int) or "[" not in part or first["type"] == _EXTRA]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:60]}" for part in path).removeprefix(".")
    if first["type"] == _EXTRA:
        problem = "is not a parameter of this server"
        if len(first["loc"]) == 1:
            known = [*kind.model_fields, *NEUTRAL]
            problem = unknown_name(str(first["loc"][0])[:60], known).replace("a setting", "a parameter")
        return ApiError(400, f"{name}: {problem}", param=name, code="unknown_parameter")
    if first["type"] == "missing":
        return ApiError(400, f"{name}: is missing", param=name, code="missing_parameter")
    message = str(first["msg"])[:1].lower() + str(first["msg"])[1:]
    # JSON has no tuples.
    return invalid_value(name, message.replace("tuple", "list").replace(" after validation", ""))
