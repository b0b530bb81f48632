"""A .gguf file with a SentencePiece tokenizer gives the ids of the SentencePiece model that it was made from."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import transformers

from retro.common.errors import DataError
from retro.tokenizers.conventions import prompt_prefix
from retro.tokenizers.sentencepiece_bpe import PieceVocabulary, read_vocabulary
from retro.tokenizers.tokenizer import Tokenizer, conventions_of, load_tokenizer
from retro.training import checkpoint
from tests.model.convert.folders import LLAMA
from tests.model.convert.gguf_files import write_gguf

pytest.importorskip("gguf")

TEXT = [
    "the width of the door",
    "a room  with a view\tand naïve 東京",
    "def width(door):\n    return door",
    "<unk> un k>",
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRO_CACHE", str(tmp_path / "cache"))


def trained(path: Path, **settings: Any) -> PieceVocabulary:
    """A model as Llama 2's: <unk>, <s>, </s>, bytes, and pieces by rank; written to `path` too."""
    ways: dict[str, Any] = {
        "model_type": "bpe", "vocab_size": 420, "hard_vocab_limit": False, "byte_fallback": True,
        "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": True,
        "allow_whitespace_only_pieces": True, "minloglevel": 2,
    } | settings  # fmt: skip
    model = io.BytesIO()
    lines = iter("\n".join(TEXT * 5).split("\n"))
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **ways)
    path.write_bytes(model.getvalue())
    found = read_vocabulary(path)
    assert found is not None
    return found


def gguf_of(folder: Path, pieces: PieceVocabulary, **settings: Any) -> Path:
    torch.manual_seed(4)
    config = transformers.LlamaConfig(**LLAMA | {"vocab_size": len(pieces.pieces)})
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "folder")
    return write_gguf(folder / "model.gguf", folder / "folder", "llama", settings, pieces=pieces)


def tokenizer_of(file: Path) -> Tokenizer:
    info = checkpoint.read_info(checkpoint.find(file))
    assert info.tokenizer is not None
    return load_tokenizer(info.tokenizer)


def odd_lines(count: int = 400) -> list[str]:
    draw = random.Random(7)
    letters = "".join(TEXT) + "<>/unk\u2581\u00e9\u4eac\U0001f642\u0301\x00\ufb01\n\t  "
    pieces = ["<unk>", "</s>", "<s>", "<0x41>", " ", "  ", "\u2581", "the", "\n", "\u4eac", "\U0001f642\U0001f642"]
    drawn = [draw.choices(part, k=draw.randrange(40)) for _ in range(count) for part in (letters, pieces)]
    return ["", " ", "\u2581", "\n\n", *("".join(one) for one in drawn)]


@pytest.mark.parametrize("settings", [{}, {"add_dummy_prefix": False}, {"byte_fallback": False}])
def test_ids_are_those_of_the_sentencepiece_model(settings: dict[str, Any], tmp_path: Path) -> None:
    pieces = trained(tmp_path / "original.model", **settings)
    original = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "original.model"))
    ours, lines = tokenizer_of(gguf_of(tmp_path, pieces)), odd_lines()
    expected: Sequence[list[int]] = original.encode(lines)
    assert ours.encode_batch(lines) == expected
    assert any(0 in ids for ids in expected) is not settings.get("byte_fallback", True)
    assert ours.eod == 2
    spelled = [ids for ids in expected if 0 not in ids]
    assert [ours.decode(ids) for ids in spelled] == [original.decode(ids) for ids in spelled]
    # Prompts begin with <s>, as llama.cpp has it unless the file says otherwise.
    assert list(prompt_prefix(conventions_of(ours), "auto", "setting")) == [1]


def test_ids_are_those_that_transformers_makes_of_the_file(tmp_path: Path) -> None:
    file = gguf_of(tmp_path, trained(tmp_path / "original.model"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    lines = ["the width of the door", "a room  with\ta view", "naïve 東京\n🙂", "def width(door):"]
    found = [theirs.encode(line, add_special_tokens=False) for line in lines]
    assert tokenizer_of(file).encode_batch(lines) == found


def test_tokens_added_beside_the_model_are_found_in_a_text_or_have_no_use(tmp_path: Path) -> None:
    pieces = trained(tmp_path / "original.model")
    rows = len(pieces.pieces)
    added = replace(
        pieces,
        pieces=[*pieces.pieces, "<|user|>", "<think>", "[PAD0]"],
        scores=[*pieces.scores, -1000.0, -1000.0, -1000.0],
        kinds=[*pieces.kinds, 3, 4, 5],
    )
    ours = tokenizer_of(gguf_of(tmp_path, added))
    assert ours.encode("the <think>") == [*ours.encode("the "), rows + 1]
    assert rows not in ours.encode("<|user|> [PAD0]"), "what spells a special token is text"
    assert rows + 2 not in ours.encode("<|user|> [PAD0]")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"scores": -1000.0},
            r"do not follow from its pieces and scores: two of its pieces have the same s",
        ),
        ({"pieces": "the"}, r"two of its pieces are equal"),
        ({"kinds": 6}, r"it has \d+ bytes and 0 unknown pieces"),
    ],
)
def test_a_vocabulary_that_leaves_ids_open_is_refused(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    pieces = trained(tmp_path / "original.model")
    same: dict[str, Any] = {name: [value] * len(pieces.pieces) for name, value in change.items()}
    with pytest.raises(DataError, match=rf"model\.gguf: has a SentencePiece tokenizer .*{problem}") as caught:
        checkpoint.find(gguf_of(tmp_path, replace(pieces, **same)))
    assert "\n" not in str(caught.value)
