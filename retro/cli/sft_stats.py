"""`retro sft stats`: from a run's config to the lengths of what it would be tuned on, on the terminal."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retro.common.terminal import output
from retro.corpus.reader import Corpus
from retro.model.config import ModelShape
from retro.qa.prompt_texts import load_prompts
from retro.qa.prompts import require_template
from retro.run.config import RunConfig
from retro.run.pipeline import stage
from retro.sft.prepare import Shape
from retro.sft.sets import PARTS, read_sets
from retro.sft.stats import Lengths, SetStats, measure_set, stats_record
from retro.tokenizers.added_tokens import add_tokens


def show_stats(config: RunConfig, *, as_json: bool) -> None:
    """Print the statistics of a run's question sets. Needs its corpus, for the tokenizer, and no checkpoint.

    Raises:
        ArtifactError: The corpus stage did not finish.
        ConfigError: A set's kind or place, or the template, cannot be.
        DataError: A question file is missing or broken.
    """
    shape, reads_passages = shape_of(config)
    found = measure(config, shape, reads_passages)
    if as_json:
        output.json(stats_record(found, shape))
        return
    for line in (*length_table(found), "", *fit_table(found, shape), "", *notes(config, found)):
        output.say(line)


def shape_of(config: RunConfig) -> tuple[Shape, bool]:
    """The sizes that tuning would find, of the checkpoint that is named, or else of the model section; and whether
    that model reads passages."""
    if config.sft.start_from is not None:
        from retro.training import checkpoint

        known = checkpoint.read_info(checkpoint.find(config.sft.start_from)).shape
    else:
        # The vocabulary is not looked at.
        known = ModelShape(model=config.model, vocabulary=1, chunk_length=config.db.chunk_length)
    shape = Shape(
        sequence_length=known.model.sequence_length,
        chunk_length=known.chunk_length,
        passages=known.model.neighbors,
        retrieved_length=known.retrieved_length,
    )
    return shape, known.model.retrieval


def measure(config: RunConfig, shape: Shape, reads_passages: bool) -> list[SetStats]:
    """Statistics of all sets, training files first."""
    data = config.sft.data
    if not reads_passages:
        data = data.model_copy(update={"encoder": False})
    texts = load_prompts(data.prompts)
    require_template("sft.data.template", data.template, texts)
    corpus_dir = stage("corpus").path(config)
    with _tokenizer(config, corpus_dir) as tokenizer:
        return [
            measure_set(data, texts, one, part, tokenizer, shape)
            for part in PARTS
            for one in read_sets(data, texts, part, corpus_dir, skip=True)
        ]


@contextmanager
def _tokenizer(config: RunConfig, corpus_dir: Path) -> Iterator[Any]:
    """The corpus's tokenizer, with the special tokens that tuning would add."""
    corpus = Corpus.open(corpus_dir)
    if not config.sft.special_tokens:
        yield corpus.tokenizer
        return
    with tempfile.TemporaryDirectory() as folder:
        source = corpus_dir / "tokenizer"
        yield add_tokens(source, config.sft.special_tokens, Path(folder) / "tokenizer", "sft.special_tokens")


def length_table(found: Sequence[SetStats]) -> list[str]:
    """Tokens of prompts, passages and answers: median, 90 %, 99 %, longest."""
    rows = [
        [
            one.name,
            one.part,
            one.kind,
            f"{one.questions:,}",
            *map(_row, (one.prompt, one.contexts, one.answer, one.learned)),
        ]
        for one in found
    ]
    head = ["set", "part", "asked as", "questions", "prompt", "passages", "answer", "learned"]
    return ["tokens: median/90 %/99 %/longest", *aligned([head, *rows], left=3)]


def _row(one: Lengths) -> str:
    return f"{one.p50}/{one.p90}/{one.p99}/{one.max}"


def fit_table(found: Sequence[SetStats], shape: Shape) -> list[str]:
    """What becomes of the samples in sequences of this length."""
    rows = [
        [
            one.name,
            one.part,
            *(f"{count:,}" for count in (one.fit, one.cut, one.question_too_long + one.answer_too_long)),
            *(f"{count:,}" for count in (one.no_answer, one.with_passages, one.chunks)),
            f"{one.fill:.1%}",
            f"{one.packed_sequences:,}",
            f"{one.packed_fill:.1%}",
        ]
        for one in found
    ]
    head = ["set", "part", "fit", "cut", "too long", "no answer", "passages", "chunks", "fill", "packed", "fill"]
    title = f"in sequences of {shape.sequence_length:,} tokens, chunks of {shape.chunk_length}"
    return [title, *aligned([head, *rows], left=2)]


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Rows as lines, the first `left` columns to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def notes(config: RunConfig, found: Sequence[SetStats]) -> list[str]:
    """What the tables do not say."""
    lines = [
        "passages in the first table: those that the prompt shows; in the second: questions that bring any",
        "cut: passages in the prompt are shortened to fit; the question never is",
        "fill: share of positions that hold a token, each sample in a sequence of its own; then, packed",
    ]
    if config.sft.data.passages_from != "contexts":
        lines.append(f"passages_from={config.sft.data.passages_from}: measured without the passages that it will find")
    useless = sum(one.no_answer + one.question_too_long + one.answer_too_long for one in found)
    if useless and not config.sft.data.skip_unusable:
        lines.append(f"{useless:,} questions cannot be tuned on and will stop the stage; sft.data.skip_unusable=true")
    return lines
