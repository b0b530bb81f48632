"""Remembered words give the tokens that the tokenizer gives for the whole text."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

from retro.corpus.train_tokenizer import train_sentencepiece
from retro.tokenizers import cached_encoder as module
from retro.tokenizers.cached_encoder import DocumentEncoder, cached_encoder
from retro.tokenizers.pretokenize import BERT, SPACED_WORDS, SPACED_WORDS_OF_LINES, huggingface_cuts, sentencepiece_cuts
from retro.tokenizers.tokenizer import HuggingFaceTokenizer, SentencePieceTokenizer, Tokenizer

INT32 = np.dtype(np.int32)
# Everything that parts words somewhere, or is taken out, put together or changed by some normalizer.
ODD = " \t\n\r\x0b\x0c\x1c\x1f\x00\x85\xa0\u1680\u2003\u2028\u202f\u3000\u200b\u200d\ufeff\ufffd\u0301\u0338\u0345"
WORDS = ["fox", "Fox", "don't", "a-b", "é", "e\u0301", "ﬁ", "İ", "ß", "ΑΣ", "漢字", "🦊", "\u2581", "<unk>", "[SEP]"]
TEXTS = st.lists(st.sampled_from([*ODD, *WORDS, "x" * 120, "  ", "\n\n", "= ", "..", "1,2"]), max_size=12).map("".join)


def bert_json(**changes: Any) -> str:
    """A small tokenizer.json built like BERT's."""
    alphabet = [chr(n) for n in range(33, 127)] + list("éαςσßi漢")
    entries = ["[UNK]", "[SEP]", *alphabet, *(f"##{c}" for c in alphabet), "fox", "##ox", "don", "##11"]
    numbers = {entry: n for n, entry in enumerate(entries)}
    model = models.WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=100)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=changes.get("lowercase", True))
    tokenizer.pre_tokenizer = changes.get("pre_tokenizer", pre_tokenizers.BertPreTokenizer())
    tokenizer.add_special_tokens(["[SEP]"])
    tokenizer.add_tokens(changes.get("added", []))
    return str(tokenizer.to_str())


def bert(folder: Path, **changes: Any) -> Tokenizer:
    (folder / "tokenizer.json").write_text(bert_json(**changes), "utf-8")
    return HuggingFaceTokenizer(folder / "tokenizer.json")


def spaced(folder: Path) -> Tokenizer:
    texts = ["the fox\n  and the dog don't", "a-b a-b  é é", "    fox", "fox fox foxes"]
    (folder / "tokenizer.model").write_bytes(train_sentencepiece(texts, 330))
    return SentencePieceTokenizer(folder / "tokenizer.model")


