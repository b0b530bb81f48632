"""Folders in the form of BEIR (Thakur et al. 2021, arXiv:2104.08663): measured on, and trained on as pairs.

    corpus.jsonl      {"_id": "d1", "title": "…", "text": "…", …}      one document a line; also .gz
    queries.jsonl     {"_id": "q1", "text": "…", …}
    qrels/test.tsv    query-id, corpus-id and score with tabs between, and that heading; also train.tsv and dev.tsv

A score is a grade: 0 is judged and not relevant. Negative ones, which TREC gives to junk, count as 0. A question is a
member of a split if it is judged there. Everything but the corpus is in memory.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from retro.common.checksum_cache import known_sha256
from retro.common.errors import DataError
from retro.common.input_files import kind_of, require_regular
from retro.common.json_files import JsonError, half_character, parse_json
from retro.corpus.files import BOM, open_bytes
from retro.recipes.dense_retriever.pairs import Pair, PairPassage
from retro.recipes.passages.layouts import Passage
from retro.recipes.passages.passages import Passages
from retro.recipes.passages.store import kept

log = logging.getLogger(__name__)

Split = Literal["train", "dev", "test"]
CORPUS, QUERIES = "corpus.jsonl", "queries.jsonl"
_HEADING = ("query-id", "corpus-id", "score")
_FORM = 'Give one object a line, with "_id" and "text" as texts'
_PASSAGES = "passages.jsonl"


@dataclass(frozen=True)
class BeirSplit:
    """What a split asks, and which documents answer it."""

    folder: Path
    split: Split
    questions: dict[str, str]
    """By id, in the order of the judgements."""
    relevant: dict[str, dict[str, int]]
    """By question, the grade of each document that is judged, 0 or more."""
    counts: dict[str, int]
    """`questions`, `judgements`, and `without_relevant`: questions of which no grade is above 0."""


def files_of(folder: Path, split: Split) -> tuple[Path, Path, Path]:
    """The files of a split: corpus, questions, judgements.

    Raises:
        DataError: One is missing.
    """
    return _there(folder, CORPUS), _there(folder, QUERIES), _require(folder / "qrels" / f"{split}.tsv", _qrels(split))


def read_split(folder: Path, split: Split) -> BeirSplit:
    """Questions and judgements of a split.

    Raises:
        DataError: A file is missing, a line is not in BEIR's form, or a question is judged that has no text; file and
            line are named.
    """
    path = _require(folder / "qrels" / f"{split}.tsv", _qrels(split))
    texts = _queries(_there(folder, QUERIES))
    questions: dict[str, str] = {}
    relevant: dict[str, dict[str, int]] = {}
    for number, (query, document, grade) in _judgements(path):
        if query not in texts:
            problem = f"line {number} judges the question {query[:80]!r}, which {QUERIES} does not have"
            raise DataError(path, problem, "Give the questions of these judgements")
        questions.setdefault(query, texts[query])
        grades = relevant.setdefault(query, {})
        if grades.setdefault(document, max(grade, 0)) != max(grade, 0):
            problem = f"line {number} gives {document[:80]!r} another grade for {query[:80]!r} than a line before"
            raise DataError(path, problem, "Judge a document once for a question")
    if not questions:
        raise DataError(path, "holds no judgement", "Give a line for each judged document")
    counts = {
        "questions": len(questions),
        "judgements": sum(map(len, relevant.values())),
        "without_relevant": sum(not any(grades.values()) for grades in relevant.values()),
    }
    return BeirSplit(folder, split, questions, relevant, counts)


def passages_of(folder: Path, store: Path) -> tuple[Passages, dict[str, int]]:
    """The corpus of a folder as passages, converted once.

    A document without text has its title in its place; one without both is left out.

    Args:
        folder: In BEIR's form.
        store: Where what is derived goes.

    Returns:
        The passages, and `passages` and `empty`: how many there are, and how many were left out.

    Raises:
        DataError: The corpus is missing, a line is not in BEIR's form, or two documents have one id.
        ArtifactError: The disk is full, or what was made there is damaged.
    """
    source = _there(folder, CORPUS)
    store.mkdir(parents=True, exist_ok=True)
    made_of = {"sha256": known_sha256(source, store), "form": 1}
    made = kept(store / "corpus", "the passages of a BEIR corpus", made_of, lambda fresh: _convert(source, fresh))
    path = store / "corpus" / _PASSAGES
    try:
        passages = Passages.open(path, store)
    except DataError as error:
        # Lines have the numbers that they have in the corpus.
        raise DataError(source if error.path == path else error.path, error.problem, "Give each id once") from None
    return passages, {name: int(made.counts[name]) for name in ("passages", "empty")}


def pairs_of(folder: Path, split: Split, store: Path) -> Iterator[Pair]:
    """Questions of a split with each of their relevant documents, as pairs to train on, in the order of the judgements.

    Every document is a document of its own for the split by documents.

    Raises:
        DataError: As `read_split` and `passages_of`; or a relevant document is not in the corpus.
    """
    passages, _ = passages_of(folder, store)
    found = read_split(folder, split)
    for query, grades in found.relevant.items():
        for document, grade in grades.items():
            if grade > 0:
                one = _passage(passages, document, found)
                positive = PairPassage(id=one.id, title=one.title, text=one.text)
                yield Pair(
                    id=f"{query}:{document}", question=found.questions[query], document=document, positive=positive
                )


def _passage(passages: Passages, document: str, split: BeirSplit) -> Passage:
    try:
        return passages[document]
    except KeyError:
        problem = f"judges the document {document[:80]!r}, which {CORPUS} does not have, or without text"
        raise DataError(
            split.folder / "qrels" / f"{split.split}.tsv", problem, "Give the corpus of these judgements"
        ) from None


def _qrels(split: Split) -> str:
    return f"qrels/{split}.tsv"


def _there(folder: Path, name: str) -> Path:
    """A file of a folder, as it is or compressed."""
    compressed = folder / f"{name}.gz"
    return compressed if kind_of(compressed) == "a file" else _require(folder / name, name)


def _require(path: Path, name: str) -> Path:
    remedy = f"A folder in BEIR's form has {CORPUS}, {QUERIES} and qrels/SPLIT.tsv"
    require_regular(path, remedy, error=DataError, missing=f"no such file; {name} is needed")
    return path


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with open_bytes(path) as stream:
        for number, line in enumerate(stream, start=1):
            yield number, line.removeprefix(BOM) if number == 1 else line


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line and object of each line that is not blank; `_id` is a text, and `text` and `title` where they are there.

    Raises:
        DataError: A line is none.
    """
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            text = line.decode()
            value = parse_json(text)
        except (UnicodeDecodeError, JsonError) as error:
            raise DataError(path, f"line {number} is no JSON ({error})", _FORM) from None
        if not isinstance(value, dict) or half_character(text, value) is not None:
            raise DataError(path, f"line {number} is no object, or holds half a character", _FORM)
        if not isinstance(value.get("_id"), str) or not value["_id"].strip():
            raise DataError(path, f"line {number} has {str(value.get('_id'))[:80]!r} as its '_id'", _FORM)
        for name in ("text", "title"):
            if not isinstance(value.get(name, ""), str):
                raise DataError(path, f"line {number} has {str(value[name])[:80]!r} as its {name!r}", _FORM)
        yield number, value


