"""The part of an exported folder's `modeling_retro.py` that speaks to transformers.

`retro.interop.export_files` joins this file with the reference and the canonical weight names into one file that needs
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
from transformers.utils import logging

from retro.model.reference import ReferenceRetro
from retro.model.weight_names import weight_sizes

logger = logging.get_logger(__name__)


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
        # Modules of the kinds that transformers resizes, under the same names.
        rows, width = config.vocab_size, config.model.hidden_size
        self.set_input_embeddings(nn.Embedding(rows, width))
        if "output_layer" in self._modules:
            self.set_output_embeddings(nn.Linear(width, rows, bias=False))
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        neighbors: Tensor | None = None,
        neighbor_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        logits_to_keep: int = 0,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        padding_checked: bool = False,
    ) -> CausalLMOutput | tuple[Any, ...]:
        """Logits, and the mean loss when labels are given.

        Args:
            input_ids: [B, S] token ids; None with `inputs_embeds`.
            neighbors: [B, L, K, R] token ids of each chunk's neighbors, or [B, K, R] for the same ones at every
                chunk. Chunks after the last that is given, as in generation, have none.
            neighbor_mask: True where a neighbor token is real; a missing neighbor is all False. Of the same shape.
            attention_mask: [B, S] 0 for padding, which is never attended. Chunks are counted from the start of the
                padded row.
            labels: [B, S] token ids, `input_ids` as a rule; -100 is left out. They are shifted here.
            inputs_embeds: [B, S, H] in place of the embedded `input_ids`.
            position_ids: [B, S] or [1, S] positions; None counts the tokens that are not padding. They move no chunk.
            logits_to_keep: Only the last so many positions; 0 gives all.
            output_hidden_states: Give the embedding, what each layer gives, and, in place of the last layer's, the
                output of the final norm; None does as the config says.
            return_dict: False gives a tuple.
            padding_checked: Say nothing of padding that moves chunks: `generate` has looked at its prompts.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("needs input_ids or inputs_embeds, and not both")
        given: Any = input_ids if inputs_embeds is None else inputs_embeds
        size = given.shape[:2]
        tokens_BS = torch.zeros(size, dtype=torch.long, device=given.device) if input_ids is None else input_ids
        real_BS = torch.ones_like(tokens_BS) if attention_mask is None else attention_mask
        if real_BS.shape != size:
            raise ValueError(f"attention_mask has shape {tuple(real_BS.shape)}, needed {tuple(size)}")
        if neighbors is not None and not padding_checked and self._moves_chunks(real_BS):
            logger.warning_once(self._moved_chunks(size[1]))
        neighbors, neighbor_mask = self._for_each_chunk(neighbors, neighbor_mask, real_BS.bool())
        reference = ReferenceRetro(self.config, dict(self.named_parameters()))
        positions_BS = None if position_ids is None else position_ids.expand(size)
        states: list[list[Tensor]] = []
        hidden_BSH = reference.hidden(
            tokens_BS,
            neighbors,
            neighbor_mask,
            real_BS.bool(),
            embedded_BSH=inputs_embeds,
            positions_BS=positions_BS,
            states=states,
        )
        kept_BSH = hidden_BSH[:, -logits_to_keep:] if labels is None else hidden_BSH
        logits, loss = reference.logits(kept_BSH), None
        if labels is not None:
            predicted, wanted = logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
            loss = functional.cross_entropy(predicted, wanted, ignore_index=-100)
        wants = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        of_layers = tuple(map(torch.stack, zip(*states, strict=True))) if wants else None
        output = CausalLMOutput(loss=loss, logits=logits, hidden_states=of_layers)
        return output.to_tuple() if return_dict is False else output

    def _moves_chunks(self, real_BS: Tensor) -> bool:
        """Whether some row has padding on its left, and the rows end within a chunk."""
        return bool(real_BS.size(1) % self.config.chunk_length and not real_BS[:, 0].all())

    def _moved_chunks(self, width: int) -> str:
        length = self.config.chunk_length
        return (
            f"rows are padded on the left to {width} tokens, no multiple of the chunk length {length}: chunks are "
            "counted from the start of the padded row, so a row's tokens read its neighbors elsewhere than they do "
            f"alone; give the tokenizer pad_to_multiple_of={length}, or pad on the right where nothing is generated"
        )

    def generate(self, inputs: Tensor | None = None, *others: Any, **settings: Any) -> Any:
        """As in transformers; with neighbors, prompts that are padded on the left have to end where a chunk ends.

        Raises:
            ValueError: They do not.
        """
        real_BS = settings.get("attention_mask")
        if settings.get("neighbors") is not None and real_BS is not None and self._moves_chunks(real_BS):
            raise ValueError(self._moved_chunks(real_BS.size(1)))
        return super().generate(inputs, *others, **settings)

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
        inputs_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        logits_to_keep: int = 0,
        output_hidden_states: bool | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Everything that `forward` takes, the whole sequence at every step: there is no cache to cut it for."""
        sized = position_ids if attention_mask is None else attention_mask
        if position_ids is not None and sized is not None and position_ids.size(1) < sized.size(1):
            # Older versions of transformers leave those of the prompt as they are.
            further = torch.arange(1, sized.size(1) - position_ids.size(1) + 1, device=position_ids.device)
            position_ids = torch.cat((position_ids, position_ids[:, -1:] + further), dim=1)
        if inputs_embeds is not None:
            # Of the ids, only those that were generated are not embedded yet. The prompt's may be among them or not.
            new = input_ids.size(1) if sized is None else sized.size(1) - inputs_embeds.size(1)
            new_BS = input_ids[:, input_ids.size(1) - new :]
            inputs_embeds = torch.cat((inputs_embeds, self.get_input_embeddings()(new_BS)), dim=1)
        return {
            "input_ids": input_ids if inputs_embeds is None else None,
            "inputs_embeds": inputs_embeds,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "neighbors": neighbors,
            "neighbor_mask": neighbor_mask,
            "logits_to_keep": logits_to_keep,
            "output_hidden_states": output_hidden_states,
            "padding_checked": True,
        }

    def get_input_embeddings(self) -> nn.Module:
        """What holds the input embedding."""
        found: nn.Module = self.get_submodule("embedding.word_embeddings")
        return found

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another in its place."""
        self.get_submodule("embedding").word_embeddings = value

    def get_output_embeddings(self) -> nn.Module | None:
        """What holds the output layer; None in a tied model: the reference reads its one weight twice."""
        return self._modules.get("output_layer")

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another in its place."""
        self.output_layer = new_embeddings

    def _init_weights(self, module: nn.Module) -> None:
        for name, weight in module.named_parameters(recurse=False):
            if weight.dim() > 1:
                nn.init.normal_(weight, std=self.config.model.init_std)
            else:
                is_norm = name == "weight"
                nn.init.constant_(weight, float(is_norm and not self.config.model.zero_centered_norm))
