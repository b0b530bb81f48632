"""The end-of-document token is the folder's own, and damaged tokenizer files are one error."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import models

from retro.common.errors import DataError
from retro.corpus.train_tokenizer import train_sentencepiece
from retro.tokenizers import tokenizer as ours
from retro.tokenizers.tokenizer import Kind, load_tokenizer, probe_tokenizer, save_tokenizer

NAMES = ["<|endoftext|>", "[SEP]", "<eos>", "<|eot_id|>", "a", "b"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tokenizer.json in which several tokens could end a text."""
    made = tokenizers.Tokenizer(models.BPE({name: number for number, name in enumerate(NAMES)}, []))
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def put(folder: Path, name: str, data: Any) -> None:
    (folder / name).write_text(json.dumps(data))


def eod(folder: Path, token: str | None = None) -> str:
    out = folder / "saved"
    out.mkdir(exist_ok=True)
    return NAMES[save_tokenizer(folder / "tokenizer.json", "huggingface", out, token).eod]


SAYS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "<|endoftext|>"),
    "a name": ({"tokenizer_config.json": {"eos_token": "<eos>"}}, "<eos>"),
    "an added token": (
        {"tokenizer_config.json": {"eos_token": {"content": "<|eot_id|>", "lstrip": False}}},
        "<|eot_id|>",
    ),
    "a name in the map": ({"tokenizer_config.json": {}, "special_tokens_map.json": {"eos_token": "[SEP]"}}, "[SEP]"),
    "an id": ({"config.json": {"eos_token_id": 2}}, "<eos>"),
    "ids": ({"generation_config.json": {"eos_token_id": [3, 2]}, "config.json": {"eos_token_id": 1}}, "<|eot_id|>"),
    "a name before an id": (
        {"tokenizer_config.json": {"eos_token": "<eos>"}, "config.json": {"eos_token_id": 1}},
        "<eos>",
    ),
    "null": ({"tokenizer_config.json": {"eos_token": None}, "config.json": {"eos_token_id": None}}, "<|endoftext|>"),
}


@pytest.mark.parametrize(("files", "wanted"), SAYS.values(), ids=SAYS.keys())
def test_the_end_of_document_token_is_the_folder_s_own(files: dict[str, Any], wanted: str, folder: Path) -> None:
    for name, data in files.items():
        put(folder, name, data)
    assert eod(folder) == wanted
    assert NAMES[load_tokenizer(folder / "saved").eod] == wanted


def test_a_token_that_is_asked_for_counts_before_the_folder_s(folder: Path) -> None:
    put(folder, "tokenizer_config.json", {"eos_token": "<eos>"})
    assert eod(folder, "[SEP]") == "[SEP]"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "tokenizer_config.json",
            {"eos_token": "<end>"},
            "says that texts end with '<end>', which tokenizer.json has not",
        ),
        ("config.json", {"eos_token_id": 77}, "says that texts end with token 77, which tokenizer.json has not"),
        ("tokenizer_config.json", {"eos_token": 3}, "has an eos_token that is none"),
        ("config.json", {"eos_token_id": -1}, "has an eos_token_id that is none"),
        ("config.json", [1], "config.json"),
    ],
)
def test_a_folder_that_names_no_token_of_its_tokenizer_is_refused(
    name: str, data: Any, message: str, folder: Path
) -> None:
    put(folder, name, data)
    with pytest.raises(DataError, match=message):
        eod(folder)


def sentencepiece(folder: Path) -> Path:
    file = folder / "tokenizer.model"
    file.write_bytes(train_sentencepiece(["the quick brown fox jumps over the lazy dog " * 5], 300))
    return file


def test_the_folder_of_a_sentencepiece_model_counts_before_its_own_eos(tmp_path: Path) -> None:
    file = sentencepiece(tmp_path)
    (tmp_path / "saved").mkdir()
    assert save_tokenizer(file, "sentencepiece", tmp_path / "saved").eod == 1
    put(tmp_path, "tokenizer_config.json", {"eos_token": "e"})
    assert save_tokenizer(file, "sentencepiece", tmp_path / "saved").eod not in (0, 1)


DAMAGED: dict[str, tuple[Any, str]] = {
    "no vocabulary": ({"model": {"type": "BPE", "vocab": {}, "merges": []}}, "has no tokens"),
    "a huge id": (
        {"model": {"type": "WordLevel", "vocab": {"a": 4_294_967_295}, "unk_token": "a"}},
        "has token ids up to 4,294,967,295",
    ),
    "no model": ({"version": "1.0"}, "is not a tokenizer.json"),
    "a list": ([], "is not a tokenizer.json"),
}


@pytest.mark.parametrize(("data", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_tokenizer_json_is_one_error(data: Any, message: str, tmp_path: Path) -> None:
    put(tmp_path, "tokenizer.json", data)
    with pytest.raises(DataError, match=message):
        save_tokenizer(tmp_path / "tokenizer.json", "huggingface", tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=message):
        save_tokenizer(tmp_path / "tokenizer.json", "huggingface", tmp_path / "out")


@pytest.mark.parametrize("kind", ["sentencepiece", "huggingface"])
def test_a_good_file_passes_the_probe(kind: Kind, folder: Path) -> None:
    probe_tokenizer(sentencepiece(folder) if kind == "sentencepiece" else folder / "tokenizer.json", kind)


def test_a_file_that_ends_the_process_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(DataError, match=r"x\.model: is damaged: its library fails when it is used \(exit 1\)"):
        probe_tokenizer(tmp_path / "x.model", "sentencepiece")


def test_a_library_that_does_not_return_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sleeps").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "sleeps").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "sleeps"))
    monkeypatch.setattr(ours, "_PROBE_S", 0.2)
    with pytest.raises(DataError, match=r"x\.model: is damaged: its library does not return from it"):
        probe_tokenizer(tmp_path / "x.model", "sentencepiece")


def test_changed_bytes_of_a_sentencepiece_model_never_end_this_process(tmp_path: Path) -> None:
    whole, generator = sentencepiece(tmp_path).read_bytes(), random.Random(1)
    (tmp_path / "out").mkdir()
    for _ in range(4):
        data = bytearray(whole)
        for _ in range(20):
            data[generator.randrange(len(data))] = generator.randrange(256)
        (tmp_path / "tokenizer.model").write_bytes(data)
        try:
            save_tokenizer(tmp_path / "tokenizer.model", "sentencepiece", tmp_path / "out")
        except DataError as error:
            assert "tokenizer.model: is " in str(error)
