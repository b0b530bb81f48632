"""Training end to end: kills, checkpoints, what is saved, what is refused."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.errors import ArtifactError, ConfigError, DataError, TrainingError
from retro.common.files import sha256_file
from retro.recipes.dense_retriever.data.pair_split import Split
from retro.recipes.dense_retriever.pairs import Pair, PairPassage
from retro.recipes.dense_retriever.same_question import HeldOut
from retro.recipes.dense_retriever.training import train
from retro.recipes.dense_retriever.training.batches import plan_batches
from retro.recipes.dense_retriever.training.config import StartConfig
from retro.recipes.dense_retriever.training.saved_model import embedder_of
from retro.recipes.dense_retriever.training.starting_model import open_folder
from retro.recipes.passages.layouts import Passage
from retro.recipes.passages.passages import Passages
from tests.index.models import roberta_folder
from tests.recipes.dense_retriever.fact_world import World, make_world
from tests.recipes.dense_retriever.runs import TINY, do

SMALL: dict[str, Any] = {
    "start": TINY.model_dump(mode="json")
    | {"tiny": {"hidden": 16, "layers": 1, "heads": 2, "vocabulary": 500, "max_tokens": 16, "dropout": 0.1}},
    "batch_size": 4, "steps": 8, "checkpoint_every": 3, "evaluate_every": 3, "learning_rate": 1e-3, "collapse": 0,
    "precision": "float32",
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "info_nce": {"negatives": 1, "hard_share": 0.5, "label_smoothing": 0.1},
    "plateau": {
        "schedule": "plateau", "plateau": {"patience": 0, "cooldown": 0, "metric": "top1"}, "keep": "best",
        "cached": 2,
    },
    "vicreg": {"objective": "vicreg", "vicreg": {"expander": [8, 8]}},
    "moco": {"objective": "moco", "moco": {"queue": 10, "momentum": 0.5}},
}  # fmt: skip


@pytest.fixture(scope="module")
def small_world() -> World:
    return make_world(entities=6, relations=4, held_out=6, fillers=4)


def with_negatives(world: World) -> World:
    """Each pair with a hard negative: the passage of the pair after it."""
    others = [*world.train[1:], world.train[0]]
    pairs = [
        Pair(**{**vars(one), "negatives": (other.positive,)}) for one, other in zip(world.train, others, strict=True)
    ]
    return World(train=pairs, valid=world.valid)


def write(world: World, home: Path) -> Path:
    world.write(home / "recipe_toy")
    return home


def outcome(home: Path, step: str = "train") -> tuple[str, str]:
    folder = home / "recipe_toy" / step
    return sha256_file(folder / "model" / "model.safetensors"), (folder / "curve.jsonl").read_text()


@pytest.mark.parametrize("name", ["roberta", "no_modules"])
def test_a_start_of_fewer_positions_than_rows_of_them_is_trained_at_its_full_length(name: str, tmp_path: Path) -> None:
    folder = roberta_folder(tmp_path / name)
    if name == "no_modules":
        (folder / "modules.json").unlink()
    model = open_folder(folder, StartConfig(model=str(folder), max_tokens=64))
    assert model.max_seq_length == 32
    assert np.isfinite(model.encode(["the " * 90])).all()


def killed(home: Path, step: str, sections: dict[str, Any], after: int) -> int:
    """Run a step in a process of its own that kills itself by SIGKILL right behind a step of training.

    Forked from a fresh process: this one may hold a group of processes whose threads a fork does not have.
    """
    clean = multiprocessing.get_context("forkserver")
    clean.set_forkserver_preload([f"{train.__name__.rpartition('.')[0]}.trainer", __name__])
    process = clean.Process(target=until_killed, args=(home, step, sections, after))
    process.start()
    process.join(300)
    assert process.exitcode is not None, "it neither ends nor is killed"
    return process.exitcode


def until_killed(home: Path, step: str, sections: dict[str, Any], after: int) -> None:
    from retro.recipes.dense_retriever.training import trainer

    own = trainer.StepWatch.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        own(self, args, state, control, **more)
        if state.global_step == after:
            os.kill(os.getpid(), signal.SIGKILL)

    trainer.StepWatch.on_step_end = on_step_end  # type: ignore[method-assign]
    do(home, step, **sections)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_is_killed_ends_in_the_same_bytes(kind: str, small_world: World, tmp_path: Path) -> None:
    world = with_negatives(small_world)
    sections = {"train": SMALL | KINDS[kind]}
    do(write(world, tmp_path / "whole"), "train", **sections)
    home = write(world, tmp_path / "killed")
    # Before the first checkpoint, and between two.
    assert killed(home, "train", sections, 2) == -signal.SIGKILL
    assert not list((home / "recipe_toy/train/checkpoints").glob("checkpoint-*"))
    assert killed(home, "train", sections, 5) == -signal.SIGKILL
    assert (home / "recipe_toy/train/checkpoints/checkpoint-3/checkpoint.json").exists()
    do(home, "train", **sections)
    assert outcome(home) == outcome(tmp_path / "whole")
    assert not (home / "recipe_toy/train/checkpoints").exists()


def interrupted(world: World, home: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Path:
    """A training that stopped behind step 5; gives its newest checkpoint."""
    from retro.recipes.dense_retriever.training import trainer

    class StopError(Exception):
        pass

    own = trainer.StepWatch.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        own(self, args, state, control, **more)
        if state.global_step == 5:
            raise StopError

    with monkeypatch.context() as patched:
        patched.setattr(trainer.StepWatch, "on_step_end", on_step_end)
        with pytest.raises(StopError):
            do(write(world, home), "train", train=SMALL | changes)
    return home / "recipe_toy/train/checkpoints/checkpoint-3"


def test_a_checkpoint_that_was_cut_short_is_not_gone_on_from(
    small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    do(write(small_world, tmp_path / "whole"), "train", train=SMALL)
    checkpoint = interrupted(small_world, tmp_path / "cut", monkeypatch)
    (checkpoint / "checkpoint.json").unlink()
    (checkpoint / "optimizer.pt").write_bytes(b"half")
    do(tmp_path / "cut", "train", train=SMALL)
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "weights.safetensors", "trainer_state.json"])
def test_a_checkpoint_with_other_bytes_is_refused_before_it_is_read(
    name: str, small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = interrupted(small_world, tmp_path, monkeypatch)
    data = bytearray((checkpoint / name).read_bytes())
    data[len(data) // 2] ^= 1
    (checkpoint / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{name}: has SHA-256"):
        do(tmp_path, "train", train=SMALL)


def test_a_checkpoint_of_other_settings_is_not_gone_on_from(
    small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = SMALL | {"learning_rate": 2e-3}
    do(write(small_world, tmp_path / "whole"), "train", train=changed)
    interrupted(small_world, tmp_path / "begun", monkeypatch)
    do(tmp_path / "begun", "train", train=changed)
    assert outcome(tmp_path / "begun") == outcome(tmp_path / "whole")


def test_a_finished_step_that_lost_only_its_manifest_trains_no_more(small_world: World, tmp_path: Path) -> None:
    first = do(write(small_world, tmp_path), "train", train=SMALL)
    before = (tmp_path / "recipe_toy/train/model/model.safetensors").stat().st_mtime_ns
    again = do(tmp_path, "train", train=SMALL)
    assert (again.files, again.counts) == (first.files, first.counts)
    assert (tmp_path / "recipe_toy/train/model/model.safetensors").stat().st_mtime_ns == before


def test_checkpoints_are_read_without_building_objects() -> None:
    # What transformers loads beside our safetensors; the states of random generators are not read at all.
    import inspect

    from transformers import Trainer

    text = inspect.getsource(Trainer._load_optimizer_and_scheduler)
    assert text.count("torch.load(") == text.count("weights_only=True")


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_saved_model_is_an_embedder_that_compares_as_it_was_trained(
    similarity: str, small_world: World, tmp_path: Path
) -> None:
    import numpy as np

    from retro.index.embedder import EMBEDDERS

    start = SMALL["start"] | {"similarity": similarity, "query_prefix": "ask: ", "passage_prefix": "say: "}
    made = do(write(small_world, tmp_path), "train", train=SMALL | {"start": start})
    config = embedder_of(tmp_path / "recipe_toy/train", precision="float32")
    assert (config.normalize, config.query_prefix, config.passage_prefix) == (similarity == "cosine", "ask: ", "say: ")
    embedder = EMBEDDERS.find(config.kind, "kind").open(config, tmp_path)
    pairs = small_world.valid
    questions = embedder.embed_queries([one.question for one in pairs])
    passages = embedder.embed_passages([one.positive.text for one in pairs])
    lengths = np.linalg.norm(passages, axis=1)
    assert np.allclose(lengths, 1) == (similarity == "cosine")
    scores = questions @ passages.T
    top1 = float(np.mean([scores[n, n] >= row.max() for n, row in enumerate(scores)]))
    assert top1 == pytest.approx(made.report["eval_top1"], abs=1e-6)
    card = (tmp_path / "recipe_toy/train/model/README.md").read_text()
    assert f"| similarity | {similarity} |" in card and "'ask: '" in card


def test_a_model_that_was_exchanged_is_no_longer_that_of_its_description(small_world: World, tmp_path: Path) -> None:
    do(write(small_world, tmp_path), "train", train=SMALL)
    folder = tmp_path / "recipe_toy/train"
    with (folder / "model/model.safetensors").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ArtifactError, match=r"other weights than retriever.json says"):
        embedder_of(folder)


def test_adapters_are_merged_into_a_model_that_loads_as_any_other(small_world: World, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    lora = {"rank": 2, "alpha": 4.0}
    made = do(write(small_world, tmp_path), "train", train=SMALL | {"lora": lora})
    assert made.counts["steps"] == 8
    assert not any("adapter" in one.name for one in (tmp_path / "recipe_toy/train/model").iterdir())
    embedder_of(tmp_path / "recipe_toy/train")


def test_adapters_of_layers_that_the_model_has_not_are_refused_with_those_it_has(
    small_world: World, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    with pytest.raises(ConfigError, match=r"train.lora.targets = \('q_proj',\): needs names of linear layers.*dense"):
        do(write(small_world, tmp_path), "train", train=SMALL | {"lora": {"targets": ["q_proj"]}})


def test_pretraining_on_crops_leaves_out_held_out_documents_and_copies(small_world: World, tmp_path: Path) -> None:
    home = write(small_world, tmp_path)
    path = home / "recipe_toy/segments/passages.jsonl"
    extra = {"id": "copy#0", "title": "", "text": small_world.train[0].positive.text}
    path.write_text(path.read_text() + json.dumps(extra) + "\n")
    pretrain = SMALL | {"objective": "moco", "moco": {"queue": 8}}
    made = do(home, "pretrain", pretrain=pretrain)
    expected = {"segments": 18, "held_out_segments": 6, "equal_segments": 1}
    assert {name: made.counts[name] for name in expected} == expected
    first = outcome(home, "pretrain")
    shutil.rmtree(home / "recipe_toy/pretrain")
    assert killed(home, "pretrain", {"pretrain": pretrain}, 5) == -signal.SIGKILL
    do(home, "pretrain", pretrain=pretrain)
    assert outcome(home, "pretrain") == first
    # And training goes on from it.
    do(home, "train", pretrain=pretrain, train={**SMALL, "start": None})
    assert "recipe_toy/pretrain" in (home / "recipe_toy/train/model/README.md").read_text()


def test_pretraining_holds_few_bytes_of_a_segment() -> None:
    class Generated:
        """Passages that are made when they are looked at."""

        def __len__(self) -> int:
            return 20_000

        def at(self, rows: Sequence[int]) -> list[Passage]:
            return [Passage(f"d{row}#0", "", f"text {row % 19_000}") for row in rows]

    passages: Any = Generated()
    tracemalloc.start()
    try:
        valid = Pair(id="v", question="v?", document="d3", positive=PairPassage(id="", text="none"))
        held_out = HeldOut.of([valid], Split(708, 1e-9))
        rows, counts = train._usable(passages, held_out, Path("passages.jsonl"))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert counts == {"segments": 19_000, "held_out_segments": 1, "equal_segments": 999}
    assert list(rows[:4]) == [0, 1, 2, 4]
    assert held < 16 * len(rows)
    # Batches are those that keys of one's own would give.
    plans = [plan_batches(keys, 4, 0) for keys in ([()] * 100, [(row,) for row in range(100)])]
    assert plans[0].rows_SB.tolist() == plans[1].rows_SB.tolist()


def test_pretraining_leaves_out_all_of_the_held_out_side_by_title_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    valid = Pair(id="v", question="v?", document="Kent", positive=PairPassage(id="v-0", text="roses"))
    held_out = HeldOut.of([valid], Split(708, 0.05))
    side = next(f"d{number}" for number in range(200) if held_out.split.part(f"d{number}") == "valid")
    lines = [("w1#0", "Kent", "a"), ("w1#1", side, "b"), (f"{side}#0", "", "c"), ("d4#0", "", "d")]
    path = tmp_path / "passages.jsonl"
    path.write_text("".join(json.dumps({"id": i, "title": title, "text": text}) + "\n" for i, title, text in lines))
    passages = Passages.open(path, tmp_path / "store")
    rows, counts = train._usable(passages, held_out, path)
    assert (list(rows), counts["held_out_segments"]) == ([3], 3)
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
    train._usable(passages, HeldOut.of([], Split(708, 1e-9)), path)
    assert "no segment" in caplog.text


def test_hard_negatives_that_no_pair_has_are_refused(small_world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.negatives = 2: needs hard negatives, and no pair of .* has one"):
        do(write(small_world, tmp_path), "train", train=SMALL | {"negatives": 2})


def test_a_loss_that_is_no_number_stops_the_training(small_world: World, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step \d+: the loss is (nan|inf). Lower learning_rate"):
        do(write(small_world, tmp_path), "train", train=SMALL | {"learning_rate": 1e30, "clip": 0, "warmup_share": 0})


def test_a_model_without_safetensors_is_refused(small_world: World, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(DataError, match=r"only pytorch_model.bin, which can run code.* Give a folder with model.saf"):
        do(write(small_world, tmp_path), "train", train=SMALL | {"start": {"model": str(folder)}})


def test_no_pairs_are_refused(small_world: World, tmp_path: Path) -> None:
    home = write(small_world, tmp_path)
    (home / "recipe_toy/pairs/train.jsonl").write_text("")
    with pytest.raises(DataError, match=r"has no items: it is the pairs of questions and passages"):
        do(home, "train", train=SMALL)


def test_missing_packages_are_named_with_the_extra_that_brings_them(
    small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retro.common.errors import DependencyError

    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(DependencyError, match=r'accelerate: trains a retriever.*pip install "instruct-retro\[retrie'):
        do(write(small_world, tmp_path), "train", train=SMALL)
