"""Self-RAG with SmolLM2-135M and LoRA on questions about installed packages' documentation.

    python -m benchmarks.self_rag DIR [--train 300] [--test 100] [--epochs 3] [--documents ...]

Training data is made by rules where the recipe has a critic: of the passages that BM25 finds, the section that states
the answer is relevant and supports it, the others are irrelevant; instructions to repeat words need no passage. The
questions are the quickstart's: those tuned on are of the half that it chooses settings on, those reported of the half
that it holds out. Answers in each mode on a mixed set, half of it instructions that need no passage.
"""

from __future__ import annotations

import argparse
import json
import random
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.results import machine, write
from retro.common.files import write_plain_json
from retro.common.statistics import estimate
from retro.qa.answer_files import read_answers
from retro.quickstart.documents import DOCUMENTS, QUESTIONS, write_documents
from retro.recipes.base import RECIPES, run_recipe
from retro.recipes.item_files import write_items
from retro.recipes.passages.search import DatabaseRetriever
from retro.recipes.self_rag.compose import JudgedItem, JudgedPassage, JudgedSentence, compose
from retro.recipes.self_rag.config import MODES, DataConfig
from retro.recipes.self_rag.generator_data import published
from retro.recipes.self_rag.tokens import FULLY, IRRELEVANT, RELEVANT, RETRIEVAL
from retro.run.config import RunConfig, run_config_of
from retro.run.documents import BY_WORDS, MODEL, build, model_settings
from retro.run.pipeline import database_dirs, stage

PACKAGES = ("numpy", "scipy", "sklearn")
FOUND = 5


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=300, help="questions tuned on")
    parser.add_argument("--test", type=int, default=60, help="questions asked, as many instructions beside them")
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--dry", action="store_true", help="print, write no page")
    return parser.parse_args()


def words_of(path: Path) -> list[str]:
    """Names in titles: what is to be repeated."""
    titles = {json.loads(line)["title"] for line in path.read_text(encoding="utf-8").splitlines()}
    return sorted({part for title in titles for part in title.split(".") if part.isalpha() and 4 <= len(part) <= 9})


