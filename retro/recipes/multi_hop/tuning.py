"""Tuning on the function-call conversation: items become samples, samples a tuned model, the model a folder.

samples/train.jsonl, validation.jsonl     question files whose segments are whole conversations
model/sft/                                the sft stage
export/model/                             a folder for transformers, with tokenizer and card, ready to be uploaded
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.errors import ConfigError, DataError
from retro.common.files import discard, read_json, write_plain_json
from retro.recipes.base import Made, StepRun
from retro.recipes.multi_hop import convert, create
from retro.recipes.multi_hop.conversation import END_TURN, sample_id, sample_of
from retro.recipes.multi_hop.dialogs import DialogTexts
from retro.recipes.multi_hop.item_files import parts_of, read_items, write_records
from retro.recipes.multi_hop.items import MultiHopItem
from retro.recipes.multi_hop.split import held_out
from retro.recipes.tuning import tune

log = logging.getLogger(__name__)

TRAIN, VALIDATION = "train.jsonl", "validation.jsonl"
FOLDER = "model"
"""Below the step that exports."""
_KIND = "short_span"
"""Of the samples; their prompts are in their segments, so none of its texts are used."""


def needs_of_samples(settings: Any) -> tuple[str, ...]:
    """The steps whose items are tuned on, where no file is given."""
    if settings.training.items is not None:
        return ()
    made = (("convert", settings.convert.is_given), ("create", settings.create.categories is not None))
    return tuple(name for name, wanted in made if wanted)


def tunes(settings: Any) -> bool:
    """Whether there is anything to tune on."""
    return settings.training.items is not None or bool(needs_of_samples(settings))


def write_samples(work: StepRun) -> Made:
    """Items, mixed as they are, as samples of the sft stage; items that another step made go one after another.

    Raises:
        ConfigError: There are no items, or a share of them would be held out beside a part that is.
        DataError: A file of items cannot be used.
    """
    training, system = work.settings.training, DialogTexts.load(work.settings.answer.texts).system
    sources, others = _sources(work)
    given = {"train": sources} | ({"validation": others} if others else {})
    found = {name: read_items(*paths, skip_bad=training.skip_bad) for name, paths in given.items()}
    items, held = found["train"].items, found["validation"].items if others else []
    if training.validation_share and held:
        need = f"needs to be 0: {training.items} has a validation part"
        raise ConfigError("recipe.multi_hop.training.validation_share", training.validation_share, need)
    if training.validation_share:
        items, held = held_out(items, training.validation_share, training.seed)
    parts = {"train": items} | ({"validation": held} if held else {})
    _require_ids(sources[0], parts)
    for name, part in parts.items():
        lines = (sample_of(one, number, system) for number, one in enumerate(part))
        write_records(work.directory / f"{name}.jsonl", lines)
    counts: dict[str, Any] = {name: _counts(part) for name, part in parts.items()}
    if training.skip_bad:
        counts["skipped"] = {name: dict(sorted(one.skipped.items())) for name, one in found.items()}
    return Made(files=[f"{name}.jsonl" for name in parts], counts=counts)


def _sources(work: StepRun) -> tuple[Sequence[Path], Sequence[Path]]:
    """Where items to tune on are, and those that are held out."""
    training = work.settings.training
    given = () if training.validation is None else (training.validation,)
    if training.items is not None:
        parts = parts_of(training.items)
        if "train" not in parts:
            remedy = "Give a folder with train.jsonl, or a file of items"
            raise DataError(training.items, "holds no training part", remedy)
        return parts["train"], given or parts.get("validation", ())
    made = {"convert": convert.ITEMS, "create": create.FINAL}
    found = [work.made_by(name) / made[name] for name in needs_of_samples(work.settings)]
    if not found:
        need = "needs a file of items, or the steps convert or create before this one"
        raise ConfigError("recipe.multi_hop.training.items", None, need)
    return found, given


def _counts(items: Sequence[MultiHopItem]) -> dict[str, int]:
    several = sum(one.multihop for one in items)
    return {"multi_hop": several, "single_hop": len(items) - several}


def _require_ids(source: Path, parts: Mapping[str, Sequence[MultiHopItem]]) -> None:
    """Check that no two items share an id, as their samples are named, which would be said only later.

    Raises:
        DataError: Two do, in one part, or in training and validation: an item would be validated on that was learned.
    """
    given = Counter(one.id for part in parts.values() for one in part if one.id)
    named = (Counter(sample_id(one, number) for number, one in enumerate(part)) for part in parts.values())
    for ids in (given, *named):
        name, count = ids.most_common(1)[0] if ids else ("", 0)
        if count > 1:
            problem = f"has two items with the id {name!r}; one without an id is called by its number, from 0"
            raise DataError(source, problem, "Give every item its own, or none")


def tune_model(work: StepRun) -> Made:
    """The sft stage on the samples; LoRA trains the rows of the new tokens beside its adapters.

    Raises:
        ConfigError: The base is quantised.
        RetroError: As the sft stage.
    """
    config = work.settings.training.tune
    require_whole_numbers(config.start_from or work.config.sft.start_from)
    samples = work.made_by("samples")
    held_out = samples / VALIDATION if (samples / VALIDATION).exists() else None
    ways = {"style": "plain", "contexts_in_prompt": 0}
    return tune(work, config, samples / TRAIN, held_out, "multi_hop", kind=_KIND, **ways)


def require_whole_numbers(base: Path | None) -> None:
    """Check that the model to be tuned is not quantised.

    Raises:
        ConfigError: It is.
    """
    settings = base / "config.json" if base is not None else None
    if settings is None or not settings.is_file():
        return
    found = read_json(settings, "Fetch the folder again")
    if isinstance(found, dict) and found.get("quantization_config"):
        method = found["quantization_config"].get("quant_method", "some method")
        need = (
            f"needs the model in float32 or bfloat16: this one is quantised ({method}). Its weights are rounded, and "
            "gradients through them are those of another model than the one that adapters are merged into; bfloat16 "
            "with recompute=full takes little more memory"
        )
        raise ConfigError("recipe.multi_hop.training.tune.start_from", str(base), need)


def export_model(work: StepRun) -> Made:
    """The tuned model as a folder that can be uploaded as it is: weights with adapters merged, tokenizer, card.

    Nothing is sent. The log has the command that would.

    Raises:
        RetroError: As `retro export`.
    """
    from retro.interop.export import export

    folder = work.directory / FOLDER
    discard(folder)
    export(work.made_by("model") / "sft", folder, decoder_only=True, run_dir=work.config.run_dir)
    _end_at_turns(folder)
    _describe_conversation(folder, DialogTexts.load(work.settings.answer.texts).system)
    files = sorted(str(path.relative_to(work.directory)) for path in folder.rglob("*") if path.is_file())
    size = sum((work.directory / name).stat().st_size for name in files)
    log.info("export: %d files, %d bytes. To upload: hf upload NAME %s", len(files), size, folder)
    return Made(files=files, counts={"files": len(files)}, report={"bytes": size})


def _end_at_turns(folder: Path) -> None:
    """Have other programs end a turn where the model does."""
    tokens = {one["content"]: one["id"] for one in read_json(folder / "tokenizer.json", "Export again")["added_tokens"]}
    path = folder / "generation_config.json"
    settings = read_json(path, "Export again")
    ends = settings["eos_token_id"]
    known = ends if isinstance(ends, list) else [ends]
    write_plain_json(path, settings | {"eos_token_id": list(dict.fromkeys([*known, tokens[END_TURN]]))})


_CARD = """
## How it is asked

It was tuned to look things up with a function call, one for each sub-question. Turns end with `<|eot|>` and a line
break; a prompt ends with `assistant:`. A reply that holds a call is followed by a turn `retrieved context:`.

```
system: {system}<|eot|>
user: QUESTION<|eot|>
assistant:<|bof|>retrieve:
{call}<|eof|><|eot|>
retrieved context: PASSAGES<|eot|>
assistant:
```

`recipe.multi_hop.answer` of instruct-retro runs the loop: with its own engine, transformers, vLLM or llama.cpp.
"""


def _describe_conversation(folder: Path, system: str) -> None:
    card = folder / "README.md"
    call = json.dumps({"query": "SUB-QUESTION"})
    text = card.read_text(encoding="utf-8").rstrip("\n")
    card.write_text(f"{text}\n{_CARD.format(system=system, call=call)}", encoding="utf-8")
