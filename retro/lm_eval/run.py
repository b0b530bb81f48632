"""From a run's model to lm-evaluation-harness's results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from retro.common.errors import ConfigError, DataError, short_reason
from retro.common.optional import import_optional
from retro.db.versions import version_identity
from retro.generate.config import GenerateConfig, ModelPaths
from retro.generate.open_model import open_model
from retro.generate.request import LiveRetrieval
from retro.index.retriever import search_identity
from retro.lm_eval.generation_kwargs import sampling_of
from retro.lm_eval.response_cache import open_responses
from retro.qa.chat_prompts import chat_of, has_chat
from retro.tokenizers.tokenizer import conventions_of
from retro.training import checkpoint

if TYPE_CHECKING:
    from retro.lm_eval.model import RetroLM


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the harness is asked for."""

    tasks: Sequence[str]
    """Names as the harness knows them."""
    include_path: Path | None = None
    """A folder of further tasks."""
    retrieval: Literal["none", "live"] = "none"
    """What the encoder reads: nothing, or what a search for each finished chunk finds."""
    few_shot: int | None = None
    """Examples in each prompt; None: as the task says."""
    limit: int | float | None = None
    """Questions of each task, or below 1 their share; None: all."""
    samples: Mapping[str, Sequence[int]] | None = None
    """Numbers of the questions to ask, by task; None: all."""
    gen_kwargs: Mapping[str, Any] | None = None
    """Generation settings merged over those of each task that generates."""
    log_samples: bool = False
    """Keep every question with its responses."""
    predict_only: bool = False
    """Keep the responses and score nothing."""
    seed: int = 1234
    """Of examples and of tasks that draw tokens."""
    apply_chat_template: bool = False
    """Whether questions are asked as conversations, with the model's chat template."""
    system_instruction: str | None = None
    """What is before every question; with a chat template, its system turn."""


def require_packages() -> None:
    """Check that lm-evaluation-harness is there.

    Raises:
        DependencyError: It is not; the extra that brings it is named.
    """
    import_optional("lm_eval", extra="eval", use="is what retro lm-eval runs", package="lm-eval")


def open_lm(
    generate: GenerateConfig,
    paths: ModelPaths,
    retrieval: Literal["none", "live"],
    seed: int = 1234,
    use_cache: Path | None = None,
) -> RetroLM:
    """The model of a run, for the harness.

    Args:
        generate: Which checkpoint, how many passages, what of them is read, how many sequences at once.
        paths: Of the run.
        retrieval: What the encoder reads.
        seed: Of tasks that draw tokens.
        use_cache: A file that keeps responses, for calls that are stopped or repeated.

    Raises:
        DependencyError: lm-evaluation-harness is not installed.
        ConfigError: Retrieval is asked of a model without an encoder.
        TrainingError: The checkpoint has another size, or was trained with another tokenizer.
        ArtifactError: An artifact is missing or damaged.
    """
    require_packages()
    from retro.lm_eval.model import RetroLM

    asked = generate.model_copy(update={"settings": ("live_retrieval" if retrieval == "live" else "closed_book",)})
    opened = open_model(asked, paths)
    engine = opened.engine
    known, prefix, cache = conventions_of(opened.tokenizer), opened.prefix, None
    if use_cache is not None:
        live: list[Any] = []
        if retrieval == "live":
            search = search_identity(paths.search, paths.index)
            live = [
                version_identity(paths.db),
                generate.passages,
                generate.neighbor_text,
                *([search] if search else []),
            ]
        model = {
            "checkpoint": checkpoint.identity(opened.info.path),
            "precision": opened.config.precision,
            "live": live,
        }
        model |= {"prefix": prefix} if prefix else {}
        cache = open_responses(use_cache, model)
    return RetroLM(
        engine,
        opened.tokenizer,
        sequence_length=engine.decoder.sequence_length,
        reading=LiveRetrieval(passages=generate.passages) if retrieval == "live" else None,
        seed=seed,
        precision=opened.config.precision,
        chat=chat_of(opened.tokenizer, "--apply-chat-template") if has_chat(opened.tokenizer) else None,
        prefix=prefix,
        begin=None if generate.add_special_tokens is False else known.ids.get("bos_token"),
        cache=cache,
    )


