"""One item in each layout."""

from __future__ import annotations

from typing import Any

NEW: dict[str, Any] = {
    "question": "Which is older, the Alma Bridge or the Bern Tower?",
    "multihop": True,
    "sub_questions": [
        {
            "question": "When was the Alma Bridge built?",
            "paragraph": "The Alma Bridge was finished in 1856.",
            "long_answer": "The text gives 1856.\nAnswer:1856",
        },
        {
            "question": "When was the Bern Tower built?",
            "paragraph": "The Bern Tower dates from 1220.",
            "long_answer": "The text gives 1220.\nAnswer:1220",
        },
    ],
    "final_answer": "Summary:1856 and 1220.\nAnswer:The Bern Tower",
    "answer": "The Bern Tower",
    "meta_info": {"category": "buildings"},
    "tag": "gen",
}
OLD: dict[str, Any] = {
    "src": "squad.json",
    "question": "Who wrote it?",
    "final_answer": "Ada wrote it.",
    "answer": "Ada",
    "sub_questions": [
        {
            "question": "Who wrote it?",
            "answer": "Ada",
            "long_answer": "Ada wrote it.",
            "paragraph": "Ada wrote the note.",
            "unanswerable": False,
        }
    ],
}
