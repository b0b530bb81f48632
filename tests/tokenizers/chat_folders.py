"""Small folders such as models come in: a tokenizer, its settings, and a chat template like those of known models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers

TEXT = [
    "The river rises in the hills and runs to the sea. question answer system user assistant",
    "Paris is the capital of France; Berlin is the capital of Germany. What is the capital of Italy?",
    "Antworte kurz: wie heißt die Hauptstadt? 東京 is Tokyo.  Two  spaces, tabs\tand\nnew lines.\n\n",
]

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + "
    "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What kind of folder."""

    template: str
    special: tuple[str, ...]
    bos: str | None
    eos: str
    ends: tuple[str, ...]
    """In generation_config.json."""
    spaces: bool = False
    """Whether words begin with `▁`, as with SentencePiece, instead of being bytes."""


KINDS = {
    "chatml": Kind(
        template=CHATML,
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        bos="<|im_start|>",
        eos="<|im_end|>",
        ends=("<|im_end|>",),
    ),
    "llama3": Kind(
        template=LLAMA3,
        special=("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        ends=("<|end_of_text|>", "<|eot_id|>"),
    ),
    "mistral": Kind(
        template=MISTRAL,
        special=("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        bos="<s>",
        eos="</s>",
        ends=("</s>",),
        spaces=True,
    ),
    "gemma": Kind(
        template=GEMMA,
        special=("<unk>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        bos="<bos>",
        eos="<eos>",
        ends=("<eos>", "<end_of_turn>"),
    ),
}


def make_folder(folder: Path, name: str) -> Path:
    """Write the folder of a kind: its `tokenizer.json` is what is returned."""
    kind = KINDS[name]
    folder.mkdir(parents=True, exist_ok=True)
    model = _spaces(kind) if kind.spaces else _bytes(kind)
    model.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    if kind.bos is not None and name != "chatml":
        id_ = model.token_to_id(kind.bos)
        model.post_processor = processors.TemplateProcessing(
            single=f"{kind.bos} $A", pair=f"{kind.bos} $A {kind.bos} $B", special_tokens=[(kind.bos, id_)]
        )
    model.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": kind.eos,
        "bos_token": {"__type": "AddedToken", "content": kind.bos, "special": True} if name == "llama3" else kind.bos,
        "chat_template": [{"name": "tools", "template": "x"}, {"name": "default", "template": kind.template}]
        if name == "gemma"
        else kind.template,
        "model_max_length": 8192 if name == "llama3" else 10**30,
        "add_bos_token": False,
    }
    if name == "chatml":
        del config["chat_template"]
        (folder / "chat_template.jinja").write_text(kind.template)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    ends = [model.token_to_id(token) for token in kind.ends]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends if len(ends) > 1 else ends[0]}))
    return folder / "tokenizer.json"


def _bytes(kind: Kind) -> tokenizers.Tokenizer:
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True, normalized=False) for text in kind.special]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(TEXT, trainer)
    return model


def _spaces(kind: Kind) -> tokenizers.Tokenizer:
    model = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    model.decoder = decoders.Sequence([decoders.Metaspace(prepend_scheme="first"), decoders.ByteFallback()])
    special = [AddedToken(text, special=True, normalized=False, rstrip=text == "[INST]") for text in kind.special]
    in_bytes = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[*special], show_progress=False)
    model.train_from_iterator([*TEXT, " ".join(in_bytes)], trainer)
    spelled = json.loads(model.to_str())
    vocabulary = spelled["model"]["vocab"]
    for one in in_bytes:
        vocabulary.setdefault(one, len(vocabulary))
    return tokenizers.Tokenizer.from_str(json.dumps(spelled))
