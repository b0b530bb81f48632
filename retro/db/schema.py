"""The columns of the chunk database.

Rows of all splits are stored, train first, then valid, then test, so that one split is one range of rows.
"""

from __future__ import annotations

import h5py
import numpy as np

from retro.common.hdf5 import write_texts

FILE = "db.h5"
STAGE = "db"

COLUMNS: dict[str, np.dtype[np.generic]] = {
    "source": np.dtype(np.uint16),
    "document": np.dtype(np.int64),
    "token_start": np.dtype(np.int64),
    "token_count": np.dtype(np.int32),
    "continues": np.dtype(np.uint8),
}
"""One entry per chunk: the number of its source, of its document in that source, its first token counted from the
start of that source's token file, its tokens (1 to chunk_length), and 1 where the next row continues the document."""

DOCUMENT_BITS = 40
"""A document key is source << 40 | document: room for 65,535 sources of 10^12 documents."""


def write_header(file: h5py.File, chunk_length: int, corpus: str) -> None:
    """Let a database say of itself how long its chunks are and of which corpus, by its fingerprint."""
    file.attrs["chunk_length"] = chunk_length
    write_texts(file, {"corpus": corpus})
