"""A tokenizer's chat template: messages to token ids, as transformers' `apply_chat_template` gives them.

With one difference, which is meant: a special token is one where the template writes it. Where a message spells one, it
is text, so that nobody ends his own turn, or begins another's.

A template comes from a stranger. It runs in jinja2's sandbox; what it may write is bounded, and so is what it may
multiply. Its time is not: loops within loops that write nothing, and filters that pad, are as trusted as the weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from retro.common.errors import ConfigError, DataError, DependencyError, RetroError, short_reason
from retro.tokenizers.conventions import CONVENTIONS
from retro.tokenizers.tokenizer import HuggingFaceTokenizer, conventions_of

Message = Mapping[str, str]
"""`role` and `content`."""

MOST_CHARACTERS = 1 << 24
"""Of a rendered conversation, and of what a template multiplies."""
_PRIVATE = range(0xF0000, 0xFFFFD)
_PRIVATE_TOO = range(0x100000, 0x10FFFD)
"""Planes of characters that no text has any use for."""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A conversation in tokens."""

    ids: list[int]
    starts: list[int]
    """Where in `text` each token starts."""
    text: str
    """What was encoded. Where a message spells a special token, the template's own tokens have other names in it."""


class ChatTemplate:
    """The chat template of a tokenizer."""

    def __init__(self, tokenizer: HuggingFaceTokenizer) -> None:
        """Compile it.

        Raises:
            DataError: It is not a template.
            DependencyError: jinja2 is missing, or one with known ways out of its sandbox.
        """
        self._file, self._conventions = tokenizer.path, tokenizer.conventions
        self._source = tokenizer.path.parent / CONVENTIONS
        self._template = _compiled(self._conventions.chat_template, self._source)
        self._model = _opened(self._file.read_text(encoding="utf-8"))
        self._shield = _SpecialTokenEscape(self._file)

    @property
    def text(self) -> str:
        """The template itself."""
        return self._conventions.chat_template

    def render(self, messages: Sequence[Message], *, begin_answer: bool) -> str:
        """A conversation as text.

        Args:
            messages: In their order.
            begin_answer: Whether the assistant's turn is begun at the end.

        Raises:
            DataError: The template refuses them, fails, or writes too much.
        """
        variables: dict[str, Any] = {**self._conventions.tokens, "messages": [dict(one) for one in messages]}
        variables |= {"add_generation_prompt": begin_answer, "tools": None, "documents": None}
        parts, length = list[str](), 0
        try:
            for part in self._template.generate(**variables):
                parts.append(part)
                length += len(part)
                if length > MOST_CHARACTERS:
                    raise ValueError(f"writes more than {MOST_CHARACTERS:,} characters")
        # A template's expressions raise whatever Python raises.
        except Exception as error:  # noqa: BLE001
            raise _failed(self._source, error) from None
        return "".join(parts)

    def encode(self, messages: Sequence[Message], *, begin_answer: bool) -> Rendered:
        """A conversation as token ids; arguments as `render`.

        Raises:
            DataError: As `render`, or the tokenizer cannot spell a text.
        """
        hidden, names = self._shield.hidden(messages)
        text = self.render(hidden, begin_answer=begin_answer)
        try:
            if not any(name in text for name in names):
                found = self._model.encode(text, add_special_tokens=False)
                return Rendered(ids=list(found.ids), starts=[start for start, _ in found.offsets], text=text)
            return self._shield.encode(text, names)
        # The library raises a bare Exception for a word that its model cannot spell.
        except Exception as error:  # noqa: BLE001
            raise _failed(self._file, error) from None

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text that was rendered: what spells a special token is one.

        Raises:
            DataError: The tokenizer cannot spell it.
        """
        try:
            return list(self._model.encode(text, add_special_tokens=False).ids)
        # As in `encode`.
        except Exception as error:  # noqa: BLE001
            raise _failed(self._file, error) from None

    def answer(self, messages: Sequence[Message], answer: str) -> tuple[list[int], int]:
        """The tokens of an answer, and the token that ends the assistant's turn.

        Joined to those of the messages with the answer begun, they are what the model is to write.

        Raises:
            DataError: As `encode`; or the template does not begin a turn as it begins the one of an answer.
        """
        asked = self.encode(messages, begin_answer=True)
        whole = self.encode([*messages, {"role": "assistant", "content": answer}], begin_answer=False)
        begun = self.render(self._shield.hidden(messages)[0], begin_answer=True)
        ids = whole.ids[len(asked.ids) :]
        if whole.ids[: len(asked.ids)] != asked.ids:
            ids = self._rest(messages, answer, begun)
        ends = {self.turn_end, *self._conventions.ends}
        place = next((at for at, id_ in enumerate(ids) if id_ in ends), len(ids))
        return ids[:place], ids[place] if place < len(ids) else self.turn_end

    def _rest(self, messages: Sequence[Message], answer: str, begun: str) -> list[int]:
        """Tokens of what follows the beginning of an answer, encoded by itself: tokens run across the border."""
        hidden, names = self._shield.hidden([*messages, {"role": "assistant", "content": answer}])
        text = self.render(hidden, begin_answer=False)
        if not text.startswith(begun):
            problem = f"begins the answer with {begun[-40:]!r}, and writes an answer that is there in another way"
            raise DataError(self._source, problem, "Tune with another style, or fix the template")
        return self._shield.encode(text[len(begun) :], names).ids

    @cached_property
    def turn_end(self) -> int:
        """The token with which it ends the assistant's turn; the end of text where it writes none.

        Raises:
            DataError: There is neither.
        """
        asked = [{"role": "user", "content": "question"}]
        whole = self.encode([*asked, {"role": "assistant", "content": "answer"}], begin_answer=False)
        behind = whole.text.rindex("answer") + len("answer") if "answer" in whole.text else 0
        special = set(self._shield.ids.values())
        found = [id_ for id_, start in zip(whole.ids, whole.starts, strict=True) if start >= behind and id_ in special]
        if found:
            return found[0]
        if "eos_token" not in self._conventions.ids:
            raise DataError(
                self._source, "ends the assistant's turn with no special token, and there is no eos", _REMEDY
            )
        return self._conventions.ids["eos_token"]

    @cached_property
    def takes_system(self) -> bool:
        """Whether it writes a system turn: some refuse one, and some leave it out."""
        try:
            text = self.render([{"role": "system", "content": _SYSTEM}, _USER], begin_answer=True)
        except DataError:
            return False
        return _SYSTEM in text


_SYSTEM = "what the system says"
_USER = {"role": "user", "content": "what the user says"}
_REMEDY = "Fix the folder's chat template, and make the tokenizer's directory again; or use another style"


def open_chat(tokenizer: object, setting: str) -> ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: A run's.
        setting: What asks for it, by name.

    Raises:
        ConfigError: There is none, or the tokenizer is a SentencePiece model.
        DataError: It is not a template.
    """
    if not conventions_of(tokenizer).chat_template:
        need = "needs a tokenizer with a chat template: corpus.tokenizer.path=FOLDER of a model that was tuned to chat"
        raise ConfigError(setting, "chat", need)
    if not isinstance(tokenizer, HuggingFaceTokenizer):
        need = "needs a tokenizer.json: a SentencePiece model alone does not say where special tokens begin in a text"
        raise ConfigError(setting, "chat", need)
    return ChatTemplate(tokenizer)


