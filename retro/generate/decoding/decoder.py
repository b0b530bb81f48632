"""The decoder of `request.Decoder`: a trained model over the caches of its sequences.

A call's new tokens go through the layers once, packed, whether they are a prompt, one token of each of many rows, or
what was appended in between. Where a chunk with neighbors ends among them, the first layer with cross-attention
encodes these from the states of the chunk's tokens, which depend on nothing that comes after; so a prompt of many
chunks needs one pass too.
"""

# Dims in this file.
#   P packed tokens   H hidden size   V vocabulary   E new chunks   K neighbors   R tokens of a neighbor

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retro.generate.decoding.checks import require_extensions
from retro.generate.decoding.chunks import Reading, nothing_to_read, plan_reading
from retro.generate.decoding.handing_on import hand_on, receive
from retro.generate.decoding.rows import Rows
from retro.generate.decoding.stack import CachedStack
from retro.generate.decoding.step import Step, plan_step
from retro.generate.request import Extension
from retro.mcore.cpu import device
from retro.mcore.p2p import from_last_stage
from retro.model.model import RetroModel


class CachedDecoder:
    """See `request.Decoder`."""

    def __init__(self, model: RetroModel, end: int | Sequence[int]) -> None:
        shape = model.shape
        self.model = model.eval()
        self.ends = (end,) if isinstance(end, int) else tuple(one for one in end if one < shape.vocabulary)
        self.vocabulary = shape.vocabulary
        self.sequence_length = shape.model.sequence_length
        self.chunk_length = shape.chunk_length
        self.retrieved_length = shape.retrieved_length
        self.reads_neighbors = shape.model.retrieval
        self.neighbors = shape.model.neighbors if shape.model.retrieval else 0
        self._shut = shape.model.gate == 0.0
        self._rows = Rows()
        with torch.inference_mode():
            self._stack = CachedStack(self.model)

    def open(self) -> int:
        """A new, empty sequence."""
        return self._rows.open()

    @torch.inference_mode()
    def close(self, row: int) -> None:
        """Forget a sequence.

        Raises:
            ValueError: It is not open.
        """
        move = self._rows.close(row)
        if move is not None:
            self._stack.move(move)

    @torch.inference_mode()
    def extend(self, extensions: Sequence[Extension]) -> Tensor:
        """[extensions, V] float32 logits of the token that follows each.

        Raises:
            ValueError: A row is not open or comes twice, brings no token or more than its sequence can hold, or
                neighbors that do not fit the model.
        """
        step, hidden_P1H = self._read_on(extensions)
        ends = {span.order: span.offset + span.count - 1 for span in step.spans}
        last = [ends[number] for number in range(len(extensions))]
        return self._logits(hidden_P1H if last == list(range(len(hidden_P1H))) else hidden_P1H[last])

    @torch.inference_mode()
    def extend_all(self, extensions: Sequence[Extension]) -> list[Tensor]:
        """As `extend`, with the logits after every new token: [tokens, V] for each extension."""
        step, hidden_P1H = self._read_on(extensions)
        logits_PV = self._logits(hidden_P1H)
        spans = sorted(step.spans, key=lambda span: span.order)
        return [logits_PV[span.offset : span.offset + span.count] for span in spans]

    def _read_on(self, extensions: Sequence[Extension]) -> tuple[Step, Tensor]:
        """Read new tokens: how they were packed, and [P, 1, H] states after the last layer of this stage."""
        require_extensions(extensions, self._rows, self)
        step = plan_step(extensions, self._rows, device())
        chunks = [] if self._shut else [chunk for one in extensions for chunk in one.neighbors.values()]
        most = max((len(chunk.tokens_KR) for chunk in chunks), default=0)
        self._stack.reserve(len(self._rows), step.longest, most * self.retrieved_length)
        reading = nothing_to_read(step)
        if not self._shut:
            reading = plan_reading(step, self._stack.mask_BT, self.chunk_length, self.retrieved_length)
        first, last = self.model.pre_process, self.model.post_process
        arrived = self._embedded(step, reading) if first else receive(step, reading, self.model.config)
        hidden_P1H, context = self._stack.forward(*arrived, step, reading)
        if not last:
            hand_on(hidden_P1H, context)
        self._remember(step, reading)
        return step, hidden_P1H

    def _embedded(self, step: Step, reading: Reading) -> tuple[Tensor, Tensor | None]:
        """[P, 1, H] new tokens and [R, E K, H] neighbors of new chunks."""
        hidden_P1H = self._embed(step.tokens_P[None], step.position_P[None])
        if reading.new is None:
            return hidden_P1H, None
        ids = reading.new.neighbors_EKR.flatten(0, 1)
        return hidden_P1H, self._embed(ids, torch.arange(ids.size(1), device=ids.device).expand_as(ids))

    def _embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """[tokens, sequences, H] from [sequences, tokens]."""
        embedded: Tensor = self.model.embedding(input_ids=ids, position_ids=positions)
        return embedded

    def _remember(self, step: Step, reading: Reading) -> None:
        for span in step.spans:
            span.row.length += span.count
        for row, chunk in reading.ended:
            row.ended = None
            if chunk is not None:
                row.ended = chunk.span.start + chunk.place
                row.neighbors = len(chunk.neighbors.tokens_KR)
                row.padded = not chunk.neighbors.mask_KR.all()

    def _logits(self, hidden_P1H: Tensor) -> Tensor:
        """[P, V] float32, on every rank."""
        model = self.model
        if not model.post_process:
            return from_last_stage(torch.empty(len(hidden_P1H), self.vocabulary, device=hidden_P1H.device))
        weight = model.shared_embedding_or_output_weight() if model.share_embeddings_and_output_weights else None
        normed_P1H = model.decoder.final_layernorm(hidden_P1H)
        logits_P1V, _ = model.output_layer(normed_P1H, weight=weight, runtime_gather_output=True)
        # Rows of the embedding that only pad it have no token.
        return from_last_stage(logits_P1V[:, 0, : self.vocabulary].float())
