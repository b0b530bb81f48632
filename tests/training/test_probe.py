"""The probe of whether retrieval is being learned: the same samples with their own neighbors, others', and none."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.errors import ConfigError
from retro.mcore.engine import Engine
from retro.training import checkpoint
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.init_from import start_from
from retro.training.log import read_log
from retro.training.loop import build_engine, finished_result, train
from retro.training.probe import Probe, ProbeSource
from retro.training.result import read_result, write_result
from retro.training.validation import Validation, mean_loss
from tests.model.tiny import tiny_shape
from tests.training.fake import CycleSource
from tests.training.test_loop import SETTINGS, losses, run

NUMBERS = np.array([0, 5, 9, 13])


def test_none_hides_every_neighbor_and_changes_nothing_else() -> None:
    own = ProbeSource(CycleSource(), NUMBERS, "real").fetch(np.array([1, 2]))
    none = ProbeSource(CycleSource(), NUMBERS, "none").fetch(np.array([1, 2]))
    assert own.neighbor_mask_BLKR is not None
    assert own.neighbor_mask_BLKR.any()
    assert none.neighbor_mask_BLKR is not None
    assert not none.neighbor_mask_BLKR.any()
    assert np.array_equal(none.tokens_BS, own.tokens_BS)
    assert np.array_equal(none.labels_BS, CycleSource().fetch(NUMBERS[[1, 2]]).labels_BS)


def test_shuffled_reads_what_the_sample_half_way_round_reads() -> None:
    source = ProbeSource(CycleSource(), NUMBERS, "shuffled")
    found = source.fetch(np.array([0, 3]))
    alone = source.fetch(np.array([3]))
    theirs = CycleSource().fetch(np.array([9, 5]))  # 0 -> 2 -> number 9, 3 -> 1 -> number 5
    np.testing.assert_equal(found.neighbors_BLKR, theirs.neighbors_BLKR)
    np.testing.assert_equal(found.neighbor_mask_BLKR, theirs.neighbor_mask_BLKR)
    assert np.array_equal(found.tokens_BS, CycleSource().fetch(np.array([0, 13])).tokens_BS)
    # A sample is given the same whatever it comes with.
    assert found.neighbors_BLKR is not None
    np.testing.assert_equal(alone.neighbors_BLKR, found.neighbors_BLKR[1:])


@pytest.mark.parametrize("form", ["ragged", "packed"])
def test_shuffled_reads_at_the_same_places_whatever_the_samples_are(form: str) -> None:
    source = CycleSource(ragged=form == "ragged", packed=form == "packed")
    own = source.fetch(NUMBERS[[0, 1]])
    found = ProbeSource(source, NUMBERS, "shuffled").fetch(np.array([0, 1]))
    assert own.neighbor_mask_BLKR is not None
    assert found.neighbor_mask_BLKR is not None
    reads = own.neighbor_mask_BLKR.any(axis=(2, 3))
    assert reads.any()
    assert np.array_equal(found.neighbor_mask_BLKR.any(axis=(2, 3)), reads)
    assert str(found.neighbors_BLKR) != str(own.neighbors_BLKR)


def test_every_probe_is_in_the_log_the_result_and_one_line_for_people(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="retro.training.probe"):
        result = run(tmp_path, probe_every=5, probe_samples=4, gate="learned", gate_init=0.25)
    assert [probe["step"] for probe in result.probes] == [5, 10, 12]
    names = {"step", "probe_real", "probe_shuffled", "probe_none", "gate_layer_2", "gate_layer_3"}
    assert all(probe.keys() == names for probe in result.probes)
    lines = [line for line in read_log(tmp_path / "log.jsonl") if "probe_real" in line]
    assert [line["gate_layer_2"] for line in lines] == [probe["gate_layer_2"] for probe in result.probes]
    said = [record.message for record in caplog.records if record.name == "retro.training.probe"]
    assert [message[:6] for message in said] == ["step 5", "step 1", "step 1"]
    last = result.probes[-1]
    gap = last["probe_real"] - last["probe_shuffled"]
    assert f"{gap:+.4f} against other chunks'" in said[-1]
    assert f"gates {last['gate_layer_2']:.4f}, {last['gate_layer_3']:.4f}" in said[-1]


def test_a_result_keeps_the_curve(tmp_path: Path) -> None:
    result = run(tmp_path, probe_every=6, probe_samples=4)
    write_result(tmp_path, asdict(result))
    assert finished_result(tmp_path, 12) == result
    assert len(read_result(tmp_path)["probes"]) == 2
    # One that was written before there were probes has none.
    write_result(tmp_path, {name: value for name, value in asdict(result).items() if name != "probes"})
    again = finished_result(tmp_path, 12)
    assert again is not None
    assert again.probes == []


def engine_of(path: Path, config: TrainConfig) -> Engine[Any]:
    engine = build_engine(tiny_shape(init_std=0.02), config, ParallelConfig())
    start_from(engine, tiny_shape(init_std=0.02), path)
    return engine


def test_the_losses_are_those_of_validation_on_the_same_sequences(tmp_path: Path) -> None:
    run(tmp_path)
    config = TrainConfig(**(SETTINGS | {"probe_every": 1, "probe_samples": 16}))
    engine, shape = engine_of(checkpoint.find(tmp_path), config), tiny_shape(init_std=0.02)
    validation = Validation(source=CycleSource(), samples=16)
    found = Probe(shape, config, validation).measure(engine, 12)
    expected, _ = mean_loss(engine.chunks, shape, validation, 16, 4)
    assert found["probe_real"] == pytest.approx(expected, rel=1e-6)
    assert len({round(value, 7) for value in found.values()}) == 3


def test_probing_changes_no_loss_and_a_stopped_run_goes_on_with_its_curve(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain")
    probed = run(tmp_path / "probed", probe_every=4, probe_samples=4)
    assert losses(tmp_path / "probed") == losses(tmp_path / "plain")
    assert probed.weights_sha256 == plain.weights_sha256
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", source=CycleSource(broken_after=72), probe_every=4, probe_samples=4)
    assert run(tmp_path / "broken", probe_every=4, probe_samples=4).probes == probed.probes


@pytest.mark.parametrize("shape", [{"retrieval": False}, {"gate": 0.0}])
def test_a_model_that_reads_nothing_is_not_probed(tmp_path: Path, shape: dict[str, Any]) -> None:
    assert run(tmp_path, probe_every=2, **shape).probes == []


@pytest.mark.parametrize("samples", [None, 1])
def test_without_held_out_text_a_probe_is_refused(tmp_path: Path, samples: int | None) -> None:
    validation = None if samples is None else Validation(source=CycleSource(), samples=samples)
    with pytest.raises(ConfigError, match=r"train\.probe_every = 2: needs .*the validation split has [01]"):
        train(
            out=tmp_path, shape=tiny_shape(), config=TrainConfig(**(SETTINGS | {"probe_every": 2})),
            layout=ParallelConfig(), source=CycleSource(), validation=validation,
        )  # fmt: skip


def test_probes_are_spread_over_the_whole_split() -> None:
    probe = Probe(
        tiny_shape(), TrainConfig(probe_every=1, probe_samples=4), Validation(source=CycleSource(), samples=10)
    )
    numbers = {tuple(one.source.numbers.tolist()) for one in probe._sources.values()}  # type: ignore[attr-defined]
    assert numbers == {(0, 2, 5, 7)}
