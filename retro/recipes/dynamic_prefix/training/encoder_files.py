"""The files of a knowledge encoder: made once, from a given encoder or from sizes, and opened by every later step.

config.json, tokenizer files     as transformers writes them
knowledge.json                   what else says what it is: settings, where it comes from, SHA-256 of its weights
initial.safetensors              the weights that training starts from; absent for a fresh encoder
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from retro.common.config import config_json
from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.common.files import discard, read_json, write_json, write_plain_json
from retro.common.pretrained import load_from, longest_text
from retro.index.config import EmbedderConfig
from retro.index.weights import weights_digest
from retro.recipes.dynamic_prefix.config import EncoderConfig, PrefixConfig

KNOWLEDGE_FILE, INITIAL = "knowledge.json", "initial.safetensors"
_SETTINGS = "recipe.dynamic_prefix.prefix"
_REMEDY = "Run the step `train` again with --redo"
_ALPHABET = 1000
"""Characters of a WordPiece vocabulary that is trained, at most; others are unknown."""
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class EncoderTokenizer(Protocol):
    """What cuts documents into the encoder's tokens."""

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to this, exclusive."""

    def encode(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """Token ids of texts with what frames them, cut to the longest that is encoded; and how many were cut."""


class WordPieces:
    """A tokenizer.json of an encoder, its frame of [CLS] and [SEP] included."""

    def __init__(self, file: Path, most: int) -> None:
        """Open a file.

        Args:
            file: A tokenizer.json.
            most: Tokens of a text, the frame included.

        Raises:
            DataError: It is none.
            ConfigError: The frame leaves no room for a token.
        """
        import tokenizers

        self._tokenizer = load_from(file, "a tokenizer.json", lambda: tokenizers.Tokenizer.from_file(str(file)))
        frame = self._tokenizer.num_special_tokens_to_add(False)
        if most <= frame:
            need = f"needs at least {frame + 1}: {frame} tokens frame each document"
            raise ConfigError(f"{_SETTINGS}.max_document_tokens", most, need)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=most)

    @property
    def vocab_size(self) -> int:
        """See `EncoderTokenizer`."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """See `EncoderTokenizer`."""
        found = self._tokenizer.encode_batch(list(texts))
        return [one.ids for one in found], sum(bool(one.overflowing) for one in found)


class ModelTokens:
    """The language model's own tokenizer, for a fresh encoder of its vocabulary."""

    def __init__(self, directory: Path, most: int) -> None:
        from retro.tokenizers.tokenizer import load_tokenizer

        self._tokenizer, self._most = load_tokenizer(directory), most
        self.vocab_size = self._tokenizer.vocab_size

    def encode(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """See `EncoderTokenizer`."""
        found = self._tokenizer.encode_batch(list(texts))
        return [one[: self._most] for one in found], sum(len(one) > self._most for one in found)


def open_tokenizer(directory: Path, config: PrefixConfig) -> EncoderTokenizer:
    """The tokenizer of an encoder's folder.

    Raises:
        DataError: It is missing or damaged.
        ConfigError: It frames documents with as many tokens as they may have.
    """
    if (directory / "lm_tokenizer").is_dir():
        return ModelTokens(directory / "lm_tokenizer", config.max_document_tokens)
    return WordPieces(directory / "tokenizer.json", config.max_document_tokens)


def make_fresh(directory: Path, config: PrefixConfig, documents: Sequence[str], tokenizer: Path | None) -> None:
    """Write the files of a fresh BERT of the given sizes.

    Args:
        directory: Where.
        config: Sizes.
        documents: What a WordPiece vocabulary is trained on.
        tokenizer: The directory of the language model's, whose tokens are used where the settings say so.
    """
    sizes = config.encoder
    directory.mkdir(parents=True, exist_ok=True)
    if sizes.vocabulary == "model":
        from retro.tokenizers.tokenizer import copy_tokenizer_files

        if tokenizer is None:
            raise ValueError("the language model has no tokenizer of its own")
        copy_tokenizer_files(tokenizer, directory / "lm_tokenizer")
    else:
        _train_word_pieces(documents, sizes.vocab_size, directory / "tokenizer.json")
    tokens = open_tokenizer(directory, config)
    write_plain_json(directory / "config.json", bert_settings(sizes, tokens.vocab_size, config.max_document_tokens))


def bert_settings(sizes: EncoderConfig, vocabulary: int, longest: int) -> dict[str, Any]:
    """The config.json of a fresh BERT.

    Args:
        sizes: Of its layers.
        vocabulary: Its tokens.
        longest: Tokens of a document, at most.
    """
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": vocabulary,
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.ffn_hidden_size or 4 * sizes.hidden_size,
        "max_position_embeddings": longest,
        # BERT's 0.02 is for a width of 768; narrow layers would begin by adding next to nothing.
        "initializer_range": max(0.02, sizes.hidden_size**-0.5),
        "hidden_dropout_prob": sizes.dropout,
        "attention_probs_dropout_prob": sizes.dropout,
        # A padding token has no row that learns; the language model's token 0 may be any.
        "pad_token_id": None if sizes.vocabulary == "model" else 0,
    }


