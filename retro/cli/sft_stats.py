"""`retro sft stats`: from a run's config to the lengths of what it would be tuned on, on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from retro.analysis.inspect.tuning import tuning_inputs
from retro.common.terminal import output
from retro.run.config import RunConfig
from retro.sft.prepare import Shape
from retro.sft.sets import PARTS
from retro.sft.stats import Lengths, SetStats, measure_set, stats_record


def show_stats(config: RunConfig, *, as_json: bool) -> None:
    """Print the statistics of a run's question sets. Needs its corpus, for the tokenizer, and no checkpoint.

    Raises:
        ArtifactError: The corpus stage did not finish.
        ConfigError: A set's kind or place, or the template, cannot be.
        DataError: A question file is missing or broken.
    """
    with tuning_inputs(config) as inputs:
        shape = inputs.shape
        found = [
            measure_set(inputs.data, inputs.texts, one, part, inputs.tokenizer, shape)
            for part in PARTS
            for one in inputs.sets(part)
        ]
    if as_json:
        output.json(stats_record(found, shape))
        return
    for line in (*length_table(found), "", *fit_table(found, shape), "", *notes(config, found)):
        output.say(line)


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
