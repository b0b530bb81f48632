"""Several adapters on one base in one engine: each request gets the answer that its adapter gives alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retro.common.errors import ConfigError
from retro.generate.adapter_check import probe
from retro.generate.decoding.decoder import CachedDecoder
from retro.generate.engine import BatchEngine
from retro.generate.loading import AdapterOptions, open_decoder
from retro.generate.request import (
    Completion,
    Extension,
    GivenPassages,
    LiveRetrieval,
    Neighbors,
    Reading,
    Request,
    Sampling,
)
from retro.generate.scoring import Scored
from retro.qa.question import Context
from retro.training import checkpoint
from retro.training.config import ParallelConfig
from tests.generate.test_engine_model import NumberTokenizer
from tests.training.counting import GPT, RETRO, counting

NAMES = ("", "up", "down")
Checkpoints = tuple[Path, dict[str, Path]]


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return counting(tmp_path_factory.mktemp("gpt"), **GPT)


@pytest.fixture(scope="module")
def retro(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return counting(tmp_path_factory.mktemp("retro"), **RETRO)


def shared(found: Checkpoints) -> CachedDecoder:
    others = {name: checkpoint.read_info(path) for name, path in found[1].items()}
    decoder = open_decoder(found[0], ParallelConfig(), 49, options=AdapterOptions(others=others))
    assert isinstance(decoder, CachedDecoder)
    return decoder


def engine_of(decoder: Any) -> BatchEngine:
    return BatchEngine(
        decoder, NumberTokenizer(), lambda texts: [[passage(text)] for text in texts], neighbor_text="text"
    )


def passage(text: str) -> Context:
    return Context("", " ".join(text.split()[-3:]))


def alone(found: Checkpoints) -> dict[str, BatchEngine]:
    """An engine for each, its adapters merged into weights of its own."""
    paths = {"": found[0], **found[1]}
    return {name: engine_of(open_decoder(path, ParallelConfig(), 49)) for name, path in paths.items()}


def requests(reading: Reading = None) -> list[tuple[str, Request]]:
    """Prompts of several lengths, each for all three models; the adapters have no name where they are alone."""
    sampling = Sampling(max_new_tokens=9)
    prompts = [(10, 11, 12, 13), (30, 29, 28), (7, 8, 9, 10, 11, 12, 13)]
    return [
        (name, Request(prompt=prompt, sampling=sampling, reading=reading, top_logprobs=2))
        for prompt in prompts
        for name in NAMES
    ]


def named(asked: list[tuple[str, Request]]) -> list[Request]:
    return [Request(**(vars(one) | {"adapter": name})) for name, one in asked]


def ids(completion: Completion) -> list[int]:
    return [token.id for token in completion.tokens]


def assert_as_alone(found: list[Completion], asked: list[tuple[str, Request]], engines: dict[str, BatchEngine]) -> None:
    for completion, (name, request) in zip(found, asked, strict=True):
        (expected,) = engines[name].generate([request])
        assert ids(completion) == ids(expected), name
        logprobs, wanted = ([token.logprob for token in one.tokens] for one in (completion, expected))
        torch.testing.assert_close(torch.tensor(logprobs), torch.tensor(wanted), rtol=1e-3, atol=1e-3)


def test_each_counts_in_its_own_direction_when_all_are_answered_together(gpt: Checkpoints) -> None:
    engine = engine_of(shared(gpt))
    sampling = Sampling(max_new_tokens=5)
    asked = [Request(prompt=(20, 21, 22, 23), sampling=sampling, adapter="up"),
             Request(prompt=(23, 22, 21, 20), sampling=sampling, adapter="down"),
             Request(prompt=(20, 21, 22, 23), sampling=sampling)]  # fmt: skip
    up, down, base = engine.generate(asked)
    assert ids(up) == [24, 25, 26, 27, 28]
    assert ids(down) == [19, 18, 17, 16, 15]
    assert ids(base) != ids(up)


def test_a_mixed_batch_gives_the_answers_of_each_alone_in_one_pass_a_step(
    gpt: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, asked, passes = shared(gpt), requests(), [0]
    forward = decoder._forward

    def counted(extensions: Any) -> Any:
        passes[0] += 1
        return forward(extensions)

    monkeypatch.setattr(decoder, "_forward", counted)
    found = engine_of(decoder).generate(named(asked))
    assert passes[0] == 9
    assert_as_alone(found, asked, alone(gpt))
    assert len({tuple(ids(one)) for one in found}) > 6


@pytest.mark.parametrize(
    "reading",
    [None, GivenPassages(passages=(Context("", "3 4 5 6"), Context("", "9 8"))), LiveRetrieval(passages=1, interval=2)],
)
def test_encoder_and_cross_attention_have_their_adapters_too(retro: Checkpoints, reading: Reading) -> None:
    asked = requests(reading)
    assert_as_alone(engine_of(shared(retro)).generate(named(asked)), asked, alone(retro))


def test_requests_that_come_and_go_between_steps_keep_their_adapters(gpt: Checkpoints) -> None:
    engine, asked = engine_of(shared(gpt)), requests()
    engine.max_running = 4
    waiting, numbers = named(asked), list[int]()
    done: dict[int, Completion] = {}
    while waiting or engine.running or engine.waiting:
        if waiting:
            numbers.append(engine.submit(waiting.pop(0)))
        done |= {number: event.completion for number, event in engine.step() if event.completion is not None}
    assert_as_alone([done[number] for number in numbers], asked, alone(gpt))


def test_an_equal_prompt_is_shared_within_an_adapter_and_never_between_two(
    gpt: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, forks = shared(gpt), list[int]()
    fork = decoder.fork

    def counted(row: int, count: int) -> list[int]:
        forks.append(count)
        return fork(row, count)

    monkeypatch.setattr(decoder, "fork", counted)
    sampling = Sampling(max_new_tokens=3)
    asked = [
        Request(prompt=(5, 6, 7), sampling=sampling, adapter=name) for name in ("up", "down", "up", "", "down", "up")
    ]
    found = engine_of(decoder).generate(asked)
    assert sorted(forks) == [1, 2]  # one more "down", two more "up"
    assert ids(found[0]) == ids(found[2]) == ids(found[5]) == [8, 9, 10]
    assert ids(found[1]) == ids(found[4]) != ids(found[0])


@pytest.fixture
def engine(gpt: Checkpoints) -> Iterator[BatchEngine]:
    yield engine_of(shared(gpt))


def test_a_prefix_belongs_to_the_adapter_that_read_it(engine: BatchEngine) -> None:
    prefix = engine.prefill((20, 21, 22), adapter="up")
    sampling = Sampling(max_new_tokens=3)
    (found,) = engine.generate([Request(prefix=prefix, prompt=(23,), sampling=sampling, adapter="up", keep=True)])
    assert ids(found) == [24, 25, 26]
    assert found.prefix is not None
    for held in (prefix, found.prefix):
        for name in ("", "down"):
            with pytest.raises(ConfigError, match=rf"adapter = '{name}': needs 'up', which its prefix was read with"):
                engine.generate([Request(prefix=held, prompt=(23,), adapter=name)])
            with pytest.raises(ConfigError, match=r"needs 'up', which its prefix was read with"):
                engine.score([Scored(prefix=held, prompt=(23,), continuation=(1,), adapter=name)])


def test_scores_are_those_of_the_adapter(gpt: Checkpoints, engine: BatchEngine) -> None:
    asked = [Scored(prompt=(20, 21, 22, 23), continuation=(24, 25), adapter=name) for name in NAMES * 2]
    found = engine.score(asked)
    for one, name in zip(found, NAMES * 2, strict=True):
        (expected,) = alone(gpt)[name].score([Scored(prompt=(20, 21, 22, 23), continuation=(24, 25))])
        assert one.logprob == pytest.approx(expected.logprob, rel=1e-3)
    assert [one.greedy for one in found[:3]] == [False, True, False]


def test_an_adapter_that_is_not_there_is_named(engine: BatchEngine) -> None:
    with pytest.raises(ConfigError, match=r"Request.adapter = 'side': needs an adapter .*: up, down"):
        engine.submit(Request(prompt=(1,), adapter="side"))
    with pytest.raises(ConfigError, match=r"Scored.adapter = 'side': needs an adapter"):
        engine.score([Scored(prompt=(1,), continuation=(2,), adapter="side")])
    with pytest.raises(ValueError, match="opened for the adapter 'side'; there are up, down"):
        engine.decoder.open("side")


def test_logits_after_each_token_come_in_the_order_of_the_call(retro: Checkpoints) -> None:
    decoder = shared(retro)
    # Neighbors make one pass for each adapter, and one for rows without; the rows of all three are mixed.
    expected = {name: probe(decoder, name) for name in NAMES}
    rows = [decoder.open(name) for name in NAMES]
    tokens = [[place * 7 % 50 for place in range(8)] for _ in NAMES]
    numbers = np.arange(16).reshape(2, 8) * 5 % 50
    neighbors = {3: Neighbors(numbers, np.ones((2, 8), dtype=np.bool_))}
    found = decoder.extend_all([Extension(row, ids_, neighbors) for row, ids_ in zip(rows, tokens, strict=True)])
    for name, logits_TV in zip(NAMES, found, strict=True):
        torch.testing.assert_close(logits_TV, expected[name], rtol=1e-5, atol=1e-5)
    for row in rows:
        decoder.close(row)