def _queries(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, one in _objects(path):
        if not one.get("text", "").strip():
            raise DataError(path, f"line {number} (question {one['_id'][:80]!r}) has no text", _FORM)
        if one["_id"] in found:
            raise DataError(path, f"line {number} has the id {one['_id'][:80]!r} of a line before", "Give each id once")
        found[one["_id"]] = one["text"]
    return found


def _judgements(path: Path) -> Iterator[tuple[int, tuple[str, str, int]]]:
    """Line, question, document and grade of each judgement.

    Raises:
        DataError: A line is none, or the first one is no heading.
    """
    remedy = f"Begin with the heading {', '.join(_HEADING)}, and put tabs between"
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            cells = [cell.strip() for cell in line.decode().rstrip("\r\n").split("\t")]
        except UnicodeDecodeError:
            raise DataError(path, f"line {number} is not UTF-8", remedy) from None
        if number == 1:
            if tuple(cells) != _HEADING:
                raise DataError(path, f"line 1 is {' '.join(cells)[:80]!r}, needed is the heading", remedy)
            continue
        if len(cells) != len(_HEADING) or not cells[0] or not cells[1]:
            raise DataError(path, f"line {number} has {len(cells)} cells, needed are {len(_HEADING)}", remedy)
        try:
            yield number, (cells[0], cells[1], int(cells[2]))
        except ValueError:
            problem = f"line {number} has the score {cells[2][:80]!r}, needed is a whole number"
            raise DataError(path, problem, remedy) from None


def _convert(source: Path, fresh: Path) -> dict[str, int]:
    """Write the corpus as passages; gives how many, and how many documents without text were left out."""
    written = empty = lines = 0
    with (fresh / _PASSAGES).open("w", encoding="utf-8") as target:
        for number, one in _objects(source):
            title, text = one.get("title", ""), one.get("text", "")
            if not (text.strip() or title.strip()):
                empty += 1
                continue
            named = {"id": one["_id"], "title": title if text.strip() else "", "text": text if text.strip() else title}
            target.write("\n" * (number - 1 - lines) + json.dumps(named, ensure_ascii=False) + "\n")
            written, lines = written + 1, number
    if not written:
        raise DataError(source, "holds no document with a text", _FORM)
    if empty:
        log.warning("%s: %d documents without text were left out", source, empty)
    return {"passages": written, "empty": empty}
