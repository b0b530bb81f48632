"""From a seed to an input that somebody might have damaged or forged; the same number gives the same input."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

NUMBERS = (0, 1, -1, 127, 128, 255, 256, 65_535, 1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 40, 1 << 62, (1 << 63) - 1)
WORDS = (
    *(b"[" * 30, b"{" * 30, b'{"a":' * 200, b"]", b"}", b'"', b"\\", b"\\ud800", b"\x00", b"\xff", b"\xef\xbb\xbf"),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-1", b"9" * 5000, b"9" * 25, b"1.5", b'""', b"[]", b"{}"),
    *(
        b"\n",
        b"- ",
        b": ",
        b"? ",
        b"&a ",
        b"*a",
        b"<<: *a",
        b"!!binary ",
        b"!!set ",
        b"2001-99-99",
        b"~",
        b"|\n",
        b"%YAML",
    ),
    *(b"../", b"/dev/zero", b"|", b"[[", b"0x", b"1:1:1.5", "é\u2028".encode()),
)

Change = Callable[[random.Random, bytearray, Sequence[bytes]], None]


def mutated(seeds: Sequence[bytes], number: str) -> bytes:
    """One of the seeds, changed at one to six places."""
    dice = random.Random(number)
    content = bytearray(dice.choice(seeds))
    for _ in range(dice.choice((1, 1, 1, 2, 3, 6))):
        dice.choice(_CHANGES)(dice, content, seeds)
    return bytes(content)


def _place(dice: random.Random, content: bytearray) -> int:
    # Half of them at the beginning, where headers are.
    most = len(content) if dice.random() < 0.5 else min(len(content), 200)
    return dice.randrange(most + 1)


def _flip(dice: random.Random, content: bytearray, _: Sequence[bytes]) -> None:
    if content:
        content[min(_place(dice, content), len(content) - 1)] ^= 1 << dice.randrange(8)


def _byte(dice: random.Random, content: bytearray, _: Sequence[bytes]) -> None:
    if content:
        content[min(_place(dice, content), len(content) - 1)] = dice.choice(
            (0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256))
        )


def _number(dice: random.Random, content: bytearray, _: Sequence[bytes]) -> None:
    size, at = dice.choice((2, 4, 8)), _place(dice, content)
    value = dice.choice(NUMBERS) + dice.choice((-1, 0, 0, 1))
    content[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, dice.choice(("little", "big")))


def _digits(dice: random.Random, content: bytearray, _: Sequence[bytes]) -> None:
    """Another number in place of one that is written out."""
    places = [at for at, letter in enumerate(content[:4096]) if 48 <= letter <= 57]
    if places:
        at = dice.choice(places)
        content[at : at + 1] = str(dice.choice(NUMBERS)).encode()


def _cut(dice: random.Random, content: bytearray, _: Sequence[bytes]) -> None:
    at = _place(dice, content)
    del content[at : at + dice.choice((1, 2, 8, 64, len(content)))]


def _word(dice: random.Random, content: bytearray, _: Sequence[bytes]) -> None:
    at = _place(dice, content)
    content[at : at + dice.choice((0, 0, 1, 4))] = dice.choice(WORDS)


def _again(dice: random.Random, content: bytearray, _: Sequence[bytes]) -> None:
    at, size = _place(dice, content), dice.choice((1, 4, 16, 64))
    content[at:at] = content[at : at + size] * dice.choice((1, 2, 30))


def _joined(dice: random.Random, content: bytearray, seeds: Sequence[bytes]) -> None:
    other = dice.choice(seeds)
    at, begin = _place(dice, content), dice.randrange(len(other) + 1)
    content[at : at + dice.choice((0, 16, len(content)))] = other[begin : begin + dice.choice((8, 64, len(other)))]


_CHANGES: tuple[Change, ...] = (_flip, _byte, _number, _digits, _cut, _word, _again, _joined)
