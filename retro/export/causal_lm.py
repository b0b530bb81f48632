"""The part of an exported folder's `modeling_retro.py` that speaks to transformers.

`retro.export.modeling` joins this file with the reference and the canonical weight names into one file that needs
torch and transformers alone. The package itself never imports it.
"""

# Dims in this file.
#   B sequences   S tokens   L whole chunks, S // M   M tokens in a chunk   K neighbors   R tokens of a neighbor

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from retro.model.reference import ReferenceRetro
from retro.model.weight_names import weight_sizes


class RetroConfig(PretrainedConfig):
    """The settings of `config.json`, with the attributes that the reference reads."""

    model_type = "instruct_retro"

    def __init__(
        self,
        network: dict[str, Any] | None = None,
        vocab_size: int = 0,
        chunk_length: int = 64,
        retrieved_length: int = 128,
        **others: Any,
    ) -> None:
        """Keep the settings.

        Args:
            network: The model section of the toolkit, and what follows from it. A section of its own, because some of
                its names mean something else to transformers.
            vocab_size: Rows of the embedding: the tokenizer's tokens, no padding.
            chunk_length: Tokens in a chunk, M.
            retrieved_length: Tokens of a neighbor, R.
            others: What every configuration of transformers has.
        """
        super().__init__(**others)
        self.network = network or {}
        self.vocab_size = vocab_size
        self.chunk_length = chunk_length
        self.retrieved_length = retrieved_length

    @property
    def model(self) -> SimpleNamespace:
        """The network's settings as attributes."""
        return SimpleNamespace(**self.network)

    @property
    def padded_vocabulary(self) -> int:
        """Rows of the embedding."""
        return self.vocab_size


class WeightTree(nn.Module):
    """Holds weights under dotted names; computes nothing."""

    def insert(self, path: list[str], weight: nn.Parameter) -> None:
        """Put a weight at the end of `path`."""
        if len(path) == 1:
            self.register_parameter(path[0], weight)
            return
        if path[0] not in self._modules:
            self.add_module(path[0], WeightTree())
        child: Any = self._modules[path[0]]
        child.insert(path[1:], weight)


class RetroForCausalLM(PreTrainedModel, GenerationMixin):
    """Retro as a causal language model: the reference, on weights that transformers loads and saves.

    It keeps nothing between the steps of a generation, and loops over sequences, chunks and neighbors.
    """

    config_class = RetroConfig
    base_model_prefix = ""

    def __init__(self, config: RetroConfig) -> None:
        super().__init__(config)
        for name, size in weight_sizes(config).items():
            first, *rest = name.split(".")
            if first not in self._modules:
                self.add_module(first, WeightTree())
            branch: Any = self._modules[first]
            branch.insert(rest, nn.Parameter(torch.empty(size)))
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        neighbors: Tensor | None = None,
        neighbor_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        return_dict: bool | None = None,
    ) -> CausalLMOutput | tuple[Tensor, ...]:
        """Logits, and the mean loss when labels are given.

        Args:
            input_ids: [B, S] token ids.
            neighbors: [B, L, K, R] token ids of each chunk's neighbors, or [B, K, R] for the same ones at every
                chunk. Chunks after the last that is given, as in generation, have none.
            neighbor_mask: True where a neighbor token is real; a missing neighbor is all False. Of the same shape.
            attention_mask: [B, S] 0 for left padding, which is never attended.
            labels: [B, S] token ids, `input_ids` as a rule; -100 is left out. They are shifted here.
            logits_to_keep: Only the last so many positions; 0 gives all.
            return_dict: False gives a tuple.
        """
        real_BS = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        neighbors, neighbor_mask = self._for_each_chunk(neighbors, neighbor_mask, real_BS.bool())
        reference = ReferenceRetro(self.config, dict(self.named_parameters()))
        hidden_BSH = reference.hidden(input_ids, neighbors, neighbor_mask, real_BS.bool())
        kept_BSH = hidden_BSH[:, -logits_to_keep:] if labels is None else hidden_BSH
        logits, loss = reference.logits(kept_BSH), None
        if labels is not None:
            predicted, wanted = logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
            loss = functional.cross_entropy(predicted, wanted, ignore_index=-100)
        output = CausalLMOutput(loss=loss, logits=logits)
        return output.to_tuple() if return_dict is False else output

    def _for_each_chunk(
        self, neighbors: Tensor | None, mask: Tensor | None, real_BS: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """Neighbors and mask as [B, L, K, R]."""
        if neighbors is None:
            return None, None
        if not self.config.model.cross_attention_layers:
            raise ValueError("this model has no cross-attention: it reads no neighbors")
        if mask is None or mask.shape != neighbors.shape:
            raise ValueError("neighbors need a neighbor_mask of their own shape")
        length = self.config.chunk_length
        chunks = real_BS.size(1) // length
        mask = mask.bool()
        if neighbors.dim() == 3:
            # A chunk of nothing but padding asks for nothing.
            asking_BL = real_BS[:, : chunks * length].unflatten(1, (chunks, length)).any(-1)
            neighbors = neighbors[:, None].expand(-1, chunks, -1, -1)
            mask = mask[:, None] & asking_BL[:, :, None, None]
        missing = chunks - neighbors.size(1)
        right = (real_BS.size(0), self.config.retrieved_length)
        if missing < 0 or (neighbors.size(0), neighbors.size(3)) != right:
            needed = (right[0], f"at most {chunks}", "K", right[1])
            raise ValueError(f"neighbors have shape {tuple(neighbors.shape)}, needed {needed}")
        if missing:
            neighbors, mask = (functional.pad(x, (0, 0, 0, 0, 0, missing)) for x in (neighbors, mask))
        return neighbors, mask

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        neighbors: Tensor | None = None,
        neighbor_mask: Tensor | None = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> dict[str, Any]:
        """Everything that `forward` takes, the whole sequence at every step: there is no cache to cut it for."""
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "neighbors": neighbors,
            "neighbor_mask": neighbor_mask,
            "logits_to_keep": logits_to_keep,
        }

    def get_input_embeddings(self) -> nn.Module:
        """What holds the input embedding."""
        found: nn.Module = self.get_submodule("embedding.word_embeddings")
        return found

    def get_output_embeddings(self) -> None:
        """None: a tied model has one weight for both, which the reference reads twice."""

    def _init_weights(self, module: nn.Module) -> None:
        for name, weight in module.named_parameters(recurse=False):
            if weight.dim() > 1:
                nn.init.normal_(weight, std=self.config.model.init_std)
            else:
                is_norm = name == "weight"
                nn.init.constant_(weight, float(is_norm and not self.config.model.zero_centered_norm))
