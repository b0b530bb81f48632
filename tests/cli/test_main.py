"""The command line as a user meets it: one line and exit code 2 for mistakes, plans, views, settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from retro.qa.formats.registry import FORMATS
from retro.run.config import RunConfig, as_yaml
from retro.training.checkpoint import read_info
from tests.evaluate.test_compare import scored
from tests.interop.nvidia import FakeProject
from tests.model.convert.legacy_megatron import INSTRUCT_RETRO, random_weights, write
from tests.tiny_road import run_stages, small_config

pytestmark = pytest.mark.slow


def retro(*arguments: str, columns: int = 110) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "COLUMNS": str(columns)}
    command = [sys.executable, "-m", "retro", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def refused(*arguments: str) -> str:
    """The one line that a refused command prints."""
    found = retro(*arguments)
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    lines = [line for line in found.stderr.splitlines() if line.startswith("retro:")]
    assert len(lines) == 1
    assert found.stderr.splitlines()[-1] == lines[0]
    return lines[0]


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four stages, as the path of its config."""
    folder = tmp_path_factory.mktemp("cli")
    config = small_config(folder)
    run_stages(config, "corpus", "db", "index", "neighbors")
    path = folder / "run.yaml"
    path.write_text(as_yaml(config))
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["corpus", "absent.yaml"], "absent.yaml: no such config file"),
        (["corpus", "train.lrr=1"], "train.lrr = 1: is not a setting; did you mean 'lr'?"),
        (["corpus", "a.yaml", "b.yaml"], "needs one config file"),
        (["pretrain", "--finetune"], "--finetune = True: needs --load CHECKPOINT"),
        (["pretrain", "--load", "x"], "--load = 'x': needs --finetune"),
        (["evaluate", "--plain", "answers.txt"], "--plain = 'answers.txt': needs --questions FILE beside it"),
        (["plan", "--gpu", "h100"], "--gpu = 'h100': is not a GPU of the table; did you mean 'h100-80g'?"),
        (["plan", "a.yaml", "--size", "8b"], "--size = '8b': needs no config file beside it"),
        (["plan", "--size", "8b", "parallel.tensor=7"], "parallel.tensor = 7: needs a divisor of model.heads = 32"),
        (["plan", "db"], "Missing option '--tokens'"),
        (["plan", "db", "--tokens", "1b", "--index", "IVF8,LSH"], "--index = 'IVF8,LSH': needs parts of known size"),
        (["plan", "db", "--tokens", "1b", "--sample", "some"], "--sample = 'some': needs a number of vectors, as 100b"),
        (["db", "run_dir=/nonexistent-folder/run"], "/nonexistent-folder"),
        (["convert", "absent", "out"], "absent: no such file or folder. Give a HuggingFace folder, a .gguf file"),
        (["merge-lora", "absent", "out"], "absent: no such file or folder. Give a checkpoint"),
        (["export-lora", "absent", "out"], "absent: no such file or folder. Give a checkpoint"),
        (["import-lora", "absent", "gone", "out"], "absent: no such file or folder. Give the folder that peft"),
        (["sft", "absent.yaml"], "absent.yaml: no such config file"),
        (["sft", "convert", "dolyl", "in", "out"], "FORMAT = 'dolyl': is not a known format; did you mean 'dolly'?"),
        (["sft", "convert", "dolly", "absent.jsonl", "out"], "absent.jsonl: no such file to convert"),
        (["sft", "convert", "dolly", "in", "out", "--turns", "first"], "'first' is not one of 'last', 'every'"),
        (["sft", "stats", "absent.yaml"], "absent.yaml: no such config file"),
        (["corpsu"], "No such command 'corpsu'"),
        (["corpus", "--rdo"], "No such option: --rdo"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], words: str, tmp_path: Path) -> None:
    if arguments[0] == "db":
        arguments = ["db", f"run_dir={tmp_path}/run"]
        words = f"{tmp_path}/run/1_corpus/manifest.json: is missing. Run `retro corpus` first"
    assert words in refused(*arguments)


def test_a_public_file_becomes_a_question_set_by_one_command(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"question": "who", "answer": ["Ada"]}\n{"question": "who"}\n')
    out = tmp_path / "data" / "nq"
    assert f"{path}: line 2 (item 1) has no 'answer'." in refused("sft", "convert", "nq_open", str(path), str(out))
    found = retro("sft", "convert", "nq_open", str(path), str(out), "--skip-bad", columns=40)
    assert found.stdout == f"{out}/nq_QA_train.json: 1 questions\n"
    found = retro("sft", "convert", "nq_open", str(path), str(out), "--skip-bad", "--json")
    assert json.loads(found.stdout)["skipped"] == {"no_answer": 1}


def test_the_help_of_conversion_names_every_format() -> None:
    page = " ".join(retro("sft", "convert", "--help", columns=200).stdout.replace(",", " ").split())
    assert all(f" {name} " in page.replace(".", " ") for name in FORMATS)


