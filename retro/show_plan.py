"""Print what a run would train: layers, parameters and memory of one rank."""

from __future__ import annotations

from rich.table import Table

from retro.common.progress import output
from retro.model.config import ModelShape
from retro.model.sizes import find_size
from retro.run_config import RunConfig
from retro.training.plan import GIB, Plan, make_plan


def show_plan(config: RunConfig) -> None:
    """Print the plan of a run that may not have a corpus yet; the vocabulary is then the size's own."""
    size = find_size(config.model.size)
    shape = ModelShape(model=config.model, vocabulary=size.vocabulary, chunk_length=config.db.chunk_length)
    plan = make_plan(shape, config.train, config.parallel)
    output.print(f"model {config.model.size}: {size.source}", highlight=False)
    output.print(f"vocabulary {shape.vocabulary:,}, padded to {shape.padded_vocabulary:,}", highlight=False)
    for line in plan.layers:
        output.print(line, highlight=False)
    output.print(_parameters(plan), _memory(plan, config))


def _parameters(plan: Plan) -> Table:
    table = Table("part", "parameters", title="Parameters")
    count = plan.parameters
    rows = {
        "embeddings and output": count.embeddings,
        "decoder": count.decoder,
        "GPT (the same with retrieval off)": count.gpt,
        "chunked cross-attention": count.cross_attention,
        "neighbor encoder": count.encoder,
        "Retro" if plan.shape.model.retrieval else "total": count.total,
    }
    table.columns[1].justify = "right"
    for name, value in rows.items():
        table.add_row(name, f"{value:,}")
    return table


def _memory(plan: Plan, config: RunConfig) -> Table:
    train, layout = config.train, config.parallel
    layout_of = (
        f"tensor {layout.tensor}, {train.precision}, micro batch {train.micro_batch}, recompute {train.recompute}"
    )
    table = Table("part of memory, one rank", "GiB", caption=layout_of, min_width=len(layout_of) + 4)
    table.columns[1].justify = "right"
    memory = plan.memory
    for name in ("weights", "gradients", "optimizer", "activations", "total"):
        label = f"{name} (estimate)" if name == "activations" else name
        table.add_row(label, f"{getattr(memory, name) / GIB:,.2f}")
    return table
