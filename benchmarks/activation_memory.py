"""What a rank really keeps for the backward pass, against the planner's formula.

Measures: bytes of the distinct storages that autograd saves in the forward pass of a training step of a real model,
weights left out, counted by saved-tensor hooks; next to `retro.planning.activations` for the same shape and layout.
Needs no GPU and no quiet machine: bytes are counted, not time.

Run:    python -m benchmarks.activation_memory                              one process: models and ways to recompute
        python -m torch.distributed.run --standalone --nproc-per-node 2 -m benchmarks.activation_memory       layouts
Writes: the table between two markers of docs/plan.md; with --json FILE its numbers there instead.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core.pipeline_parallel import schedules
from torch import Tensor

from benchmarks.training_speed import RandomSource
from retro.mcore import parallel
from retro.model.config import ModelConfig, ModelShape
from retro.planning.activations import Activations
from retro.planning.stages import stages_of
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.data_loader import DataLoader
from retro.training.loop import build_engine
from retro.training.validation import token_losses

PAGE = Path(__file__).parents[1] / "docs" / "plan.md"
VOCABULARY, CHUNK, BATCH = 128, 64, 2
BASE: dict[str, Any] = {
    "layers": 4, "hidden_size": 128, "heads": 4, "query_groups": 4, "ffn_hidden_size": 512, "sequence_length": 256,
    "activation": "gelu", "normalization": "LayerNorm", "first_cross_attention": 2, "cross_attention_every": 1,
}  # fmt: skip

# What differs from the base shape; recompute and micro_batch are settings of training.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("GPT", {"retrieval": False}),
    ("GPT, recompute selective", {"retrieval": False, "recompute": "selective"}),
    ("GPT, recompute full", {"retrieval": False, "recompute": "full"}),
    ("Retro", {}),
    ("Retro, recompute selective", {"recompute": "selective"}),
    ("Retro, recompute full", {"recompute": "full"}),
    ("Retro, one sequence of 512", {"sequence_length": 512, "micro_batch": 1}),
    ("Retro, twice as wide", {"hidden_size": 256, "ffn_hidden_size": 1024}),
    ("Retro, 3 encoder layers", {"encoder_layers": 3}),
    ("Retro, 4 neighbors", {"neighbors": 4}),
    ("Retro, SwiGLU, recompute selective", {"activation": "swiglu", "recompute": "selective"}),
    ("Retro, SwiGLU, 1 key/value head", {"activation": "swiglu", "query_groups": 1}),
    ("Retro, learned positions, none in the encoder", {"positions": "learned", "encoder_rope": False}),
    ("Retro, half of each head rotated, learned gate", {"rope_percent": 0.5, "gate": "learned"}),
]  # fmt: skip

LAYOUTS: list[tuple[str, ParallelConfig]] = [
    ("tensor 2", ParallelConfig(tensor=2)),
    ("tensor 2 with sequence parallel", ParallelConfig(tensor=2, sequence=True)),
    ("pipeline 2", ParallelConfig(pipeline=2)),
]


def settings_of(changes: dict[str, Any]) -> tuple[ModelShape, TrainConfig]:
    """The shape of a case, and how it is trained."""
    changes = dict(changes)
    batch = changes.pop("micro_batch", BATCH)
    recompute = changes.pop("recompute", "none")
    train = TrainConfig(micro_batch=batch, global_batch=batch, recompute=recompute, precision="float32")
    return ModelShape(model=ModelConfig(**(BASE | changes)), vocabulary=VOCABULARY, chunk_length=CHUNK), train


def planned(shape: ModelShape, train: TrainConfig, layout: ParallelConfig, stage: int = 0) -> float:
    """Bytes of one micro batch on a rank of a stage by the formula, with what it received."""
    kept = Activations(shape, train)
    bytes_ = sum(kept.block(block).on_rank(layout) for block in stages_of(shape, layout)[stage])
    return bytes_ + (kept.transport().on_rank(layout) if stage else 0.0)


def measured(shape: ModelShape, train: TrainConfig, layout: ParallelConfig) -> int:
    """Bytes of the storages that autograd keeps on this rank when the backward pass of a step begins."""
    engine = build_engine(shape, train, layout)
    feed = DataLoader(RandomSource(shape), shape, engine.chunks, train.micro_batch)
    work = feed.work(np.arange(train.micro_batch, dtype=np.int64))
    own = {weight.untyped_storage().data_ptr() for chunk in engine.chunks for weight in chunk.parameters()}
    # The tensors are held, so that no storage is freed and its address used again.
    found: dict[int, Tensor] = {}
    total: list[int] = []
    backward = schedules.backward_step

    def keep(tensor: Tensor) -> Tensor:
        where = tensor.untyped_storage().data_ptr()
        if where not in own:
            found.setdefault(where, tensor)
        return tensor

    def count_first(*args: Any, **kwargs: Any) -> Any:
        # What recomputation keeps in the backward pass is not counted.
        total.append(sum(tensor.untyped_storage().nbytes() for tensor in found.values()))
        return backward(*args, **kwargs)

    schedules.backward_step = count_first
    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            engine.step(work, token_losses)
    finally:
        schedules.backward_step = backward
    return total[0]


def rows() -> list[dict[str, Any]]:
    """Measured and planned bytes: of models on one process, of layouts on two."""
    if parallel.world_size() == 1:
        return [_row(name, *settings_of(changes), ParallelConfig()) for name, changes in CASES]
    found = []
    for name, layout in LAYOUTS:
        for model, changes in (case for case in CASES if set(case[1]) <= {"retrieval", "recompute"}):
            mine = _row(f"{model}, {name}", *settings_of(changes), layout)
            found += parallel.gather_objects(mine)
    return found


def _row(name: str, shape: ModelShape, train: TrainConfig, layout: ParallelConfig) -> dict[str, Any]:
    bytes_ = measured(shape, train, layout)
    stage, stages = parallel.pipeline_rank()
    name += f", stage {stage + 1}" if stages > 1 else ""
    return {"name": name, "measured": bytes_, "planned": planned(shape, train, layout, stage)}


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: a row a case; ranks that keep the same share one."""
    lines = ["| model | measured, MB | formula, MB | off by |", "|---|---:|---:|---:|"]
    for row in found:
        off = 100 * (row["planned"] / row["measured"] - 1)
        lines.append(f"| {row['name']} | {row['measured'] / 1e6:.3f} | {row['planned'] / 1e6:.3f} | {off:+.1f} % |")
    return "\n".join(dict.fromkeys(lines)) + "\n"


def put_into_page(text: str, marker: str) -> None:
    """Replace what is between two markers of the page."""
    begin, end = f"<!-- {marker}: begin -->\n", f"<!-- {marker}: end -->\n"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(before + begin + text + end + after, encoding="utf-8")


def main() -> None:
    """Measure on all processes; the first prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, default=None, help="write the numbers here, and leave the page alone")
    options = parser.parse_args()
    found = rows()
    if parallel.is_main():
        print(table(found))
        if options.json:
            options.json.write_text(json.dumps(found), encoding="utf-8")
        else:
            put_into_page(table(found), "models" if parallel.world_size() == 1 else "layouts")
    parallel.stop()


if __name__ == "__main__":
    main()
