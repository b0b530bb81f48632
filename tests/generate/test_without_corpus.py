"""A model with a tokenizer of its own answers the questions of a file in a run that has no corpus."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from retro.common.artifacts import read_manifest
from retro.common.errors import ArtifactError, ConfigError
from retro.run.config import RunConfig
from retro.run.pipeline import stage
from tests.model.convert.folders import LLAMA
from tests.tiny_road import run_stages, small_config
from tests.tokenizers.chat_folders import make_folder

SETTINGS = ("with_passages", "closed_book", "shuffled_passages")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a chat template, and questions with a passage each."""
    folder = tmp_path_factory.mktemp("external")
    make_folder(folder / "model", "llama3")
    rows = len(transformers.AutoTokenizer.from_pretrained(folder / "model"))
    torch.manual_seed(2)
    config = transformers.LlamaConfig(**LLAMA | {"vocab_size": rows, "max_position_embeddings": 512})
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "model")
    make_folder(folder / "model", "llama3")
    small_config(folder)
    questions = json.loads((folder / "test.json").read_text())
    for number, question in enumerate(questions):
        question["ctxs"] = [{"title": "Rivers", "text": f"River {number} rises in the hills."}]
    (folder / "asked.json").write_text(json.dumps(questions))
    return folder


def config_of(folder: Path, run: str, *overrides: str) -> RunConfig:
    settings = [f"generate.checkpoint={folder}/model", "generate.precision=float32", "generate.max_new_tokens=6"]
    settings += ["generate.passages_from=contexts"]
    given = [f"generate.questions=[{folder}/asked.json]", f"generate.settings=[{', '.join(SETTINGS)}]"]
    return small_config(folder, *settings, *given, *overrides, run=run)


def test_answers_without_a_corpus_are_those_with_one(folder: Path) -> None:
    bare, whole = (config_of(folder, name) for name in ("bare", "whole"))
    run_stages(bare, "generate", "evaluate")
    run_stages(whole, "corpus", "generate")
    found, expected = (stage("generate").path(config) for config in (bare, whole))
    for setting in SETTINGS:
        assert (found / f"{setting}.jsonl").read_bytes() == (expected / f"{setting}.jsonl").read_bytes()
    line = json.loads((found / "with_passages.jsonl").read_text().splitlines()[3])
    assert "River 3 rises" in json.dumps(line["passages"])
    assert read_manifest(found, "generate").parents == {}
    assert set(read_manifest(expected, "generate").parents) == {"corpus"}
    assert (bare.run_dir / "report.html").is_file()
    scores = json.loads((stage("evaluate").path(bare) / "scores.json").read_text())
    assert scores["questions"] == 10
    before = (found / "manifest.json").stat().st_mtime_ns
    run_stages(bare, "generate")
    assert (found / "manifest.json").stat().st_mtime_ns == before, "found complete"


def test_what_needs_a_corpus_says_so(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"generate\.questions = \[\]: needs a question file, or a run directory"):
        run_stages(config_of(folder, "none", "generate.questions=[]"), "generate")
    for searching in ("generate.passages_from=retriever", "generate.settings=[retrieved_passages]"):
        with pytest.raises(ArtifactError, match=r"1_corpus.*retro corpus"):
            run_stages(config_of(folder, "none", searching), "generate")
    shutil.rmtree(folder / "none", ignore_errors=True)


def test_a_model_without_a_tokenizer_needs_the_corpus_it_was_trained_on(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "model", tmp_path / "mute")
    (tmp_path / "mute/tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"1_corpus.*retro corpus"):
        run_stages(config_of(folder, "none", f"generate.checkpoint={tmp_path}/mute"), "generate")
