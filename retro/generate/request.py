"""The types of generation, for the generation stage, the server and recipes.

    Request → Engine → Event, Event, … → Completion

A request says how its tokens are sampled and what its encoder reads; the engine batches many. Nothing here depends on
a model, a checkpoint or a tokenizer.
"""

# Dims in this file.
#   M tokens in a chunk   K neighbors of a chunk   R tokens of a neighbor   V vocabulary
#   G query groups of this rank   n vectors of documents   D head width

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from retro.qa.question import PassageLike

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Neighbors:
    """What the encoder reads for one chunk."""

    tokens_KR: NDArray[np.int64]
    mask_KR: NDArray[np.bool_]
    """True where a token is real; a missing neighbor is all False."""


class KnowledgeShape(NamedTuple):
    """What keys and values of documents a model reads."""

    layers: int
    """Decoder layers that read documents."""
    groups: int
    """G."""
    width: int
    """D."""


@dataclass(frozen=True)
class Knowledge:
    """Documents as keys and values, which every token of a sequence attends to beside those before it.

    Two of the same identity are taken for equal, and requests with the same object share its memory.
    """

    keys_values: Tensor = field(compare=False, repr=False)
    """[layers, 2, G, n, D]: for each decoder layer that reads documents, keys, then values, of this rank's heads; of
    any floating type, on the model's device."""
    identity: str
    """Names model, documents and their order; equal on all ranks."""

    @property
    def vectors(self) -> int:
        """n."""
        return self.keys_values.size(3)


@dataclass(frozen=True)
class Extension:
    """New tokens of one sequence: a whole prompt, one decoded token, or appended tokens."""

    row: int
    """The sequence, from `Decoder.open`."""
    tokens: Sequence[int]
    """At least one."""
    neighbors: Mapping[int, Neighbors] = field(default_factory=dict)
    """By place in `tokens`: the neighbors of the chunk that this token ends. That token is the first to attend to them,
    the M - 1 after it do too, unless another chunk ends before."""


class Decoder(Protocol):
    """A model with the caches of its open sequences."""

    vocabulary: int
    """V: ids at and above are padding of the embedding."""
    ends: tuple[int, ...]
    """Ids that end an answer, at least one."""
    sequence_length: int
    """Most tokens of a sequence."""
    chunk_length: int
    """M."""
    neighbors: int
    """K, as trained; a chunk may be given fewer or more."""
    retrieved_length: int
    """R."""
    reads_neighbors: bool
    """Whether there is an encoder; a GPT has none, and refuses neighbors."""
    adapters: tuple[str, ...]
    """Names of the adapters that a sequence can be read with, in place of the model as it is."""
    knowledge_shape: KnowledgeShape | None
    """What documents are read as; None: its layers read none (`Request.knowledge`)."""

    def open(self, adapter: str = "", knowledge: Knowledge | None = None) -> int:
        """A new, empty sequence.

        Args:
            adapter: Name of the adapter that it is read with; empty: the model as it is.
            knowledge: Documents that its tokens attend to; None: none.
        """

    def fork(self, row: int, count: int) -> list[int]:
        """New sequences that begin as copies of another: with its tokens, neighbors and documents, read once for all.

        Each continues by itself, and so does the other; any may be closed before the rest.

        Args:
            row: An open sequence.
            count: How many, at least 1.
        """

    def close(self, row: int) -> None:
        """Forget a sequence; its row may be given out again."""

    def extend(self, extensions: Sequence[Extension]) -> Tensor:
        """Read new tokens of some sequences, each at most once.

        Returns:
            [extensions, V] float32 logits of the token that follows each, on every rank.
        """

    def extend_all(self, extensions: Sequence[Extension]) -> list[Tensor]:
        """As `extend`, with the logits after every new token: [tokens, V] for each extension. For scoring."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the tokens of one request are sampled."""

    temperature: float = 0.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int = 0
    """Draw from so many of the likeliest tokens; 0: from all."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that together have this probability (Holtzman et al. 2020)."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens that stand in prompt or answer (Keskar et al. 2019);
    0.01 to 100."""
    min_new_tokens: int = 0
    """Tokens before the end token or a stop string may end the answer."""
    max_new_tokens: int = 32
    """Tokens after which it ends in any case."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    seed: int = 0
    """Seed of the request's own random numbers, so that its answer does not depend on the rest of its batch."""


@dataclass(frozen=True, kw_only=True)
class GivenPassages:
    """The same passages for every chunk."""

    passages: tuple[PassageLike, ...]


@dataclass(frozen=True, kw_only=True)
class LiveRetrieval:
    """Search the database with each finished chunk while generating."""

    passages: int = 2
    """K."""
    interval: int | None = None
    """Generated tokens between two searches, 1 to M (the papers' retrieval step); None: M, one search a chunk."""
    question: str = ""
    """What is asked for the prompt; empty: each of its chunks asks for itself. Later searches ask with the last M
    tokens."""


