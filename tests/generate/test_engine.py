"""Requests join and leave, answers do not depend on company, streaming joins to the text, and hooks are obeyed."""

from __future__ import annotations

import math

import pytest
import torch

from retro.common.errors import ConfigError, TrainingError
from retro.generate.engine import BatchEngine
from retro.generate.request import (
    Action,
    ChosenToken,
    Completion,
    GivenPassages,
    LiveRetrieval,
    Progress,
    Request,
    Sampling,
)
from tests.generate.fake import END, LETTERS, FakeDecoder, LetterTokenizer, Row, letters, passage, random_rule, says


def engine_of(decoder: FakeDecoder, max_running: int = 16) -> BatchEngine:
    return BatchEngine(decoder, LetterTokenizer(), max_running=max_running)


def ask(prompt: str = "ab", **sampling: object) -> Request:
    return Request(prompt=letters(prompt), sampling=Sampling(**sampling))  # type: ignore[arg-type]


def answer(decoder: FakeDecoder, request: Request) -> Completion:
    (completion,) = engine_of(decoder).generate([request])
    assert decoder.rows == {}
    return completion


def ids_of(completion: Completion) -> list[int]:
    return [token.id for token in completion.tokens]


def test_an_answer_ends_at_the_end_token_which_is_no_part_of_it() -> None:
    found = answer(FakeDecoder(says("paris", 2)), ask())
    assert (found.text, found.ended, found.prompt_tokens) == ("paris", "end", 2)
    assert ids_of(found) == letters("paris")
    # The rule gives its letter a logit of 10, the 29 others 0.
    expected = 10 - math.log(math.exp(10) + len(LETTERS) - 1)
    assert [token.logprob for token in found.tokens] == pytest.approx([expected] * 5, abs=1e-6)


def test_an_answer_ends_at_each_of_several_end_tokens() -> None:
    for text, wanted in (("yes#no", "yes"), ("yes.no", "yes"), ("y#e.s", "y")):
        decoder = FakeDecoder(says(text, 2))
        decoder.ends = (END, LETTERS.index("."))
        found = answer(decoder, ask(max_new_tokens=10))
        assert (found.text, found.ended) == (wanted, "end")
        assert ids_of(found) == letters(wanted)


def test_no_end_token_is_chosen_before_the_least_number_of_tokens() -> None:
    logits = torch.zeros(len(LETTERS))
    logits[END], logits[LETTERS.index(".")], logits[LETTERS.index("c")] = 5.0, 4.0, 1.0
    decoder = FakeDecoder(lambda row: logits)
    decoder.ends = (END, LETTERS.index("."))
    assert answer(decoder, ask(min_new_tokens=3)).text == "ccc"


def test_it_ends_at_the_token_limit_or_when_the_sequence_is_full() -> None:
    assert answer(FakeDecoder(says("paris", 2)), ask(max_new_tokens=3)).text == "par"
    # A sequence of four tokens: prompt ab, pa read, r chosen and never read.
    full = answer(FakeDecoder(says("paris", 2), sequence_length=4), ask())
    assert (full.text, full.ended) == ("par", "length")


def test_the_end_token_is_not_chosen_before_the_least_number_of_tokens() -> None:
    def ends(row: Row) -> torch.Tensor:
        logits_V = torch.zeros(len(LETTERS))
        logits_V[END], logits_V[3] = 5.0, 1.0
        return logits_V

    found = answer(FakeDecoder(ends), ask(min_new_tokens=2))
    assert (found.text, found.ended) == ("cc", "end")
    # Reported before the end token was forbidden.
    assert found.tokens[0].logprob == pytest.approx(1 - math.log(math.exp(5) + math.exp(1) + len(LETTERS) - 2))


def test_a_stop_string_over_several_tokens_ends_the_answer_and_is_no_part_of_it() -> None:
    found = answer(FakeDecoder(says("so it is. next", 2)), ask(stop=(". ",)))
    assert (found.text, found.ended) == ("so it is", "stop")
    assert ids_of(found) == letters("so it is. ")


