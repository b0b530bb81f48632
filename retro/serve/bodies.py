"""What answers look like on the wire: OpenAI's objects, with `retrieval` in every choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from retro.common.answers import passage_record
from retro.common.qa_data import PassageLike
from retro.common.tokenizers import Tokenizer
from retro.generate.request import ChosenToken, Completion, Ended, Retrieved
from retro.serve.prepare import PreparedRequest, Source

_FINISH: dict[Ended, str] = {"end": "stop", "stop": "stop", "hook": "stop", "length": "length", "cancelled": "stop"}


def finish_reason(ended: Ended) -> str:
    """OpenAI's word for why an answer ended."""
    return _FINISH[ended]


def usage(prompt_tokens: int, new_tokens: int) -> dict[str, int]:
    """Tokens that were read and written; an end token is not counted."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new_tokens,
        "total_tokens": prompt_tokens + new_tokens,
    }


def usage_of(ask: PreparedRequest, completions: Sequence[Completion]) -> dict[str, int]:
    """Of all choices."""
    return usage(ask.prompt_tokens, sum(len(one.tokens) for one in completions))


def retrieval(source: Source, chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The `retrieval` block of a choice."""
    return {"source": source, "chunks": list(chunks)}


def chunk(
    tokenizer: Tokenizer, found: Retrieved, tokens: Sequence[ChosenToken], prompt_tokens: int, before: int = 0
) -> dict[str, Any]:
    """One chunk and what the encoder read for it.

    Args:
        tokenizer: Says how much of the text the answer's part of the chunk is.
        found: The chunk's end and its passages.
        tokens: Of the answer, at least those up to the chunk's end.
        prompt_tokens: Of the prompt.
        before: Letters to take off the offset: spaces at the answer's start that were not given out.
    """
    answered = max(0, found.position + 1 - prompt_tokens)
    # A chunk may end within a character; that character comes after it.
    text = tokenizer.decode([token.id for token in tokens[:answered]]).rstrip("\ufffd") if answered else ""
    return {
        "position": found.position,
        "answer_token": answered,
        "text_offset": max(0, len(text) - before),
        "passages": [passage(one) for one in found.passages],
    }


def passage(found: PassageLike) -> dict[str, Any]:
    """A passage, where it is from, and how near it is: √(2 − 2 · score) for vectors of length 1."""
    kept = passage_record(found)
    searched = kept.row >= 0
    return {
        "text": kept.text,
        "title": kept.title,
        "document_id": kept.document_id,
        "row": kept.row if searched else None,
        "score": kept.score if searched else None,
        "distance": round(math.sqrt(max(0.0, 2 - 2 * kept.score)), 6) if searched else None,
    }
