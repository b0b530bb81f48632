"""A plan as tables for a terminal."""

from __future__ import annotations

from retro.common.terminal import Table, output
from retro.model.config import ModelShape
from retro.model.count import count_parameters
from retro.planning.gpus import RESERVE
from retro.planning.memory import GIB, StageMemory
from retro.planning.plan import Plan
from retro.planning.published import PUBLISHED
from retro.training.adapters import count_trained

_OPTIONS = "The smallest tensor x pipeline that fits, for each way to recompute. Planned below: the quickest."
_TIME = (
    "Not counted: communication of tensor and data parallel ranks, the optimizer's own time, saving.\n"
    "Each formula is worked by hand in docs/plan.md."
)
_PUBLISHED = (
    "arXiv:2304.06762 (330 billion tokens) and arXiv:2310.07713 (100 billion), on A100s. GPT and Retro\n"
    "reached: the share of 312 TFLOP/s that our FLOPs make of the hours; compare the one assumed above."
)


def show(plan: Plan, tokens: float, options: list[Plan], source: str) -> None:
    """Print everything that a plan says."""
    output.say(*header(plan, source))
    if options:
        _print(options_table(options), _OPTIONS)
    _print(parts(plan))
    _print(memory(plan), memory_note(plan))
    _print(time(plan, tokens), _TIME)
    _print(published(), _PUBLISHED)


def _print(table: Table, note: str = "") -> None:
    output.say()
    output.table(table)
    if note:
        output.wrap(note, style="dim")


def header(plan: Plan, source: str) -> list[str]:
    """What is planned: model, settings, layout; lines of less than 100 columns."""
    model, train, layout = plan.shape.model, plan.train, plan.layout
    neighbors = f"{model.neighbors} neighbors of {plan.shape.retrieved_length} tokens"
    reads = f"{neighbors} for each chunk of {plan.shape.chunk_length}" if model.retrieval else "no retrieval"
    settings = f"{train.precision}, micro batch {train.micro_batch}, global batch {train.global_batch}"
    tensor = f"tensor {layout.tensor}{' + sequence' if layout.sequence else ''}"
    pipeline = f"pipeline {layout.pipeline}"
    if layout.virtual_pipeline > 1:
        pipeline += f" in {layout.virtual_pipeline} turns"
    data = f"data {plan.data}{' sharing the optimizer' if layout.distributed_optimizer else ''}"
    on = f"{plan.gpus} x {plan.gpu.name}" if plan.gpu else f"{plan.gpus} process{'es' if plan.gpus > 1 else ''}"
    lines = [
        f"model      {model.size}: {source.partition(';')[0]}",
        f"vocabulary {plan.shape.vocabulary:,}, padded to {plan.shape.padded_vocabulary:,}",
        f"sequence   {model.sequence_length:,} tokens, {reads}",
        f"train      {settings}, recompute {train.recompute}",
        f"layout     {on}: {tensor}, {pipeline}, {data}",
    ]
    if train.train_only != "all" and train.lora is None:
        lines.append(f"trained    {train.train_only}'s weights alone; activations and time are counted as if all were")
    if train.lora is not None:
        trained, frozen = count_trained(plan.shape, train.lora, train.train_only)
        share = f"{trained:,} weights, {trained / (trained + frozen):.2%}, of adapters of rank {train.lora.rank}"
        share += ", and of all retrieval weights" if train.train_only == "retrieval" else ""
        lines.append(f"trained    {share}; activations and time are counted as if all were")
    return lines


def layer_lines(shape: ModelShape) -> list[str]:
    """One line a layer: what is in it."""
    reading = shape.model.cross_attention_layers
    lines = []
    for number in range(1, shape.model.layers + 1):
        inside = ["self-attention", "feed-forward"]
        if number in reading:
            encoder = " with the neighbor encoder" if number == reading[0] else ""
            inside.insert(1, f"chunked cross-attention{encoder}")
        lines.append(f"{number:>3}  {', '.join(inside)}")
    return lines


