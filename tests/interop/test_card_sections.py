from __future__ import annotations

from retro.generate.config import SamplingConfig
from retro.interop.card_sections import sampling_in_words


def test_sampling_is_told_with_what_shapes_it() -> None:
    told = [
        sampling_in_words(SamplingConfig(**settings).model_dump())
        for settings in (
            {},
            {"temperature": 0.7},
            {"temperature": 1.0, "top_k": 40},
            {"temperature": 1.0, "top_p": 0.9},
        )
    ]
    assert told == [
        "greedy",
        "drawn at temperature 0.7",
        "drawn at temperature 1.0, top 40",
        "drawn at temperature 1.0, top-p 0.9",
    ]
