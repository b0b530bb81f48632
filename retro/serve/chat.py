"""Messages of a chat to the prompt that the model was tuned on: the same builder, `retro.qa.prompts`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from retro.common.errors import DataError
from retro.qa.chat_prompts import STYLE, build_chat, chat_of, encode_chats
from retro.qa.prompt_texts import shipped_prompts
from retro.qa.prompts import Prompt, build_prompt
from retro.qa.question import PassageLike, Question, Role, Turn
from retro.qa.sample_layout import PromptIds
from retro.serve.parameters import MessageParameters
from retro.serve.refusal import unsuitable
from retro.serve.served import Served
from retro.sft.prepare import encode_prompts


def last_question(messages: Sequence[MessageParameters]) -> str:
    """What is asked: the text of the last message.

    Raises:
        RefusalError: That is not the user's, or is empty.
    """
    last = len(messages) - 1
    if messages[last].role != "user":
        raise unsuitable(
            f"messages[{last}].role", f"needs to be 'user' in the last message, found {messages[last].role!r}"
        )
    if not messages[last].text.strip():
        raise unsuitable(f"messages[{last}].content", "is empty")
    return messages[last].text


def chat_ids(messages: Sequence[MessageParameters], passages: Sequence[PassageLike], served: Served) -> PromptIds:
    """The prompt of a chat in token ids; arguments as `chat_prompt`.

    Raises:
        RefusalError: The model's chat template does not write such a conversation.
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
        raise unsuitable("messages", f"cannot be written as this model's conversation: {error.problem}") from None


def chat_prompt(messages: Sequence[MessageParameters], passages: Sequence[PassageLike], served: Served) -> Prompt:
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
