from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from retro.common.errors import TrainingError
from retro.generate import sampling
from retro.generate.request import Sampling
from retro.generate.sampling import Probabilities, TokenSelection, choose

# Probabilities .1 .5 .15 .25 of ids 0 1 2 3; likeliest first that is 1 3 2 0.
LOGITS = torch.log(torch.tensor([[0.1, 0.5, 0.15, 0.25]]))
END = 0


def one(sampling: Sampling, uniform: float = 0.0, logits: Tensor = LOGITS, **more: object) -> int:
    choice = TokenSelection(sampling=sampling, uniform=uniform, **more)  # type: ignore[arg-type]
    return int(choose(logits, [choice], [END]))


def test_temperature_zero_takes_the_likeliest_whatever_the_draw() -> None:
    assert [one(Sampling(), uniform) for uniform in (0.0, 0.5, 0.999)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 1), (0.49, 1), (0.51, 3), (0.74, 3), (0.76, 2), (0.91, 0), (0.999, 0)]
)
def test_a_draw_from_all_tokens_goes_by_their_probability(uniform: float, token: int) -> None:
    assert one(Sampling(temperature=1.0), uniform) == token
    assert one(Sampling(temperature=1.0, top_k=4), uniform) == token
    assert one(Sampling(temperature=1.0, top_k=100), uniform) == token


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (0.66, 1), (0.67, 3), (0.999, 3)])
def test_top_two_share_the_mass_two_to_one(uniform: float, token: int) -> None:
    assert one(Sampling(temperature=1.0, top_k=2), uniform) == token


@pytest.mark.parametrize(("top_p", "last"), [(0.4, 1), (0.5, 1), (0.6, 3), (0.76, 2), (0.95, 0)])
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p: float, last: int) -> None:
    assert one(Sampling(temperature=1.0, top_p=top_p), 0.9999) == last


def test_top_p_counts_within_what_top_k_left() -> None:
    # Of the likeliest two, id 1 has 2/3: enough for .6, not for .7.
    assert one(Sampling(temperature=1.0, top_k=2, top_p=0.6), 0.9999) == 1
    assert one(Sampling(temperature=1.0, top_k=2, top_p=0.7), 0.9999) == 3


def test_temperature_two_takes_the_square_root_of_the_odds() -> None:
    # .5 to .25 is 2 to 1; at temperature 2 it is sqrt(2) to 1, so id 1 gets sqrt(2) / (1 + sqrt(2)) = .586.
    border = math.sqrt(2) / (1 + math.sqrt(2))
    hot = Sampling(temperature=2.0, top_k=2)
    assert one(hot, border - 0.001) == 1
    assert one(hot, border + 0.001) == 3


def test_a_tiny_temperature_is_greedy_and_overflows_nothing() -> None:
    assert one(Sampling(temperature=1e-300), 0.999999, torch.tensor([[80.0, 90.0, 89.9]])) == 1


@pytest.mark.parametrize("penalty", [0.01, 100.0])
@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e300])
def test_the_ends_of_what_may_be_set_overflow_nothing(temperature: float, penalty: float) -> None:
    sampling = Sampling(temperature=temperature, repetition_penalty=penalty)
    # The best logit stays so when all are penalised alike; a huge temperature makes all tokens as likely.
    logits, seen = torch.tensor([[1e30, -1e30, 2e30, 0.0]]), torch.ones(4, dtype=torch.bool)
    token = one(sampling, 0.999999, logits, seen_V=seen)
    assert token == (1 if temperature == 1e300 else 2)


def test_the_largest_draw_never_leaves_what_may_be_drawn() -> None:
    largest = 1 - 2**-53
    assert one(Sampling(temperature=1.0, top_k=2), largest) == 3
    assert one(Sampling(temperature=1.0, top_p=0.5), largest) == 1
    assert one(Sampling(temperature=1.0), largest, torch.tensor([[0.0, 5.0, float("-inf")]])) == 0


