"""The ablation of the dynamic prefix in the world of facts of its tests: half an hour on one core, from the root.

    python -m benchmarks.dynamic_prefix_ablation DIR [--rows base,none,...] [--steps 2000] [--lr 2e-3]

Rows that a folder has already are kept.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from retro.recipes.base import RECIPES, recipe_path
from retro.recipes.dynamic_prefix.ablation.run import ABLATION, run_ablation
from retro.recipes.dynamic_prefix.ablation.tables import MARKDOWN
from retro.run.config import load_run_config
from tests.recipes.dynamic_prefix import fact_world, test_facts


def main() -> None:
    """Make the world and the rows, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=lambda text: text.split(","), default=[])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--lr", type=float, default=2e-3)
    options = parser.parse_args()
    folder: Path = options.folder
    if not (folder / "model" / "checkpoints").exists():
        fact_world.train_model(folder)
    settings = test_facts.settings(folder)
    settings["train"]["train"] |= {
        "steps": options.steps, "lr": options.lr, "save_every": options.steps, "evaluate_every": options.steps,
    }  # fmt: skip
    test = fact_world.questions(300, 77, held_out=True, documents=test_facts.DOCUMENTS)
    settings["data"]["test"] = str(fact_world.write_questions(folder / "test.jsonl", test))
    settings["answer"] = {"max_new_tokens": 3, "batch_size": 100}
    settings["ablate"] = {"heads": [1, 2, 8], "documents": [1, 2], "static": 4, "only": options.rows}
    config = load_run_config(None, [f"run_dir={folder}/run", f"recipe.dynamic_prefix={json.dumps(settings)}"])
    recipe = RECIPES.find("dynamic_prefix", "recipe")
    run_ablation(recipe, config)
    print((recipe_path(config, recipe) / ABLATION / MARKDOWN).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
