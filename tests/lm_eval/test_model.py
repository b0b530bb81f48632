from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from retro.common.errors import ConfigError, DataError
from retro.generate.engine import BatchEngine
from retro.generate.request import LiveRetrieval, Sampling
from retro.lm_eval.generation_kwargs import sampling_of
from retro.lm_eval.model import RetroLM
from retro.qa.chat_prompts import chat_of
from retro.tokenizers.tokenizer import save_tokenizer
from tests.generate.fake import END, FakeDecoder, LetterTokenizer, Row, Rule, letters, passage, random_rule, says
from tests.tokenizers.chat_folders import KINDS, make_folder


def model(rule: Rule, *, sequence_length: int = 64, live: bool = False) -> RetroLM:
    decoder = FakeDecoder(rule, sequence_length=sequence_length)
    retrieve = (lambda texts: [[passage("near")] for _ in texts]) if live else None
    engine = BatchEngine(decoder, LetterTokenizer(), retrieve, max_running=3)
    reading = LiveRetrieval(passages=1) if live else None
    found = RetroLM(engine, LetterTokenizer(), sequence_length=sequence_length, reading=reading)
    found.fake = decoder
    return found


def asked(*arguments: Any) -> list[Any]:
    return [SimpleNamespace(args=one) for one in arguments]


# One letter has logit 10, the others 0.
LIKELY = 10 - math.log(math.exp(10) + 29)
UNLIKELY = LIKELY - 10
always: Callable[[str], Rule] = lambda letter: lambda row: letter  # noqa: E731


def test_likely_continuations_are_told_from_unlikely_ones() -> None:
    found = model(always("a")).loglikelihood(asked(("x", " aa"), ("x", "aa"), ("", "ab")), disable_tqdm=True)
    assert found[0] == (pytest.approx(UNLIKELY + 2 * LIKELY, abs=1e-4), False)
    assert found[1] == (pytest.approx(2 * LIKELY, abs=1e-4), True)
    assert found[2] == (pytest.approx(LIKELY + UNLIKELY, abs=1e-4), False)


def test_a_text_without_context_begins_after_the_end_of_a_document() -> None:
    lm = model(always("a"))
    lm.loglikelihood(asked(("", "ab")), disable_tqdm=True)
    assert [row.ids for row in lm.fake.closed] == [[END, *letters("a")]]


def test_a_long_context_loses_its_beginning() -> None:
    lm = model(always("a"), sequence_length=4)
    lm.loglikelihood(asked(("xyzuvw", "aa")), disable_tqdm=True)
    # Three of context and the first of the continuation are read; the last is asked for.
    assert lm.fake.closed[0].text == "uvwa"
    ((logprob, _),) = lm.loglikelihood(asked(("x", "aaaaaaaa")), disable_tqdm=True)
    assert logprob == pytest.approx(4 * LIKELY, abs=1e-4)


def test_contexts_that_are_cut_are_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    lm = model(always("a"), sequence_length=4)
    # Of xyzuvw three tokens are left beside two to score, one of which is not read; of xyzu likewise.
    lm.loglikelihood(asked(("xyzuvw", "aa"), ("xyzu", "aa"), ("xyz", "aa")), disable_tqdm=True)
    assert lm.truncated == [3, 1]
    assert (
        "2 of 3 contexts are longer than the model's 4 tokens leave room for (generate.sequence_length), and"
        in caplog.text
    )
    assert "lost their beginning: 3 tokens at most" in caplog.text
    caplog.clear()
    lm.generate_until(asked(("xyzuvw", {"max_gen_toks": 1}), ("x", {"max_gen_toks": 1})), disable_tqdm=True)
    assert lm.truncated == [3, 1, 3]
    assert "1 of 2 contexts" in caplog.text


def test_the_likelihood_of_a_long_text_is_that_of_its_windows() -> None:
    lm = model(always("a"), sequence_length=4)
    assert lm.loglikelihood_rolling(asked(("aaaaaaaaab",), ("",))) == [
        pytest.approx(9 * LIKELY + UNLIKELY, abs=1e-4),
        0,
    ]
    assert [len(row.ids) for row in lm.fake.closed] == [4, 4, 4]


