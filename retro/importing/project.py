"""What a project of NVIDIA's Retro preprocessing says about itself: `config.json`, the corpora, the split.

The layout is that of Megatron-LM up to core 0.15: `config.json`, token files below `data/`, the chunk database below
`db/`. `config.json` is written anew at every start of their tools, so what it says is checked against the files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from retro.common.errors import DataError
from retro.common.files import read_json
from retro.common.json_text import Count
from retro.corpus.token_files import bin_path, idx_path

CONFIG = "config.json"
INFOS = "db/indexed_dataset_infos.json"
_REMEDY = "Give the folder that the preprocessing of Megatron-LM's Retro wrote"


class _CorpusInfo(TypedDict):
    prefix: str
    n_chunks_train: Count


@dataclass(frozen=True, kw_only=True)
class ProjectCorpus:
    """One corpus of the blend."""

    name: str
    """What our stages call it."""
    prefix: Path
    """Of its .bin and .idx."""
    blocks: Path
    """Where the blocks of its chunks are."""
    ratio: float
    """Its weight in the blend."""


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project, as far as a database needs it."""

    directory: Path
    corpora: tuple[ProjectCorpus, ...]
    chunk_length: int
    """M, tokens of a chunk."""
    train_fraction: float
    """Share of the documents of each corpus, from its first on, that the train database holds."""
    settings: dict[str, Any]
    """All of config.json."""

    @property
    def merged(self) -> Path:
        """Where train.hdf5, valid.hdf5 and sampled.hdf5 are."""
        return self.directory / "db" / "merged"


def open_project(directory: Path) -> Project:
    """Read a project's settings and find its token files.

    Raises:
        DataError: It is no such project, or a setting or token file is missing.
    """
    path = directory / CONFIG
    settings = read_json(path, _REMEDY, error=DataError)
    length = _setting(path, settings, "retro_gpt_chunk_length")
    if not isinstance(length, int) or length < 1:
        raise DataError(path, f"has retro_gpt_chunk_length = {length!r}, no number of tokens", _REMEDY)
    fraction = _train_fraction(path, _setting(path, settings, "retro_gpt_split"))
    corpora = _corpora(directory, _setting(path, settings, "retro_gpt_data_path"))
    return Project(
        directory=directory, corpora=corpora, chunk_length=length, train_fraction=fraction, settings=settings
    )


def _setting(path: Path, settings: dict[str, Any], name: str) -> Any:
    if settings.get(name) is None:
        raise DataError(path, f"has no {name}", _REMEDY)
    return settings[name]


def _train_fraction(path: Path, split: object) -> float:
    """Their tools read `98,2,0` as percent, whatever the numbers sum to."""
    try:
        fraction = float(str(split).split(",")[0]) / 100
    except ValueError:
        fraction = 0.0
    if not 0 < fraction <= 1:
        problem = f"has retro_gpt_split = {split!r}, whose first number is no percentage of the documents"
        raise DataError(path, problem, "Their tools build no database from that; mend the setting")
    return fraction


def _corpora(directory: Path, blend: object) -> tuple[ProjectCorpus, ...]:
    words = blend.split() if isinstance(blend, str) else blend
    if not isinstance(words, Sequence) or not words or len(words) % 2:
        problem = f"has retro_gpt_data_path = {blend!r}; their tools write weight and prefix of each corpus in turn"
        raise DataError(directory / CONFIG, problem, _REMEDY)
    found: list[ProjectCorpus] = []
    for weight, written in zip(words[::2], words[1::2], strict=True):
        ratio = _ratio(directory, weight)
        prefix = directory / "data" / str(written)
        for needed in (bin_path(prefix), idx_path(prefix)):
            if not needed.is_file():
                raise DataError(needed, "is missing; config.json names it", "Put the token files below data/")
        name = _name(str(written), {one.name for one in found})
        blocks = directory / "db" / "individual" / str(written)
        found.append(ProjectCorpus(name=name, prefix=prefix, blocks=blocks, ratio=ratio))
    return tuple(found)


def _ratio(directory: Path, weight: object) -> float:
    try:
        ratio = float(str(weight))
    except ValueError:
        ratio = 0.0
    if not ratio > 0:
        problem = f"has {weight!r} where the weight of a corpus stands in retro_gpt_data_path"
        raise DataError(directory / CONFIG, problem, _REMEDY)
    return ratio


def _name(prefix: str, taken: set[str]) -> str:
    """A source's name from a prefix: its last part, and a number where another has it."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", Path(prefix).name).lstrip("_.-") or "corpus"
    name, number = plain, 2
    while name in taken:
        name, number = f"{plain}-{number}", number + 1
    return name


def recorded_counts(project: Project) -> dict[str, int]:
    """Train chunks of each corpus, as the project's own list of corpora says; empty without that list.

    Raises:
        DataError: The list names other corpora than config.json.
    """
    path = project.directory / INFOS
    if not path.exists():
        return {}
    infos = read_json(path, _REMEDY, list[_CorpusInfo], error=DataError)
    if len(infos) != len(project.corpora):
        raise DataError(
            path, f"does not list the {len(project.corpora)} corpora of {CONFIG}", "Build the database anew"
        )
    counts = {}
    for info, corpus in zip(infos, project.corpora, strict=True):
        if Path(info["prefix"]).name != corpus.prefix.name:
            problem = f"describes {info['prefix']!r} where {CONFIG} names {corpus.prefix.name!r}"
            raise DataError(path, problem, "Build the database anew: one of the two is older")
        counts[corpus.name] = info["n_chunks_train"]
    return counts
