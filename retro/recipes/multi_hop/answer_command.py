"""Commands that answer: the original's evaluation with its flags, one question with its steps shown, two models beside.

python -m retro.recipes.multi_hop evaluate --model-path MODEL|URL --hotpot-qa-dev-path FILE --save-path OUT.json
    [--inference-type hf|engine|vllm|llama_cpp|server] [--retriever-path MODEL] [--tokenizer-path FOLDER]
    [--num-paragraphs 1] [--num-samples 500] [--method decompose|one_search|ircot|adaptive]
python -m retro.recipes.multi_hop ask --model-path MODEL|URL --question TEXT --folder DIR
python -m retro.recipes.multi_hop compare OUT_A.json OUT_B.json

Settings of a run may follow. `evaluate` keeps its work in OUT.json.run: a call that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retro.common.errors import ConfigError
from retro.recipes import flags

_ANSWER = "recipe.multi_hop.answer"
SERVED = ("vllm", "llama_cpp", "server")
_START = {
    "vllm": "`vllm serve FOLDER`",
    "llama_cpp": "`llama-server -m FILE.gguf --special`",
    "server": "a server with /completions",
}
_MODEL_FLAGS: dict[str, dict[str, Any]] = {
    "--model-path": {"required": True, "help": "a model's folder or checkpoint; of a served one, its address"},
    "--inference-type": {
        "choices": ("hf", "engine", *SERVED),
        "default": "engine",
        "help": "what runs the model: transformers, this toolkit (default), or a server",
    },
    "--tokenizer-path": {"type": Path, "help": "of a served model: its folder, to send prompts as token ids"},
    "--model-name": {"default": "default", "help": "what a server calls the model (default: default)"},
    "--retriever-path": {"help": "an E5 model that embeds passages; without, words are compared"},
    "--num-paragraphs": {"type": int, "default": 1, "help": "passages of a search (default 1)"},
    "--method": {
        "choices": ("decompose", "one_search", "ircot", "adaptive"),
        "default": "decompose",
        "help": "how questions are answered",
    },
    "--chat": {"action": "store_true", "help": "ask in words, for a model that was not tuned on the conversation"},
}
EVALUATE_FLAGS: flags.Flags = _MODEL_FLAGS | {
    "--hotpot-qa-dev-path": {"type": Path, "required": True, "help": "hotpot_dev_distractor_v1.json"},
    "--save-path": {"type": Path, "required": True, "help": "a JSON file for answers and scores"},
    "--num-samples": {"type": int, "default": 500, "help": "questions drawn from the file (default 500); 0: all"},
    "--redo": {"action": "store_true", "help": "answer again, where the settings are others now"},
}
ASK_FLAGS: flags.Flags = _MODEL_FLAGS | {
    "--question": {"required": True, "help": "what is asked"},
    "--folder": {"type": Path, "required": True, "help": "text files that are searched"},
}
COMPARE_FLAGS: flags.Flags = {}


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """The settings of `recipe.multi_hop.answer` that flags ask for.

    Raises:
        ConfigError: The model is served, and its path is no address.
    """
    model: dict[str, Any] = {"kind": "engine", "path": given.model_path}
    if given.inference_type == "hf":
        model = {"kind": "transformers", "path": given.model_path}
    elif given.inference_type in SERVED:
        if "://" not in given.model_path:
            need = f"needs the address of {_START[given.inference_type]}, as http://127.0.0.1:8000/v1"
            raise ConfigError("--model-path", given.model_path, need)
        tokenizer = None if given.tokenizer_path is None else str(given.tokenizer_path)
        model = {"kind": "server", "base_url": given.model_path, "name": given.model_name, "tokenizer": tokenizer}
    if given.tokenizer_path is not None and given.inference_type not in SERVED:
        need = "needs to be left out: the tokenizer is in the model's folder"
        raise ConfigError("--tokenizer-path", str(given.tokenizer_path), need)
    retriever: dict[str, Any] = {"n": given.num_paragraphs}
    if given.retriever_path is not None:
        e5 = {"query_prefix": "query: ", "passage_prefix": "passage: ", "pooling": "mean"}
        retriever["embedder"] = {"kind": "huggingface", "model": given.retriever_path} | e5
    form = "chat" if given.chat else "function_calls"
    return {"model": model, "retriever": retriever, "method": given.method, "form": form}


def evaluate(given: argparse.Namespace, words: Sequence[str]) -> str:
    """Answer HotpotQA's questions and score them; gives a line.

    Raises:
        RetroError: A flag or setting cannot be, or as the steps say.
    """
    from retro.common.files import write_plain_json
    from retro.recipes.base import RECIPES, run_recipe

    drawn = {"questions": str(given.hotpot_qa_dev_path), "count": given.num_samples or None}
    run_dir = _work_of(given.save_path)
    config = _config(run_dir, settings_of(given) | drawn, words)
    recipe = RECIPES.find("multi_hop", "recipe")
    for step in ("answer", "scores"):
        run_recipe(recipe, config, step, redo=given.redo and step == "answer")
    found = original_output(run_dir / "recipe_multi_hop")
    write_plain_json(given.save_path, found)
    part = ", ".join(f"{name} {100 * value:.1f}" for name, value in found["metrics"]["answer"].items())
    return f"{part} over {len(found['results'])} questions, {found['failed']} without an answer; in {given.save_path}"


def original_output(home: Path) -> dict[str, Any]:
    """Answers and scores as one object: of the answer part, and as published of the whole text.

    Args:
        home: The recipe's folder of a run that has answered.
    """
    from retro.common.files import read_json
    from retro.qa.answer_files import read_answers
    from retro.recipes.multi_hop.answers import ANSWER, ANSWERS, EVALUATED, HOPS, WHOLE_TEXT

    redo = "Run the command again"
    scores = read_json(home / "scores" / EVALUATED / "scores.json", redo)
    hops = read_json(home / "scores" / HOPS, redo)
    metrics = {
        setting: {name: scores["settings"][setting][name]["mean"] for name in scores["metrics"]}
        for setting in (ANSWER, WHOLE_TEXT)
    }
    results = [
        {
            "id": one.id,
            "question": one.question,
            "answer": list(one.answers),
            "prediction": one.prediction,
            **_told(one),
        }
        for one in read_answers(home / "answer" / ANSWERS / f"{ANSWER}.jsonl")
    ]
    rest = {"recall_after_hop": hops["recall_after_hop"], "several_hops": hops["counts"]["several_hops"]}
    return {"metrics": metrics, **rest, "failed": hops["counts"]["failed"], "results": results}


def _told(one: Any) -> dict[str, Any]:
    details: dict[str, Any] = dict(one.details["multi_hop"])
    return details


def ask(given: argparse.Namespace, words: Sequence[str]) -> str:
    """Answer one question from the text files of a folder, each step shown while it is made; gives the answer.

    Raises:
        RetroError: A flag or setting cannot be, or a model or the folder cannot be opened.
    """
    from retro.common.terminal import output
    from retro.qa.question import Question
    from retro.recipes.base import RECIPES, StepRun, recipe_settings
    from retro.recipes.multi_hop.dialogs import DialogTexts
    from retro.recipes.multi_hop.opening import opened_model, opened_retriever, way_of
    from retro.recipes.multi_hop.protocol import Event, stream

    own = settings_of(given)
    own["retriever"] |= {"kind": "folder", "folder": str(given.folder)}
    config = _config(Path("runs/multi_hop_ask"), own, words)
    recipe = RECIPES.find("multi_hop", "recipe")
    settings: Any = recipe_settings(config, recipe)
    step = next(one for one in recipe.steps if one.name == "answer")
    work = StepRun(recipe=recipe, step=step, config=config, settings=settings)
    way = way_of(settings.answer, DialogTexts.load(settings.answer.texts))
    question = Question(id="", question=given.question, answers=())
    last = Event(kind="answer")
    with (
        opened_retriever(settings.answer.retriever, config, ()) as retriever,
        opened_model(work, settings.answer, Path()) as model,
    ):
        for last in stream(way(question), model, retriever):
            if last.outcome is None:
                output.say(event_line(last))
    failed = "" if last.outcome is None else last.outcome.failed
    return f"no answer ({failed})" if failed else last.text


def event_line(event: Any) -> str:
    """A step as one line."""
    if event.kind == "found":
        titles = ", ".join(one.title or one.text[:40] for one in event.passages) or "nothing"
        return f"found: {titles}"
    return f"{event.kind}: {' '.join(event.text.split())}"


def compare(given: argparse.Namespace, words: Sequence[str]) -> str:
    """Compare what two calls of `evaluate` saved; gives the table.

    Raises:
        ConfigError: There are not two of them.
        ArtifactError: One has no scores, or they answered other questions.
    """
    from retro.evaluate.compare import compare as compare_sides
    from retro.evaluate.compare import open_scored_answers
    from retro.recipes.multi_hop.answers import ANSWER, EVALUATED, comparison_table

    if len(words) != 2:
        raise ConfigError("compare", list(words), "needs two files that `evaluate` saved")
    folders = [_work_of(Path(word)) / "recipe_multi_hop" / "scores" / EVALUATED for word in words]
    a, b = (open_scored_answers(folder, setting=ANSWER) for folder in folders)
    return comparison_table(compare_sides(a, b))


def _work_of(saved: Path) -> Path:
    return saved.with_name(f"{saved.name}.run")


def _config(run_dir: Path, answer: dict[str, Any], words: Sequence[str]) -> Any:
    from retro.run.config import load_run_config

    bad = [word for word in words if "=" not in word]
    if bad:
        raise ConfigError("settings", bad[0], "needs the form section.setting=value")
    settings = {"run_dir": str(run_dir)} | {f"{_ANSWER}.{name}": value for name, value in answer.items()}
    return load_run_config(None, [*(f"{name}={json.dumps(value)}" for name, value in settings.items()), *words])
