"""The tokenizer of an exported folder: the run's own file, and what transformers must know to open it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from retro.common.errors import ArtifactError
from retro.common.files import write_plain_json
from retro.common.tokenizers import FILE_NAMES, META, HuggingFaceTokenizer, Tokenizer, load_tokenizer
from retro.model.config import ModelShape


@dataclass(frozen=True, kw_only=True)
class CopiedTokenizer:
    """What a folder's tokenizer is."""

    file: str
    """tokenizer.json or tokenizer.model."""
    eod: int
    """Id that ends a document, and an answer."""
    opens_in_transformers: bool
    """Whether AutoTokenizer gives the ids that the model was trained on; a SentencePiece model is opened by itself."""


def copy_tokenizer(directory: Path, shape: ModelShape, out: Path) -> CopiedTokenizer:
    """Copy the tokenizer in `directory` into `out`.

    Raises:
        ArtifactError: It is missing, damaged, or not the one that the model was trained with.
    """
    tokenizer = load_tokenizer(directory)
    if shape.tokenizer and tokenizer.fingerprint != shape.tokenizer:
        problem = f"is tokenizer {tokenizer.fingerprint}, the checkpoint was trained with {shape.tokenizer}"
        raise ArtifactError(directory, problem, "Name the run it was trained in with --run")
    file = FILE_NAMES["huggingface" if isinstance(tokenizer, HuggingFaceTokenizer) else "sentencepiece"]
    for name in (file, META):
        shutil.copyfile(directory / name, out / name)
    opens = isinstance(tokenizer, HuggingFaceTokenizer)
    if opens:
        write_plain_json(out / "tokenizer_config.json", _for_transformers(tokenizer, directory / file))
    return CopiedTokenizer(file=file, eod=tokenizer.eod, opens_in_transformers=opens)


def _for_transformers(tokenizer: Tokenizer, file: Path) -> dict[str, object]:
    """Settings under which AutoTokenizer, called with add_special_tokens=False, gives the ids of our own tokenizer."""
    end = _token_of(file, tokenizer.eod)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        "pad_token": end,
        "padding_side": "left",
        "model_input_names": ["input_ids", "attention_mask"],
        # A text that spells the name of a special token is text.
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
    }


def _token_of(file: Path, wanted: int) -> str:
    import tokenizers

    return str(tokenizers.Tokenizer.from_file(str(file)).id_to_token(wanted))
