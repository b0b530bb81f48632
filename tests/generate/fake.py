"""A decoder without a model, and a tokenizer of letters: what a request is answered can be written down by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from retro.generate.request import Extension, Knowledge, KnowledgeShape, Neighbors
from retro.qa.question import Context

LETTERS = "#abcdefghijklmnopqrstuvwxyz .\n"
END = 0


class LetterTokenizer:
    """Every letter is a token; # ends."""

    eod = END

    def encode(self, text: str) -> list[int]:
        return [LETTERS.index(letter) for letter in text]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(LETTERS[one] for one in ids if one != END)

    def decode_batch(self, ids: Sequence[Sequence[int]]) -> list[str]:
        return [self.decode(row) for row in ids]


def letters(text: str) -> list[int]:
    """Token ids of a text."""
    return LetterTokenizer().encode(text)


def passage(text: str) -> Context:
    """A passage without a title."""
    return Context("", text, document_id=f"d-{text}", row=len(text))


@dataclass
class Row:
    """One sequence of the fake."""

    ids: list[int] = field(default_factory=list)
    read: dict[int, Neighbors] = field(default_factory=dict)
    """By position."""

    @property
    def text(self) -> str:
        """Prompt and answer."""
        return LetterTokenizer().decode(self.ids)

    def reads(self, position: int) -> list[str]:
        """The neighbors given at a position, as texts."""
        given = self.read[position]
        pairs = zip(given.tokens_KR, given.mask_KR, strict=True)
        return [LetterTokenizer().decode(tokens_R[mask_R].tolist()) for tokens_R, mask_R in pairs]


Rule = Callable[[Row], str | Tensor]
"""What follows a sequence: the next letter, or logits [V]."""


class FakeDecoder:
    """Goes by a rule; remembers what it was given."""

    vocabulary = len(LETTERS)
    ends: tuple[int, ...] = (END,)
    chunk_length = 4
    neighbors = 2
    retrieved_length = 5
    adapters: tuple[str, ...] = ()
    knowledge_shape: KnowledgeShape | None = None

    def __init__(self, rule: Rule, *, sequence_length: int = 64, reads_neighbors: bool = True) -> None:
        self.rule = rule
        self.sequence_length, self.reads_neighbors = sequence_length, reads_neighbors
        self.rows: dict[int, Row] = {}
        self.closed: list[Row] = []
        self.calls: list[int] = []
        """Sequences of each call."""
        self.tokens = 0
        """Tokens of all calls."""
        self.forks: list[int] = []
        self.opened: list[tuple[str, Knowledge | None]] = []

    def open(self, adapter: str = "", knowledge: Knowledge | None = None) -> int:
        number = min(set(range(len(self.rows) + 1)) - set(self.rows))
        self.rows[number] = Row()
        self.opened.append((adapter, knowledge))
        return number

    def fork(self, row: int, count: int) -> list[int]:
        self.forks.append(count)
        source, forks = self.rows[row], [self.open() for _ in range(count)]
        del self.opened[-count:]
        for fork in forks:
            self.rows[fork] = Row(list(source.ids), dict(source.read))
        return forks

    def close(self, row: int) -> None:
        self.closed.append(self.rows.pop(row))

    def extend(self, extensions: Sequence[Extension]) -> Tensor:
        return torch.stack([logits_TV[-1] for logits_TV in self.extend_all(extensions)])

    def extend_all(self, extensions: Sequence[Extension]) -> list[Tensor]:
        self.calls.append(len(extensions))
        assert len({extension.row for extension in extensions}) == len(extensions)
        return [self._extend(extension) for extension in extensions]

    def _extend(self, extension: Extension) -> Tensor:
        row = self.rows[extension.row]
        assert extension.tokens
        self.tokens += len(extension.tokens)
        assert set(extension.neighbors) <= set(range(len(extension.tokens)))
        logits = []
        for place, token in enumerate(extension.tokens):
            if place in extension.neighbors:
                assert self.reads_neighbors
                row.read[len(row.ids)] = extension.neighbors[place]
            row.ids.append(token)
            assert len(row.ids) <= self.sequence_length
            logits.append(self._logits(row))
        return torch.stack(logits)

    def _logits(self, row: Row) -> Tensor:
        said = self.rule(row)
        if isinstance(said, Tensor):
            return said
        logits_V = torch.zeros(self.vocabulary)
        logits_V[LETTERS.index(said)] = 10.0
        return logits_V


def says(text: str, prompt: int) -> Rule:
    """Spell a text out after a prompt of so many tokens, then end."""
    return lambda row: (text + "#")[min(len(text), len(row.ids) - prompt)] if len(row.ids) >= prompt else "#"


def random_rule(row: Row) -> Tensor:
    """Logits that depend on the last tokens alone."""
    generator = torch.Generator().manual_seed(sum(token * 31**place for place, token in enumerate(row.ids[-3:])))
    return 2 * torch.randn(len(LETTERS), generator=generator)
