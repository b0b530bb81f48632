from __future__ import annotations

import pytest

from retro.corpus.questions import derive_questions, first_sentence, mask_name

NLARGEST = """heapq.nlargest

nlargest(n, iterable, key=None) -> list

Find the n largest elements in a dataset with
nlargest. Equivalent to sorting.

>>> nlargest(2, [3, 1, 2])
[3, 2]
>>> x = 3
>>> x
3
"""


def test_both_kinds_of_question_are_derived_from_a_docstring() -> None:
    assert derive_questions([{"id": "heapq.nlargest", "title": "heapq.nlargest", "text": NLARGEST}]) == [
        {
            "id": "name:heapq.nlargest",
            "question": "What in Python's library is documented with these words: "
            "Find the n largest elements in a dataset with ____.",
            "answers": ["nlargest", "heapq.nlargest"],
            "kind": "name",
            "document_ids": ["heapq.nlargest"],
        },
        {
            "id": "doctest:heapq.nlargest:0",
            "question": "In Python's documentation of heapq.nlargest, what does this print: nlargest(2, [3, 1, 2])",
            "answers": ["[3, 2]"],
            "kind": "doctest",
            "document_ids": ["heapq.nlargest"],
        },
    ]


def test_a_help_topic_gives_values_but_no_name() -> None:
    [question] = derive_questions(
        [{"id": "topic:lists", "title": "lists", "text": "Lists are what the\n\n   >>> [1] * 2\n   [1, 1]"}]
    )
    assert question["question"] == 'In Python\'s documentation of help topic "lists", what does this print: [1] * 2'
    assert question["answers"] == ["[1, 1]"]


def test_a_module_has_one_name() -> None:
    [question] = derive_questions(
        [{"id": "heapq", "title": "heapq", "text": "heapq\n\nAn algorithm for queues with some priority."}]
    )
    assert question["answers"] == ["heapq"]


def named(name: str, sentence: str) -> dict[str, str]:
    return {"id": name, "title": name, "text": f"{name}\n\n{sentence}"}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("os.call", "The subroutine is so called by everybody here."),  # the name stands inside another word
        ("os.words", "This is about something else and nothing."),  # the name is in the question's own words
        ("os.do", "Make something of the thing that is given."),  # two letters
        ("os.Thing.__init__", "Make something of the thing that is given."),
        ("os.stop", "Stop it at once."),  # too few words to tell it from others
        ("os.stop", "Stop stop stop stop stop it at once stop."),  # too few words besides the name
        ("os.long", "word " * 41),
        ("os.empty", ">>> 1"),
    ],
)
def test_a_sentence_that_tells_the_name_or_too_little_gives_no_question(name: str, sentence: str) -> None:
    assert derive_questions([named(name, sentence)]) == []


def test_a_question_with_several_answers_is_dropped_altogether() -> None:
    sentence = "Return the value of the thing at last."
    kept = named("os.third", "Return another value of the thing at last.")
    questions = derive_questions([named("os.first", sentence), kept, named("os.second", sentence)])
    assert [question["answers"][0] for question in questions] == ["third"]


@pytest.mark.parametrize(
    "example",
    [
        ">>> str('abc')\n'abc'",  # the answer is in the question
        ">>> x\n3",  # a bare name tells nothing
        ">>> 'a'\n'b'",
        ">>> f(1)",  # prints nothing
        ">>> f(1)\nfirst\nsecond",
        ">>> f(1)\n[1, 2, ..., 99]",
        ">>> f(1)\n<object at 0x7f00>",
        f">>> f(1)\n{'9' * 61}",
        ">>> for x in y: print(x)\n4",
        ">>> f(\n...   1)\n4",
        ">>> f(\n4",
        ">>> f(1)\n4\n>>> f(1)\n5",  # two values for one expression
        ">>> f(1)\n  4\n >>> g(1)\n5",  # no doctest that Python would accept
    ],
)
def test_examples_without_one_plain_value_give_no_question(example: str) -> None:
    assert derive_questions([{"id": "topic:t", "title": "t", "text": example}]) == []


def test_an_example_given_twice_with_one_value_is_asked_once() -> None:
    questions = derive_questions([{"id": "topic:t", "title": "t", "text": ">>> f(1)\n4\n\n>>> f(1)\n4"}])
    assert [question["id"] for question in questions] == ["doctest:topic:t:0"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One line. Another line.", "One line."),
        ("Runs over\n  two lines\n\nrest", "Runs over two lines"),
        ("e.g. this is not cut. But here.", "e.g. this is not cut."),
        ("D.pop(k[,d]) -> v, remove it.\nReturn it.", "Return it."),
        ("f(x)\n\n\nDoes a thing", "Does a thing"),
        (">>> 1\n1", ""),
        ("", ""),
    ],
)
def test_the_first_sentence_passes_over_signatures(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence


def test_a_name_is_masked_as_a_word_in_any_case() -> None:
    masked = mask_name("Pop from queue.Queue.pop, or POP twice, not popped or _pop.", "queue.Queue.pop")
    assert masked == "____ from ____, or ____ twice, not popped or _pop."
