"""The tokenizer of an exported folder: the run's own file, and what transformers must know to open it."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from retro.common.errors import ArtifactError, DataError
from retro.common.files import write_plain_json
from retro.model.config import ModelShape
from retro.tokenizers.chat_template import ChatTemplate
from retro.tokenizers.conventions import Conventions
from retro.tokenizers.sentencepiece_bpe import bpe_tokenizer, inexact, read_vocabulary
from retro.tokenizers.tokenizer import (
    FILE_NAMES,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    conventions_of,
    load_tokenizer,
    tokenizer_files,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CopiedTokenizer:
    """What a folder's tokenizer is."""

    file: str
    """tokenizer.json or tokenizer.model."""
    eod: int
    """Id that ends a document, and an answer."""
    opens_in_transformers: bool
    """Whether AutoTokenizer gives the ids that the model was trained on."""
    ends: tuple[int, ...]
    """All ids that end an answer."""
    conventions: Conventions = field(default_factory=Conventions)
    """What the folder that the tokenizer came from says."""

    @property
    def pad(self) -> int:
        """Id that fills a batch."""
        return self.conventions.ids.get("pad_token", self.eod)


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
    for one in tokenizer_files(directory):
        shutil.copyfile(one, out / one.name)
    known = conventions_of(tokenizer)
    same = False
    if isinstance(tokenizer, HuggingFaceTokenizer) or (
        isinstance(tokenizer, SentencePieceTokenizer) and _write_as_huggingface(directory / file, out)
    ):
        same, end = True, str(tokenizer.piece(tokenizer.eod))
        write_plain_json(out / "tokenizer_config.json", _for_transformers(end, known))
    if known.chat_template:
        (out / "chat_template.jinja").write_text(known.chat_template, encoding="utf-8")
    return CopiedTokenizer(
        file=file,
        eod=tokenizer.eod,
        opens_in_transformers=same,
        ends=tuple(dict.fromkeys((tokenizer.eod, *known.ends, *_turn_end(tokenizer)))),
        conventions=known,
    )


def _turn_end(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The token with which the chat template ends a turn, where there is one that works."""
    if not (isinstance(tokenizer, HuggingFaceTokenizer) and tokenizer.conventions.chat_template):
        return ()
    try:
        return (ChatTemplate(tokenizer).turn_end,)
    except DataError as error:
        log.warning("export: %s", error)
        return ()


def _write_as_huggingface(model: Path, out: Path) -> bool:
    """Write a SentencePiece model as a tokenizer.json, if that is sure to give the same ids; tell whether it did."""
    vocabulary = read_vocabulary(model)
    reason = "it is not BPE, or changes characters" if vocabulary is None else inexact(vocabulary)
    if vocabulary is None or reason is not None:
        log.warning(
            "export: no tokenizer_config.json: AutoTokenizer might give other ids than %s, as %s", model, reason
        )
        return False
    bpe_tokenizer(vocabulary).save(str(out / FILE_NAMES["huggingface"]))
    return True


def _for_transformers(end: str, known: Conventions) -> dict[str, object]:
    """Settings under which AutoTokenizer, called with add_special_tokens=False, gives the ids of our own tokenizer.

    With a chat template, which writes special tokens, a text that spells one is that token in transformers.
    """
    named = {name: text for name, text in known.tokens.items() if name != "eos_token"}
    length = {} if known.model_max_length is None else {"model_max_length": known.model_max_length}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        "pad_token": end,
        **named,
        **length,
        "padding_side": "left",
        "model_input_names": ["input_ids", "attention_mask"],
        # A text that spells the name of a special token is text.
        "split_special_tokens": not known.chat_template,
        "clean_up_tokenization_spaces": False,
    }
