"""A pickle read as plain data: what it would have called is described, and nothing is ever called.

Python's own reader imports what a file names and calls it. Here a name stays a `Name`, a call becomes a
`DescribedObject`, and only numbers, texts, lists, tuples and dictionaries are made, so a file can do nothing but be
wrong. Any bytes give a value or a `PickleError`; memory is bounded by the size of the file and the count of objects.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

MOST_OBJECTS = 5_000_000
"""Containers and calls in one file; about 500 MB of them. An index of 100,000 pieces has 2,000,000."""

Names = Mapping[str, frozenset[str]]
"""What a file may name, by module."""

_NUMBERS_AND_TEXTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_FETCH = {"GET", "BINGET", "LONG_BINGET"}
_KEEP = {"PUT", "BINPUT", "LONG_BINPUT"}
_KEYS = (str, int, bytes, type(None))
_OPERATIONS = {ord(one.code): one for one in pickletools.opcodes}
_LEFT = {"SHORT_BINBYTES": 1, "BINBYTES": 4, "BINBYTES8": 8, "BYTEARRAY8": 8}
"""Operations that `read_plain_file` leaves the bytes of where they are, with the bytes of their length."""
_DICTIONARIES = {("collections", "OrderedDict"), ("collections", "defaultdict")}


class PickleError(ValueError):
    """The bytes are not pickle, are cut short, or ask for something that a file of plain data has no use for."""


@dataclass(frozen=True, slots=True)
class Name:
    """A class or a function that a file names. It is not looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:100]


@dataclass(eq=False, slots=True)
class DescribedObject:
    """An object that a file describes."""

    of: Name
    args: tuple[Any, ...]
    """What its class or function would have been called with."""
    state: Any = None
    """What its attributes would have become."""


@dataclass(frozen=True, slots=True)
class BytesInFile:
    """A byte string that was left in the file: the numbers of an array may be gigabytes."""

    start: int
    """Place of its first byte in the file."""
    length: int


PERSISTENT = Name("pickle", "persistent_id")
"""`DescribedObject.of` of what a file refers to by a persistent id; the id is its only argument."""


def read_plain(data: bytes, names: Names, most: int = MOST_OBJECTS) -> Any:
    """Read one pickle.

    Args:
        data: Its bytes; what follows its end is not looked at.
        names: The classes and functions that it may name.
        most: Containers and calls that it may hold.

    Returns:
        Numbers, texts, bytes, None, lists, tuples, dictionaries, `Name` and `DescribedObject`. One object may stand in
        several places, and contain itself: do not walk it without a bound.

    Raises:
        PickleError: With what was found.
    """
    return _followed(((one.name, argument) for one, argument, _ in pickletools.genops(data)), names, most)


def read_plain_file(stream: BinaryIO, names: Names, most: int = MOST_OBJECTS) -> Any:
    """As `read_plain`, one operation at a time, with a `BytesInFile` in the place of every byte string.

    Args:
        stream: The file, open at the pickle's beginning; it must be able to seek.
        names: The classes and functions that it may name.
        most: Containers and calls that it may hold.

    Raises:
        PickleError: With what was found.
    """
    begins = stream.tell()
    size = stream.seek(0, io.SEEK_END)
    stream.seek(begins)
    return _followed(_operations(stream, size), names, most)


def _operations(stream: BinaryIO, size: int) -> Iterator[tuple[str, Any]]:
    """Names and arguments of the operations of a pickle, up to its end."""
    while code := stream.read(1):
        operation = _OPERATIONS.get(code[0])
        if operation is None:
            raise PickleError(f"it is damaged (0x{code[0]:02x} is no operation)")
        if operation.name in _LEFT:
            width = _LEFT[operation.name]
            head = stream.read(width)
            left = BytesInFile(stream.tell(), int.from_bytes(head, "little"))
            if len(head) < width or left.start + left.length > size:
                raise PickleError("it is cut short")
            stream.seek(left.start + left.length)
            yield operation.name, left
        else:
            yield operation.name, operation.arg.reader(stream) if operation.arg else None
        if operation.name == "STOP":
            return
    raise PickleError("it is cut short")


def _followed(operations: Iterable[tuple[str, Any]], names: Names, most: int) -> Any:
    machine = _Machine(names, most)
    try:
        for name, argument in operations:
            machine.follow(name, argument)
    except PickleError:
        raise
    except (ValueError, IndexError, OverflowError, struct.error) as error:
        raise PickleError(f"it is damaged ({' '.join(str(error).split())[:100]})") from None
    return machine.result()


