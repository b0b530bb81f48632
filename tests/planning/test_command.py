"""`retro plan` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from retro.cli.plan import overrides_of_size, show_dry_run, show_plan, token_budget
from retro.common.errors import ConfigError
from retro.common.terminal import output
from retro.planning.plan import make_plan
from retro.planning.show import header, layer_lines, memory_note
from retro.run.config import load_run_config
from retro.training.config import ParallelConfig
from tests.planning.shapes import hand_shape, sized, training


def printed(capsys: pytest.CaptureFixture[str], *overrides: str, **options: Any) -> str:
    output.width = 100
    settings: dict[str, Any] = {"gpus": 64, "gpu": "h100-80g", "tokens": "100b"} | options
    show_plan(load_run_config(None, overrides), **settings)
    return capsys.readouterr().out


def test_a_plan_of_a_size_fits_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, *overrides_of_size("43b"))
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "global batch 768" in text
    assert "48,461,840,384" in text
    assert "GPU-hours for 100 billion tokens" in text
    assert "Fits: " in text


def test_a_given_layout_is_planned_and_none_is_proposed(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("parallel.tensor=8", "parallel.pipeline=4", "parallel.virtual_pipeline=2")
    text = printed(capsys, *overrides_of_size("43b"), *given)
    assert "Layouts that fit" not in text
    assert "tensor 8, pipeline 4 in 2 turns, data 2" in text
    assert "7-12, 31-36" in text
    assert "MiB to the next stage, a micro batch" in text


def test_a_given_way_to_recompute_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, *overrides_of_size("8b"), "train.recompute=full", as_json=True)
    plan = json.loads(text)
    assert [layout["recompute"] for layout in plan["layouts"]] == ["full"]


def test_machines_get_the_same_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    plan = json.loads(printed(capsys, *overrides_of_size("843m"), as_json=True, vocabulary=32_000, gpus=8))
    assert plan["forward_flops_per_token"]["logits"] == 2 * 32_000 * 1024
    assert plan["gpu_hours"] / plan["gpt"]["gpu_hours"] == pytest.approx(
        plan["forward_flops_per_token"]["total"] / plan["gpt"]["forward_flops_per_token"]["total"]
    )
    assert plan["fits"] is True
    assert len(plan["published"]) == 8


def test_a_gpt_is_planned_without_a_column_for_retro(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, *overrides_of_size("843m"), "model.retrieval=false")
    assert "neighbor encoder" not in text
    assert "no retrieval" in text


def test_a_dry_run_counts_the_processes_that_were_started(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output.width = 100
    monkeypatch.setenv("WORLD_SIZE", "4")
    show_dry_run(load_run_config(None, ["parallel.tensor=2", "train.global_batch=16"]))
    text = capsys.readouterr().out
    assert "layout     4 processes: tensor 2, pipeline 1, data 2" in text
    assert "  2  self-attention, chunked cross-attention with the neighbor encoder, feed-forward" in text


def test_a_dry_run_refuses_processes_as_the_run_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"= 2 x 1 processes, 3 were started\. Start 2 or 4"):
        show_dry_run(load_run_config(None, ["parallel.tensor=2"]))


def test_what_does_not_fit_is_said() -> None:
    from retro.planning.gpus import find_gpu

    plan = make_plan(sized("43b"), training(), ParallelConfig(), gpus=1, gpu=find_gpu("h100-80g"))
    assert memory_note(plan).startswith("DOES NOT FIT: ")


def test_the_head_of_a_plan_says_what_was_assumed() -> None:
    plan = make_plan(hand_shape(), training(), ParallelConfig(), gpus=1)
    assert header(plan, "made for tests; really")[0] == "model      tiny: made for tests"
    assert header(plan, "")[2] == "sequence   32 tokens, 2 neighbors of 8 tokens for each chunk of 4"
    assert header(plan, "")[4] == "layout     1 process: tensor 1, pipeline 1, data 1"
    frozen = make_plan(hand_shape(), training(train_only="retrieval"), ParallelConfig(), gpus=1)
    assert (
        header(frozen, "")[5] == "trained    retrieval's weights alone; activations and time are counted as if all were"
    )
    adapted = make_plan(hand_shape(layers=1, retrieval=False), training(lora={"rank": 2}), ParallelConfig(), gpus=1)
    assert header(adapted, "")[5].startswith("trained    352 weights, 9.17%, of adapters of rank 2")
    assert layer_lines(plan.shape)[0] == "  1  self-attention, feed-forward"


@pytest.mark.parametrize(("text", "tokens"), [("100b", 100e9), ("1.2T", 1.2e12), ("5e8", 5e8), ("500m", 5e8)])
def test_a_budget_is_read_with_its_unit(text: str, tokens: float) -> None:
    assert token_budget(text) == pytest.approx(tokens)


@pytest.mark.parametrize("text", ["", "b", "many", "-1b", "0", "nan", "inf"])
def test_a_budget_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--tokens = .*: needs a number of tokens, as 100b"):
        token_budget(text)


def test_a_size_can_be_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
                "num_hidden_layers": 10, "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 256,
                "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "hidden_act": "silu", "rope_theta": 10000.0,
            }
        )
    )  # fmt: skip
    text = printed(capsys, *overrides_of_size(str(tmp_path)), gpus=8)
    assert "vocabulary 320" in text


@pytest.mark.parametrize("utilization", [0.0, 7.0, float("nan")])
def test_a_utilization_that_is_no_share_is_the_reason_given(utilization: float) -> None:
    with pytest.raises(ConfigError, match=r"--utilization = .*: needs a share above 0 and up to 1"):
        show_plan(
            load_run_config(None, overrides_of_size("8b")),
            gpus=8,
            gpu="h100-80g",
            tokens="100b",
            utilization=utilization,
        )


def test_a_negative_number_of_gpus_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--gpus = -3: needs a positive number of GPUs"):
        show_plan(load_run_config(None, overrides_of_size("8b")), gpus=-3, gpu="h100-80g", tokens="100b")


def test_a_vocabulary_without_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--vocabulary = 0: needs a positive number of tokens"):
        show_plan(load_run_config(None, overrides_of_size("8b")), gpus=8, gpu="h100-80g", tokens="1b", vocabulary=0)
