"""What is said of settings that a checkpoint was not trained for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from retro.generate.config import GenerateConfig
from retro.generate.loading import for_model
from retro.training.checkpoint import CheckpointInfo
from tests.model.tiny import tiny_shape


@pytest.mark.parametrize(
    ("passages", "retrieval", "words"),
    [
        (
            500,
            True,
            "generate.passages = 500: the model was trained to read 2; .* up to 4000 tokens for each chunk",
        ),
        (2, True, ""),
        (500, False, ""),  # a GPT reads none of them
    ],
)
def test_more_passages_than_a_model_was_trained_to_read_are_told(
    passages: int, retrieval: bool, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    info = CheckpointInfo(path=Path("x"), shape=tiny_shape(retrieval=retrieval), step=1, config={})
    for_model(GenerateConfig(passages=passages), info)
    assert re.fullmatch(words, " ".join(caplog.messages))
