"""Where passages come from: a question's own, a folder of texts, a database, a table of passages, or an address.

All are one protocol (`retro.recipes.multi_hop.protocol.Retriever`); whatever has a `PassageSearch` is one with
`FromSearch`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retro.common.artifacts import fingerprint
from retro.common.coordinator import Coordinator
from retro.common.errors import ConfigError, DataError, short_reason
from retro.common.json_files import read_text
from retro.common.optional import import_optional
from retro.index.config import EmbedderConfig
from retro.index.embedder import Embedder, require_vectors
from retro.index.embedders import make_embedder
from retro.qa.passages import neighbor_text
from retro.qa.question import Context, PassageLike
from retro.recipes.multi_hop.protocol import Found, Search

if TYPE_CHECKING:
    from retro.recipes.passages.search import PassageSearch

_STAGE = "recipe"
_REFUSED = (400, 413, 422)
"""What a server says of one request that it cannot answer."""


class FromSearch:
    """The same passages for all questions: a table with embeddings, or a run's database."""

    def __init__(self, source: PassageSearch, n: int) -> None:
        """Find the `n` best of each search."""
        self._source, self._n = source, n

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `Retriever`."""
        return {**self._source.identity, "n": self._n}

    def find(self, searches: Sequence[Search]) -> list[Found]:
        """See `Retriever`."""
        found = self._source.search([one.query for one in searches], self._n)
        return [Found(passages=tuple(passages)) for passages in found]


class FromContexts:
    """The passages that each question brings, such as HotpotQA's ten."""

    def __init__(self, embedder: Embedder, n: int) -> None:
        """Find the `n` best of each search."""
        self._embedder, self._n = embedder, n
        self._known: dict[tuple[Context, ...], Any] = {}
        """Vectors of the passages of the questions that were searched for last."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `Retriever`."""
        return {"kind": "contexts", "embedder": self._embedder.identity, "n": self._n}

    def find(self, searches: Sequence[Search]) -> list[Found]:
        """See `Retriever`. Passages that several hops of a question search are embedded once."""
        asked = dict.fromkeys(one.question.contexts for one in searches)
        fresh = [passages for passages in asked if passages not in self._known]
        texts = [_text(one) for passages in fresh for one in passages]
        vectors = (
            iter(_vectors(self._embedder.embed_passages(texts), self._embedder, len(texts))) if texts else iter(())
        )
        made = {passages: np.array([next(vectors) for _ in passages]) for passages in fresh}
        # Those of this batch; whoever asks again does so in one of the next.
        self._known = {passages: made[passages] if passages in made else self._known[passages] for passages in asked}
        queries = _query_vectors(self._embedder, searches)
        return [
            Found(passages=_best(one.question.contexts, self._known[one.question.contexts], query, self._n))
            for one, query in zip(searches, queries, strict=True)
        ]


class FromFolder:
    """Windows of the text files of a folder."""

    def __init__(self, embedder: Embedder, passages: Sequence[Context], n: int) -> None:
        """Find the `n` best of each search; `windows_of` cuts the passages."""
        self._embedder, self._passages, self._n = embedder, passages, n

    @property
    def identity(self) -> Mapping[str, Any]:
        """See `Retriever`."""
        texts = fingerprint([[one.document_id, one.text] for one in self._passages])
        return {"kind": "folder", "texts": texts, "embedder": self._embedder.identity, "n": self._n}

    def find(self, searches: Sequence[Search]) -> list[Found]:
        """See `Retriever`."""
        queries = _query_vectors(self._embedder, searches)
        return [Found(passages=_best(self._passages, self._vectors, query, self._n)) for query in queries]

    @cached_property
    def _vectors(self) -> Any:
        texts = [_text(one) for one in self._passages]
        return _vectors(self._embedder.embed_passages(texts), self._embedder, len(texts))