def _train_word_pieces(texts: Sequence[str], size: int, file: Path) -> None:
    """WordPiece as BERT's, uncased; the same texts give the same file."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    normalizer = normalizers.BertNormalizer(lowercase=True)

    def tokenizer(model: Any) -> Any:
        found = Tokenizer(model)
        found.normalizer, found.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
        return found

    # The trainer numbers characters within words as a hash table of its own gives them, in another order each time, and
    # settles ties by these numbers. Named first, they have the same ones.
    characters = _characters(normalizer.normalize_str(text) for text in texts)
    first = [*_SPECIAL, *characters, *(f"##{one}" for one in characters)]
    trained = tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=max(size, len(first)), special_tokens=first, show_progress=False)
    )
    made = tokenizer(models.WordPiece(trained.get_vocab(), unk_token="[UNK]"))
    made.add_special_tokens(list(_SPECIAL))
    made.decoder = decoders.WordPiece()
    frame = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    made.save(str(file))


def _characters(texts: Iterable[str]) -> list[str]:
    """The most frequent characters, in the order of their code points."""
    counts = Counter(character for text in texts for character in text if not character.isspace())
    return sorted(sorted(counts, key=lambda one: (-counts[one], one))[:_ALPHABET])


def make_given(directory: Path, config: PrefixConfig, source: Path) -> None:
    """Write the files of an encoder that is given: its settings, tokenizer and weights, loaded offline as safetensors.

    Raises:
        DataError, DependencyError: It cannot be loaded, or its tokenizer has no tokenizer.json.
        ConfigError: It reads shorter documents than the settings ask for, has fewer layers than are to be trained, or
            as `open_tokenizer`.
    """
    import torch
    from safetensors.torch import save_file

    from retro.index.model_loading import load_encoder

    model, tokenizer = load_encoder(source, "float32")
    longest = longest_text(model, tokenizer, unknown=config.max_document_tokens)
    if config.max_document_tokens > longest:
        need = f"needs at most {longest} tokens, which is what {source} reads"
        raise ConfigError(f"{_SETTINGS}.max_document_tokens", config.max_document_tokens, need)
    trained_layers(model, config.encoder.trained)
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(source, "has no tokenizer.json, and none can be made of it", "Give an encoder with one")
    directory.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(str(directory))
    tokenizer.backend_tokenizer.save(str(directory / "tokenizer.json"))
    open_tokenizer(directory, config)
    kept = {
        name: one.to(device="cpu", dtype=torch.float32).contiguous().clone()
        for name, one in model.state_dict().items()
        if "pooler" not in name.split(".")
    }
    save_file(kept, str(directory / INITIAL))


def trained_layers(model: Any, trained: str | int) -> Sequence[Any]:
    """The last so many layers of a model; none where `trained` is no number.

    A model's layers are its one list of as many modules as its settings say that it has layers: ALBERT, whose layers
    have the same weights, has none.

    Raises:
        ConfigError: It has fewer, or no such list.
    """
    if not isinstance(trained, int):
        return ()
    from torch import nn

    number = int(getattr(model.config, "num_hidden_layers", 0))
    lists = {name: one for name, one in model.named_modules() if isinstance(one, nn.ModuleList) and len(one) == number}
    # A layer may have lists within.
    outermost = [one for name, one in lists.items() if not any(name.startswith(f"{other}.") for other in lists)]
    if len(outermost) != 1:
        need = f"needs to be all or none: {type(model).__name__} has no list of layers that are trained one by one"
        raise ConfigError(f"{_SETTINGS}.encoder.trained", trained, need)
    if trained > number:
        raise ConfigError(f"{_SETTINGS}.encoder.trained", trained, f"needs at most {number}, the layers of the encoder")
    return list(outermost[0])[-trained:]


def prepare_encoder(directory: Path, config: PrefixConfig, documents: Sequence[str], tokenizer: Path) -> None:
    """Write the files of the settings' encoder, unless they are there.

    Args:
        directory: Where.
        config: Which encoder.
        documents: Training documents.
        tokenizer: The directory of the language model's tokenizer.

    Raises:
        DataError, DependencyError, ConfigError: It cannot be loaded or made.
        ArtifactError: What is there was made under other settings, or of other weights.
    """
    source = None if config.encoder.model is None else _find(config.encoder.model)
    identity = {"prefix": config_json(config), "weights": None if source is None else weights_digest(source)}
    known = directory / KNOWLEDGE_FILE
    if known.exists():
        if read_json(known, _REMEDY) != identity:
            raise ArtifactError(known, "is of an encoder made under other settings, or of other weights", _REMEDY)
        return
    # Whatever a killed process left.
    discard(directory)
    if source is None:
        make_fresh(directory, config, documents, tokenizer)
    else:
        make_given(directory, config, source)
    # Written last: without it the files are made again.
    write_json(known, identity)


def known_config(directory: Path) -> PrefixConfig:
    """The settings that an encoder's files were made under.

    Raises:
        ArtifactError: They are missing or damaged.
    """
    found = read_json(directory / KNOWLEDGE_FILE, _REMEDY, dict[str, Any])
    try:
        return PrefixConfig(**found["prefix"])
    except (KeyError, TypeError, ConfigError) as error:
        raise ArtifactError(directory / KNOWLEDGE_FILE, f"does not describe an encoder ({error})", _REMEDY) from None


def _find(name: str) -> Path:
    from retro.index.weights import find_model

    return find_model(EmbedderConfig(kind="huggingface", model=name))