def test_a_repetition_is_divided_above_zero_and_multiplied_below() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.0, -1.0]])
    seen = torch.tensor([False, True, False, True])
    penalty = Sampling(repetition_penalty=2.0)
    assert one(penalty, logits=logits, seen_V=seen) == 2  # 3 / 2 is below 2
    below = torch.tensor([[-9.0, -1.0, -1.5, -9.0]])
    assert one(penalty, logits=below, seen_V=seen) == 2  # -1 x 2 is below -1.5
    assert logits.tolist() == [[0.0, 3.0, 2.0, -1.0]]


def test_an_answer_that_may_not_end_yet_takes_the_next_best() -> None:
    ends = torch.tensor([[5.0, 1.0, 2.0, 0.0]])
    assert one(Sampling(), logits=ends) == END
    assert one(Sampling(), logits=ends, may_end=False) == 2
    assert one(Sampling(temperature=1.0), 0.0, ends, may_end=False) == 2


def test_rows_with_settings_of_their_own_are_chosen_apart() -> None:
    choices = [
        TokenSelection(sampling=Sampling()),
        TokenSelection(sampling=Sampling(temperature=1.0, top_k=4), uniform=0.6),
        TokenSelection(sampling=Sampling(temperature=1.0), uniform=0.95),
        TokenSelection(sampling=Sampling(temperature=1.0, top_k=1), uniform=0.95),
    ]
    chosen = choose(LOGITS.repeat(4, 1), choices, [END])
    assert chosen.tolist() == [1, 3, 0, 1]
    assert chosen.dtype == torch.int64


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 6), st.floats(0.05, 1), st.floats(0.1, 5))
def test_a_drawn_token_is_among_the_likeliest_k_and_p(uniform: float, k: int, p: float, temperature: float) -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.9, 0.0]])
    token = one(Sampling(temperature=temperature, top_k=k, top_p=p), uniform, logits)
    probability = (logits[0] / temperature).double().softmax(dim=-1)
    above = probability[probability > probability[token]]
    assert len(above) < (k or 5)
    assert float(above.sum()) < p + 1e-9


@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0])
def test_drawing_from_the_likeliest_is_drawing_from_all(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # With a spread of 0 all tokens are alike, and four candidates of a hundred are never enough for top-p.
    logits = spread * torch.randn(40, 100, generator=torch.Generator().manual_seed(1))
    kinds = [
        Sampling(temperature=0.7, top_p=0.9),
        Sampling(temperature=1.0, top_k=3),
        Sampling(temperature=2.0, top_k=20, top_p=0.5),
        Sampling(temperature=1.0),
        Sampling(temperature=0.3, top_k=4, top_p=0.8),
    ]
    choices = [TokenSelection(sampling=kinds[row % 5], uniform=(row * 0.37) % 1) for row in range(40)]
    everything = choose(logits, choices, [END]).tolist()
    monkeypatch.setattr(sampling, "CANDIDATES", 4)
    if spread:
        assert choose(logits, choices, [END]).tolist() == everything
    for row in range(40):
        alone = choose(logits[row : row + 1], choices[row : row + 1], [END]).tolist()
        assert alone == [choose(logits, choices, [END]).tolist()[row]]


def test_log_probabilities_are_those_of_the_softmax() -> None:
    found = Probabilities(LOGITS + 3.0)
    assert found.of([1]) == pytest.approx([math.log(0.5)], abs=1e-6)
    assert [(one.id, round(math.exp(one.logprob), 4)) for one in found.top(0, 2)] == [(1, 0.5), (3, 0.25)]
    assert [(one.id, round(math.exp(one.logprob), 4)) for one in found.named(0, (2, 0))] == [(2, 0.15), (0, 0.1)]
    assert (found.top(0, 0), found.named(0, ())) == ((), ())


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_an_error(broken: float) -> None:
    with pytest.raises(TrainingError, match="the model's logits are not finite"):
        Probabilities(torch.tensor([[0.0, 1.0], [0.0, broken]]))
