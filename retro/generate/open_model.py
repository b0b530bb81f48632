"""The one way from a checkpoint to answers: of the generate stage, `retro ask`, the server, lm-eval and the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from retro.common.precision import PrecisionChoice, is_bfloat16
from retro.corpus.reader import Corpus
from retro.generate.config import GenerateConfig, ModelPaths
from retro.generate.engine import BatchEngine
from retro.generate.loading import (
    AdapterOptions,
    end_tokens,
    find_checkpoint,
    for_model,
    open_decoder,
    sequence_length,
    with_choice,
)
from retro.generate.ranks import on_first_rank, search_once
from retro.generate.request import Decoder
from retro.index.retriever import open_retriever
from retro.mcore import parallel
from retro.qa.passages import Retrieve
from retro.tokenizers.conventions import prompt_prefix
from retro.tokenizers.tokenizer import conventions_of
from retro.training.checkpoint import CheckpointInfo
from retro.training.config import ParallelConfig
from retro.training.loop import AddModules
from retro.training.model_tokenizer import model_tokenizer, open_corpus


class OpenModel:
    """A model with its tokenizer, decoder, search and engine, each opened when it is first used.

    Every rank of a model that is spread over processes uses it in the same order. What is opened raises ArtifactError
    where a file is missing or damaged, TrainingError where tokenizers do not match, and ConfigError where a setting or
    the layout does not fit the model.

    Attributes:
        config: Settings of generation; after `prepare`, as they fit the model.
        info: The checkpoint.
        paths: Where it, the corpus, the database and the index are.
        layout: Processes. Without a launcher one process holds the whole model, whatever this says.
        adapters: Adapters on the checkpoint that a request can choose, by name.
        modules: Gives the further modules that the checkpoint was trained with, as a recipe's are.
    """

    def __init__(
        self,
        config: GenerateConfig,
        info: CheckpointInfo,
        paths: ModelPaths,
        layout: ParallelConfig,
        adapters: Mapping[str, CheckpointInfo] | None = None,
        modules: AddModules | None = None,
    ) -> None:
        self.config, self.info, self.paths, self.layout = config, info, paths, layout
        self.adapters, self.modules = adapters or {}, modules

    def prepare(self, begun: str | None = None) -> PrecisionChoice:
        """Fit the settings to the model, see `for_model`, and choose the precision, see `with_choice`."""
        self.config, choice = with_choice(for_model(self.config, self.info), begun)
        return choice

    @cached_property
    def corpus(self) -> Corpus | None:
        """The corpus; None where there is none, nothing is searched, and the checkpoint has a tokenizer."""
        return open_corpus(self.paths.corpus, self.info, searches=self.config.searches)

    @cached_property
    def tokenizer_and_dir(self) -> tuple[Any, Path]:
        """The tokenizer that the model speaks, and its directory."""
        return model_tokenizer(self.info, self.corpus)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that the model speaks."""
        return self.tokenizer_and_dir[0]

    @property
    def prefix(self) -> tuple[int, ...]:
        """Token ids that every prompt begins with, see `GenerateConfig.add_special_tokens`."""
        known = conventions_of(self.tokenizer)
        return prompt_prefix(known, self.config.add_special_tokens, "generate.add_special_tokens")

    @cached_property
    def decoder(self) -> Decoder:
        """The network, ready to continue from prompts."""
        layout = self.layout if parallel.world_size() > 1 else ParallelConfig()
        ends, length = end_tokens(self.tokenizer, self.config), sequence_length(self.config, self.info)
        precision = self.config.precision
        options = AdapterOptions(
            separate=self.config.separate_adapters,
            allow_unchanged=self.config.allow_unchanged_adapters,
            others=self.adapters,
        )
        return open_decoder(
            self.info.path, layout, ends, bfloat16=is_bfloat16(precision),
            float16_weights=precision == "float16_weights", sequence_length=length, options=options,
            modules=self.modules,
        )  # fmt: skip

    def open_search(self, corpus: Corpus, passages: int) -> Retrieve:
        """A search for the `passages` best of each text: the first rank opens database and index, for all."""
        paths, opened = self.paths, list[Retrieve]()
        on_first_rank(lambda: opened.append(open_retriever(corpus, paths.db, paths.index, passages, paths.search)))
        return search_once(opened[0] if opened else None)

    @cached_property
    def retrieve(self) -> Retrieve | None:
        """The search of the settings; None where they search nothing."""
        if not self.config.searches or self.corpus is None:
            return None
        return self.open_search(self.corpus, max(self.config.passages, self.config.contexts_in_prompt))

    @cached_property
    def engine(self) -> BatchEngine:
        """What answers, `generate.batch_size` requests at a time."""
        decoder = self.decoder
        return self.new_engine(decoder, self.retrieve, self.config.batch_size)

    def new_engine(self, decoder: Decoder, retrieve: Retrieve | None, max_running: int) -> BatchEngine:
        """Another engine over a decoder, with a search of its own."""
        return BatchEngine(decoder, self.tokenizer, retrieve, max_running, neighbor_text=self.config.neighbor_text)


def open_model(config: GenerateConfig, paths: ModelPaths, layout: ParallelConfig | None = None) -> OpenModel:
    """The model that answers, its settings checked; nothing big is read yet.

    Args:
        config: Which checkpoint, passages, how many are answered at once, precision.
        paths: Where model and stages are.
        layout: Processes; None: one.

    Raises:
        ConfigError: The model cannot do what the settings want.
        TrainingError: The checkpoint has another size than `config.size`.
        ArtifactError: There is no checkpoint, or none of the step.
    """
    model = OpenModel(config, find_checkpoint(config, paths.checkpoint), paths, layout or ParallelConfig())
    model.prepare()
    return model
