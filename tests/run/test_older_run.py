"""A run of an older version (tests/fixtures/run_0_1) is opened by every command of today."""

from __future__ import annotations

import json
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from retro.cli import main
from retro.common.artifacts import read_manifest
from retro.common.config import warn_renamed
from retro.run.config import load_run_config
from retro.run.pipeline import STAGES
from retro.training.checkpoint import load_model, read_info
from retro.training.log import read_log

FIXTURE = Path(__file__).parents[1] / "fixtures/run_0_1"
TUNED = "run/6_sft/retro-topics_pp1_same_format_ctx1_tiny_4_0.01"
ADAPTED = f"{TUNED}_lora2"
SETTINGS = ("with_passages", "closed_book", "live_retrieval")

Retro = Callable[..., str]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run and what it was made from. Not to be changed."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(FIXTURE / "run.tar.xz") as archive:
        # Pythons before 3.11.4 have no filter; the archive is our own.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)
    for path in FIXTURE.glob("*.yaml"):
        shutil.copyfile(path, folder / path.name)
    return folder


@pytest.fixture
def folder(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, which is the working directory: paths of a run may be relative."""
    copy = tmp_path / "moved"
    shutil.copytree(unpacked, copy)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def retro(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Retro:
    """Runs the command line in this process; gives what it prints, and but for --json what it logs too."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["retro", *arguments])
        warn_renamed.cache_clear()
        main.main()
        printed = capsys.readouterr()
        return printed.out if "--json" in arguments else printed.out + printed.err

    return run


def contents(directory: Path) -> dict[str, Any]:
    """What a stage's own JSON files hold, but for times."""
    return {
        path.name: path.read_text()
        for path in sorted(directory.iterdir())
        if path.suffix in {".json", ".jsonl"} and path.name not in {"report.json", "manifest.json", ".verified.json"}
    }


@pytest.mark.parametrize(("run", "stages"), [("run", 9), ("words", 4)])
def test_every_stage_is_done_and_every_file_is_as_it_was_written(
    folder: Path, retro: Retro, run: str, stages: int
) -> None:
    found = json.loads(retro("status", f"{run}.yaml", "--json"))
    states = [one["state"] for one in found]
    assert states == ["done"] * stages + ["missing"] * (9 - stages)
    assert "all is as it should be" in retro("verify", f"{run}.yaml")


def test_former_names_of_settings_are_read_with_a_line_that_says_the_new_one(folder: Path, retro: Retro) -> None:
    said = retro("config", "show", "run.yaml") + retro("config", "show", "words.yaml")
    for old, new in (
        ("index.embedder.dtype", "index.embedder.precision"),
        ("generate.bfloat16", "generate.precision"),
        ("index.embedder.kind=none", "index.embedder.kind=bm25"),
    ):
        assert f"{old} is the former name of {new}; it is still read" in said
    assert load_run_config(Path("run.yaml"), []).generate.precision == "float32"
    assert load_run_config(Path("words.yaml"), []).index.embedder.kind == "bm25"


def test_no_stage_is_done_again(folder: Path, retro: Retro) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.glob("run/*/manifest.json")}
    said = retro("run", "run.yaml")
    assert all(f"{one.name}: already complete" in said for one in STAGES)
    said = retro("run", "words.yaml", "--until", "neighbors")
    assert all(f"{name}: already complete" in said for name in ("corpus", "db", "index", "neighbors"))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_answers_and_scores_come_out_the_same_when_they_are_made_again(folder: Path, retro: Retro) -> None:
    answers, scores = (
        contents(folder / "run/7_generate"),
        json.loads((folder / "run/8_evaluate/scores.json").read_text()),
    )
    retro("generate", "run.yaml", "--redo")
    again = contents(folder / "run/7_generate")
    assert {name for name in again if name.endswith(".jsonl")} == {f"{one}.jsonl" for one in (*SETTINGS, "questions")}
    for name in ("questions.jsonl", *(f"{one}.jsonl" for one in SETTINGS)):
        assert again[name] == answers[name]
    retro("evaluate", "run.yaml")
    found = json.loads((folder / "run/8_evaluate/scores.json").read_text())
    assert found["settings"] == scores["settings"]
    assert found["settings"]["with_passages"]["exact_match"]["mean"] == pytest.approx(0.375)
    assert "live retrieval" in (folder / "run/report.html").read_text()


def test_perplexities_come_out_the_same_when_they_are_measured_again(folder: Path, retro: Retro) -> None:
    before = read_manifest(folder / "run/5_pretrain/perplexity", "perplexity")
    in_context = json.loads((folder / "run/5_pretrain/perplexity/in_context.json").read_text())
    retro("perplexity", "run.yaml", "--redo")
    after = read_manifest(folder / "run/5_pretrain/perplexity", "perplexity")
    assert after.config == before.config
    assert numbers(after.counts) == pytest.approx(numbers(before.counts), rel=1e-5)
    again = json.loads((folder / "run/5_pretrain/perplexity/in_context.json").read_text())
    assert numbers(again) == pytest.approx(numbers(in_context), rel=1e-4)


