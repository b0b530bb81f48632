"""A sweep over a small run: what is done stays, what fails is told, and the others continue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from retro.common.errors import ConfigError, DataError
from retro.run.config import as_yaml
from retro.sweep.config import SweepConfig
from retro.sweep.run import Cell, cells_of, load_sweep, run_cell, run_sweep
from tests.tiny_road import run_stages, small_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuned run with its config as a file."""
    folder = tmp_path_factory.mktemp("sweep")
    config = small_config(folder)
    run_stages(config, "corpus", "db", "index", "neighbors", "pretrain", "sft")
    (folder / "run.yaml").write_text(as_yaml(config))
    return folder


def sweep(folder: Path, **more: Any) -> SweepConfig:
    settings: dict[str, Any] = {
        "name": "m",
        "run": str(folder / "run.yaml"),
        "out": str(folder / "table"),
        "checkpoints": {"tuned": {}, "raw": {"set": {"generate.checkpoint": str(folder / "run/5_pretrain/retro")}}},
        "tasks": {"qa": {}, "popqa": {}},
        "settings": ["closed_book", "retrieved_passages"],
        "set": {"generate.max_new_tokens": 3, "evaluate.bootstrap_samples": 20},
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(settings | more, sort_keys=False))
    return load_sweep(path)


def test_every_cell_goes_through_the_stages_and_is_not_done_again(folder: Path) -> None:
    wanted = sweep(folder)
    results = run_sweep(wanted, cells_of(wanted))
    assert [(one.checkpoint, one.task, one.error) for one in results] == [
        ("tuned", "qa", ""),
        ("tuned", "popqa", ""),
        ("raw", "qa", ""),
        ("raw", "popqa", ""),
    ]
    assert [Path(one.directory).name for one in results[:2]] == ["8_evaluate_m-tuned-qa", "8_evaluate_m-tuned-popqa"]
    assert results[1].scores is not None
    assert results[1].scores["metrics"][0] == "popqa_match"
    assert set(results[1].scores["settings"]) == {"closed_book", "retrieved_passages"}
    answers = [folder / f"run/7_generate_m-{name}-qa/closed_book.jsonl" for name in ("tuned", "raw")]
    assert answers[0].read_bytes() != answers[1].read_bytes()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("run/[78]_*/*.jsonl")}
    table = (folder / "table/sweep.json").read_bytes()
    run_sweep(wanted, cells_of(wanted))
    assert {path: path.stat().st_mtime_ns for path in folder.glob("run/[78]_*/*.jsonl")} == before
    assert (folder / "table/sweep.json").read_bytes() == table
    assert "| tuned | with retrieved passages |" in (folder / "table/sweep.md").read_text()


def test_a_cell_that_fails_is_told_and_the_others_go_on(folder: Path) -> None:
    lost = {"set": {"generate.questions": [str(folder / "lost.json")]}}
    wanted = sweep(folder, name="f", tasks={"lost": {"set": {"generate.task": "qa", **lost["set"]}}, "qa": {}})
    results = run_sweep(wanted, cells_of(wanted)[:2])
    assert results[0].error.startswith("DataError: ")
    assert "lost.json: no such question file" in results[0].error
    assert results[1].scores is not None
    assert "| failed |" in (folder / "table/sweep.md").read_text()


def test_too_little_memory_for_one_cell_is_its_own_failure(folder: Path) -> None:
    wanted = sweep(folder)
    done: list[str] = []

    def run(cell: Cell) -> Path:
        done.append(cell.label)
        if cell.task == "qa":
            raise RuntimeError("out of memory")
        return run_cell(cell)

    cells = [cell for cell in cells_of(wanted) if cell.checkpoint == "tuned"]
    results = run_sweep(wanted, cells, run)
    assert (done, results[0].error) == (["tuned × qa", "tuned × popqa"], "RuntimeError: out of memory")
    # After each cell the table is whole: a kill loses nothing that was done.
    assert json.loads((folder / "table/sweep.json").read_text())["cells"][1]["scores"] is not None


def test_later_settings_win(folder: Path) -> None:
    wanted = sweep(
        folder,
        checkpoints={"a": {"set": {"generate.passages": 3, "generate.seed": 7}}},
        tasks={"nq": {"set": {"generate.passages": 4, "generate.sampling.temperature": 0.5}}},
        slices=["type"],
        set={"generate.passages": 2, "evaluate.seed": 5},
    )
    (cell,) = cells_of(wanted)
    generate, evaluate = cell.config.generate, cell.config.evaluate
    assert (generate.passages, generate.seed, generate.task, generate.name) == (4, 7, "nq", "m-a-nq")
    assert (generate.sampling.temperature, evaluate.seed, evaluate.slices) == (0.5, 5, ("type",))
    assert generate.style == "plain", "what is not said is as the run has it"


def test_a_cell_may_ask_the_first_questions_of_a_file(folder: Path) -> None:
    wanted = sweep(
        folder,
        name="first",
        checkpoints={"tuned": {}},
        tasks={"qa": {"set": {"generate.limit": 3}}},
        settings=["closed_book", "shuffled_passages"],
    )
    (result,) = run_sweep(wanted, cells_of(wanted))
    assert result.error == ""
    answers = (folder / "run/7_generate_first-tuned-qa/closed_book.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in answers] == ["0", "1", "2"]
    manifest = json.loads((folder / "run/7_generate_first-tuned-qa/manifest.json").read_text())
    assert (manifest["config"]["generate"]["limit"], manifest["counts"]["questions"]) == (3, 3)


@pytest.mark.parametrize(("name", "value"), [("count", 3), ("start", 2)])
def test_a_cell_that_is_a_slice_is_refused_before_anything_runs(folder: Path, name: str, value: int) -> None:
    wanted = sweep(folder, checkpoints={"a": {}}, tasks={"qa": {}, "nq": {"set": {f"generate.{name}": value}}})
    expected = rf"a × nq: generate\.{name} = {value}: .* generate\.limit asks the first so many"
    with pytest.raises(ConfigError, match=expected):
        cells_of(wanted)


def test_mistakes_are_told_before_anything_runs(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"a × qa: generate.pasages = 2: is not a setting; did you mean 'p"):
        cells_of(sweep(folder, checkpoints={"a": {}}, set={"generate.pasages": 2}))
    with pytest.raises(ConfigError, match=r"a × qa: nowhere.x = 1: needs 'nowhere' to be a section"):
        cells_of(sweep(folder, checkpoints={"a": {}}, set={"nowhere.x": 1}))
    with pytest.raises(DataError, match=r"sweep.yaml: taks = .*did you mean 'tasks'"):
        sweep(folder, taks={})
    with pytest.raises(DataError, match=r"sweep.yaml: tasks = .*needs names of letters"):
        sweep(folder, tasks={"a/b": {}})
    with pytest.raises(DataError, match=r"no such config file"):
        load_sweep(folder / "none.yaml")
