"""The safetensors files of a folder: read in part, and written in several where one would grow too large."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from retro.common.errors import ArtifactError, DataError, short_reason
from retro.common.files import read_json, write_plain_json

log = logging.getLogger(__name__)

FETCH = "Fetch the folder again"
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Weights of something else than the model, by name.
_NO_MODEL = ("adapter_", "consolidated", "optimizer", "training_args")
_NUMBERS = ("F64", "F32", "F16", "BF16")
ONE_FILE = 5 * 10**9
"""Bytes that one file holds at most, unless a single tensor is larger; transformers splits at the same size."""


class SafeFiles:
    """The tensors of a folder's safetensors files; a file is opened when something is read from it."""

    def __init__(self, folder: Path) -> None:
        """Read the headers of the files that count, which are those that transformers would load.

        Raises:
            DataError: A file is missing or damaged, is not what the index says, or two of them hold the same tensor.
        """
        self._where: dict[str, Path] = {}
        self.sizes: dict[str, tuple[int, ...]] = {}
        self._open: dict[Path, Any] = {}
        for file in weight_files(folder):
            for name in self._opened(file).keys():  # noqa: SIM118 - not a dict
                self._add(name, file)

    def _add(self, name: str, file: Path) -> None:
        if name in self._where:
            problem = f"holds {name}, which {self._where[name].name} holds too"
            raise DataError(file, problem, "Take away the file that does not belong to the model")
        stored = self._opened(file).get_slice(name)
        if stored.get_dtype() not in _NUMBERS:
            problem = f"holds {name} as {stored.get_dtype()}, which stands for other numbers than it says"
            raise DataError(file, problem, f"Give weights in {', '.join(_NUMBERS)}, not quantised ones")
        self._where[name] = file
        self.sizes[name] = tuple(stored.get_shape())

    def read(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """A part of a tensor.

        Raises:
            DataError: The file has become unreadable.
        """
        file = self._where[name]
        try:
            found: Tensor = self._opened(file).get_slice(name)[part]
        except (OSError, SafetensorError) as error:
            raise DataError(file, f"cannot be read ({short_reason(error)})", FETCH) from None
        return found

    def _opened(self, file: Path) -> Any:
        if file not in self._open:
            if not file.is_file():
                raise DataError(file, "is missing" if not file.exists() else "is not a file", FETCH)
            try:
                self._open[file] = safe_open(file, framework="pt")
            # The library checks the length of the header, and that its tensors fill the rest without gap or overlap.
            except (OSError, SafetensorError) as error:
                raise DataError(file, f"is not a whole safetensors file ({short_reason(error)})", FETCH) from None
        return self._open[file]


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's weights: `model.safetensors`, else those that the index names, else the only one.

    transformers takes the first two, in this order. Whatever else is there (backups, an adapter, Mistral's own
    `consolidated.safetensors`) is named and left alone.
    """
    there = sorted(path.name for path in folder.glob("*.safetensors"))
    if (folder / WHOLE).exists():
        names = [WHOLE]
    elif (folder / INDEX).exists():
        names = _indexed(folder / INDEX)
    else:
        names = [name for name in there if not name.startswith(_NO_MODEL)]
        if len(names) != 1:
            raise _no_weights(folder, names)
    left = [name for name in there if name not in names]
    left += [INDEX] if names == [WHOLE] and (folder / INDEX).exists() else []
    if left:
        log.warning("%s: the weights are those of %s; not read: %s", folder, ", ".join(names[:2]), ", ".join(left[:8]))
    return [folder / name for name in names]


def _indexed(index: Path) -> list[str]:
    """The files that an index names."""
    where = read_json(index, FETCH, Any, error=DataError, keys_once=False)
    names = where.get("weight_map") if isinstance(where, dict) else None
    if not isinstance(names, dict) or not names:
        raise DataError(index, "is not an index of safetensors files (it has no weight_map)", FETCH)
    files = set(names.values()) if all(isinstance(name, str) for name in names.values()) else {""}
    odd = next((name for name in sorted(files) if Path(name).name != name or not name.endswith(".safetensors")), None)
    if odd is not None:
        raise DataError(index, f"names {odd[:80]!r}, which is not a safetensors file of the folder", FETCH)
    return sorted(files)


def _no_weights(folder: Path, names: list[str]) -> DataError:
    if names:
        problem = f"has {len(names)} safetensors files ({', '.join(names[:4])}), and nothing says which are the model's"
        return DataError(folder, problem, f"Rename the one to {WHOLE}, or fetch {INDEX}")
    pickles = sorted(path.name for path in [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
    problem = f"has its weights as {pickles[0]}, which can run code when it is read" if pickles else "has no weights"
    remedy = (
        "Give a folder with *.safetensors; from one that you trust, transformers makes it: "
        "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
    )
    return DataError(folder, problem, remedy)


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
    names = [WHOLE]
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
