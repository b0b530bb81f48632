"""One split of documents for everything that is trained and measured on them: retriever, reader, both together.

A document is on one side for every recipe that uses the same seed and share, whatever else is in its files, so what a
retriever was tuned on is never what a reader is validated on.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Part = Literal["train", "valid"]
PARTS: tuple[Part, ...] = ("train", "valid")
SEED, VALID_SHARE = 708, 0.05


def part_of(document: str, *, seed: int = SEED, valid: float = VALID_SHARE) -> Part:
    """The side of a document, by a hash of its name.

    Args:
        document: Its name. What shares text has to share the name.
        seed: Changes which are held out.
        valid: Share of the documents that is held out, from 0 up to 1.
    """
    drawn = int.from_bytes(hashlib.sha256(f"{seed} {document}".encode()).digest()[:8])
    return "valid" if drawn < valid * 2**64 else "train"
