"""A question as a conversation: the turns that the model's own chat template writes.

    system turn   the conversation's own, else the style's preamble
    earlier turns examples of a task, then what was said before
    user turn     passages, instruction, question

All is encoded in one piece, so that an uncut prompt has the ids of transformers' `apply_chat_template`. Where it does
not fit, tokens are taken from the worst passages, as in the other styles.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

from retro.qa.prompt_texts import PromptTexts, Rule, shipped_prompts
from retro.qa.prompts import asked_text, render_passages, shown_order
from retro.qa.question import PassageLike, PassageOrder, Question
from retro.qa.sample_layout import PromptIds
from retro.tokenizers.chat_template import ChatTemplate, Message, open_chat
from retro.tokenizers.tokenizer import HuggingFaceTokenizer

STYLE = "chat"


@dataclass(frozen=True, kw_only=True)
class Chat:
    """A conversation that ends with the user's turn."""

    messages: tuple[Message, ...]
    passages: tuple[str, ...] = ()
    """As they stand in that turn, end to end."""
    ranks: tuple[int, ...] = ()
    """Rank of each of them, 0 the best."""
    separator: str = ""
    """What ends each of them."""


def has_chat(tokenizer: object) -> bool:
    """Whether a tokenizer has a chat template that can be used."""
    return isinstance(tokenizer, HuggingFaceTokenizer) and bool(tokenizer.conventions.chat_template)


def chat_of(tokenizer: object, setting: str) -> ChatTemplate:
    """The chat template of a tokenizer; see `open_chat`. Opening one reads the tokenizer's file: it is kept."""
    return _opened(tokenizer, setting)


@lru_cache(maxsize=2)
def _opened(tokenizer: Hashable, setting: str) -> ChatTemplate:
    return open_chat(tokenizer, setting)


def build_chat(
    question: Question,
    passages: Sequence[PassageLike],
    *,
    rule: Rule,
    contexts_in_prompt: int,
    takes_system: bool,
    texts: PromptTexts | None = None,
    template: str = "",
    examples: Sequence[Question] = (),
    example_contexts: int = 0,
    order: PassageOrder = "best_first",
) -> Chat:
    """The conversation of one question.

    Args:
        question: The question, with what was said before it, and its options if it has any.
        passages: Candidates for the prompt, best first.
        rule: How it is asked.
        contexts_in_prompt: How many passages to show at most.
        takes_system: Whether the chat template has a system turn; without, its text comes before the user's first.
        texts: The prompt texts; absent: the shipped ones.
        template: One of their templates, in place of the usual order of passages and question.
        examples: Questions that are shown with their first answers, as turns before all others but the system's.
        example_contexts: How many passages are shown with each of them.
        order: How passages stand.
    """
    known = texts or shipped_prompts()
    ways = (rule, known, template, order)
    turns = [{"role": turn.role, "content": turn.text} for turn in question.turns]
    preamble = known.styles[STYLE].preamble
    system = [turns.pop(0)] if turns and turns[0]["role"] == "system" else []
    if preamble and not system:
        system = [{"role": "system", "content": preamble}]
    shown: list[dict[str, str]] = []
    for one in examples:
        content, _ = _user_turn(one, one.contexts[:example_contexts], *ways)
        shown += [{"role": "user", "content": content}, {"role": "assistant", "content": one.answers[0]}]
    content, block = _user_turn(question, passages[:contexts_in_prompt], *ways)
    ranks = tuple(shown_order(len(block), order))
    messages = [*system, *shown, *turns, {"role": "user", "content": content}]
    if system and not takes_system and messages[1]["role"] == "user":
        words = f"{system[0]['content']}{known.styles[STYLE].separator}{messages[1]['content']}"
        messages = [{"role": "user", "content": words}, *messages[2:]]
    separator = known.styles[STYLE].separator if block else ""
    return Chat(messages=tuple(messages), passages=block, ranks=ranks, separator=separator)


def _user_turn(
    question: Question,
    passages: Sequence[PassageLike],
    rule: Rule,
    texts: PromptTexts,
    template: str,
    order: PassageOrder,
) -> tuple[str, tuple[str, ...]]:
    """The user's turn, and the passages in it."""
    form = texts.styles[STYLE]
    shown = passages if rule.texts.contexts else ()
    block = render_passages(form, shown, order)
    before, after = texts.templates[template].split("{passages}", 1) if template else ("", "{question}")
    return before + "".join(block) + after.replace("{question}", asked_text(question, rule, form, template)), block


def encode_chats(chats: Sequence[Chat], template: ChatTemplate) -> list[PromptIds]:
    """Token ids of conversations with the assistant's turn begun, in the parts that `fit_prompt` knows.

    Raises:
        DataError: The template refuses a conversation.
    """
    return [_encode(chat, template) for chat in chats]


def _encode(chat: Chat, template: ChatTemplate) -> PromptIds:
    rendered = template.encode(chat.messages, begin_answer=True)
    # A template may cut spaces off a turn, and passages may begin one.
    whole = "".join(chat.passages)
    block = whole.strip()
    # The question may say what a passage says: they are looked for from where the turn begins.
    turn = rendered.text.rfind(chat.messages[-1]["content"].strip())
    at = rendered.text.find(block, max(turn, 0)) if block else -1
    if at < 0:
        return PromptIds(rendered.ids, (), ())
    stop, space = at + len(block), whole[len(whole.rstrip()) :]
    if rendered.text.startswith(space, stop):
        stop += len(space)
    begin = at - (len(whole) - len(whole.lstrip()))
    ends = accumulate(map(len, chat.passages), initial=0)
    bounds = [bisect_left(rendered.starts, min(max(at, begin + end), stop)) for end in ends]
    contexts = [rendered.ids[first:last] for first, last in pairwise(bounds)]
    return PromptIds(
        rendered.ids[: bounds[0]],
        contexts,
        rendered.ids[bounds[-1] :],
        chat.ranks,
        template.encode_text(chat.separator),
    )
