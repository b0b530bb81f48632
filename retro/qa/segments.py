"""An answer in segments, each of them learned or only read: recipes' samples, and what their decoding appends.

    [Retrieval] learned   <paragraph>...</paragraph> read, not learned   [Relevant] and the answer learned

A segment is a text, or a special token by its name. Each is encoded by itself, in training and wherever a recipe
appends one to a sequence, so that the model meets the same ids in both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from retro.common.errors import ConfigError
from retro.qa.passages import Encoder
from retro.qa.question import Segment
from retro.tokenizers.added_tokens import token_ids

SETTING = "sft.special_tokens"


def encode_segments(segments: Sequence[Segment], tokenizer: Encoder) -> tuple[list[int], list[bool]]:
    """Token ids of segments in a row, and for each token whether it is learned.

    Raises:
        ConfigError: The tokenizer lacks a special token that a segment names.
    """
    named = token_ids(tokenizer, sorted({one.token for one in segments if one.token}), SETTING)
    texts = iter(tokenizer.encode_batch([one.text for one in segments if not one.token]))
    ids: list[int] = []
    learned: list[bool] = []
    for one in segments:
        mine = [named[one.token]] if one.token else next(texts)
        ids += mine
        learned += [one.learn] * len(mine)
    return ids, learned


def split_at_tokens(text: str, tokens: Sequence[str], *, learn: bool = True) -> tuple[Segment, ...]:
    """A text in which special tokens are spelled, as segments.

    Args:
        text: Such as `[Relevant]Paris.[Utility:5]`.
        tokens: Names of the special tokens.
        learn: Whether all of it is learned.
    """
    if not all(tokens):
        raise ConfigError(SETTING, list(tokens), "needs names that are not blank")
    # Longer names first: one may begin with another.
    names = sorted(tokens, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
    return tuple(
        Segment(token=part, learn=learn) if part in tokens else Segment(text=part, learn=learn)
        for part in parts
        if part
    )


def joined_text(segments: Sequence[Segment]) -> str:
    """The answer as people read it: texts and names of special tokens, end to end."""
    return "".join(one.token or one.text for one in segments)
