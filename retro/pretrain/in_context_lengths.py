"""How long the parts of a prompt are: passages, preceding text, and what is scored."""

from __future__ import annotations

from dataclasses import dataclass

from retro.common.errors import ConfigError
from retro.db.reader import ChunkDatabase
from retro.model.config import ModelShape
from retro.pretrain.config import Condition, InContextConfig


@dataclass(frozen=True)
class Lengths:
    """Tokens of a model's prompts."""

    stride: int
    query: int
    room: int
    """For all passages with their separators."""
    prefix: int
    """Preceding text beside passages."""
    begin: int = 0
    """What every prompt begins with."""

    def prompt(self, condition: Condition, multiple: int) -> int:
        """S of a condition's prompts, a multiple of what the ranks share a sequence in."""
        before = self.begin + self.prefix + (0 if condition == "none" else self.room)
        # The last token is asked for and never read.
        return -(-(before + self.stride - 1) // multiple) * multiple


def lengths_of(
    config: InContextConfig, shape: ModelShape, database: ChunkDatabase, separator: int, begin: int
) -> Lengths:
    """How long the parts of a model's prompts are.

    Args:
        config: What was asked for.
        shape: The model's.
        database: Fixes how long chunks and passages are.
        separator: Tokens of the separator.
        begin: Tokens that every prompt begins with.

    Raises:
        ConfigError: The parts do not fit, or cannot be had from where passages are to come from.
    """
    chunk, most, where = database.chunk_length, shape.model.sequence_length, "perplexity.in_context"
    stride, query = config.stride or chunk, config.query_length or chunk
    for name, value in (("stride", stride), ("query_length", query)):
        if config.search == "neighbors" and value != chunk:
            need = f"needs {chunk}, a chunk, for passages that `retro neighbors` found; or {where}.search=live"
            raise ConfigError(f"{where}.{name}", value, need)
    length = config.length or most
    if length > most:
        raise ConfigError(f"{where}.length", length, f"needs at most {most}, the model's sequence length")
    # The last token is asked for and never read.
    room = config.passages * (database.retrieved_length + separator)
    prefix = length + 1 - stride - room - begin
    if prefix < (config.prefix or 1):
        parts = f"{config.passages} x {database.retrieved_length + separator} tokens of passages, {stride} to score"
        need = f"needs more room: {parts}, and {config.prefix or 1} before them. Lower passages, stride or prefix"
        raise ConfigError(f"{where}.length", length, need)
    return Lengths(stride, query, room, config.prefix or prefix, begin)
