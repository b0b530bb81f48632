"""The tokenizer that a model speaks: its checkpoint's own, or that of the corpus which it was trained on."""

from __future__ import annotations

from pathlib import Path

from retro.common.artifacts import is_complete
from retro.common.errors import TrainingError
from retro.corpus.reader import Corpus
from retro.tokenizers.tokenizer import Tokenizer, load_tokenizer
from retro.training.checkpoint import CheckpointInfo


def open_corpus(directory: Path, info: CheckpointInfo, *, searches: bool) -> Corpus | None:
    """The corpus of a run; None where there is none, and nothing of it is needed.

    Args:
        directory: The corpus stage's.
        info: The model; one with its own tokenizer answers without a corpus.
        searches: Whether its documents are searched.

    Raises:
        ArtifactError: It is missing or damaged.
    """
    if not searches and info.tokenizer is not None and not is_complete(directory):
        return None
    return Corpus.open(directory)


def model_tokenizer(info: CheckpointInfo, corpus: Corpus | None) -> tuple[Tokenizer, Path]:
    """The tokenizer that a model speaks, and the directory that it is in.

    Documents reach a model as text, so its tokenizer need not be that of the corpus. A checkpoint that came without a
    tokenizer is taken to speak the corpus's.

    Raises:
        TrainingError: It came without, and was trained with another one than the corpus's.
        ArtifactError: The tokenizer is damaged.
    """
    if info.tokenizer is not None:
        return load_tokenizer(info.tokenizer), info.tokenizer
    if corpus is None:
        raise ValueError("a checkpoint without a tokenizer needs a corpus")
    require_tokenizer(info, corpus)
    return corpus.tokenizer, corpus.directory / "tokenizer"


def require_tokenizer(info: CheckpointInfo, corpus: Corpus) -> None:
    """Check that a checkpoint speaks the tokens of a corpus.

    Raises:
        TrainingError: It was trained with another tokenizer.
    """
    theirs, ours = info.shape.tokenizer, corpus.tokenizer.fingerprint
    if (theirs and theirs != ours) or info.shape.vocabulary < corpus.tokenizer.vocab_size:
        raise TrainingError(
            f"{info.path}: was trained with tokenizer {theirs or '(not known)'} of {info.shape.vocabulary} tokens, "
            f"{corpus.directory} has tokenizer {ours} of {corpus.tokenizer.vocab_size}. Use the run it was trained in"
        )
