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
        from retro.run.pipeline import database_dirs, stage
        from retro.serve.loading import StagePaths, load_service

        db, index = database_dirs(config, answers=True)
        tuned = config.generate.checkpoint or stage("sft").path(config)
        corpus = stage("corpus").path(config)
        places = StagePaths(checkpoint=tuned, corpus=corpus, db=db, index=index, search=config.search)
        serve(load_service(settings, config.generate, places, config.run_dir.resolve().name), listener)
    finally:
        listener.close()