def options_table(options: list[Plan]) -> Table:
    """The proposed layouts, one for each way to recompute."""
    table = Table.of_numbers("Layouts that fit", "recompute", "tensor", "pipeline", "data", "GiB a GPU", "step")
    for plan in options:
        layout = plan.layout
        sizes = (layout.tensor, layout.pipeline, plan.data)
        step = f"{plan.step_seconds:.2f} s"
        table.add_row(plan.train.recompute, *map(str, sizes), f"{plan.memory / GIB:.1f}", step)
    return table


def parts(plan: Plan) -> Table:
    """Parameters and FLOPs of each part of the model."""
    count, flops = count_parameters(plan.shape), plan.flops
    retro = plan.shape.model.retrieval
    table = Table.of_numbers("The model", "part", "parameters", "MFLOPs a token, forward")
    table.add_row("embeddings and output", f"{count.embeddings:,}", _mega(flops.logits))
    table.add_row("decoder", f"{count.decoder:,}", _mega(flops.decoder))
    if not retro:
        table.end_section()
    if retro:
        table.add_row("GPT (the same with retrieval off)", f"{count.gpt:,}", _mega(flops.gpt))
        table.end_section()
        table.add_row("chunked cross-attention", f"{count.cross_attention:,}", _mega(flops.cross_attention))
        table.add_row("neighbor encoder", f"{count.encoder:,}", _mega(flops.encoder))
        table.end_section()
    table.add_row("Retro" if retro else "total", f"{count.total:,}", _mega(flops.total))
    if retro:
        table.add_row("Retro / GPT", f"{count.total / count.gpt:.3f}", f"{flops.ratio:.3f}")
    return table


def memory(plan: Plan) -> Table:
    """Memory of one GPU, stage by stage."""
    settings = f"tensor {plan.layout.tensor}, {plan.train.precision}, recompute {plan.train.recompute}"
    title = f"Memory of one GPU in GiB ({settings})"
    names = ("weights", "gradients", "optimizer", "activations", "transport", "total")
    table = Table.of_numbers(title, "stage", "layers", *names)
    for number, stage in enumerate(plan.stages):
        most = number == plan.fullest and len(plan.stages) > 1
        cells = [f"{getattr(stage, name) / GIB:.2f}" for name in names]
        table.add_row(f"{number + 1}{' (most)' if most else ''}", _layers(stage), *cells)
    return table


def memory_note(plan: Plan) -> str:
    """Whether it fits."""
    if plan.gpu is None:
        return ""
    limit = f"{plan.memory / GIB:.1f} of {plan.gpu.memory / GIB:.1f} GiB on one {plan.gpu.name}"
    reserve = f"{RESERVE:.0%} stay free for CUDA, communication buffers, temporaries"
    return f"{'Fits' if plan.fits else 'DOES NOT FIT'}: {limit}; {reserve}."


def time(plan: Plan, tokens: float) -> Table:
    """Time at the stated utilization, beside the same decoder without retrieval."""
    gpt = plan.without_retrieval()
    retro = plan.shape.model.retrieval
    reached = f"{plan.utilization:.0%} of {plan.gpu.peak / 1e12:.0f} TFLOP/s" if plan.gpu else ""
    columns = ("Retro", "GPT", "ratio") if retro else ("GPT",)
    table = Table.of_numbers(f"Time, if a GPU that works reaches {reached}", "", *columns)
    for name, own, other in _times(plan, gpt, tokens):
        cells = [_number(own), _number(other), f"{own / other:.3f}" if other else "-"] if retro else [_number(own)]
        table.add_row(name, *cells)
    return table


