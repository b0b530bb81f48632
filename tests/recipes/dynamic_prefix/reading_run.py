"""A run whose frozen model has an encoder and a prefix beside it, trained for no more than two steps: what documents
say moves its answers, since its gates start open, and nothing is learned.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from retro.generate.engine import BatchEngine
from retro.generate.loading import open_decoder
from retro.model.model import RetroModel
from retro.qa.question import Context
from retro.recipes.base import RECIPES, StepRun, recipe_path, recipe_settings, run_recipe
from retro.recipes.dynamic_prefix.answering.policy import TrainedPrefix
from retro.recipes.dynamic_prefix.config import DynamicPrefixConfig
from retro.run.config import RunConfig, load_run_config
from retro.run.pipeline import stage
from retro.tokenizers.tokenizer import load_tokenizer
from retro.training import checkpoint
from retro.training.config import ParallelConfig

RECIPE = RECIPES.find("dynamic_prefix", "recipe")
THINGS, COLOURS = 12, 8
SENTENCE = "Answer the question. Question: {question} Answer:"
WORDS = [
    "<|endoftext|>",
    "[UNK]",
    *SENTENCE.replace("{question}", "").split(),
    *(f"thing{number}" for number in range(THINGS)),
    *(f"colour{number}" for number in range(COLOURS)),
    *["what", "is", "the", "colour", "of", "?", ".", "it", "was", "painted", "long", "ago", "by", "nobody"],
]


def document(number: int, *, long: bool = False) -> dict[str, str]:
    text = f"the colour of thing{number} is colour{number % COLOURS} ."
    more = " it was painted long ago by nobody ." * (number % 3 + 1) if long else ""
    return {"id": f"d{number}", "title": f"thing{number}", "text": text + more}


def contexts(*numbers: int) -> tuple[Context, ...]:
    """Documents as they stand in the questions."""
    found = [document(number, long=number % 2 == 1) for number in numbers]
    return tuple(Context(one["title"], one["text"], one["id"]) for one in found)


def question(number: int, documents: Sequence[int]) -> dict[str, Any]:
    return {
        "id": f"q{number}",
        "question": f"what is the colour of thing{number} ?",
        "answers": [f"colour{number % COLOURS}"],
        "ctxs": [{**document(one, long=one % 2 == 1), "document_id": f"d{one}"} for one in documents],
    }


def write_lines(path: Path, items: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in items), encoding="utf-8")
    return path


def _tokenizer(path: Path) -> None:
    words = dict.fromkeys(WORDS)
    made = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = WhitespaceSplit()
    made.save(str(path))


@dataclass(frozen=True)
class Reading:
    """What the tests share."""

    config: RunConfig

    @property
    def settings(self) -> DynamicPrefixConfig:
        found = recipe_settings(self.config, RECIPE)
        assert isinstance(found, DynamicPrefixConfig)
        return found

    @property
    def home(self) -> Path:
        return recipe_path(self.config, RECIPE)

    @property
    def questions(self) -> Path:
        return self.home / "retrieve" / "test.jsonl"

    @property
    def trained(self) -> TrainedPrefix:
        return TrainedPrefix.of(self.home / "train")

    def with_settings(self, **sections: Mapping[str, Any]) -> Reading:
        """The same run under other settings of the recipe."""
        own = dict(self.config.recipe["dynamic_prefix"])
        own |= {name: {**own.get(name, {}), **one} for name, one in sections.items()}
        return Reading(self.config.model_copy(update={"recipe": {"dynamic_prefix": own}}))

    def work(self, name: str, directory: Path) -> StepRun:
        """A step that writes elsewhere; its folder is there."""
        [step] = [one for one in RECIPE.steps if one.name == name]
        config = self.config.model_copy(update={"run_dir": directory})
        work = StepRun(recipe=RECIPE, step=step, config=config, settings=self.settings)
        work.directory.mkdir(parents=True)
        return work

    def engine(self, *, bfloat16: bool = False) -> BatchEngine:
        """An engine with the encoder and the prefix beside its network."""
        trained = self.trained
        tokenizer = checkpoint.read_info(checkpoint.find(trained.run)).tokenizer
        assert tokenizer is not None
        decoder = open_decoder(trained.run, ParallelConfig(), 0, bfloat16=bfloat16, modules=trained.modules)
        return BatchEngine(decoder, load_tokenizer(tokenizer))

    def network(self, engine: BatchEngine) -> RetroModel:
        found = engine.decoder.model  # type: ignore[attr-defined]
        assert isinstance(found, RetroModel)
        return found


def make(folder: Path, **prefix: Any) -> Reading:
    """Pretrain two steps, then train the encoder beside that for two."""
    folder.mkdir(parents=True, exist_ok=True)
    _tokenizer(folder / "tokenizer.json")
    every = [document(number, long=True) for number in range(THINGS)]
    write_lines(folder / "corpus.jsonl", [{"title": one["title"], "text": one["text"]} for one in every])
    asked = [question(number, [number, (number + 5) % THINGS][: number % 3]) for number in range(1, 9)]
    train = {"train_only": "modules", "steps": 2, "warmup_steps": 0, "lr": 1e-3, "precision": "float32"}
    recipe = {
        "data": {
            "train": str(write_lines(folder / "train.jsonl", asked)),
            "test": str(write_lines(folder / "test.jsonl", asked)),
            "valid_share": 0.0,
        },
        "prefix": {
            "encoder": {"layers": 1, "hidden_size": 16, "heads": 2},
            "documents": 2,
            "max_document_tokens": 24,
            "gate_init": 0.8,
            **prefix,
        },
        "train": {"question": SENTENCE, "train": {**train, "micro_batch": 4, "global_batch": 4}},
        "store": {"documents_per_block": 3, "documents_at_once": 2},
        "answer": {"max_new_tokens": 6, "batch_size": 4},
    }
    settings = {
        "run_dir": f"{folder}/run",
        "corpus.sources": f"[{{name: facts, path: {folder}/corpus.jsonl}}]",
        "corpus.tokenizer": f"{{kind: huggingface, path: {folder}/tokenizer.json}}",
        "corpus.split": "[1.0, 0.0, 0.0]",
        "db": "{chunk_length: 8}",
        "index.embedder": "{kind: hashing, dimension: 512}",
        "model": "{layers: 2, hidden_size: 32, heads: 4, query_groups: 2, ffn_hidden_size: 64, sequence_length: 96, "
        "retrieval: false, vocabulary_multiple: 1, init_std: 0.3, activation: swiglu, normalization: RMSNorm}",
        "train": "{steps: 2, warmup_steps: 0, lr: 1.0e-6, precision: float32, micro_batch: 2, global_batch: 2}",
        "generate": "{precision: float32}",
        "recipe.dynamic_prefix": json.dumps(recipe),
    }
    config = load_run_config(None, [f"{name}={value}" for name, value in settings.items()])
    for name in ("corpus", "db", "index", "pretrain"):
        stage(name).run(config)
    run_recipe(RECIPE, config, "train", until=True)
    return Reading(config)
