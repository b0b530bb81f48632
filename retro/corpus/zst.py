"""Zstandard files as streams: frame by frame, a file that ends within a frame is noticed."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from retro.common.optional import import_optional

_READ_BYTES = 1 << 17
_WINDOW_BYTES = 1 << 27
"""Of a frame, at most: what `zstd --ultra -22` makes. A forged header may ask for any number."""


class DamagedZstdError(Exception):
    """The compressed data is cut short or damaged."""


class ZstdStream(io.RawIOBase):
    """The text of a Zstandard file, of one frame or many."""

    def __init__(self, raw: BinaryIO) -> None:
        self._zstandard = import_optional("zstandard", extra="formats", use="reads .zst files")
        self._raw, self._given, self._made = raw, b"", b""
        self._frame: Any = None

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer, as far as one read of the file goes.

        Raises:
            DamagedZstdError: The data is cut short or damaged.
        """
        while not self._made:
            if not self._given:
                self._given = self._raw.read(_READ_BYTES)
                if not self._given:
                    if self._frame is not None:
                        raise DamagedZstdError("it ends within a frame")
                    return 0
            self._decompress()
        count = min(len(buffer), len(self._made))
        buffer[:count], self._made = self._made[:count], self._made[count:]
        return count

    def _decompress(self) -> None:
        if self._frame is None:
            self._frame = self._zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()
        try:
            self._made = self._frame.decompress(self._given)
        except self._zstandard.ZstdError as error:
            raise DamagedZstdError(str(error)) from None
        self._given = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:
            self._frame = None
