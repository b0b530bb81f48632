"""The engine as a teacher: one of tests, and a random model in a folder as other toolkits write it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from retro.common.errors import ArtifactError, DataError
from retro.generate.config import GenerateConfig
from retro.generate.request import Engine
from retro.qa.prompt_texts import load_prompts
from retro.teacher.config import TeacherConfig
from retro.teacher.engine import Encode, EngineBackend, conversation_encoder
from retro.teacher.request import RefusedError, TeacherRequest
from retro.teacher.teacher import Teacher, open_teacher
from retro.tokenizers.chat_template import Message
from retro.tokenizers.tokenizer import load_tokenizer, save_tokenizer
from tests.model.convert.folders import LLAMA
from tests.serve.fake_engine import SEQUENCE, TOKENIZER, FakeEngine, fake_answer
from tests.teacher.asking import asked, numbered
from tests.tokenizers.chat_folders import make_folder

MESSAGES = (
    {"role": "system", "content": "Decompose."},
    {"role": "user", "content": "Who?"},
    {"role": "assistant", "content": "Berlin."},
    {"role": "user", "content": "Where does the river run to?"},
)


def last_message(messages: Sequence[Message]) -> list[int]:
    return TOKENIZER.encode(messages[-1]["content"])


def fake_teacher(folder: Path, engine: FakeEngine, at_once: int = 3) -> Teacher:
    def opened() -> tuple[Engine, Encode]:
        return engine, last_message

    backend = EngineBackend(opened, model="fake", identity={}, at_once=at_once)
    return Teacher(backend, TeacherConfig(kind="engine", run=folder / "run.yaml"), folder)


def test_an_engine_replies_to_many_at_once_in_their_order(tmp_path: Path) -> None:
    engine = FakeEngine(words=5)
    with fake_teacher(tmp_path, engine) as teacher:
        found = list(teacher.complete_all(numbered(7, max_tokens=200)))
    wanted = [fake_answer(TOKENIZER.encode(f"question {number}"), 0, 5) for number in range(7)]
    assert [one.text for one in found] == [text.removeprefix(" ") for text in wanted]
    assert [one.output_tokens for one in found] == [len(text.encode()) for text in wanted]
    assert {(one.finish_reason, one.input_tokens, one.model, one.cached) for one in found} == {
        ("stop", 10, "fake", False)
    }
    assert engine.most_at_once == 3


def test_limit_stop_and_seed_reach_the_engine(tmp_path: Path) -> None:
    with fake_teacher(tmp_path, FakeEngine(words=5)) as teacher:
        whole = fake_answer(TOKENIZER.encode("a"), 0, 5)
        cut = teacher.complete([{"role": "user", "content": "a"}], max_tokens=4)
        stopped = teacher.complete([{"role": "user", "content": "a"}], max_tokens=200, stop=["1"])
        drawn = teacher.complete([{"role": "user", "content": "a"}], max_tokens=200, temperature=1.0, seed=9)
    # Tokens of this engine are bytes; the first one is a space.
    beginning = whole.encode()[1:4].decode()
    assert (cut.text, cut.finish_reason, cut.output_tokens) == (beginning, "length", 4)
    assert (stopped.text, stopped.finish_reason) == (whole[1 : whole.index("1")], "stop")
    assert drawn.text == fake_answer(TOKENIZER.encode("a"), 9, 5)[1:]


def test_a_prompt_that_does_not_fit_stops_the_work_and_keeps_the_others(tmp_path: Path) -> None:
    with fake_teacher(tmp_path, FakeEngine(words=2)) as teacher:
        requests = [*numbered(2), asked("x" * (SEQUENCE + 1)), asked("after")]
        with pytest.raises(RefusedError, match=r"Request\.prompt = '401 tokens': needs at most 400"):
            list(teacher.complete_all(requests))
        assert teacher.report().kept_replies == 2


def test_the_engine_is_opened_by_the_first_request_and_not_by_a_dry_run(tmp_path: Path) -> None:
    opened = list[int]()

    def open_engine() -> tuple[Engine, Encode]:
        opened.append(1)
        return FakeEngine(words=1), last_message

    backend = EngineBackend(open_engine, model="fake", identity={}, at_once=2)
    with Teacher(backend, TeacherConfig(kind="engine", run=tmp_path / "run.yaml"), tmp_path) as teacher:
        assert teacher.plan(numbered(2)).to_send == 2
        assert opened == []
        list(teacher.complete_all(numbered(2)))
        list(teacher.complete_all(numbered(3)))
    assert opened == [1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a chat template."""
    transformers = pytest.importorskip("transformers")
    folder: Path = tmp_path_factory.mktemp("teacher") / "model"
    make_folder(folder, "llama3")
    rows = len(transformers.AutoTokenizer.from_pretrained(folder))
    torch.manual_seed(2)
    config = transformers.LlamaConfig(**LLAMA | {"vocab_size": rows, "max_position_embeddings": 256})
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    make_folder(folder, "llama3")
    return folder


