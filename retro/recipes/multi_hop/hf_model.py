"""A model opened by transformers, behind the protocol: its folder alone, in safetensors, and none of its code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from retro.common.artifacts import fingerprint
from retro.common.errors import DataError, short_reason
from retro.common.files import sha256_file
from retro.common.optional import import_optional
from retro.common.precision import Precision, is_bfloat16
from retro.common.pretrained import device
from retro.recipes.multi_hop.codec import Codec, codec_of_folder
from retro.recipes.multi_hop.models import reply_to_all
from retro.recipes.multi_hop.protocol import Ask, Reply
from retro.tokenizers.conventions import Conventions
from retro.tokenizers.tokenizer import conventions_of

_Prepared = tuple[list[int], Ask]


class TransformersModel:
    """Answers greedily, or with a temperature, some prompts at a time."""

    def __init__(
        self, folder: Path, *, sequence_length: int | None, temperature: float, seed: int, precision: Precision
    ) -> None:
        """Open a folder.

        Args:
            folder: In HuggingFace's form.
            sequence_length: Most tokens of prompt and reply; None: as the folder says.
            temperature: Divides the logits; 0 takes the likeliest token.
            seed: Of the draw.
            precision: Of weights and computation, once it was chosen.

        Raises:
            DataError: The folder has no model or tokenizer that can be opened.
            DependencyError: transformers is not installed.
        """
        self._library = import_optional("transformers", extra="train", use="opens a folder for answering")
        self._codec: Codec = codec_of_folder(folder)
        self._model = self._opened(folder, precision)
        known: Conventions = conventions_of(self._codec.tokenizer)
        self._length = sequence_length or known.max_position_embeddings or 0
        self._ends = tuple(dict.fromkeys((self._codec.tokenizer.eod, *known.ends)))
        self._temperature, self._seed = temperature, seed
        weights = {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}
        shaping = {"weights": fingerprint(weights), "precision": precision}
        self.identity: Mapping[str, Any] = {"kind": "transformers", **shaping}

    def _opened(self, folder: Path, precision: Precision) -> Any:
        import torch

        dtype = torch.bfloat16 if is_bfloat16(precision) else torch.float32
        try:
            model = self._library.AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, local_files_only=True
            )
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                folder, f"cannot be opened by transformers ({short_reason(error)})", "Give a folder with safetensors"
            ) from None
        return model.eval().to(device())

    def generate(self, asks: Sequence[Ask]) -> list[Reply]:
        """See `LanguageModel`."""
        return reply_to_all(asks, self._prepare, self._answer)

    def _prepare(self, ask: Ask) -> _Prepared | Reply:
        prompt = self._codec.prompt(ask)
        excess = len(prompt) + ask.max_new_tokens - self._length
        return Reply(excess=excess) if self._length and excess > 0 else (prompt, ask)

    def _answer(self, prepared: list[_Prepared]) -> list[Reply]:
        """Replies; prompts with the same limits share a batch."""
        found: list[Reply] = []
        for _, group in groupby(prepared, key=lambda one: (one[1].max_new_tokens, one[1].stop_tokens)):
            found += self._answer_alike(list(group))
        return found

    def _answer_alike(self, prepared: Sequence[_Prepared]) -> list[Reply]:
        import torch

        ask = prepared[0][1]
        longest = max(len(prompt) for prompt, _ in prepared)
        pad = self._ends[0]
        ids_BS = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt, _ in prepared])
        mask_BS = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt, _ in prepared])
        stops = self._codec.stops(ask)
        how: dict[str, Any] = {"do_sample": False}
        if self._temperature > 0:
            how = {"do_sample": True, "temperature": self._temperature, "top_k": 0}
            torch.manual_seed(self._seed)
        where = self._model.device
        with torch.inference_mode():
            out_BT = self._model.generate(
                ids_BS.to(where), attention_mask=mask_BS.to(where), max_new_tokens=ask.max_new_tokens,
                eos_token_id=[*self._ends, *stops], pad_token_id=pad, **how,
            )  # fmt: skip
        return [self._reply(row, stops) for row in out_BT[:, longest:].tolist()]

    def _reply(self, row: Sequence[int], stops: Sequence[int]) -> Reply:
        """What one row says, up to its first end."""
        for place, id_ in enumerate(row):
            if id_ in stops:
                return Reply(segments=self._codec.segments(row[: place + 1]))
            if id_ in self._ends:
                return Reply(segments=self._codec.segments(row[:place]))
        return Reply(segments=self._codec.segments(row), cut=True)
