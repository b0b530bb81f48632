from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from retro.common.errors import DataError, DependencyError
from retro.common.pretrained import device, longest_text
from retro.index.config import EmbedderConfig
from retro.index.embedder import Embedder
from retro.index.neural import HuggingFaceEmbedder, SentenceTransformersEmbedder, text_positions
from tests.index.models import WORDS, bert_folder, roberta_folder

TEXTS = ["the fox", "a b c the dog yard", "", "dog", "the " * 60, "fox fox"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("models") / "bert")


def settings(kind: str, folder: Path, **others: Any) -> EmbedderConfig:
    return EmbedderConfig(**({"kind": kind, "model": str(folder), "precision": "float32", "batch_tokens": 24} | others))


def hidden_states(folder: Path, words: str) -> Any:
    """[T, D] last layer of one text, by transformers alone."""
    import torch
    from transformers import AutoModel

    pieces = [WORDS.index(word) for word in ["[CLS]", *words.split(), "[SEP]"]]
    with torch.no_grad():
        return AutoModel.from_pretrained(str(folder)).eval()(torch.tensor([pieces])).last_hidden_state[0].numpy()


def test_text_positions_leave_out_the_frame_and_the_padding() -> None:
    ids = np.array([[2, 7, 8, 3, 0], [2, 3, 0, 0, 0], [7, 3, 8, 9, 9]])
    mask = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=bool)
    framed = text_positions(ids, mask, 2, 3)
    # The last row has no frame: a [SEP] inside a text is text.
    assert framed.astype(int).tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert text_positions(ids, mask, None, None).tolist() == mask.tolist()


def test_huggingface_averages_strictly_between_cls_and_sep(folder: Path) -> None:
    embedder = HuggingFaceEmbedder(settings("huggingface", folder))
    mean = hidden_states(folder, "the fox dog")[1:-1].mean(axis=0)
    found = embedder.embed_passages(["the fox dog", "a"])[0]
    assert np.allclose(found, mean / np.linalg.norm(mean), atol=1e-5)


def test_sentence_transformers_uses_the_models_own_pooling(folder: Path) -> None:
    embedder = SentenceTransformersEmbedder(settings("sentence_transformers", folder))
    mean = hidden_states(folder, "the fox dog").mean(axis=0)
    found = embedder.embed_passages(["the fox dog", "a"])[0]
    assert np.allclose(found, mean / np.linalg.norm(mean), atol=1e-5)


@pytest.mark.parametrize("kind", ["huggingface", "sentence_transformers"])
def test_results_are_in_the_order_of_the_texts_and_empty_ones_are_zero(kind: str, folder: Path) -> None:
    made: type[Any] = HuggingFaceEmbedder if kind == "huggingface" else SentenceTransformersEmbedder
    embedder: Embedder = made(settings(kind, folder))
    done: list[int] = []
    together = embedder.embed_passages(TEXTS, done.append)
    alone = np.concatenate([embedder.embed_passages([text]) for text in TEXTS])
    assert together.dtype == np.float32
    assert np.allclose(together, alone, atol=1e-5)
    assert np.linalg.norm(together, axis=1).tolist() == pytest.approx([1, 1, 0, 1, 1, 1], abs=1e-5)
    assert sum(done) == len(TEXTS)
    assert len(done) > 1
    assert np.array_equal(together, embedder.embed_passages(TEXTS))
    assert embedder.embed_passages([]).shape == (0, 16)


def test_long_texts_are_cut_to_what_the_model_can_read(folder: Path) -> None:
    embedder = HuggingFaceEmbedder(settings("huggingface", folder))
    # 32 positions: [CLS], 30 words, [SEP].
    assert np.allclose(embedder.embed_passages(["the " * 30]), embedder.embed_passages(["the " * 90]), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "make"),
    [("huggingface", HuggingFaceEmbedder), ("sentence_transformers", SentenceTransformersEmbedder)],
)
def test_positions_that_begin_after_that_of_padding_are_not_counted(kind: str, make: Any, tmp_path: Path) -> None:
    embedder = make(settings(kind, roberta_folder(tmp_path / "roberta")))
    assert np.allclose(embedder.embed_passages(["the " * 30]), embedder.embed_passages(["the " * 90]), atol=1e-6)


@pytest.mark.parametrize(
    ("positions", "of_tokenizer", "longest"), [(512, 10**30, 512), (512, 128, 128), (-1, 10**30, 7), (None, 64, 64)]
)
def test_the_longest_text_is_what_model_and_tokenizer_allow(
    positions: int | None, of_tokenizer: int, longest: int
) -> None:
    from torch import nn

    model: Any = nn.Linear(1, 1)
    model.config = SimpleNamespace(max_position_embeddings=positions)
    assert longest_text(model, SimpleNamespace(model_max_length=of_tokenizer), unknown=7) == longest


@pytest.mark.parametrize("kind", ["huggingface", "sentence_transformers"])
def test_bfloat16_is_close_to_float32_and_another_identity(kind: str, folder: Path) -> None:
    made: type[Any] = HuggingFaceEmbedder if kind == "huggingface" else SentenceTransformersEmbedder
    full, half = (made(settings(kind, folder, precision=one)) for one in ("float32", "bfloat16"))
    vectors = half.embed_passages(["the fox dog", "yard"])
    assert np.linalg.norm(vectors, axis=1).tolist() == pytest.approx([1, 1])
    assert (vectors * full.embed_passages(["the fox dog", "yard"])).sum(axis=1).min() > 0.99
    assert full.identity["dtype"] != half.identity["dtype"]
    assert full.identity["weights_sha256"] == half.identity["weights_sha256"]


def test_a_folder_that_lacks_a_file_is_named(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "config.json").unlink()
    with pytest.raises(DataError, match="copy: cannot be loaded as an embedding model"):
        HuggingFaceEmbedder(settings("huggingface", copy))


def test_code_in_a_model_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(DataError, match="cannot be loaded"):
        HuggingFaceEmbedder(settings("huggingface", copy))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("package", ["sentence_transformers", "transformers"])
def test_a_missing_package_says_what_to_install(package: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(f"No module named {package!r}")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    made = HuggingFaceEmbedder if package == "transformers" else SentenceTransformersEmbedder
    kind = "huggingface" if package == "transformers" else "sentence_transformers"
    with pytest.raises(DependencyError, match=r"instruct-retro\[embed\]"):
        made(settings(kind, folder))


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "cuda:0"),
        ({"RANK": "7", "WORLD_SIZE": "8", "LOCAL_RANK": "3"}, "cuda:3"),
        ({"SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1"}, "cuda:1"),
        ({"RETRO_WORKER": "2/4"}, "cuda:2"),
        ({"RETRO_WORKER": "5/8"}, "cuda:1"),
    ],
)
def test_every_worker_of_a_machine_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert device(environment) == expected
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device(environment) == "cpu"


def test_device_contexts_work_beside_the_cpu_adapter() -> None:
    import torch

    import retro.mcore  # noqa: F401

    with torch.device("meta"):
        assert torch.arange(3).device.type == "meta"
