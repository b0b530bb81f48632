"""One YAML file is one run: the settings of every stage, and where the run is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import Field, model_validator

from retro.analysis.leakage.config import LeakageConfig
from retro.common.config import StageConfig, apply_overrides, config_json
from retro.common.errors import ConfigError, DataError
from retro.common.terminal import visible
from retro.common.yaml_files import read_yaml
from retro.corpus.config import CorpusConfig
from retro.db.config import DatabaseConfig, DbConfig
from retro.evaluate.config import EvaluateConfig
from retro.generate.config import GenerateConfig
from retro.index.config import Bm25Config, IndexConfig, SearchConfig
from retro.model.config import ModelConfig
from retro.neighbors.config import NeighborsConfig
from retro.pretrain.config import PerplexityConfig, PretrainConfig
from retro.serve.config import ServeConfig
from retro.sft.config import SftConfig
from retro.training.config import ParallelConfig, TrainConfig


class RunConfig(StageConfig):
    """Everything that decides what a run does. Without a file, a run over Python's own documentation."""

    whole_file: ClassVar[bool] = True

    run_dir: Path = Path("runs/default")
    """Where the run's artifacts go, one folder a stage."""
    inputs_from: str = ""
    """Where the files that the run reads come from: commands and addresses, shown when one is not there."""
    corpus: CorpusConfig = CorpusConfig()
    """Stage 1: texts, tokenizer, split."""
    db: DbConfig = DbConfig()
    """Stage 2: chunks."""
    index: IndexConfig = IndexConfig()
    """Stage 3: embedder and Faiss index."""
    bm25: Bm25Config = Bm25Config()
    """Stage 3: the BM25 index, which is built where `neighbors` or `search` read words."""
    neighbors: NeighborsConfig = NeighborsConfig()
    """Stage 4: neighbors of every training chunk."""
    database: DatabaseConfig = DatabaseConfig()
    """Which database neighbors and passages come from: another version, or another run's."""
    search: SearchConfig = SearchConfig()
    """By what it is searched for passages: in sft, generate, ask, serve and lm-eval. `neighbors` has the same settings
    for the neighbors of training chunks."""
    model: ModelConfig = ModelConfig()
    """The network that stage 5 trains."""
    parallel: ParallelConfig = ParallelConfig()
    """How it is spread over processes."""
    train: TrainConfig = TrainConfig()
    """Steps, batch and optimizer of stage 5."""
    pretrain: PretrainConfig = PretrainConfig()
    """Stage 5: baselines, and what to start from."""
    perplexity: PerplexityConfig = PerplexityConfig()
    """Perplexity of what stage 5 trained."""
    leakage: LeakageConfig = LeakageConfig()
    """How much of the held-out text is in the training text; `retro leakage`."""
    sft: SftConfig = SftConfig()
    """Stage 6: instruction tuning."""
    generate: GenerateConfig = GenerateConfig()
    """Stage 7: answers."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Stage 8: scores and report."""
    serve: ServeConfig = ServeConfig()
    """Answering over HTTP; `retro serve`."""
    recipe: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Settings of recipes, by the recipe's name; `retro recipe NAME show` lists them."""

    @model_validator(mode="after")
    def _vectors_where_they_are_searched(self) -> Self:
        if not self.index.embedder.makes_vectors:
            for name, search in (("neighbors", self.neighbors), ("search", self.search)):
                if search.reads_vectors:
                    kind = self.index.embedder.kind
                    need = f"needs to be 'bm25' with index.embedder.kind = {kind!r}, which makes no vectors"
                    raise ConfigError(f"{name}.source", search.source, need)
        return self

    @property
    def reads_words(self) -> bool:
        """Whether anything is searched by BM25."""
        return self.neighbors.reads_words or self.search.reads_words


def load_run_config(path: Path | None, overrides: Sequence[str]) -> RunConfig:
    """Read a run's YAML file, apply dotted overrides, and check every setting.

    Raises:
        DataError: The file is missing or is not YAML.
        ConfigError: A setting is unknown, or has a value that cannot work.
    """
    data: dict[str, Any] = {} if path is None else read_yaml(path)
    try:
        return run_config_of(data, overrides)
    except ConfigError as error:
        if path is None or overrides:
            raise
        raise DataError(path, str(error), "Fix that setting; `retro config schema` lists all") from None


def run_config_of(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """The run of settings by section, with dotted overrides over them.

    Raises:
        ConfigError: As `load_run_config`.
    """
    return RunConfig(**apply_overrides(settings, overrides))


def as_yaml(config: RunConfig) -> str:
    """The whole config with every default filled in."""
    return _yaml(config_json(config))


def model_section(model: ModelConfig) -> str:
    """The model section of a run config, every setting filled in."""
    return _yaml({"model": config_json(model)})


def _yaml(data: dict[str, Any]) -> str:
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    # Letters of any language stand as they are, unless a mark among them would steer the terminal.
    return text if visible(text) == text else yaml.safe_dump(data, sort_keys=False)
