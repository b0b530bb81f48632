"""SmolLM2-135M on HotpotQA: closed-book, documents, rationales as demonstrations, rationales learned, decomposition.

    python -m benchmarks.instruct_rag DIR --hotpotqa hotpot_dev_distractor_v1.json [--train 120] [--test 50]

Questions are drawn by seed, training and test ones apart. The documents of each are its ten paragraphs, ranked by a
small sentence embedder; the three best are shown. The model explains its training questions and learns with LoRA.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

from benchmarks.results import machine, write
from retro.common.files import read_json
from retro.index.config import EmbedderConfig
from retro.qa.formats.item import record
from retro.qa.layouts import read_task_questions
from retro.qa.task import load_task
from retro.recipes.base import RECIPES, run_recipe
from retro.recipes.comparison import interval
from retro.recipes.item_files import write_items
from retro.recipes.multi_hop.protocol import Search
from retro.recipes.multi_hop.retrievers import FromContexts, opened_embedder
from retro.recipes.passages.search import as_record
from retro.run.config import RunConfig, run_config_of
from retro.run.documents import MODEL, model_settings
from retro.run.pipeline import stage

EMBEDDER = EmbedderConfig()
MODES = ["closed_book", "rag", "icl", "ft"]
_WORDS = {
    "closed_book": "closed-book",
    "rag": "three documents",
    "icl": "and two demonstrations with rationales (ICL)",
    "ft": "tuned on its own rationales (FT)",
}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hotpotqa", type=Path, required=True)
    parser.add_argument("--train", type=int, default=120)
    parser.add_argument("--test", type=int, default=50)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--dry", action="store_true", help="print, write no page")
    return parser.parse_args()


def prepare(options: argparse.Namespace) -> None:
    """Write both files of questions, documents ranked; what is there is kept."""
    if (options.folder / "test.jsonl").exists():
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    questions = read_task_questions(options.hotpotqa, load_task("hotpotqa"))
    chosen = random.Random(1).sample(questions, options.train + options.test)
    with opened_embedder(EMBEDDER, []) as embedder:
        retriever = FromContexts(embedder, 10)
        found = retriever.find([Search(query=one.question, question=one) for one in chosen])
    ranked = [
        record(one) | {"labels": dict(one.labels), "ctxs": [dict(as_record(passage)) for passage in each.passages]}
        for one, each in zip(chosen, found, strict=True)
    ]
    write_items(options.folder / "train.jsonl", ranked[: options.train])
    write_items(options.folder / "test.jsonl", ranked[options.train :])


def config_of(options: argparse.Namespace) -> RunConfig:
    """The run."""
    model = model_settings(MODEL)
    folder: Path = options.folder
    text = folder / "text.txt"
    text.write_text("The model brings its own words.\n", encoding="utf-8")
    train = {
        "micro_batch": 1, "global_batch": 8, "lr": options.lr, "schedule": "linear", "min_lr_fraction": 0.0,
        "lora": {"rank": 8, "alpha": 16}, "evaluate_every": 10_000,
    }  # fmt: skip
    recipe = {
        "set": "hotpotqa",
        "sets": str(folder / "sets.yaml"),
        "train": str(folder / "train.jsonl"),
        "test": str(folder / "test.jsonl"),
        "rationale": {"teacher": {"kind": "engine", "concurrency": 8}, "max_tokens": 80, "keep_cut": True},
        "demonstrations": {"with_answer": True},
        "modes": MODES,
        "max_new_tokens": 80,
        "batch_size": 8,
        "tune": {"start_from": str(model["generate"]["checkpoint"]), "epochs": options.epochs, "train": train,
                 "sequence_length": 1024},
    }  # fmt: skip
    (folder / "sets.yaml").write_text(
        "hotpotqa: {title: HotpotQA, task: hotpotqa, documents: 3, metrics: [match_norm, word_recall, f1]}\n",
        encoding="utf-8",
    )
    multi_hop = {
        "answer": {
            "questions": str(folder / "test.jsonl"), "count": None, "form": "chat", "batch_size": 8,
            "retriever": {"kind": "contexts", "n": 2},
            "model": {"path": str(model["generate"]["checkpoint"]), "sequence_length": 2048, "max_new_tokens": 80},
        }
    }  # fmt: skip
    return run_config_of(
        {
            "run_dir": folder / "run",
            "corpus": {"sources": [{"name": "text", "path": text}], "split": [1, 0, 0], "min_words": 1,
                       "tokenizer": model["tokenizer"]},
            "generate": {**model["generate"], "sequence_length": 2048},
            "recipe": {"instruct_rag": recipe, "multi_hop": multi_hop},
        }
    )  # fmt: skip


def main() -> None:
    """Make everything, and write the page."""
    options = arguments()
    prepare(options)
    config = config_of(options)
    for name in ("corpus", "db"):
        stage(name).run(config)
    run_recipe(RECIPES.find("instruct_rag", "recipe"), config)
    for step in ("answer", "scores"):
        run_recipe(RECIPES.find("multi_hop", "recipe"), config, step)
    numbers = results(config)
    text = page(numbers, options)
    print(text)
    if not options.dry:
        print(write("instruct_rag", text, {"machine": machine("cpu"), **numbers}))


def results(config: RunConfig) -> dict[str, Any]:
    """What was measured."""
    home = config.run_dir / "recipe_instruct_rag"

    def read(path: Path) -> Any:
        return read_json(path, "Run the benchmark again")

    reports = {step: read(home / step / "report.json")["seconds"] for step in ("rationales", "tune", "answer")}
    hops = read(config.run_dir / "recipe_multi_hop" / "scores" / "evaluate" / "scores.json")
    return {
        "modes": read(home / "scores" / "modes.json"),
        "recall": read(home / "data" / "recall.json"),
        "rationales": read(home / "rationales" / "manifest.json")["counts"],
        "tune": read(home / "tune" / "manifest.json")["counts"],
        "decomposition": hops["settings"],
        "seconds": reports,
    }


def page(numbers: dict[str, Any], options: argparse.Namespace) -> str:
    """The results as Markdown."""
    table, made = numbers["modes"], numbers["rationales"]
    command = (
        f"python -m benchmarks.instruct_rag DIR --hotpotqa hotpot_dev_distractor_v1.json --train {options.train} "
        f"--test {options.test}"
    )
    seconds = numbers["seconds"]
    parts = [
        "# Rationales with SmolLM2-135M on HotpotQA",
        f"{machine('cpu')}. `{command}`",
        f"{options.test} test questions and {options.train} training questions of HotpotQA's distractor setting, drawn "
        "by seed; of the ten paragraphs of each the three that a small sentence embedder ranks best are shown, and in "
        f"{100 * numbers['recall']['test.jsonl']['3']:.0f} % of the test questions one of them holds the answer. "
        "SmolLM2-135M-Instruct, greedy, through its chat template.",
        f"Its own rationales, told the answer, contain it in {made['consistent']} of {made['rationales']} cases "
        f"({made['consistent_with_answer_in_documents']} of {made['answer_in_documents']} where a document holds it); "
        f"{made['cut']} were cut at 80 tokens. "
        f"Tuned on all of them with LoRA of rank 8, {options.epochs:g} times, lr {options.lr:g}. Rationales took "
        f"{seconds['rationales']:.0f} s, tuning {seconds['tune']:.0f} s, answering in four modes "
        f"{seconds['answer']:.0f} s.",
        _table(table, numbers["decomposition"]),
        "An answer counts (accuracy) if it is a substring of the output, both normalized; 95 % bootstrap intervals, "
        "McNemar's test.",
        _differences(table),
        "**No difference here is more than chance**, and the model is too small for the method: most of its rationales "
        "go round in circles about titles of documents, and it learns to do the same. The paper's models have 8 and 70 "
        "billion weights. That the path works with rationales worth learning shows in the world of rules of the "
        "[recipe's page](../../retro/recipes/instruct_rag/README.md).",
    ]
    return "\n\n".join(parts) + "\n"


def _table(table: dict[str, Any], decomposition: dict[str, Any]) -> str:
    names = ["match_norm", "word_recall", "f1"]
    rows = ["| | accuracy | word recall | F1 |", "|---|---:|---:|---:|"]
    for mode in MODES:
        means = table["modes"][mode]
        rows.append(f"| {_WORDS[mode]} | {' | '.join(interval(means[name]) for name in names)} |")
    for name, means in decomposition.items():
        if name in ("answer", "whole_text"):
            words = "decomposition, two documents a search" + (", whole text" if name == "whole_text" else "")
            rows.append(f"| {words} | {' | '.join(interval(means[one]) for one in names)} |")
    return "\n".join(rows)


def _differences(table: dict[str, Any]) -> str:
    lines = []
    for name, one in table["differences"].items():
        found = one["difference"]
        lines.append(
            f"* {name}: {100 * found['mean']:+.1f} points ({100 * found['low']:+.1f} to {100 * found['high']:+.1f}), "
            f"p = {one['p']:.2g}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
