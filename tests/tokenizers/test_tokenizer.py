from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.corpus.train_tokenizer import train_sentencepiece
from retro.tokenizers.tokenizer import (
    SentencePieceTokenizer,
    Tokenizer,
    find_tokenizer_file,
    load_tokenizer,
    save_tokenizer,
)

TEXT = ["def area(width, height):", "    return width * height", "the area of the room and the width of the door"]


@pytest.fixture(scope="module")
def piece_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pieces")
    (directory / "tokenizer.model").write_bytes(train_sentencepiece(TEXT, 320))
    save_tokenizer(directory / "tokenizer.model", "sentencepiece", directory)
    return directory


@pytest.fixture(scope="module")
def pieces(piece_directory: Path) -> Tokenizer:
    return load_tokenizer(piece_directory)


def word_file(directory: Path, *, special: tuple[str, ...] = ("[PAD]", "[SEP]")) -> Path:
    """A HuggingFace word-level file with truncation to 3 tokens and padding, as sentence embedders ship them."""
    words = ["[UNK]", *special, "a", "fox", "and", "dog", "<", ">", "[", "]", "SEP"]
    model = tokenizers.models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(special))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=8, pad_id=1)
    path = directory / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "  two  spaces ",
        "a\n\n    b\tc\r\nd",
        "é漢字🦊",
        "<unk> </s> <s> <0x0A>",
        "ﬁ ＡＢ",
        "nul\0byte",
        "    return",
    ],
)
def test_every_text_comes_back_as_it_was(pieces: Tokenizer, text: str) -> None:
    assert pieces.decode(pieces.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")), st.text("ab \n", max_size=9))
def test_tokens_of_two_texts_laid_end_to_end_spell_both(pieces: Tokenizer, first: str, second: str) -> None:
    assert pieces.decode(pieces.encode(first) + pieces.encode(second)) == first + second


def test_a_literal_end_of_document_name_in_a_text_is_text(pieces: Tokenizer, tmp_path: Path) -> None:
    assert pieces.eod == 1
    assert pieces.eod not in pieces.encode("a </s> b")
    words = save_tokenizer(word_file(tmp_path), "huggingface", tmp_path / "saved")
    assert words.eod == 2
    assert words.encode("a [SEP] fox") == [3, 9, 11, 10, 4]


def test_end_of_document_decodes_to_nothing(pieces: Tokenizer) -> None:
    assert pieces.decode([*pieces.encode("the door"), pieces.eod]) == "the door"


def test_a_batch_gives_what_single_texts_give(pieces: Tokenizer) -> None:
    texts = [*TEXT, "", "\n"]
    ids = pieces.encode_batch(texts)
    assert ids == [pieces.encode(text) for text in texts]
    assert pieces.decode_batch(ids) == texts
    assert pieces.encode_batch([]) == []


def test_ids_may_be_an_array(pieces: Tokenizer) -> None:
    ids = np.array(pieces.encode("the room"), dtype=np.uint16)
    assert pieces.decode(ids) == "the room"
    assert pieces.decode_batch([ids, ids[:0]]) == ["the room", ""]


def test_truncation_and_padding_in_a_huggingface_file_are_switched_off(tmp_path: Path) -> None:
    words = save_tokenizer(word_file(tmp_path), "huggingface", tmp_path / "saved")
    assert words.encode("a fox and a dog") == [3, 4, 5, 3, 6]
    assert words.encode_batch(["a fox and a dog", "a"]) == [[3, 4, 5, 3, 6], [3]]
    assert words.decode([3, 4, words.eod]) == "a fox"
    assert words.decode_batch([[3, 4], [6]]) == ["a fox", "dog"]
    assert words.vocab_size == 12


def test_the_end_of_document_token_can_be_named(tmp_path: Path, piece_directory: Path) -> None:
    assert save_tokenizer(word_file(tmp_path), "huggingface", tmp_path / "a", "[PAD]").eod == 1
    named = save_tokenizer(piece_directory / "tokenizer.model", "sentencepiece", tmp_path / "b", "<0x00>")
    assert named.decode([named.eod]) == "\0"
    assert named.fingerprint != load_tokenizer(piece_directory).fingerprint


@pytest.mark.parametrize("kind", ["sentencepiece", "huggingface"])
def test_an_unknown_end_of_document_token_is_named(tmp_path: Path, piece_directory: Path, kind: str) -> None:
    file = piece_directory / "tokenizer.model" if kind == "sentencepiece" else word_file(tmp_path)
    with pytest.raises(
        ConfigError, match=r"tokenizer.eod_token = '<stop>': needs a token that .* has; looked for <stop>"
    ):
        save_tokenizer(file, kind, tmp_path / "saved", "<stop>")  # type: ignore[arg-type]


def test_a_huggingface_file_without_any_known_end_token_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"looked for <\|endoftext\|>, </s>, \[EOD\], \[SEP\]"):
        save_tokenizer(word_file(tmp_path, special=("[PAD]",)), "huggingface", tmp_path / "saved")


