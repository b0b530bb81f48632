"""Finding passages: exactly, by any Faiss index, and in a run's own database."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.common.files import read_json, write_json
from retro.qa.question import PassageLike
from retro.recipes.passages import index as faiss_index
from retro.recipes.passages import vectors as conversion
from retro.recipes.passages.config import contriever
from retro.recipes.passages.embed import embed_shard
from retro.recipes.passages.layouts import Passage
from retro.recipes.passages.search import DatabaseRetriever, PassageRetriever, PassageSearch, as_record, as_retrieve
from retro.recipes.passages.shards import read_shard, write_shard
from retro.run.config import RunConfig
from tests.recipes.passages.world import HASHING, config_of, embedded, made_passages, questions_of, tiny_bert, write_tsv
from tests.tiny_road import run_stages, small_config


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Passages and their shards, by hashing."""
    folder = tmp_path_factory.mktemp("made")
    embedded(config_of(folder))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """The same, to be changed, and searched by nobody yet."""
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    for part in ("vectors", "index"):
        shutil.rmtree(copy / "embeddings/.retro" / part, ignore_errors=True)
    return copy


def found_ids(retriever: PassageSearch, queries: list[str], n: int) -> list[list[str]]:
    return [[one.document_id for one in found] for found in retriever.search(queries, n)]


def test_a_question_finds_the_passage_with_its_word(made: Path) -> None:
    retriever = PassageRetriever.open(config_of(made))
    passages = made_passages()
    assert [ids[0] for ids in found_ids(retriever, questions_of(passages), 3)] == [one.id for one in passages]
    record, *others = retriever.search_document("Was word7 seen in year7?")
    assert (record["id"], record["title"], record["text"]) == ("107", "", passages[7].text)
    assert len(others) == 2
    assert type(record["score"]) is float
    assert record["score"] > others[0]["score"]
    assert set(record) == {"id", "title", "text", "score"}
    assert retriever.passages["107"] == passages[7]


def exact(vectors_ND: NDArray[Any], queries_QD: NDArray[Any]) -> NDArray[np.int64]:
    """[Q, N] vectors by inner product with each query, best first, by numpy alone."""
    scores_QN = queries_QD.astype(np.float64) @ vectors_ND.astype(np.float64).T
    return np.argsort(-scores_QN, axis=1, kind="stable")


@pytest.mark.parametrize("settings", [{}, {"faiss": "mapped"}, {"save_or_load_index": False}])
@pytest.mark.parametrize("count", [1, 25])
def test_exact_search_equals_numpys(settings: dict[str, Any], count: int, tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "model", made_passages())
    config = config_of(tmp_path, embedder=contriever(str(model), precision="float32"), **settings)
    out = embedded(config)
    vectors = np.concatenate([read_shard(out / name).vectors.map() for name in ("passages_00", "passages_01")])
    retriever = PassageRetriever.open(config)
    queries = questions_of(made_passages())[:count]
    asked = retriever._embedder.embed_queries(queries)
    order = exact(vectors, asked)
    assert found_ids(retriever, queries, 1) == [[str(100 + row)] for row in order[:, 0].tolist()]
    assert found_ids(retriever, queries, 30) == [[str(100 + row) for row in rows] for rows in order.tolist()]
    scores = [[one.score for one in found] for found in retriever.search(queries, 5)]
    products = asked.astype(np.float64) @ vectors.astype(np.float64).T
    assert np.allclose(scores, -np.sort(-products, axis=1)[:, :5], rtol=1e-5)


def test_of_equal_passages_the_earlier_comes_first(tmp_path: Path) -> None:
    text = [Passage(str(n), "", "the same garden") for n in range(8)]
    write_tsv(tmp_path / "passages.tsv", [*text[:3], Passage("x", "", "another planet"), *text[3:]])
    for faiss in ("Flat", "mapped"):
        config = config_of(tmp_path, faiss=faiss)
        embedded(config, shards=1)
        assert found_ids(PassageRetriever.open(config), ["garden"], 4) == [["0", "1", "2", "3"]]


@pytest.mark.parametrize(
    "faiss", ["IVF3,Flat", "HNSW8", "SQ8", "PQ8x4", "OPQ8_32,PQ8x4", "PCAR16,SQ8", "IVF2,PQ8x4,RFlat"]
)
def test_any_faiss_index_finds_most_of_what_is_nearest(faiss: str, tmp_path: Path) -> None:
    passages = made_passages(300)
    write_tsv(tmp_path / "passages.tsv", passages)
    config = config_of(tmp_path, faiss=faiss, embedder=HASHING | {"dimension": 64}, passages_per_block=300, title=False)
    embedded(config, shards=1)
    for _ in ("made", "taken from the store"):
        found = found_ids(PassageRetriever.open(config), [one.text for one in passages[::10]], 30)
        assert all(len(ids) == len(set(ids)) == 30 for ids in found)
        assert sum(one.id in ids for one, ids in zip(passages[::10], found, strict=True)) >= 27


