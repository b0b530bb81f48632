"""No checkpoint runs code, whatever takes it; and a good one is loaded without any unpickling at all."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from retro.common.artifacts import describe_files
from retro.common.errors import ArtifactError, DataError, RetroError
from retro.common.files import read_json, write_json
from retro.interop.export import export
from retro.model.config import ModelConfig
from retro.model.convert.legacy import LegacyCheckpoint
from retro.training import checkpoint, loop
from retro.training.checkpoint_writer import CheckpointWriter
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.convert import convert, merge
from retro.training.init_from import start_from
from retro.training.loop import build_engine
from retro.training.result import INFO
from tests.mcore.hostile import Evil, infected, payloads
from tests.model.convert.legacy_megatron import GPT, random_weights, write
from tests.model.tiny import tiny_shape
from tests.training.fake import CycleSource

SHAPE = tiny_shape(retrieval=False)
CONFIG = TrainConfig(steps=2, micro_batch=2, global_batch=2, warmup_steps=0, precision="float32")


def engine() -> Any:
    return build_engine(SHAPE, CONFIG, ParallelConfig())


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    CheckpointWriter(engine(), SHAPE, CONFIG, folder).save(1, learned=False)
    return checkpoint.step_directory(folder, 1)


TAKES: dict[str, Callable[[Path, Path], object]] = {
    "generate, ask, serve, evaluate": lambda path, _: checkpoint.load_model(path),
    "export": export,
    "start_from": lambda path, _: start_from(engine(), SHAPE, path),
    "a stopped run": lambda path, _: engine().resume(path),
    "a megatron-core checkpoint": lambda path, out: start_from(engine(), SHAPE, without_description(path, out)),
}


def without_description(path: Path, out: Path) -> Path:
    shutil.copytree(path, out)
    (out / INFO).unlink()
    return out


def in_the_index(path: Path, target: Path) -> None:
    index = path / ".metadata"
    index.write_bytes(infected(index.read_bytes(), payloads(target)["eval through an attribute"]))


def in_a_class_of_the_index(path: Path, target: Path) -> None:
    index = path / ".metadata"
    index.write_bytes(infected(index.read_bytes(), payloads(target)["attributes of a class replaced"]))


def in_a_tensor(path: Path, target: Path) -> None:
    piece = io.BytesIO()
    torch.save(Evil(target), piece)
    # As long as the numbers that it stands for.
    data = piece.getvalue() + bytes(100_000)
    (path / "evil.distcp").write_bytes(data)
    index = pickle.loads((path / ".metadata").read_bytes())  # noqa: S301 - made by this test
    for key, place in index.storage_data.items():
        if key.fqn == "embedding.word_embeddings.weight":
            place.relative_path, place.offset, place.length = "evil.distcp", 0, len(data)
    (path / ".metadata").write_bytes(pickle.dumps(index))


def in_the_common_values(path: Path, target: Path) -> None:
    torch.save({"progress": Evil(target)}, path / "common.pt")


HIDES = [in_the_index, in_a_class_of_the_index, in_a_tensor, in_the_common_values]


def hostile(good: Path, hide: Callable[[Path, Path], None], folder: Path) -> Path:
    """A checkpoint that runs code when it is read without care; its checksums are right."""
    path = folder / "evil"
    shutil.copytree(good, path)
    hide(path, folder / "ran")
    description = read_json(path / INFO, "")
    names = [file.name for file in path.iterdir() if file.name != INFO]
    description["files"] = describe_files(path, names)
    write_json(path / INFO, description)
    return path


@pytest.mark.parametrize("hide", HIDES, ids=lambda hide: hide.__name__)
@pytest.mark.parametrize("taken", TAKES)
def test_no_checkpoint_runs_code(taken: str, hide: Callable[[Path, Path], None], good: Path, tmp_path: Path) -> None:
    path = hostile(good, hide, tmp_path)
    if hide is in_the_common_values and taken != "a stopped run":
        # Only a run that continues looks at them.
        TAKES[taken](path, tmp_path / "out")
    else:
        with pytest.raises(ArtifactError, match="cannot be read"):
            TAKES[taken](path, tmp_path / "out")
        assert not (tmp_path / "out/model.safetensors").exists()
    assert not (tmp_path / "ran").exists()


_unpickled: list[str] = []
_watching: list[bool] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event == "pickle.find_class":
        _unpickled.append(".".join(map(str, arguments)))


@pytest.fixture
def nothing_unpickled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails where anything looks up a class for a pickle, or asks torch to."""

    def no_load(*_: object, **__: object) -> None:
        raise RuntimeError("torch.load was called")

    if not hasattr(sys, "_retro_test_watches"):
        sys.addaudithook(_watch)  # for as long as the process lives
        sys._retro_test_watches = True  # type: ignore[attr-defined]
    monkeypatch.setattr(torch, "load", no_load)
    _unpickled.clear()
    _watching.append(True)
    yield
    _watching.clear()
    assert _unpickled == []


