"""What is learned from packed samples is what is learned from the same samples one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retro.mcore.engine import StepResult
from retro.qa.passages import NeighborTokens
from retro.qa.sample_layout import EncodedSample
from retro.sft.blend import Blend
from retro.sft.source import EncodedSet, SftSource
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.data_loader import DataLoader
from retro.training.loop import build_engine
from retro.training.validation import token_losses
from tests.model.tiny import CHUNK, VOCABULARY, tiny_shape

SAMPLES = 12


def question_set(*, neighbors: bool) -> EncodedSet:
    """Samples of 1 to 9 tokens of prompt and 0 to 10 of answer, some of whose chunks read passages of their own."""
    random = np.random.default_rng(4)
    samples = [
        EncodedSample(
            random.integers(1, VOCABULARY, 1 + n % 9).astype(np.int32),
            np.append(random.integers(1, VOCABULARY, (5 * n) % 11), 0).astype(np.int32),
            0,
        )
        for n in range(SAMPLES)
    ]
    chunks = [(len(one.answer) - 1) // CHUNK for one in samples]
    ends = SAMPLES + np.cumsum(chunks)
    rows = [np.arange(end - of, end) if n % 2 else None for n, (end, of) in enumerate(zip(ends, chunks, strict=True))]
    known = NeighborTokens(
        random.integers(1, VOCABULARY, (int(ends[-1]), 2, 2 * CHUNK)).astype(np.int32),
        random.integers(0, 2 * CHUNK + 1, (int(ends[-1]), 2)).astype(np.int32),
    )
    return EncodedSet("tiny", samples, known if neighbors else None, rows if neighbors else None)


def source(*, packing: bool, neighbors: bool) -> SftSource:
    blend, length = Blend([SAMPLES], [1.0], 0), 30
    sets = [question_set(neighbors=neighbors)]
    return SftSource(sets, blend, end=0, sequence_length=length, chunk_length=CHUNK, packing=packing)


def step(source: SftSource, numbers: NDArray[np.int64], micro_batch: int, **model: Any) -> StepResult:
    """One optimizer step on these sequences, from the same weights each time."""
    shape = tiny_shape(**model)
    usual = {"steps": 2, "warmup_steps": 0, "lr": 1e-3, "precision": "float32"}
    config = TrainConfig(micro_batch=micro_batch, global_batch=len(numbers), **usual)
    engine = build_engine(shape, config, ParallelConfig())
    with DataLoader(source, shape, engine.chunks, micro_batch) as feed:
        return engine.step(feed.work(numbers), token_losses)


@pytest.mark.parametrize("model", [{}, {"retrieval": False, "positions": "learned"}], ids=["retro", "gpt"])
def test_a_step_on_packed_samples_is_the_step_on_the_samples_alone(model: dict[str, Any]) -> None:
    neighbors = model.get("retrieval", True)
    packed, alone = (source(packing=packing, neighbors=neighbors) for packing in (True, False))
    assert packed.packing is not None
    sequences = np.arange(6)
    samples = packed.packing.first(6)
    assert len(samples) > 12
    # Answers differ in length, so micro batches differ in how many labels count; their means must not be averaged.
    expected = step(alone, samples, len(samples), **model)
    runs = [step(alone, samples, 1, **model)] + [step(packed, sequences, size, **model) for size in (1, 2, 6)]
    _, items = packed.blend.draw(samples)
    assert expected.tokens == sum(len(packed.sets[0].samples[item].answer) for item in items)
    for found in runs:
        assert found.tokens == expected.tokens
        np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
        np.testing.assert_allclose(found.grad_norm, expected.grad_norm, rtol=1e-5)


def test_a_sequence_that_does_not_count_changes_no_mean() -> None:
    packed = source(packing=True, neighbors=True)
    expected = step(packed, np.array([0, 1, 2]), 1)
    found = step(packed, np.array([0, 1, 2, -1]), 2)
    assert found.tokens == expected.tokens
    np.testing.assert_allclose([found.loss, found.grad_norm], [expected.loss, expected.grad_norm], rtol=1e-5)
