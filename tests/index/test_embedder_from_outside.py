"""An embedder of another package, in one file: from chunks to neighbors and to the passages of a question."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.errors import ArtifactError, ConfigError, DataError, DependencyError
from retro.common.files import read_json, write_json
from retro.corpus.reader import Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.index import build
from retro.index.config import EmbedderConfig, IndexConfig
from retro.index.embedder import EMBEDDERS
from retro.index.embedders import open_embedder
from retro.index.recall import recall_samples
from retro.index.retriever import Retriever
from retro.index.searcher import open_searcher
from retro.neighbors import build as neighbors_build
from retro.neighbors.config import NeighborsConfig
from retro.neighbors.reader import Neighbors
from tests.db.road import CHUNK
from tests.outside import installed, write_distribution

LETTERS = '''
"""Counts of letters; a query's rare letters weigh more, as counted in the training texts."""

import numpy as np

from retro.common.hdf5 import map_column
from retro.index.embedder import Embedder, ignore


def count(texts, letters):
    return np.array([[text.lower().count(letter) for letter in letters] for text in texts], dtype=np.float32)


class Letters(Embedder):
    learned_file = "letters.h5"

    def __init__(self, config, weights):
        super().__init__(config)
        self.letters, self.weights = config.options["letters"], weights
        self.dimension = len(self.letters)
        self.identity = {"kind": "letters", "letters": self.letters, "weights": str(weights.tolist())}

    @classmethod
    def learn(cls, config, texts):
        total = sum(count(some, config.options["letters"]).sum(axis=0) for some in texts)
        return {"weights": (total.max() / np.maximum(total, 1)).astype(np.float32)}

    @classmethod
    def open(cls, config, directory):
        return cls(config, np.asarray(map_column(directory / cls.learned_file, "weights", "Index again", width=0)))

    def embed_passages(self, texts, advance=ignore):
        advance(len(texts))
        return count(texts, self.letters)

    def embed_queries(self, texts, advance=ignore):
        return self.embed_passages(texts, advance) * self.weights
