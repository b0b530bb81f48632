"""Request bodies: OpenAI's parameters and ours, as published at /openapi.json.

A parameter that would change the answer and is not supported is refused, never ignored; at the value that changes
nothing (`frequency_penalty: 0`) it is accepted. A parameter that is null counts as absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from retro.common.config import unknown_name
from retro.generate.config import LARGEST_PENALTY, LEAST_PENALTY

LARGEST_SEED = 2**63 - 1
MAX_STOPS = 4
MAX_LOGPROBS = 20

Source = Literal["live", "given", "none"]
"""Where passages come from: a search for each chunk, the request itself, or nowhere."""


class RequestModel(BaseModel):
    """A JSON object of a request: unknown names are refused, null counts as absent."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value is not None}
        unknown = next((name for name in given if name not in cls.model_fields), None)
        if unknown is not None:
            # Escaped, because an error is one line.
            name = repr(unknown[:60])[1:-1]
            problem = unknown_name(name, list(cls.model_fields)).replace("a setting", "a parameter")
            raise PydanticCustomError("unknown_parameter", "{problem}", {"problem": problem, "name": name})
        return given

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The schema, in which everything but required fields may be null."""
        reference = handler(schema)
        found = handler.resolve_ref_schema(reference)
        found["additionalProperties"] = {"type": "null"}
        for name, field in found.get("properties", {}).items():
            # pydantic leaves out the description of a field whose type is a model and that has a default.
            if description := cls.model_fields[name].description:
                field["description"] = description
            if name not in found.get("required", ()) and field.keys() & {"type", "$ref", "anyOf"}:
                found["properties"][name] = _nullable(field)
        return reference


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    about: dict[str, Any] = {name: schema[name] for name in ("title", "description", "default") if name in schema}
    value = {name: part for name, part in schema.items() if name not in about}
    options = value.get("anyOf", [value])
    return {"anyOf": [*(one for one in options if one != {"type": "null"}), {"type": "null"}], **about}


# Compared by identity: 0 equals False, and typing would take one mark for the other.
@dataclass(frozen=True, eq=False)
class OpenAiOnly:
    """Marks a parameter of OpenAI's that has no effect here."""

    neutral: tuple[Any, ...] | None
    """The values at which it changes nothing; others are refused. None: it never changes an answer, and is ignored."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Accept a neutral value, and forget it."""
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The neutral values."""
        if self.neutral is None:
            return {"description": "Accepted and ignored: it says nothing about the answer."}
        return {"enum": [*self.neutral, None], "description": "Not supported: only values that change nothing."}

    def _check(self, value: Any) -> None:
        same_type = (one for one in self.neutral or () if isinstance(one, bool) == isinstance(value, bool))
        if self.neutral is not None and value not in same_type:
            raise PydanticCustomError("unsupported_parameter", "is not supported by this server")


class OpenAiParameters(RequestModel):
    """Parameters of OpenAI's API that clients may send, and that have no effect here."""

    frequency_penalty: Annotated[Any, OpenAiOnly((0,))] = None
    presence_penalty: Annotated[Any, OpenAiOnly((0,))] = None
    logit_bias: Annotated[Any, OpenAiOnly(({},))] = None
    best_of: Annotated[Any, OpenAiOnly((1,))] = None
    suffix: Annotated[Any, OpenAiOnly(("",))] = None
    store: Annotated[Any, OpenAiOnly((False,))] = None
    tools: Annotated[Any, OpenAiOnly(([],))] = None
    tool_choice: Annotated[Any, OpenAiOnly(("none", "auto"))] = None
    parallel_tool_calls: Annotated[Any, OpenAiOnly((True, False))] = None
    functions: Annotated[Any, OpenAiOnly(([],))] = None
    function_call: Annotated[Any, OpenAiOnly(("none", "auto"))] = None
    response_format: Annotated[Any, OpenAiOnly(({"type": "text"},))] = None
    modalities: Annotated[Any, OpenAiOnly((["text"],))] = None
    audio: Annotated[Any, OpenAiOnly(())] = None
    prediction: Annotated[Any, OpenAiOnly(())] = None
    reasoning_effort: Annotated[Any, OpenAiOnly(())] = None
    verbosity: Annotated[Any, OpenAiOnly(())] = None
    web_search_options: Annotated[Any, OpenAiOnly(())] = None
    user: Annotated[Any, OpenAiOnly(None)] = None
    metadata: Annotated[Any, OpenAiOnly(None)] = None
    service_tier: Annotated[Any, OpenAiOnly(None)] = None
    safety_identifier: Annotated[Any, OpenAiOnly(None)] = None
    prompt_cache_key: Annotated[Any, OpenAiOnly(None)] = None


PositiveCount = Annotated[StrictInt, Field(ge=1)]
NonEmptyText = Annotated[StrictStr, Field(min_length=1)]


class Passage(RequestModel):
    """A passage that comes with the request."""

    text: NonEmptyText
    """Its text."""
    title: StrictStr = ""
    """Title of its document."""
    document_id: StrictStr = ""
    """Id of its document; it is given back with the answer."""