def test_a_stop_string_before_the_least_number_of_tokens_is_text() -> None:
    found = answer(FakeDecoder(says("a.b.c.d", 2)), ask(stop=(".",), min_new_tokens=3))
    assert (found.text, found.ended) == ("a.b", "stop")


def test_streamed_texts_join_to_the_text_and_hold_a_stop_string_back() -> None:
    decoder = FakeDecoder(says("is. isn", 2))
    events = list(engine_of(decoder).stream(ask(stop=(". x", "end"), max_new_tokens=10)))
    assert [event.text for event in events] == ["i", "s", "", "", ". i", "s", "n", ""]
    assert [len(event.tokens) for event in events] == [1, 1, 1, 1, 1, 1, 1, 0]
    assert [event.completion is None for event in events] == [True] * 7 + [False]
    last = events[-1].completion
    assert last is not None
    assert (last.text, last.ended) == ("is. isn", "end")
    held = list(engine_of(FakeDecoder(says("is. ", 2))).stream(ask(stop=(". x",))))
    assert [event.text for event in held] == ["i", "s", "", "", ". "]


def test_a_reader_that_stops_reading_ends_the_request() -> None:
    decoder = FakeDecoder(says("paris", 2))
    engine = engine_of(decoder)
    stream = engine.stream(ask())
    assert next(stream).text == "p"
    stream.close()  # type: ignore[attr-defined]
    assert (engine.running, decoder.rows) == (0, {})


def test_requests_join_and_leave_between_steps() -> None:
    decoder = FakeDecoder(lambda row: says(row.text[0] * len(row.text[:1]) + "xyz", 2)(row))
    engine = engine_of(decoder, max_running=2)
    first = engine.submit(ask("ab", max_new_tokens=1))
    second = engine.submit(ask("cd", max_new_tokens=3))
    third = engine.submit(ask("ef", max_new_tokens=2))
    assert (engine.waiting, engine.running) == (3, 0)
    assert [number for number, _ in engine.step()] == [first, second]
    assert (engine.waiting, engine.running) == (1, 1)
    steps = [[(number, event.text) for number, event in engine.step()] for _ in range(2)]
    assert steps == [[(second, "x"), (third, "e")], [(second, "y"), (third, "x")]]
    assert (engine.waiting, engine.running, engine.step()) == (0, 0, [])
    # A prompt joins the single token of another request.
    assert decoder.calls == [2, 2, 2]


def test_drawn_answers_do_not_depend_on_company_or_order() -> None:
    hot = [
        Request(prompt=letters(text), sampling=Sampling(temperature=1.5, top_p=0.9, seed=seed, max_new_tokens=12))
        for seed, text in enumerate(["ab", "abc", "b", "abcdefgh"])
    ]
    alone = [answer(FakeDecoder(random_rule), request) for request in hot]
    assert engine_of(FakeDecoder(random_rule)).generate(hot) == alone
    assert engine_of(FakeDecoder(random_rule), max_running=2).generate(hot[::-1]) == alone[::-1]
    other = Request(prompt=hot[0].prompt, sampling=Sampling(temperature=1.5, top_p=0.9, seed=9, max_new_tokens=12))
    assert ids_of(answer(FakeDecoder(random_rule), other)) != ids_of(alone[0])


def test_a_repetition_penalty_counts_prompt_and_answer() -> None:
    def favours(row: Row) -> torch.Tensor:
        return torch.tensor([0.0, 4.0, 3.0, 2.5] + [0.0] * (len(LETTERS) - 4))

    assert answer(FakeDecoder(favours), ask("x", max_new_tokens=3)).text == "aaa"
    # a falls to 4 / 2, then b to 3 / 2, then c to 2.5 / 2; of what is left a is the best.
    assert answer(FakeDecoder(favours), ask("x", repetition_penalty=2.0, max_new_tokens=4)).text == "abca"
    assert answer(FakeDecoder(favours), ask("xa", repetition_penalty=2.0, max_new_tokens=1)).text == "b"


