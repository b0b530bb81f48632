"""The ablation of the dynamic prefix in the world of facts of its tests: minutes on one core, from the root.

python -m benchmarks.dynamic_prefix_ablation DIR [base,none,prompt,static,length-1,length-4,cross-attention]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from retro.recipes.base import RECIPES, recipe_path
from retro.recipes.dynamic_prefix.ablation.run import ABLATION, run_ablation
from retro.recipes.dynamic_prefix.ablation.tables import MARKDOWN
from retro.run.config import load_run_config
from tests.recipes.dynamic_prefix import fact_world, test_facts

ROWS = "base,none,prompt,static,length-1,length-4,cross-attention"


def main() -> None:
    """Make the world and the rows, and print the table."""
    folder, rows = Path(sys.argv[1]), (sys.argv[2] if len(sys.argv) > 2 else ROWS).split(",")
    if not (folder / "model" / "checkpoints").exists():
        fact_world.train_model(folder)
    settings = test_facts.settings(folder)
    test = fact_world.questions(300, 77, held_out=True, documents=test_facts.DOCUMENTS)
    settings["data"]["test"] = str(fact_world.write_questions(folder / "test.jsonl", test))
    settings["answer"] = {"max_new_tokens": 3, "batch_size": 100}
    settings["ablate"] = {"lengths": [1, 2, 4], "static": 4, "only": rows}
    config = load_run_config(None, [f"run_dir={folder}/run", f"recipe.dynamic_prefix={json.dumps(settings)}"])
    recipe = RECIPES.find("dynamic_prefix", "recipe")
    run_ablation(recipe, config)
    print((recipe_path(config, recipe) / ABLATION / MARKDOWN).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