class _Machine:
    """A stack of plain values, and the few operations that a pickle of data needs."""

    def __init__(self, names: Names, most: int) -> None:
        self._names, self._left = names, most
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._actions: dict[str, Callable[[], None]] = {
            "MARK": self._mark,
            "POP": self._drop,
            "POP_MARK": self._drop_to_mark,
            "EMPTY_LIST": lambda: self._make([]),
            "EMPTY_DICT": lambda: self._make({}),
            "LIST": lambda: self._make(self._back_to_mark()),
            "TUPLE": lambda: self._make(tuple(self._back_to_mark())),
            "DICT": self._dictionary,
            "APPEND": lambda: self._append([self._pop()]),
            "APPENDS": lambda: self._append(self._back_to_mark()),
            "SETITEM": lambda: self._set_items([self._pop(), self._pop()][::-1]),
            "SETITEMS": lambda: self._set_items(self._back_to_mark()),
            "MEMOIZE": lambda: self._keep(len(self._memo)),
            "STACK_GLOBAL": self._name_from_stack,
            "NEWOBJ": self._call,
            "REDUCE": self._call,
            "BUILD": self._build,
            "BINPERSID": lambda: self._make(DescribedObject(PERSISTENT, (self._pop(),))),
        }

    def follow(self, name: str, argument: Any) -> None:
        """Do what one operation says."""
        if name in _NUMBERS_AND_TEXTS or isinstance(argument, BytesInFile):
            self._stack.append(argument)
        elif name in _FETCH:
            if argument not in self._memo:
                raise PickleError("it refers to what is not there")
            self._stack.append(self._memo[argument])
        elif name in self._actions:
            self._actions[name]()
        elif name in _KEEP:
            self._keep(argument)
        elif name in _SHORT_TUPLES:
            self._make(tuple(self._take(_SHORT_TUPLES[name])))
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name])
        elif name == "GLOBAL":
            module, _, inner = argument.partition(" ")
            self._push_name(module, inner)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise PickleError(f"it uses {name}, which plain data has no use for")

    def result(self) -> Any:
        """The one value that is left."""
        if len(self._stack) != 1 or self._marked:
            raise PickleError("it does not end in one value")
        return self._stack[0]

    def _make(self, value: Any) -> None:
        self._left -= 1
        if self._left < 0:
            raise PickleError("it holds more objects than can be read")
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack:
            raise PickleError("it takes from an empty stack")
        return self._stack.pop()

    def _take(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise PickleError("it takes from an empty stack")
        taken = self._stack[-count:]
        del self._stack[-count:]
        return taken

    def _top(self) -> Any:
        if not self._stack:
            raise PickleError("it takes from an empty stack")
        return self._stack[-1]

    def _drop(self) -> None:
        self._pop() if self._stack else self._back_to_mark()

    def _mark(self) -> None:
        self._left -= 1
        self._marked.append(self._stack)
        self._stack = []

    def _back_to_mark(self) -> list[Any]:
        if not self._marked:
            raise PickleError("it goes back to a mark that is not there")
        above, self._stack = self._stack, self._marked.pop()
        return above

    def _drop_to_mark(self) -> None:
        self._back_to_mark()

    def _keep(self, place: int) -> None:
        if not 0 <= place < 1 << 32:
            raise PickleError("it keeps a value at a place that is none")
        self._memo[place] = self._top()

    def _append(self, values: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise PickleError(f"it appends to a {type(target).__name__}")
        target.extend(values)

    def _dictionary(self) -> None:
        entries = self._back_to_mark()
        self._make({})
        self._set_items(entries)

    def _set_items(self, entries: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(entries) % 2:
            raise PickleError(f"it sets items of a {type(target).__name__}")
        for key, value in zip(entries[::2], entries[1::2], strict=True):
            # A key that is hashed by its contents could be nested without end, which ends the process.
            # Larger numbers can be chosen so that all fall into one place of the table.
            if not isinstance(key, (*_KEYS, DescribedObject)) or (isinstance(key, int) and abs(key) >= 1 << 60):
                raise PickleError(f"it has a {type(key).__name__} as a key that is none")
            target[key] = value

    def _name_from_stack(self) -> None:
        module, name = self._take(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("it names something by what is not text")
        self._push_name(module, name)

    def _push_name(self, module: str, name: str) -> None:
        found = Name(module, name)
        if name not in self._names.get(module, ()):
            raise PickleError(f"it names {found}, which such a file has no use for")
        self._make(found)

    def _call(self) -> None:
        of, args = self._take(2)
        if not isinstance(of, Name) or not isinstance(args, tuple):
            raise PickleError("it calls what is not a name of a class or a function")
        self._make({} if (of.module, of.name) in _DICTIONARIES else DescribedObject(of, args))

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, DescribedObject):
            target.state = state
        elif not isinstance(target, dict):
            raise PickleError(f"it replaces the attributes of {target if isinstance(target, Name) else 'a value'}")


def plain_values(value: Any, most: int = 100_000) -> Any:
    """A part of what `read_plain` gave, as values without described objects and names. What is shared is copied.

    Raises:
        PickleError: There are such objects in it, or more values than `most`, or they are nested deeper than 50.
    """
    left = most

    def copy(one: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth > 50:
            raise PickleError("it holds more values than can be read")
        if isinstance(one, list | tuple):
            return type(one)([copy(inner, depth + 1) for inner in one])
        if isinstance(one, dict):
            return {copy(key, depth + 1): copy(inner, depth + 1) for key, inner in one.items()}
        if isinstance(one, DescribedObject | Name):
            raise PickleError(f"it holds a {one if isinstance(one, Name) else one.of} where a plain value is needed")
        return one

    return copy(value, 0)
