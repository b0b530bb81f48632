"""The model that training starts from: a folder of sentence-transformers, an encoder of HuggingFace, or a small BERT
from scratch. What is trained has no normalisation at its end: losses compare as `similarity` says, and the saved model
gets one where that is a cosine.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from retro.common.errors import DataError
from retro.common.pretrained import load_from
from retro.index.config import EmbedderConfig
from retro.index.model_loading import limit_length, load_sentence_transformer
from retro.index.weights import check_model, find_model
from retro.recipes.dense_retriever.training.config import StartConfig, TinyEncoderConfig
from retro.recipes.dense_retriever.training.saved_model import whole_folder

log = logging.getLogger(__name__)

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def open_start(config: StartConfig, texts: Iterable[str], seed: int, scratch: Path) -> Any:
    """The sentence-transformers model to be trained, in float32.

    Args:
        config: Which.
        texts: What a vocabulary is learned from, for a model from scratch.
        seed: Of the weights of a model from scratch.
        scratch: Folder of the model from scratch.

    Raises:
        DataError: The folder is no model, has no safetensors, or brings code of its own.
    """
    if config.tiny is not None:
        folder = scratch
        if not folder.exists():
            make_tiny(config.tiny, texts, seed, folder)
    else:
        folder = find_model(config.embedder)
    return open_folder(folder, config)


def open_folder(folder: Path, config: StartConfig) -> Any:
    """A model of sentence-transformers, or an encoder with pooling, without normalisation.

    Raises:
        DataError: As `open_start`.
    """
    import torch

    check_model(
        folder, config.embedder if config.tiny is None else EmbedderConfig(kind="huggingface", model=str(folder))
    )
    # A BERT without a pooler gets a random one, which nobody asks for and the saved model has.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if (folder / "modules.json").exists():
            model = load_sentence_transformer(folder, "float32")
            strip_normalize(model)
        else:
            model = load_from(folder, "an encoder", lambda: _pooled_encoder(folder, config.pooling))
    for name, one in model.named_parameters():
        if "pooler" in name.split("."):
            one.requires_grad_(False)
    limit_length(model)
    positions = model.max_seq_length or config.max_tokens
    model.max_seq_length = min(positions, config.max_tokens)
    model.similarity_fn_name = config.similarity
    return model


def _pooled_encoder(folder: Path, pooling: str) -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    from retro.common.pretrained import device

    safe = {"local_files_only": True, "trust_remote_code": False}
    encoder = Transformer(
        str(folder), model_kwargs={**safe, "use_safetensors": True}, processor_kwargs=safe, config_kwargs=safe
    )
    pooled = Pooling(encoder.get_embedding_dimension(), pooling_mode=pooling)
    return SentenceTransformer(modules=[encoder, pooled], device=device())


def strip_normalize(model: Any) -> None:
    """Take a normalisation off the end of a model.

    Raises:
        DataError: One stands elsewhere, before other modules.
    """
    from sentence_transformers.models import Normalize

    places = [name for name, module in model.named_children() if isinstance(module, Normalize)]
    if not places:
        return
    last = list(dict(model.named_children()))[-1]
    if places != [last]:
        raise DataError(str(type(model).__name__), "normalises before its end", "Give a model that does at its end")
    del model._modules[last]


def vocabulary(counts: Mapping[str, int], size: int) -> list[str]:
    """Entries of a WordPiece vocabulary: every character that occurs, of which any word can be put together, and the
    most frequent words. The trainer of tokenizers would order equally frequent pieces by chance.

    Args:
        counts: How often each word occurs.
        size: Most entries; characters and special tokens are there whatever it is.
    """
    characters = sorted({character for word in counts for character in word})
    entries = dict.fromkeys([*_SPECIAL, *characters, *(f"##{one}" for one in characters)])
    for word in sorted(counts, key=lambda one: (-counts[one], one)):
        if len(entries) >= size:
            break
        entries[word] = None
    return list(entries)


def make_tiny(config: TinyEncoderConfig, texts: Iterable[str], seed: int, folder: Path) -> None:
    """Write a small BERT with random weights, and a WordPiece vocabulary of `texts`.

    Raises:
        DataError: The texts have no word.
    """
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    counts = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    if not counts:
        raise DataError("pairs", "have no words to learn a vocabulary from", "Give texts")
    entries = {word: number for number, word in enumerate(vocabulary(counts, config.vocabulary))}
    tokenizer = Tokenizer(models.WordPiece(entries, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, splitter, decoders.WordPiece()
    cls, sep = entries["[CLS]"], entries["[SEP]"]
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(
            BertConfig(
                vocab_size=tokenizer.get_vocab_size(), hidden_size=config.hidden, num_hidden_layers=config.layers,
                num_attention_heads=config.heads, intermediate_size=4 * config.hidden,
                max_position_embeddings=config.max_tokens, hidden_dropout_prob=config.dropout,
                attention_probs_dropout_prob=config.dropout, initializer_range=config.initializer_range,
            ),
            add_pooling_layer=False,
        )  # fmt: skip
    with whole_folder(folder) as temporary:
        # Not save_pretrained: in a process that is not the first of several it writes no weights.
        model.config.architectures = ["BertModel"]
        model.config.save_pretrained(temporary)
        save_file(model.state_dict(), temporary / "model.safetensors", metadata={"format": "pt"})
        named = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), _SPECIAL, strict=True))
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, model_max_length=config.max_tokens, **named
        ).save_pretrained(temporary)
    log.info("start: a BERT from scratch, %d words, in %s", tokenizer.get_vocab_size(), folder)
