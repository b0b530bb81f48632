"""Weights in one file or in several, and only the rows that have a token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from retro.common.errors import ArtifactError
from retro.interop.export import in_precision, without_padding, write_weights
from tests.model.tiny import tiny_shape

FOUR = {name: torch.full((10,), float(number)) for number, name in enumerate("abcd")}
"""Four weights of 40 bytes each."""


def test_small_weights_lie_in_one_file(tmp_path: Path) -> None:
    assert write_weights(FOUR, tmp_path) == [tmp_path / "model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    found = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(found[name], weight) for name, weight in FOUR.items())
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_over_the_limit_an_index_says_which_file_holds_each_weight(tmp_path: Path) -> None:
    files = write_weights(FOUR, tmp_path, limit=80)
    assert [path.name for path in files] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 160}
    assert index["weight_map"] == {"a": files[0].name, "b": files[0].name, "c": files[1].name, "d": files[1].name}
    assert set(load_file(files[1])) == {"c", "d"}


def test_a_weight_larger_than_the_limit_has_a_file_of_its_own(tmp_path: Path) -> None:
    large = {"a": torch.zeros(1), "b": torch.zeros(100), "c": torch.zeros(1)}
    assert [set(load_file(path)) for path in write_weights(large, tmp_path, limit=8)] == [{"a"}, {"b"}, {"c"}]


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"model\.safetensors: cannot be written"):
        write_weights(FOUR, tmp_path / "absent")


def test_rows_that_only_pad_the_vocabulary_are_dropped() -> None:
    shape = tiny_shape(vocabulary_multiple=64)
    names = ("embedding.word_embeddings.weight", "output_layer.weight", "embedding.position_embeddings.weight")
    plain, weights = without_padding(shape, {name: torch.arange(64)[:, None] for name in names})
    assert (shape.padded_vocabulary, plain.padded_vocabulary) == (64, 50)
    assert [weights[name].size(0) for name in names] == [50, 50, 64]
    assert weights[names[0]][-1].item() == 49


def test_each_weight_lies_in_one_piece_in_the_precision_asked_for() -> None:
    whole = torch.arange(6, dtype=torch.float32).view(2, 3)
    found = in_precision({"a": whole.T, "b": whole[:1]}, torch.bfloat16)
    assert {weight.dtype for weight in found.values()} == {torch.bfloat16}
    assert all(weight.is_contiguous() for weight in found.values())
    assert found["a"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_trimmed_weight_is_written_without_the_rows_that_were_cut(tmp_path: Path) -> None:
    shape = tiny_shape(vocabulary_multiple=64)
    _, weights = without_padding(shape, {"output_layer.weight": torch.arange(640.0).view(64, 10)})
    write_weights(weights, tmp_path)
    assert torch.equal(
        load_file(tmp_path / "model.safetensors")["output_layer.weight"], torch.arange(500.0).view(50, 10)
    )
    assert (tmp_path / "model.safetensors").stat().st_size < 500 * 4 + 200
