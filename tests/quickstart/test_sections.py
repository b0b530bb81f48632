"""Docstrings become sections that name what they document, and questions that a section answers."""

from __future__ import annotations

from retro.quickstart.documents import WORDS, is_held_out, public_name, questions_of, sections_of

DOCSTRING = """Fit a line.

Longer words about it.

Parameters
----------
tol : float, default=1e-4
    How close.

    In two paragraphs.
copy_X : bool, default=True
    Whether to copy.
solver : {'auto', 'svd'}, default: 'auto'
sizes : tuple, default=(100, 2)

Returns
-------
self : object
    The estimator.

Notes
-----
.. versionadded:: 1.10.0

Examples
--------
>>> fit(tol=3)
"""


def test_every_parameter_is_a_section_and_examples_are_none() -> None:
    found = [(one.heading, one.entry, one.text) for one in sections_of("pkg.fit", DOCSTRING)]
    assert found == [
        ("Summary", "", "Fit a line. Longer words about it."),
        ("Parameters", "tol", "tol : float, default=1e-4 How close. In two paragraphs."),
        ("Parameters", "copy_X", "copy_X : bool, default=True Whether to copy."),
        ("Parameters", "solver", "solver : {'auto', 'svd'}, default: 'auto'"),
        ("Parameters", "sizes", "sizes : tuple, default=(100, 2)"),
        ("Returns", "self", "self : object The estimator."),
        ("Notes", "", ".. versionadded:: 1.10.0"),
    ]


def test_a_section_begins_with_the_name_that_questions_use() -> None:
    first = next(sections_of("pkg.fit", DOCSTRING))
    assert first.document == {
        "id": "pkg.fit#0.0",
        "title": "pkg.fit",
        "text": "pkg.fit, summary: Fit a line. Longer words about it.",
    }
    assert public_name("sklearn.linear_model._ridge.Ridge") == "sklearn.linear_model.Ridge"


def test_long_parts_are_cut_into_passages() -> None:
    text = " ".join(f"w{number}" for number in range(2 * WORDS + 1))
    assert [len(one.text.split()) for one in sections_of("f", text)] == [WORDS, WORDS, 1]


def test_questions_are_about_defaults_that_say_something_and_the_version() -> None:
    found = [(one.question, one.answer, one.section.id) for one in questions_of(list(sections_of("fit", DOCSTRING)))]
    assert found == [
        ("In which version was fit added?", "1.10.0", "fit#6.0"),
        ("What is the default value of the parameter tol of fit?", "1e-4", "fit#1.0"),
        ("What is the default value of the parameter solver of fit?", "auto", "fit#3.0"),
    ]


def test_two_versions_in_one_docstring_ask_nothing() -> None:
    twice = DOCSTRING.replace("Fit a line.", "Fit a line.\n\n.. versionadded:: 1.2.0")
    assert not [one for one in questions_of(list(sections_of("fit", twice))) if "version" in one.question]


def test_a_question_carries_the_section_that_answers_it() -> None:
    one = next(questions_of(list(sections_of("fit", DOCSTRING))))
    assert one.record["ctxs"] == [one.section.document]
    assert one.record["document_ids"] == [one.section.id]
    halves = {is_held_out(f"name{number}") for number in range(20)}
    assert halves == {True, False}
