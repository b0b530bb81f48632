"""`retro quickstart` at the terminal: a table for each act, and what to try next."""

from __future__ import annotations

from shlex import quote

from retro.common.terminal import output
from retro.quickstart.documents import DOCUMENTS
from retro.quickstart.options import Options
from retro.quickstart.run import MODULES, PAGE, run
from retro.quickstart.update import CONFIG, UPDATE

_QUESTION = "What is the default value of the parameter max_iter of sklearn.linear_model.LogisticRegressionCV?"
"""One that the documents of the default packages answer."""


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
    for name, act in MODULES.items():
        if name in options.acts:
            table, lines = act.report(results)
            if table is not None:
                output.table(table)
            output.say(*lines, "")
    output.say(f"page: {out / PAGE}", "", "Try next:")
    output.say('  retro ask --documents my_folder "a question about your own files"')
    if (out / DOCUMENTS).exists():
        output.say(f'  retro ask --documents {quote(str(out / DOCUMENTS))} "{_QUESTION}"')
    if "update" in results:
        output.say(f"  retro serve {quote(str(out / UPDATE / CONFIG))}")
