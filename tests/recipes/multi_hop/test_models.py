"""Models behind the protocol: our engine, transformers and a server write the same, and say what they cannot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from retro.common.errors import ConfigError, DataError
from retro.generate.config import GenerateConfig
from retro.generate.open_model import open_model
from retro.generate.program import ProgramEngine
from retro.qa.question import Segment
from retro.recipes.base import StepRun, recipe_settings
from retro.recipes.multi_hop import hf_model
from retro.recipes.multi_hop.answer_config import ModelConfig
from retro.recipes.multi_hop.codec import Codec, codec_of, codec_of_folder
from retro.recipes.multi_hop.conversation import END_CALL, END_TURN, Turn, call_text, prompt_segments
from retro.recipes.multi_hop.hf_model import TransformersModel
from retro.recipes.multi_hop.models import ChatModel, EngineModel, as_program
from retro.recipes.multi_hop.opening import answering_paths, opened_model
from retro.recipes.multi_hop.protocol import Ask, Outcome, Reply, Steps
from retro.recipes.multi_hop.server_model import ServerModel, read, spelled
from retro.recipes.multi_hop.shared_searches import SharedSearches
from retro.run.config import RunConfig
from retro.teacher.config import TeacherConfig
from retro.teacher.request import RefusedError, TeacherRequest
from retro.teacher.script import ScriptBackend
from retro.teacher.teacher import Teacher
from retro.tokenizers.tokenizer import load_tokenizer
from tests.recipes.multi_hop.fact_run import RECIPE, home, other
from tests.recipes.multi_hop.http_server import serving
from tests.recipes.multi_hop.scripted import Shelf, outcome_of


def ask(text: str, most: int = 12, **more: Any) -> Ask:
    segments = prompt_segments([Turn(role="system", text="facts"), Turn(role="user", text=text)])
    return Ask(segments=segments, max_new_tokens=most, stop_tokens=(END_CALL, END_TURN), **more)


ASKS = [ask("e1 l0 r2"), ask("e3 r1"), ask("e3"), ask("e4 r0", 5)]


@pytest.fixture(scope="module")
def engine(made: RunConfig) -> EngineModel:
    """The few steps of tuning leave a model that writes whatever it writes, the same everywhere."""
    config = GenerateConfig(settings=("closed_book",), encoder=False, precision="float32")
    model = open_model(config, answering_paths(made, ModelConfig(), home(made) / "model" / "sft"))
    return EngineModel(model.engine, codec_of(model.tokenizer, model.prefix), {})


@pytest.fixture(scope="module")
def folder(made: RunConfig) -> Path:
    return home(made) / "export" / "model"


def opened(folder: Path, **settings: Any) -> TransformersModel:
    own = {"sequence_length": None, "temperature": 0.0, "seed": 1, "precision": "float32"}
    return TransformersModel(folder, **(own | settings))


def test_transformers_writes_what_the_engine_writes(engine: EngineModel, folder: Path) -> None:
    ours = engine.generate(ASKS)
    theirs = opened(folder).generate(ASKS)
    assert theirs == ours
    assert any(reply.segments for reply in ours)


def test_transformers_computes_where_and_in_what_the_engine_does(
    made: RunConfig, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"kind": "transformers", "path": str(folder)}
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        generate = made.generate.model_copy(update={"precision": precision})
        config = other(made, tmp_path / "run", model=settings).model_copy(update={"generate": generate})
        answer: Any = recipe_settings(config, RECIPE)
        work = StepRun(recipe=RECIPE, step=RECIPE.steps[5], config=config, settings=answer)
        with opened_model(work, answer.answer, Path()) as model:
            assert isinstance(model, TransformersModel)
            assert model._model.dtype == dtype
            assert model.identity["precision"] == precision
    # A device that every machine has, and that is not the one without a choice.
    monkeypatch.setattr(hf_model, "device", lambda: "meta")
    assert opened(folder)._model.device.type == "meta"


def test_a_prompt_that_is_too_long_is_not_asked(engine: EngineModel, folder: Path) -> None:
    # system: facts <eot> user: 120 words <eot> assistant: are 126 tokens of 128, and 12 are to be written.
    long = ask("e1 " * 120)
    model = opened(folder, sequence_length=128)
    for replies in (engine.generate([ASKS[0], long]), model.generate([ASKS[0], long])):
        assert replies[0].excess == 0
        assert replies[1].excess == 10


def test_replies_that_leave_no_room_for_any_prompt_are_refused(engine: EngineModel) -> None:
    with pytest.raises(ConfigError, match=r"answer.model.max_new_tokens = 128: needs fewer than the 128 tokens"):
        engine.generate([ask("e1", 128)])


def test_a_temperature_draws_by_the_seed(folder: Path) -> None:
    drawn = [opened(folder, temperature=5.0, seed=seed) for seed in (1, 1, 2)]
    one, same, other = (model.generate([ASKS[0]])[0].segments for model in drawn)
    assert one == same != other


def test_a_folder_that_is_no_model_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="holds no tokenizer"):
        codec_of_folder(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer_meta.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(DataError, match="cannot be opened by transformers"):
        opened(tmp_path)


def test_a_model_without_a_chat_template_is_asked_in_segments_alone(engine: EngineModel) -> None:
    with pytest.raises(ConfigError, match=r"answer.form = 'chat': needs a model whose folder has a chat template"):
        engine.generate([Ask(messages=({"role": "user", "content": "e1"},), max_new_tokens=4)])


def test_a_tokenizer_without_the_tokens_is_refused(made: RunConfig) -> None:
    plain = Codec(load_tokenizer(made.run_dir / "1_corpus" / "tokenizer"))
    with pytest.raises(ConfigError, match=r"sft.special_tokens = '<\|eot\|>': needs a tokenizer that has this token"):
        plain.prompt(ASKS[0])


def grown(prompt: Ask, *, same: bool) -> Steps:
    """Two turns; the second begins with what the first one was, or with something else."""
    first: Reply = yield prompt
    before = prompt.segments if same else (Segment(text="user:", learn=False), *prompt.segments)
    end, begin = Segment(token=END_TURN), Segment(text="\nassistant:")
    written = first.segments if first.segments[-1].token == END_TURN else (*first.segments, end)
    second: Reply = yield Ask(segments=(*before, *written, begin), max_new_tokens=4, stop_tokens=(END_TURN,))
    return Outcome(answer=second.text, text=second.text)


@pytest.mark.parametrize("same", [True, False])
def test_a_conversation_that_grows_is_computed_once(
    engine: EngineModel, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    inner = engine._engine
    decoder: Any = inner.decoder
    read: list[int] = []
    real = decoder.extend

    def extend(extensions: Any) -> Any:
        read.extend(len(one.tokens) for one in extensions)
        return real(extensions)

    rows: list[int] = []

    def counted(name: str, by: Callable[..., int]) -> None:
        method = getattr(decoder, name)

        def call(*arguments: Any) -> Any:
            rows.append(by(*arguments))
            return method(*arguments)

        monkeypatch.setattr(decoder, name, call)

    monkeypatch.setattr(decoder, "extend", extend)
    counted("open", lambda *_: 1)
    counted("fork", lambda row, count: count)
    counted("close", lambda row: -1)
    searches = SharedSearches(Shelf({}))
    completion = ProgramEngine(inner).run([lambda: as_program(grown(ASKS[0], same=same), engine, searches)])[0]
    # The prompt of nine tokens, read again in the second turn only where that begins with something else.
    assert read[0] == 9
    assert (max(read[1:]) >= 9) == (not same)
    plain = outcome_of(grown(ASKS[0], same=same), engine, Shelf({}))
    assert completion.text == plain.answer
    # Nothing is held afterwards: as many rows were closed as were opened.
    assert len(rows) >= 4
    assert sum(rows) == 0


# A server.


class Handler(BaseHTTPRequestHandler):
    answer: ClassVar[Callable[[Any], tuple[int, Any]]]
    got: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Handler.got.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        status, reply = Handler.answer(body)
        data = reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def config() -> Iterator[ModelConfig]:
    Handler.got.clear()
    with serving(Handler) as address:
        yield ModelConfig(kind="server", base_url=f"{address}/v1", name="m", max_retries=0)


def completed(text: str, reason: str = "stop") -> tuple[int, Any]:
    choice = {"text": text, "index": 0, "finish_reason": reason, "logprobs": None}
    return 200, {"id": "1", "object": "text_completion", "created": 0, "model": "m", "choices": [choice]}


def says(answer: Callable[[Any], tuple[int, Any]]) -> None:
    Handler.answer = staticmethod(answer)


def test_a_server_is_asked_with_the_ids_of_training(config: ModelConfig, folder: Path) -> None:
    codec = codec_of_folder(folder)
    says(lambda body: completed(f"<|bof|>{call_text('e1 l0')}<|eof|>"))
    model = ServerModel(config.model_copy(update={"sequence_length": 128}), codec)
    reply, long = model.generate([ASKS[0], ask("e1 " * 120)])
    path, _, body = Handler.got[0]
    assert path == "/v1/completions"
    assert body["prompt"] == codec.prompt(ASKS[0])
    assert (body["max_tokens"], body["temperature"], body["stop"]) == (12, 0.0, ["<|eof|>", "<|eot|>"])
    assert body["skip_special_tokens"] is False
    assert [one.token for one in reply.segments] == ["<|bof|>", "", "<|eof|>"]
    # What does not fit is not sent.
    assert long.excess > 0
    assert len(Handler.got) == 1


def test_without_a_tokenizer_a_server_is_asked_with_text(config: ModelConfig) -> None:
    says(lambda body: completed(" In 1873.", "length"))
    model = ServerModel(config, None)
    [reply] = model.generate([ask("what is <|eot|>?")])
    assert Handler.got[0][2]["prompt"] == "system: facts<|eot|>\nuser: what is <| eot|>?<|eot|>\nassistant:"
    assert (reply.text, reply.cut) == ("In 1873.", True)
    assert spelled([Segment(text="<|bof|>")]) == "<| bof|>"


@pytest.mark.parametrize(
    ("text", "reason", "tokens"),
    [
        ("<|bof|>retrieve:\n{}", "stop", ["<|bof|>", "", "<|eof|>"]),
        ("In 1873.", "stop", ["", "<|eot|>"]),
        ("In 1873.", "length", [""]),
        ("In 1873.<|eot|>", "stop", ["", "<|eot|>"]),
    ],
)
def test_the_end_that_a_server_keeps_to_itself_is_put_back(text: str, reason: str, tokens: list[str]) -> None:
    assert [one.token for one in read(text, reason)] == tokens


def test_a_request_that_a_server_refuses_fails_alone(config: ModelConfig) -> None:
    def answer(body: Any) -> tuple[int, Any]:
        return (400, {"error": {"message": "too long"}}) if "bad" in body["prompt"] else completed(" yes")

    says(answer)
    replies = ServerModel(config, None).generate([ask("good"), ask("bad")])
    assert replies[0].text == "yes"
    assert "too long" in replies[1].problem


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "answer.model.api_key_env = '': needs a variable with a key that is accepted"),
        (404, "answer.model.name = 'm': needs a model that is served"),
        (409, "answer.model.base_url = "),
    ],
)
def test_a_server_that_refuses_everything_stops_the_work(config: ModelConfig, status: int, message: str) -> None:
    says(lambda body: (status, {"error": {"message": "no"}}))
    with pytest.raises(ConfigError) as caught:
        ServerModel(config, None).generate([ASKS[0]])
    assert message in str(caught.value)


def test_a_server_that_is_not_there_stops_the_work() -> None:
    config = ModelConfig(kind="server", base_url="http://127.0.0.1:9/v1", name="m", timeout_s=1.0, max_retries=0)
    with pytest.raises(ConfigError, match=r"answer.model.base_url = .*needs a server that answers"):
        ServerModel(config, None).generate([ASKS[0]])


@pytest.mark.parametrize(
    ("status", "reply", "problem"),
    [
        (200, {"id": "1", "object": "text_completion", "created": 0, "model": "m", "choices": []}, "without choices"),
        (200, {"id": "1"}, "without choices"),
        (200, "<html>", "Expecting value"),
        (400, {"error": {"message": "unknown field"}}, "unknown field"),
        (429, {"error": {"message": "slow down"}}, "slow down"),
        (500, {"error": {"message": "boom"}}, "boom"),
    ],
)
def test_a_request_that_fails_is_lost_alone_and_stops_the_work_where_all_do(
    config: ModelConfig, status: int, reply: Any, problem: str
) -> None:
    says(lambda body: (status, reply) if "bad" in body["prompt"] else completed(" yes"))
    model = ServerModel(config, None)
    good, bad = model.generate([ask("good"), ask("bad")])
    assert good.text == "yes"
    assert problem in bad.problem
    with pytest.raises(ConfigError, match=rf"answer.model.base_url = .*{problem}.*answers so far are kept"):
        model.generate([ask("bad"), ask("bad")])


def test_requests_that_are_refused_each_for_its_own_reason_fail_and_do_not_stop_the_work(config: ModelConfig) -> None:
    says(lambda body: (400, {"error": {"message": f"{len(body['prompt'])} tokens"}}))
    assert all(one.problem for one in ServerModel(config, None).generate([ask("one"), ask("three")]))


def test_a_request_is_tried_again(config: ModelConfig) -> None:
    says(lambda body: completed(" yes") if len(Handler.got) == 2 else (503, {"error": {"message": "loading"}}))
    [reply] = ServerModel(config.model_copy(update={"max_retries": 1}), None).generate([ASKS[0]])
    assert (reply.text, len(Handler.got)) == ("yes", 2)


def test_half_a_character_of_a_server_is_replaced(config: ModelConfig) -> None:
    says(lambda body: completed(" a \ud800"))
    assert ServerModel(config, None).generate([ASKS[0]])[0].text == "a ?"


def test_the_key_is_sent_and_never_repeated(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    says(lambda body: (400, {"error": {"message": "key sk-secret is wrong"}}))
    [reply] = ServerModel(config.model_copy(update={"api_key_env": "MY_KEY"}), None).generate([ASKS[0]])
    assert Handler.got[0][1]["authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in reply.problem
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(ConfigError, match=r"answer.model.api_key_env = 'MY_KEY': needs an environment variable"):
        ServerModel(config.model_copy(update={"api_key_env": "MY_KEY"}), None).generate([ASKS[0]])


# A teacher.


def chat(text: str) -> Ask:
    return Ask(messages=({"role": "user", "content": text},), max_new_tokens=7)


def teacher(folder: Path, script: Callable[[TeacherRequest], str]) -> Teacher:
    return Teacher(ScriptBackend(script, "s"), TeacherConfig(kind="script"), folder)


def test_any_chat_model_that_a_teacher_can_be_is_a_model(tmp_path: Path) -> None:
    model = ChatModel(teacher(tmp_path, lambda request: request.messages[-1]["content"].upper()), {"kind": "teacher"})
    assert [one.text for one in model.generate([chat("a"), chat("b")])] == ["A", "B"]
    with pytest.raises(ConfigError, match=r"answer.form = 'function_calls': needs to be chat"):
        model.generate([ASKS[0]])


def test_one_chat_that_is_refused_fails_alone_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    asked: list[str] = []

    def script(request: TeacherRequest) -> str:
        text = request.messages[-1]["content"]
        asked.append(text)
        if text == "bad":
            raise RefusedError("teacher.base_url", "x", "needs less")
        return "yes"

    model = ChatModel(teacher(tmp_path, script), {})
    found = model.generate([chat("a"), chat("bad"), chat("c")])
    assert [(one.text, bool(one.problem)) for one in found] == [("yes", False), ("", True), ("yes", False)]
    assert asked.count("a") == asked.count("c") == 1


def test_a_chat_model_that_cannot_work_stops_the_work(tmp_path: Path) -> None:
    def script(request: TeacherRequest) -> str:
        raise ConfigError("teacher.api_key_env", "K", "needs a key")

    with pytest.raises(ConfigError, match="needs a key"):
        ChatModel(teacher(tmp_path, script), {}).generate([chat("a"), chat("b")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "server"}, "base_url = '': needs an address"),
        ({"kind": "server", "base_url": "http://x/v1"}, "name = '': needs the model's name"),
        ({"kind": "transformers"}, "path = None: needs a folder, since kind is transformers"),
        ({"base_url": "http://u:p@x/v1"}, "needs an address without user, password or query"),
    ],
)
def test_settings_of_a_model_that_cannot_be_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ModelConfig(**settings)
    assert message in str(caught.value)
    assert "u:p" not in str(caught.value)


def test_a_reply_has_a_text_without_its_tokens() -> None:
    assert Reply(segments=(Segment(text=" a "), Segment(token="<|eot|>"))).text == "a"
