"""A SentencePiece BPE as a `tokenizers` file: the ids of the library it comes from, or a reason."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from retro.tokenizers.sentencepiece_bpe import PieceVocabulary, bpe_tokenizer, inexact, read_vocabulary

TEXT = ["the width of the door", "a room    with a view", "def width(door):\n        return door"]
SPACE = "\u2581"


def model(**settings: Any) -> bytes:
    ways: dict[str, Any] = {
        "model_type": "bpe", "vocab_size": 400, "hard_vocab_limit": False, "byte_fallback": True,
        "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "minloglevel": 2,
    } | settings  # fmt: skip
    written = io.BytesIO()
    lines = iter("\n".join(TEXT * 5).split("\n"))
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=written, **ways)
    return written.getvalue()


def vocabulary(path: Path, content: bytes) -> PieceVocabulary:
    path.write_bytes(content)
    found = read_vocabulary(path)
    assert found is not None
    return found


@pytest.mark.parametrize("sizes", [(2, 4, 8, 5, 16, 6, 12, 13, 10, 14, 3, 9, 7, 11), (2, 4, 8)])
def test_rows_of_spaces_may_share_a_score_as_llamas_do(sizes: tuple[int, ...], tmp_path: Path) -> None:
    pytest.importorskip("google.protobuf")
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model())
    known = {piece.piece for piece in proto.pieces}
    for piece in proto.pieces:
        if set(piece.piece) == {SPACE}:
            piece.score = -1e9
    for size in sizes:
        if SPACE * size not in known:
            proto.pieces.add(piece=SPACE * size, score=-1e9)
    content = proto.SerializeToString()
    original, found = sentencepiece.SentencePieceProcessor(model_proto=content), vocabulary(tmp_path / "m", content)
    assert inexact(found) is None
    ours = bpe_tokenizer(found)
    lines = [f"{before}{' ' * count}{after}" for count in range(70) for before in ("", "the") for after in ("", "door")]
    assert [ours.encode(line).ids for line in lines] == original.encode(lines)


def test_rows_that_are_cut_otherwise_are_no_exact_copy(tmp_path: Path) -> None:
    # Of five spaces SentencePiece makes 2, 3, 4 and 1; a list of merges two pairs first, and of these 2 and 3.
    found = vocabulary(tmp_path / "m", model())
    alone = [SPACE * size for size in (2, 3, 4) if SPACE * size not in found.pieces]
    rows = {text: id_ for id_, text in enumerate(found.pieces) if set(text) == {SPACE}}
    scores = [-1e9 if id_ in rows.values() else score for id_, score in enumerate(found.scores)]
    tied = replace(
        found,
        pieces=[*found.pieces, *alone],
        scores=[*scores, *[-1e9] * len(alone)],
        kinds=[*found.kinds, *[1] * len(alone)],
    )
    assert inexact(tied) == "two of its pieces have the same score"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kinds": (270, 5)}, "some of its pieces are unused"),
        ({"kinds": (270, 4)}, "some of its pieces are user-defined"),
        ({"kinds": (0, 3)}, "it has 256 bytes and 0 unknown pieces"),
        ({"kinds": (3, 1)}, "it has 255 bytes and 1 unknown pieces"),
        ({"kinds": (-1, 3)}, "a special piece is a character"),
        ({"pieces": (-1, "xyz")}, "a character of a piece is none itself"),
        ({"pieces": (270, "a" * 1001)}, "one of its pieces is longer than 1,000 characters"),
        ({"pieces": (270, "</s>")}, "two of its pieces are equal"),
        ({"scores": (270, -20.0)}, "two of its pieces have the same score"),
    ],
)
def test_what_keeps_ids_from_being_the_same_is_named(
    change: dict[str, tuple[int, Any]], reason: str, tmp_path: Path
) -> None:
    found = vocabulary(tmp_path / "m", model())
    assert inexact(found) is None
    ((name, (place, value)),) = change.items()
    values = list(getattr(found, name))
    values[place] = value
    changed: dict[str, Any] = {name: values}
    assert inexact(replace(found, **changed)) == reason


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "unigram", "vocab_size": 290},
        {"normalization_rule_name": "nfkc"},
        {"treat_whitespace_as_suffix": True},
    ],
)
def test_what_joins_no_pieces_or_changes_characters_is_not_read(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(model(**settings))
    assert read_vocabulary(tmp_path / "m") is None
