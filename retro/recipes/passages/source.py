"""What finds passages for a recipe: passages with embeddings of their own, or the run's database."""

from __future__ import annotations

from retro.recipes.base import StepRun
from retro.recipes.passages.config import PassagesConfig
from retro.recipes.passages.search import DatabaseRetriever, PassageRetriever, PassageSearch
from retro.run.pipeline import database_dirs


def search_of(work: StepRun, config: PassagesConfig) -> PassageSearch:
    """The passages of a recipe's settings; without a file of them the run's database, which the step needs then.

    Raises:
        RetroError: They cannot be opened.
    """
    if config.passages is not None:
        return PassageRetriever.open(config)
    return DatabaseRetriever(work.made_by("corpus"), *database_dirs(work.config, answers=True), work.config.search)
