from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from retro.common.coordinator import Coordinator
from retro.common.errors import ArtifactError
from retro.common.files import read_json, write_json, write_plain_json
from retro.common.hdf5 import new_file, write_columns
from retro.common.precision import Hardware
from retro.index.config import EmbedderConfig
from retro.index.embedders import adopt_embedder, describe_embedder, make_embedder, open_embedder, require_learned
from retro.index.hashing import IDF_BUCKETS
from tests.db.stops import flip_byte
from tests.index.models import bert_folder

TEXTS = ["the quick fox", "the lazy dog"]


@pytest.fixture
def made(tmp_path: Path) -> Path:
    config = EmbedderConfig(dimension=32)
    embedder = make_embedder(
        config, tmp_path, lambda: [TEXTS], learned_from="x", coordinator=Coordinator(tmp_path, stage="index")
    )
    assert describe_embedder(config, embedder, tmp_path) == ["embedder.json", "hashing.h5"]
    return tmp_path


def test_a_hashing_embedder_is_opened_as_it_was_made(made: Path) -> None:
    again = make_embedder(
        EmbedderConfig(dimension=32),
        made / "again",
        lambda: [TEXTS],
        learned_from="x",
        coordinator=Coordinator(made / "again", stage="index"),
    )
    assert np.array_equal(open_embedder(made).embed_passages(TEXTS), again.embed_passages(TEXTS))


def test_other_frequencies_are_another_embedder(made: Path) -> None:
    with new_file(made / "hashing.h5") as file:
        write_columns(file, {"idf": np.ones(IDF_BUCKETS, dtype=np.float32)})
    with pytest.raises(ArtifactError, match=r"embedder\.json: records an embedder with idf_sha256"):
        open_embedder(made)


def test_a_description_that_is_none_is_named(made: Path) -> None:
    write_plain_json(made / "embedder.json", ["x"])
    with pytest.raises(ArtifactError, match=r"embedder\.json: holds a list of 1, needed is: an object"):
        open_embedder(made)


def test_a_model_that_changed_since_is_refused(tmp_path: Path) -> None:
    folder = bert_folder(tmp_path / "bert")
    config = EmbedderConfig(kind="huggingface", model=str(folder), precision="auto")
    embedder = make_embedder(config, tmp_path, list, learned_from="x", coordinator=Coordinator(tmp_path, stage="index"))
    describe_embedder(config, embedder, tmp_path)
    # What auto was here is what every later reader uses.
    assert read_json(tmp_path / "embedder.json", "")["config"]["precision"] == embedder.identity["dtype"]
    assert np.array_equal(open_embedder(tmp_path).embed_passages(TEXTS), embedder.embed_passages(TEXTS))
    shutil.rmtree(folder)
    import torch

    torch.manual_seed(1)
    other = bert_folder(tmp_path / "bert")
    weights = other / "model.safetensors"
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, weights, metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="records an embedder with weights_sha256"):
        open_embedder(tmp_path)


def test_frequencies_learned_from_other_texts_are_learned_again(made: Path) -> None:
    coordinator, config = Coordinator(made, stage="index"), EmbedderConfig(dimension=32)
    kept = make_embedder(config, made, lambda: [["other"]], learned_from="x", coordinator=coordinator)
    assert kept.identity == open_embedder(made).identity
    other = make_embedder(config, made, lambda: [["other"]], learned_from="y", coordinator=coordinator)
    assert other.identity != kept.identity


def test_an_embedder_is_taken_over_with_what_it_learned(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "other"
    out.mkdir()
    (out / "hashing.h5").write_bytes(b"what a kill left of another one")
    embedder = adopt_embedder(made, out, Coordinator(out, stage="index"))
    assert (out / "hashing.h5").read_bytes() == (made / "hashing.h5").read_bytes()
    assert describe_embedder(EmbedderConfig(dimension=32), embedder, out) == ["embedder.json", "hashing.h5"]
    assert np.array_equal(open_embedder(out).embed_passages(TEXTS), open_embedder(made).embed_passages(TEXTS))


def test_a_model_is_taken_over_as_it_is(tmp_path: Path) -> None:
    config = EmbedderConfig(kind="huggingface", model=str(bert_folder(tmp_path / "bert")))
    first, out = tmp_path / "first", tmp_path / "other"
    embedder = make_embedder(config, first, list, learned_from="x", coordinator=Coordinator(first, stage="index"))
    describe_embedder(config, embedder, first)
    assert adopt_embedder(first, out, Coordinator(out, stage="index")).identity == embedder.identity


def test_word_frequencies_that_changed_on_disk_are_refused_and_learned_again(made: Path) -> None:
    require_learned(EmbedderConfig(), made)
    flip_byte(made / "hashing.h5", "idf")
    with pytest.raises(ArtifactError, match=r"hashing\.h5: has changed bytes since it was written"):
        require_learned(EmbedderConfig(), made)
    assert not (made / "hashing.h5").exists()
    require_learned(EmbedderConfig(), made)


def test_the_first_worker_decides_the_precision_for_those_on_other_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EmbedderConfig(kind="huggingface", model=str(bert_folder(tmp_path / "bert")))
    out = tmp_path / "index"

    def made_on(*, multiplies: bool, **settings: str) -> object:
        monkeypatch.setattr("retro.common.precision.find_hardware", lambda: Hardware(multiplies, "this CPU is such"))
        asked = config.model_copy(update=settings)
        return make_embedder(asked, out, list, learned_from="x", coordinator=Coordinator(out, stage="index")).identity[
            "dtype"
        ]

    assert [made_on(multiplies=one) for one in (True, False, True)] == ["bfloat16"] * 3
    # What is asked for by name is another embedder, and so is another model.
    assert made_on(multiplies=True, precision="float32") == "float32"
    assert made_on(multiplies=True) == "float32"
    assert made_on(multiplies=True, model=str(bert_folder(tmp_path / "other"))) == "bfloat16"


def test_the_description_of_an_older_toolkit_is_read(tmp_path: Path) -> None:
    config = EmbedderConfig(kind="huggingface", model=str(bert_folder(tmp_path / "bert")))
    embedder = make_embedder(config, tmp_path, list, learned_from="x", coordinator=Coordinator(tmp_path, stage="index"))
    describe_embedder(config, embedder, tmp_path)
    described = read_json(tmp_path / "embedder.json", "")
    described["config"]["dtype"] = described["config"].pop("precision")
    write_json(tmp_path / "embedder.json", described)
    assert open_embedder(tmp_path).identity == embedder.identity
