"""Which pairs are trained on and which are held out, so that no document, question or positive is on both sides.

The side of a document is that of every recipe (`retro.recipes.document_split`). A question that was asked about
documents of both sides, or a text that stands in two of them, stays with what is held out: the training pair is
dropped, and counted.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from retro.common.errors import DataError
from retro.common.files import atomic_path
from retro.recipes.dense_retriever.pairs import Pair, PairPassage, pair_of_record, question_key, text_key
from retro.recipes.document_split import Part, part_of

_SETTINGS = "recipe.dense_retriever.data"
_KINDS: Mapping[str, Callable[[Pair], str]] = {
    "documents": lambda pair: pair.document,
    "questions": lambda pair: question_key(pair.question),
    "positives": lambda pair: text_key(pair.positive.text),
}


@dataclass(frozen=True)
class Split:
    """How documents are split."""

    seed: int
    valid: float

    def part(self, document: str) -> Part:
        """The side of a document."""
        return part_of(document, seed=self.seed, valid=self.valid)


def write_parts(pairs: Callable[[], Iterable[Pair]], split: Split, train: Path, valid: Path) -> dict[str, int]:
    """Write both files, without training pairs that would leak; in memory are digests of questions and positives.

    Args:
        pairs: Gives all of them, each time it is called.
        split: Of the documents.
        train: Where the training pairs go.
        valid: Where the others go.

    Returns:
        Pairs and negatives that were left out, by reason.

    Raises:
        DataError: A part has no pair.
    """
    held_out = _HeldOut.of(pairs(), split)
    dropped, written = Counter[str](), Counter[Part]()
    with (
        atomic_path(train) as train_path,
        atomic_path(valid) as valid_path,
        train_path.open("w", encoding="utf-8") as to_train,
        valid_path.open("w", encoding="utf-8") as to_valid,
    ):
        streams = {"train": to_train, "valid": to_valid}
        for part, pair in _kept(pairs(), split, held_out, dropped):
            written[part] += 1
            streams[part].write(json.dumps(asdict(pair), ensure_ascii=False) + "\n")
        for part, path in (("train", train), ("valid", valid)):
            _require_some(part, path, written, dropped)
    return {reason: count for reason, count in sorted(dropped.items()) if count}


def prove_split(train: Path, valid: Path) -> dict[str, Any]:
    """Count documents, questions and positives in what was written, and what is on both sides: nothing.

    Raises:
        DataError: Something is; the first is named.
    """
    counts: dict[str, Any] = {"pairs": {}}
    found = {}
    for part, path in (("train", train), ("valid", valid)):
        found[part], counts["pairs"][part] = _digests_of(path)
    for kind, key_of in _KINDS.items():
        both = found["train"][kind] & found["valid"][kind]
        if both:
            first = next(key_of(pair) for pair in _read(valid) if digest(key_of(pair)) in both)
            problem = f"has {len(both)} {kind} of {train.name}, {first[:80]!r} first"
            raise DataError(valid, problem, "Run the step again with --redo")
        counts[kind] = {part: len(found[part][kind]) for part in found} | {"both": 0}
    return counts


def digest(key: str) -> bytes:
    """16 bytes that stand for a text; two of 10^9 texts share theirs with a chance of 1 in 10^21."""
    return hashlib.blake2b(key.encode(), digest_size=16).digest()


def _kept(
    pairs: Iterable[Pair], split: Split, held_out: _HeldOut, dropped: Counter[str]
) -> Iterator[tuple[Part, Pair]]:
    """Each pair that is kept, with its side; the others are counted."""
    seen = set[bytes]()
    for pair in pairs:
        part, key = split.part(pair.document), digest(f"{question_key(pair.question)}\n{text_key(pair.positive.text)}")
        reason = "duplicate" if key in seen else held_out.reason(pair) if part == "train" else ""
        seen.add(key)
        if reason:
            dropped[reason] += 1
        else:
            yield part, held_out.without_negatives(pair, dropped) if part == "train" else pair


@dataclass(frozen=True)
class _HeldOut:
    """What training must not see."""

    split: Split
    questions: set[bytes]
    positives: set[bytes]

    @classmethod
    def of(cls, pairs: Iterable[Pair], split: Split) -> _HeldOut:
        """What is held out of some pairs."""
        found = cls(split, set(), set())
        for pair in pairs:
            if split.part(pair.document) == "valid":
                found.questions.add(digest(question_key(pair.question)))
                found.positives.add(digest(text_key(pair.positive.text)))
        return found

    def reason(self, pair: Pair) -> str:
        """Why a training pair would leak; empty if it would not."""
        if digest(question_key(pair.question)) in self.questions:
            return "question_is_held_out"
        return "positive_is_held_out" if digest(text_key(pair.positive.text)) in self.positives else ""

    def without_negatives(self, pair: Pair, dropped: Counter[str]) -> Pair:
        """The pair without negatives that are held out: by their text, by the document that they name, or by title."""
        kept = tuple(one for one in pair.negatives if not self._has(one))
        dropped["negative_is_held_out"] += len(pair.negatives) - len(kept)
        return replace(pair, negatives=kept)

    def _has(self, one: PairPassage) -> bool:
        # Ids of negatives name no documents in the files of DPR: by these one in twenty would be left out for nothing.
        named = any(self.split.part(name) == "valid" for name in (one.document, one.title) if name)
        return named or digest(text_key(one.text)) in self.positives


def _require_some(part: str, path: Path, written: Mapping[Any, int], dropped: Mapping[str, int]) -> None:
    if not written.get(part):
        problem = f"would have no pair (written: {dict(written)}, dropped: {dict(dropped)})"
        raise DataError(path, problem, f"Give more documents, or set {_SETTINGS}.valid or {_SETTINGS}.seed")


def _digests_of(path: Path) -> tuple[dict[str, set[bytes]], int]:
    found: dict[str, set[bytes]] = {kind: set() for kind in _KINDS}
    count = 0
    for pair in _read(path):
        count += 1
        for kind, key_of in _KINDS.items():
            found[kind].add(digest(key_of(pair)))
    return found, count


def _read(path: Path) -> Iterator[Pair]:
    with path.open(encoding="utf-8") as lines:
        yield from (pair_of_record(json.loads(line)) for line in lines)
