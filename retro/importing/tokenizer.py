"""The tokenizer of a project: a file that the user names, or what the project's own settings name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers

from retro.common.errors import DataError, short_reason
from retro.common.files import atomic_path
from retro.corpus.config import TokenizerConfig
from retro.importing.project import CONFIG, Project

_KINDS = {".model": "sentencepiece", ".json": "huggingface"}
_GIVE = "Give the tokenizer that made the tokens with --tokenizer: a SentencePiece .model or a tokenizer.json"
GPT2_END = "<|endoftext|>"


def tokenizer_settings(
    project: Project, out: Path, given: Path | None, eod_token: str | None = None
) -> TokenizerConfig:
    """Settings of the corpus stage for the project's tokenizer.

    GPT-2's vocabulary and merges become one tokenizer.json, which is written into `out`.

    Args:
        project: Its settings name type and files.
        out: Where a tokenizer.json goes, if one has to be made.
        given: The user's file, in place of the settings.
        eod_token: The token that ends a document, if not the usual one.

    Raises:
        DataError: There is no file of a kind that can be read; what to give is said.
    """
    path = given if given is not None else _named(project, out)
    kind = _KINDS.get(path.suffix)
    if path.is_dir() and (path / "tokenizer.json").exists():
        path, kind = path / "tokenizer.json", "huggingface"
    if kind is None or not path.is_file():
        problem = "is no tokenizer file" if path.exists() else "no such tokenizer file"
        raise DataError(path, problem, _GIVE)
    return TokenizerConfig(kind=kind, path=path.resolve(), eod_token=eod_token)


def _named(project: Project, out: Path) -> Path:
    settings = project.settings
    kind = str(settings.get("retro_gpt_tokenizer_type"))
    model = _file(project, settings, "retro_gpt_tokenizer_model")
    if model is not None and ("SentencePiece" in kind or "HuggingFace" in kind):
        return model
    vocabulary = _file(project, settings, "retro_gpt_vocab_file")
    merges = _file(project, settings, "retro_gpt_merge_file")
    if kind == "GPT2BPETokenizer" and vocabulary is not None and merges is not None:
        return gpt2_file(vocabulary, merges, out / "tokenizer.json")
    raise DataError(project.directory / CONFIG, f"names a tokenizer that cannot be read here: {kind!r}", _GIVE)


def _file(project: Project, settings: dict[str, Any], name: str) -> Path | None:
    """A path among the settings; relative ones start at the project."""
    value = settings.get(name)
    return project.directory / str(value) if value else None


def gpt2_file(vocabulary: Path, merges: Path, out: Path) -> Path:
    """Write GPT-2's vocab.json and merges.txt as one tokenizer.json: byte-level BPE, no space before a text.

    Raises:
        DataError: A file is missing or is of another kind.
    """
    for needed in (vocabulary, merges):
        if not needed.is_file():
            raise DataError(needed, "no such tokenizer file", _GIVE)
    try:
        model = tokenizers.models.BPE.from_file(str(vocabulary), str(merges))
    # The library raises a bare Exception for every kind of bad file.
    except Exception as error:  # noqa: BLE001
        reason = short_reason(error)
        raise DataError(vocabulary, f"and {merges.name} are no byte-level BPE ({reason})", _GIVE) from None
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    if made.token_to_id(GPT2_END) is None:
        raise DataError(vocabulary, f"has no {GPT2_END}, which ends GPT-2's documents", _GIVE)
    # It keeps its number, and gives no text from now on.
    made.add_special_tokens([GPT2_END])
    with atomic_path(out) as temporary:
        made.save(str(temporary))
    return out
