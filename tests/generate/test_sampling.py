from __future__ import annotations

import math

import pytest
import torch

from retro.common.errors import ConfigError
from retro.generate.config import SamplingConfig
from retro.generate.sampling import Picker, next_ids

# Probabilities .1 .5 .15 .25 of ids 0 1 2 3; likeliest first that is 1 3 2 0.
LOGITS = torch.log(torch.tensor([[0.1, 0.5, 0.15, 0.25]]))


def draw(sampling: SamplingConfig, uniform: float) -> int:
    return int(next_ids(LOGITS, sampling, torch.tensor([uniform])))


def test_greedy_takes_the_likeliest_whatever_the_draw() -> None:
    assert [draw(SamplingConfig(), u) for u in (0.0, 0.5, 0.999)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 1), (0.49, 1), (0.51, 3), (0.74, 3), (0.76, 2), (0.91, 0), (0.999, 0)]
)
def test_a_draw_from_all_tokens_goes_by_their_probability(uniform: float, token: int) -> None:
    assert draw(SamplingConfig(kind="top_p", top_p=1.0), uniform) == token
    assert draw(SamplingConfig(kind="top_k", top_k=4), uniform) == token


@pytest.mark.parametrize(("uniform", "token"), [(0.0, 1), (0.66, 1), (0.67, 3), (0.999, 3)])
def test_top_two_share_the_mass_two_to_one(uniform: float, token: int) -> None:
    assert draw(SamplingConfig(kind="top_k", top_k=2), uniform) == token


@pytest.mark.parametrize(("top_p", "last"), [(0.4, 1), (0.5, 1), (0.6, 3), (0.76, 2), (0.95, 0)])
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p: float, last: int) -> None:
    assert draw(SamplingConfig(kind="top_p", top_p=top_p), 0.9999) == last


def test_top_k_larger_than_the_vocabulary_is_all_of_it() -> None:
    assert draw(SamplingConfig(kind="top_k", top_k=100), 0.999) == 0


def test_temperature_two_takes_the_square_root_of_the_odds() -> None:
    # .5 to .25 is 2 to 1; at temperature 2 it is sqrt(2) to 1, so id 1 gets sqrt(2) / (1 + sqrt(2)) = .586.
    border = math.sqrt(2) / (1 + math.sqrt(2))
    hot = SamplingConfig(kind="top_k", top_k=2, temperature=2.0)
    assert draw(hot, border - 0.001) == 1
    assert draw(hot, border + 0.001) == 3


def test_rows_are_chosen_apart() -> None:
    logits = LOGITS.repeat(3, 1)
    chosen = next_ids(logits, SamplingConfig(kind="top_k", top_k=4), torch.tensor([0.0, 0.6, 0.95]))
    assert chosen.tolist() == [1, 3, 0]
    assert chosen.dtype == torch.int64


def test_draws_do_not_depend_on_the_batch() -> None:
    sampling = SamplingConfig(kind="top_p", top_p=1.0)
    together, alone = Picker(sampling, 7, [3, 4, 5]), Picker(sampling, 7, [4])
    flat = torch.zeros(3, 1000)
    for _ in range(5):
        assert together(flat)[1] == alone(flat[:1])[0]


def test_seeds_and_questions_have_streams_of_their_own() -> None:
    sampling = SamplingConfig(kind="top_p", top_p=1.0)
    flat = torch.zeros(1, 100_000)
    first = {int(Picker(sampling, seed, [number])(flat)) for seed in (1, 2) for number in (0, 1)}
    assert len(first) == 4


@pytest.mark.parametrize(
    ("field", "value"), [("temperature", 0.0), ("top_k", 0), ("top_p", 0.0), ("top_p", 1.1), ("kind", "beam")]
)
def test_a_bad_sampling_setting_is_named_with_its_value(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"SamplingConfig\.{field} = .*: needs "):
        SamplingConfig(**{field: value})
