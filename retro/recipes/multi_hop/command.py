"""Commands with the names and flags that users of the original know, and one that converts files of items.

python -m retro.recipes.multi_hop create --category-path FILE --output-folder DIR [--num-items-per-category 1]
    [--flow entities|attributes|comparison] [--multi-qa-prompt FILE] [--temperature 0.7] [--re-generate-answer]
    [--llm MODEL|URL] [--continue-gen | --no-continue] [--redo]
python -m retro.recipes.multi_hop convert-format IN [IN ...] OUT [--layout new|old] [--skip-bad]
    [--validation-share 0.1] [--seed 1234]
python -m retro.recipes.multi_hop evaluate | ask | compare, see answer_command.py

Settings of a run may follow, as in `recipe.multi_hop.create.negative_share=0.2`. `create` keeps its work in DIR: a call
that was stopped goes on, and asks for nothing twice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retro.common.errors import ConfigError
from retro.qa.formats.item import BadItemError
from retro.recipes import flags
from retro.recipes.multi_hop.answer_command import (
    ASK_FLAGS,
    COMPARE_FLAGS,
    EVALUATE_FLAGS,
    ask,
    compare,
    evaluate,
)
from retro.recipes.multi_hop.config import FLOWS
from retro.recipes.multi_hop.item_files import ItemFile, parts_of, read_items, write_items
from retro.recipes.multi_hop.items import LAYOUTS, MultiHopItem, final_answer_parts, long_answer_parts
from retro.recipes.multi_hop.split import held_out

PROGRAM = "python -m retro.recipes.multi_hop"
_CREATE = "recipe.multi_hop.create"
_WRITTEN = {"raw.jsonl": "raw_multi_hop_qa.json", "filtered.jsonl": "filtered.json", "final.jsonl": "final.json"}
"""Files of the step, and what the original calls them."""
_CREATE_FLAGS: flags.Flags = {
    "--category-path": {"type": Path, "required": True, "help": "file of categories, with commas between them"},
    "--output-folder": {"type": Path, "required": True, "help": "where results go; work is kept there too"},
    "--flow": {"choices": FLOWS, "default": "entities", "help": "two entities (default), two attributes, or 12 steps"},
    "--num-items-per-category": {"type": int, "default": 1, "help": "questions of each category (default 1)"},
    "--multi-qa-prompt": {
        "type": Path,
        "help": "a text in place of the flow's prompt, or a .yaml laid over all of them",
    },
    "--temperature": {"type": float, "default": 0.7, "help": "of questions and paragraphs (default 0.7)"},
    "--re-generate-answer": {"action": "store_true", "help": "ask for the answers by themselves, at temperature 0"},
    "--continue-gen": {"action": "store_true", "help": "go on from what is there, which is done in any case"},
    "--no-continue": {"action": "store_true", "help": "remove what is there first, the replies too"},
    "--redo": {"action": "store_true", "help": "make items again, where the settings are others now; replies are kept"},
    "--llm": {"help": "the teacher: a model's name at OpenAI, or the address of a server, as http://127.0.0.1:8000/v1"},
}
_CONVERT_FLAGS: flags.Flags = {
    "--layout": {"choices": LAYOUTS, "default": "new", "help": "what is written (default new); both are read"},
    "--skip-bad": {"action": "store_true", "help": "leave out, and count, items that cannot be used"},
    "--validation-share": {"type": float, "default": 0.0, "help": "share of all items that is held out, as validation"},
    "--seed": {"type": int, "default": 1234, "help": "which are held out"},
}
_INAPPLICABLE = {
    "--prompt-type": "a server writes the messages in the form that its model knows",
    "--gen-paragraph-prompt": "paragraphs come with the question, from the steps of the flow",
}


@dataclass(frozen=True)
class _Command:
    summary: str
    flags: flags.Flags
    run: Callable[[argparse.Namespace, Sequence[str]], str]


def main(words: Sequence[str]) -> int:
    """A command, flags, settings; see `retro.recipes.flags.main`."""
    return flags.main(run, words)


def run(words: Sequence[str]) -> str:
    """As `main`, but errors are raised; gives what was made, in a line.

    Raises:
        ConfigError: There is no such command, flag or setting, or one that does nothing here.
        RetroError: As the commands say.
    """
    name = flags.command_of(PROGRAM, words, list(COMMANDS))
    command = COMMANDS[name]
    given, rest = flags.parse(f"{PROGRAM} {name}", words[1:], command.summary, command.flags, _INAPPLICABLE)
    return command.run(given, rest)


def _create(given: argparse.Namespace, settings: Sequence[str]) -> str:
    from retro.common.files import discard
    from retro.recipes.base import RECIPES, run_recipe
    from retro.recipes.multi_hop.create import FINAL
    from retro.run.config import load_run_config

    bad = [word for word in settings if "=" not in word]
    if bad:
        raise ConfigError("settings", bad[0], "needs the form section.setting=value")
    if given.no_continue and given.continue_gen:
        raise ConfigError("--no-continue", True, "needs to be left out beside --continue-gen, which is its opposite")
    home = given.output_folder / "recipe_multi_hop"
    own = (f"{name}={json.dumps(value)}" for name, value in settings_of(given).items())
    config = load_run_config(None, [*own, *settings])
    if given.no_continue:
        discard(home)
    run_recipe(RECIPES.find("multi_hop", "recipe"), config, "create", redo=given.redo)
    return _results(home / "create", given.output_folder, FINAL)


def settings_of(given: argparse.Namespace) -> dict[str, Any]:
    """The settings of a run that the flags of `create` ask for."""
    teacher: dict[str, Any] = {}
    if given.llm is not None and "://" in given.llm:
        # A server of one's own: what it calls its model, and its key, are settings.
        teacher = {"kind": "openai", "base_url": given.llm, "model": "default", "api_key_env": ""}
    elif given.llm is not None:
        teacher = {"kind": "openai", "model": given.llm}
    return {
        "run_dir": str(given.output_folder),
        f"{_CREATE}.categories": str(given.category_path),
        f"{_CREATE}.flows": [given.flow],
        f"{_CREATE}.items_per_category": given.num_items_per_category,
        f"{_CREATE}.temperature": [given.temperature, given.temperature],
        f"{_CREATE}.re_generate_answer": given.re_generate_answer,
        **({f"{_CREATE}.teacher": teacher} if teacher else {}),
        **({"recipe.multi_hop.prompts": str(_prompts(given))} if given.multi_qa_prompt else {}),
    }


def _prompts(given: argparse.Namespace) -> Path:
    """A file laid over the prompts: the one given, or one in which the text given is the flow's."""
    path: Path = given.multi_qa_prompt
    if path.suffix in (".yaml", ".yml"):
        return path
    from retro.common.errors import DataError
    from retro.common.files import write_plain_json
    from retro.common.input_files import read_text

    task = read_text(
        path, "Give a text with {category}, and {steps} or a line `+ Field:` for each step", error=DataError
    )
    made: Path = given.output_folder / "prompts.yaml"
    # JSON is YAML.
    write_plain_json(made, {"name": path.stem, "version": 1, "create": {given.flow: {"task": task}}})
    return made