class FromAddress:
    """A server that searches, in Search-R1's form: `POST /retrieve {queries, topk, return_scores}`."""

    def __init__(self, address: str, n: int, timeout_s: float) -> None:
        """Set up; nothing is sent yet."""
        self._address, self._n, self._timeout = address, n, timeout_s
        self.identity: Mapping[str, Any] = {"kind": "live", "address": address, "n": n}

    def find(self, searches: Sequence[Search]) -> list[Found]:
        """See `Retriever`. What is refused together is searched one by one, so that only the query at fault is lost."""
        found = self._found(searches)
        return [self._found([one])[0] for one in searches] if len(found) > 1 and found[0].refused else found

    def _found(self, searches: Sequence[Search]) -> list[Found]:
        httpx = import_optional("httpx", extra="teacher", use="asks an address that searches")
        body = {"queries": [one.query for one in searches], "topk": self._n, "return_scores": True}
        try:
            reply = httpx.post(self._address, json=body, timeout=self._timeout)
            if not reply.is_success:
                why = f"status {reply.status_code}: {short_reason(reply.text)}"
                return [Found(problem=why, refused=reply.status_code in _REFUSED) for _ in searches]
            found = [tuple(map(_passage_of, mine)) for mine in reply.json()["result"]]
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError, AttributeError) as error:
            return [Found(problem=short_reason(error) or type(error).__name__) for _ in searches]
        if len(found) != len(searches):
            return [Found(problem=f"{len(found)} results for {len(searches)} queries") for _ in searches]
        return [Found(passages=passages) for passages in found]


def _passage_of(result: Mapping[str, Any]) -> Context:
    """A result, as Search-R1 has it: contents that begin with the title in quotes, on its own line; or its parts."""
    document = result.get("document", result)
    score = float(result.get("score") or 0.0)
    if "text" in document:
        title, text = str(document.get("title") or ""), str(document["text"])
    else:
        title, line, text = str(document["contents"]).partition("\n")
        title, text = (_unquoted(title.strip()), text) if line else ("", title)
    # JSON may hold half of a surrogate pair, which no file can.
    title, text, name = (one.encode(errors="replace").decode() for one in (title, text, str(document.get("id", ""))))
    return Context(title=title, text=text.strip(), document_id=name, score=score)


def _unquoted(title: str) -> str:
    return title[1:-1] if len(title) > 1 and title[0] == title[-1] == '"' else title


def windows_of(folder: Path, length: int, step: int) -> list[Context]:
    """The text files of a folder, and of those in it, cut into windows that overlap; `title` is the file's name.

    Args:
        folder: With files that end in .txt or .md.
        length: Characters of a window.
        step: Characters from the beginning of one to that of the next.

    Raises:
        DataError: There is no such folder, no text in it, or a file is not text.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".txt", ".md") and path.is_file())
    found = [window for file in files for window in _windows(folder, file, length, step)]
    if not found:
        what = f"holds {len(files)} text files, and no text" if folder.is_dir() else "is not a folder"
        raise DataError(folder, what, "Give a folder with files that end in .txt or .md")
    return found


def _windows(folder: Path, file: Path, length: int, step: int) -> Iterator[Context]:
    text = read_text(file, "text file").strip()
    name = str(file.relative_to(folder))
    for start in range(0, max(len(text) - length + step, 1), step):
        window = text[start : start + length].strip()
        if window:
            yield Context(title=file.stem, text=window, document_id=f"{name}:{start}")


@contextmanager
def opened_embedder(config: EmbedderConfig, texts: Sequence[str]) -> Iterator[Embedder]:
    """An embedder; one that counts words counts those of `texts`.

    Raises:
        ConfigError: It makes no vectors.
        DataError, DependencyError: The model is missing or cannot be loaded.
    """
    if not config.makes_vectors:
        raise ConfigError("answer.retriever.embedder.kind", config.kind, "needs a kind that makes vectors")
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        coordinator = Coordinator(directory, stage=_STAGE)
        yield make_embedder(
            config, directory, lambda: iter([texts]), learned_from=fingerprint(list(texts)), coordinator=coordinator
        )


def _text(passage: PassageLike) -> str:
    return neighbor_text(passage, "title_and_text")


def _vectors(found: Any, embedder: Embedder, count: int) -> Any:
    return require_vectors(embedder, found, count)


def _query_vectors(embedder: Embedder, searches: Sequence[Search]) -> Any:
    return _vectors(embedder.embed_queries([one.query for one in searches]), embedder, len(searches))


def _best(passages: Sequence[PassageLike], vectors_ND: Any, query_D: Any, n: int) -> tuple[Context, ...]:
    """The `n` nearest, best first; of equal ones the first. Nothing is near a query without a direction."""
    if not len(passages) or not query_D.any():
        return ()
    scores_N = vectors_ND @ query_D
    order = np.argsort(-scores_N, kind="stable")[:n]
    return tuple(
        Context(
            title=passages[place].title,
            text=passages[place].text,
            document_id=passages[place].document_id,
            score=float(scores_N[place]),
        )
        for place in order.tolist()
    )
