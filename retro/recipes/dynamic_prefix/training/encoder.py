"""The knowledge encoder: documents to the states of which a frozen model's layers make keys and values.

`encoder/` of the step `train` has all that says what the encoder is: `config.json` of transformers, the tokenizer's
files, and `knowledge.json`. Its weights are in the checkpoints, beside those of the prefix.
"""

# Dims in this file.
#   B questions   K documents of a question   n tokens of a document, or states of it   E width of a state
#   P documents that are encoded together   m learned queries, s static vectors

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from retro.common.errors import DataError, short_reason
from retro.common.optional import import_optional
from retro.recipes.dynamic_prefix.config import PrefixConfig
from retro.recipes.dynamic_prefix.training.encoder_files import (
    INITIAL,
    EncoderTokenizer,
    open_tokenizer,
    trained_layers,
)

KNOWLEDGE = "knowledge"
"""The name of the module in `training.train(modules=…)`; in the model it is `added_knowledge`."""


class KnowledgeEncoder(nn.Module):
    """Documents to states.

    Attributes:
        width: E.
        tokenizer: What cuts documents into tokens.
    """

    def __init__(self, model: nn.Module, tokenizer: EncoderTokenizer, config: PrefixConfig) -> None:
        """Put the parts together; use `open_encoder`.

        Args:
            model: An encoder of transformers.
            tokenizer: Its tokenizer.
            config: How documents are compressed, and what stands beside them.
        """
        super().__init__()
        settings: Any = model.config
        self.width = int(settings.hidden_size)
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.compressor: Compressor | None = None
        if config.compress is not None:
            self.compressor = Compressor(self.width, int(settings.num_attention_heads), config.compress)
        self.static_sE: nn.Parameter | None = None
        if config.static:
            self.static_sE = nn.Parameter(torch.randn(config.static, self.width))

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of documents, cut to `max_document_tokens`."""
        return self.tokenizer.encode(texts)[0]

    def forward(self, document_ids_BKn: Tensor, real_BKn: Tensor) -> tuple[Tensor, Tensor]:
        """The prefix of each question.

        Args:
            document_ids_BKn: [B, K, n] tokens of its documents; K may be 0.
            real_BKn: True where there is one; all False for a document that is missing.

        Returns:
            [s + K n, B, E] states, the static ones first, or with learned queries [s + K m, B, E]; and [B, s + K n]
            which of them are real.
        """
        questions, documents = document_ids_BKn.shape[:2]
        states_PnE, real_Pn = self.documents(document_ids_BKn.flatten(0, 1), real_BKn.flatten(0, 1))
        per_question = documents * states_PnE.size(1)
        states_nBE = states_PnE.reshape(questions, per_question, self.width).transpose(0, 1)
        return self.with_static(states_nBE, real_Pn.reshape(questions, per_question))

    def documents(self, ids_Pn: Tensor, real_Pn: Tensor) -> tuple[Tensor, Tensor]:
        """Each document alone: what is stored of it.

        Args:
            ids_Pn: [P, n] tokens.
            real_Pn: True where there is one.

        Returns:
            [P, n, E] states, or [P, m, E] of learned queries, zero where there is nothing; and which are real.
        """
        length = self.config.compress or ids_Pn.size(1)
        weight = next(self.parameters())
        there_P = real_Pn.any(dim=1)
        states_PnE = weight.new_zeros(len(ids_Pn), length, self.width)
        kept_Pn = there_P[:, None].expand(-1, length) if self.compressor is not None else real_Pn
        if there_P.any():
            states_PnE = states_PnE.index_put(
                (there_P.nonzero()[:, 0],), self._encode(ids_Pn[there_P], real_Pn[there_P])
            )
        return states_PnE * kept_Pn[..., None].to(states_PnE.dtype), kept_Pn

    def with_static(self, states_nBE: Tensor, real_Bn: Tensor) -> tuple[Tensor, Tensor]:
        """States of documents with the static ones before them."""
        if self.static_sE is None:
            return states_nBE, real_Bn
        static_sBE = self.static_sE[:, None].expand(-1, states_nBE.size(1), -1)
        always_Bs = real_Bn.new_ones(len(real_Bn), len(self.static_sE))
        return torch.cat((static_sBE, states_nBE)), torch.cat((always_Bs, real_Bn), dim=1)

    def _encode(self, ids_Pn: Tensor, real_Pn: Tensor) -> Tensor:
        model: Callable[..., Any] = self.model
        states_PnE = model(input_ids=ids_Pn, attention_mask=real_Pn.long()).last_hidden_state
        found: Tensor = states_PnE if self.compressor is None else self.compressor(states_PnE, real_Pn)
        return found


class Compressor(nn.Module):
    """Learned queries that read a document's token states: a fixed number of vectors for any length."""

    def __init__(self, width: int, heads: int, queries: int) -> None:
        super().__init__()
        self.queries_mE = nn.Parameter(torch.randn(queries, width))
        self.layer = nn.TransformerDecoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True)

    def forward(self, states_PnE: Tensor, real_Pn: Tensor) -> Tensor:
        """[P, m, E]; every document has a token."""
        queries_PmE = self.queries_mE.expand(len(states_PnE), -1, -1)
        found: Tensor = self.layer(queries_PmE, states_PnE, memory_key_padding_mask=~real_Pn)
        return found


def freeze_layers(encoder: KnowledgeEncoder, trained: str | int) -> None:
    """Take the gradients from the layers that are not trained.

    Args:
        encoder: The knowledge encoder.
        trained: "all", "none", or how many of the last layers.

    Raises:
        ConfigError: As `trained_layers`.
    """
    if trained == "all":
        return
    encoder.model.requires_grad_(False)
    for layer in trained_layers(encoder.model, trained):
        layer.requires_grad_(True)


def open_encoder(directory: Path, config: PrefixConfig, *, initial: bool) -> KnowledgeEncoder:
    """The encoder whose files are in a folder, in fp32; what is not read from there is drawn by torch's generator.

    Args:
        directory: As `encoder_files` made it.
        config: The settings it was made under.
        initial: Take the weights that training starts from; else those of a checkpoint will follow.

    Raises:
        DataError: A file is missing or damaged.
        DependencyError: transformers is missing.
        ConfigError: A setting is not for this encoder.
    """
    transformers = import_optional("transformers", extra="embed", use="is the knowledge encoder")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tokenizer = open_tokenizer(directory, config)
    settings = transformers.AutoConfig.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    model = transformers.AutoModel.from_config(settings)
    if hasattr(model, "pooler"):
        # It makes one vector of a text, which nobody asks for here.
        model.pooler = None
    model.float()
    if initial and (directory / INITIAL).exists():
        try:
            model.load_state_dict(load_file(str(directory / INITIAL)))
        except (RuntimeError, OSError, SafetensorError) as error:
            problem = f"is not the encoder's weights ({short_reason(error)})"
            raise DataError(directory / INITIAL, problem, "Run the step `train` again with --redo") from None
    encoder = KnowledgeEncoder(model, tokenizer, config)
    freeze_layers(encoder, config.encoder.trained)
    return encoder
