"""A model spread over processes: what one of them does for all. Files are written and passages searched for once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from retro.common.errors import RetroError
from retro.generate.answer_writer import AnswerFile
from retro.mcore import parallel
from retro.qa.answer_files import Answer
from retro.qa.passages import Retrieve
from retro.qa.question import PassageLike

T = TypeVar("T")
PassageLists = Sequence[Sequence[PassageLike]]


def on_first_rank(do: Callable[[], T]) -> T:
    """Have the first rank do something. Every rank calls this.

    Returns:
        What it gave, on all ranks.

    Raises:
        RetroError: What it raised, on all ranks; so none waits for one that has left.
    """
    mine: T | None = None
    failure: RetroError | None = None
    if parallel.is_main():
        try:
            mine = do()
        except RetroError as error:
            failure = error
    # The message travels, not the error: these cannot be pickled.
    result, problem = parallel.gather_objects((mine, None if failure is None else str(failure)))[0]
    if problem is not None:
        raise failure or RetroError(problem)
    return result  # type: ignore[return-value]


def search_once(retrieve: Retrieve | None) -> Retrieve:
    """A search that every rank calls and the first one does.

    Two searches of one index need not agree: threads add in another order, and near ties swap. Ranks that read other
    passages would choose other tokens, and wait for each other for ever. Besides, one index in memory is enough.

    Args:
        retrieve: Needed on the first rank; the others hand over None.

    Returns:
        The search; what it raises on the first rank, it raises on all.
    """

    def search(texts: list[str]) -> PassageLists:
        def do() -> PassageLists:
            if retrieve is None:
                raise ValueError("the first rank needs a search")
            return retrieve(texts)

        return on_first_rank(do)

    return search


class SharedAnswerFile:
    """An answer file that the first rank writes, and of which all know how far it is."""

    def __init__(self, path: Path, header: Mapping[str, Any], ids: Sequence[str], batch_size: int) -> None:
        """Open or continue; see `retro.generate.answer_writer.AnswerFile`.

        Raises:
            ArtifactError: As there, on all ranks.
        """
        self._file: AnswerFile | None = None

        def begin() -> int:
            self._file = AnswerFile(path, header, ids, batch_size)
            return self._file.done

        self.done = on_first_rank(begin)

    def append(self, answers: Sequence[Answer]) -> None:
        """Write one batch and wait until it is on the disk."""

        def write() -> int:
            if self._file is None:
                raise ValueError("the first rank did not open the file")
            self._file.append(answers)
            return self._file.done

        self.done = on_first_rank(write)