@pytest.mark.parametrize(
    ("kind", "message"),
    [("sentencepiece", "is not a SentencePiece model"), ("huggingface", "is not a tokenizer.json")],
)
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, kind: str, message: str) -> None:
    file = tmp_path / "mine"
    file.write_bytes(b"hello")
    with pytest.raises(DataError, match=f"mine: {message}"):
        save_tokenizer(file, kind, tmp_path / "saved", None)  # type: ignore[arg-type]
    assert not (tmp_path / "saved").exists()


def test_equal_files_have_equal_fingerprints_and_others_have_not(tmp_path: Path, pieces: Tokenizer) -> None:
    for name, size in (("same", 320), ("smaller", 310)):
        (tmp_path / f"{name}.model").write_bytes(train_sentencepiece(TEXT, size))
    same, smaller = (
        save_tokenizer(tmp_path / f"{name}.model", "sentencepiece", tmp_path / name) for name in ("same", "smaller")
    )
    assert same.fingerprint == pieces.fingerprint
    assert smaller.fingerprint != pieces.fingerprint


def test_a_changed_tokenizer_file_is_noticed(tmp_path: Path) -> None:
    save_tokenizer(word_file(tmp_path), "huggingface", tmp_path / "saved")
    path = tmp_path / "saved" / "tokenizer.json"
    path.write_text(path.read_text().replace("fox", "elk"))
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: is not the file that tokenizer_meta\.json describes"):
        load_tokenizer(tmp_path / "saved")


def test_a_missing_tokenizer_file_or_description_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer_meta\.json: is missing"):
        load_tokenizer(tmp_path)
    save_tokenizer(word_file(tmp_path), "huggingface", tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: is missing"):
        load_tokenizer(tmp_path / "saved")


@pytest.mark.parametrize("meta", [[], {"kind": "magic", "eod": 1}, {"kind": "huggingface"}])
def test_a_description_of_something_else_is_refused(tmp_path: Path, meta: object) -> None:
    (tmp_path / "tokenizer_meta.json").write_text(json.dumps(meta))
    with pytest.raises(ArtifactError, match="does not describe a tokenizer"):
        load_tokenizer(tmp_path)


def test_a_folder_stands_for_the_one_tokenizer_in_it(tmp_path: Path) -> None:
    file = word_file(tmp_path)
    assert find_tokenizer_file(tmp_path, "huggingface") == file
    assert find_tokenizer_file(file, "huggingface") == file
    with pytest.raises(DataError, match=r"holds 0 \*\.model files"):
        find_tokenizer_file(tmp_path, "sentencepiece")
    for name in ("a.model", "b.model"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"holds 2 \*\.model files"):
        find_tokenizer_file(tmp_path, "sentencepiece")
    with pytest.raises(DataError, match="no such file"):
        find_tokenizer_file(tmp_path / "nowhere", "sentencepiece")


def test_a_sentencepiece_model_whose_error_is_no_text_is_named(tmp_path: Path) -> None:
    # The library's message holds bytes of the file, and cannot be decoded: found by fuzzing.
    def fail(**_: object) -> None:
        b"\xff".decode()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sentencepiece.SentencePieceProcessor", fail)
        with pytest.raises(DataError, match="is not a SentencePiece model"):
            SentencePieceTokenizer(tmp_path / "x.model")
