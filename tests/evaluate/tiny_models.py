"""Tiny models of transformers as folders on disk: an encoder-decoder, a classifier, a reader and a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "was", "red", "fox", "dog", "blue", "sky", "ada"]
T5_WORDS = ["<pad>", "</s>", "<unk>", "premise:", "hypothesis:", "0", "1", "red", "fox", "dog"]
SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 34,
}


def bert_folder(folder: Path, head: str, *, seed: int = 0, **config: Any) -> Path:
    """A BERT of one layer with random weights that reads 34 tokens at most; `head` names its class."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    settings = transformers.BertConfig(vocab_size=len(WORDS), **SHAPE, **config)
    getattr(transformers, head)(settings).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def word_tokenizer(words: list[str], **special: str) -> Any:
    """One token a word; `</s>` at the end, where there is one."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if special.get("pad_token"):
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", **special)


def true_folder(folder: Path) -> Path:
    """A T5 that has learned to write 1 where the word of the hypothesis is in the premise, and 0 where it is not."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    shape = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    config = transformers.T5Config(vocab_size=len(T5_WORDS), decoder_start_token_id=0, **shape)
    model, tokenizer = transformers.T5ForConditionalGeneration(config), word_tokenizer(T5_WORDS, pad_token="<pad>")
    pairs = [(one, two) for one in ("red fox", "red dog", "fox", "dog") for two in ("fox", "dog")]
    read = tokenizer([f"premise: {one} hypothesis: {two}" for one, two in pairs], padding=True, return_tensors="pt")
    wanted = tokenizer([str(int(two in one)) for one, two in pairs], return_tensors="pt")["input_ids"]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        loss = model(input_ids=read["input_ids"], attention_mask=read["attention_mask"], labels=wanted).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def language_model_folder(folder: Path) -> Path:
    """A GPT-2 of one layer with random weights; its tokenizer has no padding."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=len(T5_WORDS), n_positions=64, n_embd=16, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    word_tokenizer(T5_WORDS).save_pretrained(folder)
    return folder
