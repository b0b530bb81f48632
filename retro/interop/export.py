"""A checkpoint becomes a folder that transformers opens, whole or not at all."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from retro.common.artifacts import MANIFEST
from retro.common.config import config_json
from retro.common.errors import ConfigError
from retro.common.files import failed_writes_are_artifact_errors, fsync, read_json, write_plain_json
from retro.common.stage_order import STAGE_ORDER
from retro.interop.export_files import MODELING, CopiedTokenizer, copy_tokenizer, modeling_source
from retro.interop.model_card import CARD, SETTINGS, run_settings, write_card
from retro.interop.run_facts import Facts, find_run, gather
from retro.model.config import ModelConfig, ModelShape
from retro.model.convert.safe_files import ONE_FILE, write_safetensors
from retro.model.convert.writer import plain_family, write_decoder
from retro.model.positions import positions_named
from retro.model.sizes import SIZES
from retro.report.run_summary import stage_dir
from retro.tokenizers.conventions import Conventions
from retro.training import checkpoint
from retro.training.result import of_stage


def write_retro(shape: ModelShape, dtype: str, out: Path) -> None:
    """Write `config.json` and the modelling file.

    Args:
        shape: The model, its vocabulary without padding.
        dtype: Precision of the weights, as torch calls it.
        out: The folder.
    """
    write_plain_json(out / "config.json", retro_config(shape) | {"dtype": dtype})
    (out / MODELING).write_text(modeling_source(), encoding="utf-8")


def retro_config(shape: ModelShape) -> dict[str, Any]:
    """The settings of RetroForCausalLM, with the sizes that other programs look for under the names they know."""
    model = shape.model
    module = MODELING.removesuffix(".py")
    return {
        "architectures": ["RetroForCausalLM"],
        "auto_map": {"AutoConfig": f"{module}.RetroConfig", "AutoModelForCausalLM": f"{module}.RetroForCausalLM"},
        "model_type": "instruct_retro",
        "vocab_size": shape.vocabulary,
        "hidden_size": model.hidden_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "max_position_embeddings": model.sequence_length,
        "chunk_length": shape.chunk_length,
        "retrieved_length": shape.retrieved_length,
        "tie_word_embeddings": model.tied_embeddings,
        "use_cache": False,
        "network": _network(model),
    }


def require_known_positions(shape: ModelShape) -> None:
    """Check that the exported modelling file knows how the model's tokens know where they stand.

    Raises:
        ConfigError: They do in a way that was registered from outside.
    """
    known = ("rope", "learned", "none")
    if shape.model.positions not in known:
        need = f"needs one of {', '.join(known)} to be exported: the modelling file has no other"
        raise ConfigError("model.positions", shape.model.positions, need)


def keep_positions(shape: ModelShape, known: Conventions, out: Path) -> None:
    """Write into `config.json` how far the model that the weights began with reads, where that is further than it was
    trained here: its positions have no table."""
    most, begun = known.max_position_embeddings or 0, shape.model.size not in SIZES
    if begun and positions_named(shape.model.positions).rotary and most > shape.model.sequence_length:
        settings = read_json(out / "config.json", "Export again")
        write_plain_json(out / "config.json", settings | {"max_position_embeddings": most})


def _network(model: ModelConfig) -> dict[str, Any]:
    """The model section, and what follows from it; without the size that gave its defaults, which may be a folder."""
    settings = config_json(model)
    del settings["size"]
    return settings | {"cross_attention_layers": list(model.cross_attention_layers)}


def write_generation(tokenizer: CopiedTokenizer | None, out: Path, *, cache: bool) -> None:
    """Write how to generate: greedy, until a token that ends an answer.

    Args:
        tokenizer: What is in the folder, or None.
        out: The folder.
        cache: Whether the architecture keeps keys and values between steps.
    """
    # Null says that there is none; where the key is missing, some architectures take that of their own tokenizer.
    ids: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if tokenizer is not None:
        ends = list(tokenizer.ends)
        ids = {
            "bos_token_id": tokenizer.conventions.ids.get("bos_token"),
            "eos_token_id": ends if len(ends) > 1 else ends[0],
            "pad_token_id": tokenizer.pad,
        }
    write_plain_json(out / "generation_config.json", ids | {"do_sample": False, "use_cache": cache})


_BY_VOCABULARY = ("embedding.word_embeddings.weight", "output_layer.weight")


def without_padding(shape: ModelShape, weights: Mapping[str, Tensor]) -> tuple[ModelShape, dict[str, Tensor]]:
    """Drop the rows of the vocabulary that only pad it.

    They have no token and were never trained towards one; a folder that kept them could generate them.
    """
    model = shape.model.model_copy(update={"vocabulary_multiple": 1})
    trimmed = {
        name: weight[: shape.vocabulary] if name in _BY_VOCABULARY else weight for name, weight in weights.items()
    }
    return shape.model_copy(update={"model": model}), trimmed


def in_precision(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights on the CPU, each in one piece; a weight that is so already is not copied."""
    return {name: weight.detach().to("cpu", dtype).contiguous() for name, weight in weights.items()}


def write_weights(weights: Mapping[str, Tensor], out: Path, limit: int = ONE_FILE) -> list[Path]:
    """Write `model.safetensors`, or several files of at most `limit` bytes and the index that names each weight's.

    Raises:
        ArtifactError: A file cannot be written.
    """
    return write_safetensors({name: weight.nbytes for name, weight in weights.items()}, weights.__getitem__, out, limit)


