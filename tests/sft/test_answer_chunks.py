"""Each finished chunk of an answer reads passages of its own, found live or given by the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.errors import ConfigError
from retro.qa.question import Context, PassageLike
from retro.qa.sample_layout import EncodedSample
from retro.sft.answer_chunks import finished_chunks
from retro.sft.config import SetConfig, SftDataConfig
from retro.sft.prepare import Prepared, Shape, prepare
from retro.training.batch import Batch
from tests.sft.words import WordTokenizer

SHAPE = Shape(sequence_length=24, chunk_length=4, passages=1, retrieved_length=6)
NINE_WORDS = {"question": "q q", "answer": "a b c d e f g h i", "ctxs": ["own passage"]}


def built(folder: Path, words: WordTokenizer, item: dict[str, Any], **settings: Any) -> Prepared:
    path = folder / "set.json"
    path.write_text(json.dumps([item]))
    retrieve = settings.pop("retrieve", None)
    config = SftDataConfig(sets=(SetConfig(name="one", path=path),), style="plain", contexts_in_prompt=0, **settings)
    prepared = prepare(config, "train", words, SHAPE, retrieve=retrieve)
    assert prepared is not None
    return prepared


def read_by_chunk(batch: Batch, words: WordTokenizer) -> list[str]:
    """What each chunk of the only sample reads; empty where it reads nothing."""
    assert batch.neighbors_BLKR is not None
    assert batch.neighbor_mask_BLKR is not None
    pairs = zip(batch.neighbors_BLKR[0, :, 0], batch.neighbor_mask_BLKR[0, :, 0], strict=True)
    return [words.decode(tokens[mask].tolist()) for tokens, mask in pairs]


@pytest.mark.parametrize(("answer", "chunks"), [(3, []), (4, [[1, 2, 3, 4]]), (9, [[1, 2, 3, 4], [5, 6, 7, 8]])])
def test_the_end_token_finishes_no_chunk(answer: int, chunks: list[list[int]]) -> None:
    ids = np.array([*range(1, answer + 1), 0], dtype=np.int32)
    sample = EncodedSample(np.array([9], dtype=np.int32), ids, 0)
    assert [one.tolist() for one in finished_chunks(sample, 4)] == chunks


def test_live_the_prompt_reads_the_questions_passages_and_each_finished_chunk_its_own(tmp_path: Path) -> None:
    asked: list[str] = []

    def retrieve(texts: list[str]) -> list[list[PassageLike]]:
        asked.extend(texts)
        return [[Context("", f"for {text}")] for text in texts]

    words = WordTokenizer()
    prepared = built(tmp_path, words, NINE_WORDS, passages_from="live", retrieve=retrieve)
    batch = prepared.source.fetch(np.array([0]))
    # Three pads and five tokens of prompt are chunks 0 and 1; then a b c d, e f g h, and i with the end.
    assert words.decode(batch.tokens_BS[0, 8:17].tolist()) == "a b c d e f g h i"
    assert read_by_chunk(batch, words) == ["for q q", "for q q", "for a b c d", "for e f g h", ""]
    assert asked == ["q q", "a b c d", "e f g h"]
    assert prepared.reports[0].answer_chunks == 2


def test_a_file_may_give_the_passages_of_each_chunk_without_an_index(tmp_path: Path) -> None:
    words = WordTokenizer()
    given = built(tmp_path, words, NINE_WORDS | {"chunk_ctxs": [["first"], [{"title": "T", "text": "second"}], ["x"]]})
    batch = given.source.fetch(np.array([0]))
    assert read_by_chunk(batch, words) == ["own passage", "own passage", "first", "T\nsecond", ""]
    assert given.reports[0].answer_chunks == 2


@pytest.mark.parametrize(
    ("chunk_ctxs", "read"), [([], ["", ""]), ([[], ["second"]], ["", "second"]), ([["first"]], ["first", ""])]
)
def test_chunks_without_passages_in_the_file_read_nothing(tmp_path: Path, chunk_ctxs: Any, read: list[str]) -> None:
    words = WordTokenizer()
    batch = built(tmp_path, words, NINE_WORDS | {"chunk_ctxs": chunk_ctxs}).source.fetch(np.array([0]))
    assert read_by_chunk(batch, words)[2:4] == read


def test_without_passages_for_chunks_all_chunks_read_what_the_prompt_does(tmp_path: Path) -> None:
    words = WordTokenizer()
    prepared = built(tmp_path, words, NINE_WORDS)
    assert read_by_chunk(prepared.source.fetch(np.array([0])), words) == ["own passage"] * 5
    assert prepared.reports[0].answer_chunks == 0


def test_live_without_an_encoder_or_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"passages_from = 'live': needs encoder=true"):
        SftDataConfig(passages_from="live", encoder=False)
    with pytest.raises(ConfigError, match=r"passages_from = 'live'.*needs a database and an index"):
        built(tmp_path, WordTokenizer(), NINE_WORDS, passages_from="live")