def test_likeliest_and_named_tokens_are_reported_before_temperature_and_penalty() -> None:
    request = Request(
        prompt=letters("ab"),
        sampling=Sampling(temperature=0.1, repetition_penalty=5.0, max_new_tokens=1),
        top_logprobs=2,
        named_tokens=(7, 16),
    )
    (token,) = answer(FakeDecoder(says("p", 2)), request).tokens
    other = -math.log(math.exp(10) + len(LETTERS) - 1)
    assert [one.id for one in token.named] == [7, 16]
    assert [one.logprob for one in token.named] == pytest.approx([other, 10 + other], abs=1e-5)
    assert token.top[0].id == 16
    assert len(token.top) == 2


def test_cancelled_requests_end_in_the_next_step_running_or_waiting() -> None:
    decoder = FakeDecoder(says("paris", 2))
    engine = engine_of(decoder, max_running=1)
    running, waiting, last = (engine.submit(ask(stop=("is not",), max_new_tokens=4)) for _ in range(3))
    engine.step()
    for number in (running, waiting, 99):
        engine.cancel(number)
    ended = {number: event.completion for number, event in engine.step() if event.completion is not None}
    assert [(one.text, one.ended) for one in ended.values()] == [("p", "cancelled"), ("", "cancelled")]
    assert list(ended) == [running, waiting]
    engine.cancel(running)
    rest = [event for _ in range(4) for number, event in engine.step() if number == last]
    assert rest[-1].completion is not None
    assert (rest[-1].completion.text, rest[-1].completion.ended) == ("pari", "length")
    assert (decoder.rows, engine.waiting, engine.running) == ({}, 0, 0)


def hooked(actions: dict[int, Action], seen: list[Progress] | None = None, **sampling: object) -> Request:
    """A request whose hook acts when the answer has so many tokens."""

    def hook(progress: Progress) -> Action | None:
        if seen is not None:
            seen.append(Progress(prompt=progress.prompt, tokens=tuple(progress.tokens), text=progress.text))
        return actions.get(len(progress.tokens))

    return Request(prompt=letters("ab"), sampling=Sampling(**sampling), hook=hook)  # type: ignore[arg-type]


def test_a_hook_appends_tokens_that_the_model_then_goes_on_from() -> None:
    decoder = FakeDecoder(lambda row: "x" if row.text.endswith("stop") else says("paris", 2)(row))
    seen: list[Progress] = []
    request = hooked({2: Action(append=tuple(letters("stop")))}, seen, max_new_tokens=7, stop=("to",))
    found = answer(decoder, request)
    # The stop string within what was appended ends nothing.
    assert found.text == "pastopx"
    assert [token.appended for token in found.tokens] == [False, False, True, True, True, True, False]
    # The model expected r; s got what was left over.
    low = -math.log(math.exp(10) + len(LETTERS) - 1)
    assert [found.tokens[2].logprob, found.tokens[6].logprob] == pytest.approx([low, 10 + low], abs=1e-5)
    assert [progress.text for progress in seen] == ["p", "pa"]
    assert found.ended == "length"


def test_appended_tokens_are_streamed_with_the_token_that_follows_them() -> None:
    decoder = FakeDecoder(lambda row: "x" if row.text.endswith("zz") else says("paris", 2)(row))
    request = hooked({1: Action(append=tuple(letters("zz")))}, max_new_tokens=4)
    events = list(engine_of(decoder).stream(request))
    assert [(event.text, len(event.tokens)) for event in events] == [("p", 1), ("zzx", 3)]


