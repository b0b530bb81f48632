"""The safetensors files of a folder: read in part, and written in several where one would grow too large."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from retro.common.errors import ArtifactError, DataError
from retro.common.files import write_plain_json

FETCH = "Fetch the folder again"
INDEX = "model.safetensors.index.json"
_NUMBERS = ("F64", "F32", "F16", "BF16")
ONE_FILE = 5 * 10**9
"""Bytes that one file holds at most, unless a single tensor is larger; transformers splits at the same size."""


class SafeFiles:
    """The tensors of a folder's safetensors files; a file is opened when something is read from it."""

    def __init__(self, folder: Path) -> None:
        self._where: dict[str, Path] = {}
        self.sizes: dict[str, tuple[int, ...]] = {}
        self._open: dict[Path, Any] = {}
        for file in _files(folder):
            for name in self._opened(file).keys():  # noqa: SIM118 - not a dict
                stored = self._opened(file).get_slice(name)
                if stored.get_dtype() not in _NUMBERS:
                    problem = f"holds {name} as {stored.get_dtype()}, which stands for other numbers than it says"
                    raise DataError(file, problem, f"Give weights in {', '.join(_NUMBERS)}, not quantised ones")
                self._where[name] = file
                self.sizes[name] = tuple(stored.get_shape())

    def read(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """A part of a tensor."""
        found: Tensor = self._opened(self._where[name]).get_slice(name)[part]
        return found

    def _opened(self, file: Path) -> Any:
        if file not in self._open:
            try:
                self._open[file] = safe_open(file, framework="pt")
            except FileNotFoundError:
                raise DataError(file, "is missing", FETCH) from None
            except (OSError, SafetensorError) as error:
                raise DataError(file, f"is no whole safetensors file ({error})", FETCH) from None
        return self._open[file]


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a folder."""
    index = folder / INDEX
    if index.exists():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise DataError(index, f"is no index of safetensors files ({error!r})", FETCH) from None
        return sorted(folder / Path(str(name)).name for name in names)
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickles = sorted(path.name for path in [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    problem = f"has its weights as {pickles[0]}, which can run code when it is read" if pickles else "has no weights"
    remedy = (
        "Give a folder with *.safetensors; from one that you trust, transformers makes it: "
        "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
    )
    raise DataError(folder, problem, remedy)


def write_safetensors(
    sizes: Mapping[str, int], make: Callable[[str], Tensor], out: Path, limit: int = ONE_FILE
) -> list[Path]:
    """Write `model.safetensors`, or several files and the index that names each tensor's; one file is made at a time.

    Args:
        sizes: Bytes of each tensor, in the order they are written.
        make: Gives a tensor, contiguous and on the CPU.
        out: The folder.
        limit: Bytes of one file at most, unless a single tensor is larger.

    Raises:
        ArtifactError: A file cannot be written.
    """
    groups = _groups(sizes, limit)
    names = ["model.safetensors"]
    if len(groups) > 1:
        names = [f"model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
        where = {tensor: file for file, group in zip(names, groups, strict=True) for tensor in group}
        write_plain_json(out / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where})
    for file, group in zip(names, groups, strict=True):
        try:
            save_file({tensor: make(tensor) for tensor in group}, out / file, metadata={"format": "pt"})
        except SafetensorError as error:
            problem = f"cannot be written ({error})"
            raise ArtifactError(out / file, problem, "Free some space, or choose another folder") from None
    return [out / file for file in names]


def _groups(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Names in order, a new group wherever the next tensor would go over `limit`."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > limit:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups
