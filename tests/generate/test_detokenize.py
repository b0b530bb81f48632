"""The text of an answer, token by token, with texts whose characters take one to four bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retro.corpus.train_tokenizer import train_sentencepiece
from retro.generate.detokenize import AnswerText
from retro.tokenizers.tokenizer import Tokenizer, save_tokenizer
from tests.tokenizers.test_token_bytes import byte_level, sentence_piece

TEXTS = [
    "Paris is 東京 and 😀 more",
    "é",
    "    four spaces, then\n\n\ttab",
    "naïve café 5 €",
    "👩‍👩‍👧 one character of seven code points",
    "the the the",
    " 漢字漢字漢字",
]


def own_pieces(folder: Path) -> Tokenizer:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(train_sentencepiece(["the area of the room", "a naive one"], 320))
    return save_tokenizer(folder / "tokenizer.model", "sentencepiece", folder)


def byte_fallback(folder: Path) -> Tokenizer:
    """A HuggingFace file as Llama has it: ▁ for a space, <0x..> for what no piece spells."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "▁Paris", "a", "e", "s"]
    file = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": 1,
                "content": "</s>",
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {piece: number for number, piece in enumerate(pieces)},
            "merges": [],
        },
    }
    folder.mkdir(exist_ok=True)
    (folder / "made.json").write_text(json.dumps(file))
    return save_tokenizer(folder / "made.json", "huggingface", folder / "saved")


MAKERS = {
    "byte_level": byte_level,
    "sentence_piece": sentence_piece,
    "own_pieces": own_pieces,
    "byte_fallback": byte_fallback,
}


@pytest.fixture(scope="module")
def all_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MAKERS.items()}


@pytest.fixture(params=list(MAKERS))
def tokenizer(request: pytest.FixtureRequest, all_tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return all_tokenizers[request.param]


def pieces_of(tokenizer: Tokenizer, prompt: list[int], answer: list[int]) -> list[str]:
    text = AnswerText(tokenizer, prompt)
    return [*(text.add(token) for token in answer), text.rest()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_what_follows_the_prompt_wherever_that_ends(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids)
    for cut in range(len(ids)):
        before = tokenizer.decode(ids[:cut]).rstrip("\ufffd")
        joined = "".join(pieces_of(tokenizer, ids[:cut], ids[cut:]))
        # A prompt that ends within a character has that character begin the answer.
        assert before + joined == whole


@pytest.mark.parametrize("text", TEXTS)
def test_no_piece_holds_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    for piece in pieces_of(tokenizer, tokenizer.encode("the"), tokenizer.encode(text)):
        assert "\ufffd" not in piece


def test_a_character_comes_with_its_last_byte(all_tokenizers: dict[str, Tokenizer]) -> None:
    pieces = all_tokenizers["byte_fallback"]
    euro = [2 + byte for byte in "€".encode()]
    assert pieces_of(pieces, [259], euro) == ["", "", "€", ""]
    assert pieces_of(pieces, [259], euro[:2]) == ["", "", "\ufffd\ufffd"]
    assert pieces_of(pieces, [259], [euro[0], 261]) == ["", "\ufffda", ""]


def test_a_word_keeps_the_space_before_it(all_tokenizers: dict[str, Tokenizer]) -> None:
    pieces = all_tokenizers["byte_fallback"]
    the, paris, end = 259, 260, 1
    assert pieces_of(pieces, [the], [paris, the]) == [" Paris", " the", ""]
    assert pieces_of(pieces, [the], [paris, end, the]) == [" Paris", "", " the", ""]
    # A prompt without a text is followed by the beginning of one.
    assert pieces_of(pieces, [end], [paris]) == ["Paris", ""]


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581\ufffd"), max_size=12))
@pytest.mark.parametrize("name", list(MAKERS))
def test_any_text_arrives_whole(all_tokenizers: dict[str, Tokenizer], name: str, text: str) -> None:
    tokenizer = all_tokenizers[name]
    prompt, answer = tokenizer.encode("the area"), tokenizer.encode(text)
    pieces = pieces_of(tokenizer, prompt, answer)
    assert tokenizer.decode(prompt) + "".join(pieces) == tokenizer.decode([*prompt, *answer])
