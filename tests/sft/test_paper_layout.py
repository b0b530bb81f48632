"""Wang et al. 2023: the context is padded on the left, the answer on the right, so that the answer begins a chunk."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from retro.generate.chunk_retrieval import ChunkReader
from retro.generate.request import GivenPassages
from retro.qa.passages import NeighborTokens
from retro.qa.sample_layout import EncodedSample, lay_out_prompts
from retro.sft.blend import Blend
from retro.sft.source import EncodedSet, SftSource
from tests.model.tiny import CHUNK, VOCABULARY, tiny_model, tiny_shape

PROMPTS = range(1, 10)


def source(*, neighbors: bool, packing: bool) -> SftSource:
    """Samples of 1 to 9 tokens of prompt, 10 to 18, and of answer, 21 22 and the end; room for one, or for several."""
    samples = [
        EncodedSample(np.arange(10, 10 + n, dtype=np.int32), np.array([21, 22, 0], np.int32), 0) for n in PROMPTS
    ]
    shape = (len(samples), 2, 2 * CHUNK)
    known = NeighborTokens(np.ones(shape, np.int32), np.full(shape[:2], 2 * CHUNK, np.int32)) if neighbors else None
    blend = Blend([len(samples)], [1.0], 0)
    one_set = EncodedSet("tiny", samples, known)
    return SftSource([one_set], blend, end=0, sequence_length=32, chunk_length=CHUNK, packing=packing)


@pytest.mark.parametrize("packing", [False, True])
def test_every_answer_of_a_training_batch_begins_a_chunk(packing: bool) -> None:
    batch = source(neighbors=True, packing=packing).fetch(np.arange(9))
    begins = np.argwhere(batch.tokens_BS == 21)[:, 1]
    assert len(begins) > 9 if packing else len(begins) == 9
    assert (begins % CHUNK == 0).all()
    # So the prompt's last token, which is asked for it, ends its chunk: the first to see the chunk's passages.
    assert (np.argwhere(batch.labels_BS == 21)[:, 1] == begins - 1).all()


def test_every_answer_that_is_generated_begins_a_chunk() -> None:
    prompts = [list(range(10, 10 + n)) for n in PROMPTS]
    tokens_BS, _ = lay_out_prompts(prompts, end=0, chunk_length=CHUNK)
    assert tokens_BS.shape[1] % CHUNK == 0
    for prompt in prompts:
        reader = ChunkReader(GivenPassages(passages=()), len(prompt), CHUNK)
        assert len(prompt) - 1 in [one.position for one in reader.ends(prompt)]


def test_without_the_encoder_the_pads_would_change_nothing_and_are_left_out() -> None:
    # Gate 0, as NVIDIA tuned: nothing is read, so no answer token can tell whether it begins a chunk.
    model = tiny_model(tiny_shape(retrieval=False)).eval()
    bare, padded = (source(neighbors=neighbors, packing=False).fetch(np.arange(9)) for neighbors in (False, True))
    assert bare.token_mask_BS is not None
    assert padded.token_mask_BS is not None
    assert bare.token_mask_BS[:, 0].all()
    assert not padded.token_mask_BS[:, 0].all()
    losses = []
    for batch in (bare, padded):
        assert batch.token_mask_BS is not None
        labels = torch.from_numpy(batch.labels_BS)
        found = model(torch.from_numpy(batch.tokens_BS), None, None, torch.from_numpy(batch.token_mask_BS), labels)
        losses.append(found[torch.from_numpy(batch.loss_mask_BS) > 0])
    assert int(labels.max()) < VOCABULARY
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)
