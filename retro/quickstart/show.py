"""`retro quickstart` at the terminal: the table, and what to try next."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from retro.common.terminal import Table, output
from retro.documents import MODEL
from retro.quickstart.documents import DOCUMENTS
from retro.quickstart.page import HEADINGS, rows, tests_in_words
from retro.quickstart.run import PAGE, Options, run


def show_quickstart(out: Path, *, questions: int, seed: int, model: str | None, as_json: bool) -> None:
    """Run it and print what came of it.

    Args:
        out: Where everything goes.
        questions: How many to ask.
        seed: Draws them.
        model: What answers; None: the small chat model.
        as_json: Print the numbers for machines.
    """
    results = run(Options(out=out, questions=questions, seed=seed, model=model or MODEL))
    if as_json:
        output.json(results)
        return
    table = Table(
        title=f"{results['questions']} questions about {', '.join(results['packages'])}, answered by {results['model']}"
    )
    for place, heading in enumerate(HEADINGS):
        table.add_column(heading, align="left" if place == 0 else "right")
    for row in rows(results):
        table.add_row(*row)
    output.table(table)
    output.say(*tests_in_words(results), f"page: {out / PAGE}", "", "Try next:")
    documents, served = quote(str(out / DOCUMENTS)), quote(str(out / "served"))
    output.say(
        '  retro ask --documents my_folder "a question about your own files"',
        f'  retro ask --documents {documents} "In which version was scipy.signal.find_peaks added?"',
        f"  retro serve run_dir={served} generate.checkpoint={results['model']} generate.style=chat "
        "serve.retrieval=none",
    )
