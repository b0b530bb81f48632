"""Hard negatives while training: mined again after every so many steps, by the weights of then."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from retro.common.errors import ConfigError
from retro.common.files import discard
from retro.recipes.base import StepRun
from retro.recipes.dense_retriever.pairs import Pair, PairPassage, read_pairs
from retro.recipes.dense_retriever.same_question import HeldOut
from retro.recipes.dense_retriever.training.config import StartConfig, TrainConfig
from retro.recipes.dense_retriever.training.fitting import REFRESH
from retro.recipes.dense_retriever.training.mine import (
    PASSAGES_FILE,
    STORE,
    TRAIN_FILE,
    held_out_of,
    mine_pairs,
    open_searches,
)
from retro.recipes.dense_retriever.training.mine_config import MineConfig
from retro.recipes.dense_retriever.training.saved_model import embedder_of, save_model
from retro.recipes.item_files import read_items, write_items

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Refresher:
    """Hard negatives that are mined again while training, after every so many steps, by the weights of then."""

    pairs: Sequence[Pair]
    """With the negatives that training begins with."""
    given: Sequence[Pair]
    """The same, with the negatives of the files alone: those that `mine.keep_given` keeps before mined ones."""
    config: MineConfig
    start: StartConfig
    passages: Path
    out: Path
    """The folder of the files, one for each time: what was mined is not mined again after a kill."""
    every: int
    steps: int
    """Of the whole training: after the last one nothing is mined."""
    held_out: HeldOut
    cache: dict[int, Sequence[Sequence[PairPassage]]]

    @classmethod
    def of(cls, work: StepRun, config: TrainConfig, pairs: Sequence[Pair], start: StartConfig, steps: int) -> Refresher:
        """For the step `train`.

        Raises:
            ConfigError: There are no settings of `mine`.
        """
        mining: MineConfig | None = work.settings.mine
        if mining is None or "dense" not in mining.sources:
            need = "needs settings of `mine`, with the source dense: by these the current weights search"
            raise ConfigError("train.refresh_every", config.refresh_every, need)
        return cls(
            pairs=pairs, given=read_pairs(work.made_by("pairs") / TRAIN_FILE), config=mining, start=start,
            passages=work.made_by("segments") / PASSAGES_FILE, out=work.directory / REFRESH,
            every=config.refresh_every, steps=steps, held_out=held_out_of(work), cache={},
        )  # fmt: skip

    def pool(self, step: int) -> Sequence[Sequence[PairPassage]]:
        """Negatives of each pair in the batch of a step, counted from 0."""
        begun = step // self.every * self.every
        if begun not in self.cache:
            self.cache.clear()
            found = [one.negatives for one in self.pairs] if begun == 0 else self._read(begun)
            self.cache[begun] = found
        return self.cache[begun]

    def after(self, model: Any, step: int) -> None:
        """Mine by the weights after so many steps, where it is time and it has not been done."""
        if step % self.every or step >= self.steps or self._file(step).exists():
            return
        was_training = model.training
        model.eval()
        folder = self.out / f"model-{step}"
        save_model(model, self.start, folder, {})
        model.train(was_training)
        embedder = embedder_of(folder)
        searches = list(open_searches(self.config, self.passages, embedder, folder / STORE, title=self.start.title))
        made, counts = mine_pairs(self.given, searches, self.config, self.held_out)
        write_items(self._file(step), ({"id": one.id, "negatives": _records(one)} for one in made))
        discard(folder)
        log.info("train: %d negatives mined after step %d", counts.get("negatives", 0), step)

    def _file(self, step: int) -> Path:
        return self.out / f"negatives-{step}.jsonl"

    def _read(self, step: int) -> list[Sequence[PairPassage]]:
        found = read_items(self._file(step), ("id",), "negatives of a step")
        return [tuple(PairPassage(**one) for one in item["negatives"]) for item in found]


def _records(pair: Pair) -> list[Mapping[str, str]]:
    return [asdict(one) for one in pair.negatives]
