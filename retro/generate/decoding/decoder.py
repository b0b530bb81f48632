"""`request.Decoder` over a trained model and the caches of its sequences.

A call's new tokens go through the layers once, packed, whether they are a prompt, one token of each of many rows, or
appended tokens. Where a chunk with neighbors ends among them, the first layer with cross-attention runs the encoder
on them, conditioned on the states of the chunk's tokens, which depend on nothing that comes after; so a prompt of many
chunks needs one pass too.

Under pipeline parallelism every stage plans the same call, so each knows the size of what it receives: the new tokens'
states and, where chunks end, the neighbors, embedded before the stage with the encoder and encoded after it.

Rows may be read with adapters of their own (`AdapterChoice`). One pass reads them all, each packed token with its row's
adapter. Where chunks end the encoder runs too, which knows no rows: those rows have a pass for each adapter.
"""

# Dims in this file.
#   P packed tokens   H hidden size   V vocabulary   E new chunks   K neighbors   R tokens of a neighbor

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from retro.generate.decoding.batch import Batch, plan_batch
from retro.generate.decoding.chunks import CrossAttentionPlan, no_cross_attention, plan_cross_attention
from retro.generate.decoding.rows import Rows, require_extensions
from retro.generate.decoding.stack import CachedStack
from retro.generate.request import Extension, Knowledge
from retro.mcore import p2p
from retro.mcore.cpu import device
from retro.mcore.layers import TransformerConfig
from retro.mcore.lora import AdapterChoice
from retro.mcore.p2p import from_last_stage
from retro.model.model import RetroModel

_SHARE_FROM = 128
"""Copying fewer tokens costs less than attention in several parts."""


class CachedDecoder:
    """See `request.Decoder`."""

    def __init__(
        self,
        model: RetroModel,
        end: int | Sequence[int],
        *,
        share_from: int = _SHARE_FROM,
        choice: AdapterChoice | None = None,
    ) -> None:
        """Take a model over.

        Args:
            model: Trained, or one stage of it.
            end: The id that ends an answer, or all of those that do.
            share_from: Forks share the memory of so many tokens or more; of fewer, each gets a copy.
            choice: Of the model's adapters, where they are kept apart from its weights.
        """
        shape = model.shape
        self.model = model.eval()
        self.ends = (end,) if isinstance(end, int) else tuple(one for one in end if one < shape.vocabulary)
        self.vocabulary = shape.vocabulary
        self.sequence_length = shape.model.sequence_length
        self.chunk_length = shape.chunk_length
        self.retrieved_length = shape.retrieved_length
        self.reads_neighbors = shape.model.retrieval
        self.neighbors = shape.model.neighbors if shape.model.retrieval else 0
        self.choice = choice
        # Its own is applied to every row, and has no name.
        self.adapters = () if choice is None else tuple(name for name in choice.names if name)
        self._gate_closed = shape.model.gate == 0.0
        self._rows, self.share_from = Rows(), share_from
        with torch.inference_mode():
            self._stack = CachedStack(self.model)
        self.knowledge_shape = self._stack.knowledge_shape

    def open(self, adapter: str = "", knowledge: Knowledge | None = None) -> int:
        """A new, empty sequence, read with an adapter, empty: the model as it is; and with documents.

        Raises:
            ValueError: There is no such adapter, or the model reads no documents.
        """
        if adapter and adapter not in self.adapters:
            raise ValueError(f"a sequence is opened for the adapter {adapter!r}; there are {', '.join(self.adapters)}")
        if knowledge is not None and self.knowledge_shape is None:
            raise ValueError(f"a sequence is opened with {knowledge.identity}; the model reads no documents")
        return self._rows.open(adapter, knowledge)

    @torch.inference_mode()
    def fork(self, row: int, count: int) -> list[int]:
        """New sequences that begin as copies of another.

        Raises:
            ValueError: It is not open, or `count` is below 1.
        """
        source = self._rows[row]
        if count < 1:
            raise ValueError(f"sequence {row} is to be forked {count} times, needed 1 or more")
        if source.own >= self.share_from:
            self._stack.share(self._rows, source)
        forks = [self._rows.fork(row) for _ in range(count)]
        self._stack.reserve(len(self._rows), source.own, 0)
        for _, copy in forks:
            self._stack.copy_slot(copy)
        return [number for number, _ in forks]

    @property
    def cache_bytes(self) -> int:
        """Memory of the caches of this rank: slots, which are kept for later sequences, and shared segments."""
        shared = [tensor for one in self._rows.segments for tensor in (*one.keys, *one.values)]
        return self._stack.bytes + sum(one.nbytes for one in shared)

    @torch.inference_mode()
    def close(self, row: int) -> None:
        """Forget a sequence.

        Raises:
            ValueError: It is not open.
        """
        copy = self._rows.close(row)
        if copy is not None:
            self._stack.copy_slot(copy)

    @torch.inference_mode()
    def extend(self, extensions: Sequence[Extension]) -> Tensor:
        """[extensions, V] float32 logits of the token that follows each.

        Raises:
            ValueError: A row is not open or comes twice, brings no token or more than its sequence can hold, or
                neighbors that do not fit the model.
        """
        require_extensions(extensions, self._rows, self)
        passes = self._passes(extensions)
        found = [self._last_logits([extensions[place] for place in places]) for places in passes]
        return found[0] if len(found) == 1 else torch.stack(_in_order(passes, found))

    @torch.inference_mode()
    def extend_all(self, extensions: Sequence[Extension]) -> list[Tensor]:
        """As `extend`, with the logits after every new token: [tokens, V] for each extension."""
        require_extensions(extensions, self._rows, self)
        passes = self._passes(extensions)
        return _in_order(passes, [self._all_logits([extensions[place] for place in places]) for places in passes])

    def _passes(self, extensions: Sequence[Extension]) -> list[list[int]]:
        """Places of the extensions that one pass reads: all, unless the encoder runs for several adapters."""
        names = [self._rows[one.row].adapter for one in extensions]
        if len(set(names)) == 1 or self._gate_closed or not any(one.neighbors for one in extensions):
            return [list(range(len(extensions)))]
        found: dict[str | None, list[int]] = {}
        for place, one in enumerate(extensions):
            found.setdefault(names[place] if one.neighbors else None, []).append(place)
        return list(found.values())

    def _last_logits(self, extensions: Sequence[Extension]) -> Tensor:
        """[extensions, V]; see `extend`."""
        batch, hidden_P1H = self._forward(extensions)
        ends = {span.order: span.offset + span.count - 1 for span in batch.spans}
        last = [ends[number] for number in range(len(extensions))]
        return self._logits(hidden_P1H if last == list(range(len(hidden_P1H))) else hidden_P1H[last])

    def _all_logits(self, extensions: Sequence[Extension]) -> list[Tensor]:
        """[tokens, V] of each; see `extend_all`."""
        batch, hidden_P1H = self._forward(extensions)
        logits_PV = self._logits(hidden_P1H)
        spans = sorted(batch.spans, key=lambda span: span.order)
        return [logits_PV[span.offset : span.offset + span.count] for span in spans]

    def _forward(self, extensions: Sequence[Extension]) -> tuple[Batch, Tensor]:
        """Run new tokens through the layers: how they were packed, and [P, 1, H] states after the last layer here."""
        batch = plan_batch(extensions, self._rows, device())
        if self.choice is not None:
            self.choice.use_by_token([span.row.adapter for span in batch.spans for _ in span.tokens])
        chunks = [] if self._gate_closed else [chunk for one in extensions for chunk in one.neighbors.values()]
        most = max((len(chunk.tokens_KR) for chunk in chunks), default=0)
        self._stack.reserve(len(self._rows), batch.longest, most * self.retrieved_length)
        plan = no_cross_attention(batch)
        if not self._gate_closed:
            plan = plan_cross_attention(batch, self._stack.mask_BT, self.chunk_length, self.retrieved_length)
        first, last = self.model.pre_process, self.model.post_process
        inputs = self._embedded(batch, plan) if first else _receive(batch, plan, self.model.config)
        hidden_P1H, context = self._stack.forward(*inputs, batch, plan)
        if not last:
            _send(hidden_P1H, context)
        _advance(batch, plan)
        return batch, hidden_P1H

    def _embedded(self, batch: Batch, plan: CrossAttentionPlan) -> tuple[Tensor, Tensor | None]:
        """[P, 1, H] new tokens and [R, E K, H] neighbors of new chunks."""
        hidden_P1H = self._embed(batch.tokens_P[None], batch.position_P[None])
        if plan.new is None:
            return hidden_P1H, None
        ids = plan.new.neighbors_EKR.flatten(0, 1)
        return hidden_P1H, self._embed(ids, torch.arange(ids.size(1), device=ids.device).expand_as(ids))

    def _embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """[tokens, sequences, H] from [sequences, tokens]."""
        embedded: Tensor = self.model.embedding(input_ids=ids, position_ids=positions)
        return embedded

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