def test_a_dry_run_of_43b_prints_layers_parameters_and_memory() -> None:
    found = retro("pretrain", "--dry-run", "model.size=43b", "parallel.tensor=8", "train.precision=bfloat16")
    assert found.returncode == 0, found.stderr
    text = found.stdout
    assert "  9  self-attention, chunked cross-attention with the neighbor encoder, feed-forward" in text
    assert " 48  self-attention, chunked cross-attention, feed-forward" in text
    assert " 10  self-attention, feed-forward" in text
    # 8 x 8192 / 3 = 21845.3, so 341 x 64 = 21824 wide, three matrices.
    decoder, embeddings, norms = 48 * (4 * 8192**2 + 3 * 8192 * 21824), 2 * 256_000 * 8192, (2 * 48 + 1) * 2 * 8192
    assert f"{decoder + embeddings + norms:,}" in text
    assert "tensor 8, bfloat16" in text
    assert "GiB" in text


def test_a_legacy_checkpoint_becomes_one_of_ours(tmp_path: Path) -> None:
    write(tmp_path / "legacy", INSTRUCT_RETRO, random_weights(INSTRUCT_RETRO), 2)
    done = retro("convert", str(tmp_path / "legacy"), str(tmp_path / "ours"), "--vocabulary", "60")
    assert done.returncode == 0, done.stderr
    assert "layers that read neighbors: 6, 9; chunks of 4; 60 tokens" in done.stderr
    shape = read_info(tmp_path / "ours").shape
    assert shape.vocabulary == 60
    # What it prints goes into a run's config as it is.
    assert RunConfig(**yaml.safe_load(done.stdout)).model == shape.model


def test_the_settings_of_a_run_can_be_shown_and_have_a_schema(road: Path) -> None:
    shown = retro("config", "show", str(road), "train.steps=7", "train.warmup_steps=1")
    assert yaml.safe_load(shown.stdout)["train"]["steps"] == 7
    schema = retro("config", "schema")
    assert '"chunk_length"' in schema.stdout


def test_a_chunk_its_neighbors_and_a_sample_can_be_looked_at(road: Path) -> None:
    chunk = retro("inspect", "chunk", "0", str(road))
    assert chunk.returncode == 0, chunk.stderr
    assert "row 0" in chunk.stdout
    assert "16 tokens" in chunk.stdout
    neighbors = retro("inspect", "neighbors", "2", str(road))
    assert "chunk 2 of the train stream" in neighbors.stdout
    assert "own documents: " in neighbors.stdout
    assert neighbors.stdout.count("neighbor 1") == 1
    sample = retro("inspect", "sample", "1", str(road))
    assert all(f"chunk {number} of the train stream" in sample.stdout for number in range(4, 8))
    assert "Most often a neighbor" in retro("inspect", "database", str(road)).stdout


