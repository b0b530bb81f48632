"""The frozen language model: which it is, what it speaks, and what it cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retro.common.errors import DataError
from retro.common.files import read_json
from retro.recipes.base import StepRun
from retro.tokenizers.tokenizer import Tokenizer
from retro.training.checkpoint import CheckpointInfo


def base_path(work: StepRun) -> Path:
    """Where the language model is: as the settings say, or the run's pretrained one."""
    from retro.run.pipeline import pretrained

    given = work.settings.train.base
    return pretrained(work.config) if given is None else Path(given)


def open_base(work: StepRun) -> CheckpointInfo:
    """What the language model says about itself.

    Raises:
        RetroError: There is none, or its weights are not what gradients could go through.
    """
    from retro.training import checkpoint
    from retro.training.result import of_stage

    path = base_path(work)
    require_whole_numbers(path)
    return checkpoint.read_info(checkpoint.find(of_stage(path)))


def require_whole_numbers(path: Path) -> None:
    """Check that a HuggingFace folder does not say that its weights are quantised.

    A .gguf file is another matter: its weights are expanded once, and the model that is read, trained through and
    answered with is that of the expanded ones, so gradients are those of what is computed.

    Raises:
        DataError: It does.
    """
    config = path / "config.json"
    if not config.is_file():
        return
    found = read_json(config, "Give a complete model folder", dict[str, Any], error=DataError)
    if found.get("quantization_config"):
        problem = (
            "is a quantised model (quantization_config): its products are rounded in ways that gradients do not see"
        )
        raise DataError(path, problem, "Give the folder of the model in bfloat16, float16 or float32")


def base_identity(work: StepRun) -> Mapping[str, Any]:
    """What the step `train` is made with, beside its settings."""
    from retro.training import checkpoint

    return {"base": checkpoint.identity(open_base(work).path)}


def tokenizer_of(work: StepRun, info: CheckpointInfo) -> tuple[Tokenizer, Path]:
    """The tokenizer that the language model speaks, and its directory.

    Raises:
        DataError: It came without one.
    """
    from retro.corpus.reader import Corpus
    from retro.training.model_tokenizer import model_tokenizer

    if info.tokenizer is None and work.settings.train.base is not None:
        raise DataError(info.path, "comes without a tokenizer", "Put its tokenizer.json or tokenizer.model there")
    corpus = Corpus.open(work.made_by("corpus")) if info.tokenizer is None else None
    return model_tokenizer(info, corpus)