Reading = GivenPassages | LiveRetrieval | None


@dataclass(frozen=True, kw_only=True)
class TokenProbability:
    """One token and its log-probability, before temperature and penalties."""

    id: int
    logprob: float


@dataclass(frozen=True, kw_only=True)
class ChosenToken:
    """One token of an answer."""

    id: int
    logprob: float
    top: tuple[TokenProbability, ...] = ()
    """The likeliest tokens of this step, where the request asks for them."""
    named: tuple[TokenProbability, ...] = ()
    """The request's named tokens at this step, in its order."""
    appended: bool = False
    """Put there by a hook, not chosen by the model."""


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """The passages of one chunk."""

    position: int
    """Token that ends the chunk, counted from the start of the prompt."""
    passages: tuple[PassageLike, ...]


@dataclass(frozen=True, kw_only=True)
class Action:
    """What a hook asks for before the next token."""

    append: tuple[int, ...] = ()
    """Tokens to put after the ones there, as if they had been chosen. They count as new tokens, and come with the event
    of the next step; neither an end token nor a stop string among them ends the answer."""
    passages: tuple[PassageLike, ...] | None = None
    """Passages that the encoder reads from the next token on, in place of all that the request's `reading` gives."""
    stop: bool = False


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A running request as its hook sees it, after each token."""

    prompt: Sequence[int]
    tokens: Sequence[ChosenToken]
    text: str


Hook = Callable[[Progress], Action | None]


@dataclass(frozen=True, eq=False)
class Prefix:
    """Tokens whose caches an engine holds, for requests that continue them. Equal only to itself.

    From `BatchEngine.prefill`, or from a completion of a request with `keep`. Valid until `BatchEngine.release`.
    """

    tokens: tuple[int, ...]
    adapter: str = ""
    """What it was read with; only requests with the same can continue it."""
    knowledge: Knowledge | None = None
    """The documents that its tokens attended to; likewise."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt to continue."""

    prompt: Sequence[int]
    """At least one token; may be empty with a `prefix`."""
    adapter: str = ""
    """Name of the adapter that it is read with, one of `Decoder.adapters`; empty: the model as it is."""
    sampling: Sampling = Sampling()
    reading: Reading = None
    """What the encoder reads; None: nothing."""
    knowledge: Knowledge | None = None
    """Documents that prompt and answer attend to, as keys and values; None: none."""
    prefix: Prefix | None = None
    """Tokens before the prompt that the engine has computed. Prompt and prefix count as one prompt, also for where
    chunks end; chunks that end within the prefix have been read with it and are not read again."""
    keep: bool = False
    """Hold the caches when the request ends: `Completion.prefix` continues it."""
    top_logprobs: int = 0
    """Likeliest tokens to report for each step."""
    named_tokens: tuple[int, ...] = ()
    """Tokens whose log-probability is reported at each step, chosen or not."""
    hook: Hook | None = None
    question: str = ""
    """What is asked, as text, and"""
    passages: tuple[PassageLike, ...] = ()
    """passages at hand, best first: for a program that answers the request (`retro.generate.program`). The engine
    itself reads what `reading` says."""


Ended = Literal["end", "stop", "length", "cancelled", "hook"]
"""Why a request ended: an end token, a stop string, its token limit or a full sequence, `cancel`, its hook."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A finished answer."""

    tokens: tuple[ChosenToken, ...]
    """Without the end token."""
    text: str
    """Without the stop string."""
    ended: Ended
    retrieved: tuple[Retrieved, ...] = ()
    prompt_tokens: int = 0
    """With those of a prefix."""
    prefix: Prefix | None = None
    """All tokens, where the request asks to `keep` their caches; None where it ended before it was begun."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What a way of decoding says of its answer, as JSON values: recorded with the answer, and given by the server."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One step of one request, for streaming. Texts join to the completion's text."""

    text: str = ""
    """Text that is final with this step: never part of a stop string or of an incomplete character."""
    tokens: tuple[ChosenToken, ...] = ()
    retrieved: tuple[Retrieved, ...] = ()
    completion: Completion | None = None
    """Set in a request's last event."""


class Engine(Protocol):
    """Batches requests; one thread drives it."""

    def submit(self, request: Request) -> int:
        """Take a request in; it is begun in one of the next steps.

        Returns:
            Its number.

        Raises:
            ConfigError: A setting is out of range, or the prompt does not fit.
        """

    def cancel(self, number: int) -> None:
        """End a request early; its last event says "cancelled". Unknown or finished numbers are ignored."""

    def step(self) -> list[tuple[int, Event]]:
        """Choose one more token for every running request: their events, by number. Empty when nothing is left."""

    @property
    def waiting(self) -> int:
        """Requests submitted and not begun."""

    @property
    def running(self) -> int:
        """Requests begun and not ended."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer all of them, in their order."""

    def stream(self, request: Request) -> Iterator[Event]:
        """Answer one, step by step."""