def test_answers_end_at_the_tasks_texts() -> None:
    lm = model(says("an apple.\nmore", 3))
    until = [
        {"until": ["\n"], "max_gen_toks": 20},
        {"until": ".", "max_gen_toks": 20},
        {"until": [], "max_gen_toks": 4},
    ]
    assert lm.generate_until(asked(*(("abc", one) for one in until))) == ["an apple.", "an apple", "an a"]


def test_drawing_is_the_tasks_to_ask_for() -> None:
    settings = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 3.0, "top_k": 20, "top_p": 0.99}
    one, two = model(random_rule).generate_until(asked(("abc", settings), ("abc", settings)))
    assert one != two, "each request has a stream of its own"
    assert model(random_rule).generate_until(asked(("abc", settings)))[0] == one
    said = {"until": [], "max_gen_toks": 8, "temperature": 3.0, "top_k": 20, "top_p": 0.99}
    assert model(random_rule).generate_until(asked(("abc", said), ("abc", said))) == [one, two], "as the harness's hf"
    greedy = {"until": [], "max_gen_toks": 8, "temperature": 3.0, "do_sample": False}
    three, four = model(random_rule).generate_until(asked(("abc", greedy), ("abc", greedy)))
    assert three == four


def test_a_prompt_keeps_room_for_the_answer() -> None:
    lm = model(always("a"), sequence_length=8)
    assert lm.generate_until(asked(("abcdefghijkl", {"until": [], "max_gen_toks": 2}), ("", {"max_gen_toks": 2}))) == [
        "aa",
        "aa",
    ]
    assert lm.fake.closed[0].text.startswith("ghijkl")
    # More than the whole sequence is asked for: half of it is left to the prompt.
    assert lm.generate_until(asked(("abcdefghijkl", {}))) == ["aaaa"]


def test_an_unknown_setting_is_named_with_its_task() -> None:
    request = SimpleNamespace(args=("abc", {"beams": 4}), task_name="arc")
    with pytest.raises(
        ConfigError, match=r"generation_kwargs.beams = 4: of the task 'arc' is not known to a Retro model; known: di"
    ):
        model(always("a")).generate_until([request])


def sampled(**settings: Any) -> Sampling:
    return sampling_of(settings, "arc", seed=1, sequence_length=64)


def test_settings_of_other_names_and_those_that_change_nothing_are_taken() -> None:
    plain = sampled(max_gen_toks=8)
    assert plain == Sampling(max_new_tokens=8, seed=1)
    for equal in ("max_new_tokens", "max_tokens", "max_completion_tokens"):
        assert sampled(**{equal: 8}) == plain
        assert sampled(**{equal: 8}, max_gen_toks=8) == plain
    neutral = {
        "num_beams": 1, "early_stopping": True, "do_sample": False, "temperature": 0, "repetition_penalty": 1.0,
        "use_cache": True, "pad_token_id": 3, "num_return_sequences": 1, "length_penalty": 2.0, "top_k": None,
        "no_repeat_ngram_size": 0, "min_p": None, "until": None, "typical_p": 1.0,
    }  # fmt: skip
    assert sampled(max_gen_toks=8, **neutral) == plain


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_beams": 10}, r"num_beams = 10: of the task 'arc' needs 1, which changes nothing"),
        ({"no_repeat_ngram_size": 3}, r"no_repeat_ngram_size = 3: of the task 'arc' needs 0"),
        ({"max_new_tokens": 8, "max_gen_toks": 9}, r"max_gen_toks: 9, max_new_tokens: 8': of the task 'arc' needs one"),
        ({"max_new_tokens": 0}, r"max_new_tokens = 0: of the task 'arc' needs a token at least"),
        ({"top_k": "many"}, r"top_k = 'many': of the task 'arc' needs a number"),
        ({"temperature": "x"}, r"temperature = 'x': of the task 'arc' needs a number"),
        ({"temperature": True}, r"temperature = True: of the task 'arc' needs a number"),
        ({"temperature": -1}, r"temperature = -1: of the task 'arc' needs a number of 0 at least"),
        ({"temperature": float("nan")}, r"temperature = nan: of the task 'arc' needs a number"),
        ({"max_gen_toks": float("inf")}, r"max_gen_toks = inf: of the task 'arc' needs a number"),
        ({"max_gen_toks": 1.5}, r"max_gen_toks = 1\.5: of the task 'arc' needs a whole number"),
        ({"top_p": 2}, r"top_p = 2: of the task 'arc' needs a number from 1e-09 to 1"),
        ({"repetition_penalty": 0}, r"repetition_penalty = 0: of the task 'arc' needs a number from 0\.01 to 100"),
        ({"do_sample": "maybe"}, r"do_sample = 'maybe': of the task 'arc' needs true or false"),
        ({"until": 3}, r"until = 3: of the task 'arc' needs a text, or a list of them"),
        ({"max_length": 9}, r"max_length = 9: of the task 'arc' is not known"),
    ],
)
def test_settings_that_would_change_the_answer_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sampled(**settings)


