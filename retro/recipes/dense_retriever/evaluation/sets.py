"""What is measured: sets of questions, each with the passages that are searched, and what of these is right.

    passages     the held-out pairs, in all segments
    positives    the held-out pairs, among their own positives: the original's number
    questions    further questions with answer strings, in all segments
    NAME         a folder in BEIR's form, in its own corpus

A pair says which passage answers its question; segments are cut elsewhere. A segment counts as right if it is of the
pair's document and has at least `overlap` of the word trigrams of the shorter text in common with the positive. Of a
document it is by its id, or by its title where documents of pairs are named by these.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from retro.common.errors import DataError
from retro.qa.fields import Fields
from retro.qa.question_files import read_questions
from retro.recipes.dense_retriever.evaluation.beir import passages_of, read_split
from retro.recipes.dense_retriever.evaluation.config import BeirConfig
from retro.recipes.dense_retriever.evaluation.judgement import Asked
from retro.recipes.dense_retriever.pairs import Pair
from retro.recipes.dense_retriever.same_question import document_among
from retro.recipes.dense_retriever.trigrams import shared_part, trigrams
from retro.recipes.item_files import write_items

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Questions, and what they are searched in."""

    name: str
    passages: Path
    """The file of passages."""
    asked: Sequence[Asked]
    document_of: Callable[[str], str]
    """The document that a passage of an id was cut from."""
    exclude_own_id: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    """What else is known of it."""

    def first(self, most: int | None) -> EvaluationSet:
        """The set with the first so many questions."""
        return self if most is None else replace(self, asked=self.asked[:most])


def grouped(pairs: Iterable[Pair]) -> list[list[Pair]]:
    """Pairs by their question: a question with several positives is asked once."""
    found: dict[str, list[Pair]] = {}
    for one in pairs:
        found.setdefault(one.question, []).append(one)
    return list(found.values())


def _asked(pairs: Sequence[Pair], relevant: Mapping[str, int]) -> Asked:
    first = pairs[0]
    answers = tuple(dict.fromkeys(text for one in pairs for text in one.answers))
    documents = frozenset(one.document for one in pairs)
    return Asked(id=first.id, question=first.question, relevant=relevant, documents=documents, answers=answers)


def among_positives(pairs: Sequence[Pair], out: Path) -> EvaluationSet:
    """The pairs' questions among the pairs' positives, which are written into a file of passages.

    Equal texts are one passage, which is right for each of its questions.

    Args:
        pairs: Held out.
        out: The file.
    """
    names: dict[tuple[str, str], str] = {}
    documents: dict[str, str] = {}
    lines = []
    for number, one in enumerate(pairs):
        key = (one.positive.title, one.positive.text)
        if key not in names:
            names[key] = str(number)
            documents[str(number)] = one.document
            lines.append({"id": str(number), "title": one.positive.title, "text": one.positive.text})
    write_items(out, lines)
    asked = [_asked(some, {names[one.positive.title, one.positive.text]: 1 for one in some}) for some in grouped(pairs)]
    return EvaluationSet(name="positives", passages=out, asked=asked, document_of=documents.__getitem__)


def among_passages(
    pairs: Sequence[Pair], passages: Path, document_of: Callable[[str], str], overlap: float
) -> EvaluationSet:
    """The pairs' questions among all segments; the file is read once, and held in memory is what is right.

    Args:
        pairs: Held out.
        passages: The segments.
        document_of: The document of a segment's id.
        overlap: Least share of trigrams in common with a positive, above 0.

    Raises:
        DataError: No segment is of a document of the pairs.
    """
    positives: dict[str, dict[str, frozenset[tuple[str, ...]]]] = defaultdict(dict)
    for one in pairs:
        positives[one.document].setdefault(one.positive.text, trigrams(one.positive.text))
    named: dict[str, str] = {}
    right: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    first = ""
    for identifier, title, text in _segments(passages):
        first = first or identifier
        document = document_among(document_of(identifier), title, positives)
        if document is not None:
            named[identifier] = document
            mine = trigrams(text)
            for positive, grams in positives[document].items():
                if shared_part(grams, mine) >= overlap:
                    right[document, positive][identifier] = 1
    found = set(named.values())
    if not found:
        problem = (
            f"has no segment of the {len(positives)} documents of the held-out pairs, as {next(iter(positives))!r}"
        )
        remedy = f"Its first is {first!r}. Name documents alike in both (id_key), or leave passages out of against"
        raise DataError(passages, problem, remedy)
    missing = len(positives) - len(found)
    if missing:
        log.warning("evaluate: %d of %d documents of the held-out pairs have no segment", missing, len(positives))
    asked = [
        _asked(some, {name: 1 for one in some for name in right.get((one.document, one.positive.text), ())})
        for some in grouped(pairs)
    ]
    return EvaluationSet(
        name="passages",
        passages=passages,
        asked=asked,
        document_of=lambda name: named.get(name, ""),
        counts={"documents": len(positives), "documents_without_segment": missing},
    )


def _segments(path: Path) -> Iterator[tuple[str, str, str]]:
    """Id, title and text of each segment; the step that wrote them checked them."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            one = json.loads(line)
            yield one["id"], one["title"], one["text"]


def with_answers(questions: Path, passages: Path) -> EvaluationSet:
    """Questions with answer strings among all segments: nothing else is known of what is right.

    Raises:
        DataError: The file cannot be read, or no question has an answer.
    """
    read = read_questions(questions, Fields(needs_answer=False))
    asked = [Asked(id=one.id, question=one.question, answers=tuple(one.answers)) for one in read]
    if not any(one.answers for one in asked):
        problem, remedy = "has no question with an answer string", "Give questions with answers"
        raise DataError(questions, problem, remedy)
    return EvaluationSet(name="questions", passages=passages, asked=asked, document_of=lambda _: "")


def of_beir(config: BeirConfig, store: Path) -> EvaluationSet:
    """A folder in BEIR's form.

    Raises:
        DataError: As `beir.read_split` and `beir.passages_of`.
    """
    split = read_split(config.path, config.split)
    passages, counts = passages_of(config.path, store)
    asked = [Asked(id=name, question=text, relevant=split.relevant[name]) for name, text in split.questions.items()]
    known = {name for grades in split.relevant.values() for name, grade in grades.items() if grade > 0}
    absent = int((passages.rows_of(sorted(known)) < 0).sum()) if known else 0
    if absent:
        log.warning("%s: %d relevant documents are not in the corpus, or have no text", config.path, absent)
    return EvaluationSet(
        name=config.title,
        passages=passages.file,
        asked=asked,
        document_of=lambda _: "",
        exclude_own_id=config.exclude_own_id,
        counts={"judgements": split.counts["judgements"], "empty": counts["empty"], "relevant_not_in_corpus": absent},
    )
