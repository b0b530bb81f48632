"""What a client of Search-R1's protocol does with the answer of `/retrieve`, written from its description."""

from __future__ import annotations

from typing import Any

from tests.serve.running import RunningServer


def ask(server: RunningServer, queries: list[str], topk: int = 3, **more: Any) -> list[list[Any]]:
    """Passages with their scores for each text."""
    answer = server.post("/retrieve", {"queries": queries, "topk": topk, "return_scores": True} | more)
    assert answer.status == 200, answer.text
    result: list[list[Any]] = answer.json["result"]
    assert len(result) == len(queries)
    return result


def read(found: list[Any]) -> list[tuple[str, str]]:
    """Title and text of scored passages: the title is the first line of the contents, all the rest is text."""
    parted = (one["document"]["contents"].split("\n", 1) for one in found)
    return [(title, text) for title, text in parted]


def observation(found: list[Any]) -> str:
    """What a policy reads between its turns."""
    return "".join(f"Doc {number}(Title: {title}) {text}\n" for number, (title, text) in enumerate(read(found), 1))
