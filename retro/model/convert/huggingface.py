"""Weights from a HuggingFace folder of a supported family, read from its safetensors without transformers."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from retro.common.errors import DataError, TrainingError
from retro.model.config import ModelConfig, ModelShape
from retro.model.convert.hf_config import FolderConfig, read_folder_config
from retro.model.convert.hf_layouts import LAYOUTS, LM_HEAD, gather, rows_of
from retro.model.convert.safe_files import FETCH, SafeFiles
from retro.model.weight_names import decoder_sizes
from retro.tokenizers.tokenizer import HuggingFaceTokenizer, Kind, SentencePieceTokenizer, probe_tokenizer

# Constants that older versions of transformers saved beside the weights: causal masks and rotary frequencies.
_NO_WEIGHTS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
_BASES = ("model.", "transformer.")


class HuggingFaceSource:
    """The weights of a folder under our names."""

    def __init__(self, folder: Path) -> None:
        """Read the folder's config and the headers of its files; no weights yet.

        Raises:
            DataError: The architecture is not supported, a file is missing or damaged, or a tensor has no place here.
        """
        self.path = folder
        self.config: FolderConfig = read_folder_config(folder)
        self.model = ModelConfig(**self.config.settings, retrieval=False)
        self._files = SafeFiles(folder)
        self._layout = LAYOUTS[self.config.family](self.model, self.config.vocabulary, self.config.positions)
        self._stored = {piece.tensor: self._name(piece.tensor) for pieces in self._layout.values() for piece in pieces}
        self._require_its_tensors()

    def shape(self, like: ModelShape) -> ModelShape:
        """The folder's model as a shape to compare with `like`, whose vocabulary it has wherever that is possible.

        A tokenizer may have fewer tokens than the embedding has rows; then the folder's own tokenizer must say so.
        """
        fewer = {self.config.vocabulary} | _tokens(self.path)
        vocabulary = like.vocabulary if like.vocabulary in fewer else self.config.vocabulary
        return ModelShape(model=self.model, vocabulary=vocabulary, chunk_length=like.chunk_length)

    def require_range(self, tokens: int) -> None:
        """Check that the folder's model computes the same as ours on sequences of `tokens` tokens.

        Raises:
            TrainingError: It attends through a sliding window that is shorter.
        """
        window = self.config.sliding_window
        if window is not None and tokens > window:
            raise TrainingError(
                f"{self.path}: attends only {window} tokens back (sliding_window), which the attention here does not; "
                f"model.sequence_length is {tokens}. Set it to {window} or less"
            )

    def size(self, name: str) -> tuple[int, ...] | None:
        """The size of a whole weight; None where the folder has none of that name."""
        pieces = self._layout.get(name)
        if pieces is None:
            return None
        stored = self._files.sizes[self._stored[pieces[0].tensor]]
        return (rows_of(pieces), *(stored[:-1] if pieces[0].transposed else stored[1:]))

    def read(self, name: str, part: tuple[slice, ...]) -> Tensor:
        """A part of a weight."""
        return gather(self._layout[name], part, lambda tensor, own: self._files.read(self._stored[tensor], own))

    def _name(self, tensor: str) -> str:
        """The name of a tensor in this folder: the bare model is saved without its prefix."""
        for base in _BASES:
            bare = tensor.removeprefix(base)
            if tensor not in self._files.sizes and bare in self._files.sizes:
                return bare
        return tensor

    def _require_its_tensors(self) -> None:
        expected = self._sizes()
        for tensor, size in expected.items():
            found = self._files.sizes.get(tensor)
            if found is None:
                raise DataError(self.path, f"lacks the tensor {tensor}", FETCH)
            if found != size:
                raise DataError(self.path, f"{tensor} is {list(found)}, its config says {list(size)}", FETCH)
        tied = {LM_HEAD} if self.model.tied_embeddings else set()
        extra = sorted(self._files.sizes.keys() - expected.keys() - tied)
        extra = [name for name in extra if not name.endswith(_NO_WEIGHTS)]
        if extra:
            problem = f"has {len(extra)} tensors that a {self.config.family} has not, {extra[0]} the first"
            raise DataError(self.path, problem, "Give a folder of the plain architecture")

    def _sizes(self) -> dict[str, tuple[int, ...]]:
        """The size of every stored tensor, as the config has it."""
        sizes: dict[str, tuple[int, ...]] = {}
        like = ModelShape(model=self.model, vocabulary=self.config.vocabulary, chunk_length=1)
        whole = decoder_sizes(like)
        for name, pieces in self._layout.items():
            rest = whole[name][1:]
            for piece in pieces:
                stored = self._stored[piece.tensor]
                across = piece.transposed and bool(rest)
                rows = max(piece.stop, sizes.get(stored, (0,))[-1 if across else 0])
                sizes[stored] = (*rest, rows) if across else (rows, *rest)
        return sizes


def _tokens(folder: Path) -> set[int]:
    """Tokens that the folder's own tokenizer files have."""
    found = set()
    kinds: dict[str, Kind] = {"tokenizer.json": "huggingface", "tokenizer.model": "sentencepiece"}
    for name, kind in kinds.items():
        if (folder / name).exists():
            probe_tokenizer(folder / name, kind)
    if (folder / "tokenizer.json").exists():
        found.add(HuggingFaceTokenizer(folder / "tokenizer.json", eod=0).vocab_size)
    if (folder / "tokenizer.model").exists():
        found.add(SentencePieceTokenizer(folder / "tokenizer.model", eod=0).vocab_size)
    return found
