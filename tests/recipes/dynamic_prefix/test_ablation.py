"""The ablation over steps that only write numbers: what is made, what is taken over, what is skipped, what fails."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from retro.common.errors import ConfigError, DataError
from retro.common.files import read_json, write_plain_json
from retro.recipes.base import Made, Recipe, Step, StepRun, recipe_path
from retro.recipes.dynamic_prefix import command
from retro.recipes.dynamic_prefix.ablation.run import Row, run_ablation
from retro.recipes.dynamic_prefix.ablation.tables import (
    JSON,
    MARKDOWN,
    PLOT,
    ablation_table,
    draw,
    failures_table,
    main_metric,
)
from retro.recipes.dynamic_prefix.config import DynamicPrefixConfig
from retro.run.config import RunConfig
from retro.run.pipeline import stage

MADE: Counter[str] = Counter()


def _write(work: StepRun, name: str, data: dict[str, Any]) -> Made:
    MADE[work.step.name] += 1
    write_plain_json(work.directory / name, data)
    return Made(files=[name], report={"vectors_per_document": 12.5} if work.step.name == "encode" else {})


def _retrieve(work: StepRun) -> Made:
    return _write(work, "found.json", {})


def _train(work: StepRun) -> Made:
    if work.settings.prefix.compress == 3:
        raise DataError(work.directory, "three is not liked", "Take another")
    return _write(work, "weights.json", {})


def _encode(work: StepRun) -> Made:
    return _write(work, "store.json", {})


def _mean(value: float) -> dict[str, float]:
    return {"mean": value, "low": value - 0.1, "high": value + 0.1, "count": 10}


def _evaluate(work: StepRun) -> Made:
    right = (work.settings.prefix.compress or 9) / 10
    modes = {"prefix": {"exact_match": _mean(right)}, "none": {"exact_match": _mean(0.1)}}
    forced = {"prefix": {"gold": {"accuracy": _mean(0.6)}}}
    return _write(
        work,
        "scores.json",
        {"metrics": ["exact_match"], "modes": modes, "forced": forced, "weights": {"trained": 100, "frozen": 1000}},
    )


class Fake:
    """The dynamic prefix, with steps that write numbers."""

    name, summary, config = "dynamic_prefix", "a fake", DynamicPrefixConfig
    special_tokens = ()
    steps: tuple[Step, ...] = (
        Step(name="retrieve", summary="", run=_retrieve, settings=("data", "prefix.documents"), sections=("search",)),
        Step(name="train", summary="", run=_train, needs=("retrieve",), settings=("prefix",)),
        Step(name="encode", summary="", run=_encode, needs=("train",)),
        Step(name="evaluate", summary="", run=_evaluate, needs=("encode",)),
        Step(name="never", summary="", run=_train, wanted=lambda _: False),
    )


@pytest.fixture(autouse=True)
def _made() -> None:
    MADE.clear()


def run_of(tmp_path: Path, **ablate: Any) -> RunConfig:
    own = {"prefix": {"compress": 4}, "ablate": {"cross_attention": False, "static": 0, **ablate}}
    return RunConfig(run_dir=tmp_path / "run", recipe={"dynamic_prefix": own})


def test_rows_share_what_they_have_in_common(tmp_path: Path) -> None:
    rows = run_ablation(Fake(), run_of(tmp_path, only=["base", "none", "prefix length"], lengths=[1, 8]))
    assert [(one.name, one.metrics["exact_match"]["mean"], one.vectors, one.trained) for one in rows] == [
        ("base", 0.4, 4.0, 100),
        ("none", 0.1, None, 0),
        ("length-1", 0.1, 1.0, 100),
        ("length-8", 0.8, 8.0, 100),
        ("uncompressed", 0.9, 12.5, 100),
    ]
    # Documents are found once, and the run itself has two rows.
    assert MADE == {"retrieve": 1, "train": 4, "encode": 4, "evaluate": 4}
    home = tmp_path / "run" / "recipe_dynamic_prefix" / "ablation"
    assert (home / "length-1" / "recipe_dynamic_prefix" / "retrieve").is_symlink()
    assert not (home / "base").exists()
    assert rows[1].token_accuracy is None
    assert rows[2].token_accuracy == _mean(0.6)
    assert set(rows[2].seconds) == {"retrieve", "train", "encode", "evaluate"}


def test_what_is_complete_is_skipped_and_a_moved_run_keeps_its_links(tmp_path: Path) -> None:
    config = run_of(tmp_path, only=["base", "length-1"], lengths=[1])
    first = run_ablation(Fake(), config)
    table = recipe_path(config, Fake()) / "ablation" / JSON
    before = table.read_bytes()
    assert run_ablation(Fake(), config) == first
    assert MADE["train"] == 2
    assert table.read_bytes() == before
    config.run_dir.rename(tmp_path / "moved")
    moved = config.model_copy(update={"run_dir": tmp_path / "moved"})
    assert [one.metrics for one in run_ablation(Fake(), moved)] == [one.metrics for one in first]
    assert MADE["train"] == 2


def test_a_retriever_of_its_own_finds_documents_again(tmp_path: Path) -> None:
    more = [{"name": "words", "set": {"search.source": "bm25"}}]
    run_ablation(Fake(), run_of(tmp_path, only=["base", "words"], more=more))
    assert MADE["retrieve"] == 2


def test_a_failed_row_is_in_the_table_and_the_others_go_on(tmp_path: Path) -> None:
    config = run_of(tmp_path, only=["length-3", "length-8"], lengths=[3, 8])
    failed, good = run_ablation(Fake(), config)
    assert "three is not liked" in failed.error
    assert good.metrics["exact_match"]["mean"] == 0.8
    table = (recipe_path(config, Fake()) / "ablation" / MARKDOWN).read_text(encoding="utf-8")
    assert "| prefix length | length-3 | – | – | failed |" in table
    assert "three is not liked" in table


def test_a_setting_that_cannot_work_is_named_before_anything_runs(tmp_path: Path) -> None:
    more = [{"name": "odd", "set": {"recipe.dynamic_prefix.prefix.compres": 1}}]
    with pytest.raises(ConfigError, match=r"odd: .*compres.*compress"):
        run_ablation(Fake(), run_of(tmp_path, more=more))
    assert not MADE


def test_a_mode_that_is_not_answered_in_is_an_error_of_its_row(tmp_path: Path) -> None:
    [row] = run_ablation(Fake(), run_of(tmp_path, only=["prompt"]))
    assert "prompt: mode = 'prompt': needs one of those that are answered in: none, prefix" in row.error


def _needing(name: str) -> Recipe:
    class Needing(Fake):
        steps = (Step(name="evaluate", summary="", run=_evaluate, needs=(name,), settings=("prefix",)),)

    return Needing()


def test_stages_are_links_unless_a_setting_of_theirs_is_changed(tmp_path: Path) -> None:
    text = tmp_path / "corpus.jsonl"
    text.write_text("".join(json.dumps({"text": "a word is " * n}) + "\n" for n in range(1, 20)), encoding="utf-8")
    words = {name: number for number, name in enumerate(["<|endoftext|>", "[UNK]", "is", "a", "word"])}
    spelled = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    spelled.pre_tokenizer = WhitespaceSplit()
    spelled.save(str(tmp_path / "tokenizer.json"))
    tokenizer = {"kind": "huggingface", "path": str(tmp_path / "tokenizer.json")}
    corpus = {"sources": [{"name": "words", "path": str(text)}], "tokenizer": tokenizer}
    more = [
        {"name": "same", "set": {"recipe.dynamic_prefix.prefix.compress": 2}},
        {"name": "chunks", "set": {"db.chunk_length": 4}},
    ]
    config = RunConfig(
        run_dir=tmp_path / "run", corpus=corpus | {"split": [1, 0, 0]}, db={"chunk_length": 8},
        recipe={"dynamic_prefix": {"ablate": {"variants": more}}},
    )  # fmt: skip
    for name in ("corpus", "db"):
        stage(name).run(config)
    assert [one.error for one in run_ablation(_needing("db"), config)] == ["", ""]
    home = tmp_path / "run" / "recipe_dynamic_prefix" / "ablation"
    assert (home / "same" / "2_db").is_symlink()
    assert (home / "chunks" / "1_corpus").is_symlink()
    assert not (home / "chunks" / "2_db").is_symlink()


def test_a_stage_that_the_run_lacks_is_asked_for(tmp_path: Path) -> None:
    config = RunConfig(
        run_dir=tmp_path / "run",
        recipe={
            "dynamic_prefix": {
                "ablate": {"variants": [{"name": "a", "set": {"recipe.dynamic_prefix.prefix.static": 1}}]}
            }
        },
    )
    [row] = run_ablation(_needing("db"), config)
    assert "Run `retro db` first" in row.error


def row(name: str, length: int | None, value: float, mode: str = "prefix") -> Row:
    return Row(
        name=name, group="g", mode=mode, length=length, metrics={"exact_match": _mean(value)}, trained=2_000_000,
        vectors=length, seconds={"train": 65.0}, token_accuracy=_mean(value),
    )  # fmt: skip


def test_the_table_says_what_was_trained_and_read() -> None:
    table = ablation_table([row("length-8", 8, 0.5), Row(name="x", group="g", mode="prefix", error="Bad: thing")])
    assert [cells for cells, _ in table.rows] == [
        ("g", "length-8", "2.00 M", "8", "50.0 (40.0–60.0)", "50.0 (40.0–60.0)", "1 min 5 s"),
        ("g", "x", "–", "–", "failed", "–", "–"),
    ]
    failures = failures_table([Row(name="x", group="g", mode="prefix", error="Bad:\nthing")])
    assert failures.rows[0][0] == ("x", "Bad: thing")
    assert main_metric([]) == "exact_match"


def test_the_plot_is_drawn_from_two_lengths_on(tmp_path: Path) -> None:
    draw(tmp_path / PLOT, [row("length-1", 1, 0.2), row("none", None, 0.1, "none")])
    assert not (tmp_path / PLOT).exists()
    rows = [row("length-8", 8, 0.5), row("length-1", 1, 0.2), row("none", None, 0.1, "none")]
    draw(tmp_path / PLOT, rows)
    drawn = (tmp_path / PLOT).read_bytes()
    assert b"<svg" in drawn
    draw(tmp_path / PLOT, rows)
    assert (tmp_path / PLOT).read_bytes() == drawn


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "RECIPES", SimpleNamespace(find=lambda *_: Fake()))


@pytest.mark.usefixtures("registered")
def test_the_command_prints_the_table_and_ends_in_an_error_where_a_row_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    own = {"ablate": {"cross_attention": False, "only": ["length-3", "length-8"], "lengths": [3, 8]}}
    path.write_text(json.dumps({"run_dir": str(tmp_path / "run"), "recipe": {"dynamic_prefix": own}}), encoding="utf-8")
    with pytest.raises(DataError, match="1 of 2 variants failed, length-3 first"):
        command.run_ablate([str(path)])
    assert "length-8" in capsys.readouterr().out
    command.run_ablate([str(path), "recipe.dynamic_prefix.ablate.only=[length-8]"])
    table = read_json(tmp_path / "run" / "recipe_dynamic_prefix" / "ablation" / JSON, "")
    assert [one["name"] for one in table["rows"]] == ["length-8"]


def test_the_command_needs_a_file() -> None:
    with pytest.raises(ConfigError, match="needs one run's YAML file"):
        command.run_ablate(["recipe.dynamic_prefix.prefix.static=1"])
