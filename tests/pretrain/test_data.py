"""Training sequences and their neighbors, read from real artifacts of a small corpus."""

from __future__ import annotations

import numpy as np
import pytest

from retro.common.errors import ConfigError, DataError
from retro.corpus.reader import Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.neighbors.reader import Neighbors
from retro.pretrain.data import EvaluationSource, NeighborMode, SequenceReader, TrainingSource
from retro.run.config import RunConfig
from retro.run.pipeline import stage
from tests.tiny_road import run_stages, small_config, write_corpus

S, M = 64, 16


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("road")
    write_corpus(folder / "more.jsonl", documents=30, seed=9)
    sources = f"corpus.sources=[{{name: text, path: {folder}/text.jsonl, weight: 3}}, "
    config = small_config(folder, f"{sources}{{name: more, path: {folder}/more.jsonl, weight: 1}}]")
    run_stages(config, "corpus", "db", "index", "neighbors")
    return config


def artifacts(config: RunConfig) -> tuple[Corpus, ChunkDatabase, Neighbors]:
    corpus = Corpus.open(stage("corpus").path(config))
    database = ChunkDatabase.open(stage("db").path(config), corpus)
    return corpus, database, Neighbors.open(stage("neighbors").path(config), database, corpus)


def reader(config: RunConfig, *, split: int = 0, mode: NeighborMode = "real", length: int = S) -> SequenceReader:
    corpus, database, neighbors = artifacts(config)
    return SequenceReader(
        corpus, database, neighbors, split=split, sequence_length=length, neighbors_read=2, mode=mode, seed=4
    )


def test_a_sequence_is_a_window_of_the_stream_and_labels_are_one_ahead(road: RunConfig) -> None:
    corpus, _, _ = artifacts(road)
    stream = TokenStream(corpus, 0, 0, M)
    batch = reader(road).fetch(0, np.array([2, 0]))
    assert batch.tokens_BS.tolist() == stream.tokens([2 * S, 0], S).tolist()
    assert batch.labels_BS.tolist() == stream.tokens([2 * S + 1, 1], S).tolist()
    assert batch.loss_mask_BS.all()
    assert batch.token_mask_BS is None


def test_a_begin_token_stands_in_place_of_the_token_before_the_first_one_asked_for(road: RunConfig) -> None:
    plain = reader(road)
    begun = SequenceReader(*artifacts(road), split=0, sequence_length=S, neighbors_read=plain.read, begin=7)
    numbers = np.array([0, 3])
    without, found = plain.fetch(0, numbers), begun.fetch(0, numbers)
    assert found.tokens_BS[:, 0].tolist() == [7, 7]
    assert (found.tokens_BS[:, 1:] == without.tokens_BS[:, 1:]).all()
    assert (found.labels_BS == without.labels_BS).all()
    assert found.neighbors_BLKR is not None
    assert (found.neighbors_BLKR == without.neighbors_BLKR).all()


