"""The step `reader_scores`: how likely a reader finds the answer given each passage, as a target of distillation.

Perplexity distillation of Atlas (arXiv:2208.03299, section 2.2) and RePlug's LSR (arXiv:2301.12652, section 4). The
reader is one of our own models, and scores by `Engine.score`; a Retro model reads passages through its encoder where
`read_by` says so, and the retriever then learns what helps that. Blocks of scores are kept as they come; a step that
was stopped goes on. Distillation of attention (Izacard & Grave 2021, arXiv:2012.04584) is not here: the engine's fused
attention gives no weights.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from retro.common.artifacts import fingerprint
from retro.common.errors import DataError
from retro.common.progress import Progress
from retro.common.response_cache import ResponseCache
from retro.generate.request import GivenPassages
from retro.generate.scoring import Score, Scored
from retro.qa.prompts import answer_text
from retro.qa.question import Context
from retro.recipes.base import Made, Step, StepRun
from retro.recipes.dense_retriever.pairs import Pair, PairPassage, read_pairs
from retro.recipes.dense_retriever.training.mine_config import ReaderScoresConfig
from retro.recipes.item_files import read_items, write_items

log = logging.getLogger(__name__)

SCORES = "scores.jsonl"
_KEPT, _TRAIN = "kept.jsonl", "train.jsonl"
_REMEDY = "Delete the file, or run the step with --redo: what it lacks is scored again"
_SHORTER = 0.9


class Reader(Protocol):
    """What a model has to offer."""

    @property
    def sequence_length(self) -> int:
        """Tokens that it reads."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a text."""

    @property
    def prefix(self) -> Sequence[int]:
        """Tokens before every prompt."""

    def score(self, asked: Sequence[Scored]) -> Sequence[Score]:
        """See `Engine.score`."""


@dataclass(frozen=True)
class _Asked:
    """A pair with its candidates, and what is scored of it."""

    pair: Pair
    scored: tuple[Scored, ...]


def run(work: StepRun) -> Made:
    """Score the candidates of all pairs.

    Raises:
        DataError: No pair has an answer and enough negatives.
        RetroError: The reader cannot be opened.
    """
    config: ReaderScoresConfig = work.settings.reader_scores
    folder = work.made_by("mine") if work.settings.mine is not None else work.made_by("pairs")
    pairs = read_pairs(folder / _TRAIN)
    reader, identity = _open(work, config)
    return score_pairs(pairs[: config.limit or None], config, reader, identity, work.directory, folder / _TRAIN)


def score_pairs(
    pairs: Sequence[Pair],
    config: ReaderScoresConfig,
    reader: Reader,
    identity: Mapping[str, Any],
    out: Path,
    path: Path,
) -> Made:
    """Score pairs, and write `scores.jsonl`.

    Args:
        pairs: With answers, and negatives.
        config: How many passages, and the prompt.
        reader: Who scores.
        identity: Of the reader: scores of another one are not taken.
        out: The step's folder.
        path: Where the pairs are from, for errors.
    """
    counts: Counter[str] = Counter()
    asked = list(_asked(pairs, config, reader, counts))
    if not asked:
        remedy = "Give pairs with answers, and negatives: by `mine`, or lower reader_scores.passages"
        raise DataError(path, f"has no pair to score ({dict(counts)})", remedy)
    kept = ResponseCache(out / _KEPT, identity, _REMEDY)
    flat = [one for item in asked for one in item.scored]
    blocks = [flat[first : first + config.batch_size] for first in range(0, len(flat), config.batch_size)]
    found: list[float] = []
    with Progress(len(blocks), what="reader_scores", unit="blocks") as bar:
        for block in blocks:
            # Whole blocks: the last digits of a score may depend on what is computed beside it.
            key = fingerprint([_described(one) for one in block])
            if key not in kept:
                kept.add([key], [[_value(one, per_token=config.per_token) for one in reader.score(block)]])
            found += kept[key]
            bar.advance(1)
    values = iter(found)
    rows = [{**asdict(item.pair), "scores": [next(values) for _ in item.scored]} for item in asked]
    write_items(out / SCORES, rows)
    best = sum(row["scores"][0] == max(row["scores"]) for row in rows)
    report = {"positive_is_best": round(best / len(rows), 4)}
    return Made(files=[SCORES], counts={"pairs": len(rows), **dict(sorted(counts.items()))}, report=report)


