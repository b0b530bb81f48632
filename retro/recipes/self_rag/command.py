"""The two commands that users of the original know, with their flags: short and long answers of a finished model.

python -m retro.recipes.self_rag short --model_name MODEL --input_file FILE --output_file OUT.json [--task arc_c]
    [--mode adaptive_retrieval] [--threshold 0.2] [--ndocs 10] [--max_new_tokens 100] [--metric match]
python -m retro.recipes.self_rag long --model_name MODEL --input_file FILE --output_file OUT.json --task asqa
    [--max_depth 7] [--beam_width 2] [--w_rel 1.0] [--w_sup 1.0] [--w_use 0.5] [--ignore_cont]

Settings of a run may follow, as in `generate.precision=float32`. Work is kept in OUT.json.run: a call that was stopped
goes on; with other settings or questions it needs --redo.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.errors import ConfigError
from retro.common.json_files import json_items, read_text
from retro.common.launcher import worker_of
from retro.recipes import flags
from retro.recipes.self_rag.config import MODES

log = logging.getLogger(__name__)

PROGRAM = "python -m retro.recipes.self_rag"
_TASKS = {"arc_c": "arc_c", "fever": "pubhealth", "asqa": "asqa", "eli5": "longform", "factscore": "factscore"}
"""The original's names of tasks, and ours."""
_VOTES = ("arc_c", "fever")
_PRECISION = {"half": "auto", "bfloat16": "bfloat16", "float32": "float32", "float": "float32"}
_INAPPLICABLE = {
    "--download_dir": "a model is a folder, or a name of the Hub, whose files are in the Hub's own cache",
    "--device": "the GPU that torch sees is used, else the CPU",
    "--tokenizer_path": "the tokenizer is in the model's folder",
    "--max_logprobs": "the probabilities of the reflection tokens are computed from the logits, all of them",
}

_SHARED: dict[str, dict[str, Any]] = {
    "--model_name": {"required": True, "help": "a tuned checkpoint, or a folder in HuggingFace's form"},
    "--input_file": {"required": True, "type": Path, "help": "questions, with ctxs where passages are to be read"},
    "--output_file": {"required": True, "type": Path, "help": "where the results go"},
    "--mode": {"choices": MODES, "default": "adaptive_retrieval", "help": "when passages are read"},
    "--threshold": {"type": float, "help": "retrieve above it; without it as the model's own words say"},
    "--max_new_tokens": {"type": int, "help": "of an answer, or a segment"},
    "--ndocs": {"type": int, "help": "passages tried"},
    "--use_groundness": {"action": "store_true", "help": "count whether the passage supports the answer"},
    "--use_grounding": {"action": "store_true", "help": "the same"},
    "--use_utility": {"action": "store_true", "help": "count how useful the answer is"},
    "--use_seqscore": {"action": "store_true", "help": "count the mean probability of the tokens"},
    "--w_rel": {"type": float, "default": 1.0, "help": "weight of relevance (default 1)"},
    "--w_sup": {"type": float, "default": 1.0, "help": "weight of support (default 1)"},
    "--w_use": {"type": float, "default": 0.5, "help": "weight of utility (default 0.5)"},
    "--dtype": {"choices": tuple(_PRECISION), "default": "half", "help": "what is computed in (default half)"},
    "--batch_size": {"type": int, "default": 8, "help": "questions answered at once (default 8)"},
    "--redo": {"action": "store_true", "help": "answer again, where the settings are others now"},
    "--world_size": {"type": int, "default": 1, "help": "processes that share the model, under torchrun"},
}
_SHORT: dict[str, dict[str, Any]] = {
    "--task": {"choices": _VOTES, "help": "what kind of questions; else they are open"},
    "--metric": {"choices": ("match", "match_norm", "accuracy", "em"), "help": "what answers are scored by"},
}
_LONG: dict[str, dict[str, Any]] = {
    "--task": {"choices": ("asqa", "eli5", "factscore"), "required": True, "help": "what kind of questions"},
    "--max_depth": {"type": int, "default": 6, "help": "most segments of an answer (default 6)"},
    "--beam_width": {"type": int, "default": 2, "help": "answers that are continued (default 2)"},
    "--ignore_cont": {"action": "store_true", "help": "drop segments that the model finds unsupported"},
}
_FLAGS = {"short": _SHARED | _SHORT, "long": _SHARED | _LONG}
_DEFAULTS = {"short": {"ndocs": 10, "max_new_tokens": 100}, "long": {"ndocs": 5, "max_new_tokens": 300}}
_METRICS = {"match": "match_raw", "match_norm": "match_norm", "accuracy": "accuracy", "em": "exact_match"}


def main(words: Sequence[str]) -> int:
    """`short` or `long`, flags, settings; see `retro.recipes.flags.main`."""
    return flags.main(run, words)


