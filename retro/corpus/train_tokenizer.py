"""The corpus's tokenizer: the user's file, or a SentencePiece model trained on the training split."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sentencepiece

from retro.common.artifacts import fingerprint
from retro.common.errors import ConfigError, DataError
from retro.common.files import atomic_path, read_kept_json, sha256_file, write_json
from retro.common.progress import Progress
from retro.corpus.config import CorpusConfig
from retro.corpus.files import Source
from retro.corpus.layouts import read_source
from retro.corpus.manifest import TOKENIZER, Identity
from retro.corpus.rejects import AcceptedDocuments, accept_documents, require_enough
from retro.corpus.spelling import require_spelling
from retro.corpus.split import SAMPLE, random_keys, split_source
from retro.tokenizers.conventions import named_eod
from retro.tokenizers.tokenizer import (
    FILE_NAMES,
    Tokenizer,
    find_tokenizer_file,
    load_tokenizer,
    save_tokenizer,
    tokenizer_files,
)

log = logging.getLogger(__name__)

_MADE_FROM = "made_from.json"
_LINE_CHARACTERS = 100_000
_KEYS_AT_ONCE = 1 << 16


def prepare_tokenizer(
    config: CorpusConfig, sources: Sequence[Source], inputs: Mapping[str, Identity], out: Path
) -> Tokenizer:
    """Put the tokenizer into the stage's directory, or open it when a run with the same settings and input already has.

    Raises:
        ConfigError: Nothing to train on, or a size that the given file does not have.
        DataError: The given file is missing or is not a tokenizer; or a source has no document, or too much of it was
            rejected.
    """
    directory, made_from = out / TOKENIZER, tokenizer_origin(config, inputs)
    if is_prepared(made_from, directory):
        return load_tokenizer(directory)
    record = directory / _MADE_FROM
    record.unlink(missing_ok=True)
    settings = config.tokenizer
    given = None if settings.path is None else find_tokenizer_file(settings.path.expanduser(), settings.kind)
    if given is not None:
        file = given
    else:
        file = directory / FILE_NAMES["sentencepiece"]
        model = train_sentencepiece(training_sample(config, sources, out), settings.vocab_size)
        with atomic_path(file) as temporary:
            temporary.write_bytes(model)
    tokenizer = save_tokenizer(file, settings.kind, directory, settings.eod_token)
    _require_asked_size(config, tokenizer)
    if given is not None:
        require_spelling(config, sources, tokenizer, given)
    write_json(record, {"of": made_from} | _digests(directory))
    return tokenizer


def is_prepared(made_from: str, directory: Path) -> bool:
    """Whether `directory` holds the tokenizer of that origin, whole."""
    known = read_kept_json(directory / _MADE_FROM, "the tokenizer is made again")
    return known is not None and known == {"of": made_from} | _digests(directory)


def _digests(directory: Path) -> dict[str, str]:
    """SHA-256 of the tokenizer's files, by name."""
    return {file.name: sha256_file(file) for file in tokenizer_files(directory)}


def tokenizer_origin(config: CorpusConfig, inputs: Mapping[str, Identity]) -> str:
    """Fingerprint of all that shapes the tokenizer: the given file, or the settings and texts it is trained on.

    Raises:
        DataError: The given file is missing.
    """
    return fingerprint(_origin(config, inputs))


def _origin(config: CorpusConfig, inputs: Mapping[str, Identity]) -> dict[str, Any]:
    """All that shapes the tokenizer: for a file its bytes, for a trained one the texts and the split too."""
    settings: dict[str, Any] = config.shaping["tokenizer"]
    if config.tokenizer.path is not None:
        file = find_tokenizer_file(config.tokenizer.path.expanduser(), config.tokenizer.kind)
        named = None if config.tokenizer.eod_token is not None else named_eod(file.parent)
        return settings | {"sha256": sha256_file(file)} | ({} if named is None else {"eod": named[1]})
    everything = config.shaping
    names = ("sources", "split", "seed", "min_words", "held_out")
    shared = {name: everything[name] for name in names if name in everything}
    return settings | shared | {"inputs": dict(inputs), "sentencepiece": sentencepiece.__version__}


