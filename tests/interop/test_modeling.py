"""The modelling file is our own reference, and computes what the real model computes."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from retro.interop.export import in_precision, without_padding, write_generation, write_retro, write_weights
from retro.interop.export_files import MODELING, CopiedTokenizer, modeling_source
from retro.model import reference
from retro.model.config import ModelShape
from retro.model.model import RetroModel
from tests.model.test_reference import VARIANTS
from tests.model.tiny import CHUNK, VOCABULARY, tiny_inputs, tiny_model, tiny_shape


def exported(shape: ModelShape, model: RetroModel, out: Path, dtype: torch.dtype = torch.float32) -> Path:
    """A folder with everything but card and tokenizer."""
    out.mkdir()
    plain, weights = without_padding(shape, dict(model.named_parameters()))
    write_weights(in_precision(weights, dtype), out)
    write_retro(plain, str(dtype).removeprefix("torch."), out)
    tokenizer = CopiedTokenizer(file="tokenizer.json", eod=1, opens_in_transformers=True, ends=(1,))
    write_generation(tokenizer, out, cache=False)
    return out


def load(folder: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options).eval()


def with_gate(model: RetroModel) -> RetroModel:
    for name, weight in model.named_parameters():
        if name.endswith("learned_gate"):
            weight.data.fill_(0.7)
    return model.eval()


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())
def test_logits_of_the_folder_are_those_of_the_model(settings: dict[str, Any], tmp_path: Path) -> None:
    shape = tiny_shape(vocabulary_multiple=64, **settings)
    model = with_gate(tiny_model(shape))
    found = load(exported(shape, model, tmp_path / "out"))
    inputs = tiny_inputs(18)
    real = torch.ones(2, 18, dtype=torch.bool)
    real[0, :5] = False
    for mask in (None, real):
        expected = model(*inputs.args(), mask)[..., :VOCABULARY]
        alone = model(inputs.tokens_BS, None, None, mask)[..., :VOCABULARY]
        seen = real if mask is not None else torch.ones_like(real)
        if shape.model.retrieval:
            read = found(*inputs.args(), attention_mask=mask).logits
            torch.testing.assert_close(read[seen], expected[seen], rtol=1e-5, atol=1e-5)
        unread = found(inputs.tokens_BS, attention_mask=mask).logits
        torch.testing.assert_close(unread[seen], alone[seen], rtol=1e-5, atol=1e-5)


def test_no_padding_row_can_be_generated(tmp_path: Path) -> None:
    shape = tiny_shape(vocabulary_multiple=64)
    model = tiny_model(shape).eval()
    for name in ("embedding.word_embeddings.weight", "output_layer.weight"):
        assert model.get_parameter(name).size(0) == 64
    # Padding rows that would win every choice.
    model.get_parameter("output_layer.weight").data[VOCABULARY:] = 100.0
    found = load(exported(shape, model, tmp_path / "out"))
    assert found(tiny_inputs(8).tokens_BS).logits.size(-1) == VOCABULARY
    assert int(found.generate(tiny_inputs(8).tokens_BS, max_new_tokens=4).max()) < VOCABULARY


def test_loss_is_the_mean_over_the_next_tokens(tmp_path: Path) -> None:
    shape = tiny_shape()
    model = tiny_model(shape).eval()
    found = load(exported(shape, model, tmp_path / "out"))
    inputs = tiny_inputs(16)
    labels = inputs.tokens_BS.clone()
    labels[:, :6] = -100
    losses_BS = model(*inputs.args(), labels_BS=inputs.tokens_BS.roll(-1, 1))
    expected = losses_BS[:, 5:-1].mean()  # token 6 is predicted at position 5, and nothing follows the last
    output = found(*inputs.args(), labels=labels)
    torch.testing.assert_close(output.loss, expected)
    as_tuple = found(*inputs.args(), labels=labels, return_dict=False)
    assert torch.equal(as_tuple[0], output.loss)
    assert torch.equal(as_tuple[1], output.logits)


@torch.inference_mode()
def recomputed(
    model: RetroModel,
    tokens_BS: Tensor,
    real_BS: Tensor,
    neighbors_BKR: Tensor | None,
    mask_BKR: Tensor | None,
    steps: int,
) -> list[list[int]]:
    """The likeliest tokens, the whole model again for each; every chunk reads the same neighbors."""
    chosen: list[Tensor] = []
    for _ in range(steps):
        neighbors = mask = None
        chunks = tokens_BS.size(1) // CHUNK
        if neighbors_BKR is not None and mask_BKR is not None:
            neighbors, mask = (one[:, None].expand(-1, chunks, -1, -1) for one in (neighbors_BKR, mask_BKR))
            whole_BL = real_BS[:, : chunks * CHUNK].unflatten(1, (chunks, CHUNK)).any(dim=-1)
            mask = mask & whole_BL[:, :, None, None]
        chosen.append(model(tokens_BS, neighbors, mask, real_BS)[:, -1, :VOCABULARY].argmax(dim=-1))
        tokens_BS = torch.cat((tokens_BS, chosen[-1][:, None]), dim=1)
        real_BS = torch.cat((real_BS, torch.ones_like(real_BS[:, :1])), dim=1)
    rows: list[list[int]] = torch.stack(chosen, dim=1).tolist()
    return rows


@pytest.mark.parametrize("settings", [{}, {"positions": "learned", "bias": True}, {"retrieval": False}])
def test_generate_gives_the_tokens_of_our_own_answers(settings: dict[str, Any], tmp_path: Path) -> None:
    shape = tiny_shape(**settings)
    model = tiny_model(shape).eval()
    found = load(exported(shape, model, tmp_path / "out"))
    inputs = tiny_inputs(12)
    real = torch.ones(2, 12, dtype=torch.bool)
    real[1, :5] = False
    passages = inputs.neighbors_BLKR[:, 0], inputs.neighbor_mask_BLKR[:, 0]
    first, second = passages if shape.model.retrieval else (None, None)
    ours = recomputed(model, inputs.tokens_BS, real, first, second, 9)
    read = {} if not shape.model.retrieval else {"neighbors": passages[0], "neighbor_mask": passages[1]}
    for cache in ({}, {"use_cache": True}):
        theirs = found.generate(
            inputs.tokens_BS, attention_mask=real.long(), max_new_tokens=9, eos_token_id=VOCABULARY + 1, **read, **cache
        )
        assert theirs[:, 12:].tolist() == ours


def test_generation_stops_at_the_end_token_of_the_folder(tmp_path: Path) -> None:
    shape = tiny_shape()
    model = tiny_model(shape).eval()
    found = load(exported(shape, model, tmp_path / "out"))
    tokens = tiny_inputs(8).tokens_BS[:1]
    free = found.generate(tokens, max_new_tokens=6, eos_token_id=VOCABULARY + 1)[0, 8:].tolist()
    found.generation_config.eos_token_id = free[2]
    stopped = found.generate(tokens, max_new_tokens=6)[0, 8:].tolist()
    assert stopped == free[: free.index(free[2]) + 1]


def test_chunks_after_the_given_neighbors_have_none(tmp_path: Path) -> None:
    shape = tiny_shape()
    model = tiny_model(shape).eval()
    found = load(exported(shape, model, tmp_path / "out"))
    inputs = tiny_inputs(16)
    mask = inputs.neighbor_mask_BLKR.clone()
    mask[:, 2:] = False
    expected = model(inputs.tokens_BS, inputs.neighbors_BLKR, mask)
    given = inputs.neighbors_BLKR[:, :2], mask[:, :2]
    torch.testing.assert_close(found(inputs.tokens_BS, *given).logits, expected, rtol=1e-5, atol=1e-5)


def test_wrong_neighbors_are_refused(tmp_path: Path) -> None:
    shape = tiny_shape()
    found = load(exported(shape, tiny_model(shape), tmp_path / "out"))
    gpt = load(exported(tiny_shape(retrieval=False), tiny_model(tiny_shape(retrieval=False)), tmp_path / "gpt"))
    tokens, neighbors, mask = tiny_inputs(8).args()
    with pytest.raises(ValueError, match="need a neighbor_mask of their own shape"):
        found(tokens, neighbors)
    with pytest.raises(ValueError, match=r"shape \(2, 2, 2, 7\), needed \(2, 'at most 2', 'K', 8\)"):
        found(tokens, neighbors[..., :7], mask[..., :7])
    with pytest.raises(ValueError, match="at most 1"):
        found(tokens[:, :CHUNK], neighbors, mask)
    with pytest.raises(ValueError, match="reads no neighbors"):
        gpt(tokens, neighbors, mask)


@pytest.mark.parametrize("settings", [{}, {"tied_embeddings": True, "gate": "learned"}])
def test_a_folder_survives_being_saved_by_transformers(settings: dict[str, Any], tmp_path: Path) -> None:
    shape = tiny_shape(**settings)
    first = load(exported(shape, with_gate(tiny_model(shape)), tmp_path / "out"))
    first.save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again")
    weights = dict(first.named_parameters())
    assert {name for name, _ in again.named_parameters()} == set(weights)
    assert all(torch.equal(weight, weights[name]) for name, weight in again.named_parameters())
    inputs = tiny_inputs(12)
    # Not bit for bit: where a weight is in memory decides which kernel multiplies it on some processors.
    torch.testing.assert_close(again(*inputs.args()).logits, first(*inputs.args()).logits, rtol=1e-6, atol=1e-6)


def test_weights_in_bfloat16_are_loaded_and_computed_as_such(tmp_path: Path) -> None:
    shape = tiny_shape(init_std=0.1)
    model = tiny_model(shape).eval()
    found = load(exported(shape, model, tmp_path / "out", torch.bfloat16), dtype="auto")
    inputs = tiny_inputs(16)
    narrow = found(*inputs.args()).logits
    assert {weight.dtype for weight in found.parameters()} == {narrow.dtype} == {torch.bfloat16}
    wide = load(tmp_path / "out", dtype=torch.float32)
    expected = model(*inputs.args())
    torch.testing.assert_close(narrow.float(), expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(wide(*inputs.args()).logits, expected, rtol=0.02, atol=0.02)
    assert not torch.equal(wide(*inputs.args()).logits, narrow.float())


def test_a_fresh_model_has_the_weights_that_training_starts_with(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = tiny_shape(bias=True, gate="learned", hidden_size=64, ffn_hidden_size=256, init_std=0.05)
    folder = exported(shape, tiny_model(shape), tmp_path / "out")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    fresh = dict(AutoModelForCausalLM.from_config(config, trust_remote_code=True).named_parameters())
    assert abs(float(fresh["decoder.layers.0.mlp.linear_fc1.weight"].detach().std()) - 0.05) < 0.003
    assert torch.equal(fresh["decoder.final_layernorm.weight"], torch.ones(64))
    assert not fresh["decoder.layers.0.mlp.linear_fc1.bias"].any()
    assert not fresh["decoder.layers.1.cross_attention.learned_gate"].any()


def test_the_reference_stands_in_the_file_to_the_letter() -> None:
    source = inspect.getsource(reference.ReferenceRetro).replace("ModelShape", "RetroConfig")
    assert source.rstrip() in modeling_source()


def test_the_file_has_no_undefined_name_and_the_shape_of_hand_written_code(tmp_path: Path) -> None:
    path = tmp_path / MODELING
    path.write_text(modeling_source())
    for command in (["check", "--select", "E,F,I"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "120", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_the_file_needs_torch_and_transformers_alone(tmp_path: Path) -> None:
    packages = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(modeling_source()))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else imported(node))
    }
    assert packages - sys.stdlib_module_names == {"torch", "transformers"}
    shape = tiny_shape()
    folder = exported(shape, tiny_model(shape), tmp_path / "out")
    code = (
        "import sys; sys.modules['retro'] = sys.modules['megatron'] = None\n"
        "from transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True)\n"
        "import torch; print(tuple(model(torch.arange(8)[None]).logits.shape))"
    )
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
    )
    assert done.stdout.strip() == f"(1, 8, {VOCABULARY})", done.stderr


def imported(node: ast.AST) -> list[str]:
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def as_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("modeling_retro", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_copied_reference_computes_to_the_bit_what_ours_does(tmp_path: Path) -> None:
    shape = tiny_shape(rope_percent=0.5, query_groups=2)
    path = tmp_path / MODELING
    path.write_text(modeling_source())
    weights = {name: weight.detach() for name, weight in tiny_model(shape).named_parameters()}
    inputs = tiny_inputs(14)
    theirs = as_module(path).ReferenceRetro(shape, weights)
    assert torch.equal(theirs(*inputs.args()), reference.ReferenceRetro(shape, weights)(*inputs.args()))
