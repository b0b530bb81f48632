"""Messages of a chat to the prompt that the model was tuned on: the same builder, `retro.sft.prompts`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retro.common.errors import DataError
from retro.common.qa_data import PassageLike, Question, Role, Turn
from retro.serve.errors import invalid_value
from retro.serve.model_info import ModelInfo
from retro.serve.protocol import MessageParameters
from retro.sft.chat import STYLE, build_chat, chat_of, encode_chats
from retro.sft.encode import PromptIds
from retro.sft.prepare import encode_prompts
from retro.sft.prompt_texts import shipped_prompts
from retro.sft.prompts import Prompt, build_prompt


def last_question(messages: Sequence[MessageParameters]) -> str:
    """What is asked: the text of the last message.

    Raises:
        ApiError: That is not the user's, or is empty.
    """
    last = len(messages) - 1
    if messages[last].role != "user":
        raise invalid_value(
            f"messages[{last}].role", f"needs to be 'user' in the last message, found {messages[last].role!r}"
        )
    if not messages[last].text.strip():
        raise invalid_value(f"messages[{last}].content", "is empty")
    return messages[last].text


def chat_ids(messages: Sequence[MessageParameters], passages: Sequence[PassageLike], served: ModelInfo) -> PromptIds:
    """The prompt of a chat in token ids; arguments as `chat_prompt`.

    Raises:
        ApiError: The model's chat template does not write such a conversation.
    """
    tokenizer: Any = served.tokenizer
    if served.style != STYLE:
        return encode_prompts([chat_prompt(messages, passages, served)], tokenizer, served.prefix)[0]
    template = chat_of(tokenizer, "generate.style")
    turns = tuple(Turn(_ROLES[message.role], message.text) for message in messages[:-1])
    chat = build_chat(
        Question(id="", question=last_question(messages), answers=(), turns=turns),
        passages,
        rule=(served.texts or shipped_prompts()).rule_of_kind(served.kind),
        contexts_in_prompt=served.contexts_in_prompt,
        takes_system=template.takes_system,
        texts=served.texts,
        template=served.template,
    )
    try:
        return encode_chats([chat], template)[0]
    except DataError as error:
        raise invalid_value("messages", f"cannot be written as this model's conversation: {error.problem}") from None


def chat_prompt(messages: Sequence[MessageParameters], passages: Sequence[PassageLike], served: ModelInfo) -> Prompt:
    """The prompt of a chat.

    Args:
        messages: As they came; the last is the user's. A system message at the start stands in place of the style's
            own preamble.
        passages: Those that the prompt shows, best first.
        served: The model, with its prompt style.
    """
    turns = tuple(Turn(_ROLES[message.role], message.text.strip()) for message in messages[:-1])
    question = Question(id="", question=last_question(messages), answers=(), turns=turns)
    return build_prompt(
        question,
        passages,
        style=served.style,
        kind=served.kind,
        contexts_in_prompt=served.contexts_in_prompt,
        texts=served.texts,
        template=served.template,
    )


_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
