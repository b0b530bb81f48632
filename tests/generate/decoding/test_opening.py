"""A checkpoint becomes a decoder, or it is said what is in the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from retro.common.errors import ArtifactError, ConfigError
from retro.generate.loading import open_decoder
from retro.generate.request import Extension
from retro.training import checkpoint
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.loop import train
from tests.generate.decoding.recompute import RecomputeDecoder
from tests.generate.decoding.scripts import neighbors, tokens
from tests.model.tiny import CHUNK, VOCABULARY, tiny_shape
from tests.training.fake import CycleSource


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage directory with a checkpoint of one step."""
    out = tmp_path_factory.mktemp("trained")
    config = TrainConfig(steps=1, warmup_steps=0, micro_batch=2, global_batch=2, precision="float32")
    train(
        out=out,
        shape=tiny_shape(),
        config=config,
        layout=ParallelConfig(),
        source=CycleSource(),
        validation=None,
        start_from=None,
    )
    return out


def test_a_checkpoint_decodes_as_the_model_that_was_saved(trained: Path) -> None:
    decoder = open_decoder(trained, ParallelConfig(), 3)
    assert (decoder.ends, decoder.vocabulary, decoder.sequence_length) == ((3,), VOCABULARY, 32)
    assert (decoder.chunk_length, decoder.neighbors, decoder.retrieved_length) == (CHUNK, 2, 2 * CHUNK)
    assert decoder.reads_neighbors
    random = np.random.default_rng(1)
    given = [tokens(random, 7)], {2: neighbors(random), 6: neighbors(random)}
    truth = RecomputeDecoder(checkpoint.load_model(trained)[0])
    expected = truth.extend([Extension(truth.open(), given[0][0], given[1])])
    found = decoder.extend([Extension(decoder.open(), given[0][0], given[1])])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_settings_of_training_that_mean_nothing_here_are_ignored(trained: Path) -> None:
    ignored = ParallelConfig(distributed_optimizer=True)
    one, other = (open_decoder(trained, layout, 0) for layout in (ParallelConfig(), ignored))
    extensions = [Extension(0, [1, 2, 3])]
    assert one.open() == other.open() == 0
    assert torch.equal(one.extend(extensions), other.extend(extensions))


def test_stages_that_take_turns_are_refused(trained: Path) -> None:
    with pytest.raises(ConfigError, match=r"parallel\.virtual_pipeline = 2: needs 1 while generating"):
        open_decoder(trained, ParallelConfig(pipeline=2, virtual_pipeline=2), 0)


def test_copies_of_a_model_are_refused_with_what_to_do_instead(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"leaves 2 copies of the model.*Start 2 processes.*generate\.start"):
        open_decoder(trained, ParallelConfig(tensor=2), 0)


def test_too_few_processes_are_refused(trained: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs a multiple of tensor x pipeline = 2 x 1 processes, 1 were started"):
        open_decoder(trained, ParallelConfig(tensor=2), 0)


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no complete checkpoint"):
        open_decoder(tmp_path, ParallelConfig(), 0)


def test_a_damaged_checkpoint_is_refused(trained: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy")
    found = checkpoint.find(copy)
    name = next(iter(json.loads((found / "checkpoint.json").read_text())["files"]))
    (found / name).write_bytes((found / name).read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"bytes, needed"):
        open_decoder(copy, ParallelConfig(), 0)
