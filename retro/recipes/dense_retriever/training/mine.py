"""The step `mine`: hard negatives by BM25 and by vectors.

A passage that is found for a question is a negative unless it is of the document of one of the question's positives,
holds an answer, is nearly the text of one, is held out from training, or scores too near to the positive. What was left
out is counted by its reason.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from retro.common.blocks import ranges
from retro.common.errors import ConfigError
from retro.common.files import discard
from retro.common.progress import Progress
from retro.index.config import EmbedderConfig
from retro.index.weights import MODEL, find_model
from retro.qa.question import PassageLike
from retro.recipes.base import Made, Step, StepRun
from retro.recipes.dense_retriever.data.pair_split import Split
from retro.recipes.dense_retriever.data.segments import document_of_segment
from retro.recipes.dense_retriever.evaluation.ranking import has_answer, normalized_words
from retro.recipes.dense_retriever.evaluation.word_search import WordSearch
from retro.recipes.dense_retriever.pairs import Pair, PairPassage, read_pairs, write_pairs
from retro.recipes.dense_retriever.same_question import HeldOut, Positives, document_among, positives_of
from retro.recipes.dense_retriever.training.config import StartConfig
from retro.recipes.dense_retriever.training.mine_config import MineConfig
from retro.recipes.dense_retriever.training.saved_model import embedder_of
from retro.recipes.dense_retriever.trigrams import shared_part, trigrams
from retro.recipes.passages.config import MAPPED, PassagesConfig
from retro.recipes.passages.embed import embed_shard
from retro.recipes.passages.passages import Passages
from retro.recipes.passages.search import PassageRetriever, PassageSearch

log = logging.getLogger(__name__)

TRAIN_FILE, VALID_FILE, PASSAGES_FILE = "train.jsonl", "valid.jsonl", "passages.jsonl"
"""Of the steps `pairs` and `mine`, `pairs`, and `segments`."""
STORE = "store"


@dataclass(frozen=True)
class _Judge:
    """Says of passages that were found for a pair whether they are negatives."""

    config: MineConfig
    positives: Positives
    """All of the pair's question."""
    held_out: HeldOut | None

    def reason(self, found: PassageLike, rank: int, limit: float | None) -> str:
        """Why it is none, in a word; empty: it is one.

        Args:
            found: The passage.
            rank: From 1.
            limit: The highest score of a negative; None: any.
        """
        config = self.config
        if rank < config.first_rank:
            return "before_first_rank"
        if document_among(found.document_id, found.title, self.positives.names) is not None:
            return "own_document"
        if self.held_out is not None and self.held_out.has(found.document_id, found.title, found.text):
            return "held_out_document"
        if config.without_answer and has_answer(normalized_words(found.text), self._answers()):
            return "has_answer"
        own = trigrams(found.text)
        if any(shared_part(own, one) >= config.near_duplicate for one in self.positives.trigrams):
            return "near_duplicate"
        return "too_near_in_score" if limit is not None and found.score > limit else ""

    def _answers(self) -> list[str]:
        return [normalized_words(one) for one in self.positives.answers]


def hard_negatives(
    pair: Pair,
    lists: Sequence[Sequence[PassageLike]],
    config: MineConfig,
    positives: Positives | None = None,
    held_out: HeldOut | None = None,
) -> tuple[list[PairPassage], Counter[str]]:
    """The negatives of a pair, and how many passages were left out by which reason.

    Args:
        pair: Question and positive.
        lists: Of each source, passages from rank 1 on; negatives are taken from them in turn.
        config: How many, and which not.
        positives: All of the question; None: that of the pair.
        held_out: What is no negative, for training must not see it; None: nothing.
    """
    judge, counts = _Judge(config, positives or Positives.of([pair]), held_out), Counter[str]()
    given = pair.negatives if config.keep_given else ()
    # What one item gives as a negative, another of the same question may give as a positive.
    fitting = [one for one in given if not judge.positives.has(one)]
    counts["own_document"] += len(given) - len(fitting)
    chosen = fitting[: config.count]
    seen = {one.id for one in chosen} | {one.text.strip() for one in chosen}
    limits = [_limit(pair, one, config.margin) for one in lists]
    for rank in range(1, config.depth + 1):
        for found, limit in zip(lists, limits, strict=True):
            if len(chosen) >= config.count or rank > len(found):
                continue
            one = found[rank - 1]
            if one.document_id in seen or one.text.strip() in seen:
                continue
            seen |= {one.document_id, one.text.strip()}
            if reason := judge.reason(one, rank, limit):
                counts[reason] += 1
            else:
                document = document_of_segment(one.document_id)
                chosen.append(PairPassage(id=one.document_id, title=one.title, text=one.text, document=document))
    return chosen, +counts


def _limit(pair: Pair, found: Sequence[PassageLike], margin: float | None) -> float | None:
    """A share of the positive's score; of one that was not found it is at most that of the last."""
    if margin is None or not found:
        return None
    own = [one.score for one in found if one.document_id == pair.positive.id]
    return margin * float(own[0] if own else found[-1].score)


