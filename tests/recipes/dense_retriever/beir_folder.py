"""A folder in the form of BEIR, a few lines of each file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

CORPUS: Sequence[Mapping[str, Any]] = (
    {"_id": "d1", "title": "Rome", "text": "Rome lies on the Tiber.", "metadata": {"url": "x"}},
    {"_id": "d2", "title": "", "text": "Paris lies on the Seine."},
    {"_id": "d3", "title": "Only a title", "text": " "},
    {"_id": "d4", "text": "London lies on the Thames."},
)
QUERIES: Sequence[Mapping[str, Any]] = (
    {"_id": "q1", "text": "Where does Rome lie?", "metadata": {}},
    {"_id": "q2", "text": "Which city lies on the Seine?"},
    {"_id": "q3", "text": "Not judged in test"},
)
QRELS: Sequence[tuple[str, str, object]] = (("q2", "d2", 2), ("q2", "d1", 0), ("q1", "d1", 1), ("q1", "d4", -1))


def write(
    folder: Path,
    corpus: Iterable[Mapping[str, Any]] = CORPUS,
    queries: Iterable[Mapping[str, Any]] = QUERIES,
    **qrels: Iterable[tuple[str, str, object]],
) -> Path:
    """Write a folder; `test=…` and so on are judgements."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, lines in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    for split, judgements in (qrels or {"test": QRELS}).items():
        rows = "".join(f"{query}\t{document}\t{score}\n" for query, document, score in judgements)
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}", encoding="utf-8")
    return folder