@pytest.fixture(scope="module", params=["bert", "bert with case", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    if request.param == "sentencepiece":
        return spaced(folder)
    return bert(folder, lowercase=request.param == "bert")


def plain(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    return [token for text in texts for token in [*tokenizer.encode(text), tokenizer.eod]]


@settings(max_examples=400, deadline=None)
@given(
    batches=st.lists(st.lists(st.one_of(TEXTS, st.text(max_size=20)), max_size=4), min_size=1, max_size=3),
    part=st.sampled_from([1, 3, 4_000_000]),
)
def test_remembered_words_give_the_tokens_of_the_whole_text(
    tokenizer: Tokenizer, batches: list[list[str]], part: int
) -> None:
    encoder = DocumentEncoder(tokenizer, INT32)
    for texts in batches:
        with mock.patch.object(module, "_PART_CHARACTERS", part):
            found = encoder.encode(texts)
        assert found.tokens.tolist() == plain(tokenizer, texts)
        assert found.lengths.tolist() == [len(tokenizer.encode(text)) + 1 for text in texts]


def test_a_word_is_encoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = bert(tmp_path)
    asked: list[str] = []
    encode = HuggingFaceTokenizer.encode_words

    def watched(self: HuggingFaceTokenizer, words: Sequence[str]) -> list[list[int]]:
        asked.extend(words)
        return encode(self, words)

    monkeypatch.setattr(HuggingFaceTokenizer, "encode_words", watched)
    encoder = cached_encoder(tokenizer, INT32)
    encoder(["the fox, the dog", "fox"])
    encoder(["dog the\nfox,"])
    assert asked == ["the", "fox", ",", "dog"]


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = spaced(tmp_path)
    texts = [f"word{n} and word{n + 1}" for n in range(40)]
    for limit in ("_REMEMBERED_PIECES", "_REMEMBERED_CHARACTERS"):
        with monkeypatch.context() as patch:
            patch.setattr(module, limit, 5)
            encoder = DocumentEncoder(tokenizer, INT32)
            assert [t for text in texts for t in encoder.encode([text]).tokens.tolist()] == plain(tokenizer, texts)
            in_parts = encoder._encode.__self__  # type: ignore[attr-defined]
            assert len(in_parts._encode.__self__._memory) <= 5


def test_no_text_and_empty_texts_are_encoded_too(tokenizer: Tokenizer) -> None:
    encoder = DocumentEncoder(tokenizer, np.dtype(np.uint16))
    assert [array.tolist() for array in encoder.encode([])] == [[], []]
    found = encoder.encode(["", " ", ""])
    assert found.tokens.dtype == np.uint16
    assert found.tokens.tolist() == plain(tokenizer, ["", " ", ""])


def test_a_tokenizer_without_a_rule_encodes_whole_texts(tmp_path: Path) -> None:
    tokenizer = bert(tmp_path, pre_tokenizer=pre_tokenizers.Whitespace())
    texts = ["a fox,  don't", "", "[SEP]"]
    assert DocumentEncoder(tokenizer, INT32).encode(texts).tokens.tolist() == plain(tokenizer, texts)


def test_only_tokenizers_built_like_berts_have_its_rule() -> None:
    assert huggingface_cuts(bert_json()) == BERT
    assert huggingface_cuts(bert_json(pre_tokenizer=pre_tokenizers.Whitespace())) == ()
    assert huggingface_cuts(bert_json(pre_tokenizer=pre_tokenizers.ByteLevel())) == ()
    assert huggingface_cuts(bert_json(added=["two words"])) == ()
    described = json.loads(bert_json())
    assert huggingface_cuts(json.dumps(described | {"normalizer": None})) == BERT
    assert huggingface_cuts(json.dumps(described | {"normalizer": {"type": "NFKC"}})) == ()
    assert huggingface_cuts(json.dumps(described | {"pre_tokenizer": None})) == ()
    dropping = described | {"model": described["model"] | {"dropout": 0.1}}
    assert huggingface_cuts(json.dumps(dropping)) == ()


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({}, SPACED_WORDS_OF_LINES),
        ({"model_type": "unigram"}, ()),
        ({"byte_fallback": False}, ()),
        ({"normalization_rule_name": "nmt_nfkc"}, ()),
        ({"add_dummy_prefix": True}, ()),
        ({"remove_extra_whitespaces": True}, ()),
        ({"user_defined_symbols": ["a b"]}, ()),
        ({"split_by_whitespace": False}, ()),
        ({"treat_whitespace_as_suffix": True}, ()),
    ],
)
def test_only_bpe_models_that_keep_text_and_know_bytes_have_a_rule(
    tmp_path: Path, changes: dict[str, Any], rule: Any
) -> None:
    model = io.BytesIO()
    settings: dict[str, Any] = {
        "model_type": "bpe",
        "vocab_size": 300,
        "hard_vocab_limit": False,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "minloglevel": 2,
    }
    sentences = iter(["the fox and the dog in the fog and the fox", "the fox and the dog"] * 3)
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=sentences, model_writer=model, **(settings | changes))
    (tmp_path / "a.model").write_bytes(model.getvalue())
    assert sentencepiece_cuts(tmp_path / "a.model") == rule


def test_a_piece_that_holds_a_line_break_keeps_lines_together(tmp_path: Path) -> None:
    (tmp_path / "a.model").write_bytes(train_sentencepiece(["the fox and the dog"] * 3, 300))
    model = (tmp_path / "a.model").read_bytes()
    # Another piece of the same length takes the place of one that was learned.
    assert b"\x03the" in model
    (tmp_path / "b.model").write_bytes(model.replace(b"\x03the", b"\x03t\ne"))
    assert sentencepiece_cuts(tmp_path / "a.model") == SPACED_WORDS_OF_LINES
    assert sentencepiece_cuts(tmp_path / "b.model") == SPACED_WORDS
