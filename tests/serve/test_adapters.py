"""Several adapters on one base behind the server, chosen by the `model` of a request."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ArtifactError, ConfigError
from retro.generate.loading import AdapterOptions, open_decoder
from retro.mcore.lora import Adapted
from retro.model.convert.source import AddedTokens
from retro.run.config import RunConfig, load_run_config
from retro.run.pipeline import model_paths
from retro.serve.adapters import find_adapters, with_adapters
from retro.serve.app import Service
from retro.serve.config import ServeConfig
from retro.serve.loading import load_service
from retro.sft.tune import run as tune
from retro.training import checkpoint
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.loop import train
from retro.training.result import of_stage
from tests.generate.test_engine_model import NumberTokenizer
from tests.generate.test_several_adapters import engine_of
from tests.serve.fake_server import fake_service
from tests.serve.running import HttpAnswer, RunningServer, running
from tests.tiny_road import run_stages, small_config
from tests.training.counting import GPT, counting
from tests.training.fake import CycleSource
from tests.training.test_added_tokens import grown
from tests.training.test_loop import SETTINGS
from tests.training.test_lora import adapted, made

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
NAMES = ("fake", "up", "down")
Checkpoints = tuple[Path, dict[str, Path]]


class ServedNumbers(NumberTokenizer):
    """With what the server asks of a tokenizer."""

    vocab_size = 50
    fingerprint = "numbers"

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]


@pytest.fixture(scope="module")
def counters(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return counting(tmp_path_factory.mktemp("counters"), **GPT)


def service_of(path: Path, adapters: dict[str, Path]) -> Service:
    """A service whose model counts; without adapters, what a server of that checkpoint alone says."""
    others = {name: checkpoint.read_info(one) for name, one in adapters.items()}
    decoder = open_decoder(path, ParallelConfig(), 49, options=AdapterOptions(others=others))
    facts: dict[str, Any] = {
        "tokenizer": ServedNumbers(), "token_bytes": None, "sequence_length": decoder.sequence_length,
        "chunk_length": decoder.chunk_length, "reads_neighbors": False, "retrieve": None,
    }  # fmt: skip
    service = fake_service(ServeConfig(retrieval="none"), open_engine=lambda: engine_of(decoder), **facts)
    return dataclasses.replace(service, adapters=with_adapters(service.model, others))


@pytest.fixture(scope="module")
def server(counters: Checkpoints) -> Iterator[RunningServer]:
    with running(service_of(*counters)) as found:
        yield found


PROMPTS = ([20, 21, 22, 23], [23, 22, 21, 20], [7, 8, 9])


def bodies() -> list[dict[str, Any]]:
    """Every prompt for every model, in an order that mixes them."""
    return [
        {"model": name, "prompt": prompt, "max_tokens": 8, "temperature": temperature, "seed": 5, "logprobs": 2}
        for prompt in PROMPTS
        for temperature in (0, 0.9)
        for name in NAMES
    ]


def told(answer: HttpAnswer) -> tuple[str, list[str], list[float]]:
    assert answer.status == 200, answer.text
    (choice,) = answer.json["choices"]
    return choice["text"], choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"]


def assert_told(found: Sequence[HttpAnswer], expected: Sequence[HttpAnswer]) -> None:
    for one, other in zip(found, expected, strict=True):
        (text, tokens, logprobs), (wanted, their_tokens, their_logprobs) = told(one), told(other)
        assert (text, tokens) == (wanted, their_tokens)
        assert logprobs == pytest.approx(their_logprobs, rel=1e-3, abs=1e-3)


@pytest.fixture(scope="module")
def alone(counters: Checkpoints) -> list[HttpAnswer]:
    """The answers to `bodies` of three servers, each with one model whose adapters are merged into its weights."""
    found: dict[str, list[HttpAnswer]] = {}
    for name, path in {"fake": counters[0], **counters[1]}.items():
        with running(service_of(path, {})) as one:
            mine = [body | {"model": "fake"} for body in bodies() if body["model"] == name]
            found[name] = [one.post(COMPLETIONS, body) for body in mine]
    return [found[body["model"]].pop(0) for body in bodies()]


def test_each_model_counts_in_its_own_direction(server: RunningServer) -> None:
    def says(model: str, prompt: list[int]) -> str:
        body = {"model": model, "prompt": prompt, "max_tokens": 4, "temperature": 0}
        text: str = server.post(COMPLETIONS, body).json["choices"][0]["text"]
        return text

    assert says("up", [20, 21, 22, 23]) == " 24 25 26 27"
    assert says("down", [23, 22, 21, 20]) == " 19 18 17 16"
    assert says("fake", [20, 21, 22, 23]) != " 24 25 26 27"


def test_interleaved_requests_get_the_answers_of_each_model_alone(
    server: RunningServer, alone: list[HttpAnswer]
) -> None:
    found = [server.post(COMPLETIONS, body) for body in bodies()]
    assert_told(found, alone)
    assert [one.json["model"] for one in found] == [body["model"] for body in bodies()]
    assert len({told(one)[0] for one in found}) > 8


def test_concurrent_requests_get_the_answers_of_each_model_alone(
    server: RunningServer, alone: list[HttpAnswer]
) -> None:
    with ThreadPoolExecutor(max_workers=12) as pool:
        found = list(pool.map(lambda body: server.post(COMPLETIONS, body), bodies() * 3))
    assert_told(found, alone * 3)


def test_streams_of_several_models_at_once_carry_their_names_and_their_texts(
    server: RunningServer, alone: list[HttpAnswer]
) -> None:
    with ThreadPoolExecutor(max_workers=9) as pool:
        found = list(pool.map(lambda body: server.post(COMPLETIONS, body | {"stream": True}), bodies()))
    for one, body, whole in zip(found, bodies(), alone, strict=True):
        assert {event["model"] for event in one.events} == {body["model"]}
        text = "".join(choice["text"] for event in one.events for choice in event["choices"])
        assert text == told(whole)[0]


def test_models_are_listed_with_their_base_first(server: RunningServer) -> None:
    found = server.get("/v1/models").json["data"]
    assert [(one["id"], one["root"], one["parent"]) for one in found] == [
        ("fake", "fake", None), ("up", "fake", "fake"), ("down", "fake", "fake"),
    ]  # fmt: skip
    assert server.get("/v1/models/down").json == found[2]


@pytest.mark.parametrize("send", ["post", "get"])
def test_an_unknown_model_is_a_404_that_names_those_there_are(server: RunningServer, send: str) -> None:
    body = {"model": "side", "prompt": "1"}
    found = server.post(COMPLETIONS, body) if send == "post" else server.get("/v1/models/side")
    assert (found.status, found.error["code"], found.error["param"]) == (404, "model_not_found", "model")
    assert found.error["message"].endswith("'side' is not served here; served are: 'fake', 'up', 'down'")


def test_a_request_that_names_no_model_is_answered_by_the_base(server: RunningServer) -> None:
    body = {"prompt": [20, 21, 22, 23], "max_tokens": 6, "temperature": 0}
    named = server.post(COMPLETIONS, body | {"model": "fake"}).json
    found = server.post(COMPLETIONS, body).json
    assert (found["model"], found["choices"]) == ("fake", named["choices"])


# A run of the toolkit: pretrained, then tuned twice by adapters.


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunConfig, dict[str, Path]]:
    """A run whose `generate.checkpoint` is its pretrained model, and adapters on that one."""
    folder = tmp_path_factory.mktemp("served adapters")
    config = small_config(folder)
    run_stages(config, "corpus", "db", "index", "neighbors", "pretrain")
    base, found = config.run_dir / "5_pretrain/retro", {}
    for name, lr in (("one", 0.05), ("two", 0.09)):
        settings = small_config(folder, "sft.train.lora={rank: 4}", f"sft.train.lr={lr}", write=False).sft
        paths = model_paths(config)
        tune(
            settings, ParallelConfig(), corpus_dir=paths.corpus, start_from=base, out=folder / name,
            db_dir=paths.db, index_dir=paths.index, search=paths.search,
        )  # fmt: skip
        found[name] = folder / name
    config = small_config(folder, f"generate.checkpoint={base}", write=False)
    return config, found


def with_names(config: RunConfig, adapters: dict[str, Path], **generate: Any) -> Service:
    serve = ServeConfig(**(dict(config.serve) | {"adapters": adapters}))
    return load_service(serve, config.generate.model_copy(update=generate), model_paths(config), "tiny")


def test_chats_and_their_passages_are_those_of_each_adapter_alone(
    tuned: tuple[RunConfig, dict[str, Path]], caplog: pytest.LogCaptureFixture
) -> None:
    config, adapters = tuned
    precise: dict[str, Any] = {"precision": "float32"}
    body = {"messages": [{"role": "user", "content": "river1 river2"}], "max_tokens": 20, "min_tokens": 20,
            "temperature": 0, "logprobs": True, "top_logprobs": 3}  # fmt: skip
    expected = []
    for path in (None, *adapters.values()):
        paths = model_paths(config)
        paths = paths if path is None else dataclasses.replace(paths, checkpoint=path)
        generate = config.generate.model_copy(update=precise)
        with running(load_service(config.serve, generate, paths, "tiny")) as one:
            expected.append(one.post(CHAT, body).json["choices"])
    with caplog.at_level(logging.INFO, logger="retro"):
        service = with_names(config, adapters, **precise)
    assert "one, two: 2 adapters on one base; its weights take" in caplog.text
    with running(service) as server, ThreadPoolExecutor(max_workers=6) as pool:
        asked = [body | {"model": name} for name in ("tiny", "one", "two")] * 2
        found = [one.json["choices"] for one in pool.map(lambda body: server.post(CHAT, body), asked)]
    for mine, wanted in zip(found, expected * 2, strict=True):
        assert mine[0]["message"] == wanted[0]["message"]
        assert mine[0]["retrieval"] == wanted[0]["retrieval"]
        logprobs, theirs = ([token["logprob"] for token in one[0]["logprobs"]["content"]] for one in (mine, wanted))
        assert logprobs == pytest.approx(theirs, rel=1e-3, abs=1e-3)
    # Models of so few steps may choose the same tokens; how likely these are differs.
    assert len({tuple(token["logprob"] for token in one[0]["logprobs"]["content"]) for one in expected}) == 3


def test_adapters_of_another_base_are_refused_with_both_names(
    tuned: tuple[RunConfig, dict[str, Path]], tmp_path: Path
) -> None:
    config, adapters = tuned
    theirs = adapted(tmp_path / "out", made(tmp_path / "base"), steps=1)
    with pytest.raises(ArtifactError) as caught:
        with_names(config, adapters | {"other": theirs})
    message = str(caught.value)
    base = tmp_path / "base/checkpoints/step_00000001"
    assert message.startswith(f"{theirs}: adapts {base} (fingerprint {checkpoint.checkpoint_fingerprint(base)}), and ")
    assert f"this server serves {config.run_dir}/5_pretrain/retro/checkpoints/step_00000006 (fing" in message
    assert "Take it out of serve.adapters (other), or set generate.checkpoint to its base" in message


def refused(base: Path, adapters: dict[str, Path], served: str = "tiny", **settings: Any) -> None:
    of_serve = {name: settings.pop(name) for name in ("recipe",) if name in settings}
    generate = load_run_config(None, []).generate.model_copy(update=settings)
    find_adapters(ServeConfig(adapters=adapters, **of_serve), generate, checkpoint.read_info(base), served)


def test_what_cannot_be_served_beside_the_base_is_refused(tmp_path: Path) -> None:
    base = made(tmp_path / "base", **GPT)
    first = adapted(tmp_path / "first", base, steps=1, **GPT)
    second = adapted(tmp_path / "second", first, steps=1, **GPT)
    with pytest.raises(ArtifactError, match=r"holds a whole model, no adapters\. Take it out of serve\.adapters \(a\)"):
        refused(base, {"a": base})
    with pytest.raises(ConfigError, match=r"serve\.adapters\.tiny = .*: needs another name than the base"):
        refused(base, {"tiny": first})
    with pytest.raises(
        ConfigError, match=r"serve\.adapters = 'a': needs to be empty beside serve\.recipe = 'self_rag'"
    ):
        refused(base, {"a": first}, recipe="self_rag")
    with pytest.raises(ConfigError, match=r"generate\.separate_adapters = True: needs false here: .*first"):
        refused(first, {"a": second}, separate_adapters=True)
    assert find_adapters(ServeConfig(), load_run_config(None, []).generate, checkpoint.read_info(base), "x") == {}


def test_adapters_with_rows_of_their_own_are_refused_by_name(tmp_path: Path) -> None:
    base = made(tmp_path / "base", **GPT)
    shape = checkpoint.read_info(base).shape
    config = TrainConfig(**(SETTINGS | {"lora": {"rank": 2}, "steps": 1, "warmup_steps": 0}))
    train(
        out=tmp_path / "out", shape=grown(shape), config=config, layout=ParallelConfig(), source=CycleSource(),
        validation=None, start_from=base, added=AddedTokens(shape=shape, known=shape.vocabulary),
    )  # fmt: skip
    with pytest.raises(ArtifactError, match=r"holds 2 tensors that take the place of .*, embedding.word_embeddings"):
        refused(base, {"a": tmp_path / "out"})


def test_adapters_that_change_nothing_are_refused_at_start(
    tuned: tuple[RunConfig, dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, adapters = tuned
    stored = checkpoint.find(of_stage(adapters["two"]))
    monkeypatch.setattr(Adapted, "high", lambda layer, low: low.new_zeros(*low.shape[:-1], len(layer.lora_b)))
    with pytest.raises(ArtifactError, match="its adapters change nothing") as caught:
        with_names(config, {"two": adapters["two"]})
    assert str(caught.value).startswith(str(stored))


def test_names_and_paths_are_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = load_run_config(None, ["serve.adapters={law: runs/law/6_sft, med: ~/med}"])
    assert config.serve.adapters == {"law": Path("runs/law/6_sft"), "med": tmp_path / "med"}
    with pytest.raises(ConfigError, match=r"serve\.adapters"):
        load_run_config(None, ["serve.adapters={'two words': runs/law}"])
