"""Load a service from finished stages: checkpoint, tokenizer, index, engine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.common.errors import ConfigError
from retro.common.precision import is_bfloat16
from retro.generate.config import GenerateConfig
from retro.generate.engine import BatchEngine
from retro.generate.loading import end_tokens, find_checkpoint, open_decoder, sequence_length, with_choice
from retro.generate.request import Decoder, Engine
from retro.generate.task_prompt import warn_of_other_prompts
from retro.index.config import SearchConfig
from retro.index.retriever import BY_VECTORS, open_retriever
from retro.mcore import parallel
from retro.qa.passages import Retrieve
from retro.qa.prompt_texts import PromptTexts, load_prompts
from retro.qa.prompts import require_template
from retro.qa.question import PassageLike
from retro.serve.app import Service
from retro.serve.config import ServeConfig
from retro.serve.metrics import Metrics
from retro.serve.model_info import ModelInfo
from retro.serve.request_body import BodyTimeouts
from retro.serve.scheduler import Scheduler
from retro.tokenizers.conventions import prompt_prefix
from retro.tokenizers.token_bytes import shown_token_bytes
from retro.tokenizers.tokenizer import Tokenizer, conventions_of
from retro.training.config import ParallelConfig
from retro.training.model_tokenizer import model_tokenizer, open_corpus

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StagePaths:
    """Where the stages of a run are."""

    checkpoint: Path
    """A checkpoint, a directory of them, or a finished tuning stage."""
    corpus: Path
    db: Path
    index: Path
    search: SearchConfig = BY_VECTORS


def load_service(config: ServeConfig, generate: GenerateConfig, paths: StagePaths, name: str) -> Service:
    """Load everything that requests need.

    Args:
        config: Settings of the server.
        generate: Checkpoint, prompt style and passages, as for `retro generate`.
        paths: Stages of the run.
        name: What the model is called where the config does not say.

    Raises:
        ConfigError: There are several processes, or the prompt texts lack a kind or template.
        DataError: The file of prompt texts is missing or broken.
        TrainingError: The checkpoint has another size, or was trained with another tokenizer.
        ArtifactError: An artifact is missing or damaged.
    """
    if parallel.world_size() > 1:
        raise ConfigError("WORLD_SIZE", parallel.world_size(), "needs to be 1: a server is one process, on one device")
    texts = load_prompts(generate.prompts)
    texts.rule_of_kind(config.kind, "serve.kind")
    require_template("generate.template", generate.template, texts)
    info, metrics = find_checkpoint(generate, paths.checkpoint), Metrics()
    # A GPT has no encoder: passages reach it through the prompt alone.
    generate = generate.model_copy(update={"encoder": generate.encoder and info.shape.model.retrieval})
    warn_of_other_prompts(generate, info.path, texts)
    generate, _ = with_choice(generate)
    bfloat16 = is_bfloat16(generate.precision)
    searches = config.retrieval == "live" and bool(generate.encoder or generate.contexts_in_prompt)
    corpus = open_corpus(paths.corpus, info, searches=searches)
    tokenizer, tokenizer_dir = model_tokenizer(info, corpus)
    ends, length = end_tokens(tokenizer, generate), sequence_length(generate, info)
    decoder = open_decoder(info.path, ParallelConfig(), ends, bfloat16=bfloat16, sequence_length=length)
    retrieve = None
    if searches and corpus is not None:
        most = max(config.max_passages, generate.contexts_in_prompt)
        retrieve = metrics.counted(_one_at_a_time(open_retriever(corpus, paths.db, paths.index, most, paths.search)))
    open_engine = _engine_opener(decoder, tokenizer, retrieve, config, generate)
    capacity = config.max_running + config.max_queued
    return Service(
        config=config,
        model=_model_info(config, generate, decoder, tokenizer, tokenizer_dir, retrieve, texts, name),
        scheduler=Scheduler(open_engine, capacity=capacity, stall_seconds=config.seconds_per_request),
        metrics=metrics,
        body_timeouts=BodyTimeouts(config.arrival_seconds),
    )


def _model_info(
    config: ServeConfig,
    generate: GenerateConfig,
    decoder: Decoder,
    tokenizer: Tokenizer,
    tokenizer_dir: Path,
    retrieve: Retrieve | None,
    texts: PromptTexts,
    name: str,
) -> ModelInfo:
    return ModelInfo(
        name=config.model_name or name,
        created=int(time.time()),
        tokenizer=tokenizer,
        token_bytes=shown_token_bytes(tokenizer_dir, tokenizer),
        sequence_length=decoder.sequence_length,
        chunk_length=decoder.chunk_length,
        neighbors=decoder.neighbors,
        reads_neighbors=generate.encoder,
        retrieve=retrieve,
        style=generate.style,
        kind=config.kind,
        contexts_in_prompt=generate.contexts_in_prompt,
        texts=texts,
        template=generate.template,
        prefix=prompt_prefix(conventions_of(tokenizer), generate.add_special_tokens, "generate.add_special_tokens"),
    )


def _engine_opener(
    decoder: Decoder, tokenizer: Any, retrieve: Retrieve | None, config: ServeConfig, generate: GenerateConfig
) -> Callable[[], Engine]:
    """Opens a new engine, after freeing the decoder memory that the one before still held."""
    before: list[BatchEngine] = []

    def open_engine() -> Engine:
        while before:
            before.pop().abandon()
        before.append(
            BatchEngine(decoder, tokenizer, retrieve, config.max_running, neighbor_text=generate.neighbor_text)
        )
        return before[0]

    return open_engine


def _one_at_a_time(retrieve: Retrieve) -> Retrieve:
    """The same search behind a lock: prompts and generation search on different threads."""
    lock = threading.Lock()

    def search(texts: list[str]) -> Sequence[Sequence[PassageLike]]:
        with lock:
            return retrieve(texts)

    return search
