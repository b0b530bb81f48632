"""`retro lm-eval`: a run's model on tasks of lm-evaluation-harness; results to a file and to the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from retro.common.errors import ConfigError
from retro.common.files import atomic_path, write_plain_json
from retro.common.json_files import JsonError, parse_json
from retro.common.terminal import Table, output
from retro.run.config import RunConfig
from retro.run.pipeline import model_paths

RETRIEVALS = ("none", "live")


def run_harness(
    config: RunConfig,
    *,
    tasks: str,
    include_path: Path | None,
    retrieval: str,
    few_shot: int | None,
    limit: float | None,
    out: Path | None,
    apply_chat_template: bool = False,
    system_instruction: str | None = None,
    samples: str | None = None,
    gen_kwargs: str | None = None,
    batch_size: int | None = None,
    use_cache: Path | None = None,
    log_samples: bool = False,
    predict_only: bool = False,
    as_json: bool = False,
) -> Path:
    """Run tasks of the harness.

    Args:
        config: The run.
        tasks: Names with commas between.
        include_path: A folder of further tasks.
        retrieval: One of RETRIEVALS.
        few_shot: Examples; None: as the task says.
        limit: Questions of each task, or below 1 their share; None: all.
        out: The results' file; None: `lm_eval.json` in the run's directory.
        apply_chat_template: Ask questions as conversations, with the model's chat template.
        system_instruction: What is before every question, or is the system turn.
        samples: JSON, or a file of it: numbers of the questions to ask, by task.
        gen_kwargs: `name=value` with commas between, merged over each task's own.
        batch_size: Sequences that the decoder holds at the same time; None: `generate.batch_size`.
        use_cache: A file that keeps responses.
        log_samples: Write every question with its responses beside the results.
        predict_only: Do that, and score nothing.
        as_json: Print the results as the file has them, instead of a table.

    Returns:
        The results' file.

    Raises:
        ConfigError: An option has a value that cannot work.
        DependencyError: The extra `eval` is not installed.
        ArtifactError: A stage that is needed did not finish, or is damaged.
    """
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise ConfigError("--tasks", tasks, "needs a task at least, as --tasks arc_easy,hellaswag")
    if retrieval not in RETRIEVALS:
        raise ConfigError("--retrieval", retrieval, f"needs one of {', '.join(RETRIEVALS)}")
    if limit is not None and (limit <= 0 or (limit > 1 and limit != int(limit))):
        raise ConfigError("--limit", limit, "needs a whole number of questions, or a share of them between 0 and 1")
    if include_path is not None and not include_path.is_dir():
        raise ConfigError("--include-path", str(include_path), "needs a folder of tasks")
    numbers = _samples(samples)
    if numbers is not None and limit is not None:
        raise ConfigError("--samples", samples, "needs to be given without --limit: they say which questions are asked")
    from retro.lm_eval.run import Options, evaluate, open_lm, require_packages

    require_packages()
    settings = _gen_kwargs(gen_kwargs)
    chosen = cast(Literal["none", "live"], retrieval)
    generate = config.generate
    if batch_size is not None:
        generate = generate.model_copy(update={"batch_size": batch_size})
    model = open_lm(generate, model_paths(config), chosen, generate.seed, use_cache)
    wanted = Options(
        tasks=names,
        include_path=include_path,
        retrieval=chosen,
        few_shot=few_shot,
        limit=limit if limit is None or limit < 1 else int(limit),
        samples=numbers,
        gen_kwargs=settings,
        log_samples=log_samples,
        predict_only=predict_only,
        seed=config.generate.seed,
        apply_chat_template=apply_chat_template,
        system_instruction=system_instruction,
    )
    found, kept = evaluate(model, wanted)
    path = out or config.run_dir / "lm_eval.json"
    write_plain_json(path, found)
    files = [_write_samples(path, task, lines) for task, lines in sorted(kept.items())]
    if as_json:
        output.json(found)
        return path
    if not predict_only:
        output.table(harness_table(found))
    output.say(f"all numbers: {path}", *(f"questions and responses: {file}" for file in files))
    return path


def _samples(given: str | None) -> dict[str, list[int]] | None:
    """Numbers of questions by task, from JSON or a file of it."""
    if given is None:
        return None
    need = 'needs JSON, or a file of it, that gives numbers of questions by task: {"arc_easy": [0, 3]}'
    try:
        text = given if given.lstrip().startswith("{") else Path(given).read_text(encoding="utf-8")
        found = parse_json(text)
    except (OSError, UnicodeDecodeError, JsonError) as error:
        raise ConfigError("--samples", given, f"{need} ({error})") from None
    if not isinstance(found, dict) or not all(_are_numbers(numbers) for numbers in found.values()):
        raise ConfigError("--samples", given, need)
    return found


def _are_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(one) is int for one in value)


def _gen_kwargs(given: str | None) -> dict[str, Any] | None:
    """As the harness reads them."""
    if given is None:
        return None
    from lm_eval.utils import simple_parse_args_string

    from retro.lm_eval.generation_kwargs import sampling_of

    if not all(name.strip() and value for name, _, value in (part.partition("=") for part in given.split(","))):
        raise ConfigError("--gen-kwargs", given, "needs name=value with commas between: temperature=0.5,do_sample=true")
    found: dict[str, Any] = simple_parse_args_string(given)
    # Refused here whether or not a task generates; what depends on the model is looked at once it is open.
    sampling_of(found, None, seed=0, sequence_length=sys.maxsize)
    return found


def _write_samples(results: Path, task: str, lines: Sequence[Any]) -> Path:
    """Write the questions of a task with their responses, one JSON object a line, in the harness's form."""
    path = results.with_name(f"{results.stem}_samples_{task.replace('/', '_')}.jsonl")
    with atomic_path(path) as temporary:
        text = "".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines)
        temporary.write_text(text, encoding="utf-8")
    return path


def harness_table(found: Mapping[str, Any]) -> Table:
    """Every metric of every task with its standard error."""
    table = Table()
    table.add_column("task")
    table.add_column("metric")
    for heading in ("value", "± error", "questions"):
        table.add_column(heading, align="right")
    for task, values in found["results"].items():
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        for name, value in numbers.items():
            metric, _, kind = name.partition(",")
            if metric.endswith("_stderr") or not kind:
                continue
            error = numbers.get(f"{metric}_stderr,{kind}")
            shown = "" if error is None else f"{error:.4f}"
            asked = found["samples"].get(task, {}).get("effective", "")
            label = metric if kind == "none" else f"{metric}, {kind}"
            table.add_row(task, label, f"{value:.4f}", shown, str(asked))
    return table
