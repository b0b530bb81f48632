"""What a finished tuning stage records of its data, on a small run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.interop.export import export
from retro.qa.prompt_texts import shipped_prompts
from retro.run.config import RunConfig
from retro.run.pipeline import pretrained, stage
from retro.tokenizers.added_tokens import added_tokens, token_id
from retro.tokenizers.tokenizer import load_tokenizer
from retro.training import checkpoint
from retro.training.result import of_stage
from tests.tiny_road import run_stages, small_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has a model to tune."""
    folder = tmp_path_factory.mktemp("road")
    run_stages(small_config(folder), "corpus", "db", "index", "neighbors", "pretrain")
    return folder


def blended(folder: Path, out: Path, *overrides: str) -> RunConfig:
    """Settings that tune on two sets of one file, the first three times as often."""
    blend = out / "two.yaml"
    blend.write_text(
        f"sets:\n  - {{name: first, path: {folder}/train.json, weight: 3, kind: short_span}}\n"
        f"  - {{name: second, path: {folder}/train.json, weight: 1, kind: chat}}\n"
    )
    return small_config(folder, "sft.data.sets=[]", f"sft.data.blend={blend}", *overrides)


def test_the_mixture_is_logged_and_reported(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = blended(folder, tmp_path)
    with caplog.at_level("INFO", logger="retro"):
        run_stages(config, "sft")
    report = json.loads((stage("sft").path(config) / "report.json").read_text())
    # 4 steps of 4 samples, of sets of 40.
    assert (report["mixture"]["first"]["samples"], report["mixture"]["first"]["epochs"]) == (12, 0.3)
    assert (report["mixture"]["second"]["samples"], report["mixture"]["second"]["epochs"]) == (4, 0.1)
    assert [one["kind"] for one in report["sets"]] == ["short_span", "chat"]
    lines = [record.getMessage() for record in caplog.records if record.name == "retro.sft.tune"]
    assert any(line.split()[:4] == ["first", "0.750", "0.750", "12"] for line in lines)
    manifest = json.loads((stage("sft").path(config) / "manifest.json").read_text())
    assert manifest["config"]["prompts"] == shipped_prompts().identity
    assert [one["name"] for one in manifest["config"]["blend"]["sets"]] == ["first", "second"]
    # The blend's file is what it is tuned on, not merely what it is called.
    blend = tmp_path / "two.yaml"
    blend.write_text(blend.read_text().replace("weight: 3", "weight: 2"))
    with pytest.raises(ArtifactError, match=r"blend.sets was"):
        run_stages(config, "sft")


def test_other_prompt_texts_are_another_run(folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "own.yaml"
    prompts.write_text("name: own\nversion: 1\nsets: {topics: {kind: short_span}}\n")
    settings = ["sft.train.lr=2e-3", f"sft.data.prompts={prompts}"]
    run_stages(small_config(folder, *settings), "sft")
    prompts.write_text("name: own\nversion: 2\nsets: {topics: {kind: short_span}}\n")
    with pytest.raises(ArtifactError, match=r"prompts.version was 1, now 2"):
        run_stages(small_config(folder, *settings), "sft")


def test_a_question_that_teaches_nothing_stops_the_stage_or_is_counted(folder: Path, tmp_path: Path) -> None:
    items = json.loads((folder / "train.json").read_text())
    items[7]["answers"] = []
    path = tmp_path / "holes.json"
    path.write_text(json.dumps(items))
    settings = [f"sft.data.sets=[{{name: topics, path: {path}}}]", "sft.train.lr=3e-3"]
    with pytest.raises(DataError, match=r"holes.json: item 7 has 'answers' = \[\]"):
        run_stages(small_config(folder, *settings), "sft")
    config = small_config(folder, *settings, "sft.data.skip_unusable=true")
    run_stages(config, "sft")
    [one] = json.loads((stage("sft").path(config) / "report.json").read_text())["sets"]
    assert (one["questions"], one["samples"], one["skipped"]) == (40, 39, {"no_answer": 1})


def test_a_model_is_tuned_on_shorter_sequences_than_it_was_trained_on(folder: Path) -> None:
    before = checkpoint.read_info(checkpoint.find(pretrained(small_config(folder)))).shape.model
    shorter = before.sequence_length - 16
    config = small_config(folder, f"sft.sequence_length={shorter}", "sft.train.lr=9e-3")
    run_stages(config, "sft")
    info = checkpoint.read_info(checkpoint.find(of_stage(stage("sft").path(config))))
    assert info.shape.model.sequence_length == shorter
    for length, words in (
        (before.sequence_length * 2, "needs at most"),
        (shorter + 1, "needs a multiple of the chunk"),
    ):
        with pytest.raises(ConfigError, match=rf"sft\.sequence_length = {length}: {words}"):
            run_stages(small_config(folder, f"sft.sequence_length={length}"), "sft")


def test_special_tokens_and_segments_are_tuned_on_and_exported(folder: Path, tmp_path: Path) -> None:
    items = [
        {
            "question": one["question"],
            "segments": [
                {"token": "[Retrieval]"},
                {"text": "a passage that is read", "learn": False},
                {"token": "[Relevant]"},
                {"text": one["answers"][0]},
            ],
        }
        for one in json.loads((folder / "train.json").read_text())
    ]
    path = tmp_path / "segments.json"
    path.write_text(json.dumps(items))
    settings = [f"sft.data.sets=[{{name: topics, path: {path}}}]", "sft.train.lr=7e-3"]
    tokens = "sft.special_tokens=['[Retrieval]', '[Relevant]']"
    with pytest.raises(
        ConfigError, match=r"sft.special_tokens = '\[Relevant\]': needs a tokenizer that has this token"
    ):
        run_stages(small_config(folder, *settings), "sft")
    config = small_config(folder, *settings, tokens)
    run_stages(config, "sft")
    found = checkpoint.find(of_stage(stage("sft").path(config)))
    before = checkpoint.read_info(checkpoint.find(pretrained(config)))
    info = checkpoint.read_info(found)
    assert info.shape.vocabulary == before.shape.vocabulary + 2
    assert info.tokenizer is not None
    tokenizer = load_tokenizer(info.tokenizer)
    assert added_tokens(tokenizer) == ("[Retrieval]", "[Relevant]")
    # A second tuning starts from this one, and finds the tokens there.
    again = small_config(folder, *settings, tokens, f"sft.start_from={found}", "sft.train.lr=8e-3")
    run_stages(again, "sft")
    assert checkpoint.read_info(checkpoint.find(of_stage(stage("sft").path(again)))).shape.vocabulary == (
        info.shape.vocabulary
    )
    export(found, tmp_path / "exported", run_dir=config.run_dir)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert theirs.convert_tokens_to_ids("[Relevant]") == token_id(tokenizer, "[Relevant]")
    settings_of = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert settings_of["vocab_size"] == info.shape.vocabulary
