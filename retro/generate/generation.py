"""A running request: its tokens, its text, and why it ended."""

# Dims in this file.
#   V vocabulary

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from retro.generate.chunk_retrieval import ChunkEnd, ChunkNeighbors, ChunkReader
from retro.generate.detokenize import AnswerText, Detokenizer, HeldText
from retro.generate.prefix import HeldPrefix
from retro.generate.request import (
    Action,
    ChosenToken,
    Completion,
    Decoder,
    Ended,
    Event,
    Extension,
    Prefix,
    Progress,
    Request,
    Retrieved,
)
from retro.generate.sampling import TokenSelection


class Generation:
    """A request that was begun."""

    def __init__(self, request: Request, decoder: Decoder, tokenizer: Detokenizer, held: HeldPrefix | None) -> None:
        """Begin a request.

        Args:
            request: Its prompt begins with the tokens of its prefix.
            decoder: The model.
            tokenizer: The model's.
            held: The state of its prefix.
        """
        self.request, self.held = request, held
        self.row = -1
        """Of the decoder; -1 until it is opened."""
        self.reader = ChunkReader(request.reading, len(request.prompt), decoder.chunk_length)
        self.ids = list(request.prompt)
        """Prompt and answer."""
        self.appended = 0
        """How many of the last ids a hook put there that are not among `tokens` yet."""
        self.tokens: list[ChosenToken] = []
        self.ended: Ended | None = None
        self.prefix: Prefix | None = None
        """What is held of it after its end."""
        self.logits_V: Tensor | None = None
        """Of the token that follows, where all tokens are read and something will ask for it."""
        self._decoder = decoder
        self._read = 0
        if held is not None:
            self._read, self.reader.has_read = held.read, held.has_read
            self.logits_V = held.logits_V if held.read == len(self.ids) else None
        self._ending: Ended | None = None
        """Why it ends as soon as the decoder has read what a hook appended."""
        self._text = ""
        self._retrieved: list[Retrieved] = []
        self._characters = AnswerText(tokenizer, request.prompt)
        self._stops = HeldText(request.sampling.stop)
        self._random = np.random.default_rng(request.sampling.seed)
        self._seen_V: Tensor | None = None
        self._told = (0, 0, 0)
        """Tokens, characters and chunks that earlier events reported."""

    @property
    def has_unread(self) -> bool:
        """Whether there are tokens that the decoder has not read."""
        return self._read < len(self.ids)

    def begins_as(self, other: Generation) -> bool:
        """Whether both read the same before their first new token."""
        mine, its = self.request, other.request
        same = mine.prefix == its.prefix and mine.reading == its.reading and mine.adapter == its.adapter
        return same and mine.knowledge == its.knowledge and self.ids == other.ids

    def chunk_ends(self) -> list[ChunkEnd]:
        """Ends of chunks among the tokens that the decoder has not read."""
        return [end for end in self.reader.ends(self.ids) if end.position >= self._read]

    def held_state(self) -> HeldPrefix:
        """For those who continue it."""
        # Copied: it may be a row of a whole batch.
        logits_V = None if self.has_unread or self.logits_V is None else self.logits_V.clone()
        return HeldPrefix(
            row=self.row,
            read=self._read,
            logits_V=logits_V,
            has_read=self.reader.has_read,
            adapter=self.request.adapter,
            knowledge=self.request.knowledge,
        )

    def extension(self, found: Sequence[ChunkNeighbors]) -> Extension:
        """What the decoder has not read yet, with what was found for the chunks that end in it."""
        self._retrieved += [Retrieved(position=one.position, passages=one.passages) for one in found]
        first, self._read = self._read, len(self.ids)
        neighbors = {one.position - first: one.neighbors for one in found if one.neighbors is not None}
        return Extension(self.row, self.ids[first:], neighbors)

    def choice(self, device: torch.device) -> TokenSelection:
        """How the next token is chosen; takes the next number of the request's stream where one is needed."""
        sampling = self.request.sampling
        if sampling.repetition_penalty != 1.0 and self._seen_V is None:
            self._seen_V = torch.zeros(self._decoder.vocabulary, dtype=torch.bool, device=device)
            self._seen_V[self.ids] = True
        return TokenSelection(
            sampling=sampling,
            may_end=self._may_end,
            seen_V=self._seen_V,
            uniform=self._random.random() if sampling.temperature > 0 else 0.0,
        )

    @property
    def _may_end(self) -> bool:
        return len(self.tokens) >= self.request.sampling.min_new_tokens

    def take(self, token: ChosenToken) -> None:
        """Go on with a chosen token, or end with it."""
        if token.id in self._decoder.ends:
            self.finish("end")
            return
        self.ids.append(token.id)
        self._record(token)
        if self._stops.stopped:
            self.ended = "stop"
        elif self._is_full or len(self.ids) > self._decoder.sequence_length:
            self.finish("length")
        elif self.request.hook is not None:
            progress = Progress(prompt=self.request.prompt, tokens=self.tokens, text=self._text + self._stops.held)
            self._do(self.request.hook(progress))

    def take_appended(self, tokens: Sequence[ChosenToken]) -> None:
        """Record what a hook appended, now that its log-probabilities are known. It ends nothing by itself: neither
        an end token in it nor a stop string."""
        self.appended = 0
        for token in tokens:
            self._record(token, may_stop=False)
        if self._ending is not None:
            self.finish(self._ending)
        elif self._is_full:
            self.finish("length")

    def finish(self, ended: Ended) -> None:
        """End, with whatever text was held back."""
        self._text += self._stops.add(self._characters.rest(), may_stop=self._may_end) + self._stops.rest()
        self.ended = "stop" if self._stops.stopped else ended

    @property
    def _is_full(self) -> bool:
        return len(self.tokens) >= self.request.sampling.max_new_tokens

    def _record(self, token: ChosenToken, *, may_stop: bool = True) -> None:
        self.tokens.append(token)
        if self._seen_V is not None:
            self._seen_V[token.id] = True
        self._text += self._stops.add(self._characters.add(token.id), may_stop=may_stop and self._may_end)

    def _do(self, action: Action | None) -> None:
        """Do what the hook wants.

        Raises:
            ValueError: It appends a token that does not exist, or gives passages to a GPT.
        """
        if action is None:
            return
        strange = [token for token in action.append if not 0 <= token < self._decoder.vocabulary]
        if strange:
            raise ValueError(f"a hook appends token {strange[0]}; there are {self._decoder.vocabulary}")
        if action.passages is not None and not self._decoder.reads_neighbors:
            raise ValueError("a hook gives passages to a model without an encoder")
        fitting = action.append[: self._decoder.sequence_length - len(self.ids)]
        if len(fitting) < len(action.append):
            self._ending = "length"
        elif action.stop:
            self._ending = "hook"
        self.ids += fitting
        self.appended = len(fitting)
        if action.passages is not None:
            self.reader.swap(action.passages, len(self.ids) - 1)
        if self._ending is not None and not fitting:
            self.finish(self._ending)

    def event(self) -> Event:
        """What is new since the last event."""
        tokens, characters, chunks = self._told
        self._told = len(self.tokens), len(self._text), len(self._retrieved)
        return Event(
            text=self._text[characters:],
            tokens=tuple(self.tokens[tokens:]),
            retrieved=tuple(self._retrieved[chunks:]),
            completion=None if self.ended is None else self._completion(self.ended),
        )

    def _completion(self, ended: Ended) -> Completion:
        return Completion(
            tokens=tuple(self.tokens),
            text=self._text,
            ended=ended,
            retrieved=tuple(self._retrieved),
            prompt_tokens=len(self.request.prompt),
            prefix=self.prefix,
        )
