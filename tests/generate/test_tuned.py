from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from retro.common.errors import ArtifactError
from retro.generate.config import GenerateConfig
from retro.generate.task_prompt import warn_of_other_prompts
from retro.qa.prompt_texts import shipped_prompts

TEXTS = shipped_prompts()


def tuned(folder: Path, **data: object) -> Path:
    """A checkpoint below a tuning's directory."""
    (folder / "config.json").write_text(json.dumps({"sft": {"data": data}, "checkpoint": []}))
    return folder / "checkpoints" / "step_00000004"


def test_asking_in_another_form_than_the_model_was_tuned_in_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tuned(tmp_path, style="plain", contexts_in_prompt=1, neighbor_text="text", encoder=True)
    with caplog.at_level(logging.WARNING):
        found = warn_of_other_prompts(GenerateConfig(contexts_in_prompt=3), path, TEXTS)
    assert found == [
        "generate.style is 'instructretro', it was tuned with sft.data.style = 'plain'",
        "generate.contexts_in_prompt is 3, it was tuned with sft.data.contexts_in_prompt = 1",
        "generate.neighbor_text is 'title_and_text', it was tuned with sft.data.neighbor_text = 'text'",
    ]
    assert len(caplog.records) == 3


def test_other_prompt_texts_and_another_template_are_said(tmp_path: Path) -> None:
    path = tuned(tmp_path, template="reply")
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"prompts": TEXTS.identity}))
    assert warn_of_other_prompts(GenerateConfig(template="reply"), path, TEXTS) == []
    own = TEXTS.model_copy(update={"name": "own", "version": 7})
    template, texts = warn_of_other_prompts(GenerateConfig(), path, own)
    assert template == "generate.template is '', it was tuned with sft.data.template = 'reply'"
    assert texts.startswith("the prompt texts are 'own' version 7 (")
    assert f"it was tuned with 'shipped' version 3 ({TEXTS.identity['fingerprint']})" in texts


def test_an_encoder_that_was_off_while_tuning_is_said_unless_it_is_off_again(tmp_path: Path) -> None:
    path = tuned(tmp_path, encoder=False)
    (found,) = warn_of_other_prompts(GenerateConfig(), path, TEXTS)
    assert found == "generate.encoder is True, it was tuned with sft.data.encoder = False"
    assert warn_of_other_prompts(GenerateConfig(encoder=False), path, TEXTS) == []


def test_the_same_form_and_a_model_that_was_not_tuned_are_fine(tmp_path: Path) -> None:
    same = tuned(tmp_path, style="instructretro", contexts_in_prompt=1, neighbor_text="title_and_text", encoder=True)
    assert warn_of_other_prompts(GenerateConfig(), same, TEXTS) == []
    assert warn_of_other_prompts(GenerateConfig(), tmp_path / "elsewhere/checkpoints/step_1", TEXTS) == []
    (tmp_path / "config.json").write_text(json.dumps({"train": {}}))
    assert warn_of_other_prompts(GenerateConfig(), same, TEXTS) == []


def test_a_broken_description_of_the_tuning_is_an_error(tmp_path: Path) -> None:
    path = tuned(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"config.json"):
        warn_of_other_prompts(GenerateConfig(), path, TEXTS)
