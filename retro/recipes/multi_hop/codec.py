"""What is asked of a model as token ids, and what it wrote as segments: one way for every backend that takes ids."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retro.common.errors import ConfigError, DataError
from retro.qa.question import Segment
from retro.qa.segments import encode_segments
from retro.recipes.multi_hop.conversation import TOKENS
from retro.recipes.multi_hop.protocol import Ask
from retro.tokenizers.added_tokens import token_id, token_ids

if TYPE_CHECKING:
    from retro.teacher.engine import Encode

SETTING = "sft.special_tokens"


class Codec:
    """A tokenizer, with what a model's prompts begin with and how its chats are written."""

    def __init__(self, tokenizer: Any, prefix: Sequence[int] = (), chat: Encode | None = None) -> None:
        """Set up.

        Args:
            tokenizer: The model's.
            prefix: Tokens that every prompt in segments begins with.
            chat: Encodes the messages of a chat; None: there is no chat template.
        """
        self.tokenizer, self._prefix, self._chat = tokenizer, tuple(prefix), chat
        self._names = {id_: name for name in TOKENS if (id_ := token_id(tokenizer, name)) is not None}

    def prompt(self, ask: Ask) -> list[int]:
        """The token ids of what is asked.

        Raises:
            ConfigError: The tokenizer lacks a special token, or a chat template.
        """
        if ask.segments:
            return [*self._prefix, *encode_segments(ask.segments, self.tokenizer)[0]]
        if self._chat is None:
            raise ConfigError("answer.form", "chat", "needs a model whose folder has a chat template")
        return self._chat(ask.messages)

    def stops(self, ask: Ask) -> tuple[int, ...]:
        """The ids after which a reply ends.

        Raises:
            ConfigError: The tokenizer lacks one.
        """
        return tuple(token_ids(self.tokenizer, ask.stop_tokens, SETTING).values())

    def segments(self, ids: Sequence[int]) -> tuple[Segment, ...]:
        """What was written: texts, and special tokens by name."""
        found: list[Segment] = []
        words: list[int] = []
        for id_ in ids:
            if id_ not in self._names:
                words.append(id_)
                continue
            found += self._text(words)
            found, words = [*found, Segment(token=self._names[id_])], []
        return (*found, *self._text(words))

    def _text(self, words: Sequence[int]) -> list[Segment]:
        return [Segment(text=self.tokenizer.decode(words))] if words else []


def codec_of(tokenizer: Any, prefix: Sequence[int] = ()) -> Codec:
    """The codec of a tokenizer; chats are written with its own template, where it has one."""
    from retro.generate.config import GenerateConfig
    from retro.qa.chat_prompts import STYLE, has_chat
    from retro.qa.prompt_texts import shipped_prompts
    from retro.teacher.engine import conversation_encoder

    texts = shipped_prompts()
    chat = None
    if has_chat(tokenizer):
        chat = conversation_encoder(tokenizer, GenerateConfig(style=STYLE), texts, ())
    return Codec(tokenizer, prefix, chat)


def codec_of_folder(folder: Path) -> Codec:
    """The codec of a model's folder in HuggingFace's form.

    Raises:
        DataError: It has no tokenizer that can be opened.
    """
    from retro.tokenizers.conventions import prompt_prefix
    from retro.tokenizers.tokenizer import FILE_NAMES, conventions_of, save_tokenizer

    for kind in ("huggingface", "sentencepiece"):
        file = folder / FILE_NAMES[kind]
        if file.is_file():
            with tempfile.TemporaryDirectory() as own:
                tokenizer = save_tokenizer(file, kind, Path(own))
            return codec_of(tokenizer, prompt_prefix(conventions_of(tokenizer), "auto", "answer.model"))
    names = " or ".join(FILE_NAMES.values())
    raise DataError(folder, "holds no tokenizer", f"Give a model's folder with {names} in it")
