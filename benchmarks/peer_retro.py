"""The peer of training_speed.py: a training step of megatron-core 0.15.3's own Retro, as it was shipped.

Runs in an environment of its own, started by training_speed.py with --peer-python; prints one line of JSON and writes
no file. The model is 0.15.3's from its local layer spec: on a CPU through this project's adapter, on a GPU as it is.
Only its check of Transformer Engine's version is patched. Positions are rotary in the decoder alone, as it knows no
other. The optimizer is torch's Adam on bfloat16 or float32 weights (0.15.3's own needs more than its wheel brings):
on a model whose step is dominated by its matrix products that changes the step by little, and in the peer's favour.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from retro.mcore.cpu import apply_cpu_adapter, on_cpu


def build(case: dict[str, Any]) -> Any:
    """0.15.3's RetroModel of the case's shape."""
    from megatron.core.models.retro import config as upstream_config
    from megatron.core.models.retro.decoder_spec import get_retro_decoder_block_spec
    from megatron.core.models.retro.model import RetroModel

    upstream_config.is_te_min_version = lambda *_, **__: False
    shape, bfloat16 = case["shape"], case["precision"] == "bfloat16"
    swiglu = shape["activation"] == "swiglu"
    config = upstream_config.RetroConfig(
        num_layers=shape["layers"],
        hidden_size=shape["hidden_size"],
        num_attention_heads=shape["heads"],
        ffn_hidden_size=shape["ffn_hidden_size"],
        hidden_dropout=0.0,
        attention_dropout=0.0,
        add_bias_linear=shape["bias"],
        gated_linear_unit=swiglu,
        activation_func=functional.silu if swiglu else functional.gelu,
        bf16=bfloat16,
        params_dtype=torch.bfloat16 if bfloat16 else torch.float32,
        use_cpu_initialization=on_cpu(),
        gradient_accumulation_fusion=False,
        bias_dropout_fusion=False,
        bias_activation_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        retro_chunk_length=shape["chunk_length"],
        retro_num_neighbors=shape["neighbors"],
        retro_encoder_num_layers=shape["encoder_layers"],
        retro_encoder_hidden_dropout=0.0,
        retro_encoder_attention_dropout=0.0,
        retro_split_preprocessing="98,2,0",
    )
    model = RetroModel(
        config=config,
        transformer_layer_spec=get_retro_decoder_block_spec(config, use_transformer_engine=False),
        vocab_size=shape["vocabulary"],
        max_sequence_length=shape["sequence_length"],
        share_embeddings_and_output_weights=shape["tied_embeddings"],
        position_embedding_type="rope" if shape["positions"] == "rope" else "learned_absolute",
        rotary_percent=shape["rope_percent"],
    )
    return model if on_cpu() else model.cuda()


def inputs(case: dict[str, Any]) -> dict[str, Tensor | None]:
    """Random tokens, labels and neighbors, in the names of the model's arguments."""
    shape, batch = case["shape"], case["micro_batch"]
    where = torch.device("cpu" if on_cpu() else "cuda")
    length, width = shape["sequence_length"], 2 * shape["chunk_length"]
    chunks = length // shape["chunk_length"]

    def tokens(rows: int, columns: int) -> Tensor:
        return torch.randint(shape["vocabulary"], (rows, columns), device=where)

    neighbors = batch * chunks * shape["neighbors"]
    return {
        "input_ids": tokens(batch, length),
        "position_ids": torch.arange(length, device=where).expand(batch, length),
        "attention_mask": torch.ones(length, length, device=where).triu(1).bool()[None, None],
        "context_input_ids": tokens(neighbors, width),
        "context_position_ids": torch.arange(width, device=where).expand(neighbors, width),
        "context_mask": None,
        "labels": tokens(batch, length),
    }


def run(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each step, and the peak of memory in bytes."""
    model, given = build(case), inputs(case)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    seconds = []
    for _ in range(case["warm_up"] + case["steps"]):
        started = time.perf_counter()
        optimizer.zero_grad()
        model(**given).float().mean().backward()
        optimizer.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident
    return {"seconds": seconds[case["warm_up"] :], "peak_bytes": peak}


def main() -> None:
    """Time the case given as JSON."""
    if on_cpu():
        apply_cpu_adapter()
    import megatron.core
    from megatron.core import parallel_state, tensor_parallel

    if megatron.core.__version__ != "0.15.3":
        sys.exit(f"megatron-core {megatron.core.__version__} is installed here, needed 0.15.3")
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]
    torch.distributed.init_process_group("gloo" if on_cpu() else "nccl", store=store, world_size=1, rank=0)
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    print(json.dumps(run(json.loads(sys.argv[1]))))


if __name__ == "__main__":
    main()
