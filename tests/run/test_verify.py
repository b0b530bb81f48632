from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from retro.cli.status import run_verification, show_status
from retro.common.artifacts import Manifest, describe_files, read_manifest, write_manifest
from retro.common.errors import ArtifactError, ConfigError, RetroError
from retro.run.config import RunConfig, as_yaml
from retro.run.pipeline import stage
from retro.run.verify import Verification, VerifiedStage
from tests.db.stops import Stopped, flip_byte, stopped_at_rename
from tests.tiny_road import run_stages, small_config


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    config = small_config(tmp_path_factory.mktemp("verify"))
    run_stages(config, "corpus", "db", "index", "neighbors")
    return config


@pytest.fixture
def run(finished: RunConfig, tmp_path: Path) -> RunConfig:
    """A copy to do damage to."""
    shutil.copytree(finished.run_dir, tmp_path / "run")
    return finished.model_copy(update={"run_dir": tmp_path / "run"})


def verified(config: RunConfig, *, repair: bool = False, recompute: float = 0.0) -> VerifiedStage:
    verification = Verification(config, "run.yaml", repair=repair)
    verification.read_all()
    if recompute:
        verification.recompute(recompute, seed=0)
    return verification.found


def test_a_sound_run_has_no_problems_and_comes_out_the_same_again(finished: RunConfig) -> None:
    found = verified(finished, recompute=1.0)
    assert found.problems == []
    manifests = [read_manifest(stage(name).path(finished), name) for name in ("corpus", "db", "index", "neighbors")]
    # And those with a checksum of their own: each stage's manifest, report and blocks, and the tokenizer's record.
    assert found.files == sum(len(manifest.files) for manifest in manifests) + 3 * 4 + 1
    assert found.bytes == sum(file["bytes"] for manifest in manifests for file in manifest.files.values())
    # 60 documents by 20, some chunks by 100, in three streams.
    assert found.recomputed >= 3 + 3 + 3


def test_a_changed_byte_of_a_recipes_step_names_the_command_that_makes_it_again(tmp_path: Path) -> None:
    config = RunConfig(run_dir=tmp_path)
    step = tmp_path / "recipe_tiny" / "label"
    step.mkdir(parents=True)
    (step / "labels.jsonl").write_text("one")
    files = describe_files(step, ["labels.jsonl"])
    write_manifest(step, Manifest(stage="tiny.label", config={}, parents={}, files=files))
    (step / "labels.jsonl").write_text("two")
    (line,) = verified(config).problems
    assert "labels.jsonl: has SHA-256" in line
    assert line.endswith("Run `retro recipe tiny run run.yaml label --redo`")


@pytest.mark.parametrize(
    ("name", "file", "dataset", "block"),
    [
        ("db", "db.h5", "token_start", "block 0 (documents 0 to 19 of text)"),
        ("index", "embeddings.h5", "embeddings", "block 0 (rows 0 to 99)"),
        ("neighbors", "valid.h5", "text/scores", "of the valid stream of text)"),
    ],
)
def test_a_changed_byte_is_found_in_its_block_and_mended(
    run: RunConfig, name: str, file: str, dataset: str, block: str
) -> None:
    path = stage(name).path(run) / file
    before = path.read_bytes()
    flip_byte(path, dataset)
    (line,) = [line for line in verified(run).problems if str(path) in line]
    assert block in line
    assert line.endswith("has changed bytes. Run `retro verify run.yaml --repair`")
    found = verified(run, repair=True)
    assert (found.repaired, found.problems) == (1, [])
    assert path.read_bytes() == before
    assert verified(run).problems == []


def test_damage_in_every_stage_is_mended_in_one_go(run: RunConfig) -> None:
    for name, file, dataset in (("db", "db.h5", "document"), ("index", "embeddings.h5", "embeddings")):
        flip_byte(stage(name).path(run) / file, dataset)
    problems = verified(run).problems
    assert "Fix first what it is made from" in problems[1]
    assert verified(run, repair=True).repaired == 2
    assert verified(run).problems == []