def _asked(pairs: Sequence[Pair], config: ReaderScoresConfig, reader: Reader, counts: Counter[str]) -> Iterator[_Asked]:
    for pair in pairs:
        if not pair.answers:
            counts["without_answer"] += 1
        elif len(pair.negatives) < config.passages - 1:
            counts["with_too_few_negatives"] += 1
        else:
            fewer = replace(pair, negatives=pair.negatives[: config.passages - 1])
            made = [_scored(fewer, one, config, reader, counts) for one in (fewer.positive, *fewer.negatives)]
            fitting = tuple(one for one in made if one is not None)
            if len(fitting) == len(made):
                yield _Asked(fewer, fitting)
            else:
                counts["did_not_fit"] += 1


def _scored(
    pair: Pair, passage: PairPassage, config: ReaderScoresConfig, reader: Reader, counts: Counter[str]
) -> Scored | None:
    """A passage's prompt and the answer; None where these do not fit without the passage."""
    answer = reader.encode(answer_text(pair.answers[0]))
    reading = None
    if config.read_by == "encoder":
        reading = GivenPassages(passages=(Context(title=passage.title, text=passage.text, document_id=passage.id),))
    text, cut = passage.text, False
    while True:
        written = config.template.format_map({"title": passage.title, "text": text, "question": pair.question})
        prompt = [*reader.prefix, *reader.encode(written)]
        if answer and len(prompt) + len(answer) <= reader.sequence_length + 1:
            counts["cut_passages"] += cut
            return Scored(prompt=prompt, continuation=answer, reading=reading)
        if not answer or not text or config.read_by == "encoder":
            return None
        text, cut = text[: int(len(text) * _SHORTER)], True


def _described(one: Scored) -> list[Any]:
    return [list(one.prompt), list(one.continuation), repr(one.reading)]


def _value(score: Score, *, per_token: bool) -> float:
    return round(score.logprob / (len(score.logprobs) if per_token else 1), 6)


def read_scores(folder: Path) -> tuple[list[Pair], list[list[float]]]:
    """Pairs with as many negatives as were scored, and the scores of positive and negatives.

    Raises:
        DataError: The file is missing, or a line has not as many scores as passages.
    """
    path = folder / SCORES
    pairs, scores = read_pairs(path), []
    for pair, item in zip(pairs, read_items(path, ("id",), "scores of the reader"), strict=True):
        found = item.get("scores")
        if not isinstance(found, list) or len(found) != 1 + len(pair.negatives):
            problem = f"{item['_place']} has {str(found)[:40]} as scores of {1 + len(pair.negatives)} passages"
            raise DataError(path, problem, _REMEDY)
        scores.append([float(one) for one in found])
    return pairs, scores


@dataclass(frozen=True)
class _Model:
    """A model of ours as a reader."""

    model: Any
    """An OpenModel."""

    @property
    def sequence_length(self) -> int:
        return int(self.model.decoder.sequence_length)

    def encode(self, text: str) -> list[int]:
        return list(self.model.tokenizer.encode(text))

    @property
    def prefix(self) -> Sequence[int]:
        return tuple(self.model.prefix)

    def score(self, asked: Sequence[Scored]) -> Sequence[Score]:
        return list(self.model.engine.score(asked))


def _open(work: StepRun, config: ReaderScoresConfig) -> tuple[Reader, dict[str, Any]]:
    from retro.generate.open_model import open_model
    from retro.run.pipeline import model_paths, pretrained
    from retro.training import checkpoint as checkpoints

    own = {
        "encoder": config.read_by == "encoder", "settings": ("with_passages",), "passages": 1, "searches": False,
        "batch_size": config.batch_size,
    }  # fmt: skip
    usual = work.config.generate
    generate = usual.model_copy(update={name: value for name, value in own.items() if name in type(usual).model_fields})
    start = config.checkpoint or usual.checkpoint or pretrained(work.config)
    model = open_model(generate, replace(model_paths(work.config), checkpoint=start), work.config.parallel)
    identity = {"checkpoint": checkpoints.identity(model.info.path), "precision": model.config.precision}
    return _Model(model), identity


def _needs(settings: Any) -> tuple[str, ...]:
    return ("pairs", *(("mine",) if settings.mine is not None else ()))


READER_SCORES = Step(
    name="reader_scores",
    summary="Let a reader say how much each passage helps it to the answer.",
    run=run,
    needs=_needs,
    settings=("reader_scores", "mine"),
    sections=("generate",),
    wanted=lambda settings: settings.reader_scores is not None,
)
