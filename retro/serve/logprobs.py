"""Log-probabilities of an answer's tokens in OpenAI's form: their texts, their bytes, and their places in the text.

A token may be a part of a character, with bytes but no text: completions write it `bytes:\\xe6\\x9d`, chats
`\\xe6\\x9d` beside the bytes themselves, so that a client can put characters together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from retro.generate.request import ChosenToken
from retro.serve.model_info import ModelInfo
from retro.serve.responses import ChatLogprobs, ChosenTokenLogprob, CompletionLogprobs, TokenLogprob
from retro.tokenizers.tokenizer import Tokenizer

_BROKEN = "\ufffd"
"""The character that decoders write for invalid bytes."""


def completion_logprobs(model: ModelInfo, tokens: Sequence[ChosenToken], before: Sequence[int]) -> CompletionLogprobs:
    """`logprobs` of a choice of `/v1/completions`; `before`: the answer's tokens before these."""
    texts, top = [], []
    for previous, token in _with_previous(tokens, before):
        texts.append(_text(model, previous, token.id, "bytes:"))
        top.append(_by_text(model, previous, token))
    return CompletionLogprobs(
        tokens=texts,
        token_logprobs=[_finite(token.logprob) for token in tokens],
        top_logprobs=top if any(top) else None,
        text_offset=_offsets(model, [token.id for token in tokens], before),
    )


def chat_logprobs(model: ModelInfo, tokens: Sequence[ChosenToken], before: Sequence[int]) -> ChatLogprobs:
    """`logprobs` of a choice of `/v1/chat/completions`; `before` as above."""
    content = []
    for previous, token in _with_previous(tokens, before):
        top = [TokenLogprob(**_token(model, previous, one.id, one.logprob)) for one in token.top]
        content.append(ChosenTokenLogprob(**_token(model, previous, token.id, token.logprob), top_logprobs=top))
    return ChatLogprobs(content=content, refusal=None)


def token_text(tokenizer: Tokenizer, previous: int | None, id_: int) -> str:
    """The text of a token after another one: decoders drop the space with which a text begins."""
    if previous is not None:
        before, both = tokenizer.decode([previous]), tokenizer.decode([previous, id_])
        if both.startswith(before):
            return both[len(before) :]
    return tokenizer.decode([id_])


def characters_of_bytes(text: str, data: bytes) -> list[int]:
    """For each byte that a text was decoded from, and for their end, the index of the character it belongs to.

    Args:
        text: As a decoder gave it: without a first space perhaps, and with U+FFFD for each byte that is not part of a
            character, or for each such sequence.
        data: The bytes of its tokens.
    """
    found = [0] if data.startswith(b" ") and not text.startswith(" ") else []
    at = 0
    while at < len(text) and len(found) < len(data):
        character = text[at].encode("utf-8")
        if data.startswith(character, len(found)):
            found += [at] * len(character)
            at += 1
            continue
        broken = len(text[at:]) - len(text[at:].lstrip(_BROKEN))
        for length in _broken_lengths(text[at + broken :], data[len(found) :], max(broken, 1)):
            found += [at] * length
            at += 1
    # Of a text that is not made of these bytes the rest is at its end.
    return (found + [len(text)] * (len(data) + 1 - len(found)))[: len(data) + 1]


def _broken_lengths(rest: str, data: bytes, count: int) -> list[int]:
    """How many bytes each of `count` U+FFFD stands for, at the start of `data` and before `rest`."""
    behind = data[count:]
    if behind.startswith(rest[:1].encode("utf-8")) if rest else not behind:
        return [1] * count
    lengths = []
    for _ in range(count):
        # The longest start of a character, as the Unicode standard advises.
        length = next((n for n in (3, 2) if data[:n].decode("utf-8", "replace") == _BROKEN and len(data) >= n), 1)
        lengths.append(length)
        data = data[length:]
    return lengths


def incomplete_bytes(model: ModelInfo, ids: Sequence[int]) -> int:
    """How many bytes at the end of some tokens begin a character that is not whole; 0 where bytes are not known."""
    if model.token_bytes is None:
        return 0
    return _incomplete_bytes(b"".join(model.token_bytes[id_] for id_ in ids[-3:]))


def _offsets(model: ModelInfo, ids: Sequence[int], before: Sequence[int]) -> list[int]:
    """Where each token begins in the text of all; one that continues with a character begins at that character."""
    if model.token_bytes is None:
        return [len(model.tokenizer.decode([*before, *ids[:n]])) for n in range(len(ids))]
    parts = [model.token_bytes[id_] for id_ in (*before, *ids)]
    characters = characters_of_bytes(model.tokenizer.decode([*before, *ids]), b"".join(parts))
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part))
    return [characters[start] for start in starts[len(before) : -1]]


def _incomplete_bytes(data: bytes) -> int:
    """How many bytes at the end begin a character that is not whole."""
    for length in (1, 2, 3):
        tail = data[-length:]
        if len(tail) == length and tail[0] >= 0xC0:
            wanted = 2 if tail[0] < 0xE0 else 3 if tail[0] < 0xF0 else 4
            return length if length < wanted and tail.decode("utf-8", "replace") == _BROKEN else 0
    return 0


def _with_previous(tokens: Sequence[ChosenToken], before: Sequence[int]) -> Iterator[tuple[int | None, ChosenToken]]:
    previous = before[-1] if before else None
    for token in tokens:
        yield previous, token
        previous = token.id


def _text(model: ModelInfo, previous: int | None, id_: int, prefix: str) -> str:
    """The text of a token, or its bytes spelled out where they are not text by themselves."""
    part = _part(model, id_)
    if part is not None:
        return prefix + "".join(f"\\x{byte:02x}" for byte in part)
    text = token_text(model.tokenizer, previous, id_)
    # After a part of a character a decoder may give up on a whole byte too.
    return model.token_bytes[id_].decode("utf-8") if _BROKEN in text and model.token_bytes is not None else text


def _part(model: ModelInfo, id_: int) -> bytes | None:
    """The bytes of a token that are not text by themselves; None for one whose bytes are, or are not known."""
    if model.token_bytes is None:
        return None
    known = model.token_bytes[id_]
    try:
        known.decode("utf-8")
    except UnicodeDecodeError:
        return known
    return None


def _by_text(model: ModelInfo, previous: int | None, token: ChosenToken) -> dict[str, float]:
    """The likeliest tokens; of several with one text, as a character and its byte, the later ones under their ids."""
    found: dict[str, float] = {}
    for one in token.top:
        text = _text(model, previous, one.id, "bytes:")
        found[f"token_id:{one.id}" if text in found else text] = _finite(one.logprob)
    return found


def _token(model: ModelInfo, previous: int | None, id_: int, logprob: float) -> dict[str, Any]:
    text, part = _text(model, previous, id_, ""), _part(model, id_)
    data = text.encode("utf-8") if part is None else part
    unknown = part is None and model.token_bytes is None and _BROKEN in text
    return {"token": text, "logprob": _finite(logprob), "bytes": None if unknown else list(data)}


def _finite(logprob: float) -> float:
    """JSON has no -inf; OpenAI says -9999 of what is as good as impossible."""
    return max(logprob, -9999.0)
