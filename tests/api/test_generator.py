"""Answers from Python are those of the stage and of the engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retro import Generator, Run
from retro.common.errors import ArtifactError, ConfigError
from retro.generate.one_question import answer_one
from retro.generate.request import GivenPassages, LiveRetrieval, Request, Sampling
from retro.generate.runner import question_seed
from retro.generate.scoring import Scored
from retro.mcore import parallel
from retro.qa.question import Context
from retro.run.pipeline import model_paths, stage
from tests.tiny_road import TOPICS
from tests.tokenizers.chat_model import make_chat_model

PROMPT = "river1 river2 river3"


@pytest.fixture(scope="module")
def generator(tuned: Run) -> Iterator[Generator]:
    with tuned.generator() as opened:
        yield opened


def lines_of(run: Run, setting: str) -> list[dict[str, Any]]:
    path = stage("generate").path(run.config) / f"{setting}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("setting", "passages"), [("with_passages", "retrieve"), ("closed_book", None)])
def test_answers_are_those_of_the_stage(tuned: Run, generator: Generator, setting: str, passages: Any) -> None:
    lines = lines_of(tuned, setting)
    found = generator.generate([line["question"] for line in lines], passages=passages)
    assert [one.text for one in found] == [line["prediction"] for line in lines]
    assert [[p.row for p in one.passages] for one in found] == [[p["row"] for p in line["passages"]] for line in lines]
    assert {len(one.passages) for one in found} == ({0} if passages is None else {2})
    alone = generator.generate(lines[3]["question"], passages=passages)
    assert (alone.text, alone.tokens, alone.ended) == (found[3].text, found[3].tokens, found[3].ended)
    assert alone.logprobs == pytest.approx(found[3].logprobs, abs=1e-4)


def test_drawn_answers_are_those_of_ask_with_the_same_settings(tuned: Run, generator: Generator) -> None:
    sampling = tuned.config.generate.sampling.model_copy(update={"temperature": 1.5, "top_p": 0.9})
    config = tuned.config.generate.model_copy(update={"sampling": sampling, "seed": 7, "max_new_tokens": 9})
    told: list[str] = []
    answer = answer_one(
        config, tuned.config.parallel, model_paths(tuned.config), "river1", passages_from="retriever", say=told.append
    )
    options: dict[str, Any] = {"temperature": 1.5, "top_p": 0.9, "seed": 7, "max_tokens": 9}
    found = generator.generate("river1", **options)
    assert (found.text, found.passages) == (answer.prediction, answer.passages)
    assert len(found.tokens) <= 9
    assert list(generator.stream("river1", **options)) == [piece for piece in told if piece]
    assert generator.generate("river1", **options | {"seed": 8}).tokens != found.tokens


def test_pieces_of_a_stream_join_to_the_answer_and_a_reader_may_stop(generator: Generator) -> None:
    options: dict[str, Any] = {"max_tokens": 24, "temperature": 1.0}
    for raw in (False, True):
        whole = generator.generate(PROMPT, raw=raw, **options).text
        pieces = list(generator.stream(PROMPT, raw=raw, **options))
        assert len(pieces) > 2
        assert ("".join(pieces) if raw else "".join(pieces).strip()) == whole
    stopped = generator.stream(PROMPT, raw=True, **options)
    assert next(stopped) == pieces[0]
    assert generator.engine.running == 1
    stopped.close()  # type: ignore[attr-defined]
    assert generator.engine.running == 0


def test_a_stop_text_ends_an_answer_and_is_no_part_of_it(generator: Generator) -> None:
    whole = generator.generate(PROMPT, max_tokens=12, raw=True)
    stop = whole.text[3:6]
    found = generator.generate(PROMPT, max_tokens=12, raw=True, stop=[stop])
    assert (found.ended, found.text) == ("stop", whole.text[: whole.text.index(stop)])


def test_raw_prompts_are_continued_as_the_engine_continues_them(generator: Generator) -> None:
    tokenizer, seed = generator.model.tokenizer, generator.model.config.seed
    prompts = [PROMPT, "engine1"]
    given = [[Context(title="river", text="river4 river5")], [Context(title="", text="engine7")]]
    sampling = [Sampling(max_new_tokens=6, temperature=1.0, seed=question_seed(seed, number)) for number in range(2)]
    for passages, readings in (
        (None, [None, None]),
        (given, [GivenPassages(passages=tuple(one)) for one in given]),
        ("live", [LiveRetrieval(question=prompt) for prompt in prompts]),
    ):
        asked = [
            Request(prompt=tokenizer.encode(text), sampling=how, reading=reading)
            for text, how, reading in zip(prompts, sampling, readings, strict=True)
        ]
        expected = generator.engine.generate(asked)
        found = generator.generate(prompts, passages=passages, raw=True, max_tokens=6, temperature=1.0)
        assert [one.text for one in found] == [one.text for one in expected]
        assert [one.logprobs for one in found] == [tuple(t.logprob for t in one.tokens) for one in expected]
        assert [one.prompt_tokens for one in found] == [len(tokenizer.encode(text)) for text in prompts]


def test_given_passages_are_read_in_place_of_found_ones(generator: Generator) -> None:
    given = [Context(title="river", text="river4 river5", row=3), Context(title="", text="engine1")]
    found = generator.generate(PROMPT, passages=given)
    assert found.passages == tuple(given)
    (many,) = generator.generate([PROMPT], passages=[given])
    assert (many.text, many.passages) == (found.text, found.passages)
    assert generator.generate(PROMPT, passages=["a text"]).passages == (Context(title="", text="a text"),)


def test_scores_are_those_of_the_engine(generator: Generator) -> None:
    tokenizer, continuations = generator.model.tokenizer, [" river4", " engine5 engine6"]
    passages = [Context(title="", text="engine7 engine8")]
    reading = GivenPassages(passages=tuple(passages))
    ids = [tokenizer.encode(text) for text in continuations]
    prompt = tokenizer.encode(PROMPT)
    expected = generator.engine.score([Scored(prompt=prompt, continuation=one, reading=reading) for one in ids])
    found = generator.score(PROMPT, continuations, passages=passages, raw=True)
    assert found == expected
    assert [len(one.logprobs) for one in found] == [len(one) for one in ids]
    alone = generator.score(PROMPT, continuations, passages=None, raw=True)
    assert [one.logprob for one in alone] != [one.logprob for one in found]


def test_a_question_is_scored_after_its_prompt(generator: Generator) -> None:
    """What the model answers is what it scores as the likeliest, where its tokens are those of its text."""
    tokenizer, checked = generator.model.tokenizer, 0
    for question in (f"{topic}{number}" for topic in TOPICS for number in range(4)):
        answer = generator.generate(question, max_tokens=2)
        text = tokenizer.decode(list(answer.tokens))
        if answer.tokens and tuple(tokenizer.encode(text)) == answer.tokens:
            (score,) = generator.score(question, [text])
            assert score.greedy
            assert score.logprobs == pytest.approx(answer.logprobs, abs=1e-4)
            checked += 1
    assert checked


def test_mistakes_name_the_argument(tuned: Run, generator: Generator) -> None:
    for call, told in (
        ({"texts": " "}, r"^question = ' ': needs a text"),
        (
            {"texts": PROMPT, "passages": "retreive"},
            r"^passages = 'retreive': needs 'retrieve', 'live', None, or",
        ),
        ({"texts": [PROMPT], "passages": []}, r"^passages = '0 lists': needs one for each of 1 texts"),
        ({"texts": PROMPT, "temperature": -1}, r"^SamplingConfig\.temperature = -1"),
        ({"texts": PROMPT, "temprature": 1}, r"temprature = 1: is not a setting; did you mean 'temperature'"),
        ({"texts": PROMPT, "max_tokens": 0}, r"^max_tokens = 0: needs at least 1"),
        ({"texts": "river1 " * 100}, r"^question = '.*…': needs to fit a sequence of 64 tokens"),
        ({"texts": "", "raw": True}, r"prompt"),
    ):
        with pytest.raises(ConfigError, match=told):
            generator.generate(**call)
    assert generator.engine.running == 0


def test_several_processes_are_refused(tuned: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match=r"^WORLD_SIZE = 2: needs to be 1: a Generator is one process"):
        tuned.generator()


def test_a_closed_generator_answers_no_more(tuned: Run) -> None:
    with tuned.generator() as opened:
        assert opened.generate(PROMPT).prompt_tokens > 3
    opened.close()
    with pytest.raises(ValueError, match="the generator is closed"):
        opened.generate(PROMPT)


def test_documents_are_answered_from_as_ask_does_in_the_chat_style(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRO_CACHE", str(tmp_path / "cache"))
    model = make_chat_model(tmp_path / "chatty")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/harbor.md").write_text("The lighthouse was built in 1887 by Mairi Strand.\n")
    settings = ("index.embedder={kind: hashing}", "generate.max_new_tokens=8", "generate.precision=float32")
    run = Run.from_documents(tmp_path / "notes", *settings, model=model)
    assert run.config.generate.style == "chat"
    question = "Who built the lighthouse?"
    config = run.config.generate
    paths, layout = model_paths(run.config), run.config.parallel
    answer = answer_one(config, layout, paths, question, passages_from="retriever", say=lambda piece: None)
    with run.generator() as generator:
        found = generator.generate(question)
        assert (found.text, found.passages) == (answer.prediction, answer.passages)
        assert [one.title for one in found.passages] == ["harbor.md"]
        alone = generator.generate(question, passages=None)
    # The model brings its tokenizer: without passages nothing of the run is needed.
    bare = Run(run.config.model_copy(update={"run_dir": tmp_path / "nothing"}))
    with bare.generator() as generator:
        assert generator.generate(question, passages=None) == alone
        with pytest.raises(ArtifactError, match=r"1_corpus.*Run `retro corpus` first"):
            generator.generate(question)
        with pytest.raises(ConfigError, match=r"needs an encoder that reads what is found"):
            generator.generate(question, passages="live")
        with pytest.raises(
            ConfigError, match=r"^passages = \[\['a text'\]\]: needs to be None with raw=True: no encoder reads them"
        ):
            generator.generate(question, passages=["a text"], raw=True)
        assert generator.generate(question, passages=None, raw=True).prompt_tokens > 5