def test_a_question_finds_the_same_whichever_others_are_asked_beside_it(made: Path) -> None:
    retriever = PassageRetriever.open(config_of(made))
    queries = questions_of(made_passages())
    together = [list(map(as_record, found)) for found in retriever.search(queries, 4)]
    assert together == [retriever.search_document(query, 4) for query in queries]


def test_fewer_passages_are_found_where_there_are_no_more_and_none_for_nothing(made: Path) -> None:
    retriever = PassageRetriever.open(config_of(made))
    assert [len(found) for found in retriever.search(["garden", "  ", "river"], 50)] == [30, 0, 30]
    assert retriever.search([], 3) == []
    assert retriever.search_document("", 3) == []
    with pytest.raises(ConfigError, match="n_docs = 0: needs at least 1"):
        retriever.search(["garden"], 0)


def test_questions_are_put_in_small_letters_where_passages_were(tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "model", made_passages())
    config = config_of(tmp_path, embedder=contriever(str(model)), lowercase=True)
    embedded(config)
    retriever = PassageRetriever.open(config)
    assert retriever.search_document("THE GARDEN OF WORD2") == retriever.search_document("the garden of word2")
    with pytest.raises(ArtifactError, match="passages_00: was embedded with lowercase=True, questions are to be with"):
        PassageRetriever.open(config.model_copy(update={"lowercase": False}))


def test_setup_takes_what_users_of_contriever_know(tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "model", made_passages())
    out = embedded(config_of(tmp_path, embedder=contriever(str(model))))
    # As if others had made them: of their shards nothing is known.
    shutil.rmtree(out / ".retro")
    retriever = PassageRetriever.setup(str(model), tmp_path / "passages.tsv", f"{out}/*", n_docs=2)
    assert len(retriever.search_document("garden")) == 2
    assert len(retriever.search_document("garden", 7)) == 7
    assert not (out / ".retro/index").exists()


def test_a_missing_shard_of_ours_is_named_also_the_last(folder: Path) -> None:
    config = config_of(folder)
    (folder / "embeddings/passages_01").unlink()
    with pytest.raises(DataError, match="embeddings: lacks 1 of 2 shards: 1"):
        PassageRetriever.open(config)
    shutil.rmtree(folder / "embeddings/.retro/shards")
    with pytest.raises(DataError, match=r"passages\.tsv: has 15 of 30 passages without a vector, '115' first"):
        PassageRetriever.open(config)


def test_two_of_four_shards_are_not_all(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    for number in range(2):
        embed_shard(config, tmp_path / "embeddings", number, 4)
    with pytest.raises(DataError, match="embeddings: lacks 2 of 4 shards: 2, 3"):
        PassageRetriever.open(config)


def test_a_shard_of_another_model_is_named(folder: Path) -> None:
    header = folder / "embeddings/.retro/shards/passages_01.json"
    write_json(header, read_json(header, "") | {"embedder": {"kind": "hashing", "version": 7}})
    with pytest.raises(ArtifactError, match=r"passages_01: was embedded by \{'kind': 'hashing', 'version': 7\}"):
        PassageRetriever.open(config_of(folder))


def test_an_embedder_that_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="embedded with dimension 1024; here it is 64"):
        PassageRetriever.open(config_of(folder, embedder={"kind": "hashing", "dimension": 64}))
    model = tiny_bert(folder / "model", made_passages(), width=16)
    shutil.rmtree(folder / "embeddings/.retro")
    with pytest.raises(ConfigError, match=r"embedder\.model = .*: needs vectors of 1024 values, as the shards have"):
        PassageRetriever.open(config_of(folder, embedder=contriever(str(model))))
    with pytest.raises(ArtifactError, match=r"hashing\.h5: is missing, and vectors of kind 'hashing' are compared"):
        PassageRetriever.open(config_of(folder))
    with pytest.raises(ConfigError, match=r"embedder\.kind = 'bm25': needs a kind that makes vectors"):
        PassageRetriever.open(config_of(folder, embedder={"kind": "bm25"}))