def test_a_hook_ends_an_answer_at_once_or_after_what_it_appends() -> None:
    stopped = answer(FakeDecoder(says("paris", 2)), hooked({2: Action(stop=True)}))
    assert (stopped.text, stopped.ended) == ("pa", "hook")
    both = answer(FakeDecoder(says("paris", 2)), hooked({2: Action(append=tuple(letters("ck")), stop=True)}))
    assert (both.text, both.ended) == ("pack", "hook")
    assert math.isfinite(both.tokens[3].logprob)


def test_appended_tokens_count_and_are_cut_where_the_sequence_is_full() -> None:
    limit = answer(FakeDecoder(says("paris", 2)), hooked({2: Action(append=tuple(letters("xyz")))}, max_new_tokens=4))
    assert (limit.text, limit.ended) == ("paxyz", "length")
    small = FakeDecoder(says("paris", 2), sequence_length=6)
    full = answer(small, hooked({2: Action(append=tuple(letters("xyz")))}))
    assert (full.text, full.ended) == ("paxy", "length")
    none = answer(FakeDecoder(says("paris", 2), sequence_length=4), hooked({2: Action(append=(1,))}))
    assert (none.text, none.ended) == ("pa", "length")


def test_a_hook_is_asked_after_each_chosen_token_that_does_not_end_the_answer() -> None:
    seen: list[Progress] = []
    answer(FakeDecoder(says("par", 2)), hooked({}, seen))
    assert [len(progress.tokens) for progress in seen] == [1, 2, 3]
    assert isinstance(seen[0].tokens[0], ChosenToken)


def test_a_hook_sees_text_that_is_held_back() -> None:
    seen: list[Progress] = []
    answer(FakeDecoder(says("par", 2)), hooked({}, seen, stop=("arx",)))
    assert [progress.text for progress in seen] == ["p", "pa", "par"]


def test_mistakes_of_a_hook_are_errors() -> None:
    with pytest.raises(ValueError, match=r"a hook appends token 99; there are 30"):
        answer(FakeDecoder(says("par", 2)), hooked({1: Action(append=(99,))}))
    with pytest.raises(ValueError, match="gives passages to a model without an encoder"):
        gpt = FakeDecoder(says("par", 2), reads_neighbors=False)
        answer(gpt, hooked({1: Action(passages=(passage("x"),))}))


def test_after_an_error_nothing_is_left_over() -> None:
    def breaks(row: Row) -> torch.Tensor:
        return torch.full((len(LETTERS),), float("nan"))

    decoder = FakeDecoder(breaks)
    engine = engine_of(decoder)
    with pytest.raises(TrainingError, match="not finite"):
        engine.generate([ask(), ask()])
    assert (decoder.rows, engine.running, engine.waiting) == ({}, 0, 0)


def test_one_bad_request_among_many_begins_none() -> None:
    engine = engine_of(FakeDecoder(says("a", 2)))
    with pytest.raises(ConfigError, match=r"Sampling.temperature = -1.0"):
        engine.generate([ask(), ask(temperature=-1.0)])
    assert engine.waiting == 0


def test_an_engine_in_the_middle_of_requests_is_not_asked_for_others() -> None:
    engine = engine_of(FakeDecoder(says("a", 2)))
    engine.submit(ask())
    with pytest.raises(ValueError, match="drive it by submit and step"):
        engine.generate([ask()])
    with pytest.raises(ValueError, match="drive it by submit and step"):
        engine.stream(ask())


