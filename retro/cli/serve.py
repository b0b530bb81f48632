"""`retro serve`: the tuned model of a run behind HTTP, until a signal says stop."""

from __future__ import annotations

from retro.run.config import RunConfig


def serve_run(config: RunConfig) -> None:
    """Open a run's model, and answer until SIGTERM or SIGINT.

    Raises:
        DependencyError: The extra `serve` is not installed.
        ConfigError: The address is taken, or open to others without a key.
        ArtifactError: A stage that is needed did not finish, or is damaged.
    """
    from retro.serve.run import listen, require_packages, serve, with_key

    require_packages()
    # The address before the model: a port that is taken should not cost the time to load.
    settings = with_key(config.serve)
    listener = listen(settings)
    try:
        from retro.run.pipeline import model_paths
        from retro.serve.loading import load_service

        serve(load_service(settings, config.generate, model_paths(config), config.run_dir.resolve().name), listener)
    finally:
        listener.close()
