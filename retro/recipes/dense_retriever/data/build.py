"""Step `pairs`: files of questions become pairs, split by document so that nothing of one part is in the other.

train.jsonl, valid.jsonl    pairs (`retro.recipes.dense_retriever.pairs`)
split.json                  documents, questions and positives of each part, counted in these files, and what is in both

The side of a document is that of every recipe (`retro.recipes.document_split`). A question that was asked about
documents of both sides, or a text that stands in two of them, stays with what is held out: the pair of the training
part is dropped, and counted.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from retro.common.artifacts import fingerprint
from retro.common.block_stage import Advance
from retro.common.blocks import Block, BlockStore
from retro.common.checksum_cache import known_sha256
from retro.common.errors import ConfigError, DataError
from retro.common.files import write_plain_json
from retro.common.input_files import require_regular
from retro.common.leases import remove_leases
from retro.qa.formats.item import BadItemError
from retro.recipes.base import Made, Step, StepRun
from retro.recipes.dense_retriever.data.block_processes import PlannedBlocks, build_blocks
from retro.recipes.dense_retriever.data.data_config import DataConfig, PairFormat
from retro.recipes.dense_retriever.data.item_stream import input_files, items_of
from retro.recipes.dense_retriever.data.natural_questions import natural_questions
from retro.recipes.dense_retriever.data.pair_items import Found, NoPositiveError, PositiveText, hotpotqa, plain_pairs
from retro.recipes.dense_retriever.data.pair_split import Split, prove_split, write_parts
from retro.recipes.dense_retriever.data.windows import cut_to, length_unit, token_starts
from retro.recipes.dense_retriever.pairs import Pair, PairPassage, pair_of_record, text_id, text_key

log = logging.getLogger(__name__)

TRAIN, VALID, SPLIT = "train.jsonl", "valid.jsonl", "split.json"
_SECTION = "recipe.dense_retriever.data"
_FIX = "Fix or remove it, or set recipe.dense_retriever.data.skip_bad"
_FORMATS: Mapping[PairFormat, Callable[[Mapping[str, Any], str], Found]] = {
    "natural_questions": natural_questions,
    "contriever": plain_pairs,
    "pairs": plain_pairs,
    "hotpotqa": hotpotqa,
}


def run(work: StepRun) -> Made:
    """Read the files, split, and prove that the parts share nothing.

    Raises:
        ConfigError: No file is given.
        DataError: A file cannot be used, a part has no pair, or the parts share something.
    """
    config: DataConfig = work.settings.data
    if not config.sources:
        raise ConfigError(f"{_SECTION}.sources", [], "needs at least one file of questions with passages")
    plan = PairPlan(config, work.directory)
    store = build_blocks(plan, config.workers)
    sources = plan.counts(store)
    _require_pairs(sources)
    train, valid = work.directory / TRAIN, work.directory / VALID
    dropped = write_parts(lambda: _stored_pairs(store), Split(config.seed, config.valid), train, valid)
    proof = prove_split(train, valid)
    write_plain_json(work.directory / SPLIT, {"seed": config.seed, "valid_share": config.valid, **proof})
    counts = {"sources": sources, "dropped": dropped, **proof}
    log.info("pairs: %s", json.dumps(proof["pairs"]))
    store.remove()
    remove_leases(work.directory)
    return Made(files=[TRAIN, VALID, SPLIT], counts=counts)


def _require_pairs(sources: Sequence[Mapping[str, Any]]) -> None:
    """Raise DataError where no source has a pair: each is named with what became of its items."""
    if any(one.get("pairs") for one in sources):
        return
    found = []
    for one in sources:
        counts = {name: count for name, count in one.items() if name not in ("path", "format") and count}
        said = ", ".join(f"{name} {count}" for name, count in counts.items()) or "no item"
        found.append(f"{one['path']} as {one['format']}: {said}")
    need = f"Check the files and their format; without {_SECTION}.skip_bad the first bad item is named"
    if any("skipped.not_utf8" in one for one in sources):
        need = "Give files in UTF-8: iconv -f UTF-16 -t UTF-8, if they are UTF-16"
    raise DataError(f"{_SECTION}.sources", f"hold no pair of a question and a passage ({'; '.join(found)})", need)


@dataclass(frozen=True)
class PairPlan:
    """One block for each file: the pairs that it holds, before they are split."""

    config: DataConfig
    directory: Path

    @cached_property
    def files(self) -> list[tuple[int, Path]]:
        """Each file with the number of its source."""
        return [(number, path) for number, one in enumerate(self.config.sources) for path in input_files(one.path)]

    def planned(self) -> PlannedBlocks:
        """See `BlockPlan`."""
        settings = self.config.shaping
        stats = [(number, path, path.stat()) for number, path in self.files]
        inputs = tuple(
            fingerprint(
                {"settings": settings, "source": number, "file": str(path), "stamp": [one.st_size, one.st_mtime_ns]}
            )
            for number, path, one in stats
        )
        store = BlockStore(directory=self.directory / "blocks", inputs=inputs, stage="dense_retriever.pairs")
        sizes = [max(one.st_size, 1) for *_, one in stats]
        return PlannedBlocks(store=store, sizes=sizes, unit="bytes", make=self.make, what="pairs: reading")

    def make(self, number: int, advance: Advance) -> Block:
        """The pairs of one file, as lines.

        Raises:
            DataError: It cannot be read, or an item cannot be used.
        """
        source, path = self.files[number]
        reader = _FileReader(self.config, source, number, path)
        text = "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in reader.pairs(advance))
        lines = np.frombuffer(text.encode(), dtype=np.uint8)
        return Block({"lines": lines[None]}, dict(reader.counts))

    def counts(self, store: BlockStore) -> list[dict[str, Any]]:
        """What became of each source."""
        totals = [Counter[str]() for _ in self.config.sources]
        for block, (number, _) in enumerate(self.files):
            totals[number].update(store.counts(block))
        return [
            {"path": str(one.path), "format": one.format, **dict(sorted(total.items()))}
            for one, total in zip(self.config.sources, totals, strict=True)
        ]


class _FileReader:
    """The pairs of a file, and what was counted on the way."""

    def __init__(self, config: DataConfig, source: int, block: int, path: Path) -> None:
        self._config, self._path = config, path
        self._format = _FORMATS[config.sources[source].format]
        self._starts = token_starts(config.tokenizer)
        # Files number their items alike: an id has the number of its file where there are several.
        self._prefix = f"{block}/" if block else ""
        self.counts = Counter[str]()

    def pairs(self, advance: Advance) -> Iterator[Pair]:
        """All of them.

        Raises:
            DataError: An item cannot be used, and is not to be skipped.
        """
        for number, (place, item) in enumerate(items_of(self._path, self._on_bad, advance)):
            self.counts["items"] += 1
            try:
                found = self._format(item, str(number))
                made = list(self._made(found))
            except NoPositiveError as error:
                self.counts[f"skipped.{error.reason}"] += 1
            except BadItemError as error:
                self._on_bad(error.reason, DataError(self._path, f"{place} {error.problem}", _FIX))
            else:
                self.counts["pairs"] += len(made)
                if found.kind:
                    self.counts[f"kind.{found.kind}"] += len(made)
                yield from made

    def _on_bad(self, reason: str, error: DataError) -> None:
        if not self._config.skip_bad:
            raise error
        self.counts[f"skipped.{reason}"] += 1

    def _made(self, found: Found) -> Iterator[Pair]:
        """The pairs of an item."""
        kept = _distinct(found.positives)
        self.counts["positives_equal"] += len(found.positives) - len(kept)
        if self._config.positives == "first":
            self.counts["positives_after_first"] += len(kept) - 1
            chosen, others = list(kept.values())[:1], list(kept.values())[1:]
        else:
            chosen, others = list(kept.values()), []
        negatives = self._negatives(found.negatives, set(kept))
        other_positives = tuple(self._passage(one, document_of(one), "other_positives_cut") for one in others)
        for place, one in enumerate(chosen):
            name = found.id if len(chosen) == 1 else f"{found.id}#{place}"
            yield Pair(
                id=self._prefix + name,
                question=found.question,
                document=document_of(one),
                positive=self._passage(one, document_of(one), "positives_cut"),
                answers=found.answers,
                negatives=negatives,
                other_positives=other_positives,
            )

    def _negatives(self, given: Sequence[PositiveText], positives: set[str]) -> tuple[PairPassage, ...]:
        distinct = _distinct(given)
        kept = [one for key, one in distinct.items() if key not in positives]
        self.counts["negatives_equal"] += len(given) - len(distinct)
        self.counts["negatives_that_are_positives"] += len(distinct) - len(kept)
        self.counts["negatives_beyond_most"] += max(0, len(kept) - self._config.negatives)
        return tuple(self._passage(one, one.document, "negatives_cut") for one in kept[: self._config.negatives])

    def _passage(self, one: PositiveText, document: str, count: str) -> PairPassage:
        starts, most = self._starts(one.text), self._config.max_length
        self.counts[count] += len(starts) > most
        text = cut_to(one.text, starts, most)
        return PairPassage(id=one.id or text_id(one.title, text), title=one.title, text=text, document=document)


def _distinct(passages: Sequence[PositiveText]) -> dict[str, PositiveText]:
    """Passages by their text, the first of each."""
    found: dict[str, PositiveText] = {}
    for one in passages:
        found.setdefault(text_key(one.text), one)
    return found


def document_of(one: PositiveText) -> str:
    """The document of a passage: as it says, else its title, else its text."""
    return one.document or one.title or "text:" + text_id("", one.text)


def _stored_pairs(store: BlockStore) -> Iterator[Pair]:
    """All pairs of the blocks, a block in memory at a time."""
    for number in range(len(store)):
        for line in store.take(number).arrays["lines"][0].tobytes().splitlines():
            yield pair_of_record(json.loads(line))


def _files(work: StepRun) -> Mapping[str, Any]:
    """The files with their checksums, each read again only where it changed."""
    paths = [path for one in work.settings.data.sources for path in input_files(one.path)]
    for path in paths:
        require_regular(path, "Check the path", error=DataError, missing="no such file of questions")
    files = [[str(path), known_sha256(path, work.config.run_dir)] for path in paths]
    return {"files": files, "length_in": length_unit(work.settings.data.tokenizer)}


PAIRS = Step(
    name="pairs",
    summary="Questions with the passages that answer them, split by document.",
    run=run,
    settings=("data",),
    facts=_files,
)
