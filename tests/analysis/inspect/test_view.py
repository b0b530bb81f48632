from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from retro.analysis.inspect.view import END_SIGN, NeighborView, Origin, Piece, SampleViewer, pieces, text_of
from retro.corpus.reader import Corpus, TokenStream
from retro.db.reader import ChunkDatabase
from retro.neighbors.reader import Neighbors
from retro.neighbors.text_overlap import END, LONGEST
from retro.run.config import RunConfig
from retro.run.pipeline import stage


class Bytes:
    """A tokenizer of one token a byte, in which the first space of a text is lost, as SentencePiece's often is."""

    vocab_size, eod, fingerprint = 257, 256, "bytes"

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return bytes(int(one) for one in ids if one < 256).decode(errors="replace").removeprefix(" ")

    def decode_batch(self, ids: Sequence[Sequence[int] | np.ndarray]) -> list[str]:
        return [self.decode(row) for row in ids]


def test_pieces_keep_the_spaces_that_a_token_decoded_alone_loses() -> None:
    text = "one two"
    found = pieces(Bytes(), list(text.encode()), [0, 0, 0, 2, 2, 2, 2])
    assert found == [Piece("one", 0), Piece(" two", 2)]


def test_a_character_that_two_marks_cut_goes_to_the_later_one() -> None:
    found = pieces(Bytes(), list("aé!".encode()), [0, 0, 2, 2])
    assert found == [Piece("a", 0), Piece("é!", 2)]


def test_a_character_that_is_cut_for_good_is_shown_as_cut() -> None:
    assert pieces(Bytes(), list("é".encode())[:1], [0]) == [Piece("\ufffd", 0)]


def test_the_end_of_a_document_is_a_sign() -> None:
    found = pieces(Bytes(), [97, 256, 98], [0, END, 2])
    assert found == [Piece("a", 0), Piece(END_SIGN, END), Piece("b", 2)]
    assert text_of(found) == f"a{END_SIGN}b"


def looker_of(config: RunConfig) -> SampleViewer:
    corpus = Corpus.open(stage("corpus").path(config))
    db = ChunkDatabase.open(stage("db").path(config), corpus)
    found = Neighbors.open(stage("neighbors").path(config), db, corpus)
    stream = TokenStream(corpus, 0, 0, db.chunk_length)
    return SampleViewer(corpus=corpus, db=db, found=found, split=0, source=0, stream=stream, shown=2, sample_chunks=4)


def test_a_sample_is_made_of_its_chunks_and_their_saved_neighbors(road: RunConfig) -> None:
    looker = looker_of(road)
    sample = looker.sample(3)
    assert [chunk.number for chunk in sample.chunks] == [12, 13, 14, 15]
    saved = looker.found.of(0, 0, np.arange(12, 16), 2)
    assert [[one.row if one else -1 for one in chunk.neighbors] for chunk in sample.chunks] == saved.tolist()


def test_a_neighbor_is_told_as_the_model_reads_it(road: RunConfig) -> None:
    looker = looker_of(road)
    seen = 0
    for number in range(20):
        chunk = looker.chunk(number)
        own = {origin.identifier for origin in chunk.own}
        for neighbor in filter(None, chunk.neighbors):
            tokens, mask = looker.db.neighbor_tokens(np.array([neighbor.row]))
            whole = looker.corpus.tokenizer.decode(tokens[0][mask[0]].tolist())
            assert text_of([*neighbor.chunk, *neighbor.continuation]) == pytest.approx(whole) or (
                text_of(neighbor.chunk) + text_of(neighbor.continuation)
            ).replace(" ", "") == whole.replace(" ", "")
            assert bool(neighbor.continuation) == bool(looker.db.columns["continues"][neighbor.row])
            assert neighbor.origin == Origin(
                looker.db.document_id(neighbor.row), looker.db.document_title(neighbor.row)
            )
            assert neighbor.origin.identifier not in own
            assert neighbor.share == pytest.approx(neighbor.longest / 16, abs=0.4 * neighbor.longest / 16)
            seen += 1
    assert seen > 20


def test_distance_follows_from_the_score() -> None:
    def at(score: float) -> float:
        return NeighborView(
            row=0, origin=Origin("a", ""), score=score, chunk=[], continuation=[], longest=0, longest_next=None, share=0
        ).distance

    assert at(1.0) == 0
    # Rounding may leave a product just above 1.
    assert at(1.0000002) == 0
    assert at(0.5) == pytest.approx(1.0)
    assert at(0.0) == pytest.approx(math.sqrt(2))


def test_a_missing_neighbor_is_none(road: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Neighbors, "of", lambda *_: np.array([[5, -1]]))
    monkeypatch.setattr(Neighbors, "scores", lambda *_: np.array([[0.5, -np.inf]], dtype=np.float32))
    found = looker_of(road).chunk(0).neighbors
    assert found[0] is not None
    assert found[1] is None


def test_a_shared_run_is_marked_in_the_chunk_and_in_its_neighbor(
    road: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first chunk of the stream is the first chunk of its document, which the database holds too.
    looker = looker_of(road)
    document = int(looker.stream.documents[0])
    row = int(np.flatnonzero(looker.db.columns["document"] == document)[0])
    monkeypatch.setattr(Neighbors, "of", lambda *_: np.array([[row, row]]))
    chunk = looker.chunk(0)
    assert {piece.mark for piece in chunk.text} == {LONGEST}
    neighbor = chunk.neighbors[0]
    assert neighbor is not None
    assert neighbor.longest == 16
    assert neighbor.share == 1
    assert neighbor.longest_next == 16
