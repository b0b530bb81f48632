"""`retro lm-eval`: a run's model on tasks of lm-evaluation-harness; results to a file and to the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

from retro.common.errors import ConfigError
from retro.common.files import write_plain_json
from retro.common.terminal import Table, output
from retro.pipeline import database_dirs, stage
from retro.run_config import RunConfig

RETRIEVALS = ("none", "live")


def run_harness(
    config: RunConfig,
    *,
    tasks: str,
    include_path: Path | None,
    retrieval: str,
    few_shot: int | None,
    limit: int | None,
    out: Path | None,
    apply_chat_template: bool = False,
    system_instruction: str | None = None,
    as_json: bool = False,
) -> Path:
    """Run tasks of the harness.

    Args:
        config: The run.
        tasks: Names with commas between.
        include_path: A folder of further tasks.
        retrieval: One of RETRIEVALS.
        few_shot: Examples; None: as the task says.
        limit: Questions of each task; None: all.
        out: The results' file; None: `lm_eval.json` in the run's directory.
        apply_chat_template: Ask questions as conversations, with the model's chat template.
        system_instruction: What stands before every question, or is the system turn.
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
    if include_path is not None and not include_path.is_dir():
        raise ConfigError("--include-path", str(include_path), "needs a folder of tasks")
    from retro.harness.run import Places, Wanted, evaluate, open_lm

    chosen = cast(Literal["none", "live"], retrieval)
    db, index = database_dirs(config, answers=True)
    tuned = config.generate.checkpoint or stage("sft").path(config)
    places = Places(checkpoint=tuned, corpus=stage("corpus").path(config), db=db, index=index)
    model = open_lm(config.generate, places, chosen, config.generate.seed)
    wanted = Wanted(
        tasks=names,
        include_path=include_path,
        retrieval=chosen,
        few_shot=few_shot,
        limit=limit,
        seed=config.generate.seed,
        apply_chat_template=apply_chat_template,
        system_instruction=system_instruction,
    )
    found = evaluate(model, wanted)
    path = out or config.run_dir / "lm_eval.json"
    write_plain_json(path, found)
    if as_json:
        output.json(found)
    else:
        output.table(harness_table(found))
        output.say(f"all numbers: {path}")
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