@pytest.mark.parametrize(
    ("sampling", "problem"),
    [
        ({"temperature": -0.1}, r"Sampling\.temperature = -0\.1: needs a number, 0 or above"),
        ({"temperature": math.nan}, r"Sampling\.temperature = nan: needs a number"),
        ({"temperature": math.inf}, r"Sampling\.temperature = inf: needs a number"),
        ({"top_k": -1}, r"Sampling\.top_k = -1: needs 0 for all tokens"),
        ({"top_p": 0.0}, r"Sampling\.top_p = 0\.0: needs a share above 0"),
        ({"top_p": 1.1}, r"Sampling\.top_p = 1\.1: needs a share above 0"),
        ({"repetition_penalty": 0.0}, r"Sampling\.repetition_penalty = 0\.0: needs 0\.01 to 100"),
        ({"repetition_penalty": 1e-300}, r"Sampling\.repetition_penalty = 1e-300: needs 0\.01 to 100"),
        ({"repetition_penalty": 101.0}, r"Sampling\.repetition_penalty = 101\.0: needs 0\.01 to 100"),
        ({"repetition_penalty": math.nan}, r"Sampling\.repetition_penalty = nan: needs 0\.01 to 100"),
        ({"min_new_tokens": -1}, r"Sampling\.min_new_tokens = -1: needs 0 or more"),
        ({"max_new_tokens": 0}, r"Sampling\.max_new_tokens = 0: needs at least 1"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, r"Sampling\.max_new_tokens = 8: needs at least 9"),
        ({"stop": ("a", "")}, r"Sampling\.stop = \('a', ''\): needs texts that are not empty"),
        ({"seed": -1}, r"Sampling\.seed = -1: needs 0 or above"),
    ],
)
def test_a_sampling_setting_out_of_range_is_named(sampling: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        engine_of(FakeDecoder(says("a", 2))).submit(ask(**sampling))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (Request(prompt=[]), r"Request\.prompt = \[\]: needs at least one token"),
        (Request(prompt=[1] * 65), r"Request\.prompt = '65 tokens': needs at most 64"),
        (Request(prompt=[1, 30]), r"Request\.prompt = 30: needs tokens of the vocabulary, 0 to 29"),
        (Request(prompt=[-1]), r"Request\.prompt = -1: needs tokens of the vocabulary"),
        (Request(prompt=[1], named_tokens=(3, 30)), r"Request\.named_tokens = 30: needs a token of the vocabulary"),
        (Request(prompt=[1], top_logprobs=31), r"Request\.top_logprobs = 31: needs 0 to 30"),
        (Request(prompt=[1], top_logprobs=-1), r"Request\.top_logprobs = -1: needs 0 to 30"),
        (Request(prompt=[1], reading=LiveRetrieval()), r"Request\.reading = 'LiveRetrieval': needs a database"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(request_: Request, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        engine_of(FakeDecoder(says("a", 2))).submit(request_)


@pytest.mark.parametrize(
    ("reading", "problem"),
    [
        (LiveRetrieval(interval=0), r"LiveRetrieval\.interval = 0: needs 1 to 4, the tokens of a chunk"),
        (LiveRetrieval(interval=5), r"LiveRetrieval\.interval = 5: needs 1 to 4"),
        (LiveRetrieval(passages=0), r"LiveRetrieval\.passages = 0: needs at least 1"),
    ],
)
def test_live_retrieval_out_of_range_is_refused(reading: LiveRetrieval, problem: str) -> None:
    searching = BatchEngine(FakeDecoder(says("a", 2)), LetterTokenizer(), lambda texts: [() for _ in texts])
    with pytest.raises(ConfigError, match=problem):
        searching.submit(Request(prompt=[1], reading=reading))


def test_a_gpt_refuses_passages_for_its_encoder() -> None:
    gpt = engine_of(FakeDecoder(says("a", 2), reads_neighbors=False))
    with pytest.raises(ConfigError, match=r"Request\.reading = 'GivenPassages': needs a model with an encoder"):
        gpt.submit(Request(prompt=[1], reading=GivenPassages(passages=(passage("x"),))))
    assert gpt.generate([ask("ab")])[0].text == "a"


def test_nothing_can_be_answered_at_once_by_none() -> None:
    with pytest.raises(ConfigError, match="max_running = 0: needs at least 1"):
        engine_of(FakeDecoder(says("a", 2)), max_running=0)
