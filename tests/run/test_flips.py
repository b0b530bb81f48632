"""Every byte of a run that a later command reads is covered: a flipped bit anywhere, or a file in another's place, is
found.

`python -m tests.run.test_flips RUN FLIPS` flips that many bits of a finished run's files, one after the other, each
file at least once, and says which were not found.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retro.common.errors import ArtifactError
from retro.run.config import RunConfig
from retro.run.pipeline import STAGES
from retro.run.verify import Verification, VerifiedStage
from retro.training import checkpoint
from retro.training.log import read_log
from tests.tiny_road import run_stages, small_config

NOT_READ = {".lock", ".verified.json"}
"""Empty; and what only spares reading: verify reads all, and a damaged one is made again."""


def verified(run_dir: Path) -> VerifiedStage:
    verification = Verification(RunConfig(run_dir=run_dir), "run.yaml")
    verification.read_all()
    return verification.found


def files_of(run_dir: Path) -> list[Path]:
    return sorted(
        path for path in run_dir.rglob("*") if path.is_file() and path.name not in NOT_READ and path.stat().st_size
    )


def flip(path: Path, bit: int) -> None:
    """Flip one bit of a file; other names of the same file keep what they have."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.unlink()
    path.write_bytes(content)


def not_found(run_dir: Path, flips: int, copy: Path) -> list[str]:
    """Flip bits, one at a time, in turn through all files; gives those that verify is silent about."""
    random, missed, files = np.random.default_rng(0), [], files_of(run_dir)
    for number in range(flips):
        name = files[number % len(files)].relative_to(run_dir)
        bit = int(random.integers((run_dir / name).stat().st_size * 8))
        shutil.copytree(run_dir, copy, copy_function=os.link)
        flip(copy / name, bit)
        if not any(str(copy / name.parent) in problem for problem in verified(copy).problems):
            missed.append(f"{name}: bit {bit}")
        shutil.rmtree(copy)
    return missed


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = small_config(tmp_path_factory.mktemp("flips"), "evaluate.bootstrap_samples=50")
    run_stages(config, *(one.name for one in STAGES))
    return config.run_dir


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to do damage to, by replacing files."""
    shutil.copytree(finished, tmp_path / "run", copy_function=os.link)
    return tmp_path / "run"


def test_a_sound_run_has_no_problem_and_nothing_in_it_is_not_covered(finished: Path) -> None:
    found = verified(finished)
    assert (found.problems, found.not_covered) == ([], [])


def test_a_flipped_bit_in_any_file_is_found(finished: Path, tmp_path: Path) -> None:
    assert not_found(finished, len(files_of(finished)), tmp_path / "copy") == []


@pytest.mark.parametrize("at", [0, -1])
def test_the_first_and_the_last_byte_of_own_files_count(run: Path, finished: Path, at: int) -> None:
    own = [path for path in files_of(finished) if path.name in {"checkpoint.json", "result.json", "log.jsonl"}]
    for path in own:
        name = path.relative_to(finished)
        flip(run / name, (at % path.stat().st_size) * 8)
        assert any(str((run / name).parent) in problem for problem in verified(run).problems), name
        shutil.copyfile(path, run / name)


def the_checkpoints(run: Path) -> list[Path]:
    return checkpoint.complete(run / "5_pretrain/retro/checkpoints")


def swap(a: Path, b: Path) -> None:
    aside = a.with_name("aside")
    a.rename(aside)
    b.rename(a)
    aside.rename(b)


def test_checkpoints_in_the_place_of_each_other_are_found_and_not_read(run: Path) -> None:
    old, new = the_checkpoints(run)
    swap(old, new)
    problems = verified(run).problems
    assert any(f"{old}: is not the checkpoint that" in problem for problem in problems)
    with pytest.raises(ArtifactError, match="is not the checkpoint that"):
        checkpoint.read_info(new)
    (run / "5_pretrain/retro/result.json").unlink()
    # In a run that has not finished, the step itself tells.
    with pytest.raises(ArtifactError, match=r"step_00000006: holds the checkpoint of step 4"):
        checkpoint.read_info(new)


def test_a_checkpoint_of_another_run_is_found_and_not_read(run: Path) -> None:
    new = the_checkpoints(run)[-1]
    (other,) = [path for path in run.glob("6_sft/*/checkpoints/*") if path.name == "step_00000004"]
    shutil.rmtree(new)
    shutil.copytree(other, new)
    said = json.loads((new / "checkpoint.json").read_text())
    assert said["step"] == 4
    with pytest.raises(ArtifactError, match="is not the checkpoint that"):
        checkpoint.load_model(run / "5_pretrain/retro")
    assert any(f"{new}" in problem for problem in verified(run).problems)


def test_a_whole_training_run_in_the_place_of_another_is_found(run: Path) -> None:
    (tuned,) = run.glob("6_sft/retro-*")
    shutil.rmtree(run / "5_pretrain/retro")
    shutil.copytree(tuned, run / "5_pretrain/retro")
    assert any("result.json: says " in problem and "another run's" in problem for problem in verified(run).problems)


@pytest.mark.parametrize(
    "name", ["manifest.json", "checkpoint.json", "result.json", "config.json", "log.jsonl", ".metadata", "common.pt"]
)
def test_a_file_that_is_missing_is_found(run: Path, name: str) -> None:
    paths = sorted(run.rglob(name))
    assert paths
    for path in paths:
        aside = path.rename(path.with_name("aside"))
        problems = verified(run).problems
        assert any(str(path.parent) in problem and "is missing" in problem for problem in problems), path
        aside.rename(path)
    assert verified(run).problems == []


def test_an_older_checkpoint_that_was_removed_for_its_space_is_no_problem_but_the_last_is(run: Path) -> None:
    old, new = the_checkpoints(run)
    shutil.rmtree(old)
    assert verified(run).problems == []
    shutil.rmtree(new)
    assert [f"{new / 'checkpoint.json'}: is missing" in problem for problem in verified(run).problems] == [True]


def without_checksums(run: Path) -> None:
    """As a version without them wrote it, whose checkpoints held no tokenizer either."""
    for folder in run.glob("*/*/checkpoints/*/tokenizer"):
        shutil.rmtree(folder)
    for path in (*run.rglob("*.json"), *run.rglob("log.jsonl")):
        if path.name == "metadata.json":
            continue  # megatron-core's
        texts = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        values = [json.loads(text) for text in texts]
        for value in values:
            value.pop("checksum", None)
            if path.name == "checkpoint.json":
                value["files"] = {name: one for name, one in value["files"].items() if "/" not in name}
            if path.name == "result.json":
                value.pop("files", None)
        dump: Callable[[object], str] = json.dumps if path.suffix == ".jsonl" else lambda one: json.dumps(one, indent=2)
        path.unlink()
        path.write_text("".join(f"{dump(value)}\n" for value in values))


def test_a_run_of_an_older_version_is_read_and_said_not_to_be_covered(run: Path) -> None:
    for folder in ("1_corpus", "2_db", "3_index", "4_neighbors", "5_pretrain/perplexity", "7_generate", "8_evaluate"):
        shutil.rmtree(run / folder)  # their manifests list files, whose bytes are others now
    without_checksums(run)
    found = verified(run)
    assert all("is missing, and" in problem for problem in found.problems)  # the parents that were removed above
    names = {path.name for path in found.not_covered}
    assert names == {"manifest.json", "report.json", "checkpoint.json", "config.json", "result.json", "log.jsonl"}
    model, info = checkpoint.load_model(run / "5_pretrain/retro")
    assert info.step == 6
    assert model.training is False
    assert read_log(run / "5_pretrain/retro/log.jsonl")[-1]["step"] == 6


def test_a_damaged_line_of_a_log_is_named(run: Path) -> None:
    path = run / "5_pretrain/retro/log.jsonl"
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace('"step": 3', '"step": 2'))
    with pytest.raises(ArtifactError, match=r"log\.jsonl: line 2 was changed after it was written"):
        read_log(path)


if __name__ == "__main__":
    run_dir, flips = Path(sys.argv[1]), int(sys.argv[2])
    lost = not_found(run_dir, flips, run_dir.with_name(f"{run_dir.name}-copy"))
    print(f"{len(files_of(run_dir))} files, {flips} flips, {flips - len(lost)} found")
    print("\n".join(lost))
