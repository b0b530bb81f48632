"""The harness's own evaluation of local tasks, offline, on a run's tuned model."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager

from retro.cli.lm_eval import harness_table, run_harness
from retro.common.errors import ConfigError, DataError, DependencyError
from retro.common.terminal import Terminal
from retro.generate.engine import BatchEngine
from retro.lm_eval.run import require_packages
from tests.tiny_road import run_stages, small_config

CHOICE = """
task: topics_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/topics.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list: [{{metric: acc}}]
metadata: {{version: 3}}
"""
UNTIL = """
task: topics_until
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/topics.jsonl}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 4}}
metric_list: [{{metric: exact_match}}]
metadata: {{version: 1}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tuned run, and two tasks over one local file."""
    folder = tmp_path_factory.mktemp("harness")
    run_stages(small_config(folder), "corpus", "db", "index", "neighbors", "pretrain", "sft")
    lines = [
        {"question": f"river{n} garden{n}", "choices": [" river", " engine"], "label": 0, "answer": "river"}
        for n in range(3)
    ]
    (folder / "topics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "tasks").mkdir()
    for name, text in (("choice", CHOICE), ("until", UNTIL)):
        (folder / "tasks" / f"{name}.yaml").write_text(text.format(folder=folder))
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No hub, and a cache of the test's own."""
    for module in ("datasets.config", "huggingface_hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    yield


def run(folder: Path, **more: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "tasks": "topics_choice, topics_until",
        "include_path": folder / "tasks",
        "retrieval": "none",
        "few_shot": None,
        "limit": None,
        "out": None,
    }
    config = small_config(folder, "generate.settings=[closed_book]")
    found: dict[str, Any] = json.loads(run_harness(config, **(settings | more)).read_text())
    return found


@pytest.mark.parametrize("retrieval", ["none", "live"])
def test_local_tasks_of_both_kinds_run_offline(folder: Path, retrieval: str) -> None:
    found = run(folder, retrieval=retrieval)
    choice, until = found["results"]["topics_choice"], found["results"]["topics_until"]
    assert choice["acc,none"] in {0, 1 / 3, 2 / 3, 1}
    assert math.isfinite(until["exact_match,none"])
    assert (found["versions"], found["asked"]["retrieval"]) == ({"topics_choice": 3, "topics_until": 1}, retrieval)
    assert found["samples"]["topics_choice"] == {"original": 3, "effective": 3}


def test_results_are_the_same_bytes_again_and_go_where_they_are_asked(folder: Path, tmp_path: Path) -> None:
    run(folder, tasks="topics_choice", limit=2, few_shot=1, out=tmp_path / "one.json")
    found = run(folder, tasks="topics_choice", limit=2, few_shot=1, out=tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert (found["samples"]["topics_choice"]["effective"], found["n-shot"]) == (2, {"topics_choice": 1})


def kept(out: Path, task: str) -> list[dict[str, Any]]:
    lines = out.with_name(f"{out.stem}_samples_{task}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_chosen_questions_are_asked_and_kept_with_their_responses(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.json"
    instruction = {"system_instruction": "Be brief.", "log_samples": True}
    found = run(folder, samples='{"topics_choice": [2], "topics_until": [0, 1]}', out=out, **instruction)
    assert {name: counts["effective"] for name, counts in found["samples"].items()} == {
        "topics_choice": 1,
        "topics_until": 2,
    }
    choice, until = kept(out, "topics_choice"), kept(out, "topics_until")
    assert [line["doc_id"] for line in choice] == [2]
    assert [line["doc_id"] for line in until] == [0, 1]
    assert all("Be brief." in json.dumps(line["arguments"]) for line in (*choice, *until))
    assert all(isinstance(line["filtered_resps"][0], str) for line in until)


def test_a_share_of_the_questions_is_rounded_up(folder: Path) -> None:
    # Of three questions a half is one and a half.
    assert run(folder, tasks="topics_choice", limit=0.5)["samples"]["topics_choice"]["effective"] == 2
    with pytest.raises(ConfigError, match=r"--limit = 1\.5: needs a whole number of questions, or a share"):
        run(folder, limit=1.5)
    with pytest.raises(ConfigError, match=r"--samples = .* needs to be given without --limit"):
        run(folder, limit=1, samples='{"topics_choice": [0]}')


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"samples": "nowhere.json"}, r"--samples = 'nowhere\.json': needs JSON, or a file of it"),
        ({"samples": '{"topics_choice": ["a"]}'}, r"--samples = .*needs JSON"),
        ({"samples": '{"arc": [0]}'}, r"--samples = 'arc': needs tasks that are asked: topics_choice, topics_until"),
        ({"samples": '{"topics_choice": [0, 3]}'}, r"--samples = \[3\]: needs numbers from 0 to 2, the questions of"),
        ({"gen_kwargs": "warm"}, r"--gen-kwargs = 'warm': needs name=value"),
        # Though no task generates.
        (
            {"gen_kwargs": "temperature=x", "tasks": "topics_choice"},
            r"^generation_kwargs\.temperature = 'x': needs a number$",
        ),
        ({"gen_kwargs": "num_beams=4"}, r"^generation_kwargs\.num_beams = 4: needs 1"),
    ],
)
def test_what_cannot_be_asked_is_named_before_the_first_question(
    folder: Path, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        run(folder, **options)


def test_generation_settings_are_laid_over_the_tasks_own(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.json"
    asked = {"tasks": "topics_until", "out": out, "predict_only": True}
    found = run(folder, gen_kwargs="max_gen_toks=1", **asked)
    short = [line["resps"][0][0] for line in kept(out, "topics_until")]
    assert found["asked"]["gen_kwargs"] == {"max_gen_toks": 1}
    # Nothing is scored: the harness's metric for that is called bypass.
    assert set(found["results"]["topics_until"]) >= {"bypass,none"}
    run(folder, **asked)
    longer = [line["resps"][0][0] for line in kept(out, "topics_until")]
    assert all(one.startswith(other) for one, other in zip(longer, short, strict=True))
    assert longer != short


def counting(real: Callable[..., Any], asked: list[int]) -> Callable[..., Any]:
    """A method of the engine that tells how many requests it was given."""

    def call(self: BatchEngine, requests: list[Any]) -> Any:
        asked.append(len(requests))
        return real(self, requests)

    return call


def test_known_responses_are_not_asked_for_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "responses.jsonl"
    first = run(folder, use_cache=cache, out=tmp_path / "one.json", batch_size=2)
    whole = cache.read_text()
    # Two options of three questions, three answers, and whose they are.
    assert whole.count("\n") == 10
    # As a kill leaves it: the last line cut short.
    cache.write_text(whole[:-20])
    asked: list[int] = []
    for name in ("score", "generate"):
        monkeypatch.setattr(BatchEngine, name, counting(getattr(BatchEngine, name), asked))
    again = run(folder, use_cache=cache, out=tmp_path / "two.json")
    assert again == first
    assert asked == [1]
    assert cache.read_text() == whole
    with pytest.raises(ConfigError, match=r"--use-cache = .*: needs a file of its own for each model, retrieval"):
        run(folder, use_cache=cache, retrieval="live")
    cache.write_text("[]\n")
    with pytest.raises(ConfigError, match=r"--use-cache = .*: needs a file of its own"):
        run(folder, use_cache=cache)
    cache.write_text("what\n")
    with pytest.raises(ConfigError, match=r"--use-cache = .*: needs a file that `retro lm-eval --use-cache` wrote"):
        run(folder, use_cache=cache)


def test_the_table_has_every_metric() -> None:
    results = {"arc": {"alias": "arc", "acc,none": 0.25, "acc_stderr,none": 0.01, "acc_norm,none": 0.5}}
    stream = io.StringIO()
    Terminal(stream, width=100).table(harness_table({"results": results, "samples": {"arc": {"effective": 7}}}))
    text = stream.getvalue()
    assert all(piece in text for piece in ("acc ", "0.2500", "0.0100", "acc_norm", "0.5000", "7"))
    assert "stderr" not in text


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"tasks": " ,"}, r"--tasks = ' ,': needs a task at least"),
        ({"retrieval": "dead"}, r"--retrieval = 'dead': needs one of none, live"),
        ({"include_path": Path("/nowhere")}, r"--include-path = '/nowhere': needs a folder"),
    ],
)
def test_options_that_cannot_work_are_named(folder: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        run(folder, **options)


def test_an_unknown_task_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(include_path: str | None = None, include_defaults: bool = True) -> TaskManager:
        # Reading the harness's own thousands of tasks takes many seconds.
        return TaskManager(include_path=include_path, include_defaults=False)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", empty)
    for where in (folder / "tasks", None):
        with pytest.raises(ConfigError, match="--tasks = 'no_such_task': needs a task, group or tag"):
            run(folder, tasks="topics_choice,no_such_task" if where else "no_such_task", include_path=where)


def test_a_task_whose_data_cannot_be_fetched_is_one_line(folder: Path, tmp_path: Path) -> None:
    text = CHOICE.format(folder=folder).replace("task: topics_choice", "task: far")
    text = text.replace("dataset_path: json", "dataset_path: nobody/nothing")
    (tmp_path / "far.yaml").write_text("\n".join(line for line in text.splitlines() if "dataset_kwargs" not in line))
    (tmp_path / "near.yaml").write_text(CHOICE.format(folder=folder))
    with pytest.raises(DataError, match=r"the task 'far': its data are not on this machine.*needs a network once"):
        run(folder, tasks="topics_choice,far", include_path=tmp_path)


def test_a_task_whose_data_cannot_be_loaded_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `datasets` looks for data files in the whole working directory, an environment there included.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "near.yaml").write_text(CHOICE.format(folder=folder))
    (tmp_path / "bare.yaml").write_text("task: bare\ndataset_path: json\n")
    with pytest.raises(DataError, match=r"the task 'bare': cannot be loaded with its data \(.+\)\. Fix its file"):
        run(folder, tasks="topics_choice,bare", include_path=tmp_path)