def _results(step: Path, out: Path, final: str) -> str:
    """The step's files under the original's names, as JSON lists."""
    from retro.common.json_files import json_items, read_text
    from retro.recipes.multi_hop.item_files import write_records

    counts: dict[str, int] = {}
    for name, written in _WRITTEN.items():
        records = [one.value for one in json_items(step / name, read_text(step / name))]
        write_records(out / written, records)
        counts[name] = len(records)
    return f"{counts[final]} items of {counts['filtered.jsonl']} questions in {out / _WRITTEN[final]}"


def _convert_format(given: argparse.Namespace, words: Sequence[str]) -> str:
    if len(words) < 2:
        raise ConfigError("convert-format", list(words), "needs two paths: what is read, and where it goes")
    *sources, out = map(Path, words)
    if not 0 <= given.validation_share < 1:
        raise ConfigError("--validation-share", given.validation_share, "needs a share from 0 up to 1")
    to_folder = bool(given.validation_share) or any(one.is_dir() for one in sources)
    if to_folder and out.suffix in (".json", ".jsonl"):
        raise ConfigError("OUT", str(out), "needs to be a folder where IN is one, or a part is held out")
    parts = _parts(sources, skip_bad=given.skip_bad)
    if given.validation_share:
        parts = _split(parts, given.validation_share, given.seed)
    for part, found in parts.items():
        write_items(out / f"{part}.jsonl" if to_folder else out, found.items, given.layout)
    said = (f"{part}: {_line(found)}" if to_folder else _line(found) for part, found in parts.items())
    return f"{'; '.join(said)}; in {out}"


def _parts(sources: Sequence[Path], *, skip_bad: bool) -> dict[str, ItemFile]:
    """The parts of all sources, joined in their order."""
    places: dict[str, list[Path]] = {}
    for source in sources:
        for part, paths in parts_of(source).items():
            places.setdefault(part, []).extend(paths)
    return {part: read_items(*paths, skip_bad=skip_bad) for part, paths in places.items()}


def _split(parts: Mapping[str, ItemFile], share: float, seed: int) -> dict[str, ItemFile]:
    """Training items, a share of them held out.

    Raises:
        ConfigError: Some are held out already, or nothing is left for a part.
    """
    if list(parts) != ["train"]:
        need = f"needs to be left out: IN has the parts {', '.join(parts)}"
        raise ConfigError("--validation-share", share, need)
    found = parts["train"]
    train, validation = held_out(found.items, share, seed)
    if not train or not validation:
        raise ConfigError("--validation-share", share, f"needs to leave an item to each part of {len(found.items)}")
    return {"train": ItemFile(items=train, skipped=found.skipped), "validation": ItemFile(items=validation)}


def _line(found: ItemFile) -> str:
    """What a file holds: `12 items, 5 multi-hop, 2 left out (no_question 2)`."""
    multihop = [one for one in found.items if one.multihop]
    facts = [f"{len(found.items)} items, {len(multihop)} multi-hop"]
    other = sum(not _has_form(one) for one in multihop)
    if other:
        facts.append(f"{other} with answers that are not in the form with `Answer:`")
    if found.skipped:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(found.skipped.items()))
        facts.append(f"{found.skipped.total()} left out ({reasons})")
    return ", ".join(facts)


def _has_form(item: MultiHopItem) -> bool:
    try:
        final_answer_parts(item.final_answer)
        for one in item.sub_questions:
            long_answer_parts(one.long_answer)
    except BadItemError:
        return False
    return True


COMMANDS: Mapping[str, _Command] = {
    "create": _Command("Make multi-hop questions with a teacher.", _CREATE_FLAGS, _create),
    "convert-format": _Command("Convert files or folders of items: IN [IN ...] OUT.", _CONVERT_FLAGS, _convert_format),
    "evaluate": _Command("Answer questions of HotpotQA and score them.", EVALUATE_FLAGS, evaluate),
    "ask": _Command("Answer one question from a folder of texts, step by step.", ASK_FLAGS, ask),
    "compare": _Command("Compare what two calls of evaluate saved: A B.", COMPARE_FLAGS, compare),
}
