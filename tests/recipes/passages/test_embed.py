"""Embedding passages in shards: what is embedded, and that a stop changes no byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.index.embedder import EMBEDDERS, Embedder, ignore
from retro.index.hashing import HashingEmbedder
from retro.recipes.passages.config import PassagesConfig, contriever
from retro.recipes.passages.embed import embed_shard
from retro.recipes.passages.embedders import embedded_text
from retro.recipes.passages.layouts import Passage
from retro.recipes.passages.search import PassageRetriever
from retro.recipes.passages.shards import read_shard
from tests.recipes.passages.world import config_of, embedded, files_of, made_passages, tiny_bert, write_tsv


@pytest.mark.parametrize(
    ("title", "lowercase", "wanted"),
    [(True, False, "Ein Fluß Der Text"), (False, False, "Der Text"), (True, True, "ein fluß der text")],
)
def test_the_text_that_is_embedded(title: bool, lowercase: bool, wanted: str) -> None:
    assert embedded_text(Passage("1", "Ein Fluß", "Der Text"), title=title, lowercase=lowercase) == wanted
    assert embedded_text(Passage("1", "", "Text"), title=title, lowercase=False) == "Text"


def test_every_passage_is_in_one_shard_under_its_id(tmp_path: Path) -> None:
    out = embedded(config_of(tmp_path), shards=4)
    shards = [read_shard(out / f"passages_{number:02d}") for number in range(4)]
    assert [len(one.ids) for one in shards] == [7, 7, 7, 9]
    assert [one for shard in shards for one in shard.ids] == [one.id for one in made_passages()]
    assert {one.vectors.dtype for one in shards} == {np.dtype(np.float16)}
    whole = embedded(config_of(tmp_path / "whole"), shards=1)
    assert np.array_equal(
        np.concatenate([one.vectors.map() for one in shards]), read_shard(whole / "passages_00").vectors.map()
    )


def mean_state(folder: Path, text: str) -> NDArray[Any]:
    """The vector of a text by transformers alone: the mean of the last layer over all tokens."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(str(folder))(text, return_tensors="pt")
    with torch.no_grad():
        states: NDArray[Any] = AutoModel.from_pretrained(str(folder)).eval()(**ids).last_hidden_state[0].numpy()
    return states.mean(axis=0)


def test_a_contriever_is_the_mean_of_all_tokens_as_it_is(tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "model", made_passages())
    config = config_of(tmp_path, embedder=contriever(str(model), precision="float32"), dtype="float32")
    vectors = read_shard(embedded(config, shards=1) / "passages_00").vectors.map()
    assert vectors.shape == (30, 32)
    for row in (0, 3, 29):
        text = embedded_text(made_passages()[row], title=True, lowercase=False)
        assert np.allclose(vectors[row], mean_state(model, text), atol=1e-5)
    assert not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=0.01)


def stop_after(blocks: int, monkeypatch: pytest.MonkeyPatch, of: type[Embedder]) -> None:
    """Have the embedder end the process, as it were, once it has made so many blocks."""
    made = 0
    before: Any = vars(of).get("embed_passages") or of.embed_passages

    def embed(self: Embedder, texts: Sequence[str], advance: Callable[[int], None] = ignore) -> NDArray[np.float32]:
        nonlocal made
        if made == blocks:
            raise KeyboardInterrupt
        made += 1
        found: NDArray[np.float32] = before(self, texts, advance)
        return found

    monkeypatch.setattr(of, "embed_passages", embed)