def test_chunk_c_of_sequence_i_has_the_neighbors_of_stream_chunk_i_l_plus_c(road: RunConfig) -> None:
    _, database, neighbors = artifacts(road)
    batch = reader(road).fetch(1, np.array([1]))
    assert batch.neighbors_BLKR is not None and batch.neighbor_mask_BLKR is not None
    for c in range(S // M):
        ids = neighbors.of(0, 1, np.array([1 * (S // M) + c]), 2)
        tokens, mask = database.neighbor_tokens(ids)
        assert batch.neighbors_BLKR[0, c].tolist() == tokens[0].tolist()
        assert batch.neighbor_mask_BLKR[0, c].tolist() == mask[0].tolist()


def test_no_neighbor_comes_from_a_document_that_the_tokens_who_see_it_belong_to(road: RunConfig) -> None:
    corpus, database, neighbors = artifacts(road)
    for source in range(2):
        stream = TokenStream(corpus, source, 0, M)
        for chunk in range(stream.chunks):
            own = {(source, int(document)) for document in stream.own_documents(chunk)}
            for row in neighbors.of(0, source, np.array([chunk]), 3)[0]:
                if row >= 0:
                    found = int(database.columns["source"][row]), int(database.columns["document"][row])
                    assert found not in own


def test_an_epoch_reads_every_sequence_once_and_the_next_in_another_order(road: RunConfig) -> None:
    source = TrainingSource(reader(road), artifacts(road)[0], 10_000, seed=1)
    one = np.flatnonzero(source._source == 0)
    count = source.counts[0]
    first = source._sequences(0, one[:count])
    second = source._sequences(0, one[count : 2 * count])
    assert sorted(first.tolist()) == list(range(count)) == sorted(second.tolist())
    assert first.tolist() != second.tolist()


def test_corpora_are_drawn_by_weight_and_a_batch_keeps_the_order_of_its_samples(road: RunConfig) -> None:
    source = TrainingSource(reader(road), artifacts(road)[0], 4000, seed=1)
    share = float((source._source == 0).mean())
    assert share == pytest.approx(0.75, abs=0.01)
    numbers = np.arange(17, 27)
    together = source.fetch(numbers)
    for place, number in enumerate(numbers):
        alone = source.fetch(np.array([number]))
        assert together.tokens_BS[place].tolist() == alone.tokens_BS[0].tolist()
        assert together.neighbors_BLKR is not None and alone.neighbors_BLKR is not None
        assert together.neighbors_BLKR[place].tolist() == alone.neighbors_BLKR[0].tolist()


def test_a_longer_run_begins_with_the_samples_of_a_shorter_one(road: RunConfig) -> None:
    corpus = artifacts(road)[0]
    short, long = (TrainingSource(reader(road), corpus, samples, seed=1) for samples in (50, 500))
    numbers = np.arange(50)
    assert short.fetch(numbers).tokens_BS.tolist() == long.fetch(numbers).tokens_BS.tolist()


def test_evaluation_asks_for_every_token_of_the_split_once(road: RunConfig) -> None:
    corpus, _, _ = artifacts(road)
    source = EvaluationSource(reader(road, split=1))
    asked, labels = 0, []
    for number in range(source.samples):
        batch = source.fetch(np.array([number]))
        asked += int(batch.loss_mask_BS.sum())
        labels += batch.labels_BS[batch.loss_mask_BS > 0].tolist()
    streams = [TokenStream(corpus, number, 1, M) for number in range(2)]
    assert asked == sum(stream.length - 1 for stream in streams)
    assert labels == [t for stream in streams for t in stream.tokens([1], stream.length - 1)[0].tolist()]


def test_shuffled_neighbors_are_those_of_other_chunks_and_none_are_none(road: RunConfig) -> None:
    numbers = np.arange(3)
    real, shuffled = reader(road).fetch(0, numbers), reader(road, mode="shuffled").fetch(0, numbers)
    nothing = reader(road, mode="none").fetch(0, numbers)
    assert real.neighbors_BLKR is not None and shuffled.neighbors_BLKR is not None
    assert real.neighbors_BLKR.shape == shuffled.neighbors_BLKR.shape
    assert (real.neighbors_BLKR != shuffled.neighbors_BLKR).any(axis=(2, 3)).mean() > 0.8
    assert nothing.neighbors_BLKR is None
    assert real.tokens_BS.tolist() == shuffled.tokens_BS.tolist() == nothing.tokens_BS.tolist()


def test_a_sequence_length_that_is_no_multiple_of_the_chunk_length_is_refused(road: RunConfig) -> None:
    with pytest.raises(ConfigError, match="sequence_length = 60: needs a multiple of the database's chunk length, 16"):
        reader(road, length=60)


def test_a_corpus_shorter_than_one_sequence_is_refused(road: RunConfig) -> None:
    with pytest.raises(DataError, match=r"training split of 'text' has \d+ tokens. One sequence needs 160001"):
        TrainingSource(reader(road, length=160_000), artifacts(road)[0], 10, seed=1)


def test_hidden_neighbors_are_masked_by_sample_and_chunk_and_nothing_else_changes(road: RunConfig) -> None:
    corpus = artifacts(road)[0]
    plain, hiding = (TrainingSource(reader(road), corpus, 400, seed=1, hidden=share) for share in (0.0, 0.25))
    everything, some = plain.fetch(np.arange(200)), hiding.fetch(np.arange(200))
    assert everything.neighbor_mask_BLKR is not None and some.neighbor_mask_BLKR is not None
    had_BL = everything.neighbor_mask_BLKR.any(axis=(2, 3))
    hidden_BL = had_BL & ~some.neighbor_mask_BLKR.any(axis=(2, 3))
    assert 0.2 < hidden_BL.sum() / had_BL.sum() < 0.3
    assert (some.neighbor_mask_BLKR[~hidden_BL] == everything.neighbor_mask_BLKR[~hidden_BL]).all()
    assert (some.tokens_BS == everything.tokens_BS).all()
    alone = hiding.fetch(np.array([7]))
    assert alone.neighbor_mask_BLKR is not None
    assert (alone.neighbor_mask_BLKR[0] == some.neighbor_mask_BLKR[7]).all()


@pytest.mark.parametrize("weights", [(0.0, 1.0), (0.0, 0.4, 0.6), (0.4, 0.0, 0.6), (3 / 11, 0.0, 8 / 11), (1.0, 0.0)])
def test_a_source_of_weight_0_is_never_drawn_wherever_it_stands(road: RunConfig, weights: tuple[float, ...]) -> None:
    corpus, sequences = artifacts(road)[0], reader(road)
    corpus.weights = weights
    sequences.streams = [sequences.streams[0]] * len(weights)
    source = TrainingSource(sequences, corpus, 3000, seed=1)
    shares = np.bincount(source._source, minlength=len(weights)) / 3000
    assert shares == pytest.approx(weights, abs=0.01)
    assert shares[weights.index(0.0)] == 0
