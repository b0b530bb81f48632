"""How a question is put to the frozen model: its prompt, its documents as keys and values, as text, or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retro.common.config import config_json
from retro.common.errors import ConfigError
from retro.generate.chunk_retrieval import Tokenizer
from retro.generate.decoding.decoder import CachedDecoder
from retro.generate.engine import BatchEngine
from retro.generate.request import Completion, Knowledge, Request
from retro.generate.request_checks import LONGER
from retro.generate.runner import PreparedQuestion
from retro.qa.question import PassageLike
from retro.qa.sample_layout import PromptIds, fit_prompt
from retro.recipes.dynamic_prefix.answering.config import Mode
from retro.recipes.dynamic_prefix.answering.documents import DocumentCounts, KnowledgeSource
from retro.recipes.dynamic_prefix.answering.store import KnowledgeStore
from retro.recipes.dynamic_prefix.config import DynamicPrefixConfig, PrefixTrainConfig
from retro.recipes.dynamic_prefix.training.encoder_files import known_config
from retro.recipes.dynamic_prefix.training.loading import prefix_checkpoint
from retro.recipes.dynamic_prefix.training.parts import encoder_of, modules_of, prefix_of
from retro.recipes.dynamic_prefix.training.samples import document_text, most_of_prompt, prompt_ids
from retro.recipes.dynamic_prefix.training.train import ENCODER, PREFIX_RUN
from retro.training import checkpoint
from retro.training.loop import AddModules

_MIB = 2**20
SEPARATOR = "\n\n"
"""Ends each document in a prompt."""


@dataclass(frozen=True, kw_only=True)
class TrainedPrefix:
    """The folder of a step that trained: the encoder and the prefix, beside a network that is elsewhere."""

    run: Path
    """With the checkpoints."""
    modules: AddModules
    """Gives the encoder and the prefix to whoever opens one."""
    identity: Mapping[str, Any]
    """What decides how a document is read, as JSON values: weights, and how documents are cut and compressed."""

    @classmethod
    def of(cls, directory: Path) -> TrainedPrefix:
        """Of a step's folder.

        Raises:
            ArtifactError, DataError: Checkpoint or encoder is missing or damaged.
        """
        config = known_config(directory / ENCODER)
        mark = checkpoint.identity(prefix_checkpoint(directory))
        return cls(
            run=directory / PREFIX_RUN,
            modules=modules_of(directory / ENCODER, config, initial=False),
            identity={"checkpoint": mark, "prefix": config_json(config)},
        )


def open_store(settings: DynamicPrefixConfig, model: Mapping[str, Any], store: Path | None) -> KnowledgeStore | None:
    """What is stored, where the settings say that it is read.

    Args:
        settings: The recipe's.
        model: Identity of the model.
        store: The folder of the step `encode`; None: nothing is stored.

    Raises:
        ArtifactError: It is damaged, or was made by another model.
    """
    return KnowledgeStore.open(store, model) if store is not None and settings.answer.stored else None


def open_source(
    engine: BatchEngine, settings: DynamicPrefixConfig, model: Mapping[str, Any], store: Path | KnowledgeStore | None
) -> KnowledgeSource:
    """Documents for the model of an engine, which was opened with the recipe's modules.

    Args:
        engine: Its model encodes what is not stored.
        settings: The recipe's.
        model: Its identity.
        store: As `open_store` gave it, or a folder to open.

    Raises:
        ArtifactError: As `open_store`.
    """
    decoder = engine.decoder
    if not isinstance(decoder, CachedDecoder):
        raise ValueError(f"documents are read by a model of this toolkit, not by a {type(decoder).__name__}")
    opened = store if isinstance(store, KnowledgeStore) else open_store(settings, model, store)
    cache, network = settings.answer.cache_mib * _MIB, decoder.model
    identity = str(model["checkpoint"])
    return KnowledgeSource(prefix_of(network), encoder_of(network), opened, cache_bytes=cache, identity=identity)


def documents_read(settings: DynamicPrefixConfig) -> int:
    """K, the documents of a question."""
    return settings.answer.documents or settings.prefix.documents


def question_prompts(
    texts: Sequence[str], engine: BatchEngine, config: PrefixTrainConfig, new_tokens: int
) -> list[list[int]]:
    """Prompts as the prefix was trained with.

    Args:
        texts: Questions.
        engine: For its tokenizer and the length of its sequences.
        config: The fixed sentence.
        new_tokens: Longest answer, which has to fit behind a prompt.

    Raises:
        ConfigError: The answer leaves no room for a prompt.
    """
    length = engine.decoder.sequence_length
    room = min(most_of_prompt(config, config.sequence_length or length), length - new_tokens)
    if room < 1:
        need = f"needs to leave a prompt in a sequence of {length}{LONGER}"
        raise ConfigError("recipe.dynamic_prefix.answer.max_new_tokens", new_tokens, need)
    tokenizer: Any = engine.tokenizer
    return prompt_ids(texts, tokenizer, config, room)


def with_documents(
    prompt: Sequence[int], documents: Sequence[PassageLike], engine: BatchEngine, new_tokens: int
) -> list[int]:
    """A prompt with documents as text before it, the worst cut from their ends where there is no room.

    Args:
        prompt: Of the question alone; never cut.
        documents: Best first, and shown so.
        engine: For its tokenizer and the length of its sequences.
        new_tokens: Longest answer.
    """
    return documents_before(prompt, documents, engine.tokenizer, engine.decoder.sequence_length - new_tokens)


def documents_before(
    prompt: Sequence[int], documents: Sequence[PassageLike], tokenizer: Tokenizer, room: int
) -> list[int]:
    """As `with_documents`, in a prompt of at most `room` tokens."""
    contexts = tokenizer.encode_batch([f"{document_text(one)}{SEPARATOR}" for one in documents])
    separator = tokenizer.encode_batch([SEPARATOR])[0]
    ids = PromptIds(head=(), contexts=contexts, tail=list(prompt), separator=separator)
    fitted = fit_prompt(ids, room)
    return list(prompt) if fitted is None else fitted[0]


class PrefixPolicy:
    """A `Policy` of `retro.generate.runner`: a question's documents in one of three forms.

    Attributes:
        identity: What shapes the answers.
    """

    def __init__(self, settings: DynamicPrefixConfig, mode: Mode, model: Mapping[str, Any], store: Path | None) -> None:
        """Set up; the store is opened with the first question.

        Args:
            settings: The recipe's.
            mode: In which form documents are given.
            model: Identity of the model.
            store: The folder of the step `encode`; None: nothing is stored.
        """
        self._settings, self._mode, self._model, self._store = settings, mode, model, store
        self._source: KnowledgeSource | None = None
        own = {"documents": documents_read(settings), "question": settings.train.question}
        self.identity: Mapping[str, Any] = {"recipe": "dynamic_prefix", "mode": mode, **own, "model": dict(model)}

    @property
    def counts(self) -> DocumentCounts:
        """Where documents came from."""
        return DocumentCounts() if self._source is None else self._source.counts

    def generate(self, engine: BatchEngine, asked: Sequence[PreparedQuestion]) -> list[Completion]:
        """Answer some questions, in their order.

        Raises:
            ConfigError: The answer leaves no room for a prompt.
            ArtifactError: What is stored was made by another model.
        """
        if not asked:
            return []
        longest = max(one.request.sampling.max_new_tokens for one in asked)
        prompts = question_prompts([one.question.question for one in asked], engine, self._settings.train, longest)
        documents = [tuple(one.passages)[: documents_read(self._settings)] for one in asked]
        read: list[Knowledge | None] = [None] * len(asked)
        if self._mode == "prefix":
            if self._source is None:
                self._source = open_source(engine, self._settings, self._model, self._store)
            read = self._source.of_all(documents)
        if self._mode == "prompt":
            prompts = [
                with_documents(prompt, mine, engine, longest) for prompt, mine in zip(prompts, documents, strict=True)
            ]
        requests = [
            replace(one.request, prompt=prompt, knowledge=known, reading=None)
            for one, prompt, known in zip(asked, prompts, read, strict=True)
        ]
        found = engine.generate(requests)
        return [
            replace(one, details={"dynamic_prefix": told(self._mode, mine, request)})
            for one, mine, request in zip(found, documents, requests, strict=True)
        ]


def told(mode: Mode, documents: Sequence[PassageLike], request: Request) -> dict[str, Any]:
    """What is recorded with an answer: which documents were read, in which form, and how long they were."""
    vectors = 0 if request.knowledge is None else request.knowledge.vectors
    read = [] if mode == "none" else [one.document_id for one in documents]
    return {"mode": mode, "documents": read, "vectors": vectors, "prompt_tokens": len(request.prompt)}
