"""A run from Python: its stages run, what they made is read, its database searched, its model asked."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from retro.common.config import unknown_name
from retro.common.errors import ConfigError
from retro.run.config import RunConfig, load_run_config, run_config_of
from retro.run.execution import run_stage, run_stages
from retro.run.pipeline import STAGES, model_paths, stage
from retro.run.status import State, has_run, status_of

if TYPE_CHECKING:
    from retro.api.artifacts import Artifacts
    from retro.api.generator import Generator
    from retro.api.retriever import Retriever

SETTINGS = "run.yaml"
"""The settings of a run, where they are in its directory."""


class Run:
    """A run. Open one with `Run.open` or `Run.from_documents`; nothing is loaded before it is asked for.

    All methods raise errors of the tree `retro.common.errors.RetroError`, whose one line says what was found, what was
    needed, and what to do.

    Attributes:
        config: All settings; frozen. Open the run with other overrides to change one.
    """

    def __init__(self, config: RunConfig, words: tuple[str, ...] | None = None) -> None:
        """A run of settings that are read already.

        Args:
            config: Its settings.
            words: That name the run on the command line, for worker processes; None: there can be none.
        """
        self.config = config
        self._words = words
        self._has_settings = True

    @classmethod
    def open(cls, path: str | Path, *overrides: str) -> Self:
        """The run of a YAML file, or of a directory that stages wrote.

        A directory without a `run.yaml` does not say how its stages were made: what it holds can be read and searched,
        stages cannot be run, and its model is asked with default settings unless `overrides` say more.

        Args:
            path: The file or directory.
            overrides: Settings over those of the file, as `"train.lr=1e-4"`.

        Raises:
            DataError: The file is missing or is not YAML.
            ConfigError: A setting is unknown or cannot work, or the directory holds no run.
        """
        path = Path(path)
        file = path / SETTINGS if path.is_dir() else path
        if path == file or file.is_file():
            return cls(load_run_config(file, overrides), (str(file), *overrides))
        if not has_run(path):
            raise ConfigError("path", str(path), "needs the directory of a run, or the run's YAML file")
        run = cls(run_config_of({"run_dir": path}, overrides))
        run._has_settings = False
        return run

    @classmethod
    def from_documents(cls, folder: str | Path, *overrides: str, model: str | Path | None = None) -> Self:
        """The run of a folder of text files, its database and index built and kept, as `retro ask --documents` does.

        Args:
            folder: Of text files; or one file.
            overrides: Settings over those chosen for the folder.
            model: A checkpoint, HuggingFace folder, .gguf file or published model's name; None: SmolLM2-135M.

        Raises:
            ConfigError: There is no such folder, or the model comes without a tokenizer.
            DataError: Nothing in it can be read, or the model cannot be used.
            DependencyError: A package is missing.
        """
        from retro.run.documents import MODEL, documents_run

        return cls(documents_run(Path(folder), str(model or MODEL), overrides))

    @property
    def directory(self) -> Path:
        """Where the run's stages write."""
        return self.config.run_dir

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r})"

    def status(self) -> dict[str, State]:
        """How each stage stands, in order: done, running, stopped, stale, missing or broken; see `retro status`."""
        found: dict[str, State] = {}
        for one in status_of(self.config, compare_settings=self._has_settings):
            # A stage that is being built has several parts.
            if found.get(one.stage) != "running":
                found[one.stage] = one.state
        return found

    def stage(self, name: str, *, redo: bool = False, workers: int = 1) -> Path:
        """Run one stage, or find it complete.

        Args:
            name: One of those of `status`.
            redo: Remove what it and the following stages wrote, first.
            workers: Processes on this machine that build it together: corpus, db, index and neighbors only.

        Returns:
            The stage's directory.

        Raises:
            ConfigError: There is no such stage, or its settings cannot work.
            ArtifactError: A stage before it is missing, or another process makes it now.
        """
        names = [one.name for one in STAGES]
        if name not in names:
            raise ConfigError("stage", name, unknown_name(name, names).replace("a setting", "a stage"))
        words = self._words_for(workers if stage(name).blocks else 1)
        run_stage(name, self.config, words, redo, workers if stage(name).blocks else 1)
        return stage(name).path(self.config)

    def run(self, until: str = STAGES[-1].name, *, redo: bool = False, workers: int = 1) -> None:
        """Run all stages up to `until`, skipping what is complete; arguments and errors as `stage`."""
        run_stages(self.config, until, self._words_for(workers), redo, workers)

    def _words_for(self, workers: int) -> tuple[str, ...]:
        if not self._has_settings:
            need = f"needs a run's YAML file, in place of a directory without {SETTINGS}, to run stages"
            raise ConfigError("path", str(self.directory), need)
        if workers > 1 and self._words is None:
            raise ConfigError("workers", workers, "needs to be 1 for a run that no YAML file describes")
        return self._words or ()

    @cached_property
    def artifacts(self) -> Artifacts:
        """What the stages made, as arrays and small objects."""
        from retro.api.artifacts import Artifacts

        return Artifacts(self.config)

    def retriever(self) -> Retriever:
        """A search of the run's database, by what `search` says: vectors, words or both.

        Raises:
            ArtifactError: Corpus, database or index is missing or damaged.
        """
        from retro.api.retriever import Retriever

        return Retriever(model_paths(self.config))

    def generator(self) -> Generator:
        """The model that answers: `generate.checkpoint`, or the one that this run tuned. Loads it.

        Raises:
            ConfigError: A setting does not fit the model.
            ArtifactError: There is no such model, or it is damaged.
        """
        from retro.api.generator import Generator

        return Generator(self.config.generate, model_paths(self.config))