@pytest.mark.parametrize("taken", [*TAKES, "merge", "a legacy checkpoint"])
@pytest.mark.usefixtures("nothing_unpickled")
def test_a_good_checkpoint_is_loaded_without_unpickling(taken: str, good: Path, tmp_path: Path) -> None:
    if taken == "a legacy checkpoint":
        source = LegacyCheckpoint(write(tmp_path / "legacy", GPT, random_weights(GPT), 1))
        assert all(source.read(name).isfinite().all() for name in source.names)
    elif taken == "merge":
        with pytest.raises(RetroError, match="adapters"):
            merge(good, tmp_path / "out")
    else:
        TAKES[taken](good, tmp_path / "out")


def test_the_watch_notices_an_unpickling(nothing_unpickled: None) -> None:
    pickle.loads(pickle.dumps(Path("x")))  # noqa: S301 - made here
    assert _unpickled
    _unpickled.clear()


SIZES: dict[str, tuple[dict[str, Any], str]] = {
    "a hidden size": (
        {"hidden_size": 10**9, "heads": 1, "query_groups": 1},
        r"is \[\d+, 16\] there, \[\d+, 1000000000\]",
    ),
    "layers": ({"layers": 10**12}, "describes a model of 1000000000000 layers and has"),
    "rows of positions": ({"positions": "learned", "sequence_length": 10**12}, "lacks 1 tensors, embedding.position"),
    "a feed-forward width": ({"ffn_hidden_size": 10**10}, r"linear_fc1.weight is \[\d+, 16\] there"),
}


@pytest.mark.parametrize(("settings", "message"), SIZES.values(), ids=SIZES.keys())
def test_sizes_that_are_made_up_are_found_before_a_model_is_built(
    settings: dict[str, Any], message: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(good, tmp_path / "forged")
    description = read_json(good / INFO, "")
    description["shape"]["model"] |= settings
    write_json(tmp_path / "forged" / INFO, description)
    monkeypatch.setattr(checkpoint, "build_stage", None)
    with pytest.raises(ArtifactError, match=message):
        checkpoint.load_model(tmp_path / "forged")


def test_a_legacy_checkpoint_with_code_is_refused_by_all_that_take_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "legacy", GPT, random_weights(GPT), 1)
    torch.save({"args": Evil(tmp_path / "ran")}, folder / "release/mp_rank_00/model_optim_rng.pt")
    with pytest.raises(DataError, match=r"cannot be read safely: it names posix\.system"):
        convert(folder, tmp_path / "out")
    with pytest.raises(DataError, match=r"cannot be read safely: it names posix\.system"):
        start_from(engine(), SHAPE, folder)
    assert not (tmp_path / "ran").exists()


def test_the_made_up_sizes_of_a_folder_are_found_before_a_model_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"model.embed_tokens.weight": torch.zeros(50, 16)}, tmp_path / "model.safetensors")
    config = {"model_type": "llama", "hidden_size": 10**9, "intermediate_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 4, "vocab_size": 50}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(loop, "build_engine", None)
    shape = SHAPE.model_copy(update={"model": ModelConfig(size=str(tmp_path), retrieval=False)})
    with pytest.raises(DataError, match=r"lacks the tensor|is \[50, 16\], its config says \[50, 1000000000\]"):
        loop.train(
            out=tmp_path / "out", shape=shape, config=CONFIG, layout=ParallelConfig(), source=CycleSource(),
            validation=None, start_from=tmp_path,
        )  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**12}))
    with pytest.raises(DataError, match="num_hidden_layers = 1000000000000 is not supported"):
        start_from(engine(), SHAPE, tmp_path)
