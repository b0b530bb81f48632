"""A model of another toolkit is opened for 4,096 tokens, and for more where `generate.sequence_length` says so."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
import transformers

from retro.common.errors import ConfigError
from retro.generate.config import GenerateConfig, ModelPaths
from retro.generate.engine import BatchEngine
from retro.generate.one_question import answer_one
from retro.generate.open_model import open_model
from retro.generate.request import Request, Sampling
from retro.model.convert import hf_config
from retro.training.config import ParallelConfig
from retro.training.convert import convert
from tests.model.convert.folders import GPT2, LLAMA
from tests.tokenizers.chat_folders import make_folder

DEFAULT, MOST = 64, 256


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A random Llama that was made for four times as many tokens as a model is opened for."""
    assert hf_config.LONGEST_DEFAULT == 4096
    monkeypatch.setattr(hf_config, "LONGEST_DEFAULT", DEFAULT)
    make_folder(tmp_path / "llama", "llama3")
    rows = len(transformers.AutoTokenizer.from_pretrained(tmp_path / "llama"))
    torch.manual_seed(2)
    config = transformers.LlamaConfig(**LLAMA | {"vocab_size": rows, "max_position_embeddings": MOST})
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    make_folder(tmp_path / "llama", "llama3")
    return tmp_path / "llama"


def paths_of(folder: Path) -> ModelPaths:
    return ModelPaths(checkpoint=folder, corpus=folder, db=folder, index=folder)


def opened(path: Path, length: int | None) -> BatchEngine:
    config = GenerateConfig(checkpoint=path, settings=("closed_book",), sequence_length=length, precision="float32")
    return open_model(config, paths_of(path)).engine


def long_prompt() -> list[int]:
    return torch.randint(9, 300, (MOST - 50,), generator=torch.Generator().manual_seed(1)).tolist()


def test_a_longer_prompt_is_answered_as_transformers_does(folder: Path, tmp_path: Path) -> None:
    prompt = long_prompt()
    request = Request(prompt=prompt, sampling=Sampling(max_new_tokens=12))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :].tolist()
    convert(folder, tmp_path / "converted")
    for path in (folder, tmp_path / "converted"):
        engine = opened(path, MOST)
        assert engine.decoder.sequence_length == MOST
        (completion,) = engine.generate([request])
        assert [token.id for token in completion.tokens] == expected
    assert len(expected) == 12


def test_what_is_too_long_names_the_setting(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine = opened(folder, None)
    assert engine.decoder.sequence_length == DEFAULT
    assert "opened for 64 of the 256 tokens that it was made for; generate.sequence_length takes more" in caplog.text
    words = r"^Request\.prompt = '206 tokens': needs at most 64, the tokens that the model is open for \(generate\.seq"
    with pytest.raises(ConfigError, match=words):
        engine.generate([Request(prompt=long_prompt(), sampling=Sampling(max_new_tokens=1))])
    paths = paths_of(folder)
    question = "Where does the river rise? " * 4
    config = GenerateConfig(checkpoint=folder, precision="float32", max_new_tokens=4, style="plain")
    with pytest.raises(ConfigError, match=r"sequence of 64 tokens beside .* \(generate\.sequence_length\)$"):
        answer_one(config, ParallelConfig(), paths, question, passages_from="none", say=lambda text: None)
    longer = config.model_copy(update={"sequence_length": MOST})
    assert (
        answer_one(longer, ParallelConfig(), paths, question, passages_from="none", say=lambda text: None).skipped == ""
    )


def test_more_than_the_folder_says_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"generate\.sequence_length = 257: needs at most 256, the tokens that .*llama"
    ):
        opened(folder, MOST + 1)
    assert opened(folder, 32).decoder.sequence_length == 32
    rows = len(transformers.AutoTokenizer.from_pretrained(folder))
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2 | {"vocab_size": rows})).save_pretrained(
        tmp_path / "gpt2"
    )
    make_folder(tmp_path / "gpt2", "llama3")
    with pytest.raises(ConfigError, match=r"= 32: needs to be absent or 64: the model's positions are learned"):
        opened(tmp_path / "gpt2", 32)