def test_a_task_file_that_cannot_be_read_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def empty(include_path: str | None = None, include_defaults: bool = True) -> TaskManager:
        return TaskManager(include_path=include_path, include_defaults=False)

    monkeypatch.setattr("lm_eval.tasks.TaskManager", empty)
    (tmp_path / "good.yaml").write_text(CHOICE.format(folder=folder) + "process_docs: !function other.docs\n")
    (tmp_path / "half.yaml").write_text("task: [")
    with pytest.raises(DataError, match=r"half\.yaml: is not a YAML file.*no other file gives the task 'mytask'"):
        run(folder, tasks="mytask", include_path=tmp_path)


def test_a_setting_that_is_not_known_is_named_before_the_first_question(folder: Path, tmp_path: Path) -> None:
    for name, text in (("choice", CHOICE), ("until", UNTIL.replace("max_gen_toks: 4", "num_beams: 4"))):
        (tmp_path / f"{name}.yaml").write_text(text.format(folder=folder))
    with pytest.raises(ConfigError, match=r"num_beams = 4: of the task 'topics_until' needs 1"):
        run(folder, include_path=tmp_path)


def test_without_an_encoder_nothing_is_searched(folder: Path) -> None:
    config = small_config(folder, "generate.encoder=false")
    options: dict[str, Any] = {"tasks": "topics_choice", "include_path": folder / "tasks", "few_shot": None}
    with pytest.raises(ConfigError, match=r"live_retrieval.*needs an encoder that reads what is found"):
        run_harness(config, retrieval="live", limit=None, out=None, **options)


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(DependencyError, match=r"lm-eval: is what .*instruct-retro\[eval\]"):
        require_packages()
