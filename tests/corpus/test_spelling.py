"""A tokenizer file that cannot encode the text is found at the start, and one that folds letters is not blamed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from retro.common.errors import ConfigError, DataError
from retro.corpus.build import run
from retro.corpus.config import CorpusConfig
from retro.corpus.layouts import Document
from retro.corpus.spelling import spelling
from retro.tokenizers.tokenizer import HuggingFaceTokenizer

TEXT = "The quick brown fox, number 17, jumps over a café."


def characters(*, unknown: bool) -> tokenizers.Tokenizer:
    """A BPE of the letters a to m and the space, without merges."""
    names = ["</s>", "<unk>", " ", *"abcdefghijklm"]
    vocabulary = {name: number for number, name in enumerate(names)}
    return tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>" if unknown else None))


def words(_: object = None) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.WordLevel({"</s>": 0, "The": 1}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def folding() -> tokenizers.Tokenizer:
    """As BERT's: lower case, no accents, white space gone."""
    names = [
        "</s>",
        "<unk>",
        *"abcdefghijklmnopqrstuvwxyz0123456789,.",
        *(f"##{one}" for one in "abcdefghijklmnopqrstuvwxyz0123456789"),
    ]
    made = tokenizers.Tokenizer(
        models.WordPiece({name: number for number, name in enumerate(names)}, unk_token="<unk>")
    )
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return made


def saved(made: tokenizers.Tokenizer, folder: Path) -> Path:
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def found(made: tokenizers.Tokenizer, folder: Path, text: str = TEXT) -> tuple[int, dict[str, int]]:
    file = saved(made, folder)
    result = spelling(HuggingFaceTokenizer(file), [Document("first", "", text, "a", 1, 1)], file)
    return result.characters, dict(result.lost)


def test_letters_without_a_token_are_counted(tmp_path: Path) -> None:
    assert found(characters(unknown=False), tmp_path, "abc xyz x")[1] == {"x": 2, "y": 1, "z": 1}
    assert found(characters(unknown=False), tmp_path, "abc xyz x")[0] == 7


def test_case_accents_and_white_space_are_not_counted_as_lost(tmp_path: Path) -> None:
    assert found(folding(), tmp_path) == (41, {})


def corpus(folder: Path, file: Path, *, most: float = 0.02, text: str = TEXT) -> CorpusConfig:
    lines = [json.dumps({"id": f"d{number}", "text": text}) for number in range(20)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    tokenizer = {"kind": "huggingface", "path": file, "max_lost_fraction": most}
    return CorpusConfig.model_validate(
        {"sources": [{"name": "a", "path": folder / "text.jsonl"}], "tokenizer": tokenizer, "split": (0.8, 0.1, 0.1)}
    )


def test_a_corpus_that_would_lose_its_letters_is_refused(tmp_path: Path) -> None:
    config = corpus(tmp_path, saved(characters(unknown=False), tmp_path), text="abc xyz x")
    message = (
        r"max_lost_fraction = 0\.02: needs a tokenizer that .*tokenizer\.json, 80 of 140 characters .*'x', 'y', 'z'"
    )
    with pytest.raises(ConfigError, match=message):
        run(config, tmp_path / "out")


def test_a_share_that_is_allowed_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = corpus(tmp_path, saved(characters(unknown=False), tmp_path), most=0.6, text="abc xyz x")
    with caplog.at_level(logging.WARNING):
        run(config, tmp_path / "out")
    assert "cannot encode all of the text: 80 of 140 characters of a sample do not come back" in caplog.text


@pytest.mark.parametrize("make", [words, lambda: characters_of_unigram()], ids=["words", "unigram"])
def test_a_document_without_tokens_is_named_with_what_to_do(
    make: Callable[[], tokenizers.Tokenizer], tmp_path: Path
) -> None:
    config = corpus(tmp_path, saved(make(), tmp_path))
    message = (
        r"tokenizer\.json: has no tokens for the document 'd0': .*unk.*\. Give a tokenizer with an unknown token or"
    )
    with pytest.raises(DataError, match=f"(?i){message}"):
        run(config, tmp_path / "out")


def characters_of_unigram() -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer(models.Unigram([("</s>", 0.0), ("a", -1.0)]))


def test_the_limit_changes_no_byte_of_a_corpus(tmp_path: Path) -> None:
    file = saved(characters(unknown=False), tmp_path)
    assert corpus(tmp_path, file, most=0.5).shaping == corpus(tmp_path, file).shaping