def mine_pairs(
    pairs: Sequence[Pair], searches: Sequence[PassageSearch], config: MineConfig, held_out: HeldOut | None = None
) -> tuple[list[Pair], dict[str, int]]:
    """Pairs with their negatives, and counts: of negatives, of pairs with too few, of what was left out and why."""
    made: list[Pair] = []
    positives = positives_of(pairs)
    counts: Counter[str] = Counter()
    with Progress(len(pairs), what="mine", unit="questions") as bar:
        for part in ranges(len(pairs), config.questions_per_block):
            block = [pairs[row] for row in part]
            lists = [one.search([pair.question for pair in block], config.depth) for one in searches]
            for row, pair, *found in zip(part, block, *lists, strict=True):
                negatives, left_out = hard_negatives(pair, found, config, positives[row], held_out)
                made.append(replace(pair, negatives=tuple(negatives)))
                counts.update({f"left_out_{name}": count for name, count in left_out.items()})
                counts["negatives"] += len(negatives)
                counts["pairs_with_too_few"] += len(negatives) < config.count
            bar.advance(len(block))
    return made, {"pairs": len(made), **dict(sorted(counts.items()))}


def mine(work: StepRun) -> Made:
    """Mine for all training pairs.

    Raises:
        ConfigError: Vectors are to be searched by, and the model that training starts from has none to speak of.
        RetroError: Passages, pairs or the model cannot be used.
    """
    config: MineConfig = work.settings.mine
    pairs = read_pairs(work.made_by("pairs") / TRAIN_FILE)
    start = start_of(work)
    path = work.made_by("segments") / PASSAGES_FILE
    embedder = _start_embedder(work, start) if "dense" in config.sources else None
    searches = list(open_searches(config, path, embedder, work.directory / STORE, title=start.title))
    made, counts = mine_pairs(pairs, searches, config, held_out_of(work))
    write_pairs(work.directory / TRAIN_FILE, made)
    discard(work.directory / STORE)
    log.info("mine: %d negatives for %d pairs", counts.get("negatives", 0), counts["pairs"])
    return Made(files=[TRAIN_FILE], counts=counts)


def held_out_of(work: StepRun) -> HeldOut:
    """What the step `pairs` has held out.

    Raises:
        DataError: As `read_pairs`.
    """
    data = work.settings.data
    return HeldOut.of(read_pairs(work.made_by("pairs") / VALID_FILE), Split(data.seed, data.valid))


def open_searches(
    config: MineConfig, passages: Path, embedder: EmbedderConfig | None, store: Path, *, title: bool
) -> Iterator[PassageSearch]:
    """A search for each source. What is embedded is kept in `store`, and goes on after a kill."""
    for source in config.sources:
        if source == "bm25":
            yield WordSearch.open(Passages.open(passages, store), store, title=title)
        elif embedder is not None:
            settings = PassagesConfig(
                passages=passages, embeddings=str(store / "shards" / "*"), store=store, embedder=embedder,
                title=title, faiss=MAPPED, passages_per_block=config.embeddings_per_block,
            )  # fmt: skip
            embed_shard(settings, store / "shards")
            yield PassageRetriever.open(settings)


def start_of(work: StepRun) -> StartConfig:
    """The model that training on pairs starts from: the one set, else the pretrained one, else MiniLM."""
    own: StartConfig | None = work.settings.train.start
    if own is not None or work.settings.pretrain is None:
        return own or StartConfig()
    start: StartConfig = work.settings.pretrain.start or StartConfig()
    folder = work.home / "pretrain" / MODEL
    return start.model_copy(update={"model": str(folder), "tiny": None, "sha256": None})


def _start_embedder(work: StepRun, start: StartConfig) -> EmbedderConfig:
    if start.tiny is not None:
        need = "needs bm25 alone: vectors of a model from scratch say nothing yet; train.refresh_every mines by them"
        raise ConfigError("mine.sources", work.settings.mine.sources, need)
    if work.settings.train.start is None and work.settings.pretrain is not None:
        return embedder_of(work.made_by("pretrain"))
    folder = find_model(start.embedder)
    made = (folder / "modules.json").exists()
    how: dict[str, Any] = (
        {"kind": "sentence_transformers"} if made else {"kind": "huggingface", "pooling": start.pooling}
    )
    return EmbedderConfig(
        model=start.model, sha256=start.sha256, normalize=start.similarity == "cosine",
        query_prefix=start.query_prefix, passage_prefix=start.passage_prefix, max_tokens=start.max_tokens, **how,
    )  # fmt: skip


def _needs(settings: Any) -> tuple[str, ...]:
    dense = settings.mine is not None and "dense" in settings.mine.sources
    own = dense and settings.pretrain is not None and settings.train.start is None
    return ("segments", "pairs", *(("pretrain",) if own else ()))


MINE = Step(
    name="mine",
    summary="Find passages that do not answer a question and are found for it.",
    run=mine,
    needs=_needs,
    settings=("mine", "train.start", "pretrain"),
    wanted=lambda settings: settings.mine is not None,
)
