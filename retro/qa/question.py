"""Questions with their gold answers and passages, whoever brought them.

Instruction tuning trains on the first gold answer; evaluation scores against all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol


class PassageLike(Protocol):
    """What tuning, generation and the report need of a passage, whoever found it."""

    @property
    def document_id(self) -> str:
        """Name of the document it was cut from; empty when unknown."""

    @property
    def title(self) -> str:
        """Title of that document; may be empty."""

    @property
    def text(self) -> str:
        """The passage itself."""

    @property
    def score(self) -> float:
        """Similarity to the question; 0 when it came with the question and without one."""

    @property
    def row(self) -> int:
        """Row of the chunk database; -1 when it is not from there."""


@dataclass(frozen=True)
class Context:
    """A passage that came with the question."""

    title: str
    text: str
    document_id: str = ""
    score: float = 0.0
    row: int = -1


PassageOrder = Literal["best_first", "best_last", "best_at_ends"]
"""How passages stand in a prompt. `best_last`: the best is nearest to the question. `best_at_ends`: the best ones at
both ends, the worst in the middle, where models read least (Liu et al. 2023, arXiv:2307.03172)."""


Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Turn:
    """What somebody said in a conversation before the question."""

    role: Role
    text: str


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A piece of an answer: a text, or a special token by its name."""

    text: str = ""
    token: str = ""
    """Name of a special token; empty where it is a text."""
    learn: bool = True
    """Whether the model learns to write it; else it only reads it."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One item of a question file."""

    id: str
    """The file's own id, or the item's number in the file, counted from 0."""
    question: str
    answers: tuple[str, ...]
    """All gold answers, none of them blank. Only questions of a task that compares with none may lack them."""
    contexts: tuple[Context, ...] = ()
    chunk_contexts: tuple[tuple[Context, ...], ...] | None = None
    """`chunk_ctxs`: what the encoder reads while tuning once the answer's first chunk, second chunk, … is finished; it
    reads `contexts` until then. None: `contexts` throughout."""
    options: tuple[str, ...] = ()
    """The choices of a multiple-choice question."""
    document_ids: tuple[str, ...] = ()
    """Documents that hold the answer, where the file says so."""
    turns: tuple[Turn, ...] = ()
    """What was said before the question, in order."""
    unanswerable: bool = False
    """The passages do not hold the answer, as in SQuAD 2.0; `answers` is then the text that says so."""
    answer_groups: tuple[tuple[str, ...], ...] = ()
    """Answers in parts, where the metric wants them: what a group means is the task's to say."""
    labels: tuple[tuple[str, str], ...] = ()
    """What kind of question it is: names and values, such as type and bridge. For scores of each kind."""
    segments: tuple[Segment, ...] = ()
    """The answer to learn, piece by piece, in place of the first of `answers`."""
    segments_only: bool = False
    """The segments are the whole sample, its prompt among them: nothing is written before them but what the
    tokenizer's folder puts before every prompt, and no end token comes after them."""
    place: str = field(default="", compare=False)
    """Where it is in its file, for messages: `line 7 (item 6)`."""
