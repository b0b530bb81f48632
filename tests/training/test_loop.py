"""One loop: it learns, resumes with the same losses, accumulates, and stops on a loss that is not a number."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retro.common.config import config_json
from retro.common.errors import ArtifactError, ConfigError, TrainingError
from retro.common.files import read_json, write_json
from retro.training import checkpoint
from retro.training.architecture import require_same_architecture
from retro.training.batch import Batch
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.log import read_log
from retro.training.loop import Result, train
from retro.training.result import INFO
from retro.training.resume_rules import record_run, require_same_run
from retro.training.validation import Validation
from tests.model.tiny import tiny_shape
from tests.training.fake import CycleSource

SETTINGS: dict[str, Any] = {
    "steps": 12, "micro_batch": 4, "global_batch": 8, "lr": 3e-3, "warmup_steps": 2,
    "log_every": 1, "evaluate_every": 6, "evaluate_samples": 8, "save_every": 4, "keep_last": 2,
    "precision": "float32",
}  # fmt: skip


def run(
    out: Path,
    *,
    source: CycleSource | None = None,
    start_from: Path | None = None,
    kernels: str = "auto",
    **settings: Any,
) -> Result:
    # `layers` is the model's number of them here; whose they are is `kernels`.
    of_train = TrainConfig.model_fields.keys() - {"layers"}
    train_settings = {k: v for k, v in settings.items() if k in of_train}
    config = TrainConfig(**(SETTINGS | {"layers": kernels} | train_settings))
    model = {k: v for k, v in settings.items() if k not in of_train}
    held_out = CycleSource()
    return train(
        out=out,
        shape=tiny_shape(**({"init_std": 0.02} | model)),
        config=config,
        layout=ParallelConfig(),
        source=source or CycleSource(),
        validation=Validation(source=held_out, samples=16),
        start_from=start_from,
    )


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_log(out / "log.jsonl") if "loss" in line]


def test_the_loss_falls_and_the_log_holds_every_step(tmp_path: Path) -> None:
    result = run(tmp_path)
    found = losses(tmp_path)
    assert len(found) == 12
    assert found[-1] < found[0]
    assert result.valid_loss is not None
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl") if "valid_loss" in line] == [6, 12]
    assert [path.name for path in checkpoint.complete(tmp_path / "checkpoints")] == ["step_00000008", "step_00000012"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_stopped_run_goes_on_with_the_same_losses(tmp_path: Path, precision: str, dropout: float) -> None:
    settings: dict[str, Any] = {"precision": precision, "dropout": dropout, "encoder_dropout": dropout}
    unbroken = run(tmp_path / "unbroken", **settings)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", source=CycleSource(broken_after=48), **settings)
    assert len(losses(tmp_path / "broken")) == 6  # steps 5 and 6 came after the checkpoint of step 4
    resumed = run(tmp_path / "broken", **settings)
    assert losses(tmp_path / "broken") == losses(tmp_path / "unbroken")
    assert resumed.weights_sha256 == unbroken.weights_sha256
    assert resumed.final_loss == unbroken.final_loss


def test_accumulating_micro_batches_gives_the_same_losses(tmp_path: Path) -> None:
    run(tmp_path / "one", micro_batch=8)
    run(tmp_path / "four", micro_batch=2)
    np.testing.assert_allclose(losses(tmp_path / "one"), losses(tmp_path / "four"), rtol=2e-5)


@pytest.mark.parametrize("recompute", ["selective", "full"])
@pytest.mark.parametrize("shape", [{}, {"retrieval": False}, {"bias": True, "activation": "swiglu"}])
def test_recomputing_activations_changes_no_loss(tmp_path: Path, shape: dict[str, Any], recompute: str) -> None:
    settings: dict[str, Any] = {"dropout": 0.1, "encoder_dropout": 0.1, "steps": 4} | shape
    run(tmp_path / "kept", **settings)
    run(tmp_path / "recomputed", recompute=recompute, **settings)
    assert losses(tmp_path / "recomputed") == losses(tmp_path / "kept")


def test_samples_are_asked_for_once_in_order(tmp_path: Path) -> None:
    source = CycleSource()
    run(tmp_path, source=source)
    assert source.asked == list(range(12 * 8))


def test_the_log_says_how_long_steps_waited_for_their_samples(tmp_path: Path) -> None:
    class Slow(CycleSource):
        def fetch(self, sample_numbers: NDArray[np.int64]) -> Batch:
            time.sleep(0.02)
            return super().fetch(sample_numbers)

    result = run(tmp_path, source=Slow(), steps=4)
    waited = [line["data_wait_s"] for line in read_log(tmp_path / "log.jsonl") if "loss" in line]
    assert len(waited) == 4
    # Nothing could be computed while the first step's samples were read.
    assert waited[0] >= 0.02
    assert result.data_wait_seconds == pytest.approx(sum(waited), abs=0.002)


def test_the_learning_rate_warms_up_and_decays_to_its_minimum(tmp_path: Path) -> None:
    run(tmp_path, schedule="linear")
    rates = [line["lr"] for line in read_log(tmp_path / "log.jsonl") if "lr" in line]
    assert rates[:2] == [1.5e-3, 3e-3]
    assert rates[-1] == pytest.approx(3e-4)
    assert rates[6] == pytest.approx(3e-3 - (3e-3 - 3e-4) * 5 / 10)


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step \d+: the loss is (nan|inf) .* lower train.lr"):
        run(tmp_path, lr=1e30, save_every=1, warmup_steps=0)
    kept = checkpoint.complete(tmp_path / "checkpoints")
    assert kept
    assert checkpoint.read_info(kept[-1]).step == len(losses(tmp_path))


def test_a_batch_that_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="global_batch = 6: needs a multiple of micro_batch = 4"):
        TrainConfig(**(SETTINGS | {"global_batch": 6}))


def test_retro_starts_from_a_gpt_and_computes_the_same_at_step_zero(tmp_path: Path) -> None:
    run(tmp_path / "gpt", retrieval=False)
    gpt, _ = checkpoint.load_model(tmp_path / "gpt")
    run(tmp_path / "retro", start_from=tmp_path / "gpt", gate="learned", steps=3, lr=1e-30)
    retro, _ = checkpoint.load_model(tmp_path / "retro")
    theirs = dict(gpt.named_parameters())
    ours = dict(retro.named_parameters())
    for name, value in theirs.items():
        assert np.allclose(ours[name].detach().numpy(), value.detach().numpy(), atol=1e-7), name
    assert len(ours) > len(theirs)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("hidden_size", 32, "model.hidden_size is 16 there, 32 here"),
        ("layers", 4, "model.layers is 3 there, 4 here"),
        ("activation", "swiglu", "model.activation is 'gelu' there, 'swiglu' here"),
        ("normalization", "RMSNorm", "model.normalization is 'LayerNorm' there, 'RMSNorm' here"),
    ],
)
def test_starting_from_another_architecture_names_the_difference(
    tmp_path: Path, setting: str, value: Any, words: str
) -> None:
    run(tmp_path / "gpt", retrieval=False, steps=4)
    with pytest.raises(TrainingError, match=words):
        run(tmp_path / "retro", start_from=tmp_path / "gpt", **{setting: value})


def test_a_checkpoint_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    run(tmp_path, steps=4)
    info = checkpoint.read_info(checkpoint.find(tmp_path))
    with pytest.raises(TrainingError, match="tokens in the tokenizer is 50 there, 60 here"):
        require_same_architecture(info.path, info.shape, info.shape.model_copy(update={"vocabulary": 60}))


def test_a_flipped_byte_in_a_checkpoint_is_named(tmp_path: Path) -> None:
    run(tmp_path, steps=4)
    path = checkpoint.find(tmp_path)
    file = next(iter(sorted(path.glob("*.distcp"))))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{file.name}: has other bytes than were written"):
        checkpoint.load_model(tmp_path)


def test_a_checkpoint_that_was_cut_short_is_not_found(tmp_path: Path) -> None:
    run(tmp_path, steps=8)
    (checkpoint.complete(tmp_path / "checkpoints")[-1] / INFO).unlink()
    assert checkpoint.find(tmp_path).name == "step_00000004"
    with pytest.raises(ArtifactError, match="holds no complete checkpoint"):
        checkpoint.find(tmp_path / "nowhere")


def test_settings_that_trained_nothing_are_replaced_and_others_are_kept(tmp_path: Path) -> None:
    def check(seed: int) -> None:
        require_same_run(tmp_path, {"train": {"seed": seed}}, TrainConfig(steps=4), "train")

    record_run(tmp_path, {"train": {"seed": 3}})
    check(4)
    record_run(tmp_path, {"train": {"seed": 4}})
    run(tmp_path, steps=4)
    with pytest.raises(ArtifactError, match=r"train.seed was 4, now 8\. Use another run_dir, or go on"):
        check(8)
    check(4)


def test_checkpoints_of_every_so_many_steps_are_kept_beside_the_newest(tmp_path: Path) -> None:
    run(tmp_path, save_every=2, keep_last=2, keep_every=4)
    kept = [path.name for path in checkpoint.complete(tmp_path / "checkpoints")]
    assert kept == ["step_00000004", "step_00000008", "step_00000010", "step_00000012"]


def test_how_the_work_is_done_may_change_in_a_run_and_what_is_trained_may_not(tmp_path: Path) -> None:
    other: dict[str, Any] = {"micro_batch": 2, "recompute": "full", "layers": "local", "keep_last": 9}
    other |= {"async_save": True, "reading": "random"}
    record_run(tmp_path, {"train": config_json(TrainConfig())})
    run(tmp_path, steps=4)
    require_same_run(tmp_path, {"train": config_json(TrainConfig(**other))}, TrainConfig(), "train")
    with pytest.raises(ArtifactError, match=r"train.lr was 0.0006, now 0.1\. Use another run_dir"):
        require_same_run(tmp_path, {"train": config_json(TrainConfig(lr=0.1))}, TrainConfig(), "train")


def test_a_checkpoint_that_was_moved_away_or_copied_is_not_the_newest(tmp_path: Path) -> None:
    run(tmp_path, steps=8)
    folder = tmp_path / "checkpoints"
    (folder / "step_00000008").rename(folder / "step_00000008.bad")
    shutil.copytree(folder / "step_00000004", folder / "step_backup")
    assert [path.name for path in checkpoint.complete(folder)] == ["step_00000004"]
    run(tmp_path, steps=8, keep_every=4)
    assert checkpoint.find(tmp_path).name == "step_00000008"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"files": "x"}, r"checkpoint\.json: does not describe a checkpoint \(.*\)\. Move its directory away"),
        ({"shape": {"model": {"heads": -1}}}, r"checkpoint\.json: does not describe .* \(ModelShape\.model\.heads"),
    ],
)
def test_a_damaged_description_names_its_file(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    run(tmp_path, steps=4)
    file = checkpoint.find(tmp_path) / INFO
    write_json(file, read_json(file, "") | change)
    with pytest.raises(ArtifactError, match=words):
        checkpoint.read_info(file.parent)