def test_a_database_of_nvidias_tools_is_taken_over(tmp_path: Path) -> None:
    project = FakeProject(tmp_path / "project").build()
    done = retro("import-db", str(project.directory), str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    rows = f"imported: {len(project.train)} train, {len(project.valid)} valid chunks"
    assert done.stdout == f"{rows}; go on with: retro index {tmp_path}/run/run.yaml\n"
    assert "db: already complete" in retro("db", f"{tmp_path}/run/run.yaml").stderr


def test_a_refused_import_leaves_nothing_of_a_new_run_and_all_of_another(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/notes.txt").write_text("mine")
    for name in ("new", "old"):
        assert "config.json: is missing" in refused("import-db", str(tmp_path / "absent"), str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old/notes.txt").read_text() == "mine"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["config", "schema"], ["tasks"]])
def test_standard_output_on_a_full_disk_is_named(
    arguments: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "retro", *arguments]
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert found.returncode == 2
    assert found.stderr.startswith("retro: standard output: could not be written (no space left); ")
    assert found.stderr.count("\n") == 1


def test_samples_become_a_page(road: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = retro("inspect", "sample", "1", str(road), "--html", str(page), "--samples", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"page: {page}\n"
    assert page.read_text(encoding="utf-8").count('class="sample"') == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chunk", "100000"], "chunk = 100000: needs a number from 0 to"),
        (["neighbors", "100000"], "neighbors = 100000: needs a number from 0 to"),
        (["sample", "100000"], "sample = 100000: needs a number from 0 to"),
        (["chunks", "1"], "is not a view; did you mean 'chunk'"),
        (["chunk", "1", "--split", "dev"], "--split = 'dev': is not a split"),
        (["chunk", "1", "--source", "3"], "--source = 3: needs a number from 0 to 0"),
    ],
)
def test_what_is_not_there_to_look_at_is_said(road: Path, arguments: list[str], words: str) -> None:
    assert words in refused("inspect", *arguments[:2], str(road), *arguments[2:])


def test_a_recall_asked_for_reaches_the_index_stage(road: Path) -> None:
    assert "target_recall was 0.95, now 0.5" in refused("index", str(road), "--target-recall", "0.5")
    assert "index.target_recall = 2" in refused("index", str(road), "--target-recall", "2")


def test_a_model_is_planned_unless_a_database_is_named() -> None:
    model = retro("plan", "--size", "843m", "--gpus", "8", "--json")
    assert json.loads(model.stdout)["size"] == "843m"
    assert retro("plan", "model", "--size", "843m", "--gpus", "8", "--json").stdout == model.stdout
    database = retro("plan", "db", "--tokens", "1b", "--chunk", "32", "--json")
    assert json.loads(database.stdout)["chunk_length"] == 32
    assert "  db  " in retro("plan", "--help").stdout


def test_help_and_version_cost_no_heavy_import() -> None:
    assert "corpus" in retro("--help").stdout
    assert retro("--version").stdout.strip().count(".") == 2
    code = "import sys, retro.cli.main; print([m for m in ('torch', 'megatron', 'faiss', 'h5py') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def contents(run: Path) -> dict[str, bytes]:
    files = (path for path in sorted(run.rglob("*")) if path.is_file() and not {".lock", ".locks"} & set(path.parts))
    return {str(path): path.read_bytes() for path in files}


def test_a_redo_that_is_refused_puts_everything_back(road: Path) -> None:
    before = contents(road.parent / "run")
    assert "/nope.jsonl" in refused("corpus", str(road), "corpus.sources=[{name: text, path: /nope.jsonl}]", "--redo")
    assert "nonsense" in refused("index", str(road), "index.faiss=nonsense", "--redo")
    assert contents(road.parent / "run") == before


def test_a_redo_runs_the_stage_again_and_leaves_nothing_of_the_old(road: Path) -> None:
    run = road.parent / "run"
    found = retro("neighbors", str(road), "neighbors.saved=4", "--redo")
    assert found.returncode == 0, found.stderr
    assert '"saved": 4' in (run / "4_neighbors/manifest.json").read_text()
    assert not list(run.glob(".*before-redo"))


@pytest.mark.parametrize("file", ["1_corpus/text.bin", "2_db/db.h5", "4_neighbors/train.h5"])
def test_a_flipped_byte_is_noticed_before_anything_is_trained_on_it(road: Path, file: str) -> None:
    path = road.parent / "run" / file
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 0x7F]) + data[-8:])
    try:
        message = refused("pretrain", str(road))
    finally:
        path.write_bytes(data)
    assert f"{file}: has SHA-256" in message
    assert "with --redo" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["corpus", "tools/retro/examples/configs/pystdlib.yaml", "run_dir=/dev/null/run"],
            "run_dir = '/dev/null/run': needs a folder that can be written to",
        ),
        (["pretrain", "--dry-run", "model.size=43b", "parallel.tensor=7"], "needs a divisor of model.heads = 64"),
        (["evaluate", "--plain", "/tmp", "--questions", "x.json"], ""),
    ],
)
def test_impossible_places_and_layouts_are_refused(arguments: list[str], words: str) -> None:
    assert words in refused(*arguments)


def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("train: {steps: 3, warmup_steps: 0}\nmodel: {}\ntrain: {lr: 0.1}\n")
    assert "line 3: 'train' occurs twice" in refused("config", "show", str(path))
    path.write_text("train: &a {steps: *a}\n")
    assert "twice.yaml" in refused("config", "show", str(path))


def test_tasks_are_listed() -> None:
    assert "squad2.0" in retro("tasks").stdout


def test_a_sweep_with_a_failed_cell_ends_with_exit_code_1(road: Path) -> None:
    """No checkpoint was trained, so its only cell fails; a mistake in the file is exit code 2 as everywhere."""
    path = road.parent / "sweep.yaml"
    settings = {"run": str(road), "out": str(road.parent / "table"), "checkpoints": {"a": {}}, "tasks": {"qa": {}}}
    path.write_text(yaml.safe_dump(settings))
    found = retro("sweep", str(path))
    assert found.returncode == 1, found.stderr
    assert "a × qa: ArtifactError" in found.stdout
    path.write_text(yaml.safe_dump(settings | {"out": None}))
    assert "sweep.yaml: out = None" in refused("sweep", str(path))


def test_two_runs_are_compared_from_the_command_line(tmp_path: Path) -> None:
    for name, said in (("a", ["ada", "babbage", "x", "y"]), ("b", ["x", "x", "turing", "y"])):
        scored(tmp_path / name, said)
    out = tmp_path / "found.json"
    found = retro("compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json", str(out))
    assert found.returncode == 0, found.stderr
    assert "One alone is right: 3" in found.stdout
    assert len(json.loads(out.read_text())["differ"]) == 3
    assert "holds no scored answers" in refused("compare", str(tmp_path), str(tmp_path / "b"))
