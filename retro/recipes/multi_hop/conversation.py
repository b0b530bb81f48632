"""The conversation in which a model looks things up: turns, the call of a function, and what is learned of them.

    system: …<|eot|>
    user: Which is older, the bridge or the tower?<|eot|>
    assistant:<|bof|>retrieve:
    {"query": "When was the bridge built?"}<|eof|><|eot|>
    retrieved context: The bridge was opened in 1873.<|eot|>
    assistant: The bridge was opened in 1873. …

Everything is in segments (`retro.qa.segments`), each encoded by itself: training and inference have the same ids, a
text that spells a special token stays text, and the loss is on what the assistant writes, through its `<|eot|>`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from retro.common.json_files import JsonError, half_character, parse_json
from retro.qa.question import Segment
from retro.recipes.multi_hop.items import MultiHopItem

BEGIN_CALL, END_CALL, END_TURN = "<|bof|>", "<|eof|>", "<|eot|>"
TOKENS = (BEGIN_CALL, END_CALL, END_TURN)
"""The special tokens, in the order of their ids."""
FUNCTION = "retrieve"
Role = Literal["system", "user", "assistant", "retrieved context"]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one side says."""

    role: Role
    text: str = ""
    query: str = ""
    """Of the assistant: what it calls the function with, after the text; empty: it calls nothing."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a reply of the model comes down to."""

    text: str = ""
    """Before a call, or all of it."""
    query: str = ""
    """What it searches for; empty: nothing."""
    problem: str = ""
    """Why its call cannot be followed; empty: it can, or there is none."""


def call_text(query: str) -> str:
    """What stands between `<|bof|>` and `<|eof|>`."""
    return f"{FUNCTION}:\n{json.dumps({'query': query}, ensure_ascii=False)}"


def turns_of(item: MultiHopItem, system: str) -> list[Turn]:
    """The conversation that an item teaches.

    A call with the whole question and the final answer, where one look-up is enough; else a call for each sub-question.
    The answer to a sub-question is the text before the next call; the last one comes before the final answer.
    """
    asked = [one.question for one in item.sub_questions] if item.multihop else [item.question]
    turns = [Turn(role="system", text=system), Turn(role="user", text=item.question)]
    said = ""
    for query, one in zip(asked, item.sub_questions, strict=True):
        turns.append(Turn(role="assistant", text=said, query=query))
        turns.append(Turn(role="retrieved context", text=on_one_line(one.paragraph)))
        said = one.long_answer
    return [*turns, Turn(role="assistant", text=f"{said}\n{item.final_answer}" if item.multihop else item.final_answer)]


def on_one_line(text: str) -> str:
    """A paragraph as a context has it: line breaks are blanks."""
    return " ".join(text.split())


def _written(turn: Turn) -> list[Segment]:
    found = [Segment(text=f" {turn.text}\n" if turn.query else f" {turn.text}")] if turn.text else []
    if turn.query:
        found += [Segment(token=BEGIN_CALL), Segment(text=call_text(turn.query)), Segment(token=END_CALL)]
    return [*found, Segment(token=END_TURN)]


def conversation_segments(turns: Sequence[Turn]) -> list[Segment]:
    """Turns in segments; those of the assistant are learned, through the token that ends them."""
    found: list[Segment] = []
    for turn in turns:
        line = "\n" if found else ""
        if turn.role == "assistant":
            found += [Segment(text=f"{line}assistant:", learn=False), *_written(turn)]
        else:
            found.append(Segment(text=f"{line}{turn.role}: {turn.text}", learn=False))
            found.append(Segment(token=END_TURN, learn=False))
    return found


def prompt_segments(turns: Sequence[Turn], begun: str = "") -> tuple[Segment, ...]:
    """What a model goes on from: the conversation, and the assistant's turn begun.

    Args:
        turns: So far.
        begun: How the assistant's text begins; it goes on with that.
    """
    start = [Segment(text="\nassistant:", learn=False)] + ([Segment(text=f" {begun}", learn=False)] if begun else [])
    return (*conversation_segments(turns), *start)


def sample_id(item: MultiHopItem, number: int) -> str:
    """What an item is called as a sample: by its id, or its number."""
    return item.id or str(number)


def sample_of(item: MultiHopItem, number: int, system: str) -> dict[str, Any]:
    """An item as a line of a question file for the sft stage."""
    segments = conversation_segments(turns_of(item, system))
    return {
        "id": sample_id(item, number),
        "question": item.question,
        "answer": item.final_answer,
        "segments": [_record(one) for one in segments],
        "segments_only": True,
        "labels": {"kind": "multi_hop" if item.multihop else "single_hop"},
    }


def _record(one: Segment) -> dict[str, Any]:
    content = {"token": one.token} if one.token else {"text": one.text}
    return content if one.learn else content | {"learn": False}


def said_by(reply: Sequence[Segment]) -> Said:
    """What a reply comes down to: its text, and the first call in it.

    Args:
        reply: What the model wrote, up to where it stopped. A missing `<|eof|>` is a call without an end.
    """
    names = [one.token for one in reply]
    end = names.index(END_TURN) if END_TURN in names else len(reply)
    begin = names.index(BEGIN_CALL) if BEGIN_CALL in names[:end] else end
    text = _text(reply[:begin])
    if begin == end:
        return Said(text=text)
    close = names.index(END_CALL, begin) if END_CALL in names[begin:end] else -1
    if close < 0:
        return Said(text=text, problem="a call that does not end")
    query, problem = _query(_text(reply[begin + 1 : close]))
    return Said(text=text, query=query, problem=problem)


def _text(segments: Sequence[Segment]) -> str:
    return "".join(one.text for one in segments).strip()


def _query(call: str) -> tuple[str, str]:
    """The query of a call, or what is wrong with the call."""
    name, _, arguments = call.partition(":")
    if name.strip() != FUNCTION:
        return "", f"a call of {name.strip()[:40]!r}, and there is {FUNCTION!r} alone"
    try:
        given = parse_json(arguments)
    except JsonError as error:
        return "", f"arguments that are {error}"
    if not isinstance(given, Mapping) or set(given) != {"query"} or not isinstance(given["query"], str):
        return "", "arguments that are not a query alone"
    if half_character(arguments, given):
        return "", "a query with half of a surrogate pair, which is no text"
    query = on_one_line(given["query"])
    return (query, "") if query else ("", "an empty query")