class _SpecialTokenEscape:
    """Keeps what messages spell apart from the special tokens that the template writes.

    Messages are rendered with another character in place of the first one of each special token that they spell. What
    then still reads as one is the template's. These are given names that no text has, and a copy of the tokenizer that
    knows the tokens under these names encodes all of it in one piece, so that words merge as they always do.
    """

    def __init__(self, file: Path) -> None:
        self._settings = json.loads(file.read_text(encoding="utf-8"))
        added = self._settings.get("added_tokens") or []
        self._special = {one["content"]: one for one in added if one["special"] and one["content"]}
        self.ids: dict[str, int] = {text: one["id"] for text, one in self._special.items()}
        longest_first = sorted(self._special, key=len, reverse=True)
        words = (self._as_pattern(text) for text in longest_first)
        self._pattern = re.compile("|".join(words) or "(?!)")
        # A look-ahead finds tokens that overlap as well.
        self._anywhere = re.compile(f"(?=({'|'.join(map(re.escape, longest_first))}))" if added else "(?!)")
        beginnings = {text[:length] for text in longest_first for length in range(1, len(text))}
        self._beginnings = sorted(beginnings, key=len, reverse=True)
        self._copy: tuple[str, tokenizers.Tokenizer, dict[int, int]] | None = None

    def _as_pattern(self, text: str) -> str:
        escaped = re.escape(text)
        return rf"(?<!\w){escaped}(?!\w)" if self._special[text].get("single_word") else escaped

    def hidden(self, messages: Sequence[Message]) -> tuple[list[dict[str, str]], dict[str, str]]:
        """Messages that spell no special token, and what each of the characters put into them stands for."""
        everything = "".join(text for one in messages for text in one.values())
        free = (chr(code) for code in _PRIVATE if chr(code) not in everything)
        firsts = sorted({text[0] for text in self._special})
        names = dict(zip(firsts, free, strict=False))
        if len(names) < len(firsts):
            raise ValueError("a text with all private characters there are")
        hidden = [{key: self._hide(text, names) for key, text in one.items()} for one in messages]
        return hidden, {name: first for first, name in names.items()}

    def _hide(self, text: str, names: Mapping[str, str]) -> str:
        places = [found.start() for found in self._anywhere.finditer(text)]
        # What the text only begins may be ended by what the template writes, or the next message.
        tail = text.rstrip()
        places += [len(tail) - len(one) for one in self._beginnings if tail.endswith(one)]
        if not places:
            return text
        characters = list(text)
        for place in places:
            characters[place] = names[text[place]]
        return "".join(characters)

    def encode(self, text: str, names: Mapping[str, str]) -> Rendered:
        """Token ids of a rendered text, in which what was hidden is text again."""
        mark = next(chr(code) for code in _PRIVATE_TOO if chr(code) not in text)
        model, original = self._renamed(mark)
        shown = self._pattern.sub(lambda found: f"{mark}{self.ids[found[0]]}{mark}", text)
        for name, first in names.items():
            shown = shown.replace(name, first)
        found = model.encode(shown, add_special_tokens=False)
        ids = [original.get(id_, id_) for id_ in found.ids]
        return Rendered(ids=ids, starts=[start for start, _ in found.offsets], text=shown)

    def _renamed(self, mark: str) -> tuple[tokenizers.Tokenizer, dict[int, int]]:
        """The tokenizer with its special tokens between two marks, and its own ids of the tokens that were added."""
        if self._copy is None or self._copy[0] != mark:
            added = []
            for one in self._settings.get("added_tokens") or []:
                special = one["content"] in self._special
                own = {"content": f"{mark}{one['id']}{mark}", "normalized": False, "single_word": False}
                added.append(one | own if special else one)
            model = _opened(json.dumps(self._settings | {"added_tokens": added, "post_processor": None}))
            self._copy = (mark, model, {model.token_to_id(one["content"]) or 0: one["id"] for one in added})
        return self._copy[1:]