def test_an_answer_without_tokens_is_named_with_its_question() -> None:
    requests = [SimpleNamespace(args=("abc", answer), task_name="arc", doc_id=7) for answer in ("a", "")]
    words = r"the task 'arc': question 7 has the answer '' after '…abc', and that has no tokens.*doc_to_choice"
    with pytest.raises(DataError, match=words):
        model(always("a")).loglikelihood(requests, disable_tqdm=True)


@pytest.mark.parametrize("live", [False, True])
def test_every_chunk_reads_what_its_search_finds(live: bool) -> None:
    def reads(row: Row) -> str:
        return "b" if any("near" in text for place in row.read for text in row.reads(place)) else "a"

    lm = model(reads, live=live)
    assert lm.generate_until(asked(("xyz", {"max_gen_toks": 3}))) == ["bbb" if live else "aaa"]
    ((_, greedy),) = lm.loglikelihood(asked(("xyz", "bb")), disable_tqdm=True)
    assert greedy is live


def test_every_text_begins_with_the_prefix_and_an_empty_context_is_the_begin_token() -> None:
    lm = model(always("a"))
    lm.prefix, lm.begin = (5,), 6
    lm.loglikelihood(asked(("x", "ab"), ("", "ab")), disable_tqdm=True)
    assert [row.ids for row in lm.fake.closed] == [[5, *letters("xa")], [6, *letters("a")]]
    lm.fake.closed.clear()
    # As the harness's hf model: the begin token, and then the text as its tokenizer gives it.
    lm.loglikelihood_rolling(asked(("ab",)))
    assert [row.ids for row in lm.fake.closed] == [[6, 5, *letters("a")]]
    lm.fake.closed.clear()
    lm.generate_until(asked(("x", {"max_gen_toks": 1}), ("", {"max_gen_toks": 1})))
    assert [row.ids[:2] for row in lm.fake.closed] == [[5, *letters("x")], [5]]


def test_a_question_in_the_chat_template_has_its_special_tokens(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    tokenizer = save_tokenizer(make_folder(tmp_path, "llama3"), "huggingface", tmp_path / "saved")
    engine: Any = None
    lm = RetroLM(engine, tokenizer, sequence_length=64, prefix=(0,), begin=0, chat=chat_of(tokenizer, "x"))
    assert lm.tok_encode("<|eot_id|>") == [0, *tokenizer.encode("<|eot_id|>")]
    messages = [{"role": "user", "content": "Hello"}]
    text = lm.apply_chat_template(messages)
    assert lm.tok_encode(text) == chat_of(tokenizer, "x").encode(messages, begin_answer=True).ids
    assert lm.tok_encode("a") == [0, *tokenizer.encode("a")]
    going_on = lm.apply_chat_template([*messages, {"role": "assistant", "content": "The answer is"}], False)
    assert going_on.endswith("<|end_header_id|>\n\nThe answer is")
    assert lm.chat_template(True) == KINDS["llama3"].template
    without = RetroLM(engine, tokenizer, sequence_length=64)
    with pytest.raises(ConfigError, match="--apply-chat-template = True: needs a model whose tokenizer has a chat"):
        without.apply_chat_template(messages)
