"""Facts of the served model, and the limits of requests. No weights, no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retro.qa.passages import Retrieve
from retro.qa.prompt_texts import PromptTexts
from retro.qa.prompts import Style
from retro.qa.question import PassageLike, PassageOrder
from retro.serve.config import ServeConfig
from retro.serve.protocol import Source
from retro.serve.responses import ModelCard, ModelRetrieval
from retro.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """A model as requests see it."""

    name: str
    """What clients call it."""
    adapter: str = ""
    """The adapter that its requests are read with; empty: the model as it is."""
    parent: str | None = None
    """Name of the model that the adapter adapts; None: this is none."""
    created: int
    """When it was loaded, in seconds since 1970."""
    tokenizer: Tokenizer
    token_bytes: Sequence[bytes] | None
    """By token id; None where a token's text depends on the tokens around it."""
    sequence_length: int
    """Most tokens of prompt and answer together."""
    chunk_length: int
    """M."""
    neighbors: int
    """K, as trained."""
    reads_neighbors: bool
    """Whether there is an encoder."""
    retrieve: Retrieve | None
    """Texts to passages, best first; None: there is no index."""
    style: Style
    """Prompt style of chats."""
    kind: str
    """What a chat's last message wants, one of `retro.qa.prompts.known_kinds()`."""
    contexts_in_prompt: int
    """Passages shown in a chat's prompt."""
    texts: PromptTexts | None = None
    """The prompt texts; None: the shipped ones."""
    template: str = ""
    """One of their templates; empty: the usual prompt."""
    passage_order: PassageOrder = "best_first"
    """How passages stand in a chat's prompt."""
    recipe: str = ""
    """The recipe whose programs answer chats; empty: none."""
    answer_tokens: int | None = None
    """Tokens of a chat's answer where a request does not say; None: as many as there may be."""
    prefix: tuple[int, ...] = ()
    """Token ids that prompts begin with, except those that a chat template writes."""

    @property
    def uses_passages(self) -> bool:
        """Whether a chat can use passages in any way."""
        return self.reads_neighbors or self.contexts_in_prompt > 0

    @property
    def sources(self) -> list[Source]:
        """Where passages can come from."""
        found: list[Source] = ["none", "given"] if self.uses_passages else ["none"]
        return [*found, "live"] if self.uses_passages and self.retrieve is not None else found

    def default_source(self, config: ServeConfig) -> Source:
        """Where passages come from when a request does not say."""
        return "live" if config.retrieval == "live" and "live" in self.sources else "none"

    def search(self, text: str, k: int) -> tuple[PassageLike, ...]:
        """The k best passages for a text; none without an index."""
        found: Sequence[Sequence[PassageLike]] = self.retrieve([text]) if self.retrieve is not None else [()]
        return tuple(found[0][:k])

    def card(self, config: ServeConfig) -> ModelCard:
        """What `/v1/models` says of it."""
        retrieval = ModelRetrieval(
            default=self.default_source(config),
            sources=self.sources,
            chunk_length=self.chunk_length,
            k=self.neighbors,
            max_k=config.max_passages,
        )
        return ModelCard(
            id=self.name,
            object="model",
            created=self.created,
            owned_by="retro",
            root=self.parent or self.name,
            parent=self.parent,
            max_model_len=self.sequence_length,
            max_new_tokens=config.max_new_tokens,
            retrieval=retrieval,
        )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may ask for at most; from ServeConfig."""

    prompt_tokens: int
    new_tokens: int
    choices: int
    passages: int

    @classmethod
    def of(cls, config: ServeConfig) -> Limits:
        """The limits that a config sets; choices that could never fit in the queue are refused at once."""
        return cls(
            prompt_tokens=config.max_prompt_tokens,
            new_tokens=config.max_new_tokens,
            choices=min(config.max_choices, config.max_running + config.max_queued),
            passages=config.max_passages,
        )