def _opened(text: str) -> tokenizers.Tokenizer:
    model = tokenizers.Tokenizer.from_str(text)
    model.no_truncation()
    model.no_padding()
    return model


def _failed(path: Path, error: Exception) -> RetroError:
    """One line: of a template that refuses on purpose, its own words."""
    words = short_reason(error)
    kind = "" if type(error).__name__ == "TemplateError" else f"{type(error).__name__}: "
    return DataError(path, f"its chat template cannot write this conversation ({kind}{words})", _REMEDY)


def _compiled(text: str, path: Path) -> Any:
    """The template in the environment that transformers gives one."""
    import jinja2

    if tuple(int(part) for part in re.findall(r"\d+", jinja2.__version__)[:3]) < (3, 1, 6):
        raise DependencyError("jinja2", f"is {jinja2.__version__}, whose sandbox has holes", "Install 3.1.6 or later")
    try:
        return _environment().from_string(text)
    except (jinja2.TemplateError, RecursionError) as error:
        words = short_reason(error)
        raise DataError(path, f"its chat template is none ({type(error).__name__}: {words})", _REMEDY) from None


def _environment() -> Any:
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %}`: what is in it is written as if the tag were not there."""

        tags = {"generation"}  # noqa: RUF012 - as jinja2 wants it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    class Environment(ImmutableSandboxedEnvironment):
        """Multiplies no more than it may write."""

        intercepted_binops = frozenset({"*", "**"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            numbers = [one for one in (left, right) if isinstance(one, int | float)]
            if operator == "**" and (len(numbers) < 2 or abs(left) > MOST_CHARACTERS or abs(right) > 64):
                raise ValueError("a power that is too large")
            for one, other in ((left, right), (right, left)):
                if hasattr(one, "__len__") and isinstance(other, int) and len(one) * other > MOST_CHARACTERS:
                    raise ValueError(f"multiplies a text to more than {MOST_CHARACTERS:,} characters")
            return super().call_binop(context, operator, left, right)

    class PlainNamespace(Namespace):
        """A namespace without names that begin with an underscore."""

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise TemplateError(f"a namespace keeps no {name!r}")
            super().__setitem__(name, value)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def to_json(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.globals["namespace"] = PlainNamespace
    return environment
