"""Settings of the corpus stage: which texts, which tokenizer, which documents are held out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from retro.common.config import StageConfig, config_json
from retro.common.errors import ConfigError

SourceKind: TypeAlias = Literal[
    "auto", "jsonl", "text", "folder", "wikitext", "html", "tsv", "parquet", "arrow", "megatron", "pystdlib"
]
DocumentUnit: TypeAlias = Literal["auto", "file", "blank_line", "line"]
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]

TEXT_KEYS = (
    "text",
    "content",
    "contents",
    "body",
    "article",
    "document",
    "passage",
    "page_content",
    "raw_content",
    "abstract",
    "markdown",
    "sentence",
)
"""Names under which public corpora have a document's text, the usual ones first."""


class SourceConfig(StageConfig):
    """One text corpus: files of one's own, or a built-in one."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]
    """Names the source's files in the artifact: letters, digits, `_`, `-` and `.`, at most 100 of them."""

    path: Path | None = None
    """A file, a folder, the prefix of a Megatron .bin/.idx pair, or a folder or file of a dataset on the HuggingFace
    Hub: `hf://datasets/ORG/NAME@~parquet/SUBSET/SPLIT`."""

    built_in: Literal["pystdlib"] | None = None
    """Instead of `path`: `pystdlib` is the documentation inside the running Python interpreter."""

    kind: SourceKind = "auto"
    """How the text is laid out; `auto` goes by the file's ending and says in the log what it took."""

    text_key: Annotated[str, Field(min_length=1)] = "text"
    """Key of a document's text (jsonl), or its column (tsv, parquet, arrow)."""

    id_key: Annotated[str, Field(min_length=1)] = "id"
    """Key or column of a document's id. A line without it is named by its file and line number."""

    title_key: Annotated[str, Field(min_length=1)] = "title"
    """Key or column of a document's title. A line without it has an empty title."""

    documents: DocumentUnit = "auto"
    """What one document is in plain text: a whole `file`, text between blank lines, or a `line`.
    `auto`: blank lines part the documents of a single file, each file of a folder is one."""

    split: Literal["fractions", "train", "valid", "test"] = "fractions"
    """Which documents of it are held out: as corpus.split says, or all in one split: a validation file of one's own."""

    weight: PositiveFloat = 1.0
    """Share of training samples drawn from this source, relative to the other sources' weights."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        owner = type(self).__name__
        if (self.path is None) == (self.built_in is None):
            raise ConfigError(f"{owner}.path", self.path, "needs to be given, or built_in, and not both")
        if (self.kind == "pystdlib") != (self.built_in == "pystdlib") and self.kind != "auto":
            raise ConfigError(f"{owner}.kind", self.kind, f"needs to be auto with built_in = {self.built_in!r}")
        return self


class TokenizerConfig(StageConfig):
    """The tokenizer: a file of one's own, or a SentencePiece model trained here on the corpus."""

    kind: Literal["sentencepiece", "huggingface"] = "sentencepiece"
    """SentencePiece `.model`, or a `tokenizer.json` of the HuggingFace tokenizers library."""

    path: Path | None = None
    """The tokenizer file or its folder. Without one, a SentencePiece BPE model is trained on the training split."""

    vocab_size: Annotated[PositiveInt, Field(ge=300)] = 4096
    """Pieces of a model trained here, 256 of them bytes; a tokenizer file brings its own size."""

    eod_token: str | None = None
    """Token that ends a document. Without one: what the file's folder names (eos_token of tokenizer_config.json or
    special_tokens_map.json, else eos_token_id of generation_config.json or config.json), else the model's EOS, else
    <|endoftext|>, </s>, [EOD] or [SEP]."""

    max_lost_fraction: Fraction = 0.02
    """Stop when a tokenizer file loses more than this share of a sample's letters, digits and signs: encoded and
    decoded again, they are gone. Case, accents and white space may change. A smaller loss is a warning; 1 never stops.
    Changes no byte of the corpus."""

    sample_characters: PositiveInt = 50_000_000
    """At most this many characters, spread evenly over the corpus, are learned from; they stand in memory at once."""

    @model_validator(mode="after")
    def _only_sentencepiece_is_trained(self) -> Self:
        if self.kind == "huggingface" and self.path is None:
            need = "needs the path of a tokenizer.json; only SentencePiece models are trained here"
            raise ConfigError(f"{type(self).__name__}.path", self.path, need)
        return self


class CorpusConfig(StageConfig):
    """Turn texts into token files, and decide once which documents are held out."""

    sources: Annotated[tuple[SourceConfig, ...], Field(min_length=1)] = (
        SourceConfig(name="pystdlib", built_in="pystdlib"),
    )
    """The texts, in the order in which every later stage numbers them."""

    tokenizer: TokenizerConfig = TokenizerConfig()
    """One tokenizer for all sources."""

    split: tuple[Fraction, Fraction, Fraction] = (0.98, 0.01, 0.01)
    """Fractions of each source's documents for training, validation and test; they sum to 1."""

    held_out: Literal["random", "last"] = "random"
    """Which documents are held out: drawn by the seed, or the last ones of each source, as Megatron's splits are. With
    `last`, training has the fraction rounded down, and validation what neither it nor test has."""

    seed: NonNegativeInt = 1234
    """Decides the split and the order of documents in the training stream."""

    min_words: PositiveInt = 1
    """Documents with fewer words are rejected."""

    max_bad_fraction: Fraction = 1.0
    """Stop when more than this share of a source's documents is rejected; 1 never stops."""

    block_bytes: Annotated[int, Field(ge=1)] = 1 << 26
    """Bytes of input in one block, the unit of resuming and of parallel work; a block ends where a document does. Some
    four times as much memory is needed by each worker. Changes no byte of the corpus."""

    @property
    def shaping(self) -> dict[str, Any]:
        """The settings that change the corpus."""
        settings = {name: value for name, value in config_json(self).items() if name != "block_bytes"}
        if self.held_out == "random":
            # Not recorded, so that corpora made before there was a choice stay what they are.
            del settings["held_out"]
        for source in settings["sources"]:
            if source["split"] == "fractions":
                del source["split"]
        # Stops or does not; nor did corpora made before there was such a check record it.
        settings["tokenizer"].pop("max_lost_fraction", None)
        return settings

    @model_validator(mode="after")
    def _splits_and_names(self) -> Self:
        owner = type(self).__name__
        if not math.isclose(sum(self.split), 1.0, abs_tol=1e-6) or self.split[0] <= 0:
            need = "needs three fractions (train, valid, test) that sum to 1, the first above 0"
            raise ConfigError(f"{owner}.split", self.split, need)
        if all(source.split in ("valid", "test") for source in self.sources):
            need = "needs split to be fractions or train for at least one source"
            raise ConfigError(f"{owner}.sources", [source.split for source in self.sources], need)
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"{owner}.sources", name, "needs another name for each source")
        return self
