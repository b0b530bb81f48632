"""The steps `embed` and `evaluate`: what they read of the run, and what makes them out of date."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retro.common.files import discard
from retro.recipes.base import Made, Step, StepRun
from retro.recipes.dense_retriever.data.segments import PASSAGES, document_of_segment
from retro.recipes.dense_retriever.evaluation.config import EvaluationConfig

if TYPE_CHECKING:
    from retro.recipes.dense_retriever.config import DenseRetrieverConfig
    from retro.recipes.dense_retriever.evaluation.retrievers import TunedModel
    from retro.recipes.dense_retriever.evaluation.sets import EvaluationSet


def embed(work: StepRun) -> Made:
    """Embed all segments by the tuned model.

    Raises:
        RetroError: As `retro.recipes.passages.embed.embed_shard`.
    """
    from retro.recipes.dense_retriever.evaluation.retrievers import embed_all, passages_config

    config, tuned = work.settings.embed, _tuned(work)
    settings = passages_config(work.made_by("segments") / PASSAGES, tuned.embedder, config, title=tuned.title)
    made = embed_all(settings, work.directory, config.passages_per_shard)
    return Made(files=made.files, counts={"passages": made.passages, "dimension": made.dimension})


def _tuned(work: StepRun) -> TunedModel:
    """The model of the run.

    Raises:
        ArtifactError: It is not as the step `train` left it.
    """
    from retro.common.files import read_json
    from retro.index.weights import RETRIEVER
    from retro.recipes.dense_retriever.evaluation.retrievers import TunedModel
    from retro.recipes.dense_retriever.training.saved_model import embedder_of

    folder, how = work.made_by("train"), work.settings.embed
    title = bool(read_json(folder / RETRIEVER, "Run the step train again with --redo")["title"])
    embedder = embedder_of(folder, precision=how.precision, batch_tokens=how.batch_tokens)
    return TunedModel(embedder=embedder, title=title)


@dataclass(frozen=True)
class _Sets:
    """The sets of questions of a run, one at a time: each may hold many questions."""

    work: StepRun
    stores: Path

    def __iter__(self) -> Iterator[tuple[EvaluationSet, Path | None]]:
        """Each set, and where the tuned model's embeddings of its passages are already."""
        from retro.recipes.dense_retriever.evaluation import sets
        from retro.recipes.dense_retriever.evaluation.evaluate import POSITIVES
        from retro.recipes.dense_retriever.pairs import read_pairs

        work, config = self.work, self.work.settings.evaluate
        pairs = read_pairs(work.made_by("pairs") / "valid.jsonl") if config.against else []
        segments = work.made_by("segments") / PASSAGES if config.searches_segments else None
        embedded = work.made_by("embed") if work.settings.embeds_segments else None
        for name in config.against:
            if name == "positives":
                yield sets.among_positives(pairs, work.directory / POSITIVES), None
            elif segments is not None:
                yield sets.among_passages(pairs, segments, document_of_segment, config.overlap), embedded
        if config.questions is not None and segments is not None:
            yield sets.with_answers(config.questions, segments), embedded
        for one in config.beir:
            yield sets.of_beir(one, self.stores / f"beir-{one.title}"), None


def evaluate(work: StepRun) -> Made:
    """Measure every retriever on every set.

    Raises:
        RetroError: A file, a model or a package that is needed is missing or cannot be used.
    """
    from retro.recipes.dense_retriever.evaluation import evaluate as evaluation
    from retro.recipes.dense_retriever.evaluation.curves import curves_of
    from retro.recipes.dense_retriever.evaluation.ranking import ir_measures
    from retro.recipes.dense_retriever.evaluation.rankings import BEGUN, RANKINGS
    from retro.recipes.dense_retriever.evaluation.retrievers import Retrievers
    from retro.recipes.item_files import read_items
    from retro.recipes.knowledge_conflict.score import intervals_of
    from retro.recipes.passages.passages import Passages

    # Before anything takes minutes.
    ir_measures()
    settings: DenseRetrieverConfig = work.settings
    config, stores, intervals = settings.evaluate, work.home / evaluation.STORES, intervals_of(work.config.evaluate)
    tuned = _tuned(work) if settings.trains else None
    measured = []
    for found, embedded in _Sets(work, stores):
        one = found.first(config.limit)
        retrievers = Retrievers(
            passages=Passages.open(one.passages, stores / f"table-{one.name}"), stores=stores, embed=settings.embed,
            settings=config, tuned=tuned, embedded=embedded,
        )  # fmt: skip
        measured.append((one.name, *evaluation.measure(one, retrievers, work.directory, intervals)))
    rows = read_items(work.made_by("train") / "curve.jsonl", (), "curve of the training") if settings.trains else []
    files = evaluation.write_all(work.directory, measured, config, intervals, curves_of(rows))
    names = [f"{RANKINGS}/{name}.{one.name}.jsonl" for name, *_ in measured for one in config.retrievers]
    discard(work.directory / RANKINGS / BEGUN)
    own = [evaluation.POSITIVES] if "positives" in config.against else []
    return Made(files=[*files, *own, *names], counts=evaluation.summary(measured, config))


def _needs_of_evaluate(settings: DenseRetrieverConfig) -> tuple[str, ...]:
    config = settings.evaluate
    return (
        *(("pairs",) if config.against else ()),
        *(("segments",) if config.searches_segments else ()),
        *(("train",) if settings.trains else ()),
        *(("embed",) if settings.embeds_segments else ()),
    )


def _facts_of_evaluate(work: StepRun) -> Mapping[str, Any]:
    """Files of BEIR, each read again only where it changed, and weights of models that are given as folders."""
    from retro.common.checksum_cache import known_sha256
    from retro.index.weights import weights_digest
    from retro.recipes.dense_retriever.evaluation.beir import files_of

    config: EvaluationConfig = work.settings.evaluate
    models = {}
    for one in config.retrievers:
        model = None if one.embedder is None else one.embedder.model
        if model is not None and Path(model).is_dir():
            models[one.name] = weights_digest(Path(model))
    files = [file for one in config.beir for file in files_of(one.path, one.split)]
    return {"models": models, "beir": [[str(file), known_sha256(file, work.config.run_dir)] for file in files]}


EMBED = Step(
    name="embed",
    summary="Embed all segments by the tuned model.",
    run=embed,
    needs=("segments", "train"),
    settings=("embed",),
    wanted=lambda settings: settings.embeds_segments,
)
EVALUATE = Step(
    name="evaluate",
    summary="Measure the retrievers on the same questions, and show them on one page.",
    run=evaluate,
    needs=_needs_of_evaluate,
    settings=("evaluate", "embed", "embed.faiss", "embed.nprobe", "embed.ef_search"),
    sections=("evaluate",),
    inputs=lambda work: [] if work.settings.evaluate.questions is None else [work.settings.evaluate.questions],
    facts=_facts_of_evaluate,
)
