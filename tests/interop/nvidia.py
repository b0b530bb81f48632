"""A project as NVIDIA's Retro preprocessing leaves it, made from the published layout of its files.

Written apart from the code that reads it: documents are cut and rows are laid down one by one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from retro.corpus.token_files import TokenFileWriter
from retro.tokenizers.tokenizer import Tokenizer
from tests.corpus.texts import story, tiny_tokenizer

CHUNK = 8


@dataclass
class FakeProject:
    """What to build, and what was built."""

    directory: Path
    counts: tuple[int, ...] = (23, 12)
    """Documents of each corpus."""
    split: str = "90,10,0"
    left_out: tuple[tuple[int, int, int], ...] = ()
    """Chunks without a wordpiece: corpus, document, start."""
    train: list[list[int]] = field(default_factory=list)
    valid: list[list[int]] = field(default_factory=list)
    texts: list[list[str]] = field(default_factory=list)
    tokenizer: Tokenizer | None = None

    @property
    def merged(self) -> Path:
        return self.directory / "db" / "merged"

    def prefix(self, corpus: int) -> str:
        return f"part{corpus}/stories_text_document"

    def build(self) -> FakeProject:
        """Write everything."""
        self.tokenizer = tiny_tokenizer(self.directory / "tokenizer")
        infos = [self._corpus(number, documents) for number, documents in enumerate(self.counts)]
        (self.directory / "db/indexed_dataset_infos.json").write_text(json.dumps(infos))
        for name, rows in (("train", self.train), ("valid", self.valid), ("sampled", self.train[:5])):
            write_merged(self.merged / f"{name}.hdf5", rows)
        self.configure()
        return self

    def configure(self, **changes: Any) -> None:
        """Write config.json."""
        blend = [word for number in range(len(self.counts)) for word in (str(number + 1), self.prefix(number))]
        settings = {
            "retro_gpt_chunk_length": CHUNK, "retro_gpt_split": self.split, "retro_gpt_data_path": blend,
            "retro_gpt_tokenizer_type": "GPTSentencePieceTokenizer", "retro_gpt_seq_length": 32,
            "retro_gpt_tokenizer_model": "tokenizer/tokenizer.model", "retro_block_size": 100_000,
            "retro_neighbor_dirs": {"train": None, "valid": None, "test": None},
        } | changes  # fmt: skip
        (self.directory / "config.json").write_text(json.dumps(settings, indent=4, sort_keys=True))

    def _corpus(self, number: int, documents: int) -> dict[str, Any]:
        """Token file and blocks of a corpus; its rows go to `train` and `valid`."""
        prefix = self.directory / "data" / self.prefix(number)
        assert self.tokenizer is not None
        texts = [story(100 * number + document) for document in range(documents)]
        self.texts.append(texts)
        with TokenFileWriter(prefix, self.tokenizer.vocab_size) as writer:
            for text in texts:
                writer.add_document([*self.tokenizer.encode(text), self.tokenizer.eod])
            writer.finish()
        train = int(float(self.split.split(",")[0]) / 100 * documents)
        kept: list[list[int]] = []
        invalid: list[list[int]] = []
        for document, text in enumerate(texts):
            tokens = len(self.tokenizer.encode(text))
            for start in range(0, tokens, CHUNK):
                end = min(start + CHUNK, tokens)
                if (number, document, start) in self.left_out:
                    invalid.append([document, start, end, 0])
                    continue
                kept.append([document, start, end, end - start + 1])
                (self.train if document < train else self.valid).append([number, document, start, end, end - start + 1])
        half = documents // 2
        folder = self.directory / "db/individual" / self.prefix(number)
        for first, last in ((0, half), (half, documents)):
            write_block(folder / f"{first:04d}-{last:04d}.hdf5", kept, invalid, first, last)
        return {
            "ratio": float(number + 1), "prefix": self.prefix(number), "n_docs": documents, "n_docs_train": train,
            "n_chunks": len(kept), "n_chunks_train": sum(row[0] < train for row in kept),
            "n_chunks_invalid": len(invalid), "n_chunks_sampled": 2,
        }  # fmt: skip


def write_block(path: Path, kept: list[list[int]], invalid: list[list[int]], first: int, last: int) -> None:
    """A block of documents; without invalid chunks their dataset is empty and has one dimension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    inside = [row for row in kept if first <= row[0] < last]
    outside = [row for row in invalid if first <= row[0] < last]
    with h5py.File(path, "w") as file:
        file.create_dataset("chunks_valid", data=np.array(inside, dtype=np.uint32))
        file.create_dataset("chunks_invalid", data=np.array(outside, dtype=np.uint32))
        totals = [[document, sum(row[0] <= document for row in inside)] for document in range(first, last)]
        file.create_dataset("doc_offsets", data=np.array(totals, dtype=np.uint64))


def write_merged(path: Path, rows: list[list[int]], *, written: int | None = None, dtype: Any = np.uint32) -> None:
    """A merged file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("chunks", data=np.array(rows, dtype=dtype))
        done = len(rows) if written is None else written
        file.create_dataset("n_written", data=np.array([done], dtype=np.uint64))