def run(words: Sequence[str]) -> str:
    """As `main`, but errors are raised; gives what was made, in a line.

    Raises:
        RetroError: A flag or setting cannot be, or as the steps say.
    """
    from retro.recipes.base import RECIPES, run_recipe
    from retro.run.config import load_run_config

    form = flags.command_of(PROGRAM, words, list(_FLAGS))
    given, overrides = _parse(form, words[1:])
    settings = settings_of(form, given)
    config = load_run_config(None, [*(f"{name}={json.dumps(value)}" for name, value in settings.items()), *overrides])
    recipe = RECIPES.find("self_rag", "recipe")
    for step in ("answer", "scores"):
        run_recipe(recipe, config, step, redo=given.redo and step == "answer")
    return _write(given, config.run_dir / "recipe_self_rag", given.mode)


def _parse(form: str, words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    program = f"{PROGRAM} {form}"
    given, overrides = flags.parse(program, words, f"Answer questions, {form}.", _FLAGS[form], _INAPPLICABLE)
    bad = [word for word in overrides if "=" not in word]
    if bad:
        raise ConfigError("settings", bad[0], "needs the form section.setting=value")
    world = worker_of().world
    if given.world_size != world:
        need = f"needs so many processes, and there are {world}: torchrun --nproc-per-node {given.world_size} -m …"
        raise ConfigError("--world_size", given.world_size, need)
    return given, overrides


def settings_of(form: str, given: argparse.Namespace) -> dict[str, Any]:
    """The settings of a run that flags ask for."""
    names = vars(given)
    weights = {name: names[name] for name in ("w_rel", "w_sup", "w_use", "use_utility", "use_seqscore")}
    weights["use_groundness"] = given.use_groundness or given.use_grounding
    decode: dict[str, Any] = {"form": form, "modes": [given.mode], "threshold": given.threshold, "weights": weights}
    for name, default in _DEFAULTS[form].items():
        decode[name] = default if names[name] is None else names[name]
    decode |= {name: names[name] for name in ("max_depth", "beam_width", "ignore_cont") if name in names}
    decode["vote"] = names["task"] in _VOTES
    metric = _metric(names.get("metric"), names["task"])
    return {
        "run_dir": str(given.output_file.with_name(f"{given.output_file.name}.run")),
        "generate.questions": [str(given.input_file)],
        "generate.task": _TASKS[names["task"]] if names["task"] else _open_task(given.input_file),
        "generate.precision": _PRECISION[given.dtype],
        "recipe.self_rag.generator.checkpoint": given.model_name,
        "recipe.self_rag.generator.batch_size": given.batch_size,
        "recipe.self_rag.decode": decode,
        **({"recipe.self_rag.metrics": [metric]} if metric else {}),
    }


def _metric(name: str | None, task: str | None) -> str | None:
    """Our name of a metric.

    Raises:
        ConfigError: It does not fit the questions.
    """
    if name == "accuracy" and task not in _VOTES:
        raise ConfigError("--metric", name, f"needs --task {' or '.join(_VOTES)}: open questions have no options")
    if name == "match" and task == "arc_c":
        log.info("match with arc_c is accuracy: the right option is named by its letter or its text")
        return "accuracy"
    return None if name is None else _METRICS[name]


def _open_task(path: Path) -> str:
    """Which task open questions are of: PopQA's have `possible_answers`; those without answers are only answered."""
    first = next(iter(json_items(path, read_text(path))), None)
    if first is None or "possible_answers" in first.value:
        return "popqa"
    return "tqa" if first.value.get("answers") or first.value.get("answer") else "factscore"


def _write(given: argparse.Namespace, home: Path, mode: str) -> str:
    """The results in the form of the original: `preds` and scores, ALCE's, or FactScore's."""
    from retro.common.files import read_json, write_plain_json
    from retro.evaluate.answer_forms import write_factscore
    from retro.recipes.comparison import answers_of
    from retro.recipes.self_rag.answers import alce_output

    out: Path = given.output_file
    answers = home / "answer" / mode
    asked: list[Mapping[str, Any]] = [one.value for one in json_items(given.input_file, read_text(given.input_file))]
    if given.task == "factscore":
        write_factscore(out, asked, [one.prediction for one in answers_of(answers)], source=given.input_file)
        return f"{len(asked)} answers in {out}"
    if given.task in ("asqa", "eli5"):
        write_plain_json(out, alce_output(answers, asked))
        return f"{len(asked)} answers with citations in {out}; `retro alce {out}` scores them"
    found = read_json(home / "scores" / f"{mode}.json", "Run the command again")
    write_plain_json(out, found)
    return f"{found['metric']} {100 * found['metric_mean']:.1f} over {len(found['preds'])} questions, in {out}"
