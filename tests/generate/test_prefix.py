"""What several requests begin with is computed once, and changes nothing in what each is answered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from retro.common.errors import ConfigError
from retro.generate.decoding.decoder import CachedDecoder
from retro.generate.engine import BatchEngine
from retro.generate.request import Action, Completion, GivenPassages, LiveRetrieval, Prefix, Request, Sampling
from retro.generate.scoring import Scored
from retro.qa.question import Context
from tests.generate.decoding.recompute import EventReference, RecomputeDecoder
from tests.generate.fake import FakeDecoder, LetterTokenizer, Row, letters, passage, random_rule, says
from tests.generate.test_engine_model import NumberTokenizer
from tests.model.tiny import VOCABULARY, tiny_model, tiny_shape


def engine_of(decoder: FakeDecoder, max_running: int = 16) -> BatchEngine:
    return BatchEngine(decoder, LetterTokenizer(), lambda texts: [[passage(text)] for text in texts], max_running)


def drawn(seed: int, min_new_tokens: int = 0) -> Sampling:
    return Sampling(temperature=1.5, seed=seed, max_new_tokens=8, min_new_tokens=min_new_tokens)


def kept(found: list[Completion]) -> list[Prefix]:
    prefixes = [one.prefix for one in found]
    assert all(one is not None for one in prefixes)
    return [one for one in prefixes if one is not None]


def test_samples_of_one_prompt_compute_it_once_and_are_what_each_is_alone() -> None:
    samples = [Request(prompt=letters("what is it"), sampling=drawn(seed)) for seed in range(4)]
    decoder = FakeDecoder(random_rule)
    found = engine_of(decoder).generate(samples)
    assert decoder.forks == [3]
    new = sum(len(one.tokens) - (one.ended == "length") for one in found)
    assert (decoder.tokens, decoder.rows) == (10 + new, {})
    assert found == [engine_of(FakeDecoder(random_rule)).generate([one])[0] for one in samples]
    assert len({one.text for one in found}) > 1


def test_only_what_begins_in_the_same_step_with_the_same_tokens_and_reading_is_shared() -> None:
    one, other = (GivenPassages(passages=(passage(text),)) for text in ("one", "other"))
    same = GivenPassages(passages=(passage("one"),))
    requests = [Request(prompt=letters("abcdef"), reading=reading) for reading in (one, other, None, same)]
    decoder = FakeDecoder(says("paris", 6))
    found = engine_of(decoder).generate([*requests, Request(prompt=letters("abcdeg"))])
    assert decoder.forks == [1]
    assert [len(one.retrieved) for one in found] == [3, 3, 0, 3, 0]
    assert found[0] == found[3]
    forked = [row for row in decoder.closed if row.read and row.reads(1) == ["one"]]
    assert [sorted(row.read) for row in forked] == [[1, 5, 9], [1, 5, 9]]
    late = FakeDecoder(says("paris", 2))
    engine = engine_of(late, max_running=1)
    engine.generate([Request(prompt=letters("ab"))] * 2)
    assert late.forks == []


@pytest.mark.parametrize("max_running", [1, 2, 16])
def test_continuations_of_a_prefix_are_answered_as_whole_prompts(max_running: int) -> None:
    start, ends = letters("the capital of "), [letters(text) for text in ("france is ", "spain", "", "spain", "it")]
    whole = [Request(prompt=[*start, *end], sampling=drawn(seed)) for seed, end in enumerate(ends)]
    expected = engine_of(FakeDecoder(random_rule)).generate(whole)
    decoder = FakeDecoder(random_rule)
    engine = engine_of(decoder, max_running)
    prefix = engine.prefill(start)
    assert (prefix.tokens, decoder.tokens) == (tuple(start), 15)
    found = engine.generate([Request(prompt=end, prefix=prefix, sampling=drawn(seed)) for seed, end in enumerate(ends)])
    assert found == expected
    # `spain` occurs twice, and is computed once where both begin together.
    suffixes = sum(map(len, ends)) - (5 if max_running == 16 else 0)
    new = sum(len(one.tokens) - (one.ended == "length") for one in found)
    assert decoder.tokens == 15 + suffixes + new
    assert len(decoder.rows) == 1
    engine.release(prefix)
    assert decoder.rows == {}


def test_chunks_of_the_prefix_are_not_read_again() -> None:
    given = [GivenPassages(passages=(passage(text),)) for text in ("one", "two")]
    decoder = FakeDecoder(says("paris", 10))
    engine = engine_of(decoder)
    prefix = engine.prefill(letters("abcdef"), reading=given[0])
    found = engine.generate([Request(prompt=letters("ghij"), prefix=prefix, reading=reading) for reading in given])
    engine.release(prefix)
    assert [[one.position for one in completion.retrieved] for completion in found] == [[9, 13], [9, 13]]
    read = [{at: row.reads(at)[0] for at in sorted(row.read)} for row in decoder.closed]
    assert read == [{1: "one", 5: "one", 9: text, 13: text} for text in ("one", "two")] + [{1: "one", 5: "one"}]


def test_a_search_that_finds_nothing_takes_the_neighbors_of_the_prefix_out_of_view() -> None:
    decoder = FakeDecoder(says("paris", 8))
    engine = BatchEngine(decoder, LetterTokenizer(), lambda texts: [() for _ in texts])
    prefix = engine.prefill(letters("abcd"), reading=GivenPassages(passages=(passage("one"),)))
    engine.generate([Request(prompt=letters("efgh"), prefix=prefix, reading=LiveRetrieval())])
    assert decoder.closed[0].reads(3) == ["one"]
    assert decoder.closed[0].reads(7) == [""]


def test_kept_requests_go_on_as_if_they_had_not_ended() -> None:
    request = Request(prompt=letters("what is it"), sampling=Sampling(max_new_tokens=12, min_new_tokens=12))
    (expected,) = engine_of(FakeDecoder(random_rule)).generate([request])
    decoder = FakeDecoder(random_rule)
    engine = engine_of(decoder)
    part = Sampling(max_new_tokens=4, min_new_tokens=4)
    text, prefixes, request = "", [], replace(request, sampling=part, keep=True)
    for _ in range(3):
        (found,) = engine.generate([request])
        prefixes += kept([found])
        assert prefixes[-1].tokens == (*letters("what is it"), *letters(text), *(token.id for token in found.tokens))
        text += found.text
        request = replace(request, prompt=[], prefix=prefixes[-1])
    assert text == expected.text
    # Ten of the prompt, twelve chosen, of which the last was never read.
    assert decoder.tokens == 10 + 11
    for one in prefixes:
        engine.release(one)
    assert decoder.rows == {}


def test_what_ended_with_an_end_token_or_in_appended_tokens_can_be_continued() -> None:
    def rule(row: Row) -> str:
        return "z" if row.text.endswith(("ck", "pa")) else says("pa", 2)(row)  # type: ignore[return-value]

    ended = FakeDecoder(says("pa", 2))
    engine = engine_of(ended)
    (found,) = engine.generate([Request(prompt=letters("ab"), keep=True)])
    (prefix,) = kept([found])
    assert (found.text, found.ended, prefix.tokens) == ("pa", "end", tuple(letters("abpa")))
    more, other = engine.generate(
        [Request(prompt=[], prefix=prefix), Request(prompt=letters("x"), prefix=prefix, sampling=drawn(1))]
    )
    assert (more.text, more.ended, more.prompt_tokens) == ("", "end", 4)
    assert other.prompt_tokens == 5

    engine = engine_of(FakeDecoder(rule))
    hook = Request(prompt=letters("ab"), keep=True, hook=lambda _: Action(append=tuple(letters("ck")), stop=True))
    (found,) = engine.generate([hook])
    (prefix,) = kept([found])
    assert (found.text, found.ended) == ("pck", "hook")
    (more,) = engine.generate([Request(prompt=[], prefix=prefix, sampling=Sampling(max_new_tokens=1))])
    assert more.text == "z"


def test_a_prefix_of_a_prefix_and_beams_over_segments() -> None:
    def whole(tokens: tuple[int, ...]) -> Completion:
        (found,) = engine_of(FakeDecoder(random_rule)).generate([Request(prompt=tokens, sampling=drawn(3))])
        return found

    decoder, random = FakeDecoder(random_rule), np.random.default_rng(5)
    engine = engine_of(decoder)
    beams = [engine.prefill(letters("ab"), prefix=engine.prefill(letters("what is ")))]
    prefixes = list(beams)
    for level in range(3):
        segments = [letters("xyz")[: random.integers(1, 4)] for _ in range(2)]
        found = engine.generate(
            [
                Request(prompt=segment, prefix=beam, keep=True, sampling=drawn(level, min_new_tokens=8))
                for beam in beams
                for segment in segments
            ]
        )
        beams = kept(found)[-2:]
        prefixes += kept(found)
    for beam in beams:
        (again,) = engine.generate([Request(prompt=[], prefix=beam, sampling=drawn(3))])
        assert again == whole(beam.tokens)
    for one in prefixes:
        engine.release(one)
    assert len(decoder.rows) == 1


def test_options_of_one_question_compute_its_prompt_once() -> None:
    prompts = ["what is it", "where is it"]
    options = ["a", "box", "here", "nowhere"]
    asked = [Scored(prompt=letters(one), continuation=letters(option)) for one in prompts for option in options]
    alone = [engine_of(FakeDecoder(random_rule)).score([one])[0] for one in asked]
    decoder = FakeDecoder(random_rule)
    assert engine_of(decoder).score(asked) == alone
    assert decoder.forks == [3, 3]
    assert decoder.tokens == 10 + 11 + 2 * sum(len(option) - 1 for option in options)

    decoder = FakeDecoder(random_rule)
    engine = engine_of(decoder, max_running=2)
    prefix = engine.prefill(letters("what is "))
    scores = engine.score(
        [Scored(prompt=letters("it"), continuation=one.continuation, prefix=prefix) for one in asked[:4]]
    )
    assert scores == alone[:4]
    scores = engine.score([Scored(prompt=[], continuation=letters(f"it{one}"), prefix=prefix) for one in options])
    assert [one.logprobs[2:] for one in scores] == [one.logprobs for one in alone[:4]]
    assert len(decoder.rows) == 1


def test_scores_read_passages_after_a_prefix() -> None:
    decoder = FakeDecoder(says("paris", 10))
    engine = engine_of(decoder)
    prefix = engine.prefill(letters("abcdef"), reading=GivenPassages(passages=(passage("one"),)))
    reading = GivenPassages(passages=(passage("two"),))
    asked = Scored(prompt=letters("ghij"), continuation=letters("paris"), reading=reading, prefix=prefix)
    first, second = engine.score([asked, asked])
    assert first == second
    assert [one.position for one in first.retrieved] == [9, 13]
    assert [{at: row.reads(at)[0] for at in sorted(row.read)} for row in decoder.closed] == [
        {1: "one", 5: "one", 9: "two", 13: "two"}
    ] * 2


def test_a_prefix_that_is_not_held_is_refused() -> None:
    engine = engine_of(FakeDecoder(says("a", 2)))
    prefix = engine.prefill(letters("ab"))
    number = engine.submit(Request(prompt=[], prefix=prefix))
    with pytest.raises(ValueError, match="a waiting request continues"):
        engine.release(prefix)
    assert [event.text for _, event in engine.step()] == ["a"]
    engine.release(prefix)
    assert [found for found, event in engine.step() if event.completion is not None] == [number]
    for refused in (
        lambda: engine.release(prefix),
        lambda: engine.submit(Request(prompt=[], prefix=prefix)),
        lambda: engine.prefill([1], prefix=prefix),
        lambda: engine.score([Scored(prompt=[], continuation=[1], prefix=prefix)]),
    ):
        with pytest.raises(ConfigError, match=r"prefix = '2 tokens': needs one that this engine holds"):
            refused()


def test_prefix_and_prompt_must_fit_together() -> None:
    engine = engine_of(FakeDecoder(says("a", 2), sequence_length=8))
    prefix = engine.prefill([1] * 6)
    with pytest.raises(ConfigError, match=r"Request\.prompt = '9 tokens': needs at most 8"):
        engine.submit(Request(prompt=[1] * 3, prefix=prefix))
    with pytest.raises(ConfigError, match=r"Scored\.continuation = '4 tokens': needs at most 3 after a prompt of 6"):
        engine.score([Scored(prompt=[], continuation=[1] * 4, prefix=prefix)])
    with pytest.raises(ConfigError, match=r"Request\.prompt = \[\]: needs at least one token"):
        engine.prefill([])


def test_a_failure_leaves_no_row_behind_but_those_of_prefixes() -> None:
    def breaks(row: Row) -> torch.Tensor | str:
        if "z" in row.text:
            raise KeyError("broken")
        return "a"

    decoder = FakeDecoder(breaks)
    engine = engine_of(decoder)
    prefix = engine.prefill(letters("ab"))
    short = Request(prompt=[], prefix=prefix, keep=True, sampling=Sampling(max_new_tokens=1))
    with pytest.raises(KeyError):
        engine.generate([short, replace(short, hook=lambda _: Action(append=(26,)), sampling=Sampling())])
    for bad in (lambda: engine.prefill(letters("xyz")), lambda: engine.score([Scored(prompt=[26], continuation=[1])])):
        with pytest.raises(KeyError):
            bad()
    assert len(decoder.rows) == 1


def test_a_request_that_is_cancelled_before_it_begins_keeps_nothing() -> None:
    decoder = FakeDecoder(says("paris", 2))
    engine = engine_of(decoder, max_running=1)
    numbers = [engine.submit(Request(prompt=letters("ab"), keep=True)) for _ in range(2)]
    engine.step()
    for number in numbers:
        engine.cancel(number)
    found = [event.completion for _, event in engine.step()]
    assert [one is not None and one.prefix is not None for one in found] == [True, False]
    assert len(decoder.rows) == 1


@pytest.mark.parametrize("share_from", [1, 6, 10**6])
@pytest.mark.parametrize("retrieval", [True, False])
def test_a_models_continuations_have_the_tokens_and_log_probabilities_of_whole_prompts(
    share_from: int, retrieval: bool
) -> None:
    model, random = tiny_model(tiny_shape(retrieval=retrieval)), np.random.default_rng(8)
    start = random.integers(1, VOCABULARY, 8).tolist()
    suffixes = [random.integers(1, VOCABULARY, length).tolist() for length in (4, 7, 1)]
    readings = [
        GivenPassages(passages=(Context("", " ".join(map(str, random.integers(1, VOCABULARY, 5)))),)) for _ in range(4)
    ]
    given = readings if retrieval else [None] * 4
    sampling = Sampling(max_new_tokens=6, min_new_tokens=6)

    def plain() -> BatchEngine:
        """Computes whole sequences again at every token."""
        return BatchEngine(EventReference(model) if retrieval else RecomputeDecoder(model), NumberTokenizer())

    forked = BatchEngine(CachedDecoder(model, 0, share_from=share_from), NumberTokenizer())
    prefix = forked.prefill(start, reading=given[3])
    found = forked.generate(
        [
            Request(prompt=suffix, prefix=prefix, reading=reading, sampling=sampling, keep=True)
            for suffix, reading in zip(suffixes, given, strict=False)
        ]
    )
    scores = forked.score(
        [
            Scored(prompt=suffix, prefix=prefix, reading=reading, continuation=[token.id for token in one.tokens])
            for suffix, reading, one in zip(suffixes, given, found, strict=False)
        ]
    )
    for suffix, reading, one, score in zip(suffixes, given, found, scores, strict=False):
        separate = plain()
        request = Request(prompt=[*start, *suffix], sampling=sampling)
        if retrieval:
            begun = separate.prefill(start, reading=given[3])
            request = Request(prompt=suffix, prefix=begun, reading=reading, sampling=sampling)
        (whole,) = separate.generate([request])
        assert [token.id for token in one.tokens] == [token.id for token in whole.tokens]
        expected = [token.logprob for token in whole.tokens]
        assert [token.logprob for token in one.tokens] == pytest.approx(expected, abs=1e-5)
        assert score.logprobs == pytest.approx(expected, abs=1e-5)
    same = forked.generate([Request(prompt=start, reading=given[0], sampling=sampling)] * 3)
    (alone,) = plain().generate([Request(prompt=start, reading=given[0], sampling=sampling)])
    for one in same:
        assert [token.id for token in one.tokens] == [token.id for token in alone.tokens]
        assert [t.logprob for t in one.tokens] == pytest.approx([t.logprob for t in alone.tokens], abs=1e-5)