def _require_asked_size(config: CorpusConfig, tokenizer: Tokenizer) -> None:
    asked = config.tokenizer.vocab_size
    if config.tokenizer.path is None:
        if tokenizer.vocab_size < asked:
            log.warning("corpus: the text holds only %d of the %d pieces asked for", tokenizer.vocab_size, asked)
    elif "vocab_size" in config.tokenizer.model_fields_set and tokenizer.vocab_size != asked:
        need = f"needs to be left out or to be {tokenizer.vocab_size}, the size of {config.tokenizer.path}"
        raise ConfigError("corpus.tokenizer.vocab_size", asked, need)


def training_sample(config: CorpusConfig, sources: Sequence[Source], out: Path) -> list[str]:
    """Texts of training documents, spread evenly over all sources, up to the cap on characters.

    A document is kept while its random key is below a threshold that halves whenever the kept ones outgrow the
    cap: one pass over text of any size, and every part of it is as likely as every other. What is not a document is
    counted, written to the rejects in `out` and reported.

    Raises:
        ConfigError: A source is already tokenized, or no text is left to train on.
        DataError: A source has no document, or too much of it was rejected.
    """
    kept: list[tuple[int, int, int, str]] = []
    threshold, characters = 1 << 64, 0
    splits = {}
    for place, source in enumerate(sources):
        if source.kind == "megatron":
            need = f"needs the tokenizer that made {source.name}: a Megatron corpus has no text to train on"
            raise ConfigError("corpus.tokenizer.path", None, need)
        with _documents(config, source, out) as documents:
            for number, (key, document) in enumerate(zip(_keys(config, source), documents, strict=False)):
                if key >= threshold:
                    continue
                kept.append((key, place, number, document.text))
                characters += len(document.text)
                while characters > config.tokenizer.sample_characters and len(kept) > 1:
                    threshold //= 2
                    kept = [entry for entry in kept if entry[0] < threshold]
                    characters = sum(len(entry[3]) for entry in kept)
        reported = require_enough(config, source, documents.documents, documents.reasons, out)
        if reported:
            log.warning("corpus: %s", reported)
        splits[place] = split_source(config, source.name, documents.documents)
    texts = [text for _, place, number, text in kept if splits[place][number] == 0]
    if not texts:
        counted = sum(len(split) for split in splits.values())
        need = f"needs a tokenizer file: of {counted} documents none is in the training split, to train one on"
        raise ConfigError("corpus.tokenizer.path", None, need)
    return texts


@contextmanager
def _documents(config: CorpusConfig, source: Source, out: Path) -> Iterator[AcceptedDocuments]:
    size = sum(file.path.stat().st_size for file in source.files)
    with (
        Progress(size, what=f"corpus: sampling {source.name} for the tokenizer", unit="bytes") as bar,
        accept_documents(source, read_source(source, config.min_words, bar.advance), out) as documents,
    ):
        yield documents


def _keys(config: CorpusConfig, source: Source) -> Iterator[int]:
    """A random key for each document, without end."""
    generator = random_keys(config.seed, source.name, SAMPLE)
    while True:
        yield from generator.random_raw(_KEYS_AT_ONCE).tolist()


def train_sentencepiece(texts: Iterable[str], vocab_size: int) -> bytes:
    """Train a BPE model in which every text round-trips, but for U+2581, which is SentencePiece's own space.

    Bytes stand in for what has no piece (line breaks among them), white space is kept as it is, and no space is
    put before a text, so that tokens of two texts concatenated are the tokens of their joined text or spell it.
    One thread and a fixed order make equal texts give equal bytes.

    Raises:
        DataError: The texts hold nothing to learn from.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            # A small text does not have so many pieces; then the model is as large as it can be.
            hard_vocab_limit=False,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=4 * _LINE_CHARACTERS,
            unk_id=0,
            eos_id=1,
            bos_id=-1,
            pad_id=-1,
            num_threads=1,
            shuffle_input_sentence=False,
            minloglevel=2,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise DataError("tokenizer training", f"failed: {reason}", "Give more text, or a tokenizer file") from None
    return model.getvalue()


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Lines without their breaks: SentencePiece passes over a longer line without a word, so long ones are cut."""
    for text in texts:
        for line in text.split("\n"):
            for start in range(0, len(line), _LINE_CHARACTERS):
                yield line[start : start + _LINE_CHARACTERS]
