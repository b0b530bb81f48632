"""Special tokens that are added: ids after the old ones, which stay; text that spells one is text."""

from __future__ import annotations

from pathlib import Path

import pytest

from retro.common.errors import ConfigError
from retro.corpus.train_tokenizer import train_sentencepiece
from retro.tokenizers.added_tokens import add_tokens, added_tokens, token_id, token_ids
from retro.tokenizers.tokenizer import load_tokenizer, save_tokenizer
from tests.tokenizers.chat_folders import make_folder
from tests.tokenizers.test_tokenizer import TEXT

TOKENS = ["[Retrieval]", "<paragraph>", "[Utility:5]"]
SETTING = "sft.special_tokens"


@pytest.fixture(scope="module", params=["sentencepiece", "huggingface"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of each kind, saved."""
    out = tmp_path_factory.mktemp(request.param)
    if request.param == "sentencepiece":
        (out / "tokenizer.model").write_bytes(train_sentencepiece(TEXT, 320))
        save_tokenizer(out / "tokenizer.model", "sentencepiece", out)
    else:
        make_folder(out / "folder", "llama3")
        save_tokenizer(out / "folder" / "tokenizer.json", "huggingface", out)
    return out


def test_new_tokens_have_the_next_ids_and_old_texts_keep_theirs(directory: Path, tmp_path: Path) -> None:
    old = load_tokenizer(directory)
    made = add_tokens(directory, TOKENS, tmp_path, SETTING)
    assert [token_id(made, token) for token in TOKENS] == [old.vocab_size + number for number in range(3)]
    assert made.vocab_size == old.vocab_size + 3
    assert made.eod == old.eod
    assert made.encode_batch(TEXT) == old.encode_batch(TEXT)
    assert made.fingerprint != old.fingerprint
    assert added_tokens(load_tokenizer(tmp_path)) == tuple(TOKENS)


def test_a_text_that_spells_a_token_is_text(directory: Path, tmp_path: Path) -> None:
    made = add_tokens(directory, TOKENS, tmp_path, SETTING)
    ids = made.encode("say [Retrieval] now")
    assert token_id(made, "[Retrieval]") not in ids


def test_a_token_decodes_to_nothing(directory: Path, tmp_path: Path) -> None:
    made = add_tokens(directory, TOKENS, tmp_path, SETTING)
    new = token_id(made, "[Retrieval]")
    assert new is not None
    words = made.encode("width and height")
    assert made.decode([*words, new]).strip() == made.decode(words).strip()


def test_equal_input_gives_equal_bytes(directory: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        add_tokens(directory, TOKENS, tmp_path / name, SETTING)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_tokens_that_are_there_keep_their_ids_and_others_come_after(directory: Path, tmp_path: Path) -> None:
    first = add_tokens(directory, TOKENS[:1], tmp_path / "one", SETTING)
    second = add_tokens(tmp_path / "one", TOKENS, tmp_path / "two", SETTING)
    assert token_id(second, TOKENS[0]) == first.vocab_size - 1
    assert second.vocab_size == first.vocab_size + 2
    assert added_tokens(second) == tuple(TOKENS)


@pytest.mark.parametrize("tokens", [["[A]", "[A]"], [" "]])
def test_names_that_cannot_be_are_refused(directory: Path, tmp_path: Path, tokens: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"sft.special_tokens = .*: needs names that are not blank, each once"):
        add_tokens(directory, tokens, tmp_path, SETTING)


def test_a_token_that_is_missing_is_named(directory: Path) -> None:
    with pytest.raises(ConfigError, match=r"'\[Relevant\]': needs a tokenizer that has this token"):
        token_ids(load_tokenizer(directory), ["[Relevant]"], "decoding")
