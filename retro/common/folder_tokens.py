"""What the other files of a HuggingFace folder say of its tokenizer: which token ends a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retro.common.errors import DataError
from retro.common.files import read_json

# In the order in which transformers decides: the tokenizer's own settings before those of the model.
_BY_NAME = ("tokenizer_config.json", "special_tokens_map.json")
_BY_ID = ("generation_config.json", "config.json")


def named_eod(folder: Path) -> tuple[Path, str | int] | None:
    """The end-of-text token that a folder names.

    Returns:
        The file that names it, and its name or its id; the first id where a model stops at several. None where no
        file does.

    Raises:
        DataError: A file is damaged, or names something else than a token.
    """
    for name in _BY_NAME:
        token = _entry(folder / name, "eos_token")
        if isinstance(token, dict):
            token = token.get("content")
        if token is not None:
            if not isinstance(token, str):
                raise _odd(folder / name, "eos_token")
            return folder / name, token
    for name in _BY_ID:
        found = _entry(folder / name, "eos_token_id")
        if isinstance(found, list) and found:
            found = found[0]
        if found is not None:
            if type(found) is not int or not 0 <= found < 1 << 31:
                raise _odd(folder / name, "eos_token_id")
            return folder / name, found
    return None


def _entry(path: Path, key: str) -> Any:
    if not path.is_file():
        return None
    return read_json(path, "Fetch the file again", error=DataError, keys_once=False).get(key)


def _odd(path: Path, key: str) -> DataError:
    return DataError(path, f"has an {key} that is none", "Give corpus.tokenizer.eod_token, or fetch the file again")
