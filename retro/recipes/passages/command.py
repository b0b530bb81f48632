"""The commands that users of Contriever's, Self-RAG's and Search-R1's tools know, with their flags.

python -m retro.recipes.passages embed --model_name_or_path M --passages P --output_dir DIR
    [--shard_id 0 --num_shards 4]
python -m retro.recipes.passages retrieve --model_name_or_path M --passages P --passages_embeddings GLOB --data IN
    --output_dir OUT [--n_docs 20]
python -m retro.recipes.passages serve --model_name_or_path M --passages P --passages_embeddings GLOB [--topk 3]

Any setting of `PassagesConfig` may follow, as in `embedder.batch_tokens=65536`, and for `serve` those of the section
`serve` of a run, as in `serve.port=8080`. A flag of those tools that would do
nothing here is refused: who gives it expects something of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.common.config import apply_overrides, config_json
from retro.common.errors import ConfigError
from retro.recipes import flags
from retro.recipes.passages.config import PassagesConfig, contriever
from retro.serve.config import ServeConfig

PROGRAM = "python -m retro.recipes.passages"
_TOO_MANY = "a batch here is a number of tokens: embedder.batch_tokens=65536"
_ALONE = {
    "--normalize_text": "text is embedded as it stands; write the file of passages otherwise",
    "--per_gpu_batch_size": _TOO_MANY,
}
_INAPPLICABLE: dict[str, dict[str, str]] = {
    "embed": _ALONE,
    "retrieve": _ALONE
    | {
        "--validation_workers": "answers are not looked for in passages here; `retro evaluate` measures that",
        "--indexing_batch_size": "vectors are added a slice at a time, whatever it is",
        "--projection_size": "the length of the vectors is read from the shards",
        "--lang": "no dataset is read but --data",
        "--dataset": "no dataset is read but --data",
    },
    "serve": {
        "--index_path": "the index is made of --passages_embeddings, and kept beside them",
        "--corpus_path": "give --passages: .tsv or .jsonl with id, title and text",
        "--retriever_name": "give --model_name_or_path, or embedder.kind=…",
        "--retriever_model": "give --model_name_or_path, or embedder.kind=…",
        "--faiss_gpu": "searches run on the CPU; faiss=IVF…,Flat makes them faster",
    },
}
"""Flags of the tools that are known by these names, and why they would do nothing."""


@dataclass(frozen=True)
class _Command:
    summary: str
    flags: Mapping[str, Mapping[str, Any]]
    run: Callable[[argparse.Namespace, PassagesConfig], str]


_SHARED: dict[str, dict[str, Any]] = {
    "--model_name_or_path": {"help": "folder or hub name of a Contriever; else embedder.kind=… says what embeds"},
    "--passages": {"required": True, "help": ".tsv with id, text and title, or .jsonl; also .gz"},
    "--lowercase": {"action": "store_true", "help": "embed in small letters"},
    "--no_fp16": {"action": "store_true", "help": "compute in float32"},
}
_OUT: dict[str, dict[str, Any]] = {
    "--output_dir": {"required": True, "type": Path, "help": "where the results go"},
}
_EMBED: dict[str, dict[str, Any]] = {
    "--shard_id": {"type": int, "default": 0, "help": "number of the shard, from 0 (default 0)"},
    "--num_shards": {"type": int, "default": 1, "help": "shards in all (default 1)"},
    "--prefix": {"default": "passages", "help": "first part of the shards' names (default passages)"},
    "--no_title": {"action": "store_true", "help": "embed the text alone"},
    "--passage_maxlength": {"type": int, "help": "tokens of a passage at most (default 512)"},
}
_RETRIEVE: dict[str, dict[str, Any]] = {
    "--data": {"type": Path, "required": True, "help": "JSON or JSON lines with question or instruction"},
    "--n_docs": {"type": int, "help": "passages for each question (default 20)"},
}
_SERVE: dict[str, dict[str, Any]] = {
    "--topk": {"type": int, "help": "passages for each text where a request does not say (default 3)"},
    "--host": {"help": "address to listen on (default 127.0.0.1)"},
    "--port": {"type": int, "help": "port to listen on (default 8000)"},
}
_SEARCH: dict[str, dict[str, Any]] = {
    "--passages_embeddings": {"required": True, "help": "pattern of the shards, or their folder"},
    "--save_or_load_index": {
        "action": "store_true",
        "help": "keep the index beside the shards, or take it from there",
    },
    "--question_maxlength": {"type": int, "help": "tokens of a question at most (default 512)"},
    "--n_subquantizers": {"type": int, "default": 0, "help": "bytes of a vector in a PQ index; 0: exact (default)"},
    "--n_bits": {"type": int, "default": 8, "help": "bits of each of these (default 8)"},
}


def _embed(given: argparse.Namespace, config: PassagesConfig) -> str:
    from retro.recipes.passages.embed import embed_shard

    report = embed_shard(config, given.output_dir, given.shard_id, given.num_shards, prefix=given.prefix)
    return f"{report.passages} passages ({report.without_title} of all without a title) in {report.path}"


def _retrieve(given: argparse.Namespace, config: PassagesConfig) -> str:
    from retro.recipes.passages.retrieve import retrieve_for_file
    from retro.recipes.passages.search import PassageRetriever

    out = given.output_dir if given.output_dir.suffix in (".json", ".jsonl") else given.output_dir / given.data.name
    report = retrieve_for_file(
        given.data, out, PassageRetriever.open(config),
        n_docs=config.n_docs, questions_per_block=config.questions_per_block,
    )  # fmt: skip
    return f"{report.items} questions ({report.with_fewer} with fewer than {report.n_docs} passages) in {report.path}"


def _serve(given: argparse.Namespace, config: PassagesConfig) -> str:
    from retro.recipes.passages.serve import serve_passages

    named = [f"{name}={getattr(given, name)}" for name in ("topk", "host", "port") if getattr(given, name) is not None]
    serve_passages(config, ServeConfig(**apply_overrides({}, [*named, *given.serve])))
    return "stopped: everything that was accepted is answered"


_COMMANDS = {
    "embed": _Command("Embed a shard of the passages, as <prefix>_<number>.", _SHARED | _OUT | _EMBED, _embed),
    "retrieve": _Command(
        "Put the best passages beside each question, as ctxs.", _SHARED | _OUT | _SEARCH | _RETRIEVE, _retrieve
    ),
    "serve": _Command("Answer POST /retrieve in Search-R1's protocol.", _SHARED | _SEARCH | _SERVE, _serve),
}


def main(words: Sequence[str]) -> int:
    """`embed` or `retrieve`, flags, settings of `PassagesConfig`; see `retro.recipes.flags.main`."""
    return flags.main(run, words)


def run(words: Sequence[str]) -> str:
    """As `main`, but errors are raised; gives what was made, in a line.

    Raises:
        ConfigError: There is no such command, flag or setting, or one that does nothing here.
        RetroError: As the commands say.
    """
    name = flags.command_of(PROGRAM, words, list(_COMMANDS))
    command = _COMMANDS[name]
    given, settings = flags.parse(f"{PROGRAM} {name}", words[1:], command.summary, command.flags, _INAPPLICABLE[name])
    if name == "serve":
        given.serve = [word.removeprefix("serve.") for word in settings if word.startswith("serve.")]
        settings = [word for word in settings if not word.startswith("serve.")]
    return command.run(given, settings_of(given, settings))


def settings_of(given: argparse.Namespace, overrides: Sequence[str]) -> PassagesConfig:
    """The settings that flags ask for, and those that follow them.

    Raises:
        ConfigError: One is unknown or cannot work, or nothing says what embeds.
    """
    names = vars(given)
    data: dict[str, Any] = {"passages": given.passages, "lowercase": given.lowercase}
    if given.model_name_or_path:
        longest = names.get("passage_maxlength") or names.get("question_maxlength")
        own = ({"max_tokens": longest} if longest else {}) | ({"precision": "float32"} if given.no_fp16 else {})
        data["embedder"] = config_json(contriever(given.model_name_or_path, **own))
    elif not any(word.startswith("embedder.") for word in overrides):
        raise ConfigError("--model_name_or_path", None, "needs a folder or hub name of a model, or embedder.kind=…")
    data |= {"embeddings": names.get("passages_embeddings", ""), "title": not names.get("no_title", False)}
    data["save_or_load_index"] = names.get("save_or_load_index", True)
    if names.get("n_docs") is not None:
        data["n_docs"] = given.n_docs
    if names.get("n_subquantizers"):
        data["faiss"] = f"PQ{given.n_subquantizers}x{given.n_bits}"
    return PassagesConfig(**apply_overrides(data, overrides))