def test_the_index_is_kept_and_made_again_when_embeddings_or_settings_change(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(folder)
    before = PassageRetriever.open(config)
    with monkeypatch.context() as patch:
        patch.setattr(faiss_index, "_built", lambda *_: pytest.fail("made again"))
        assert PassageRetriever.open(config).identity == before.identity
    shard = read_shard(folder / "embeddings/passages_00")
    write_shard(folder / "embeddings/passages_00", shard.ids, -np.array(shard.vectors.map()))
    with caplog.at_level("INFO"):
        after = PassageRetriever.open(config)
    assert "the index of passages in" in caplog.text
    assert after.identity != before.identity
    assert found_ids(after, ["Was word3 seen in year3?"], 30)[0][0] != "103"
    caplog.clear()
    with caplog.at_level("INFO"):
        PassageRetriever.open(config_of(folder, faiss="SQ8"))
    assert "it is made again" in caplog.text


def test_a_damaged_or_foreign_index_is_named(folder: Path) -> None:
    config = config_of(folder)
    PassageRetriever.open(config)
    home = folder / "embeddings/.retro/index"
    whole = (home / "index.faiss").read_bytes()
    (home / "index.faiss").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=r"index\.faiss: has SHA-256 .*bytes changed on disk\. Delete .*/index"):
        PassageRetriever.open(config)
    (home / "index.faiss").write_bytes(whole[:-40])
    with pytest.raises(ArtifactError, match=r"index\.faiss: has \d+ bytes, its manifest says \d+"):
        PassageRetriever.open(config)
    (home / "index.faiss").unlink()
    with pytest.raises(ArtifactError, match=r"index\.faiss: is missing"):
        PassageRetriever.open(config)
    (home / "manifest.json").unlink()
    (home / "index.faiss").write_bytes(whole)
    with pytest.raises(ArtifactError, match=r"index\.faiss: stands where the index of passages goes, and no manifest"):
        PassageRetriever.open(config)


def test_a_kill_while_vectors_or_index_are_made_leaves_nothing_half_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    config = config_of(folder)
    for module, name in ((conversion, "_copy"), (faiss_index, "save_index")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, killed)
            with pytest.raises(KeyboardInterrupt):
                PassageRetriever.open(config)
    assert not (folder / "embeddings/.retro/index").exists()
    assert found_ids(PassageRetriever.open(config), ["word3"], 1) == [["103"]]


def test_a_string_that_faiss_does_not_know_names_the_setting(folder: Path) -> None:
    for faiss, need in (("Flt", "needs a Faiss factory string"), ("IVF99,Flat", "needs at least 99 training vectors")):
        with pytest.raises(ConfigError, match=rf"PassagesConfig\.faiss = '{faiss}': {need}"):
            PassageRetriever.open(config_of(folder, faiss=faiss))


def test_an_exact_index_larger_than_memory_is_warned_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Memory:
        available = 1000

    monkeypatch.setattr("psutil.virtual_memory", lambda: Memory)
    monkeypatch.setattr("retro.index.index_choice._require_possible", lambda *_: None)
    PassageRetriever.open(config_of(folder))
    assert "faiss=mapped finds the same from disk" in caplog.text


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run whose documents are the passages, one row each."""
    folder = tmp_path_factory.mktemp("database")
    write_tsv(folder / "passages.tsv", made_passages())
    source = f"corpus.sources=[{{name: wiki, path: {folder}/passages.tsv}}]"
    settings = ("corpus.min_words=1", "db={unit: row, window: 100}", "index.embedder.dimension=1024")
    config = small_config(folder, source, *settings, write=False)
    run_stages(config, "corpus", "db", "index")
    return config


def test_a_runs_own_database_gives_the_same_records(database: RunConfig, made: Path) -> None:
    home = database.run_dir
    retriever = DatabaseRetriever(home / "1_corpus", home / "2_db", home / "3_index")
    by_shards = PassageRetriever.open(config_of(made))
    for query in questions_of(made_passages())[:6]:
        one, other = retriever.search_document(query, 3)[0], by_shards.search_document(query, 3)[0]
        assert {**one, "score": 0} == {**other, "score": 0}
    assert retriever.search([], 2) == []
    assert [len(found) for found in retriever.search(["garden", " "], 2)] == [2, 0]
    assert retriever.identity["kind"] == "database"
    with pytest.raises(ConfigError, match="n_docs = 0"):
        retriever.search(["a"], 0)


def test_decoding_can_take_either(database: RunConfig, made: Path) -> None:
    home = database.run_dir
    sources: list[PassageSearch] = [
        PassageRetriever.open(config_of(made)),
        DatabaseRetriever(home / "1_corpus", home / "2_db", home / "3_index"),
    ]
    for source in sources:
        found = as_retrieve(source, 2)(questions_of(made_passages())[4:6])
        firsts: list[PassageLike] = [passages[0] for passages in found]
        assert [one.document_id for one in firsts] == ["104", "105"]
        assert [len(passages) for passages in found] == [2, 2]
