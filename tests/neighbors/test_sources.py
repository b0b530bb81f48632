from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.errors import ArtifactError
from retro.common.files import read_json
from retro.common.launcher import Worker
from retro.corpus.reader import Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.index.bm25 import build as bm25_build
from retro.index.config import Bm25Config, SearchConfig
from retro.index.embeddings import texts_of
from retro.index.search import open_search
from retro.neighbors.build import run
from retro.neighbors.config import NeighborsConfig
from retro.neighbors.query import StreamQueries
from retro.neighbors.reader import Neighbors
from tests.corpus.texts import artifact_bytes
from tests.db.road import CHUNK
from tests.db.stops import stops_everywhere
from tests.neighbors.road import NEIGHBORS, neighbors_config

pytest.importorskip("bm25s")
Dirs = tuple[Path, Path, Path]
SOURCES: dict[str, dict[str, Any]] = {
    "bm25": {"source": "bm25"},
    "hybrid": {"source": "hybrid"},
    "rerank": {"rerank": "bm25", "rerank_depth": 30},
}


PLAIN: dict[str, dict[str, Any]] = {"dense": {}}


@pytest.fixture(scope="module")
def dirs(corpus_dir: Path, db_dir: Path, index_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Dirs:
    both = shutil.copytree(index_dir, tmp_path_factory.mktemp("both") / "3_index")
    bm25_build.run(Bm25Config(), corpus_dir, db_dir, both / "bm25")
    return corpus_dir, db_dir, both


def naive(config: SearchConfig, dirs: Dirs, db: ChunkDatabase, split: int, source: int) -> list[list[int]]:
    """By plain loops over all that a search ranks: documents that chunk u and the next one touch are left out."""
    search, stream = open_search(config, dirs[2], db), TokenStream(db.corpus, source, split, CHUNK)
    found = []
    for chunk in range(stream.chunks):
        tokens = stream.tokens([chunk * CHUNK], CHUNK)
        text = texts_of(db.corpus.tokenizer, tokens, np.ones(tokens.shape, dtype=bool))
        first, last = (int(place[0]) for place in stream.chunk_documents(np.array([chunk])))
        own = set(stream.documents[first : last + 1].tolist())
        ranked = search.search(search.prepare(text), len(db.retrievable), db.retrievable).ids_QC[0]
        found.append(
            [
                int(row)
                for row in ranked
                if row >= 0 and not (db.columns["source"][row] == source and int(db.columns["document"][row]) in own)
            ]
        )
    return found


@pytest.mark.parametrize("name", ["bm25", "rerank"])
def test_neighbors_are_those_of_a_plain_loop(
    name: str, dirs: Dirs, db: ChunkDatabase, corpus: Corpus, tmp_path: Path
) -> None:
    # Reranked to the full depth; what a hybrid ranks first depends on how deep it looks.
    config = neighbors_config(**(SOURCES[name] | ({"rerank_depth": 10_000} if name == "rerank" else {})))
    run(config, *dirs, tmp_path)
    neighbors = Neighbors.open(tmp_path, db, corpus)
    for split, source in ((0, 0), (2, 1)):
        wanted = naive(config, dirs, db, split, source)
        found = neighbors.of(split, source, np.arange(len(wanted)), NEIGHBORS.saved)
        assert [[row for row in rows if row >= 0] for rows in found.tolist()] == [
            rows[: NEIGHBORS.saved] for rows in wanted
        ]


@pytest.mark.parametrize("name", SOURCES)
def test_no_neighbor_is_of_its_own_document(
    name: str, dirs: Dirs, db: ChunkDatabase, corpus: Corpus, tmp_path: Path
) -> None:
    run(neighbors_config(**SOURCES[name]), *dirs, tmp_path)
    neighbors, stream = Neighbors.open(tmp_path, db, corpus), TokenStream(corpus, 0, 0, CHUNK)
    first, last = stream.chunk_documents(np.arange(stream.chunks))
    for chunk, rows in enumerate(neighbors.of(0, 0, np.arange(stream.chunks), NEIGHBORS.saved).tolist()):
        own = stream.documents[first[chunk] : last[chunk] + 1].tolist()
        of_source = [int(db.columns["document"][row]) for row in rows if row >= 0 and db.columns["source"][row] == 0]
        assert not set(own) & set(of_source)
        assert all(row in db.rows_of(0) for row in rows if row >= 0)


def test_the_report_says_what_found_the_neighbors(dirs: Dirs, tmp_path: Path) -> None:
    found = {}
    for name, settings in (PLAIN | SOURCES).items():
        run(neighbors_config(**settings), *dirs, tmp_path / name)
        found[name] = read_json(tmp_path / name / "report.json", "")["found_by"]
    assert found["dense"]["bm25"] == found["dense"]["both"] == found["bm25"]["dense"] == found["rerank"]["bm25"] == 0
    assert found["bm25"]["bm25"] > 0
    assert found["hybrid"]["both"] > 0
    total = {name: sum(counts.values()) for name, counts in found.items()}
    assert total["hybrid"] == total["dense"]


def test_too_few_are_searched_for_deeper(dirs: Dirs, db: ChunkDatabase, corpus: Corpus) -> None:
    stream = TokenStream(corpus, 0, 0, CHUNK)
    for name in SOURCES:
        search = open_search(neighbors_config(**SOURCES[name]), dirs[2], db)
        deep, shallow = (StreamQueries(search, stream).block(range(20), 3, k, lambda count: None) for k in (2000, 3))
        assert shallow.counts["searched_deeper"] > 0
        assert (shallow.arrays["neighbors"] >= 0).sum() == (deep.arrays["neighbors"] >= 0).sum()


@pytest.mark.parametrize("name", SOURCES)
def test_workers_and_stops_make_the_same_bytes(name: str, dirs: Dirs, tmp_path: Path) -> None:
    config = neighbors_config(**SOURCES[name])
    run(config, *dirs, tmp_path / "whole")
    wanted = artifact_bytes(tmp_path / "whole")
    stopped = [out for number, out in enumerate(stops_everywhere(lambda out: run(config, *dirs, out), tmp_path))]
    for out in stopped[::4]:
        run(config, *dirs, out, worker=Worker(1, 2))
        assert artifact_bytes(out) == wanted


def test_settings_of_the_search_are_recorded_and_those_that_change_nothing_are_not(dirs: Dirs, tmp_path: Path) -> None:
    plain = run(neighbors_config(), *dirs, tmp_path / "plain")
    assert not set(plain.config) & set(SearchConfig.model_fields)
    assert run(neighbors_config(rrf_constant=9), *dirs, tmp_path / "plain") == plain
    hybrid = run(neighbors_config(source="hybrid"), *dirs, tmp_path / "hybrid")
    assert set(hybrid.parents) == {"corpus", "db", "index", "bm25"}
    with pytest.raises(ArtifactError, match="rrf_constant was 60, now 9"):
        run(neighbors_config(source="hybrid", rrf_constant=9), *dirs, tmp_path / "hybrid")
    by_words = run(neighbors_config(source="bm25"), *dirs, tmp_path / "bm25")
    assert set(by_words.parents) == {"corpus", "db", "bm25"}
    assert NeighborsConfig(**by_words.config).source == "bm25"
