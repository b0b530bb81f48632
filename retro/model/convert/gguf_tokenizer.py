"""The tokenizer that a `.gguf` file holds, as HuggingFace's files: tokenizer.json and what is beside it.

Two kinds. Byte-level BPE (`tokenizer.ggml.model` = gpt2): how a text is cut into words first is not in the file, only a
name for it; the names here are llama.cpp's, the patterns those of the models' own tokenizer.json. SentencePiece's BPE
(llama): pieces with their scores, from which the merges follow.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from retro.common.errors import DataError, short_reason
from retro.common.files import write_plain_json
from retro.tokenizers.pretokenize import CONTROL, NORMAL, UNUSED, USER_DEFINED
from retro.tokenizers.sentencepiece_bpe import PieceVocabulary, bpe_tokenizer, inexact

if TYPE_CHECKING:
    from retro.model.convert.gguf import GgufFile

_REMEDY = "Give the model's HuggingFace folder, which holds its tokenizer.json"
_ANY_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"


def _by_pattern(digits: str) -> Any:
    pattern = Regex(f"{_ENDINGS}|{_ANY_WORD}|{digits}|{_REST}")
    words = pre_tokenizers.Split(pattern, behavior="isolated", invert=False)
    return pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _byte_level() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _pre_tokenizer(name: str) -> Any:
    """What cuts a text into words; None for a name that is not known."""
    if name in ("gpt-2", "default"):
        return _byte_level()
    if name == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _byte_level()])
    digits = {"llama-bpe": r"\p{N}{1,3}", "qwen2": r"\p{N}"}.get(name)
    return None if digits is None else _by_pattern(digits)


def write_tokenizer(found: GgufFile, out: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json.

    Raises:
        DataError: It is of another kind, cuts words in a way that is not known here, or its pieces leave it open which
            are joined first.
    """
    tokens: list[str] = found.get("tokenizer.ggml.tokens")
    kinds: list[int] = found.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    pieces = found.get("tokenizer.ggml.model") == "llama"
    try:
        tokenizer = _piece_bpe(found, tokens, kinds) if pieces else _byte_level_bpe(found, tokens, kinds)
    except (DataError, AttributeError, TypeError, ValueError, ArithmeticError):
        raise
    # The library raises a bare Exception for merges that its vocabulary lacks.
    except Exception as error:  # noqa: BLE001
        raise DataError(found.path, f"has a damaged tokenizer ({short_reason(error)})", _REMEDY) from None
    special = {name: _special(found, tokens, name) for name in ("bos", "eos", "unknown", "padding")}
    begins = pieces or found.settings.get("tokenizer.ggml.pre") == "llama-bpe"
    first = bool(found.get("tokenizer.ggml.add_bos_token", begins)) and special["bos"] is not None
    if first:
        bos = str(special["bos"])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokens.index(bos))]
        )
    tokenizer.save(str(out / "tokenizer.json"))
    _write_settings(found, special, out, first=first)


def _byte_level_bpe(found: GgufFile, tokens: list[str], kinds: list[int]) -> tokenizers.Tokenizer:
    kind, cuts = found.get("tokenizer.ggml.model"), str(found.get("tokenizer.ggml.pre", "default"))
    words = _pre_tokenizer(cuts)
    if kind != "gpt2" or words is None:
        known = "llama, and gpt2 with default, gpt-2, smollm, llama-bpe or qwen2"
        problem = f"has a tokenizer of kind {kind!r}, {cuts!r}; supported is {known}"
        raise DataError(found.path, problem, _REMEDY)
    merges = [tuple(merge.split(" ", 1)) for merge in found.get("tokenizer.ggml.merges")]
    # Llama 3's takes a word that is a token as it is, whether merges lead to it or not.
    model = models.BPE(
        {token: number for number, token in enumerate(tokens)}, merges, ignore_merges=cuts == "llama-bpe"
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    if cuts == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    added = {CONTROL: True, USER_DEFINED: False}
    tokenizer.add_tokens(
        [
            AddedToken(token, special=added[kind], normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in added
        ]
    )
    return tokenizer


def _piece_bpe(found: GgufFile, tokens: list[str], kinds: list[int]) -> tokenizers.Tokenizer:
    vocabulary = PieceVocabulary(
        pieces=tokens,
        scores=[float(score) for score in found.get("tokenizer.ggml.scores")],
        kinds=kinds,
        prefix=bool(found.get("tokenizer.ggml.add_space_prefix", True)),
        collapses=bool(found.get("tokenizer.ggml.remove_extra_whitespaces", False)),
    )
    if len({len(tokens), len(vocabulary.scores), len(kinds)}) > 1:
        problem = f"has {len(tokens)} tokens, {len(vocabulary.scores)} scores and {len(kinds)} kinds"
        raise DataError(found.path, problem, _REMEDY)
    # Pieces that were added beside the model's own: found in a text before it is cut, or without use.
    beside = [CONTROL if kind in (USER_DEFINED, UNUSED) else kind for kind in kinds]
    reason = inexact(replace(vocabulary, kinds=beside))
    if reason is not None:
        problem = f"has a SentencePiece tokenizer whose ids do not follow from its pieces and scores: {reason}"
        raise DataError(found.path, problem, _REMEDY)
    return bpe_tokenizer(vocabulary)


def _write_settings(found: GgufFile, special: dict[str, str | None], out: Path, *, first: bool) -> None:
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    settings: dict[str, Any] = {names[kind]: token for kind, token in special.items() if token is not None}
    settings |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": first,
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(found.of_model("context_length")),
    }
    if "tokenizer.chat_template" in found.settings:
        settings["chat_template"] = str(found.settings["tokenizer.chat_template"])
    write_plain_json(out / "tokenizer_config.json", settings)
    ends = [found.settings.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    write_plain_json(
        out / "generation_config.json",
        {
            "bos_token_id": found.settings.get("tokenizer.ggml.bos_token_id"),
            "eos_token_id": sorted({int(end) for end in ends if end is not None}),
        },
    )


def _special(found: GgufFile, tokens: list[str], name: str) -> str | None:
    """A token that the file names by its id; None where it names none."""
    number = found.settings.get(f"tokenizer.ggml.{name}_token_id")
    if number is None:
        return None
    if not 0 <= int(number) < len(tokens):
        raise DataError(found.path, f"names token {number} as {name}, and has {len(tokens):,}", _REMEDY)
    return tokens[int(number)]
