"""Long answers in the files of other programs: ALCE's scores, and answers written for ALCE and FactScore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retro.cli.options import AsJson, examples
from retro.common.terminal import Table, output

app = typer.Typer()


@app.command(
    "alce",
    epilog=examples(
        "retro alce asqa.json", "retro alce asqa.json --nli models/t5_xxl_true_nli --qa models/roberta-large-squad"
    ),
)
def alce(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help='Answers in ALCE\'s form: {"data": [{question, output, docs, …}]}.')
    ],
    nli: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A model of entailment, for the scores of citations.")
    ] = None,
    qa: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A reading model, for QA-EM, QA-F1 and QA-Hit.")
    ] = None,
    mauve: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A language model whose features MAUVE compares (gpt2-large).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the scores go; without it, FILE.score.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score long answers as ALCE does: correctness, and whether citations support them. Models are folders or names."""
    from retro.evaluate.alce import run_alce

    found = run_alce(file, out=out, nli=nli, qa=qa, mauve=mauve)
    if as_json:
        output.json(found)
        return
    table = Table.of_numbers(f"{found['questions']:,} questions, in % but for words", "score", "value")
    for name, value in found.items():
        if isinstance(value, float):
            table.add_row("length, words" if name == "length" else name, f"{value:.1f}")
    output.table(table)


@app.command(
    "export-answers",
    epilog=examples(
        "retro export-answers 7_generate/with_passages.jsonl asqa_eval_gtr_top100.json --form alce --out asqa.json",
        "retro export-answers 7_generate/with_passages.jsonl asked.jsonl --form factscore --out answers.jsonl",
    ),
)
def export_answers(
    answers: Annotated[Path, typer.Argument(help="An answer file of the generate stage.")],
    questions: Annotated[Path, typer.Argument(help="What was asked: the question file of ALCE or FactScore.")],
    form: Annotated[str, typer.Option(help="alce or factscore.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first questions were asked.")] = None,
) -> None:
    """Write answers in the form that ALCE or FactScore scores, with the fields of their question files."""
    from retro.evaluate.answer_forms import export_answers as export

    count = export(answers, questions, form, out, limit=limit)
    output.say(f"{out}: {count:,} answers")