class RetrievalOptions(RequestModel):
    """Which passages the answer is conditioned on."""

    source: Source | None = None
    """`live`: a search for each chunk; `given`: the request's own passages; `none`. Absent: `given` where there are
    passages, else the server's default."""
    k: PositiveCount | None = None
    """With `live`: passages for each chunk; absent: as many as the model was trained with."""
    every: PositiveCount | None = None
    """With `live`: generated tokens between two searches; absent: the chunk length, one search a chunk."""
    passages: Annotated[
        tuple[
            Annotated[
                Passage,
                BeforeValidator(
                    lambda value: {"text": value} if isinstance(value, str) else value,
                    json_schema_input_type=NonEmptyText | Passage,
                ),
            ],
            ...,
        ],
        Field(fail_fast=True),
    ] = ()
    """With `given`: at least one, best first, each a text or an object."""


class StreamOptions(RequestModel):
    """Options of a streamed answer."""

    include_usage: StrictBool = False
    """Whether the last event before `[DONE]` counts the tokens."""


StopTexts = Annotated[
    tuple[NonEmptyText, ...],
    Field(max_length=MAX_STOPS, fail_fast=True),
    BeforeValidator(
        lambda value: [value] if isinstance(value, str) else value,
        json_schema_input_type=NonEmptyText | Annotated[list[NonEmptyText], Field(max_length=MAX_STOPS)],
    ),
]


class GenerationParameters(OpenAiParameters):
    """What completions and chats have in common; defaults are OpenAI's."""

    model: StrictStr | None = None
    """Name of the served model, as in /v1/models; absent: that model."""
    n: PositiveCount = 1
    """Answers for each prompt."""
    temperature: Annotated[float, Field(strict=True, ge=0, le=2)] = 1.0
    """Divides the logits; 0 takes the most likely token."""
    top_p: Annotated[float, Field(strict=True, gt=0, le=1)] = 1.0
    """Draw from the most likely tokens that together have this probability."""
    top_k: Annotated[StrictInt, Field(ge=0)] = 0
    """Draw from this many of the most likely tokens; 0: from all."""
    repetition_penalty: Annotated[float, Field(strict=True, ge=LEAST_PENALTY, le=LARGEST_PENALTY)] = 1.0
    """Lowers the logits of tokens that occur in prompt or answer; 1 changes nothing."""
    min_tokens: Annotated[StrictInt, Field(ge=0)] = 0
    """Tokens before which an answer does not end."""
    stop: StopTexts = ()
    """Texts that end an answer and are not part of it."""
    seed: Annotated[StrictInt, Field(ge=0, le=LARGEST_SEED)] | None = None
    """Makes the answer repeatable; choice i of `n` has `seed` + i. Absent: drawn."""
    max_tokens: PositiveCount | None = None
    """Most tokens of each answer. Absent: 16 for completions, the server's limit for chats."""
    stream: StrictBool = False
    """Send the answer as server-sent events while it is generated."""
    stream_options: StreamOptions = StreamOptions()
    """Options of a streamed answer."""
    retrieval: RetrievalOptions = RetrievalOptions()
    """Which passages the answer is conditioned on."""


TokenId = Annotated[StrictInt, WithJsonSchema({"type": "integer", "minimum": 0})]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


def _one_kind_of_prompt(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    if value == []:
        raise PydanticCustomError("empty_prompt", "is an empty list")
    try:
        return validate(value)
    except ValidationError:
        kinds = "a text, a list of texts, a list of token ids, or a list of such lists"
        raise PydanticCustomError("prompt_type", f"needs {kinds}") from None


Prompt = Annotated[
    StrictStr
    | Annotated[list[StrictStr], Field(min_length=1, fail_fast=True)]
    | TokenIds
    | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True)],
    WrapValidator(_one_kind_of_prompt),
]


class CompletionRequest(GenerationParameters):
    """Body of `POST /v1/completions`."""

    prompt: Prompt
    """One prompt or several, as texts or token ids."""
    logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    """Give log-probabilities: of each token, and of this many of the most likely at its place."""
    echo: StrictBool = False
    """Give the prompt back before each answer; not together with `logprobs`."""


class MessagePart(RequestModel):
    """A part of a message."""

    type: Literal["text"]
    """Only texts."""
    text: StrictStr
    """The text."""


class Message(RequestModel):
    """One message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    """Who speaks; `developer` is another word for `system`."""
    content: Annotated[
        tuple[MessagePart, ...],
        Field(fail_fast=True),
        BeforeValidator(
            lambda value: [{"type": "text", "text": value}] if isinstance(value, str) else value,
            json_schema_input_type=StrictStr | list[MessagePart],
        ),
    ]
    """A text, or parts that are put together."""

    @property
    def text(self) -> str:
        """The parts as one text."""
        return "".join(part.text for part in self.content)


class ChatRequest(GenerationParameters):
    """Body of `POST /v1/chat/completions`."""

    messages: Annotated[tuple[Message, ...], Field(min_length=1, fail_fast=True)]
    """The conversation; the last message is the user's question."""
    max_completion_tokens: PositiveCount | None = None
    """OpenAI's newer name of `max_tokens`; give one of the two."""
    logprobs: StrictBool = False
    """Give log-probabilities of the answer's tokens."""
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    """Give those of this many of the most likely tokens too; needs `logprobs`."""
