"""Load a service from finished stages: checkpoint, tokenizer, index, engine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from retro.common.errors import ConfigError
from retro.generate.config import GenerateConfig, ModelPaths
from retro.generate.engine import BatchEngine
from retro.generate.loading import find_checkpoint, with_choice
from retro.generate.open_model import OpenModel
from retro.generate.program import BeginRequest, ProgramEngine
from retro.generate.request import Decoder, Engine
from retro.generate.task_prompt import warn_of_other_prompts
from retro.mcore import parallel
from retro.qa.passages import Retrieve
from retro.qa.prompt_texts import PromptTexts, load_prompts
from retro.qa.prompts import require_template
from retro.qa.question import PassageLike
from retro.serve.adapters import find_adapters, log_memory, with_adapters
from retro.serve.app import Service
from retro.serve.config import ServeConfig
from retro.serve.middleware import Metrics
from retro.serve.model_info import ModelInfo
from retro.serve.request_body import BodyTimeouts
from retro.serve.scheduler import Scheduler
from retro.serve.searches import Searches
from retro.tokenizers.token_bytes import shown_token_bytes
from retro.training.config import ParallelConfig
from retro.training.loop import AddModules

log = logging.getLogger(__name__)


def load_service(
    config: ServeConfig,
    generate: GenerateConfig,
    paths: ModelPaths,
    name: str,
    begin: BeginRequest | None = None,
    modules: AddModules | None = None,
) -> Service:
    """Load everything that requests need.

    Args:
        config: Settings of the server.
        generate: Checkpoint, prompt style and passages, as for `retro generate`.
        paths: Of the run.
        name: What the model is called where the config does not say.
        begin: The program that answers a request, of the recipe that the config names; None: each is one continuation.
        modules: Gives the further modules of the recipe's checkpoint.

    Raises:
        ConfigError: There are several processes, the prompt texts lack a kind or template, or adapters a fitting name.
        DataError: The file of prompt texts is missing or broken.
        TrainingError: The checkpoint has another size, or was trained with another tokenizer.
        ArtifactError: An artifact is missing or damaged, or adapters are of another checkpoint.
    """
    if parallel.world_size() > 1:
        raise ConfigError("WORLD_SIZE", parallel.world_size(), "needs to be 1: a server is one process, on one device")
    texts = load_prompts(generate.prompts)
    texts.rule_of_kind(config.kind, "serve.kind")
    require_template("generate.template", generate.template, texts)
    info, metrics = find_checkpoint(generate, paths.checkpoint), Metrics()
    # A GPT has no encoder: passages reach it through the prompt alone.
    generate = generate.model_copy(update={"encoder": generate.encoder and info.shape.model.retrieval})
    if begin is None:
        warn_of_other_prompts(generate, info.path, texts)
    searches = config.retrieval == "live" and bool(generate.encoder or generate.contexts_in_prompt)
    settings = ("retrieved_passages",) if searches else ("closed_book",)
    generate, _ = with_choice(generate.model_copy(update={"settings": settings}))
    adapters = find_adapters(config, generate, info, config.model_name or name)
    for one in adapters.values():
        warn_of_other_prompts(generate, one.path, texts)
    model = OpenModel(generate, info, paths, ParallelConfig(), adapters, modules)
    decoder, retrieve, passages = model.decoder, None, None
    log_memory(decoder, adapters)
    if searches and model.corpus is not None:
        most = max(config.max_passages, generate.contexts_in_prompt)
        search = _one_at_a_time(model.open_search(model.corpus, most))
        retrieve = metrics.counted(search)
        passages = Searches(lambda texts, _: search(texts), metrics, config.seconds_per_request)
    open_engine = _engine_opener(lambda: model.new_engine(decoder, retrieve, config.max_running), begin, config)
    capacity = config.max_running + config.max_queued
    served = _model_info(config, model, decoder, retrieve, texts, name)
    return Service(
        config=config,
        model=served,
        adapters=with_adapters(served, adapters),
        scheduler=Scheduler(open_engine, capacity=capacity, stall_seconds=config.seconds_per_request),
        metrics=metrics,
        body_timeouts=BodyTimeouts(config.arrival_seconds),
        searches=passages,
    )


def _model_info(
    config: ServeConfig, model: OpenModel, decoder: Decoder, retrieve: Retrieve | None, texts: PromptTexts, name: str
) -> ModelInfo:
    generate, (tokenizer, tokenizer_dir) = model.config, model.tokenizer_and_dir
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
        recipe=config.recipe,
        answer_tokens=min(generate.max_new_tokens, config.max_new_tokens)
        if config.recipe and generate.max_new_tokens
        else None,
        contexts_in_prompt=generate.contexts_in_prompt,
        texts=texts,
        template=generate.template,
        passage_order=generate.passage_order,
        prefix=model.prefix,
    )


def _engine_opener(
    new_engine: Callable[[], BatchEngine], begin: BeginRequest | None, config: ServeConfig
) -> Callable[[], Engine]:
    """Opens a new engine, after freeing the decoder memory that the one before still held."""
    before: list[BatchEngine | ProgramEngine] = []

    def open_engine() -> Engine:
        while before:
            before.pop().abandon()
        engine = new_engine()
        programs = None if begin is None else ProgramEngine(engine, partial(begin, engine), config.max_running)
        before.append(programs or engine)
        return before[0]

    return open_engine


def _one_at_a_time(retrieve: Retrieve) -> Retrieve:
    """The same search behind a lock: prompts and generation search on different threads."""
    lock = threading.Lock()

    def search(texts: list[str]) -> Sequence[Sequence[PassageLike]]:
        with lock:
            return retrieve(texts)

    return search
