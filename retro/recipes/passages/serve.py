"""Serve a table of passages over HTTP, in Search-R1's protocol: `POST /retrieve`."""

from __future__ import annotations

from retro.recipes.passages.config import PassagesConfig
from retro.serve.config import ServeConfig


def serve_passages(config: PassagesConfig, settings: ServeConfig) -> None:
    """Serve until SIGTERM or SIGINT; return when everything that was accepted is answered.

    Args:
        config: The passages.
        settings: Address, key, limits; those that are about a model are of no effect.

    Raises:
        ConfigError: The address cannot be listened on, or needs a key.
        DependencyError: A package of the server or of the embedder is missing.
        RetroError: As `PassageRetriever.open`.
    """
    from retro.serve.run import listen, require_packages, serve, with_key

    require_packages()
    settings = with_key(settings)
    # The address before the index: a port that is taken should not cost the time to load.
    listener = listen(settings)
    try:
        from retro.recipes.passages.search import PassageRetriever
        from retro.serve.retrieval import retrieval_service

        source = PassageRetriever.open(config)
        serve(retrieval_service(settings, source.search, config.passages_file.name), listener)
    finally:
        listener.close()
