"""Natural Questions (Kwiatkowski et al. 2019): from an example to its question and its annotated long answer.

Three layouts of the original release are read: the full one (`document_tokens`), the simplified one (`document_text`,
tokens parted by blanks), and that of HuggingFace's datasets (`document.tokens`). The positive is the span that
annotators marked, never one of `long_answer_candidates`. Tokens of HTML are left out of every text.
"""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from retro.qa.formats.item import BadItemError
from retro.recipes.dense_retriever.data.pair_items import Found, NoPositiveError, PositiveText, name_of

# As the release simplifies them, blanks within a token are underscores: <Td_colspan="2">.
_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9]*(?:[_\s/][^>]*)?>")
_AGREEING = 2
"""Annotators who must have marked a long answer where several were asked, as the official evaluation has it."""


class Span(NamedTuple):
    """A run of tokens, its end not in it."""

    start: int
    end: int


class _Document(NamedTuple):
    name: str
    tokens: Sequence[str]
    is_html: Sequence[bool]

    def text(self, span: Span) -> str:
        inside = zip(self.tokens[span.start : span.end], self.is_html[span.start : span.end], strict=True)
        return " ".join(token for token, tag in inside if not tag)


def natural_questions(item: Mapping[str, Any], number: str) -> Found:
    """The question of an example, its long answer, and the short answers within it.

    Raises:
        NoPositiveError: No annotator marked a long answer, too few did, or it is all HTML.
        BadItemError: It is no example of Natural Questions.
    """
    annotations = list(_annotations(item))
    spans = [_span(one.get("long_answer")) for one in annotations]
    marked = Counter(one for one in spans if one is not None)
    if not marked:
        raise NoPositiveError("no_long_answer", "has no long answer")
    if marked.total() < min(_AGREEING, len(annotations)):
        raise NoPositiveError("disputed_long_answer", f"has a long answer by 1 of {len(annotations)} annotators")
    # Of equally many the first in the file: Counter keeps the order.
    chosen = marked.most_common(1)[0][0]
    document = _document(item)
    _require_within(chosen, document)
    text = document.text(chosen)
    if not text:
        raise NoPositiveError("empty_long_answer", "has a long answer of HTML alone")
    own = [one for one, span in zip(annotations, spans, strict=True) if span == chosen]
    return Found(
        id=name_of(item, ("example_id", "id")) or number,
        question=_question(item),
        positives=(PositiveText(text=text, title=document.name, document=document.name),),
        answers=tuple(dict.fromkeys(_short_answers(own, document))),
        kind=_kind(document, chosen),
    )


def _annotations(item: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    found = item.get("annotations")
    if isinstance(found, Mapping):
        # HuggingFace's datasets: a column for each field.
        columns = {name: found.get(name) for name in ("long_answer", "short_answers")}
        if not all(isinstance(column, list) for column in columns.values()):
            raise BadItemError("wrong_type", "has 'annotations' without lists of long_answer and short_answers")
        found = [dict(zip(columns, row, strict=False)) for row in zip(*columns.values(), strict=False)]
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise BadItemError("wrong_type", f"has {str(found)[:40]!r} in 'annotations', needed is a list of objects")
    yield from found


def _span(value: Any) -> Span | None:
    """A span of an annotation; None where there is none: no candidate, or no tokens."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise BadItemError("wrong_type", f"has {str(value)[:40]!r} as a long answer, needed is an object")
    numbers = [value.get(name) for name in ("start_token", "end_token")]
    candidate = value.get("candidate_index", 0)
    if candidate is None or candidate == -1 or any(one is None or one == -1 for one in numbers):
        return None
    if not all(type(one) is int for one in numbers):
        raise BadItemError("wrong_type", f"has {str(numbers)[:40]} as start and end of a long answer")
    return Span(*numbers)  # type: ignore[arg-type]


def _require_within(span: Span, document: _Document) -> None:
    if not 0 <= span.start < span.end <= len(document.tokens):
        problem = f"has a long answer at tokens {span.start} to {span.end} of {len(document.tokens)}"
        raise BadItemError("bad_span", problem)


def _document(item: Mapping[str, Any]) -> _Document:
    tokens, is_html = _tokens(item)
    inner = item.get("document")
    about: Mapping[str, Any] = inner if isinstance(inner, Mapping) else {}
    title = item.get("document_title") or about.get("title") or _title_of(item.get("document_url") or about.get("url"))
    # The same article in another revision is the same document. Without a name its text has to do.
    name = unicodedata.normalize("NFC", str(title)).replace("_", " ").strip() if title else _digest(tokens)
    return _Document(name, tokens, is_html)


def _tokens(item: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[bool]]:
    inner = item.get("document")
    if isinstance(item.get("document_text"), str):
        tokens = item["document_text"].split(" ")
        return tokens, [_TAG.fullmatch(one) is not None for one in tokens]
    listed: Any = item.get("document_tokens")
    if isinstance(inner, Mapping) and isinstance(inner.get("tokens"), Mapping):
        columns = inner["tokens"]
        tokens, is_html = columns.get("token"), columns.get("is_html")
    elif isinstance(listed, list) and all(isinstance(one, Mapping) for one in listed):
        tokens, is_html = [one.get("token") for one in listed], [bool(one.get("html_token")) for one in listed]
    else:
        raise BadItemError("no_document", "has neither document_text nor document_tokens")
    texts = isinstance(tokens, list) and all(isinstance(one, str) for one in tokens)
    if not texts or not isinstance(is_html, list) or len(is_html) != len(tokens):
        raise BadItemError("wrong_type", "has tokens that are not texts, or not all marked as HTML or not")
    return tokens, is_html


def _title_of(url: Any) -> str:
    """The article of a Wikipedia address: …/w/index.php?title=A_b&oldid=1, or …/wiki/A_b."""
    if not isinstance(url, str) or not url:
        return ""
    parts = urlsplit(html.unescape(url))
    named = parse_qs(parts.query).get("title", [])
    return named[0] if named else unquote(parts.path.rpartition("/")[2])


def _digest(tokens: Sequence[str]) -> str:
    return "text:" + hashlib.sha256(" ".join(tokens).encode()).hexdigest()[:16]


def _question(item: Mapping[str, Any]) -> str:
    inner = item.get("question")
    text = inner.get("text") if isinstance(inner, Mapping) else item.get("question_text")
    if not isinstance(text, str) or not text.strip():
        raise BadItemError("no_question", "has no question_text")
    return text.strip()


def _short_answers(annotations: Sequence[Mapping[str, Any]], document: _Document) -> Iterator[str]:
    for one in annotations:
        found = one.get("short_answers") or []
        if isinstance(found, Mapping):
            starts, ends = found.get("start_token") or [], found.get("end_token") or []
            found = [{"start_token": start, "end_token": end} for start, end in zip(starts, ends, strict=False)]
        for answer in found:
            span = _span(answer)
            if span is not None and (text := document.text(span)):
                yield text


def _kind(document: _Document, span: Span) -> str:
    """What the long answer is: `P` for a paragraph, `Table`, `Ul` …; `text` where no tag begins it."""
    first = re.match(r"</?([A-Za-z0-9]+)", document.tokens[span.start])
    return first[1] if first and document.is_html[span.start] else "text"
