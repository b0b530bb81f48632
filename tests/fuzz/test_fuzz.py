"""Any bytes give a value or one error: some hundreds of damaged and forged files for each reader."""

from __future__ import annotations

import pytest

from tests.fuzz.mutate import mutated
from tests.fuzz.runner import run
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes_give_a_value_or_one_error(target: str) -> None:
    inputs = TARGETS[target].quick
    found = run(target, inputs, seed=0)
    assert found.failures == {}
    assert (found.inputs, found.values + found.errors) == (inputs, inputs)
    # What is read without harm is fuzzed from what is read at all.
    assert found.values > 0


def test_an_input_is_the_same_each_time() -> None:
    seeds = TARGETS["json"].seeds()
    assert mutated(seeds, "json/0/77") == mutated(seeds, "json/0/77")
    assert len({mutated(seeds, f"json/0/{number}") for number in range(200)}) > 190