def _in_order(passes: Sequence[Sequence[int]], found: Sequence[Iterable[Tensor]]) -> list[Tensor]:
    """What several passes gave for the extensions at their places, in the order of the call."""
    by_place = {
        place: one for places, mine in zip(passes, found, strict=True) for place, one in zip(places, mine, strict=True)
    }
    return [by_place[place] for place in range(len(by_place))]


def _advance(batch: Batch, plan: CrossAttentionPlan) -> None:
    """Update the rows after a call."""
    for span in batch.spans:
        span.row.length += span.count
    for row, chunk in plan.ended:
        row.ended = None
        if chunk is not None:
            row.ended = chunk.span.start + chunk.place
            row.neighbors = len(chunk.neighbors.tokens_KR)
            row.padded = not chunk.neighbors.mask_KR.all()


def _send(hidden_P1H: Tensor, context: Tensor | None) -> None:
    """Send [P, 1, H] states and [R, E K, H] neighbors to the next stage, in one tensor."""
    parts = [x.flatten(0, 1) for x in (hidden_P1H, context) if x is not None]
    p2p.send_on(torch.cat(parts))


def _receive(batch: Batch, plan: CrossAttentionPlan, config: TransformerConfig) -> tuple[Tensor, Tensor | None]:
    """States and neighbors from the stage before."""
    tokens, of_neighbors = len(batch.tokens_P), 0
    if plan.new is not None:
        of_neighbors = plan.new.neighbors_EKR.numel()
    received = p2p.receive((tokens + of_neighbors, config.hidden_size), config.params_dtype)
    if plan.new is None:
        return received[:, None], None
    width = plan.new.neighbors_EKR.size(2)
    return received[:tokens, None], received[tokens:].unflatten(0, (width, -1))
