"""What is learned of a tuning question, part by part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retro.analysis.inspect.inspect import Options, show
from retro.analysis.inspect.tuning import tuning_sample
from retro.common.errors import ConfigError
from retro.common.terminal import output
from retro.run.config import RunConfig
from retro.sft.config import SetConfig

PLAIN = {"question": "Who wrote Ulysses?", "answers": ["Joyce"]}
SEGMENTS = [
    {"text": "I look it up. ", "learn": True},
    {"text": "A page about Rome. ", "learn": False},
    {"text": "It is Rome.", "learn": True},
]
CITY = {"question": "Which city?", "answers": ["Rome"], "segments": SEGMENTS}


def tuned(road: RunConfig, folder: Path, items: list[dict[str, Any]], **settings: Any) -> RunConfig:
    path = folder / "mine.json"
    path.write_text(json.dumps(items))
    data = road.sft.data.model_copy(update={"sets": (SetConfig(name="mine", path=path),), "style": "plain", **settings})
    return road.model_copy(update={"sft": road.sft.model_copy(update={"data": data})})


def test_a_plain_answer_is_learned_whole_and_the_prompt_is_not(road: RunConfig, tmp_path: Path) -> None:
    sample = tuning_sample(tuned(road, tmp_path, [CITY, PLAIN]), "train", 1)
    assert [(one.name, one.learned) for one in sample.parts] == [("prompt", False), ("answer", True), ("end", True)]
    assert "Who wrote Ulysses?" in sample.parts[0].text
    assert sample.parts[1].text.strip() == "Joyce"
    assert sample.place.endswith("mine.json: item 1")
    assert sample.left_out is None


def test_segments_are_told_apart_by_what_is_learned_of_them(road: RunConfig, tmp_path: Path) -> None:
    sample = tuning_sample(tuned(road, tmp_path, [CITY]), "train", 0)
    texts = [(one.learned, one.text.strip()) for one in sample.parts[1:-1]]
    assert texts == [(True, "I look it up."), (False, "A page about Rome."), (True, "It is Rome.")]
    assert all(one.tokens > 0 for one in sample.parts)


def test_special_tokens_are_shown_by_their_names(road: RunConfig, tmp_path: Path) -> None:
    segments = [{"token": "[Sure]"}, {"text": "It is Rome."}, {"token": "[Sure]"}, {"text": "page", "learn": False}]
    config = tuned(road, tmp_path, [CITY | {"segments": segments}])
    config = config.model_copy(update={"sft": config.sft.model_copy(update={"special_tokens": ("[Sure]",)})})
    learned, read = tuning_sample(config, "train", 0).parts[1:-1]
    assert learned.text.replace(" ", "") == "[Sure]ItisRome.[Sure]"
    assert (read.text.strip(), read.learned) == ("page", False)


def test_a_question_that_does_not_fit_says_so(
    road: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tuned(road, tmp_path, [PLAIN | {"question": "why " * 4000}])
    assert tuning_sample(config, "train", 0).left_out == "question too long"
    output.width = 140
    show(config, Options(what="tuning"))
    text = capsys.readouterr().out
    assert "cannot be tuned on: question too long; sft.data.skip_unusable=true leaves it out" in text
    assert "learned:" not in text


def test_passages_that_are_cut_are_counted(road: RunConfig, tmp_path: Path) -> None:
    sample = tuning_sample(
        tuned(road, tmp_path, [PLAIN | {"ctxs": ["page " * 4000]}], passages_from="contexts", contexts_in_prompt=1),
        "train",
        0,
    )
    assert sample.lost_context > 3000
    assert sample.left_out is None


def test_it_is_printed_with_the_tokens_learned(
    road: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output.width = 100
    segments = [{"text": "I say", "learn": False}, {"text": " Joyce"}]
    config = tuned(road, tmp_path, [PLAIN | {"segments": segments}])
    show(config, Options(what="tuning"))
    text = capsys.readouterr().out
    parts = tuning_sample(config, "train", 0).parts
    learned = sum(one.tokens for one in parts if one.learned)
    assert f"learned: {learned} of {sum(one.tokens for one in parts)} tokens" in text
    assert max(map(len, text.splitlines())) <= 100
    show(config, Options(what="tuning", as_json=True))
    assert [part["learned"] for part in json.loads(capsys.readouterr().out)["parts"]] == [one.learned for one in parts]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"number": 1}, "tuning = 1: needs a number from 0 to 0"),
        ({"split": "valid"}, "tuning = 0: cannot be shown: no set has dev questions"),
        ({"split": "test"}, "--split = 'test': needs train or valid: nothing is tuned on the test split"),
    ],
)
def test_a_question_that_is_not_there_is_named(
    road: RunConfig, tmp_path: Path, wanted: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        show(tuned(road, tmp_path, [PLAIN]), Options(what="tuning", **wanted))
    assert words in str(caught.value)
