"""The stages of a run in order, each with its folder: stated once, for whoever runs, shows or exports a run."""

from __future__ import annotations

from typing import NamedTuple


class StageName(NamedTuple):
    """One stage, by name."""

    name: str
    directory: str
    """Below the run directory."""
    summary: str
    """What it does, for the command's help."""
    work: str
    """The same in a few words, for pages."""


STAGE_ORDER: tuple[StageName, ...] = (
    StageName("corpus", "1_corpus", "Text to token files; decides the split.", "text to tokens"),
    StageName("db", "2_db", "Token files to the chunk database.", "tokens to chunks"),
    StageName("index", "3_index", "Chunks to embeddings and a Faiss index.", "chunks to a search index"),
    StageName("neighbors", "4_neighbors", "Neighbors of every training chunk.", "chunks to their neighbors"),
    StageName("pretrain", "5_pretrain", "Pretrain Retro (or a GPT) and its baselines.", "Retro and GPT from scratch"),
    StageName(
        "perplexity",
        "5_pretrain/perplexity",
        "Perplexity with real, shuffled and no neighbors.",
        "models against held-out text",
    ),
    StageName("sft", "6_sft", "Tune on instructions, the encoder reading passages.", "tuned on questions"),
    StageName("generate", "7_generate", "Answer questions, with and without passages.", "questions to answers"),
    StageName("evaluate", "8_evaluate", "Score the answers and write the report.", "answers to scores"),
)