log = logging.getLogger(__name__)

PRECISIONS = ("float32", "bfloat16")


def export(
    path: Path,
    out: Path,
    *,
    decoder_only: bool = False,
    dtype: str | None = None,
    step: int | None = None,
    run_dir: Path | None = None,
    file_limit: int = ONE_FILE,
) -> Path:
    """Write a checkpoint as a folder for transformers. In one process, whatever the layout it was trained in.

    Args:
        path: A checkpoint, a directory of them, or a finished stage.
        out: The folder; must not exist, or be empty.
        decoder_only: Leave out encoder and cross-attention, and write a folder of a family of transformers.
        dtype: Precision of the weights; None takes the one it was trained in.
        step: Which checkpoint of several; None takes the newest.
        run_dir: The run that made it; None looks above the checkpoint.
        file_limit: Bytes of one file of weights.

    Returns:
        `out`.

    Raises:
        ConfigError: `out` is in use, the precision is unknown, or there are several processes.
        ArtifactError: There is no such checkpoint, a file of the run is damaged, or the disk is full.
    """
    require_folder(out)
    require_precision(dtype)
    _require_run(run_dir)
    info = checkpoint.read_info(checkpoint.find(of_stage(path), step))
    precision = dtype or info.precision
    run_dir = run_dir or find_run(info.path)
    if decoder_only:
        plain_family(info.shape.model)  # refuses what neither Llama nor GPT-2 computes, before weights are read
    require_known_positions(info.shape)
    with whole_folder(out) as folder:
        _write_model(info, precision, folder, decoder_only=decoder_only, file_limit=file_limit)
        _write_rest(gather(info, run_dir), run_dir, folder, decoder_only=decoder_only)
    log.info("export: %s in %s to %s", info.path, precision, out)
    return out


def _write_model(
    info: checkpoint.CheckpointInfo, precision: str, folder: Path, *, decoder_only: bool, file_limit: int
) -> None:
    model, _ = checkpoint.load_model(info.path)
    weights = in_precision(dict(model.named_parameters()), getattr(torch, precision))
    if decoder_only:
        write_decoder(info.shape, weights, folder, file_limit=file_limit)
        return
    shape, trimmed = without_padding(info.shape, weights)
    write_weights(trimmed, folder, file_limit)
    write_retro(shape, precision, folder)


def require_folder(out: Path) -> None:
    """Check that a folder can be written, by one process.

    Raises:
        ConfigError: It is in use, a link, or a stage's of a run; or there are several processes.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        link = "; this is a link" if out.is_symlink() else ""
        raise ConfigError("OUT", str(out), f"needs a folder that does not exist yet, or is empty{link}")
    home = find_run(out)
    if home is not None and out.resolve().relative_to(home).parts[0] in {one.directory for one in STAGE_ORDER}:
        raise ConfigError("OUT", str(out), "needs a folder outside the stages of a run, whose files are checked")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1:
        raise ConfigError("WORLD_SIZE", processes, "needs one process: start `retro export` without torchrun")


def require_precision(dtype: str | None) -> None:
    """Check the precision of exported weights; None takes that of the training.

    Raises:
        ConfigError: There is no such one.
    """
    if dtype is not None and dtype not in PRECISIONS:
        raise ConfigError("--dtype", dtype, f"needs {' or '.join(PRECISIONS)}")


def _require_run(run_dir: Path | None) -> None:
    if run_dir is not None and not (stage_dir(run_dir, "corpus") / MANIFEST).exists():
        raise ConfigError("--run", str(run_dir), "needs a run directory with a finished corpus")


@contextmanager
def whole_folder(out: Path, settings: str = "config.json") -> Iterator[Path]:
    """A folder beside `out` that takes its name when everything inside has been written; else it is removed.

    Args:
        out: The folder.
        settings: A file inside, as readable as the run's other files; so the rest becomes.
    """
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    except OSError as error:
        raise ConfigError("OUT", str(out), f"cannot be made ({error.strerror}); choose another folder") from None
    try:
        with failed_writes_are_artifact_errors(out):
            yield temporary
            _settle(temporary, settings)
            temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _settle(folder: Path, settings: str) -> None:
    """Readable by whoever can read the run's other files (safetensors writes for its owner alone), and on the disk."""
    mode = (folder / settings).stat().st_mode
    for file in folder.iterdir():
        file.chmod(mode)
        fsync(file)
    fsync(folder)


def _write_rest(facts: Facts, run_dir: Path | None, folder: Path, *, decoder_only: bool) -> None:
    """Tokenizer, how to generate, settings of the run, and the card."""
    tokenizer: CopiedTokenizer | None = None
    directory = facts.info.tokenizer
    if directory is None and run_dir is not None:
        directory = stage_dir(run_dir, "corpus") / "tokenizer"
    if directory is not None:
        tokenizer = copy_tokenizer(directory, facts.info.shape, folder)
    else:
        log.warning("export: no run was found above %s: the folder gets no tokenizer (see --run)", facts.info.path)
    write_generation(tokenizer, folder, cache=decoder_only)
    if tokenizer is not None and decoder_only:
        keep_positions(facts.info.shape, tokenizer.conventions, folder)
    settings = run_settings(facts)
    if settings:
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        (folder / SETTINGS).write_text(text, encoding="utf-8")
    architecture = read_json(folder / "config.json", "Export again")["architectures"][0]
    card = write_card(facts, tokenizer, decoder_only=decoder_only, architecture=architecture)
    (folder / CARD).write_text(card, encoding="utf-8")
