"""Conversations and single replies: ShareGPT, HuggingFace, OpenAssistant; Alpaca and Dolly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from retro.qa.formats.item import ROLES, BadItemError, Converted, Item, Options, id_of, optional_text, text_of
from retro.qa.question import Context, Question, Turn


def sharegpt(item: Item, number: str, options: Options) -> list[Converted]:
    """`{"id", "conversations": [{"from": "human" or "gpt", "value"}]}`."""
    turns = [_turn(one, "from", "value") for one in _list(item, "conversations")]
    return conversation(turns, id_of(item, number, "id"), options)


def chat_messages(item: Item, number: str, options: Options) -> list[Converted]:
    """`{"messages": [{"role", "content"}]}`, as chat templates of transformers take them."""
    turns = [_turn(one, "role", "content") for one in _list(item, "messages")]
    return conversation(turns, id_of(item, number, "id", "prompt_id", "conversation_id"), options)


def oasst(item: Item, number: str, options: Options) -> list[Converted]:
    """A tree of OpenAssistant: `{"message_tree_id", "prompt": {"text", "role", "lang", "replies": [...]}}`."""
    root = item.get("prompt")
    if not isinstance(root, dict):
        raise BadItemError("no_conversation", f"has {str(root)[:40]!r} in 'prompt', needs the first message of a tree")
    if root.get("deleted") is True:
        raise BadItemError("deleted", "was deleted")
    if options.language and root.get("lang") != options.language:
        return []
    tree = id_of(item, number, "message_tree_id")
    made: dict[str, Converted] = {}
    for path in _paths(root, options):
        turns = [_turn(message, "role", "text") for message in path]
        for one in conversation(turns, "", options, [_message_id(message) for message in path]):
            # Paths share their beginnings, so with every turn wanted the same one comes up again.
            made.setdefault(one.question.id, Converted(one.question, group=tree))
    return list(made.values())


def _message_id(message: Item) -> str:
    name = id_of(message, "", "message_id")
    if not name:
        raise BadItemError(
            "no_id", f"has a message with message_id = {str(message.get('message_id'))[:40]!r}, needs a text"
        )
    return name


def _paths(message: Any, options: Options) -> Iterator[list[dict[str, Any]]]:
    if not isinstance(message, dict) or message.get("deleted") is True:
        return
    replies = message.get("replies") or []
    if not isinstance(replies, list):
        raise BadItemError("wrong_type", f"has a {type(replies).__name__} in 'replies', needs a list")
    ranked = sorted(enumerate(replies), key=lambda pair: (_rank(pair[1]), pair[0]))
    below = [path for _, reply in ranked for path in _paths(reply, options)]
    if not below:
        yield [message]
        return
    for path in below if options.paths == "all" else below[:1]:
        yield [message, *path]


def _rank(message: Any) -> float:
    """Rank 0 is the reply that people liked best; one without a rank comes last."""
    rank = message.get("rank") if isinstance(message, dict) else None
    return float(rank) if isinstance(rank, int | float) else float("inf")


def conversation(
    turns: Sequence[Turn], identifier: str, options: Options, names: Sequence[str] | None = None
) -> list[Converted]:
    """The questions of a conversation. What the user said last is left out where nobody replied.

    Args:
        turns: In order.
        identifier: Of the conversation.
        options: Whether the last turn of the assistant is learned, or every one.
        names: Ids of the turns; without them, the conversation's, with the turn's number where every turn is learned.

    Raises:
        BadItemError: The turns do not alternate, or the assistant says nothing.
    """
    first = 1 if turns and turns[0].role == "system" else 0
    for place, turn in enumerate(turns[first:]):
        wanted = "assistant" if place % 2 else "user"
        if turn.role != wanted:
            problem = f"has turn {first + place} of the {turn.role}; the {wanted}'s was due"
            raise BadItemError("turns_do_not_alternate", problem)
    replies = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
    if not replies:
        raise BadItemError("no_answer", "has no turn of the assistant")
    wanted_replies = replies if options.turns == "every" else replies[-1:]
    return [_of_reply(turns, place, _name(identifier, place, options, names), identifier) for place in wanted_replies]


def _name(identifier: str, place: int, options: Options, names: Sequence[str] | None) -> str:
    if names is not None:
        return names[place]
    return f"{identifier}/{place}" if options.turns == "every" else identifier


def _of_reply(turns: Sequence[Turn], place: int, name: str, group: str) -> Converted:
    asked, said = turns[place - 1].text, turns[place].text
    question = Question(id=name, question=asked, answers=(said,), turns=tuple(turns[: place - 1]))
    return Converted(question, group=group)


def _list(item: Item, key: str) -> list[Any]:
    value = item.get(key)
    if not isinstance(value, list) or not value:
        raise BadItemError("no_conversation", f"has {str(value)[:40]!r} in {key!r}, needs a list of turns")
    return value


def _turn(message: Any, role_key: str, text_key: str) -> Turn:
    if not isinstance(message, dict):
        raise BadItemError("wrong_type", f"has the turn {str(message)[:40]!r}, needs an object")
    role = str(message.get(role_key))
    if role not in ROLES:
        raise BadItemError("unknown_role", f"has a turn of {role!r}, known: {', '.join(ROLES)}")
    content = message.get(text_key)
    if isinstance(content, list):
        message = message | {text_key: _joined(content)}
    return Turn(ROLES[role], text_of(message, text_key, "text_in_a_turn"))


def _joined(parts: Sequence[Any]) -> str:
    """Content in parts: texts are joined; an image or a sound cannot be learned from."""
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadItemError("not_text", f"has a turn with {str(part)[:60]!r}, needs texts only")
    return "\n".join(part["text"] for part in parts)


def alpaca(item: Item, number: str, options: Options) -> list[Converted]:
    """`{"instruction", "input", "output"}`; the input follows the instruction after a blank line."""
    asked = _with_below(text_of(item, "instruction", "question"), optional_text(item, "input"))
    answer = text_of(item, "output", "answer")
    return [Converted(Question(id=id_of(item, number, "id"), question=asked, answers=(answer,)))]


def dolly(item: Item, number: str, options: Options) -> list[Converted]:
    """`{"instruction", "context", "response", "category"}`; the context is a part of the question, or a passage."""
    asked, context = text_of(item, "instruction", "question"), optional_text(item, "context")
    shown = (Context("", context),) if context and options.passages else ()
    question = Question(
        id=id_of(item, number, "id"),
        question=asked if shown else _with_below(asked, context),
        answers=(text_of(item, "response", "answer"),),
        contexts=shown,
    )
    return [Converted(question, gold=range(len(shown)))]


def _with_below(instruction: str, below: str) -> str:
    return f"{instruction}\n\n{below}" if below else instruction
