"""Documents as a frozen model reads them: from the store, from memory, or encoded at this moment.

What was used last stays in memory, up to a limit in bytes, and requests that run with the same documents share one
`Knowledge`. What was not stored is encoded when it is needed, and counted.
"""

# Dims in this file.
#   P documents   n vectors of a document   E width of a state   G query groups on this rank   D head width

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from retro.common.artifacts import fingerprint
from retro.generate.request import Knowledge
from retro.mcore import parallel
from retro.mcore.cpu import device
from retro.model.prefix import PrefixLayers
from retro.qa.question import PassageLike
from retro.recipes.dynamic_prefix.answering.store import KnowledgeStore, text_digest
from retro.recipes.dynamic_prefix.training.encoder import KnowledgeEncoder
from retro.recipes.dynamic_prefix.training.samples import document_text

DOCUMENTS_AT_ONCE = 32
"""That the encoder reads in one pass, where no setting says so."""


@torch.inference_mode()
def encode_texts(encoder: KnowledgeEncoder, texts: Sequence[str], at_once: int = DOCUMENTS_AT_ONCE) -> list[Tensor]:
    """[n, E] states of each document, in order; those of similar lengths are encoded together.

    Args:
        encoder: The knowledge encoder.
        texts: What it reads. Without a token there are no states, n = 0.
        at_once: Documents in one pass.
    """
    ids = encoder.tokenize(texts)
    order = sorted((place for place, one in enumerate(ids) if one), key=lambda place: len(ids[place]))
    nothing = torch.zeros(0, encoder.width, device=device())
    found: list[Tensor] = [nothing] * len(ids)
    for start in range(0, len(order), at_once):
        places = order[start : start + at_once]
        ids_Pn, real_Pn = _padded([ids[place] for place in places])
        states_PnE, kept_Pn = encoder.documents(ids_Pn, real_Pn)
        for place, states_nE, kept_n in zip(places, states_PnE, kept_Pn, strict=True):
            found[place] = states_nE[kept_n]
    return found


def _padded(ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, ids))
    ids_Pn = torch.tensor([[*one, *([0] * (longest - len(one)))] for one in ids], device=device())
    lengths_P1 = torch.tensor([len(one) for one in ids], device=device())[:, None]
    return ids_Pn, torch.arange(longest, device=device()) < lengths_P1


@dataclass
class DocumentCounts:
    """Where documents came from, since a source was opened."""

    stored: int = 0
    """Read from the store."""
    cached: int = 0
    """Found in memory."""
    encoded: int = 0
    """Not stored: encoded when they were needed."""
    empty: int = 0
    """Without a single token: nothing is read of them."""

    @property
    def record(self) -> dict[str, int]:
        """As JSON values."""
        return dict(vars(self))


class KnowledgeSource:
    """Passages to what the layers of one model read of them.

    Attributes:
        counts: Where documents came from.
    """

    def __init__(
        self,
        prefix: PrefixLayers,
        encoder: KnowledgeEncoder,
        store: KnowledgeStore | None,
        *,
        cache_bytes: int,
        identity: str,
    ) -> None:
        """Begin with nothing in memory.

        Args:
            prefix: The model's.
            encoder: Encodes what is not stored.
            store: Documents that are; None: none.
            cache_bytes: Memory for documents that were used last.
            identity: Of the model, part of the name of all that it makes.
        """
        self._prefix, self._encoder, self._store = prefix, encoder, store
        self._cache_bytes, self._identity = cache_bytes, identity
        self._cached: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0
        self._running: WeakValueDictionary[str, Knowledge] = WeakValueDictionary()
        self._static: Tensor | None = None
        self.counts = DocumentCounts()

    def of(self, passages: Sequence[PassageLike]) -> Knowledge | None:
        """What is read for one question; None where that is nothing."""
        return self.of_all([passages])[0]

    @torch.inference_mode()
    def of_all(self, questions: Sequence[Sequence[PassageLike]]) -> list[Knowledge | None]:
        """What is read for each question; what is not stored is encoded for all of them together.

        Args:
            questions: The passages of each, in the order in which their vectors stand.
        """
        texts = [[document_text(one) for one in passages] for passages in questions]
        parts = self._parts(list(dict.fromkeys(text for mine in texts for text in mine)))
        return [self._joined([(text_digest(text), parts[text]) for text in mine]) for mine in texts]

    @property
    def bytes(self) -> int:
        """Memory of the documents that are kept."""
        return self._bytes

    def _parts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """[layers, 2, G, n, D] of each document."""
        found: dict[str, Tensor] = {}
        missing = []
        for text in texts:
            part = self._known(text)
            if part is None:
                missing.append(text)
            else:
                found[text] = part
        self.counts.encoded += len(missing)
        for text, states_nE in zip(missing, encode_texts(self._encoder, missing), strict=True):
            found[text] = self._kept(text, self._projected(states_nE))
        self.counts.empty += sum(not part.size(3) for part in found.values())
        return found

    def _known(self, text: str) -> Tensor | None:
        digest = text_digest(text)
        if digest in self._cached:
            self._cached.move_to_end(digest)
            self.counts.cached += 1
            return self._cached[digest]
        row = None if self._store is None else self._store.find(text)
        if self._store is None or row is None:
            return None
        self.counts.stored += 1
        return self._kept(text, self._loaded(self._store, row))

    def _loaded(self, store: KnowledgeStore, row: int) -> Tensor:
        vectors = store.vectors(row).to(device())
        if store.header.kind == "states":
            return self._projected(vectors)
        rank, ranks = parallel.tensor_parallel_rank()
        groups = store.header.vector[2] // ranks
        # What is stored has the heads of all ranks.
        own = vectors[:, :, :, rank * groups : (rank + 1) * groups]
        return self._ready(own.permute(1, 2, 3, 0, 4))

    def _projected(self, states_nE: Tensor) -> Tensor:
        weight = next(self._encoder.parameters())
        return self._ready(self._prefix.keys_values(states_nE[:, None].to(weight))[:, :, 0])

    def _ready(self, keys_values: Tensor) -> Tensor:
        # On a CPU attention is computed in float32: converted once instead of at every token.
        kind = torch.float32 if keys_values.device.type == "cpu" else self._prefix.config.params_dtype
        return keys_values.to(kind).contiguous()

    def _kept(self, text: str, part: Tensor) -> Tensor:
        if part.nbytes <= self._cache_bytes:
            self._cached[text_digest(text)] = part
            self._bytes += part.nbytes
            while self._bytes > self._cache_bytes:
                self._bytes -= self._cached.popitem(last=False)[1].nbytes
        return part

    def _joined(self, parts: Sequence[tuple[str, Tensor]]) -> Knowledge | None:
        identity = f"documents {fingerprint([self._identity, *(digest for digest, _ in parts)])}"
        running = self._running.get(identity)
        if running is not None:
            return running
        whole = torch.cat([self._always(), *(part for _, part in parts)], dim=3)
        if not whole.size(3):
            return None
        self._running[identity] = found = Knowledge(whole, identity)
        return found

    def _always(self) -> Tensor:
        """[layers, 2, G, s, D] of the static vectors, which stand before all documents."""
        if self._static is None:
            weight = next(self._encoder.parameters())
            nothing: Any = weight.new_zeros(0, 1, self._encoder.width)
            states_s1E, _ = self._encoder.with_static(nothing, torch.zeros(1, 0, dtype=torch.bool, device=device()))
            self._static = self._projected(states_s1E[:, 0])
        return self._static