'''
INDEX = {"embedder": {"kind": "letters", "options": {"letters": "etaoinshrdlu"}}, "faiss": "IVF4,SQ8"}


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("site")
    write_distribution(folder, "letters", {"letters.py": LETTERS}, {"retro.embedders": "letters = letters:Letters"})
    with installed(folder, EMBEDDERS):
        yield


@pytest.fixture(scope="module")
def made(letters: None, db_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("letters") / "3_index"
    build.run(IndexConfig(**INDEX), db_dir.parent / "1_corpus", db_dir, out)
    return out


def weighted(texts: list[str], weights: Any) -> Any:
    counts = [[text.lower().count(letter) for letter in "etaoinshrdlu"] for text in texts]
    return np.array(counts, dtype=np.float32) * weights


def test_an_index_is_made_and_kept_with_what_the_embedder_learned(made: Path, db: ChunkDatabase) -> None:
    described = read_json(made / "embedder.json", "")
    assert described["identity"]["letters"] == "etaoinshrdlu"
    assert described["config"]["options"] == {"letters": "etaoinshrdlu"}
    embedder: Any = open_searcher(made, db).embedder
    texts = [db.text(row) for row in db.rows_of(0)]
    total = weighted(texts, 1).sum(axis=0)
    assert np.allclose(embedder.weights, total.max() / np.maximum(total, 1))
    assert not embedder.symmetric
    # How hard to search was tuned on weighted vectors, which the kept ones are not.
    assert read_json(made / "report.json", "")["recall_at_10"] > 0.9


def test_recall_is_measured_with_query_vectors(made: Path, db: ChunkDatabase) -> None:
    embedder: Any = open_searcher(made, db).embedder
    passages = weighted([db.text(row) for row in range(db.rows)], 1)
    sample = recall_samples(db, passages, 6, 3, embedder).reported
    assert len(sample) == 6
    assert np.allclose(sample.queries_QD, passages[sample.own_Q] * embedder.weights)
    # Its true neighbors are those of the query vectors: the best score is that of plain products.
    for query, own, least in zip(sample.queries_QD, sample.own_Q.tolist(), sample.least_QK, strict=True):
        others = [row for row in db.rows_of(0) if row != own]
        assert float(least[0]) == pytest.approx(float((passages[others] @ query).max()), rel=1e-5)


def test_neighbors_are_found_by_its_query_vectors(made: Path, corpus_dir: Path, db_dir: Path, corpus: Corpus) -> None:
    index = IndexConfig(**(INDEX | {"faiss": "Flat"}))
    build.run(index, corpus_dir, db_dir, made.parent / "flat")
    config = NeighborsConfig(saved=2, searched=40)
    neighbors_build.run(config, corpus_dir, db_dir, made.parent / "flat", made.parent / "4_neighbors")
    db = ChunkDatabase.open(db_dir, corpus)
    searcher = open_searcher(made.parent / "flat", db)
    weights = searcher.embedder.weights  # type: ignore[attr-defined]  # of a class that only the test installs
    rows = db.rows_of(0)
    passages = weighted([db.text(row) for row in rows], 1)
    stream = TokenStream(corpus, 0, 1, CHUNK)
    found = Neighbors.open(made.parent / "4_neighbors", db, corpus).of(1, 0, np.arange(stream.chunks), 2)
    assert stream.chunks > 3
    for chunk in range(stream.chunks):
        text = corpus.tokenizer.decode(stream.tokens([chunk * CHUNK], CHUNK)[0].tolist()).strip()
        scores = passages @ weighted([text], weights)[0]
        best = (rows.start + np.argsort(-scores, kind="stable")[:2]).tolist()
        # No chunk of the valid split is of a train document, so nothing is left out.
        assert found[chunk].tolist() == best


def test_a_question_finds_what_its_weighted_letters_find(made: Path, db: ChunkDatabase, corpus: Corpus) -> None:
    embedder: Any = open_searcher(made.parent / "flat", db).embedder
    (found,) = Retriever(open_searcher(made.parent / "flat", db), db, corpus).retrieve(["the dull hound"], 1)
    scores = weighted([db.text(row) for row in range(db.rows)], 1) @ weighted(["the dull hound"], embedder.weights)[0]
    assert found[0].score == pytest.approx(float(scores.max()), rel=1e-5)
    assert scores[found[0].row] == pytest.approx(float(scores.max()), rel=1e-5)


def test_an_index_whose_embedder_is_gone_names_it(made: Path, db: ChunkDatabase) -> None:
    kept = EMBEDDERS._offers.pop("letters")
    try:
        with pytest.raises(ConfigError, match=r"kind = 'letters': is not a kind of embedder; known: bm25, hashing,"):
            _ = open_searcher(made, db).embedder
    finally:
        EMBEDDERS._offers["letters"] = kept


def test_other_options_are_another_embedder(made: Path, tmp_path: Path) -> None:
    described = read_json(made / "embedder.json", "")
    described["config"]["options"]["letters"] = "etaoinshrdlx"
    write_json(tmp_path / "embedder.json", described)
    shutil.copy(made / "letters.h5", tmp_path)
    with pytest.raises(ArtifactError, match="records an embedder with letters 'etaoinshrdlu'; the one here has"):
        open_embedder(tmp_path)


def test_a_setting_that_the_class_does_not_read_is_refused(letters: None) -> None:
    with pytest.raises(ConfigError, match=r"model = 'x': needs to be left out for kind 'letters', which does not read"):
        EmbedderConfig(kind="letters", model="x")


WRONG = """
import numpy as np
from retro.index.embedder import Embedder, ignore

class Wrong(Embedder):
    dimension, identity = 3, {"kind": "wrong"}

    def embed_passages(self, texts, advance=ignore):
        vectors = np.zeros((len(texts), 3), dtype=np.float64)
        vectors[0, 0] = np.nan
        big = np.full((len(texts), 3), 1e5, dtype=np.float32)
        made = {"shape": vectors[:, :2], "type": vectors.astype(int), "nan": vectors, "big": big}
        return made[self.config.options["what"]]

class NoEmbedder:
    pass
"""


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("shape", r"Wrong: gave an array float64 \(\d+, 2\), needed are floats \(\d+, 3\)\. Fix embed_queries and"),
        ("type", r"Wrong: gave an array int64 \(\d+, 3\), needed are floats \(\d+, 3\)"),
        ("nan", "Wrong: gave a vector with infinite values or NaN"),
        ("big", r"Wrong: gave a vector with a value of 100000, and chunks are kept in 2 bytes a value, up to 65,504\."),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_vectors_that_cannot_be_are_refused(what: str, told: str, db_dir: Path, tmp_path: Path) -> None:
    write_distribution(tmp_path, "wrong", {"wrong.py": WRONG}, {"retro.embedders": "wrong = wrong:Wrong"})
    with installed(tmp_path, EMBEDDERS), pytest.raises(DataError, match=told):
        config = IndexConfig(embedder={"kind": "wrong", "options": {"what": what}})
        build.run(config, db_dir.parent / "1_corpus", db_dir, tmp_path / "3_index")


def test_a_class_that_is_no_embedder_is_refused_with_its_package(tmp_path: Path) -> None:
    write_distribution(tmp_path, "wrong", {"wrong.py": WRONG}, {"retro.embedders": "wrong = wrong:NoEmbedder"})
    told = r"wrong: its entry point wrong = wrong:NoEmbedder \(retro\.embedders\) is <class 'wrong\.NoEmbedder'>, needs"
    with installed(tmp_path, EMBEDDERS), pytest.raises(DependencyError, match=told):
        EmbedderConfig(kind="wrong")


def test_a_file_of_what_is_learned_needs_a_class_that_learns(tmp_path: Path) -> None:
    text = "from retro.index.embedder import Embedder\nclass Wrong(Embedder):\n    learned_file = 'wrong.h5'\n"
    write_distribution(tmp_path, "wrong", {"wrong.py": text}, {"retro.embedders": "wrong = wrong:Wrong"})
    with (
        installed(tmp_path, EMBEDDERS),
        pytest.raises(DependencyError, match=r"has learned_file 'wrong\.h5', needs a `learn`"),
    ):
        EMBEDDERS.find("wrong", "index.embedder.kind")
