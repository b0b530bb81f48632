"""Tokens that are parts of characters: their bytes, their names, and where they stand in the text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from retro.generate.request import ChosenToken, Completion, Event, Request, TokenProbability
from retro.serve.choices import ChoiceStream
from retro.serve.logprobs import characters_of_bytes, chat_logprobs, completion_logprobs
from retro.serve.model_info import ModelInfo
from retro.serve.prepare import PreparedRequest
from retro.tokenizers.token_bytes import read_token_bytes, shown_token_bytes
from tests.serve.fake_server import fake_service
from tests.tokenizers.test_token_bytes import TEXT, byte_level, sentence_piece

BYTES = fake_service().model


def chosen(ids: Sequence[int], top: Sequence[int] = ()) -> list[ChosenToken]:
    likely = tuple(TokenProbability(id=id_, logprob=-1.0 - rank) for rank, id_ in enumerate(top))
    return [ChosenToken(id=id_, logprob=-0.5, top=likely) for id_ in ids]


def offsets(model: ModelInfo, ids: Sequence[int]) -> list[int]:
    found: list[int] = completion_logprobs(model, chosen(ids), ()).text_offset
    return found


@pytest.mark.parametrize(
    ("text", "data", "characters"),
    [
        ("aϦb", b"a\xcf\xa6b", [0, 1, 1, 2, 3]),
        ("foo", b" foo", [0, 0, 1, 2, 3]),
        (" foo", b" foo", [0, 1, 2, 3, 4]),
        ("a\ufffd\ufffdb", b"a\xff\xfeb", [0, 1, 2, 3, 4]),  # a letter a byte
        ("a\ufffdb", b"a\xe6\x9db", [0, 1, 1, 2, 3]),  # a letter a sequence
        ("\ufffd\ufffd", b"\xff\xe6\x9d", [0, 1, 1, 2]),
        ("\ufffd\ufffd\ufffd\ufffdx", b"\xe2\x82\xac\xffx", [0, 1, 2, 3, 4, 5]),  # whole runs of bytes are given up
        ("\ufffdx", b"\xef\xbf\xbdx", [0, 0, 0, 1, 2]),  # it is in the text itself
        ("", b"", [0]),
        ("ab", b"a", [0, 2]),
        ("zz", b"ab", [0, 1, 2]),
    ],
)
def test_each_byte_belongs_to_a_character(text: str, data: bytes, characters: list[int]) -> None:
    assert characters_of_bytes(text, data) == characters


def test_offsets_count_characters_and_a_split_character_counts_once() -> None:
    ids = list("aϦ東b😀c".encode())
    assert offsets(BYTES, ids) == [0, 1, 1, 2, 2, 2, 3, 4, 4, 4, 4, 5]


def streamed(ids: Sequence[int]) -> list[Any]:
    """`logprobs` of the chunks of a stream, a token an event."""
    prepared = PreparedRequest(
        requests=(Request(prompt=[97]),), echoes=("",), prompt_tokens=1, source="none", logprobs=True, stream=True,
        include_usage=False,
    )  # fmt: skip
    stream, tokens = ChoiceStream("completion", BYTES, prepared, 0), chosen(ids)
    done = Completion(tokens=tuple(tokens), text="", ended="length", retrieved=())
    events = [Event(text="", tokens=(token,), retrieved=()) for token in tokens[:-1]]
    events.append(Event(text="", tokens=(tokens[-1],), retrieved=(), completion=done))
    pieces = [piece for event in events for piece in stream.chunks(event)]
    return [piece.logprobs for piece in pieces if piece.logprobs]


@pytest.mark.parametrize("data", ["aϦ東b😀c".encode(), b"a\xe6\x9db\xf0\x9f\xcf\xa6\xffc", b"a\xe6\x9d"])
def test_a_stream_gives_the_tokens_of_the_whole_answer_each_once_and_a_character_s_together(data: bytes) -> None:
    whole, pieces = completion_logprobs(BYTES, chosen(data), ()), streamed(data)
    for name in ("text_offset", "tokens", "token_logprobs"):
        assert [one for piece in pieces for one in getattr(piece, name)] == getattr(whole, name)


def test_tokens_of_a_character_come_in_one_piece() -> None:
    assert [piece.text_offset for piece in streamed("aϦ東".encode())] == [[0], [1, 1], [2, 2, 2]]


def test_bytes_that_are_no_text_count_as_the_decoder_shows_them() -> None:
    assert offsets(BYTES, [97, 0xFF, 0xFE, 98]) == [0, 1, 2, 3]
    assert offsets(BYTES, [97, 0xE6, 0x9D]) == [0, 1, 1]  # may become a character yet


def test_parts_of_characters_are_spelled_and_all_requested_top_tokens_are_there() -> None:
    found = completion_logprobs(BYTES, chosen([0xE6, 97], top=[97, 0xE6, 0x9D, 0xFF]), ())
    assert found.tokens == ["bytes:\\xe6", "a"]
    assert found.top_logprobs is not None
    assert found.top_logprobs[0] == {"a": -1.0, "bytes:\\xe6": -2.0, "bytes:\\x9d": -3.0, "bytes:\\xff": -4.0}


def test_tokens_of_one_text_are_told_apart_by_their_ids() -> None:
    class Doubled:
        """Two tokens for one letter, as a piece and its byte."""

        def decode(self, ids: Sequence[int]) -> str:
            return "a" * len(ids)

    model = fake_service(tokenizer=Doubled(), token_bytes=[b"a", b"a"]).model
    found = completion_logprobs(model, chosen([0], top=[1, 0]), ())
    assert found.top_logprobs == [{"a": -1.0, "token_id:0": -2.0}]


def test_a_chat_gives_the_bytes_of_every_token() -> None:
    content = chat_logprobs(BYTES, chosen("a東".encode(), top=[0x9D]), ()).content
    assert [one.token for one in content] == ["a", "\\xe6", "\\x9d", "\\xb1"]
    assert [one.bytes for one in content] == [[97], [0xE6], [0x9D], [0xB1]]
    assert [one.model_dump() for one in content[0].top_logprobs] == [
        {"token": "\\x9d", "logprob": -1.0, "bytes": [0x9D]}
    ]


def test_without_a_table_of_bytes_a_broken_token_has_none() -> None:
    model = fake_service(token_bytes=None).model
    (found,) = chat_logprobs(model, chosen([0xE6]), ()).content
    assert (found.token, found.bytes) == ("\ufffd", None)
    assert offsets(model, list(b"abc")) == [0, 1, 2]


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
def test_real_tokenizers_give_every_character_its_place(tmp_path: Path, make: object) -> None:
    assert callable(make)
    tokenizer = make(tmp_path)
    model = fake_service(tokenizer=tokenizer, token_bytes=read_token_bytes(tmp_path / "saved")).model
    ids = tokenizer.encode(TEXT)
    found = completion_logprobs(model, chosen(ids), ())
    for text, offset in zip(found.tokens, found.text_offset, strict=True):
        assert text.startswith("bytes:") or TEXT.startswith(text, offset)
    assert any(text.startswith("bytes:") for text in found.tokens)
    content = chat_logprobs(model, chosen(ids), ()).content
    assert bytes(byte for one in content for byte in one.bytes or []).decode() == TEXT


def test_text_after_an_unknown_token_has_the_right_offset(tmp_path: Path) -> None:
    tokenizer = sentence_piece(tmp_path)
    unknown = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "saved/tokenizer.model")).unk_id()
    model = fake_service(tokenizer=tokenizer, token_bytes=shown_token_bytes(tmp_path / "saved", tokenizer)).model
    ids = [*tokenizer.encode("one"), unknown, *tokenizer.encode("two")]
    text = tokenizer.decode(ids)
    found = completion_logprobs(model, chosen(ids), ())
    assert " \u2047 " in text
    assert all(text.startswith(one, at) for one, at in zip(found.tokens, found.text_offset, strict=True))
    assert completion_logprobs(model, chosen(ids[-1:]), ids[:-1]).text_offset == found.text_offset[-1:]
