"""A trained model answers: the tokens of a plain loop over the reference, whatever else is in the batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from retro.generate.model import RetroAnswerer
from retro.model.reference import ReferenceRetro
from retro.sft.encode import lay_out_prompts
from tests.model.tiny import CHUNK, VOCABULARY, tiny_model, tiny_shape

END = 0
K, R = 2, 2 * CHUNK


def greedy(logits_BV: Tensor) -> Tensor:
    return logits_BV.argmax(dim=-1)


def prompts_and_passages(lengths: list[int]) -> tuple[list[list[int]], np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    prompts = [random.integers(1, VOCABULARY, size=length).tolist() for length in lengths]
    neighbors = random.integers(0, VOCABULARY, size=(len(lengths), K, R))
    mask = random.random((len(lengths), K, R)) > 0.2
    return prompts, neighbors, mask


def by_hand(
    reference: ReferenceRetro, prompt: list[int], neighbors_KR: np.ndarray, mask_KR: np.ndarray, steps: int
) -> list[int]:
    """One question alone, left-padded to whole chunks, one token at a time."""
    pad = -len(prompt) % CHUNK
    tokens, real = [END] * pad + prompt, [False] * pad + [True] * len(prompt)
    answer: list[int] = []
    for _ in range(steps):
        chunks = len(tokens) // CHUNK
        neighbors = torch.from_numpy(neighbors_KR).expand(1, chunks, K, R)
        mask = torch.from_numpy(mask_KR).expand(1, chunks, K, R)
        logits = reference(torch.tensor([tokens]), neighbors, mask, torch.tensor([real]))
        token = int(logits[0, -1].argmax())
        if token == END:
            break
        answer.append(token)
        tokens, real = [*tokens, token], [*real, True]
    return answer


def test_a_batch_of_unequal_prompts_gives_the_tokens_of_each_alone() -> None:
    shape = tiny_shape()
    model = tiny_model(shape)
    reference = ReferenceRetro(shape, {name: value.detach() for name, value in model.named_parameters()})
    prompts, neighbors, mask = prompts_and_passages([3, 8, 13, 5])
    tokens, real = lay_out_prompts(prompts, end=END, chunk_length=CHUNK)
    found = RetroAnswerer(model, END).answer(tokens, real, neighbors, mask, greedy, 6)
    expected = [by_hand(reference, prompts[i], neighbors[i], mask[i], 6) for i in range(len(prompts))]
    assert found == expected
    assert any(len(answer) == 6 for answer in found)


def test_passages_change_the_answer_and_no_passages_are_the_same_as_masked_ones() -> None:
    model = tiny_model(tiny_shape())
    prompts, neighbors, mask = prompts_and_passages([8, 8])
    tokens, real = lay_out_prompts(prompts, end=END, chunk_length=CHUNK)
    answerer = RetroAnswerer(model, END)
    read = answerer.answer(tokens, real, neighbors, mask, greedy, 6)
    masked = answerer.answer(tokens, real, neighbors, np.zeros_like(mask), greedy, 6)
    assert masked == answerer.answer(tokens, real, None, None, greedy, 6)
    assert read != masked


def test_rows_of_the_embedding_without_a_token_are_never_chosen() -> None:
    shape = tiny_shape(vocabulary_multiple=64)
    model = tiny_model(shape)
    with torch.no_grad():
        model.output_layer.weight[VOCABULARY:] = 100.0 * torch.randn(64 - VOCABULARY, 16)
    tokens, real = lay_out_prompts([[5, 6, 7, 8]], end=END, chunk_length=CHUNK)
    answers = RetroAnswerer(model, END).answer(tokens, real, None, None, greedy, 8)
    assert all(token < VOCABULARY for token in answers[0])


def test_an_answer_ends_at_the_end_token_while_others_go_on() -> None:
    model = tiny_model(tiny_shape())
    script = iter([[3, END], [4, 9], [END, 9]])

    def scripted(logits_BV: Tensor) -> Tensor:
        assert logits_BV.shape == (2, VOCABULARY)
        return torch.tensor(next(script))

    tokens, real = lay_out_prompts([[5, 6, 7, 8], [1, 2, 3]], end=END, chunk_length=CHUNK)
    assert RetroAnswerer(model, END).answer(tokens, real, None, None, scripted, 10) == [[3, 4], []]