def config_of(model: Path, folder: Path, **more: Any) -> TeacherConfig:
    generate = {"checkpoint": str(model), "style": "chat", "precision": "float32"}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({"run_dir": str(folder / "my_run"), "generate": generate}))
    return TeacherConfig(kind="engine", run=path, **more)


def test_a_model_in_a_folder_says_what_transformers_has_it_say(model: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    request = TeacherRequest(messages=MESSAGES, max_tokens=8)
    with open_teacher(config_of(model, tmp_path), tmp_path) as teacher:
        first, second = teacher.complete_all([request, asked("What is the capital of Italy?", max_tokens=8)])
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for messages, one in ((MESSAGES, first), ([{"role": "user", "content": "What is the capital of Italy?"}], second)):
        ids = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_tensors="pt")
        ids = ids if isinstance(ids, torch.Tensor) else ids["input_ids"]
        new = theirs.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
        assert one.text == tokenizer.decode(new, skip_special_tokens=True).removeprefix(" ")
        assert one.input_tokens == ids.shape[1]
    assert first.model == "my_run"
    assert first.text


def test_other_weights_or_another_style_are_asked_again(model: Path, tmp_path: Path) -> None:
    requests = numbered(1, max_tokens=3)
    for overrides, cached in (((), 0), ((), 1), (("generate.style=plain",), 0), (("generate.batch_size=3",), 1)):
        with open_teacher(config_of(model, tmp_path, overrides=overrides), tmp_path) as teacher:
            list(teacher.complete_all(requests))
            assert teacher.report().cached == cached, overrides


def tokenizer_of(folder: Path, kind: str) -> Any:
    save_tokenizer(make_folder(folder / kind, kind), "huggingface", folder / "saved")
    return load_tokenizer(folder / "saved")


def test_a_conversation_is_written_in_the_style_that_the_run_was_tuned_in(tmp_path: Path) -> None:
    tokenizer, texts = tokenizer_of(tmp_path, "llama3"), load_prompts(None)
    ids = conversation_encoder(tokenizer, GenerateConfig(style="instructretro"), texts, (0,))(MESSAGES)
    assert ids[0] == 0
    text = tokenizer.decode(ids[1:])
    places = [text.index(one["content"]) for one in MESSAGES]
    assert places == sorted(places)
    assert text.endswith("Assistant:")


def test_a_conversation_that_the_template_refuses_is_an_error(tmp_path: Path) -> None:
    tokenizer, texts = tokenizer_of(tmp_path, "mistral"), load_prompts(None)
    encode = conversation_encoder(tokenizer, GenerateConfig(style="chat"), texts, ())
    with pytest.raises(DataError, match="Conversation roles must alternate"):
        encode(({"role": "user", "content": "a"}, {"role": "user", "content": "b"}))


def test_a_run_without_a_tuned_model_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"run_dir: {tmp_path}/empty\n")
    with pytest.raises(ArtifactError, match=r"6_sft"):
        open_teacher(TeacherConfig(kind="engine", run=path), tmp_path)
