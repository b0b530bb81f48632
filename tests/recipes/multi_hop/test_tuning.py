"""Tuning: samples of items, what is refused, Llama's and Mistral's shapes with LoRA, the exported folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from retro.common.errors import ConfigError, DataError
from retro.recipes.base import StepRun, run_recipe
from retro.recipes.multi_hop.config import MultiHopConfig
from retro.recipes.multi_hop.conversation import TOKENS
from retro.recipes.multi_hop.item_files import write_items
from retro.recipes.multi_hop.tuning import needs_of_samples, require_whole_numbers, tunes
from retro.run.config import RunConfig
from retro.training import checkpoint
from retro.training.result import of_stage
from tests.recipes.multi_hop import fact_world as world
from tests.recipes.multi_hop.fact_run import RECIPE, home, read, read_settings


def changed(made: RunConfig, run_dir: Path, **training: Any) -> RunConfig:
    """The run with another way of tuning, its stages linked."""
    run_dir.mkdir()
    for path in made.run_dir.iterdir():
        if path.name[0].isdigit():
            (run_dir / path.name).symlink_to(path)
    settings = read_settings(made)
    settings["training"] |= training
    return made.model_copy(update={"run_dir": run_dir, "recipe": {"multi_hop": settings}})


def test_what_is_tuned_on_is_a_file_or_what_other_steps_made() -> None:
    assert not tunes(MultiHopConfig())
    both = MultiHopConfig(convert={"boolq": {"path": "b"}}, create={"categories": "c"})
    assert needs_of_samples(both) == ("convert", "create")
    assert tunes(both)
    given = MultiHopConfig(convert={"boolq": {"path": "b"}}, training={"items": "i"})
    assert needs_of_samples(given) == ()


def test_a_folder_of_items_brings_its_validation_part(made: RunConfig, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_items(data / "train.jsonl", world.items(20, 1))
    write_items(data / "validation.jsonl", world.items(4, 2))
    config = changed(made, tmp_path / "run", items=str(data))
    run_recipe(RECIPE, config, "samples")
    counts = read(home(config) / "samples" / "manifest.json")["counts"]
    assert counts == {
        "train": {"multi_hop": 15, "single_hop": 5},
        "validation": {"multi_hop": 3, "single_hop": 1},
    }
    run_recipe(RECIPE, config, "model")
    log = next((home(config) / "model" / "sft").glob("*/log.jsonl")).read_text()
    assert "valid_loss" in log


def test_a_share_of_the_items_is_held_out_on_request(made: RunConfig, tmp_path: Path) -> None:
    config = changed(made, tmp_path / "run", validation_share=0.25)
    run_recipe(RECIPE, config, "samples")
    counts = read(home(config) / "samples" / "manifest.json")["counts"]
    held = sum(counts["validation"].values())
    assert 5 <= held <= 30
    assert sum(counts["train"].values()) + held == 64
    data = tmp_path / "data"
    data.mkdir()
    for part in ("train", "validation"):
        write_items(data / f"{part}.jsonl", world.items(4, 2))
    both = changed(made, tmp_path / "both", items=str(data), validation_share=0.5)
    with pytest.raises(ConfigError, match=r"validation_share = 0.5: needs to be 0: .*data has a validation part"):
        run_recipe(RECIPE, both, "samples")
    with pytest.raises(ConfigError, match=r"validation_share = 0\.5: needs 0 beside a file of validation items"):
        MultiHopConfig(training={"validation": "v", "validation_share": 0.5})


def test_items_that_cannot_be_tuned_on_are_refused(made: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps({"question": "q", "final_answer": "a"}) + "\n")
    with pytest.raises(DataError, match="has no 'sub_questions'"):
        run_recipe(RECIPE, changed(made, tmp_path / "a", items=str(path)), "samples")
    item = {"id": "7", "question": "q", "sub_questions": [{"question": "q", "long_answer": "a"}], "final_answer": "a"}
    path.write_text((json.dumps(item) + "\n") * 2)
    with pytest.raises(DataError, match="has two items with the id '7'"):
        run_recipe(RECIPE, changed(made, tmp_path / "b", items=str(path)), "samples")
    with pytest.raises(ConfigError, match=r"training.items = None: needs a file of items, or the steps convert"):
        run_recipe(RECIPE, changed(made, tmp_path / "c", items=None), "samples")
    folder = tmp_path / "data"
    folder.mkdir()
    write_items(folder / "validation.jsonl", world.items(4, 2))
    with pytest.raises(DataError, match="holds no training part"):
        run_recipe(RECIPE, changed(made, tmp_path / "d", items=str(folder)), "samples")


def lines(path: Path, *records: Any) -> str:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return str(path)


def test_ids_are_checked_as_samples_have_them_and_over_both_parts(made: RunConfig, tmp_path: Path) -> None:
    item = {"question": "q", "sub_questions": [{"question": "q", "long_answer": "a"}], "final_answer": "a"}
    # The first has none, so its sample is number 0.
    given = lines(tmp_path / "a.jsonl", item, item | {"id": "0"})
    with pytest.raises(DataError, match="has two items with the id '0'; one without an id is called by its number"):
        run_recipe(RECIPE, changed(made, tmp_path / "a", items=given), "samples")
    given = lines(tmp_path / "b.jsonl", item | {"id": "x"})
    with pytest.raises(DataError, match="has two items with the id 'x'"):
        run_recipe(RECIPE, changed(made, tmp_path / "b", items=given, validation=given), "samples")
    without = lines(tmp_path / "c.jsonl", item)
    run_recipe(RECIPE, changed(made, tmp_path / "c", items=without, validation=without), "samples")


def test_items_that_cannot_be_tuned_on_are_left_out_on_request(made: RunConfig, tmp_path: Path) -> None:
    item = {"question": "q", "sub_questions": [{"question": "q", "long_answer": "a"}], "final_answer": "a"}
    given = lines(tmp_path / "a.jsonl", item, item | {"final_answer": ""})
    with pytest.raises(DataError, match=r"line 2 .*training\.skip_bad=true"):
        run_recipe(RECIPE, changed(made, tmp_path / "a", items=given), "samples")
    config = changed(made, tmp_path / "b", items=given, skip_bad=True)
    run_recipe(RECIPE, config, "samples")
    counts = read(home(config) / "samples" / "manifest.json")["counts"]
    assert counts == {"train": {"multi_hop": 0, "single_hop": 1}, "skipped": {"train": {"no_final_answer": 1}}}


def test_a_quantised_base_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "bitsandbytes"}}))
    with pytest.raises(ConfigError, match=r"this one is quantised \(bitsandbytes\). Its weights are rounded, and grad"):
        require_whole_numbers(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    require_whole_numbers(tmp_path)
    require_whole_numbers(None)


# 57 words.
SHAPE: dict[str, Any] = {
    "vocab_size": 57, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "eos_token_id": 0, "bos_token_id": None,
    "tie_word_embeddings": False,
}  # fmt: skip


def base_of(kind: str, folder: Path, tokenizer: Path) -> Path:
    """A folder with random weights, as it comes from the hub."""
    torch.manual_seed(0)
    model = (
        LlamaForCausalLM(LlamaConfig(**SHAPE))
        if kind == "llama"
        else MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None))
    )
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_file=str(tokenizer), eos_token="<|endoftext|>").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_base_of_either_type_is_tuned_with_lora_and_merged(made: RunConfig, tmp_path: Path, kind: str) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    world.write_tokenizer(tokenizer)
    base = base_of(kind, tmp_path / "base", tokenizer)
    train = {
        "steps": 3, "micro_batch": 4, "global_batch": 8, "lr": 1e-2, "warmup_steps": 0, "precision": "float32",
        "lora": {"rank": 4, "alpha": 8}, "recompute": "full", "save_every": 2, "keep_last": 1,
    }  # fmt: skip
    config = changed(made, tmp_path / "run", tune={"start_from": str(base), "train": train, "packing": True})
    for step in ("samples", "model", "export"):
        run_recipe(RECIPE, config, step)
    sft = home(config) / "model" / "sft"
    info = checkpoint.read_info(checkpoint.find(of_stage(sft)))
    assert info.shape.vocabulary == SHAPE["vocab_size"] + len(TOKENS)
    # One checkpoint is kept: that of the last step.
    [kept] = [path for path in sft.glob("*/checkpoints/step_*") if path.is_dir()]
    assert kept.name.endswith("3")

    folder = home(config) / "export" / "model"
    before, after = load_file(base / "model.safetensors"), load_file(folder / "model.safetensors")
    moved = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(before[moved], after[moved])
    assert torch.equal(before["model.norm.weight"], after["model.norm.weight"])
    # Of the embedding only the new rows are trained beside the adapters.
    rows = after["model.embed_tokens.weight"]
    assert rows.shape[0] == SHAPE["vocab_size"] + len(TOKENS)
    start = before["model.embed_tokens.weight"]
    assert torch.equal(rows[: SHAPE["vocab_size"]], start)
    assert not torch.allclose(rows[SHAPE["vocab_size"] :], start.mean(dim=0).expand(len(TOKENS), -1), atol=1e-6)

    # Ready to be uploaded: other programs open it, end turns where it does, and read how it is asked.
    opened = AutoTokenizer.from_pretrained(folder)
    end = opened.convert_tokens_to_ids("<|eot|>")
    assert AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id[-1] == end
    card = (folder / "README.md").read_text()
    assert "assistant:<|bof|>retrieve:\n" in card
    assert "system: facts<|eot|>" in card


def test_a_step_of_tuning_runs_from_settings_alone(made: RunConfig) -> None:
    step = next(one for one in RECIPE.steps if one.name == "model")
    work = StepRun(recipe=RECIPE, step=step, config=made, settings=MultiHopConfig())
    assert step.needed(work.settings) == ("samples", "corpus")
