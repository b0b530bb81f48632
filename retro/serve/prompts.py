"""Prompts to token ids: texts and ids of a completion, messages of a chat in the form that the model was tuned on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retro.common.errors import DataError
from retro.qa.chat_prompts import STYLE, build_chat, chat_of, encode_chats
from retro.qa.prompt_texts import shipped_prompts
from retro.qa.prompts import Prompt, build_prompt, encode_prompts
from retro.qa.question import PassageLike, Question, Role, Turn
from retro.qa.sample_layout import PromptIds, fit_prompt
from retro.serve.errors import ApiError, invalid_value
from retro.serve.model_info import Limits, ModelInfo
from retro.serve.protocol import Message

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def completion_prompts(prompt: Any, model: ModelInfo, limits: Limits) -> list[list[int]]:
    """Token ids of each prompt.

    Args:
        prompt: `CompletionRequest.prompt`.
        model: Its tokenizer and sequence length.
        limits: The longest prompt.

    Raises:
        ApiError: An id is not in the vocabulary, or a prompt is too long.
    """
    many = prompt if isinstance(prompt, list) and not isinstance(prompt[0], int) else [prompt]
    if isinstance(many[0], str):
        # An empty text begins a document.
        rows = [[*model.prefix, *ids] or [model.tokenizer.eod] for ids in model.tokenizer.encode_batch(many)]
    else:
        rows = many
        _require_in_vocabulary(rows, model.tokenizer.vocab_size)
    for number, row in enumerate(rows):
        require_fit(row, f"prompt[{number}]" if isinstance(prompt, list) else "prompt", model, limits)
    return rows


def _require_in_vocabulary(rows: Sequence[Sequence[int]], size: int) -> None:
    largest, smallest = max(map(max, rows)), min(map(min, rows))
    if smallest < 0 or largest >= size:
        wrong = smallest if smallest < 0 else largest
        raise invalid_value("prompt", f"has the token id {short_number(wrong)}; ids are 0 to {size - 1}")


def short_number(number: int) -> str:
    """A number from a request as an error message shows it."""
    return str(number) if abs(number) < 10**20 else f"{'-' if number < 0 else ''}1e20 or more"


def require_fit(prompt: Sequence[int], param: str, model: ModelInfo, limits: Limits) -> None:
    """Check that a prompt leaves room for an answer.

    Raises:
        ApiError: It is too long; the setting that limits it is named.
    """
    most = min(limits.prompt_tokens, model.sequence_length - 1)
    if len(prompt) > most:
        setting = "serve.max_prompt_tokens" if most == limits.prompt_tokens else "generate.sequence_length"
        message = f"{param}: has {len(prompt):,} tokens; this server takes {most:,} ({setting})"
        raise ApiError(400, message, param=param, code="context_length_exceeded")


def last_question(messages: Sequence[Message]) -> str:
    """The question of a chat: the text of its last message.

    Raises:
        ApiError: That is not the user's, or is empty.
    """
    number, last = len(messages) - 1, messages[-1]
    if last.role != "user":
        problem = f"needs to be 'user' in the last message, found {last.role!r}"
        raise invalid_value(f"messages[{number}].role", problem)
    if not last.text.strip():
        raise invalid_value(f"messages[{number}].content", "is empty")
    return last.text


def chat_prompt(
    messages: Sequence[Message],
    passages: Sequence[PassageLike],
    model: ModelInfo,
    limits: Limits,
    new_tokens: int | None,
) -> list[int]:
    """Token ids of a chat's prompt; its passages are cut, then dropped, where they do not fit beside the answer.

    Args:
        messages: As they came; the last is the user's. A system message at the start replaces the style's preamble.
        passages: Those that the prompt shows, best first.
        model: With its prompt style.
        limits: The longest prompt and answer.
        new_tokens: Length of the answer, where the request says.

    Raises:
        ApiError: It is too long, or the model's chat template refuses such a conversation.
    """
    ids = _encode_chat(messages, passages, model)
    room = model.sequence_length - min(new_tokens or limits.new_tokens, model.sequence_length // 2)
    fitted = fit_prompt(ids, min(room, limits.prompt_tokens))
    # What does not fit without passages may still fit before a shorter answer.
    prompt = [*ids.head, *ids.tail] if fitted is None else fitted[0]
    require_fit(prompt, "messages", model, limits)
    return prompt


def _encode_chat(messages: Sequence[Message], passages: Sequence[PassageLike], model: ModelInfo) -> PromptIds:
    tokenizer: Any = model.tokenizer
    if model.style != STYLE:
        return encode_prompts([_styled_prompt(messages, passages, model)], tokenizer, model.prefix)[0]
    template = chat_of(tokenizer, "generate.style")
    turns = tuple(Turn(_ROLES[message.role], message.text) for message in messages[:-1])
    chat = build_chat(
        Question(id="", question=last_question(messages), answers=(), turns=turns),
        passages,
        rule=(model.texts or shipped_prompts()).rule_of_kind(model.kind),
        contexts_in_prompt=model.contexts_in_prompt,
        takes_system=template.takes_system,
        texts=model.texts,
        template=model.template,
        order=model.passage_order,
    )
    try:
        return encode_chats([chat], template)[0]
    except DataError as error:
        raise invalid_value("messages", f"cannot be written as this model's conversation: {error.problem}") from None


def _styled_prompt(messages: Sequence[Message], passages: Sequence[PassageLike], model: ModelInfo) -> Prompt:
    turns = tuple(Turn(_ROLES[message.role], message.text.strip()) for message in messages[:-1])
    return build_prompt(
        Question(id="", question=last_question(messages), answers=(), turns=turns),
        passages,
        style=model.style,
        kind=model.kind,
        contexts_in_prompt=model.contexts_in_prompt,
        texts=model.texts,
        template=model.template,
        order=model.passage_order,
    )
