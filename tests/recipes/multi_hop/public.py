"""A few rows of each public data set, as their authors wrote them, and a teacher that reads them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from retro.teacher.request import TeacherRequest

BRIDGE = "The Alma Bridge was opened in 1856 by Emil Horn. It has five arches."
TOWER = "Built in 1220, the Bern Tower was a gate until 1346, and then a prison."
GAME = "The Lions scored 24 points in the first half and 10 in the second, the Bears 17 and 7. Smith and Jones threw."


def _squad_item(name: str, question: str, *answers: str) -> dict[str, Any]:
    found = [{"text": one, "answer_start": 0} for one in answers]
    return {"id": name, "question": question, "answers": found, "is_impossible": not answers}


SQUAD: dict[str, Any] = {
    "version": "v2.0",
    "data": [
        {
            "title": "Alma_Bridge",
            "paragraphs": [
                {
                    "context": BRIDGE,
                    "qas": [
                        _squad_item("s1", "When was the Alma Bridge opened?", "1856", "in 1856"),
                        _squad_item("s2", "Who opened the Alma Bridge?", "Emil Horn"),
                        _squad_item("s3", "How long is the Alma Bridge?"),
                        _squad_item("s4", "How many arches has the Alma Bridge?", "five"),
                    ],
                }
            ],
        },
        {
            "title": "Bern_Tower",
            "paragraphs": [
                {
                    "context": TOWER,
                    "qas": [
                        _squad_item("s5", "When was the Bern Tower built?", "1220"),
                        _squad_item("s6", "Who built the Bern Tower?"),
                        _squad_item("s7", "What was the Bern Tower after 1346?", "a prison"),
                    ],
                }
            ],
        },
    ],
}
BOOLQ: list[dict[str, Any]] = [
    {"question": "is the alma bridge older than 1900", "title": "Alma Bridge", "answer": True, "passage": BRIDGE},
    {"question": "does the alma bridge have six arches", "title": "Alma Bridge", "answer": False, "passage": BRIDGE},
    {"question": "was the bern tower a prison", "title": "Bern Tower", "answer": True, "passage": TOWER},
    {"question": "was the bern tower a gate in 1400", "title": "Bern Tower", "answer": False, "passage": TOWER},
    {"question": "is the bern tower younger than 1300", "title": "Bern Tower", "answer": False, "passage": TOWER},
]


def _drop_answer(*spans: str, number: str = "") -> dict[str, Any]:
    return {"number": number, "spans": list(spans), "date": {"day": "", "month": "", "year": ""}}


DROP: dict[str, Any] = {
    "nfl_1": {
        "passage": GAME,
        "qa_pairs": [
            {"question": question, "query_id": f"d{number}", "answer": answer}
            for number, (question, answer) in enumerate(
                (
                    ("How many points did the Lions score?", _drop_answer(number="34")),
                    ("By how many points did the Lions lead at half time?", _drop_answer(number="7")),
                    ("Who threw?", _drop_answer("Smith", "Jones")),
                    ("Who won?", _drop_answer("the Lions")),
                    ("How many points were scored in the second half?", _drop_answer(number="17")),
                ),
                start=1,
            )
        ],
    }
}


def _paragraphs(*texts: str) -> list[dict[str, Any]]:
    return [
        {"idx": number, "title": f"T{number}", "paragraph_text": text, "is_supporting": False}
        for number, text in enumerate(texts)
    ]


def _musique_item(name: str, question: str, steps: list[tuple[str, str, int | None]], **more: Any) -> dict[str, Any]:
    decomposition = [
        {"id": number, "question": asked, "answer": answer, "paragraph_support_idx": support}
        for number, (asked, answer, support) in enumerate(steps)
    ]
    answers = {"answer": steps[-1][1], "answer_aliases": [], "answerable": True}
    paragraphs = _paragraphs(BRIDGE, TOWER, "Emil Horn was born in Basel.", "Basel lies on the Rhine.", "It rains.")
    return {"id": name, "paragraphs": paragraphs, "question": question, "question_decomposition": decomposition} | (
        answers | more
    )


_OPENED = ("Who opened the Alma Bridge?", "Emil Horn", 0)
_BORN = ("Where was #1 born?", "Basel", 2)
_RIVER = ("On which river does #2 lie?", "Rhine", 3)
_ARCHES = ("How many arches has the Alma Bridge?", "five", 0)
_BUILT = ("When was the Bern Tower built?", "1220", 1)
MUSIQUE: list[dict[str, Any]] = [
    _musique_item("2hop__1", "Where was the man born who opened the Alma Bridge?", [_OPENED, _BORN]),
    _musique_item(
        "3hop__2", "On which river was the man born who opened the Alma Bridge?", [_OPENED, _BORN, _RIVER],
        answer="the Rhine", answer_aliases=["Rhine"],
    ),
    _musique_item("2hop__3", "Who plays Green?", [("Green >> performer", "X", 0), ("#1 >> spouse", "Y", 1)]),
    # Nothing is said of where he was born, so the river cannot be asked for: one sub-question is left.
    _musique_item(
        "3hop__4", "On which river was he born?",
        [("Where was Emil Horn's wife born?", "Bern", None), ("On which river is #1?", "Aare", 3)], answerable=False,
    ),
    # The number of arches is asked apart from what is missing.
    _musique_item(
        "2hop__5", "How many arches and what year?", [_ARCHES, ("When was the Alma Bridge painted?", "1900", None)],
        answerable=False,
    ),
    _musique_item("2hop__6", "Nothing is missing?", [_ARCHES, _BUILT], answerable=False),
    _musique_item("2hop__7", "Something is missing?", [_ARCHES, ("When was it?", "1220", None)]),
    _musique_item("2hop__8", "How many arches and when?", [_ARCHES, _BUILT], answer="five and 1220"),
]  # fmt: skip

_KNOWN: dict[str, str] = {
    "When was the Alma Bridge opened?": "The Alma Bridge was opened in 1856.",
    "Who opened the Alma Bridge?": "The Alma Bridge was opened by Emil Horn.",
    "How many arches has the Alma Bridge?": "The Alma Bridge has five arches.",
    "When was the Bern Tower built?": "The Bern Tower was built in 1220.",
    # Not the gold answer.
    "What was the Bern Tower after 1346?": "The Bern Tower was a jail.",
    # An answer where there is none.
    "Who built the Bern Tower?": "The Bern Tower was built by monks.",
    "is the alma bridge older than 1900": "Yes, the Alma Bridge is older than 1900.",
    "does the alma bridge have six arches": "No, it has five, yes, five.",
    "was the bern tower a prison": "Yes, the tower was a prison.",
    "was the bern tower a gate in 1400": "Yes, it was still a gate, though no document says so.",
    "is the bern tower younger than 1300": "No, it was built in 1220.",
    "How many points did the Lions score?": "The Lions scored 34 points.",
    "By how many points did the Lions lead at half time?": "They led by 8.",
    "Who threw?": "Jones and Smith threw.",
    "Who won?": "The Lions won.",
    "How many points were scored in the second half?": "17 points were scored.",
    "Where was Emil Horn born?": "Emil Horn was born in Basel.",
    "On which river does Basel lie?": "Basel lies on the Rhine.",
}
_FINAL: dict[str, str] = {
    "Where was the man born who opened the Alma Bridge?": "He was born in Basel.",
    "On which river was the man born who opened the Alma Bridge?": "On the Rhine.",
    "How many arches and when?": "Five arches, in 1221.",
}


def reader(request: TeacherRequest) -> str:
    """Answers the questions of these sets; some of them wrong."""
    prompt = request.messages[-1]["content"]
    question = re.findall(r"^Question: (.*)$", prompt, re.MULTILINE)[0]
    if "Facts:" in prompt:
        facts = " ".join(re.findall(r"^- .*\? (.*)$", prompt, re.MULTILINE))
        answer = _FINAL.get(question, "This cannot be answered from what was found.")
        return f"+ Summary: {facts}\n+ Reasoning: It follows.\n+ Answer: {answer}"
    reasoning = "24 + 10 = 34" if "arithmetic" in prompt else "It is said there."
    return f"+ Reasoning: {reasoning}\n+ Answer: {_KNOWN.get(question, 'The paragraph does not say.')}"


def write(folder: Path) -> dict[str, Path]:
    """The files of all sets."""
    found = {name: folder / f"{name}.json" for name in ("squad", "boolq", "drop", "musique")}
    found["squad"].write_text(json.dumps(SQUAD))
    found["drop"].write_text(json.dumps(DROP))
    for name, rows in (("boolq", BOOLQ), ("musique", MUSIQUE)):
        found[name].write_text("".join(json.dumps(one) + "\n" for one in rows))
    return found
