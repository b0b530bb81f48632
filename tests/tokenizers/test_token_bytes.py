"""Bytes of tokens, with texts whose characters take one to four bytes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from retro.common.errors import ArtifactError
from retro.common.files import write_json
from retro.tokenizers.token_bytes import bytes_of_tokens, read_token_bytes
from retro.tokenizers.tokenizer import Tokenizer, save_tokenizer

TEXT = "a naïve café costs 5 € in 東京 😀 and a café more"


def byte_level(folder: Path) -> Tokenizer:
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    model.train_from_iterator([TEXT] * 4, trainer)
    model.add_tokens(["€uro"])
    model.save(str(folder / "made.json"))
    return save_tokenizer(folder / "made.json", "huggingface", folder / "saved")


def sentence_piece(folder: Path) -> Tokenizer:
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a cafe costs more and a naive one in town"] * 30), model_writer=made,
        model_type="bpe", vocab_size=300, byte_fallback=True, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (folder / "made.model").write_bytes(made.getvalue())
    return save_tokenizer(folder / "made.model", "sentencepiece", folder / "saved")


def test_bytes_of_byte_level_tokens_add_up_to_the_text_however_it_is_cut(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    known = bytes_of_tokens(tmp_path / "saved")
    assert known is not None and len(known) == tokenizer.vocab_size
    ids = np.array(tokenizer.encode(TEXT))
    assert int(known[ids].sum()) == len(TEXT.encode()) > len(TEXT)
    # 東 is split over tokens, so decoding the halves would count replacement characters.
    halves = [tokenizer.decode(part) for at in range(1, len(ids)) for part in (ids[:at], ids[at:])]
    assert any("\ufffd" in half for half in halves)
    assert known[tokenizer.eod] == 0
    assert known[tokenizer.vocab_size - 1] == len("€uro".encode())


def test_bytes_of_sentencepiece_tokens_count_fallback_bytes_and_spaces(tmp_path: Path) -> None:
    tokenizer = sentence_piece(tmp_path)
    known = bytes_of_tokens(tmp_path / "saved")
    assert known is not None and len(known) == tokenizer.vocab_size
    ids = np.array(tokenizer.encode(TEXT))
    # One more than the text: SentencePiece puts a space before it.
    assert int(known[ids].sum()) == len(TEXT.encode()) + 1
    assert known[tokenizer.eod] == 0


def test_the_bytes_of_tokens_in_a_row_are_those_of_the_text(tmp_path: Path) -> None:
    for folder, make, before in ((tmp_path / "a", byte_level, b""), (tmp_path / "b", sentence_piece, b" ")):
        folder.mkdir()
        ids = make(folder).encode(TEXT)
        known = read_token_bytes(folder / "saved")
        assert known is not None
        assert b"".join(known[id_] for id_ in ids) == before + TEXT.encode()


def test_pieces_of_a_huggingface_file_with_byte_fallback_count_as_sentencepiece_does(tmp_path: Path) -> None:
    vocabulary = {"<unk>": 0, "</s>": 1, "<0xE6>": 2, "▁a": 3, "é": 4}
    model = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    model.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    model.add_special_tokens(["<unk>", "</s>"])
    model.save(str(tmp_path / "made.json"))
    save_tokenizer(tmp_path / "made.json", "huggingface", tmp_path / "saved")
    known = bytes_of_tokens(tmp_path / "saved")
    assert known is not None
    assert known.tolist() == [0, 0, 1, 2, 2]


def test_pieces_of_a_unigram_model_are_a_list(tmp_path: Path) -> None:
    model = tokenizers.Tokenizer(models.Unigram([("</s>", 0.0), ("▁ab", -1.0), ("€", -2.0)]))
    model.decoder = decoders.Metaspace()
    model.add_special_tokens(["</s>"])
    model.save(str(tmp_path / "made.json"))
    save_tokenizer(tmp_path / "made.json", "huggingface", tmp_path / "saved")
    known = bytes_of_tokens(tmp_path / "saved")
    assert known is not None
    assert known.tolist() == [0, 3, 3]


def test_words_have_no_bytes_of_their_own(tmp_path: Path) -> None:
    model = tokenizers.Tokenizer(models.WordLevel({"</s>": 0, "a": 1}, unk_token="</s>"))
    model.save(str(tmp_path / "made.json"))
    save_tokenizer(tmp_path / "made.json", "huggingface", tmp_path / "saved")
    assert bytes_of_tokens(tmp_path / "saved") is None


def test_a_tokenizer_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"tokenizer_meta\.json: is missing"):
        bytes_of_tokens(tmp_path)
    write_json(tmp_path / "tokenizer_meta.json", {"kind": "huggingface", "eod": 0})
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: is missing"):
        bytes_of_tokens(tmp_path)
    assert json.loads((tmp_path / "tokenizer_meta.json").read_text())["kind"] == "huggingface"
