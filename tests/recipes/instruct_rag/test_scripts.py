"""The scripts with the original's names print the commands that they end in; a batch that cannot be is refused."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from retro.recipes.base import RECIPES, recipe_settings
from retro.recipes.instruct_rag.config import InstructRagConfig
from retro.recipes.instruct_rag.sets import checkpoint_table, find_checkpoint, find_set
from retro.run.config import RunConfig, load_run_config

ROOT = Path(__file__).parents[3]
SCRIPTS = ROOT / "tools/retro/recipes/instruct_rag"
CONFIG = ROOT / "retro/recipes/instruct_rag/config.yaml"
MULTIPLE = "needs a multiple of NUM_DEVICE x PER_DEVICE_BATCH_SIZE"
NAMES = ("CONFIG", "DATASET", "MODEL", "NUM_DEVICE", "PER_DEVICE_BATCH_SIZE", "GLOBAL_BATCH")


def call(script: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in NAMES}
    environment = kept | {"RETRO_PRINT_ONLY": "1", "CONFIG": str(CONFIG)} | variables
    command = ["bash", str(SCRIPTS / script), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def settings(line: str) -> tuple[RunConfig, InstructRagConfig]:
    """What the command line does with a printed command."""
    words = [word for word in shlex.split(line) if "=" in word]
    config = load_run_config(CONFIG, words)
    found = recipe_settings(config, RECIPES.find("instruct_rag", "recipe"))
    assert isinstance(found, InstructRagConfig)
    return config, found


def test_rationales_come_with_the_steps_before_them() -> None:
    done = call("generate_rationale.sh", "run_dir=runs/x", DATASET="TriviaQA")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert shlex.split(line)[:7] == ["retro", "recipe", "instruct_rag", "run", str(CONFIG), "rationales", "--until"]
    config, found = settings(line)
    assert (config.run_dir, found.set) == (Path("runs/x"), "TriviaQA")
    assert find_set(found.set, None).task == "tqa"


def test_the_published_batch_is_accumulated_over_the_devices() -> None:
    done = call("train.sh", DATASET="PopQA", NUM_DEVICE="4", PER_DEVICE_BATCH_SIZE="2")
    said, command = done.stdout.splitlines()
    assert said == "global batch 128 = 4 devices x 2 x 16 steps of accumulation"
    assert shlex.split(command)[:5] == ["torchrun", "--nproc-per-node", "4", "-m", "retro"]
    _, found = settings(command)
    assert (found.tune.train.micro_batch, found.tune.train.global_batch, found.tune.train.lr) == (2, 128, 2.5e-5)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NUM_DEVICE": "3"}, f"GLOBAL_BATCH is 128, {MULTIPLE} = 3, such as 126"),
        ({"GLOBAL_BATCH": "2"}, f"GLOBAL_BATCH is 2, {MULTIPLE} = 4, such as 4"),
        ({"PER_DEVICE_BATCH_SIZE": "0"}, "PER_DEVICE_BATCH_SIZE is '0', needs a whole number above 0"),
        ({"CONFIG": ""}, "CONFIG is not set; give the YAML file of a run, CONFIG=run.yaml"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(variables: dict[str, str], message: str) -> None:
    done = call("train.sh", **variables)
    assert (done.returncode, done.stderr) == (2, f"train.sh: {message}\n")


def test_evaluation_is_of_the_model_that_is_named(tmp_path: Path) -> None:
    done = call("eval.sh", MODEL=str(tmp_path))
    (line,) = done.stdout.splitlines()
    assert shlex.split(line)[5:7] == ["scores", "--until"]
    _, found = settings(line)
    assert not found.tunes
    assert find_checkpoint(found.checkpoint, None) == tmp_path


def test_a_table_of_one_s_own_adds_models_and_sets(tmp_path: Path) -> None:
    (tmp_path / "popqa-bm25").mkdir()
    table = tmp_path / "models.yaml"
    table.write_text(yaml.safe_dump({"popqa": {"bm25": "popqa-bm25"}}))
    assert find_checkpoint("popqa/bm25", table) == tmp_path / "popqa-bm25"
    assert ("popqa", "bm25", "popqa-bm25") in checkpoint_table(table)
    assert ("nq", "dpr", "meng-lab/NaturalQuestions-InstructRAG-FT") in checkpoint_table(table)
    sets = tmp_path / "sets.yaml"
    sets.write_text(yaml.safe_dump({"mine": {"task": "hotpotqa", "documents": 7}}))
    assert find_set("mine", sets).documents == 7
    assert find_set("2wiki", sets).documents == 10


def test_the_environment_file_installs_what_the_quickstart_needs() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    [packages] = [one["pip"] for one in environment["dependencies"] if isinstance(one, dict)]
    torch = (ROOT / "locks" / "torch.txt").read_text().strip()
    assert torch.partition("+")[0] in packages
    assert "--editable .[quickstart]" in packages