def evaluate(model: RetroLM, wanted: Options) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Run the harness's tasks.

    Returns:
        JSON values: "results" by task, "versions", "n-shot", "samples" (how many), "truncated" (contexts that did not
        fit), "precision", and "asked"; no times. With them, by task, the questions with their responses, if kept.

    Raises:
        ConfigError: The harness knows no such task, or one wants answers that are generated in a way not known here.
        DataError: The data of a task are not there and cannot be fetched, or cannot be asked.
    """
    from lm_eval.evaluator import simple_evaluate

    manager = _manager(wanted)
    _prepare(manager, wanted, model)
    found: Any = simple_evaluate(
        model=model,
        tasks=list(wanted.tasks),
        num_fewshot=wanted.few_shot,
        limit=wanted.limit,
        task_manager=manager,
        apply_chat_template=wanted.apply_chat_template,
        log_samples=wanted.log_samples or wanted.predict_only,
        samples=wanted.samples,
        system_instruction=wanted.system_instruction,
        gen_kwargs=dict(wanted.gen_kwargs) if wanted.gen_kwargs else None,
        predict_only=wanted.predict_only,
        random_seed=wanted.seed,
        numpy_random_seed=wanted.seed,
        torch_random_seed=wanted.seed,
        fewshot_random_seed=wanted.seed,
        # The harness takes a minute for a hundred thousand resamples; a thousand give two digits.
        bootstrap_iters=1_000,
    )
    folder = None if wanted.include_path is None else str(wanted.include_path)
    asked = asdict(wanted) | {"tasks": list(wanted.tasks), "include_path": folder}
    numbers = {
        "asked": asked,
        "precision": model.precision,
        "results": {name: _plain(values) for name, values in found["results"].items()},
        "versions": dict(found["versions"]),
        "n-shot": dict(found["n-shot"]),
        "samples": {name: dict(counts) for name, counts in found["n-samples"].items()},
        "truncated": {"contexts": len(model.truncated), "most_tokens": max(model.truncated, default=0)},
    }
    return numbers, dict(found.get("samples") or {})


def _manager(wanted: Options) -> Any:
    """Knows all tasks that are wanted; the harness's own thousands are read only where one of them is."""
    from lm_eval.tasks import TaskManager

    if wanted.include_path is not None:
        own = TaskManager(include_path=str(wanted.include_path), include_defaults=False)
        if all(own.match_tasks([name]) for name in wanted.tasks):
            return own
    manager = TaskManager(include_path=None if wanted.include_path is None else str(wanted.include_path))
    for name in wanted.tasks:
        if not manager.match_tasks([name]):
            _require_yaml(wanted.include_path, name)
            need = "needs a task, group or tag of lm-evaluation-harness, or of --include-path; see `lm-eval ls tasks`"
            raise ConfigError("--tasks", name, need)
    return manager


def _require_yaml(folder: Path | None, name: str) -> None:
    """Check the files of --include-path, of which the harness leaves out without a word what it cannot read."""
    for path in sorted(folder.glob("**/*.yaml")) if folder is not None else ():
        try:
            yaml.compose(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            problem = (
                f"is not a YAML file that can be read ({_short(error)}), and no other file gives the task {name!r}"
            )
            raise DataError(path, problem, "Fix the file") from None


def _prepare(manager: Any, wanted: Options, model: RetroLM) -> None:
    """Have tasks looked at when the harness loads them: before the first question, and not twice."""
    from datasets.exceptions import DatasetsError

    load, names = manager.load, wanted.tasks

    def load_and_look(tasks: Any) -> Any:
        try:
            found = load(tasks)
        except OSError as error:
            raise _unreachable(_first_without_data(load, names, OSError), error) from None
        except (DatasetsError, ValueError) as error:
            name = _first_without_data(load, names, (DatasetsError, ValueError))
            problem = f"cannot be loaded with its data ({_short(error.__cause__ or error)})"
            raise DataError(
                f"the task {name!r}", problem, "Fix its file: dataset_path and dataset_kwargs name the data"
            ) from None
        _require_samples(found["tasks"], wanted.samples)
        for name, task in found["tasks"].items():
            if task.get_config("output_type") == "generate_until":
                settings = dict(task.get_config("generation_kwargs") or {}) | dict(wanted.gen_kwargs or {})
                sampling_of(settings, name, seed=model.seed, sequence_length=model.sequence_length)
        return found

    manager.load = load_and_look


def _require_samples(tasks: Mapping[str, Any], samples: Mapping[str, Sequence[int]] | None) -> None:
    for name, numbers in (samples or {}).items():
        if name not in tasks:
            raise ConfigError("--samples", name, f"needs tasks that are asked: {', '.join(tasks)}")
        count = len(tasks[name].eval_docs)
        wrong = [number for number in numbers if not 0 <= number < count]
        if wrong:
            raise ConfigError("--samples", wrong, f"needs numbers from 0 to {count - 1}, the questions of {name!r}")


def _first_without_data(
    load: Callable[[list[str]], Any], names: Sequence[str], errors: type[Exception] | tuple[type[Exception], ...]
) -> str:
    """The first task that cannot be loaded by itself."""
    for name in names:
        try:
            load([name])
        except errors:
            return name
    return ", ".join(names)


def _unreachable(name: str, error: OSError) -> DataError:
    problem = f"its data are not on this machine and could not be fetched ({_short(error)})"
    remedy = (
        "It needs a network once: run it where there is one, and bring HuggingFace's cache (HF_HOME) here; or give "
        "tasks over local files, with --include-path"
    )
    return DataError(f"the task {name!r}", problem, remedy)


def _short(error: BaseException) -> str:
    return short_reason(error)


def _plain(values: Any) -> dict[str, Any]:
    """A task's numbers; what cannot be computed (an interval of one question) is None."""
    return {
        name: value if isinstance(value, str | int | float) and value != "N/A" else None
        for name, value in values.items()
    }
