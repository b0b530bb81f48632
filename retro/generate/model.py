"""A trained Retro as the model that answers: left-padded prompts in, answer tokens out.

Every step computes the whole sequence anew; nothing is cached between steps yet.
"""

# Dims in this file.
#   B questions of a batch   S tokens so far   M tokens in a chunk   L whole chunks, S // M
#   K passages   R tokens of a passage   V vocabulary

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retro.mcore.cpu import device
from retro.model.model import RetroModel


class RetroAnswerer:
    """Wraps a model for `retro.generate.ask`."""

    def __init__(self, model: RetroModel, end: int) -> None:
        self.model, self.end = model.eval(), end
        self.chunk_length = model.shape.chunk_length
        self.vocabulary = model.shape.vocabulary

    @torch.inference_mode()
    def answer(
        self,
        tokens_BS: NDArray[np.int64],
        token_mask_BS: NDArray[np.bool_],
        neighbors_BKR: NDArray[np.int64] | None,
        neighbor_mask_BKR: NDArray[np.bool_] | None,
        pick: Callable[[Tensor], Tensor],
        max_new_tokens: int,
    ) -> list[list[int]]:
        """Token ids of each answer, without the end token; see `retro.generate.ask.AnswerModel`."""
        tokens, real = torch.from_numpy(tokens_BS).to(device()), torch.from_numpy(token_mask_BS).to(device())
        passages = None
        if neighbors_BKR is not None and neighbor_mask_BKR is not None:
            passages = torch.from_numpy(neighbors_BKR).to(device()), torch.from_numpy(neighbor_mask_BKR).to(device())
        prompt_length = tokens.size(1)
        ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        for _ in range(max_new_tokens):
            # Padded rows of the embedding have no token: they must never be chosen.
            logits_BV = self._last_logits(tokens, real, passages)[:, : self.vocabulary]
            chosen_B = pick(logits_BV).masked_fill(ended, self.end)
            ended |= chosen_B == self.end
            if bool(ended.all()):
                break
            tokens = torch.cat((tokens, chosen_B[:, None]), dim=1)
            real = torch.cat((real, torch.ones_like(real[:, :1])), dim=1)
        return [_until(row, self.end) for row in tokens[:, prompt_length:].tolist()]

    def _last_logits(self, tokens_BS: Tensor, real_BS: Tensor, passages: tuple[Tensor, Tensor] | None) -> Tensor:
        neighbors = mask = None
        chunks = tokens_BS.size(1) // self.chunk_length
        if passages is not None and chunks:
            neighbors, mask = (x[:, None].expand(-1, chunks, -1, -1) for x in passages)
            # A batch is padded to its longest prompt. A chunk of nothing but padding has no neighbors, as in tuning.
            whole_BLM = real_BS[:, : chunks * self.chunk_length].unflatten(1, (chunks, self.chunk_length))
            mask = mask & whole_BLM.any(dim=-1)[:, :, None, None]
        # Without padding the plain causal mask is the same, and its attention is faster.
        token_mask = None if bool(real_BS.all()) else real_BS
        return self.model(tokens_BS, neighbors, mask, token_mask, gather_logits=True)[:, -1].float()


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
