"""`retro quickstart` at the terminal: a table for each act, and what to try next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from retro.common.terminal import Table, output
from retro.quickstart import page, page_answers
from retro.quickstart.documents import DOCUMENTS
from retro.quickstart.options import ACTS, Options
from retro.quickstart.run import PAGE, run
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
    for act in ACTS:
        if act in options.acts:
            _SHOW[act](results, results[act])
            output.say("")
    output.say(f"page: {out / PAGE}", "", "Try next:")
    output.say('  retro ask --documents my_folder "a question about your own files"')
    if (out / DOCUMENTS).exists():
        output.say(f'  retro ask --documents {quote(str(out / DOCUMENTS))} "{_QUESTION}"')
    if "update" in results:
        output.say(f"  retro serve {quote(str(out / UPDATE / CONFIG))}")


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    table = Table(title=title)
    for place, heading in enumerate(headings):
        table.add_column(heading, align="right" if place in right else "left")
    for row in rows:
        table.add_row(*row)
    output.table(table)


def _answers(results: Mapping[str, Any], act: Mapping[str, Any]) -> None:
    title = f"{act['questions']} questions about {', '.join(results['packages'])}, answered by {results['model']}"
    _table(title, page_answers.ANSWER_HEADINGS, page_answers.answer_rows(act), (1, 2, 3, 4))
    output.say(*page_answers.tests_in_words(act))


def _versions(results: Mapping[str, Any], act: Mapping[str, Any]) -> None:
    if "left_out" in act:
        output.say(f"Text of two versions: left out, {act['left_out']}")
        return
    title = f"The newer documentation of {act['package']}, predicted by {results['model']}"
    _table(title, page.PERPLEXITY_HEADINGS, page.version_rows(act), (1,))
    output.say(*page.version_sentences(act), act["leakage"])


def _learning(_: Mapping[str, Any], act: Mapping[str, Any]) -> None:
    title = f"Trained from random weights on {act['tokens_trained']:,} tokens: perplexity of the test split"
    _table(title, page.LEARNING_HEADINGS, page.learning_rows(act), (1, 2))


def _update(_results: Mapping[str, Any], act: Mapping[str, Any]) -> None:
    output.say(f"Asked three times: {act['question']}")
    for done, _, answer, read in page.update_rows(act):
        output.say(f"  {done}", f"    {answer}", f"    read: {read}")


_SHOW = {"answers": _answers, "versions": _versions, "learning": _learning, "update": _update}