def numbers(value: Any) -> list[float]:
    """All numbers of a JSON value, in the order of their names."""
    if isinstance(value, dict):
        return [one for name in sorted(value) for one in numbers(value[name])]
    if isinstance(value, list | tuple):
        return [one for inner in value for one in numbers(inner)]
    return [float(value)] if isinstance(value, int | float) else []


def test_the_database_is_looked_at_searched_and_changed(folder: Path, retro: Retro) -> None:
    assert "river-0" in retro("inspect", "chunk", "3", "run.yaml")
    assert "engine-7" in retro("inspect", "neighbors", "3", "run.yaml")
    assert "never a neighbor" in retro("inspect", "database", "run.yaml")
    assert "neighbor 2" in retro("inspect", "sample", "0", "run.yaml")
    asked = json.loads(retro("ask", "run.yaml", "engine11 engine5 engine0", "--json"))
    stored = json.loads((folder / "run/7_generate/with_passages.jsonl").read_text().splitlines()[0])
    assert asked["prediction"] == stored["prediction"]
    assert [one["row"] for one in asked["passages"]] == [one["row"] for one in stored["passages"]]
    retro("db", "remove", "run.yaml", "--id", "new-river-0")
    retro("db", "compact", "run.yaml")
    versions = json.loads(retro("db", "versions", "run.yaml", "--json"))
    assert [one["change"] for one in versions] == ["as built", "add", "remove", "compact"]
    assert [one["counts"]["rows"] - one["counts"].get("rows_removed", 0) for one in versions] == [725, 809, 784, 784]


def test_training_goes_on_from_its_checkpoints(folder: Path, retro: Retro) -> None:
    # Tunings first: they are of the weights that pretraining ends in.
    said = retro("sft", "run.yaml", "sft.train.steps=82")
    assert f"resuming from step 80 of {TUNED}/checkpoints/step_00000080" in said
    said = retro("sft", "run.yaml", "sft.train.steps=82", "sft.train.lora={rank: 2}")
    assert f"resuming from step 80 of {ADAPTED}/checkpoints/step_00000080" in said
    assert [read_info(folder / path / "checkpoints/step_00000082").step for path in (TUNED, ADAPTED)] == [82, 82]
    said = retro("pretrain", "run.yaml", "train.steps=8", "train.log_every=1")
    assert "resuming from step 6 of run/5_pretrain/retro/checkpoints/step_00000006" in said
    logged = [line for line in read_log(folder / "run/5_pretrain/retro/log.jsonl") if "loss" in line]
    assert [line["step"] for line in logged][-2:] == [7, 8]


def test_adapters_are_merged_and_both_tunings_exported(folder: Path, retro: Retro) -> None:
    retro("merge-lora", ADAPTED, "merged")
    merged, info = load_model(folder / "merged")
    adapted, _ = load_model(folder / ADAPTED)
    assert (info.step, info.adapters) == (80, None)
    for name, weight in adapted.named_parameters():
        torch.testing.assert_close(merged.get_parameter(name), weight)
    for source in ("merged", TUNED):
        retro("export", source, f"exported {source[:4]}")
        config = json.loads((folder / f"exported {source[:4]}/config.json").read_text())
        assert (config["model_type"], config["num_hidden_layers"]) == ("instruct_retro", 2)


def test_cached_responses_are_found_and_leakage_is_known(
    folder: Path, retro: Retro, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("datasets.config", "huggingface_hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    before, responses = (folder / "run/lm_eval.json").read_text(), (folder / "run/responses.jsonl").read_bytes()
    words = ("lm-eval", "run.yaml", "--tasks", "topics_choice", "--include-path", "tasks")
    said = retro(*words, "--use-cache", "run/responses.jsonl")
    assert "run/responses.jsonl: 6 responses are known" in said
    assert json.loads((folder / "run/lm_eval.json").read_text())["results"] == json.loads(before)["results"]
    assert (folder / "run/responses.jsonl").read_bytes() == responses
    leakage = folder / "run/leakage/leakage.json"
    known = leakage.read_text()
    assert "pictures and all numbers: run/leakage" in retro("leakage", "run.yaml")
    assert numbers(json.loads(leakage.read_text())) == numbers(json.loads(known))


def test_a_sweep_goes_by_its_former_name_and_keeps_its_cells(folder: Path, retro: Retro) -> None:
    said = retro("matrix", "matrix.yaml")
    assert "`retro matrix` is `retro sweep` now" in said
    assert "`name` was 'matrix' by default, so its cells keep that" in said
    assert said.count("generate: already complete") == 2
    table = {name: json.loads((folder / f"table/{name}.json").read_text()) for name in ("matrix", "sweep")}
    assert table["sweep"]["cells"] == table["matrix"]["cells"]
    assert [one["error"] for one in table["sweep"]["cells"]] == ["", ""]
