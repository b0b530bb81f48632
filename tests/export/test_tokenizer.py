"""The tokenizer that comes out is the one that went in, for our own code and for transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retro.common.errors import ArtifactError
from retro.common.tokenizers import Tokenizer, load_tokenizer, save_tokenizer
from retro.corpus.vocabulary import train_sentencepiece
from retro.export.tokenizer import copy_tokenizer
from retro.model.config import ModelShape
from tests.common.test_tokenizers import word_file
from tests.model.tiny import tiny_shape


def shape_for(tokenizer: Tokenizer | None) -> ModelShape:
    return tiny_shape().model_copy(update={"tokenizer": tokenizer.fingerprint if tokenizer else ""})


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A directory with a word-level file that truncates, pads and has special tokens."""
    directory = tmp_path / "words"
    directory.mkdir()
    save_tokenizer(word_file(directory), "huggingface", directory)
    return directory


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize("text", ["a fox and a dog", "a [SEP] dog <", "cat", "", "a a a a a a a a a"])
def test_transformers_gives_the_ids_that_the_model_was_trained_on(words: Path, out: Path, text: str) -> None:
    from transformers import AutoTokenizer

    ours = load_tokenizer(words)
    copied = copy_tokenizer(words, shape_for(ours), out)
    theirs = AutoTokenizer.from_pretrained(out)
    assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
    assert copied.opens_in_transformers
    assert theirs.eos_token_id == theirs.pad_token_id == ours.eod == copied.eod
    assert theirs.padding_side == "left"


def test_a_sentencepiece_model_is_copied_to_the_letter(tmp_path: Path, out: Path) -> None:
    directory = tmp_path / "pieces"
    directory.mkdir()
    (directory / "tokenizer.model").write_bytes(train_sentencepiece(["the width of the door", "a room"], 300))
    ours = save_tokenizer(directory / "tokenizer.model", "sentencepiece", directory)
    copied = copy_tokenizer(directory, shape_for(ours), out)
    assert (copied.file, copied.eod, copied.opens_in_transformers) == ("tokenizer.model", ours.eod, False)
    assert sorted(path.name for path in out.iterdir()) == ["tokenizer.model", "tokenizer_meta.json"]
    assert load_tokenizer(out).fingerprint == ours.fingerprint


def test_another_tokenizer_than_that_of_the_training_is_refused(words: Path, out: Path) -> None:
    trained_with = tiny_shape().model_copy(update={"tokenizer": "0123456789abcdef"})
    with pytest.raises(ArtifactError, match=r"was trained with 0123456789abcdef\. Name the run"):
        copy_tokenizer(words, trained_with, out)
    assert list(out.iterdir()) == []


def test_a_model_that_names_no_tokenizer_takes_the_run_s(words: Path, out: Path) -> None:
    copy_tokenizer(words, shape_for(None), out)
    assert json.loads((out / "tokenizer_config.json").read_text())["eos_token"] == "[SEP]"