def repetitions(words: list[str], count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Instructions that need no passage."""
    for number, word in enumerate(random.Random(seed).sample(words, count)):
        text = f"Write the word {word} twice, with a comma between."
        yield {"id": f"repeat{number}", "question": text, "answers": [f"{word}, {word}"], "labels": {"kind": "repeat"}}


def run_of(folder: Path) -> RunConfig:
    """Database and index of the documents, cut with the model's own tokenizer."""
    answering = model_settings(MODEL)
    source = {"name": "documents", "path": folder / "train" / DOCUMENTS}
    corpus = {"sources": [source], "split": [1, 0, 0], "tokenizer": answering["tokenizer"]}
    return run_config_of(
        {**BY_WORDS, "run_dir": folder / "run", "corpus": corpus, "db": {"unit": "row", "window": 1024}}
    )


def training_items(
    asked: list[dict[str, Any]], others: Iterator[dict[str, Any]], retriever: DatabaseRetriever
) -> Iterator[dict[str, Any]]:
    """Samples in the published form: two of each question, one from the right section and one from another."""
    config = DataConfig(keep_no_retrieval=1.0, force_irrelevant=("other",), irrelevant_share=1.0)
    found = retriever.search([one["question"] for one in asked], FOUND)
    for number, (one, passages) in enumerate(zip(asked, found, strict=True)):
        judged = [
            JudgedPassage(
                passage=passage,
                relevance=RELEVANT if passage.document_id in one["document_ids"] else IRRELEVANT,
                support=FULLY if passage.document_id in one["document_ids"] else "",
            )
            for passage in passages
        ]
        for dataset in ("documents", "other"):
            sentence = JudgedSentence(text=one["answers"][0], decision=RETRIEVAL, passages=judged)
            item = JudgedItem(
                dataset=dataset, output=one["answers"][0], retrieves=True, utility="[Utility:5]", sentences=[sentence]
            )
            made = compose(item, config, np.random.default_rng([number, dataset == "other"]))
            yield published(number, {"instruction": one["question"], "id": one["id"]}, made.record()["segments"])
    for number, one in enumerate(others):
        item = JudgedItem(dataset="", output=one["answers"][0], retrieves=False, utility="[Utility:5]")
        made = compose(item, config, np.random.default_rng(number))
        yield published(number, {"instruction": one["question"], "id": one["id"]}, made.record()["segments"])


def prepare(options: argparse.Namespace) -> RunConfig:
    """Write documents, training data and questions; build the database. What is there is kept."""
    folder: Path = options.folder
    if not (folder / "questions.json").exists():
        write_documents(folder / "train", PACKAGES, options.train, 1, held_out=False)
        write_documents(folder / "test", PACKAGES, options.test, 1, held_out=True)
        words = words_of(folder / "train" / DOCUMENTS)
        config = run_of(folder)
        build(config, ("corpus", "db", "index"))
        retriever = DatabaseRetriever(stage("corpus").path(config), *database_dirs(config, answers=True), config.search)
        asked = json.loads((folder / "train" / QUESTIONS).read_text(encoding="utf-8"))
        write_items(folder / "samples.jsonl", training_items(asked, repetitions(words, options.train, 3), retriever))
        tested = json.loads((folder / "test" / QUESTIONS).read_text(encoding="utf-8"))
        tested = [one | {"labels": {"kind": "documents"}, "ctxs": []} for one in tested]
        # Words that nothing was tuned on.
        seen = " ".join(str(one["question"]) for one in repetitions(words, options.train, 3))
        fresh = [word for word in words if word not in seen]
        write_plain_json(folder / "questions.json", tested + list(repetitions(fresh, options.test, 5)))
    return run_of(folder)


def tuned(config: RunConfig, options: argparse.Namespace) -> RunConfig:
    """The run with the recipe's settings."""
    folder: Path = options.folder
    train = {
        "micro_batch": 4, "global_batch": 16, "lr": options.lr, "schedule": "linear", "min_lr_fraction": 0.0,
        "lora": {"rank": 8, "alpha": 16}, "evaluate_every": 10_000,
    }  # fmt: skip
    recipe = {
        "data": {"samples": str(folder / "samples.jsonl")},
        "generator": {
            "batch_size": 8,
            "tune": {
                "start_from": model_settings(MODEL)["generate"]["checkpoint"], "epochs": options.epochs, "train": train,
                "sequence_length": 512,
            },
        },
        "retrieve": str(folder / "questions.json"),
        "decode": {"modes": list(MODES), "ndocs": FOUND, "max_new_tokens": 24},
        "metrics": ["match_norm", "exact_match"],
    }  # fmt: skip
    return config.model_copy(update={"recipe": {"self_rag": json.loads(json.dumps(recipe, default=str))}})


def well_formed(answers: Path) -> list[bool]:
    """Whether each answer has the form that was learned: a support or utility token at its end, nothing behind."""
    [path] = [path for name in ("with_passages", "closed_book") if (path := answers / f"{name}.jsonl").exists()]
    found = [one.details["self_rag"]["segments"][0]["tokens"] for one in read_answers(path)]
    return [bool(tokens) and tokens[-1].startswith("[Utility:") and len(tokens) <= 3 for tokens in found]


def main() -> None:
    """Make, tune, answer, and write the page."""
    options = arguments()
    config = tuned(prepare(options), options)
    recipe = RECIPES.find("self_rag", "recipe")
    for step in ("generator", "retrieve", "answer", "scores"):
        run_recipe(recipe, config, step)
    home = config.run_dir / "recipe_self_rag"
    modes = json.loads((home / "scores" / "modes.json").read_text(encoding="utf-8"))
    reports = {
        step: json.loads((home / step / "report.json").read_text(encoding="utf-8")) for step in ("generator", "answer")
    }
    numbers: dict[str, Any] = {"machine": machine("cpu"), "modes": modes["modes"], "differences": modes["differences"]}
    numbers |= {
        "seconds": {step: one["seconds"] for step, one in reports.items()},
        "options": vars(options) | {"folder": ""},
    }
    for mode in MODES:
        lines = (home / "scores" / mode / "questions.jsonl").read_text(encoding="utf-8").splitlines()
        asked = [json.loads(line) for line in lines]
        form = well_formed(home / "answer" / mode)
        numbers["modes"][mode]["well_formed"] = sum(form) / len(form)
        for kind in ("documents", "repeat"):
            mine = [one for one in asked if one["id"].startswith("repeat") == (kind == "repeat")]
            values = [float(next(iter(one["settings"].values()))["match_norm"]) for one in mine]
            numbers["modes"][mode][kind] = asdict(estimate(values, samples=1000, confidence=0.95, seed=1))
    text = page(numbers, options)
    print(text)
    if not options.dry:
        print(write("self_rag", text, numbers))


def _share(found: dict[str, float]) -> str:
    return f"{100 * found['mean']:.1f} % ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def page(numbers: dict[str, Any], options: argparse.Namespace) -> str:
    """The results as Markdown."""
    rows = [
        f"| {mode.replace('_', ' ')} | {_share(one)} | {_share(one['documents'])} | {_share(one['repeat'])} | "
        f"{one['retrieved']} of {one['count']} | {100 * one['well_formed']:.0f} % |"
        for mode, one in numbers["modes"].items()
    ]
    differences = [
        f"* {name.replace('_', ' ')}: {100 * one['difference']['mean']:+.1f} points "
        f"({100 * one['difference']['low']:+.1f} to {100 * one['difference']['high']:+.1f}), p = {one['p']:.2g}"
        for name, one in numbers["differences"].items()
    ]
    about = (
        f"SmolLM2-135M-Instruct, LoRA of rank 8 with the rows of the 15 tokens, {options.epochs:g} times through "
        f"{3 * options.train} samples: {options.train} questions about the documentation of numpy, scipy and "
        f"scikit-learn, each with the section that answers it and with another that BM25 found, and {options.train} "
        "instructions to write a word twice. Labels by rule, no critic. Asked: as many of each kind as below, about "
        f"functions and words that nothing was tuned on, {FOUND} passages by BM25. Tuning took "
        f"{numbers['seconds']['generator']:.0f} s, answering in all modes {numbers['seconds']['answer']:.0f} s."
    )
    lines = [
        "# Self-RAG with SmolLM2-135M and LoRA",
        "",
        f"{numbers['machine']}.",
        f"`python -m benchmarks.self_rag DIR --train {options.train} --test {options.test} --epochs {options.epochs:g} "
        f"--lr {options.lr:g}`",
        "",
        textwrap.fill(about, 120),
        "",
        "| mode | all | documentation | instructions | passages read | well formed |",
        "|---|---:|---:|---:|---:|---:|",
        *rows,
        "",
        "A gold answer is a substring of the answer, both normalised (`match_norm`); 95 % bootstrap intervals, "
        "McNemar's test.",
        "",
        *differences,
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