def _times(plan: Plan, gpt: Plan, tokens: float) -> list[tuple[str, float, float]]:
    pipelined = plan.layout.pipeline > 1
    rows = [("GFLOPs a token, training", plan.flops.training / 1e9, gpt.flops.training / 1e9)]
    if pipelined:
        rows += [
            ("pipeline bubble, (p - 1) / (v m), %", 100 * plan.bubble, 100 * gpt.bubble),
            ("slowest stage over the mean", plan.imbalance, gpt.imbalance),
            ("MiB to the next stage, a micro batch", plan.transport_bytes / 2**20, gpt.transport_bytes / 2**20),
        ]
    return [
        *rows,
        ("seconds a step", plan.step_seconds, gpt.step_seconds),
        ("tokens a second and GPU", plan.tokens_per_second / plan.gpus, gpt.tokens_per_second / gpt.gpus),
        ("model FLOPs utilization, %", 100 * plan.model_utilization, 100 * gpt.model_utilization),
        (f"GPU-hours for {tokens / 1e9:,g} billion tokens", plan.gpu_hours(tokens), gpt.gpu_hours(tokens)),
        (f"days on {plan.gpus} GPUs", plan.gpu_hours(tokens) / plan.gpus / 24, gpt.gpu_hours(tokens) / gpt.gpus / 24),
    ]


def published() -> Table:
    """What others needed for such models, and what that says about the formulas."""
    columns = ("tokens", "GPT hours", "Retro hours", "GPT reached", "Retro", "hours ratio", "FLOPs")
    table = Table.of_numbers("Published GPU-hours", "size", *columns)
    for row in PUBLISHED:
        hours = f"{row.gpt_hours:,.0f}", f"{row.retro_hours:,.0f}"
        reached = f"{row.gpt_utilization:.0%}", f"{row.retro_utilization:.0%}"
        ratios = f"{row.ratio:.2f}", f"{row.flops.ratio:.2f}"
        table.add_row(row.name, f"{row.tokens / 1e9:.0f}b", *hours, *reached, *ratios)
    return table


def as_json(plan: Plan, tokens: float, options: list[Plan]) -> dict[str, object]:
    """The same numbers for machines: bytes, FLOPs, seconds."""
    gpt = plan.without_retrieval()
    return {
        **_json(plan, tokens),
        "gpt": _json(gpt, tokens),
        "layouts": [_json(option, tokens) for option in options],
        "published": [
            {
                "size": row.name, "tokens": row.tokens, "gpt_hours": row.gpt_hours, "retro_hours": row.retro_hours,
                "gpt_utilization": row.gpt_utilization, "retro_utilization": row.retro_utilization,
                "hours_ratio": row.ratio, "flops_ratio": row.flops.ratio,
            }
            for row in PUBLISHED
        ],
    }  # fmt: skip


def _json(plan: Plan, tokens: float) -> dict[str, object]:
    count, flops = count_parameters(plan.shape), plan.flops
    names = ("weights", "gradients", "optimizer", "activations", "transport", "total")
    return {
        "size": plan.shape.model.size,
        "gpu": plan.gpu.name if plan.gpu else None,
        "gpus": plan.gpus,
        "layout": {**plan.layout.model_dump(), "data": plan.data},
        "recompute": plan.train.recompute,
        "parameters": {
            "embeddings": count.embeddings, "decoder": count.decoder, "cross_attention": count.cross_attention,
            "encoder": count.encoder, "total": count.total,
        },
        "forward_flops_per_token": {
            "decoder": flops.decoder, "logits": flops.logits, "cross_attention": flops.cross_attention,
            "encoder": flops.encoder, "total": flops.total,
        },
        "memory_bytes_by_stage": [{name: getattr(stage, name) for name in names} for stage in plan.stages],
        "fits": plan.fits,
        "micro_batches": plan.micro_batches,
        "bubble": plan.bubble,
        "imbalance": plan.imbalance,
        "transport_bytes": plan.transport_bytes,
        "utilization": plan.utilization,
        "step_seconds": plan.step_seconds,
        "tokens_per_second": plan.tokens_per_second,
        "model_utilization": plan.model_utilization,
        "gpu_hours": plan.gpu_hours(tokens),
    }  # fmt: skip


def _layers(stage: StageMemory) -> str:
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in stage.layers)


def _mega(flops: float) -> str:
    return f"{flops / 1e6:,.1f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
