"""The same folder gives the same numbers in lm-evaluation-harness's own `hf` model and in ours."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from retro.generate.config import GenerateConfig, ModelPaths
from retro.lm_eval.model import RetroLM
from retro.lm_eval.run import Options, evaluate, open_lm
from tests.model.convert.folders import LLAMA
from tests.tokenizers.chat_folders import make_folder

LENGTH = 64
WORDS = "the river rises in hills and runs to sea question answer capital of France 東京 heißt  two\tand\nnew <think>"
TASKS = {
    "choice": """
task: words_choice
output_type: multiple_choice
doc_to_choice: "{{options}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: brier_score}]
""",
    "rolling": """
task: words_rolling
output_type: loglikelihood_rolling
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    "until": """
task: words_until
output_type: generate_until
doc_to_target: "{{text}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6}
metric_list: [{metric: exact_match}]
""",
}
SHARED = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
metadata: {{version: 1}}
"""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for module in ("datasets.config", "huggingface_hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    yield


@pytest.fixture(autouse=True)
def accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package is missing, what the harness asks it: that there is one process, on the CPU."""
    if importlib.util.find_spec("accelerate") is not None:
        return
    package, inner = ModuleType("accelerate"), ModuleType("accelerate.utils")
    one = SimpleNamespace(num_processes=1, device=torch.device("cpu"))
    package.__dict__.update(
        Accelerator=lambda **_: one, InitProcessGroupKwargs=lambda **_: None, find_executable_batch_size=None
    )
    inner.__dict__.update(get_max_memory=None)
    monkeypatch.setitem(sys.modules, "accelerate", package)
    monkeypatch.setitem(sys.modules, "accelerate.utils", inner)


@pytest.fixture(scope="module", params=["llama3", "mistral"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose tokenizer begins a text with BOS."""
    folder = tmp_path_factory.mktemp(request.param)
    make_folder(folder, request.param)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(3)
    config = transformers.LlamaConfig(**LLAMA | {"vocab_size": len(tokenizer), "max_position_embeddings": LENGTH})
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    make_folder(folder, request.param)  # generation_config.json says again what it did
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    return folder


def both(folder: Path) -> tuple[RetroLM, Any]:
    nowhere = folder / "nowhere"
    paths = ModelPaths(checkpoint=folder, corpus=nowhere, db=nowhere, index=nowhere)
    from lm_eval.models.huggingface import HFLM

    ours = open_lm(GenerateConfig(checkpoint=folder), paths, "none")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return ours, HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)


def texts(count: int, words: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS.split(" "), k=draw.randrange(words + 1))) for _ in range(count)]


def asked(*arguments: Any) -> list[Any]:
    return [SimpleNamespace(args=one) for one in arguments]


def test_options_are_as_likely_as_to_the_harness(folder: Path) -> None:
    ours, theirs = both(folder)
    # Some contexts are empty, some end in spaces, some are longer than the model reads.
    contexts = ["" if n % 8 == 0 else text + "  " * (n % 3 == 0) for n, text in enumerate(texts(40, 12, 1))] + texts(
        40, 90, 2
    )
    options = [f" {text} QQQQQQ" if n % 2 else f" QQQQQQ{text}" for n, text in enumerate(texts(160, 4, 3))]
    requests = asked(*zip([context for context in contexts for _ in range(2)], options, strict=True))
    assert len(requests) == 160
    assert sum(not request.args[0] for request in requests) > 0
    found = ours.loglikelihood(requests, disable_tqdm=True)
    expected = theirs.loglikelihood(requests, disable_tqdm=True)
    assert [one for one, _ in found] == pytest.approx([one for one, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert ours.truncated, "some were cut, at the same place"


def test_whole_texts_are_as_likely_as_to_the_harness(folder: Path) -> None:
    ours, theirs = both(folder)
    requests = asked(*((text,) for text in ["a", *texts(30, 150, 4)] if text))
    found = ours.loglikelihood_rolling(requests)
    assert found == pytest.approx(theirs.loglikelihood_rolling(requests, disable_tqdm=True), abs=1e-3)
    lengths = [len(ours.tok_encode(request.args[0])) for request in requests]
    assert max(lengths) > 2 * LENGTH, "in windows"
    assert min(lengths) < LENGTH


@pytest.mark.parametrize("chat", [{}, {"apply_chat_template": True, "system_instruction": "Be brief."}])
def test_tasks_have_the_same_scores_as_in_the_harness(folder: Path, tmp_path: Path, chat: dict[str, Any]) -> None:
    lines = [
        {
            "question": f"{text} ",
            "options": [" sea", " river", "two\tand", f"{text}a"],
            "label": n % 4,
            "text": f"{text} sea",
        }
        for n, text in enumerate(texts(40, 20, 5))
    ]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name, task in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(task + SHARED.format(file=tmp_path / "lines.jsonl"))
    ours, theirs = both(folder)
    names = ["words_choice", "words_rolling", "words_until"]
    wanted = Options(tasks=names, include_path=tmp_path, log_samples=True, few_shot=0, **chat)
    found, kept = evaluate(ours, wanted)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    expected: Any = simple_evaluate(
        model=theirs, tasks=names, task_manager=manager, bootstrap_iters=1_000, num_fewshot=0, **chat
    )
    for name in names:
        metrics = {key: value for key, value in found["results"][name].items() if isinstance(value, float)}
        assert len(metrics) >= 1
        assert metrics == pytest.approx({key: expected["results"][name][key] for key in metrics}, rel=1e-5)
    answers = [
        [line["resps"][0][0] for line in sorted(one["words_until"], key=lambda line: line["doc_id"])]
        for one in (kept, expected["samples"])
    ]
    assert len(set(answers[0])) > 10
    # The harness decodes an answer without what is before it: a byte or a space there is lost with SentencePiece.
    assert answers[0] == answers[1] or "mistral" in folder.name
