"""What a finished corpus says of itself: counts for the manifest, a report for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.common.artifacts import fingerprint
from retro.common.files import read_json
from retro.corpus.inputs import Identity
from retro.corpus.pystdlib import origin_path
from retro.corpus.reader import SPLITS
from retro.corpus.records import SourceCounts
from retro.corpus.token_files import TokenFile
from retro.tokenizers.tokenizer import Tokenizer

QuestionCounts = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class CorpusReport:
    """What the stage did, for people: logged, and saved as report.json."""

    documents: int
    tokens: int
    words: int
    rejects: dict[str, int]
    """Set aside, by reason."""
    questions: int
    seconds: float
    """Of this run; a resumed run did not do everything."""

    @property
    def line(self) -> str:
        """What it did, in a sentence."""
        rejects = ", ".join(f"{count:,} {reason}" for reason, count in self.rejects.items() if count)
        aside = f"; set aside: {rejects}" if rejects else ""
        questions = f"; {self.questions:,} questions" if self.questions else ""
        return f"{self.documents:,} documents, {self.words:,} words, {self.tokens:,} tokens{aside}{questions}"


def manifest_counts(
    sources: Mapping[str, SourceCounts], inputs: Mapping[str, Identity], texts: Mapping[str, Path]
) -> dict[str, Any]:
    """Counts of each source and of all together, with what they were made from.

    Args:
        sources: Counts by source.
        inputs: Input files by source; shortened here, because the source's record lists every file.
        texts: The text files of built-in sources; the interpreter that wrote them is told.
    """
    described: dict[str, Any] = {}
    for name, counts in sources.items():
        size = sum(entry["bytes"] for entry in inputs[name])
        short = {"files": len(inputs[name]), "bytes": size, "fingerprint": fingerprint(inputs[name])}
        described[name] = asdict(counts) | {"inputs": short}
        if name in texts:
            origin = read_json(origin_path(texts[name]), "Run `retro corpus` again")
            described[name] |= {"interpreter": origin["interpreter"], "text_sha256": origin["sha256"]}
    return {
        "sources": described,
        "documents": sum(counts.documents for counts in sources.values()),
        "tokens": sum(counts.tokens for counts in sources.values()),
    }


def split_counts(splits: Mapping[str, NDArray[np.uint8]], out: Path) -> dict[str, dict[str, int]]:
    """Documents and tokens of each split, all sources together."""
    counts = {part: {"documents": 0, "tokens": 0} for part in SPLITS}
    for name, split in splits.items():
        lengths = np.diff(TokenFile(out / name).document_starts)
        for number, part in enumerate(SPLITS):
            counts[part]["documents"] += int(np.sum(split == number))
            counts[part]["tokens"] += int(lengths[split == number].sum())
    return counts


def tokenizer_counts(tokenizer: Tokenizer) -> dict[str, Any]:
    """The tokenizer's name and sizes."""
    return {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size, "eod": tokenizer.eod}


def report(sources: Mapping[str, SourceCounts], questions: QuestionCounts, seconds: float) -> CorpusReport:
    """All sources in one."""
    rejects: Counter[str] = Counter()
    for counts in sources.values():
        rejects.update(counts.rejects)
    return CorpusReport(
        documents=sum(counts.documents for counts in sources.values()),
        tokens=sum(counts.tokens for counts in sources.values()),
        words=sum(counts.words for counts in sources.values()),
        rejects=dict(sorted(rejects.items())),
        questions=sum(sum(kinds.values()) for kinds in questions.values()),
        seconds=round(seconds, 3),
    )
