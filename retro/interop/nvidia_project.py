"""What a project of NVIDIA's Retro preprocessing says about itself: corpora, split, tokenizer.

The layout is that of Megatron-LM up to core 0.15: `config.json`, token files below `data/`, the chunk database below
`db/`. `config.json` is written again at every start of their tools, so what it says is checked against the files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from typing_extensions import TypedDict

from retro.common.errors import DataError, short_reason
from retro.common.files import atomic_path, read_json
from retro.common.json_files import Count
from retro.corpus.config import TokenizerConfig
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
        DataError: It is not such a project, or a setting or token file is missing.
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
        problem = f"has retro_gpt_split = {split!r}, whose first number is not a percentage of the documents"
        raise DataError(path, problem, "Their tools build no database from that; fix the setting")
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
        problem = f"has {weight!r} as the weight of a corpus in retro_gpt_data_path"
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
            path, f"does not list the {len(project.corpora)} corpora of {CONFIG}", "Build the database again"
        )
    counts = {}
    for info, corpus in zip(infos, project.corpora, strict=True):
        if Path(info["prefix"]).name != corpus.prefix.name:
            problem = f"describes {info['prefix']!r} where {CONFIG} names {corpus.prefix.name!r}"
            raise DataError(path, problem, "Build the database again: one of the two is older")
        counts[corpus.name] = info["n_chunks_train"]
    return counts


_KINDS = {".model": "sentencepiece", ".json": "huggingface"}
_GIVE = "Give the tokenizer that made the tokens with --tokenizer: a SentencePiece .model or a tokenizer.json"
GPT2_END = "<|endoftext|>"


def tokenizer_settings(
    project: Project, out: Path, given: Path | None, eod_token: str | None = None
) -> TokenizerConfig:
    """Settings of the corpus stage for the project's tokenizer.

    GPT-2's vocabulary and merges become one tokenizer.json, which is written into `out`.

    Args:
        project: Its settings name type and files.
        out: Where a tokenizer.json goes, if one has to be made.
        given: The user's file, in place of the settings.
        eod_token: The token that ends a document, if not the usual one.

    Raises:
        DataError: There is no file of a kind that can be read; what to give is said.
    """
    path = given if given is not None else _named(project, out)
    kind = _KINDS.get(path.suffix)
    if path.is_dir() and (path / "tokenizer.json").exists():
        path, kind = path / "tokenizer.json", "huggingface"
    if kind is None or not path.is_file():
        problem = "is not a tokenizer file" if path.exists() else "no such tokenizer file"
        raise DataError(path, problem, _GIVE)
    return TokenizerConfig(kind=kind, path=path.resolve(), eod_token=eod_token)


def _named(project: Project, out: Path) -> Path:
    settings = project.settings
    kind = str(settings.get("retro_gpt_tokenizer_type"))
    model = _file(project, settings, "retro_gpt_tokenizer_model")
    if model is not None and ("SentencePiece" in kind or "HuggingFace" in kind):
        return model
    vocabulary = _file(project, settings, "retro_gpt_vocab_file")
    merges = _file(project, settings, "retro_gpt_merge_file")
    if kind == "GPT2BPETokenizer" and vocabulary is not None and merges is not None:
        return gpt2_file(vocabulary, merges, out / "tokenizer.json")
    raise DataError(project.directory / CONFIG, f"names a tokenizer that cannot be read here: {kind!r}", _GIVE)


def _file(project: Project, settings: dict[str, Any], name: str) -> Path | None:
    """A path among the settings; relative ones start at the project."""
    value = settings.get(name)
    return project.directory / str(value) if value else None


def gpt2_file(vocabulary: Path, merges: Path, out: Path) -> Path:
    """Write GPT-2's vocab.json and merges.txt as one tokenizer.json: byte-level BPE, no space before a text.

    Raises:
        DataError: A file is missing or is of another kind.
    """
    for needed in (vocabulary, merges):
        if not needed.is_file():
            raise DataError(needed, "no such tokenizer file", _GIVE)
    try:
        model = tokenizers.models.BPE.from_file(str(vocabulary), str(merges))
    # The library raises a bare Exception for every kind of bad file.
    except Exception as error:  # noqa: BLE001
        reason = short_reason(error)
        raise DataError(vocabulary, f"and {merges.name} are not byte-level BPE ({reason})", _GIVE) from None
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    if made.token_to_id(GPT2_END) is None:
        raise DataError(vocabulary, f"has no {GPT2_END}, which ends GPT-2's documents", _GIVE)
    # It keeps its number, and gives no text from now on.
    made.add_special_tokens([GPT2_END])
    with atomic_path(out) as temporary:
        made.save(str(temporary))
    return out