@pytest.mark.parametrize("damage", ["shorten", "remove"])
def test_a_file_that_cannot_be_mended_is_to_be_made_again(run: RunConfig, damage: str) -> None:
    path = stage("db").path(run) / "db.h5"
    content = path.read_bytes()
    path.unlink()
    if damage == "shorten":
        path.write_bytes(content[: len(content) // 2])
    for repair in (False, True):
        assert verified(run, repair=repair).problems[0].endswith("Run `retro db run.yaml --redo`")


def test_a_damaged_faiss_index_is_to_be_made_again(run: RunConfig) -> None:
    path = next(stage("index").path(run).glob("*.faiss"))
    flip_byte(path)
    (line,) = verified(run, repair=True).problems
    assert line.startswith(f"{path}: has SHA-256")
    assert line.endswith("Run `retro index run.yaml --redo`")


def test_a_byte_that_a_failing_disk_changed_is_found(run: RunConfig) -> None:
    path = stage("neighbors").path(run) / "train.h5"
    read_manifest(path.parent, "neighbors")
    status = path.stat()
    flip_byte(path, "text/neighbors")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(verified(run).problems) == 1


def test_rows_that_were_wrong_from_the_start_come_out_otherwise(run: RunConfig) -> None:
    """As after a fault of memory: every checksum is right, the content is not."""
    from retro.common.artifacts import describe_files

    directory = stage("neighbors").path(run)
    manifest = read_manifest(directory, "neighbors")
    flip_byte(directory / "test.h5", "text/scores")
    files = manifest.files | describe_files(directory, ["test.h5"])
    write_manifest(directory, type(manifest)(**vars(manifest) | {"files": files}))
    assert verified(run).problems == []
    (line,) = verified(run, recompute=1.0).problems
    assert "comes out otherwise when it is made again. Run `retro neighbors run.yaml --redo`" in line


def test_blocks_of_an_unfinished_stage_are_read(run: RunConfig) -> None:
    directory = stage("neighbors").path(run)
    shutil.rmtree(directory)
    with pytest.raises(Stopped), stopped_at_rename(6):
        run_stages(run, "neighbors")
    assert verified(run).blocks == 2
    flip_byte(directory / "blocks" / "000001.h5", "neighbors")
    (line,) = verified(run).problems
    assert "000001.h5: has changed bytes (checksum). Run `retro neighbors run.yaml`: it is built again" in line


def test_an_edited_manifest_is_named(run: RunConfig) -> None:
    path = stage("db").path(run) / "manifest.json"
    path.write_text(path.read_text().replace("chunk_length", "chunk_width"))
    assert "was changed after it was written" in verified(run).problems[0]


def test_a_folder_without_a_run_has_nothing_to_verify(run: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no finished stage, and none that was started"):
        verified(run.model_copy(update={"run_dir": tmp_path / "nothing"}))


def test_a_run_is_named_by_its_directory_or_its_config(
    run: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_verification([str(run.run_dir)], share=0.0, repair=False, seed=0)
    assert "all is as it should be" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="needs the run's YAML file"):
        run_verification([str(run.run_dir)], share=0.5, repair=False, seed=0)
    with pytest.raises(ConfigError, match="needs the directory of a run"):
        run_verification([str(tmp_path)], share=0.0, repair=False, seed=0)
    config = tmp_path / "run.yaml"
    config.write_text(as_yaml(run))
    with pytest.raises(ConfigError, match=r"--recompute = 2\.0: needs a share"):
        run_verification([str(config)], share=2.0, repair=False, seed=0)
    with pytest.raises(ConfigError, match="needs one run"):
        run_verification([str(config), str(config)], share=0.0, repair=False, seed=0)
    flip_byte(stage("db").path(run) / "db.h5", "document")
    with pytest.raises(RetroError, match="1 problem, named above"):
        run_verification([str(config)], share=0.0, repair=False, seed=0)
    assert "--repair" in capsys.readouterr().out


def test_a_manifest_that_is_gone_is_missed_by_what_was_made_from_it(run: RunConfig) -> None:
    path = stage("db").path(run) / "manifest.json"
    path.unlink()
    problems = verified(run).problems
    assert len(problems) == 2
    assert all(line.startswith(f"{path}: is missing, and ") and "run `retro db`" in line for line in problems)


def write_stage(directory: Path, name: str, made: dict[str, Any]) -> None:
    """The manifest of a stage that reads a trained model."""
    directory.mkdir(parents=True)
    counts = {"name": "tuned", "result": {}}
    write_manifest(directory, Manifest(stage=name, config=made, parents={}, counts=counts))


ANSWERS = {"generate": {}, "identity": {"checkpoint": "ab"}}
TUNED = {"sft": {}, "checkpoint": ["ab", {"model": {"retrieval": True}}]}
MEASURED = {"checkpoints": {"retro": ["ab", {}]}}


@pytest.mark.parametrize(
    ("child", "made", "missing"),
    [
        ("generate", ANSWERS, "6_sft/manifest.json"),
        ("sft", TUNED, "5_pretrain/retro"),
        ("perplexity", MEASURED, "5_pretrain/retro"),
    ],
)
@pytest.mark.parametrize("is_file", [False, True])
def test_a_trained_model_that_is_gone_is_missed_by_what_was_made_from_it(
    run: RunConfig, child: str, made: dict[str, Any], missing: str, is_file: bool
) -> None:
    directory = stage(child).path(run)
    write_stage(directory, child, made)
    if is_file and not (trained := run.run_dir / missing.split("/")[0]).exists():
        trained.write_text("no folder")
    wanted = f"{run.run_dir / missing}: is missing, and {directory} was made from it. Put it back, or run `retro"
    assert any(line.startswith(wanted) for line in verified(run).problems)


def test_stages_that_were_swapped_are_named_and_status_goes_on(
    run: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    write_stage(stage("generate").path(run), "generate", ANSWERS)
    tuned = stage("sft").path(run)
    write_stage(tuned, "pretrain", {})
    wrong = f"{tuned}/manifest.json: belongs to stage 'pretrain', not 'sft'. Give the right directory"
    assert wrong in verified(run).problems
    show_status([str(run.run_dir)], as_numbers=True)
    found = {one["stage"]: one["state"] for one in json.loads(capsys.readouterr().out)}
    assert (found["sft"], found["generate"]) == ("broken", "stale")


@pytest.mark.parametrize("kind", ["folder", "link to itself", "pipe"])
def test_a_manifest_that_is_no_file_is_named_and_status_goes_on(
    run: RunConfig, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stage("db").path(run) / "manifest.json"
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path.name)
    problems = verified(run).problems
    assert [one for one in problems if "2_db/manifest.json" in str(one)]
    show_status([str(run.run_dir)], as_numbers=True)
    states = [one["state"] for one in json.loads(capsys.readouterr().out)]
    assert states[:2] == ["done", "broken"]


@pytest.mark.parametrize("name", ["2_db/.verified.json", "report.html"])
def test_a_folder_in_the_place_of_a_file_is_named(run: RunConfig, name: str) -> None:
    path = run.run_dir / name
    path.unlink(missing_ok=True)
    path.mkdir()
    (line,) = verified(run).problems
    assert line.startswith(f"{path}: ")
    assert "is a folder, not a file" in line


def test_an_artifact_of_another_parent_is_named(run: RunConfig) -> None:
    shutil.rmtree(stage("db").path(run))
    smaller = run.model_copy(update={"db": run.db.model_copy(update={"chunk_length": 8})})
    run_stages(smaller, "db")
    problems = verified(run).problems
    assert any("3_index/manifest.json: was made from db" in line for line in problems)


def test_swapped_files_are_to_be_made_again(run: RunConfig) -> None:
    directory = stage("neighbors").path(run)
    content = (directory / "train.h5").read_bytes()
    (directory / "train.h5").write_bytes((directory / "test.h5").read_bytes())
    (directory / "test.h5").write_bytes(content)
    problems = verified(run).problems
    assert len(problems) == 2
    assert all(line.endswith("Run `retro neighbors run.yaml --redo`") for line in problems)
