"""The tokenizer that comes out is the one that went in, for our own code and for transformers."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from retro.common.errors import ArtifactError
from retro.corpus.train_tokenizer import train_sentencepiece
from retro.interop.export import keep_positions, write_generation
from retro.interop.export_files import copy_tokenizer
from retro.model.config import ModelShape
from retro.tokenizers.conventions import Conventions
from retro.tokenizers.tokenizer import Tokenizer, conventions_of, load_tokenizer, save_tokenizer
from tests.model.tiny import tiny_shape
from tests.tokenizers.chat_folders import KINDS, make_folder
from tests.tokenizers.test_tokenizer import word_file


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
    assert (copied.file, copied.eod, copied.opens_in_transformers) == ("tokenizer.model", ours.eod, True)
    assert sorted(path.name for path in out.iterdir()) == [
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "tokenizer_meta.json",
    ]
    assert load_tokenizer(out).fingerprint == ours.fingerprint


def test_another_tokenizer_than_that_of_the_training_is_refused(words: Path, out: Path) -> None:
    trained_with = tiny_shape().model_copy(update={"tokenizer": "0123456789abcdef"})
    with pytest.raises(ArtifactError, match=r"was trained with 0123456789abcdef\. Name the run"):
        copy_tokenizer(words, trained_with, out)
    assert list(out.iterdir()) == []


def test_a_model_that_names_no_tokenizer_takes_the_run_s(words: Path, out: Path) -> None:
    copy_tokenizer(words, shape_for(None), out)
    assert json.loads((out / "tokenizer_config.json").read_text())["eos_token"] == "[SEP]"


LINES = [
    "<unk> in a line",
    "<s> a </s>",
    "  two  spaces  ",
    "",
    "\n\n",
    "tab\there\r\n",
    "<0x41> \u2581 \u00a0x \ufb01 \u2460",
    "naïve 東京 \U0001f642 \x00 e\u0301 \ufeff",
    "the width of the door</s>",
]


TEXT = [
    "the width of the door",
    "a room  with a view\tand naïve 東京",
    "def width(door):\n    return door",
    "<unk> un k>",
]
LETTERS = "".join(TEXT) + "<>/unk\u2581\u00e9\u4eac\U0001f642\u0301\x00\ufb01\n\t  "


def odd_lines() -> list[str]:
    draw = random.Random(5)
    drawn = ["".join(draw.choices(LETTERS, k=draw.randrange(40))) for _ in range(300)]
    pieces = ["<unk>", "</s>", "<0x41>", " ", "  ", "\u2581", "the", "\n", "\u4eac", "\U0001f642\U0001f642"]
    return LINES + drawn + ["".join(draw.choices(pieces, k=draw.randrange(9))) for _ in range(300)]


def sentencepiece_model(**settings: Any) -> bytes:
    ways: dict[str, Any] = {
        "model_type": "bpe", "vocab_size": 400, "hard_vocab_limit": False, "byte_fallback": True,
        "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False,
        "allow_whitespace_only_pieces": True, "unk_id": 0, "eos_id": 1, "bos_id": -1, "pad_id": -1, "minloglevel": 2,
    } | settings  # fmt: skip
    model = io.BytesIO()
    lines = iter("\n".join(TEXT * 5).split("\n"))
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **ways)
    return model.getvalue()


@pytest.mark.parametrize("architecture", ["instruct_retro", "llama", "gpt2"])
@pytest.mark.parametrize(
    "settings",
    [
        None,
        {},
        {"add_dummy_prefix": True},
        {"add_dummy_prefix": True, "byte_fallback": False},
        {"byte_fallback": False, "remove_extra_whitespaces": True},
        {"add_dummy_prefix": True, "remove_extra_whitespaces": True, "bos_id": 1, "eos_id": 2},
    ],
    ids=["trained here", "bytes", "prefix", "unknown characters", "collapsed spaces", "prefix, collapsed spaces"],
)
def test_autotokenizer_gives_our_ids_for_a_sentencepiece_model(
    settings: dict[str, Any] | None, architecture: str, tmp_path: Path, out: Path
) -> None:
    from transformers import AutoTokenizer

    directory = tmp_path / "pieces"
    directory.mkdir()
    model = train_sentencepiece(TEXT * 5, 400) if settings is None else sentencepiece_model(**settings)
    (directory / "tokenizer.model").write_bytes(model)
    ours = save_tokenizer(directory / "tokenizer.model", "sentencepiece", directory)
    assert copy_tokenizer(directory, shape_for(ours), out).opens_in_transformers
    (out / "config.json").write_text(json.dumps({"model_type": architecture}))
    theirs, lines = AutoTokenizer.from_pretrained(out), odd_lines()
    expected = ours.encode_batch(lines)
    assert [theirs.encode(line, add_special_tokens=False) for line in lines] == expected
    spells_all = (settings or {}).get("byte_fallback", True)
    assert any(0 in ids for ids in expected) is not spells_all, "0 is <unk>"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"normalization_rule_name": "nmt_nfkc"}, "changes characters"),
        ({"model_type": "unigram", "vocab_size": 290}, "is not BPE"),
        ({"user_defined_symbols": ["<sep>"]}, "some of its pieces are user-defined"),
    ],
    ids=["nmt_nfkc", "unigram", "user_defined_symbols"],
)
def test_a_sentencepiece_model_of_another_build_is_not_promised(
    settings: dict[str, Any], reason: str, tmp_path: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "pieces"
    directory.mkdir()
    (directory / "tokenizer.model").write_bytes(sentencepiece_model(**settings))
    ours = save_tokenizer(directory / "tokenizer.model", "sentencepiece", directory)
    assert not copy_tokenizer(directory, shape_for(ours), out).opens_in_transformers
    assert not (out / "tokenizer_config.json").exists()
    assert reason in caplog.text


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_chat_template_travels_with_its_special_tokens_and_ends(kind: str, tmp_path: Path, out: Path) -> None:
    from transformers import AutoTokenizer

    (tmp_path / "saved").mkdir()
    ours = save_tokenizer(make_folder(tmp_path / "folder", kind), "huggingface", tmp_path / "saved")
    copied = copy_tokenizer(tmp_path / "saved", shape_for(ours), out)
    write_generation(copied, out, cache=True)
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "folder", out))
    messages = [{"role": "user", "content": " Where to? "}]
    asked = {"add_generation_prompt": True, "return_dict": False}
    assert after.apply_chat_template(messages, **asked) == before.apply_chat_template(messages, **asked)
    assert after.encode("Where to?") == before.encode("Where to?")
    ends = [before.convert_tokens_to_ids(token) for token in KINDS[kind].ends]
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == (
        ends if len(ends) > 1 else ends[0]
    )
    assert load_tokenizer(out).fingerprint == ours.fingerprint
    assert conventions_of(load_tokenizer(out)) == conventions_of(ours)


def test_what_a_start_model_says_is_kept(out: Path) -> None:
    known = Conventions(max_position_embeddings=4096)
    shape = tiny_shape(positions="rope")
    for size, length in (("tiny", 32), ("/models/llama", 4096)):
        model = shape.model.model_copy(update={"size": size})
        (out / "config.json").write_text(json.dumps({"max_position_embeddings": 32}))
        keep_positions(shape.model_copy(update={"model": model}), known, out)
        assert json.loads((out / "config.json").read_text())["max_position_embeddings"] == length
