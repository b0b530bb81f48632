"""SmolLM2-135M between memory and passages: ConflictQA and HotpotQA, by the recipe knowledge_conflict.

    python -m benchmarks.knowledge_conflict DIR --conflictqa conflictqa_strategyqa_llama2_7b.jsonl
        --hotpotqa hotpot_dev_distractor_v1.json [--limit 60]

ConflictQA is asked with both answers and `uncertain` as options; its memory is Llama 2's, not SmolLM2's. In HotpotQA's
supporting paragraphs the answer gives way to that of another question.
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.results import machine, write
from retro.recipes.base import RECIPES, run_recipe
from retro.recipes.knowledge_conflict.items import in_order
from retro.recipes.knowledge_conflict.quadrants import QUADRANTS
from retro.recipes.knowledge_conflict.tables import WORDS, cell, mean_cell, words_of
from retro.run.config import RunConfig, run_config_of
from retro.run.documents import MODEL, model_settings

_SHARED = ["original", "irrelevant", "original_first", "counter_first"]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--conflictqa", type=Path, required=True)
    parser.add_argument("--hotpotqa", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=60, help="questions of each set")
    parser.add_argument("--dry", action="store_true", help="print, write no page")
    return parser.parse_args()


def configs(options: argparse.Namespace) -> dict[str, RunConfig]:
    """A run for each set."""
    checkpoint = str(model_settings(MODEL)["generate"]["checkpoint"])
    sets: dict[str, dict[str, Any]] = {
        "ConflictQA (StrategyQA), both answers as options": {
            "questions": str(options.conflictqa), "form": "conflictqa", "choices": True,
            "conditions": [*_SHARED, "counter_memory"],
        },
        "ConflictQA (StrategyQA), true or false": {
            "questions": str(options.conflictqa), "form": "conflictqa", "conditions": [*_SHARED, "counter_memory"],
        },
        "HotpotQA": {
            "questions": str(options.hotpotqa), "task": "hotpotqa", "passages": 1,
            "conditions": [*_SHARED, "substituted", "unanswerable"],
        },
    }  # fmt: skip
    generate = {"checkpoint": checkpoint, "style": "chat", "max_new_tokens": 24, "batch_size": 8}
    found = {}
    for name, one in sets.items():
        recipe = {"sets": {**one, "limit": options.limit}, "instruction": "task" if "form" in one else "abstain"}
        folder = options.folder / re.sub(r"\W+", "_", name.lower())
        found[name] = run_config_of({"run_dir": folder, "generate": generate, "recipe": {"knowledge_conflict": recipe}})
    return found


def main() -> None:
    """Ask, and write the page."""
    options, numbers = arguments(), dict[str, Any]()
    for name, config in configs(options).items():
        run_recipe(RECIPES.find("knowledge_conflict", "recipe"), config)
        home = config.run_dir / "recipe_knowledge_conflict"
        numbers[name] = json.loads((home / "scores" / "conflicts.json").read_text(encoding="utf-8"))
        del numbers[name]["model"]
        seconds = {
            step: json.loads((home / step / "report.json").read_text(encoding="utf-8"))["seconds"]
            for step in ("answers", "confidence")
        }
        sets = json.loads((home / "sets" / "manifest.json").read_text(encoding="utf-8"))["counts"]
        numbers[name] |= {"seconds": seconds, "sets": sets}
    text = page(numbers, options)
    print(text)
    if not options.dry:
        shown = {name: _shown(found) for name, found in numbers.items()}
        print(write("knowledge_conflict", text, {"machine": machine("cpu"), "sets": shown}))


def _shown(found: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that the page has."""
    kept: dict[str, Any] = {name: found[name] for name in ("items", "metric", "quadrants", "sets", "seconds")}
    for name, one in {"closed_book": found["closed_book"], **found["conditions"]}.items():
        sure = one["confidence"]["mean"]
        kept[name] = {"right": one["right"], "original": one["original"], "counter": one.get("counter")}
        kept[name] |= {"memorisation_ratio": one.get("memorisation_ratio", {}).get("all")}
        kept[name] |= {"abstains": one["abstains"]["all"], "log_p": {"original": sure["original"]}}
        kept[name]["log_p"]["counter"] = sure["counter"]
    return kept


def page(numbers: Mapping[str, Any], options: argparse.Namespace) -> str:
    """The results as Markdown."""
    command = f"python -m benchmarks.knowledge_conflict DIR --limit {options.limit} --conflictqa … --hotpotqa …"
    parts = ["# SmolLM2-135M between memory and passages", f"{machine('cpu')}. `{command}`"]
    parts += [
        "SmolLM2-135M-Instruct, greedy, as the recipe "
        "[knowledge_conflict](../../retro/recipes/knowledge_conflict/README.md) asks it. Shares are in percent with "
        "Wilson's 95 % intervals and their numbers; M_R: of the answers with one of the two, the share with the "
        "original; log-probabilities are means per token, with bootstrap intervals."
    ]
    for name, found in numbers.items():
        parts += [f"## {name}", _facts(found), _quadrants(found), _table(found)]
    wrapped = [one if one.startswith(("#", "|")) else textwrap.fill(one, 120, break_on_hyphens=False) for one in parts]
    return "\n\n".join(filter(None, wrapped)) + "\n"


def _facts(found: Mapping[str, Any]) -> str:
    lacking = "; ".join(
        f"{words_of(name)} {', '.join(f'{reason} {count}' for reason, count in reasons.items())}"
        for name, reasons in found["sets"]["lacking"].items()
    )
    seconds = found["seconds"]
    return (
        f"{found['items']} questions, right by `{found['metric']}`. Answering took {seconds['answers']:.0f} s, scoring "
        f"candidates {seconds['confidence']:.0f} s." + (f" Without a condition: {lacking}." if lacking else "")
    )


def _table(found: Mapping[str, Any]) -> str:
    heads = (
        "condition",
        "right",
        "original answer",
        "other answer",
        "M_R",
        "abstains",
        "log p(original)",
        "log p(other)",
    )
    rows = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for name in in_order(["closed_book", *found["conditions"]]):
        one = found["conditions"].get(name, found["closed_book"])
        ratio = one.get("memorisation_ratio", {}).get("all")
        cells = [cell(one["right"]), cell(one["original"]), cell(one.get("counter")), cell(ratio)]
        sure = one["confidence"]["mean"]
        cells += [cell(one["abstains"]["all"]), mean_cell(sure["original"]), mean_cell(sure["counter"])]
        rows.append(f"| {words_of(name)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _quadrants(found: Mapping[str, Any]) -> str:
    if not found["quadrants"]["both"]["of"]:
        return ""
    shares = "; ".join(f"{WORDS[name]} {cell(found['quadrants'][name])}" for name in QUADRANTS)
    return f"Quadrants of closed-book and {words_of(found['quadrants_of'])}: {shares}."


if __name__ == "__main__":
    main()