@pytest.mark.parametrize("blocks", [0, 1, 3])
@pytest.mark.parametrize("kind", ["hashing", "huggingface"])
def test_a_stop_between_blocks_ends_in_the_same_bytes(
    kind: str, blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retro.index.neural import HuggingFaceEmbedder

    settings: dict[str, Any] = {}
    if kind == "huggingface":
        model = tiny_bert(tmp_path / "model", made_passages())
        settings["embedder"] = contriever(str(model), precision="float32", batch_tokens=64)
    broken, unbroken = (config_of(tmp_path / name, **settings) for name in ("broken", "unbroken"))
    with monkeypatch.context() as patch:
        stop_after(blocks, patch, HuggingFaceEmbedder if kind == "huggingface" else HashingEmbedder)
        with pytest.raises(KeyboardInterrupt):
            embedded(broken, shards=2)
    assert not (tmp_path / "broken/embeddings/passages_00").exists()
    with monkeypatch.context() as patch:
        stop_after(4 + 4 - blocks, patch, HuggingFaceEmbedder if kind == "huggingface" else HashingEmbedder)
        first = files_of(embedded(broken, shards=2))
    second = files_of(embedded(unbroken, shards=2))
    assert {name: len(content) for name, content in first.items()} == {n: len(c) for n, c in second.items()}
    assert first == second


def test_a_shard_that_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path)
    before = files_of(embedded(config))
    stop_after(0, monkeypatch, HashingEmbedder)
    assert files_of(embedded(config)) == before


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"lowercase": True}, "passages_00: was made of something else: lowercase was False, now True"),
        ({"dtype": "float32"}, "passages_00: was made of something else: dtype was 'float16', now 'float32'"),
        ({"embedder": {"kind": "hashing", "dimension": 64}}, "embedded with dimension 1024; here it is 64"),
    ],
)
def test_a_shard_that_was_made_of_something_else_is_named(
    settings: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    embedded(config_of(tmp_path))
    with pytest.raises(ArtifactError, match=problem):
        embedded(config_of(tmp_path, **settings))


def test_other_numbers_of_shards_and_other_passages_are_not_mixed(tmp_path: Path) -> None:
    out = embedded(config_of(tmp_path))
    with pytest.raises(ArtifactError, match="passages_00: was made of something else: rows was"):
        embed_shard(config_of(tmp_path), out, 0, 3)
    write_tsv(tmp_path / "passages.tsv", made_passages(31))
    with pytest.raises(ArtifactError, match="passages_01: was made of something else"):
        embed_shard(config_of(tmp_path), out, 1, 2)


def test_a_shard_of_another_tool_is_not_replaced(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    (tmp_path / "embeddings").mkdir()
    (tmp_path / "embeddings/passages_00").write_bytes(b"theirs")
    with pytest.raises(ArtifactError, match="passages_00: is there already, and was not made here"):
        embedded(config)
    assert (tmp_path / "embeddings/passages_00").read_bytes() == b"theirs"


def test_two_models_do_not_share_a_folder(tmp_path: Path) -> None:
    models = [tiny_bert(tmp_path / str(seed), made_passages(), seed=seed) for seed in (0, 1)]
    one, other = (config_of(tmp_path, embedder=contriever(str(model), precision="float32")) for model in models)
    embed_shard(one, tmp_path / "embeddings", 0, 2)
    with pytest.raises(ArtifactError, match=r"embedder\.json: says that passages were embedded with weights_sha256"):
        embed_shard(other, tmp_path / "embeddings", 1, 2)
    with pytest.raises(ArtifactError, match="passages were embedded with kind 'huggingface'; here it is 'hashing'"):
        embed_shard(config_of(tmp_path), tmp_path / "embeddings", 1, 2)


def test_a_model_may_be_moved(tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "model", made_passages())
    config = config_of(tmp_path, embedder=contriever(str(model)))
    embed_shard(config, tmp_path / "embeddings", 0, 2)
    model.rename(tmp_path / "moved")
    moved = config_of(tmp_path, embedder=contriever(str(tmp_path / "moved"), batch_tokens=4096))
    assert embed_shard(moved, tmp_path / "embeddings", 1, 2).passages == 15


@pytest.mark.parametrize(
    ("shard", "shards", "problem"),
    [
        (2, 2, "shard_id = 2: needs a number from 0 to 1, as num_shards is 2"),
        (-1, 2, "shard_id = -1"),
        (0, 31, "num_shards = 31: needs to be at most 30, the number of passages"),
    ],
)
def test_a_shard_that_cannot_be_is_refused(shard: int, shards: int, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        embed_shard(config_of(tmp_path), tmp_path / "embeddings", shard, shards)


def test_settings_that_cannot_work_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"PassagesConfig\.passages = None: needs a file of passages"):
        embed_shard(PassagesConfig(), tmp_path)
    with pytest.raises(ConfigError, match=r"PassagesConfig\.embeddings = '': needs a pattern of shards"):
        PassageRetriever.open(PassagesConfig(passages=tmp_path / "p.tsv"))
    with pytest.raises(ConfigError, match=r"embedder\.kind = 'bm25': needs a kind that makes vectors"):
        embed_shard(config_of(tmp_path, embedder={"kind": "bm25"}), tmp_path / "embeddings")


class Loud(Embedder):
    """Vectors with a value too large for two bytes."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.dimension, self.identity = 2, {"kind": "loud"}

    def embed_passages(self, texts: Sequence[str], advance: Callable[[int], None] = ignore) -> NDArray[np.float32]:
        return np.full((len(texts), 2), 70_000, dtype=np.float32)


def test_values_that_two_bytes_do_not_hold_are_refused_and_fit_into_four(tmp_path: Path) -> None:
    EMBEDDERS.register("loud")(Loud)
    try:
        with pytest.raises(DataError, match="Loud: gave a vector with a value of 70000; float16 holds up to 65504"):
            embedded(config_of(tmp_path, embedder={"kind": "loud"}))
        out = embedded(config_of(tmp_path, embedder={"kind": "loud"}, dtype="float32"))
    finally:
        EMBEDDERS.unregister("loud")
    assert read_shard(out / "passages_00").vectors.map()[0].tolist() == [70_000, 70_000]


class Counting(Embedder):
    """Vectors without a model: 2,048 values of the text's last number."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.dimension, self.identity = 2048, {"kind": "counting"}

    def embed_passages(self, texts: Sequence[str], advance: Callable[[int], None] = ignore) -> NDArray[np.float32]:
        numbers = np.array([int(text.split()[-1]) for text in texts], dtype=np.float32)
        return np.repeat(numbers[:, None], self.dimension, axis=1)


def test_a_shard_takes_memory_for_a_block_and_not_for_all_its_vectors(tmp_path: Path) -> None:
    import tracemalloc

    def config(count: int) -> PassagesConfig:
        lines = "".join(f'{{"id": "p{number}", "text": "number {number}"}}\n' for number in range(count))
        path = tmp_path / f"{count}.jsonl"
        path.write_text(lines, encoding="utf-8")
        return config_of(tmp_path, passages=path, embedder={"kind": "counting"}, passages_per_block=100)

    EMBEDDERS.register("counting")(Counting)
    try:
        # Whatever is imported on the way is there then.
        embed_shard(config(2), tmp_path / "small")
        tracemalloc.start()
        report = embed_shard(config(5000), tmp_path / "out")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        EMBEDDERS.unregister("counting")
    # 20 MB if they were held once; a block has 0.8 MB as float32, of which there are some copies.
    assert most < 5000 * 2048 * 2 / 2, most
    assert read_shard(report.path).vectors.map()[[0, 1500, 2047], 7].tolist() == [0, 1500, 2047]
