"""The files that a run reads and does not make: looked for before the first stage, not hours later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from retro.common.errors import ConfigError, DataError

if TYPE_CHECKING:
    from retro.run.config import RunConfig
    from retro.run.pipeline import Stage


def require_inputs(config: RunConfig, stages: Sequence[Stage]) -> None:
    """Look for the texts and question files of some stages.

    Args:
        config: The run; its `inputs_from` says what to do where something is missing.
        stages: Those that are to be run, and are not complete.

    Raises:
        DataError: A file is not there.
        ConfigError: There are no questions to tune on.
    """
    names = {one.name for one in stages}
    try:
        for stage, look in (("corpus", _corpus), ("sft", _sft), ("generate", _generate)):
            if stage in names:
                look(config)
    except DataError as error:
        if not config.inputs_from:
            raise
        raise DataError(error.path, error.problem, " ".join(config.inputs_from.split())) from None


def _corpus(config: RunConfig) -> None:
    """Sources on this machine; what is at an address, the corpus stage fetches or refuses."""
    from retro.corpus.hub import local_path_if_there

    for source in config.corpus.sources:
        path = source.path
        if path is not None and ":/" not in str(path) and local_path_if_there(path) is None:
            raise DataError(path, "no such file or folder", "Check the source's path")


def _sft(config: RunConfig) -> None:
    from retro.run.pipeline import stage
    from retro.sft.sets import PARTS, question_files

    corpus, blend = stage("corpus").path(config), config.sft.data.resolved_blend()
    derived = any(source.built_in for source in config.corpus.sources) or corpus.exists()
    for one in blend.sets:
        if not one.from_corpus:
            for part in PARTS:
                question_files(one, blend.data, part, None)
        elif not derived:
            need = (
                "needs a question file to tune on: none can be derived from text of one's own. Give sft.data.sets, or "
                "stop before with `retro run --until perplexity`; `retro init --questions FILE` writes all of it"
            )
            raise ConfigError("sft.data.sets", config.sft.data.sets, need)


def _generate(config: RunConfig) -> None:
    from retro.sft.sets import existing

    for path in config.generate.questions:
        existing(path)
