"""Opens a tokenizer file and uses it: run as a process of its own, which a damaged file may end.

SentencePiece's and HuggingFace's libraries are not made for hostile files: they end the process, or never return.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

from retro.common.errors import DataError
from retro.tokenizers.tokenizer import HuggingFaceTokenizer, SentencePieceTokenizer

_SAMPLE = "The quick brown fox, number 17: caf\u00e9 \u4e2d\u6587 \U0001f600\n\tjumps over."
_MEMORY = 32 * 1024**3


def main(kind: str, path: Path) -> None:
    """Use a tokenizer file. One that the library refuses is none that ends a process.

    Args:
        kind: `sentencepiece` or `huggingface`.
        path: The file.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY if hard == resource.RLIM_INFINITY else min(_MEMORY, hard), hard))
    opens = SentencePieceTokenizer if kind == "sentencepiece" else HuggingFaceTokenizer
    with suppress(DataError):
        tokenizer = opens(path, eod=0)
        every = range(tokenizer.vocab_size)
        tokenizer.decode_batch([every[start : start + 1024] for start in range(0, len(every), 1024)])
        tokenizer.decode(tokenizer.encode(_SAMPLE))
        tokenizer.encode_batch([_SAMPLE, ""])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
