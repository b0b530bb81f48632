"""`retro quickstart` at the terminal: the table, and what to try next."""

from __future__ import annotations

from shlex import quote

from retro.common.terminal import Table, output
from retro.quickstart.documents import DOCUMENTS
from retro.quickstart.page import HEADINGS, rows, tests_in_words
from retro.quickstart.run import PAGE, Options, run


def show_quickstart(options: Options, *, as_json: bool) -> None:
    """Run it and print what came of it.

    Args:
        options: What is asked for.
        as_json: Print the numbers for machines.
    """
    results, out = run(options), options.out
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
        f"  retro serve run_dir={served} generate.checkpoint={quote(str(results['model']))} generate.style=chat "
        "serve.retrieval=none",
    )
