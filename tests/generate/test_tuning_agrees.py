"""Tuning with live retrieval shows a model, chunk by chunk, what generation shows it when it says the gold answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from retro.generate.chunk_retrieval import ChunkReader, NeighborFinder
from retro.generate.request import LiveRetrieval
from retro.qa.question import Context, PassageLike
from retro.sft.config import SetConfig, SftDataConfig
from retro.sft.prepare import Shape, prepare
from tests.sft.words import WordTokenizer

SHAPE = Shape(sequence_length=32, chunk_length=4, passages=2, retrieved_length=6)


def retrieve(texts: list[str]) -> list[list[PassageLike]]:
    return [[Context("", f"found {text}"), Context("T", text), Context("", "third")] for text in texts]


@pytest.mark.parametrize("prompt_words", range(1, 6))
@pytest.mark.parametrize("answer_words", [1, 3, 4, 5, 8, 11])
def test_each_chunk_of_a_gold_answer_reads_what_generation_would_find(
    tmp_path: Path, prompt_words: int, answer_words: int
) -> None:
    words = WordTokenizer()
    question = " ".join(f"q{n}" for n in range(prompt_words))
    answer = " ".join(f"a{n}" for n in range(answer_words))
    path = tmp_path / "set.json"
    path.write_text(json.dumps([{"question": question, "answer": answer}]))
    sets = (SetConfig(name="one", path=path),)
    config = SftDataConfig(sets=sets, style="plain", contexts_in_prompt=0, passages_from="live")
    prepared = prepare(config, "train", words, SHAPE, retrieve=retrieve)
    assert prepared is not None
    batch = prepared.source.fetch(np.array([0]))
    assert batch.neighbors_BLKR is not None
    assert batch.neighbor_mask_BLKR is not None
    assert batch.token_mask_BS is not None

    first = int(batch.token_mask_BS[0].argmax())
    prompt = len(words.encode(f"question: {question}\nanswer:"))
    ids = batch.tokens_BS[0, first : first + prompt + answer_words].tolist()
    reader = ChunkReader(LiveRetrieval(passages=2, question=question), prompt, 4)
    finder = NeighborFinder(words, retrieve, retrieved_length=6, neighbor_text="title_and_text")
    found = finder.find(list(reader.ends(ids)))

    assert [(first + one.position + 1) % 4 for one in found] == [0] * len(found)
    chunks = [(first + one.position) // 4 for one in found]
    assert chunks == list(range((first + len(ids)) // 4))
    for chunk, one in zip(chunks, found, strict=True):
        assert one.neighbors is not None
        mask = one.neighbors.mask_KR
        assert batch.neighbor_mask_BLKR[0, chunk].tolist() == mask.tolist()
        assert batch.neighbors_BLKR[0, chunk][mask].tolist() == one.neighbors.tokens_KR[mask].tolist()
    assert not batch.neighbor_mask_BLKR[0, len(chunks) :].any()
