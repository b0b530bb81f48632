"""From the options of `retro plan db` to a plan."""

from __future__ import annotations

from retro.common.errors import ConfigError
from retro.index.config import NPROBE, IndexConfig
from retro.index.index_choice import choose_index
from retro.planner import published_database as published
from retro.planner.database import DOCUMENT_TOKENS, DatabasePlan, default_sample, rows_of
from retro.planner.embedder_shapes import find_embedder
from retro.planner.faiss_bytes import index_bytes
from retro.planner.faiss_string import parse
from retro.planner.gpus import find_gpu
from retro.planner.measure_database import measure
from retro.planner.plan import require_utilisation
from retro.planner.show_database import Question


def ask(
    *,
    tokens: float,
    chunk_length: int = published.CHUNK_LENGTH,
    index: str | None = None,
    embedder: str = "bert-large",
    sample: float | None = None,
    query_tokens: float | None = None,
    saved: int = published.SAVED,
    nprobe: int | None = None,
    document_tokens: float = DOCUMENT_TOKENS,
    vocabulary: int = 50_257,
    gpu: str = "a100-80g",
    utilisation: float | None = None,
    measured: bool = False,
) -> Question:
    """Plan a database.

    Args:
        tokens: Of its text.
        chunk_length: Tokens of a chunk.
        index: A Faiss string; None takes what the index stage would take.
        embedder: A name of the table of shapes.
        sample: Vectors that train the index; None takes as many as Faiss wants.
        query_tokens: Of the text whose chunks' neighbors are searched; None: the database's own.
        saved: Neighbors stored for each.
        nprobe: Lists searched; None takes the index stage's default.
        document_tokens: Mean tokens of a document.
        vocabulary: Tokens of the tokenizer.
        gpu: A name of the GPU table.
        utilisation: Share of its peak that it reaches; None: the share of the published embedding.
        measured: Measure this machine too.

    Raises:
        ConfigError: A value that cannot be.
    """
    if chunk_length < 1 or not document_tokens > 0:
        raise ConfigError(
            "--chunk", chunk_length, f"needs a positive number, as does --document-tokens {document_tokens}"
        )
    share = published.embedding_utilisation() if utilisation is None else utilisation
    require_utilisation(share)
    shape, rows = find_embedder(embedder), rows_of(tokens, chunk_length, document_tokens)
    if rows < 1:
        raise ConfigError("--tokens", tokens, f"needs text enough for a chunk of {chunk_length} tokens")
    parsed = parse(chosen_index(rows, shape.width) if index is None else index)
    index_bytes(parsed, shape.width, 1)  # refuses here what no vectors of that width can have
    plan = DatabasePlan(
        tokens=tokens, chunk_length=chunk_length, index=parsed, embedder=shape, document_tokens=document_tokens,
        vocabulary=vocabulary, queries=(query_tokens or tokens) / chunk_length, saved=saved,
        sample=default_sample(parsed, rows) if sample is None else sample,
        nprobe=NPROBE if nprobe is None else nprobe,
    )  # fmt: skip
    rates = measure(plan) if measured else None
    return Question(plan=plan, chosen=index is None, gpu=find_gpu(gpu), utilisation=share, rates=rates)


def chosen_index(rows: int, dimension: int) -> str:
    """The string that the index stage's policy takes for so many chunks."""
    return choose_index(rows, min(rows, IndexConfig().train_sample), dimension)
