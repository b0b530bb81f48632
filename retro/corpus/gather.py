"""Runs of tokens out of a token file, and the packed stream's windows: arithmetic on arrays, no files.

Everything a model trains on comes through here, so what costs a microsecond per call or a nanosecond per token matters.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Dims in this file. N runs, each padded to a width of W tokens   P runs concatenated   T tokens of these


Int64 = NDArray[np.int64]

# Below this mean length indexing every token is cheaper than one slice for each run (0.4 us, measured).
_SLICED_FROM = 100
# Wider masks are compared instead of looked up: the table has width squared bytes.
_WIDEST_TABLE = 1024


def padded_runs(
    tokens: NDArray[Any], start_N: Int64, count_N: Int64, width: int, padding: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Runs of tokens as the rows of one array.

    Args:
        tokens: All tokens of a file.
        start_N: [N] where each run starts.
        count_N: [N] its tokens, 0 to `width`.
        width: Columns of the result.
        padding: The token behind the end of a shorter run.

    Returns:
        Tokens [N, W] int32, and [N, W] True where a token is real.

    Raises:
        ValueError: A run is wider than `width` or leaves the tokens.
    """
    shortest, longest = _checked(tokens, start_N, count_N, width)
    mask_NW = real_tokens(count_N, width)
    if longest == 0 or width == 0:
        return np.full((len(start_N), width), padding, dtype=np.int32), mask_NW
    found_NW = _windows(tokens, start_N, width)
    if shortest < width:
        # Most rows are full, and nothing has to be done to them.
        short = np.flatnonzero(count_N < width)
        found_NW[short] = np.where(mask_NW[short], found_NW[short], np.int32(padding))
    return found_NW, mask_NW


def joined_runs(tokens: NDArray[Any], start_P: Int64, count_P: Int64) -> NDArray[np.int32]:
    """[T] int32: the tokens of runs, one run behind the other.

    Args:
        tokens: All tokens of a file.
        start_P: [P] where each run starts.
        count_P: [P] its tokens.
    """
    end_P = np.cumsum(count_P)
    total = int(end_P[-1]) if len(end_P) else 0
    if total <= _SLICED_FROM * len(start_P):
        offsets_T = np.repeat(start_P - end_P + count_P, count_P)
        offsets_T += np.arange(total)
        return tokens[offsets_T].astype(np.int32, copy=False)
    pieces = [tokens[start:end] for start, end in zip(start_P.tolist(), (start_P + count_P).tolist(), strict=True)]
    return np.concatenate(pieces, dtype=np.int32)


def real_tokens(count_N: Int64, width: int) -> NDArray[np.bool_]:
    """[N, W] True in the first `count_N` columns of each row."""
    if width > _WIDEST_TABLE:
        return np.asarray(np.arange(width) < count_N[:, None])
    return _table(width)[count_N]


@lru_cache(maxsize=8)
def _table(width: int) -> NDArray[np.bool_]:
    """[W + 1, W]: row n has n columns True. Copying its rows is 10 times as fast as comparing."""
    return np.tri(width + 1, width, -1, dtype=np.bool_)


def _checked(tokens: NDArray[Any], start_N: Int64, count_N: Int64, width: int) -> tuple[int, int]:
    """The shortest and the longest run."""
    if not len(start_N):
        return 0, 0
    shortest, longest = int(count_N.min()), int(count_N.max())
    if shortest < 0 or longest > width:
        raise ValueError(f"counts from {shortest} to {longest} do not fit a width of {width}")
    if start_N.min() < 0 or (start_N + count_N).max() > len(tokens):
        raise ValueError(f"a run leaves the token file of {len(tokens)} tokens")
    return shortest, longest


def _windows(tokens: NDArray[Any], start_N: Int64, width: int) -> NDArray[np.int32]:
    """[N, W] int32 tokens from `start_N` on; what is behind the last token is not defined."""
    places = len(tokens) - width + 1
    # The last `width` tokens have no window of their own.
    whole_N = start_N < places
    if whole_N.all():
        return _copied(tokens, start_N, width).astype(np.int32, copy=False)
    found_NW = np.empty((len(start_N), width), dtype=np.int32)
    if whole_N.any():
        found_NW[whole_N] = _copied(tokens, start_N[whole_N], width)
    found_NW[~whole_N] = np.take(tokens, start_N[~whole_N, None] + np.arange(width), mode="clip")
    return found_NW


def _copied(tokens: NDArray[Any], start_N: Int64, width: int) -> NDArray[Any]:
    """[N, W] windows that are within `tokens`, in its own type."""
    # A window as one item of its bytes: numpy copies it whole, in two thirds of the time of a row of numbers.
    items = np.ndarray(len(tokens) - width + 1, f"V{width * tokens.itemsize}", tokens, strides=(tokens.itemsize,))
    return items[start_N].view(tokens.dtype).reshape(len(start_N), width)


# Dims in this file.
#   B windows   D documents of the stream   P pieces: runs of one window in one document


Ints = NDArray[np.int64]


def stream_bounds(lengths_D: Ints) -> Ints:
    """[documents + 1] stream offset at which each document starts; the last entry is the stream's length."""
    bounds = np.zeros(len(lengths_D) + 1, dtype=np.int64)
    np.cumsum(lengths_D, out=bounds[1:])
    return bounds


def documents_at(bounds: Ints, positions: Ints) -> Ints:
    """Number of the document, counted along the stream, that each stream position is in.

    Empty documents own no position, so they are never the answer.
    """
    found: Ints = np.searchsorted(bounds, positions, side="right") - 1
    return found


def window_pieces(bounds: Ints, file_starts_D: Ints, start_B: Ints, width: int) -> tuple[Ints, Ints]:
    """Where the tokens of windows over the stream stand in the token file: runs, each within one document.

    The documents of a window are found from its two ends: one search per window instead of one per token.

    Args:
        bounds: [D + 1] as `stream_bounds` gives them.
        file_starts_D: [D] file offset of each document, in stream order.
        start_B: [B] first stream position of each window; windows must be inside the stream.
        width: Tokens per window, at least 1.

    Returns:
        [P] file offset and [P] tokens of each piece, in the order of the windows; `width` tokens for each window.
    """
    first_B = documents_at(bounds, start_B)
    last_B = documents_at(bounds, start_B + (width - 1))
    pieces_B = last_B - first_B + 1
    window_P = np.repeat(np.arange(len(start_B)), pieces_B)
    rank_P = np.arange(len(window_P)) - np.repeat(np.cumsum(pieces_B) - pieces_B, pieces_B)
    document_P = first_B[window_P] + rank_P
    from_P = np.maximum(bounds[document_P], start_B[window_P])
    to_P = np.minimum(bounds[document_P + 1], start_B[window_P] + width)
    return file_starts_D[document_P] + (from_P - bounds[document_P]), to_P - from_P
