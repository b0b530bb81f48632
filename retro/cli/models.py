"""Models: what one needs, weights in from other toolkits and out to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retro.cli.options import AsJson, DefaultCommandGroup, Words, examples, read_arguments
from retro.common.errors import ConfigError
from retro.common.terminal import output
from retro.model.convert.published import require_there

_A_CHECKPOINT = (
    "Give a checkpoint, a directory of them, the directory of a finished stage, or a HuggingFace folder or .gguf file"
)
_TO_CONVERT = (
    "Give a HuggingFace folder, a .gguf file, a megatron-core checkpoint (.metadata), or a legacy Megatron one"
)


class _PlanGroup(DefaultCommandGroup):
    default = "model"


app = typer.Typer()
plan = typer.Typer(
    cls=_PlanGroup,
    help="Print what a model or a database needs, before anything is allocated.\n\n"
    "`retro plan --size 8b` and `retro plan run.yaml` plan a model, `retro plan db` a database.",
    epilog=examples("retro plan --size 8b --gpus 64", "retro plan db --tokens 330b"),
    no_args_is_help=True,
    rich_markup_mode=None,
)


@plan.command("model", epilog=examples("retro plan run.yaml --gpus 64", "retro plan --size 43b --tokens 1.2t"))
def plan_model(
    arguments: Words = None,
    size: Annotated[str | None, typer.Option(help="A row of the size table, in place of a config file.")] = None,
    gpus: Annotated[int, typer.Option(help="How many GPUs; if not given, as few as hold one copy.")] = 0,
    gpu: Annotated[str, typer.Option(help="A name of the GPU table, as a100-80g or h100-80g.")] = "h100-80g",
    tokens: Annotated[str, typer.Option(help="Token budget, as 100b or 1.2t.")] = "100b",
    utilization: Annotated[float, typer.Option(help="Share of its peak that a GPU reaches while it works.")] = 0.4,
    vocabulary: Annotated[int | None, typer.Option(help="Tokens of the tokenizer, if not the size's own.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print what a run needs: weights, memory, FLOPs, GPU-hours. Proposes a layout where none is given."""
    from retro.cli.plan import overrides_of_size, show_plan

    given = list(arguments or [])
    if size is not None:
        if any("=" not in text for text in given):
            raise ConfigError("--size", size, "needs no config file beside it: give one of the two")
        given = overrides_of_size(size) + given
    show_plan(
        read_arguments(given), gpus=gpus, gpu=gpu, tokens=tokens, utilization=utilization, vocabulary=vocabulary,
        as_json=as_json,
    )  # fmt: skip


@plan.command(
    "db", epilog=examples("retro plan db --tokens 330b", "retro plan db --tokens 1.2t --embedder minilm-l6 --measure")
)
def plan_database(
    tokens: Annotated[str, typer.Option(help="Tokens of the text, as 330b or 1.2T.")],
    chunk: Annotated[int, typer.Option(help="Tokens of a chunk.")] = 64,
    index: Annotated[
        str | None, typer.Option(help="A Faiss factory string; default: the index stage's choice.")
    ] = None,
    embedder: Annotated[
        str, typer.Option(help="The embedder's shape: bert-large, bert-base or minilm-l6.")
    ] = "bert-large",
    sample: Annotated[str | None, typer.Option(help="Vectors that train the index, as 600m.")] = None,
    query_tokens: Annotated[
        str | None, typer.Option(help="Tokens whose chunks are searched for; without it, all of the text.")
    ] = None,
    neighbors: Annotated[int, typer.Option(help="Neighbors stored for each chunk.")] = 20,
    nprobe: Annotated[int | None, typer.Option(help="Lists searched; without it, the stage's default.")] = None,
    document_tokens: Annotated[float, typer.Option(help="Mean tokens of a document.")] = 2400.0,
    vocabulary: Annotated[int, typer.Option(help="Tokens of the tokenizer: 2 or 4 bytes a token.")] = 50_257,
    gpu: Annotated[str, typer.Option(help="A name of the GPU table, that computes the embeddings.")] = "a100-80g",
    utilization: Annotated[
        float | None, typer.Option(help="Share of its peak that it reaches; without it, the published share.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Benchmark this machine too; takes half a minute.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print what a database of some size needs: disk, memory, GPU-hours, training sample, query hours."""
    from retro.cli.plan import token_budget as number
    from retro.planning.show_database import ask, show

    question = ask(
        tokens=number(tokens), chunk_length=chunk, index=index, embedder=embedder,
        sample=None if sample is None else number(sample, "--sample"),
        query_tokens=None if query_tokens is None else number(query_tokens, "--query-tokens"),
        saved=neighbors, nprobe=nprobe, document_tokens=document_tokens, vocabulary=vocabulary, gpu=gpu,
        utilization=utilization, measured=measure,
    )  # fmt: skip
    show(question, as_json=as_json)


@app.command(
    epilog=examples(
        "retro convert models/llama checkpoints/llama", "retro convert legacy/843m checkpoints/843m --chunk-length 64"
    )
)
def convert(
    model: Annotated[
        Path,
        typer.Argument(
            help="A HuggingFace folder, a .gguf file, a megatron-core checkpoint, or a legacy Megatron one."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The checkpoint to write.")],
    chunk_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a chunk; 64 where the checkpoint does not say.")
    ] = None,
    vocabulary: Annotated[
        int | None, typer.Option(min=1, help="Tokens in its tokenizer; all rows of its embedding without.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A run's YAML file with the model section, which megatron-core does not state.")
    ] = None,
) -> None:
    """Turn a model of another toolkit into a checkpoint of this one; print its model section."""
    require_there(model, _TO_CONVERT)
    from retro.training.convert import convert as run_conversion

    given = None if config is None else read_arguments([str(config)]).model
    shape = run_conversion(model, out, chunk_length=chunk_length, vocabulary=vocabulary, model=given)
    from retro.run.config import model_section

    output.say(model_section(shape.model), end="")


@app.command(
    "merge-lora",
    epilog=examples(
        "retro merge-lora runs/wiki/6_sft merged", "retro merge-lora runs/wiki/6_sft merged --dtype bfloat16"
    ),
)
def merge_lora(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of adapters, or the directory of a finished stage.")],
    out: Annotated[Path, typer.Argument(help="The checkpoint to write; nothing may be there.")],
    base: Annotated[Path | None, typer.Option(help="The checkpoint they were trained on, if it was moved.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; without it, the precision of the training.")
    ] = None,
) -> None:
    """Add adapters (train.lora) to the weights they were trained on: a checkpoint that stands alone."""
    require_there(checkpoint, _A_CHECKPOINT)
    from retro.training.convert import merge

    merge(checkpoint, out, base=base, dtype=dtype)


@app.command(
    epilog=examples(
        "retro export runs/wiki/6_sft exported", "retro export runs/wiki/6_sft exported --decoder-only --dtype bfloat16"
    )
)
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or the directory of a finished stage or model.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; must not exist, or be empty.")],
    decoder_only: Annotated[
        bool,
        typer.Option(
            "--decoder-only", help="Export without encoder and cross-attention: a plain Llama, Qwen or GPT-2."
        ),
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; without it, the precision of the training.")
    ] = None,
    step: Annotated[int | None, typer.Option(help="Which checkpoint; without it, the newest.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="The run that made it; without it, the one above the checkpoint.")
    ] = None,
) -> None:
    """Write a checkpoint as a folder that transformers opens."""
    require_there(checkpoint, _A_CHECKPOINT)
    from retro.interop.export import export as write

    write(checkpoint, out, decoder_only=decoder_only, dtype=dtype, step=step, run_dir=run)
    output.say(f"exported: {out}")


@app.command(
    "export-lora",
    epilog=examples(
        "retro export-lora runs/wiki/6_sft adapters --base-model exported",
        "retro export-lora runs/wiki/6_sft adapters --decoder-only --dtype bfloat16",
    ),
)
def export_lora(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of adapters, or the directory of a finished stage.")],
    out: Annotated[Path, typer.Argument(help="The folder to write; must not exist, or be empty.")],
    base_model: Annotated[
        str, typer.Option(help="Name or path of the transformers model; default: the HuggingFace folder adapted.")
    ] = "",
    base: Annotated[Path | None, typer.Option(help="The checkpoint they were trained on, if it was moved.")] = None,
    decoder_only: Annotated[
        bool, typer.Option("--decoder-only", help="Leave out encoder and cross-attention and their adapters.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16; without it, the precision of the training.")
    ] = None,
    step: Annotated[int | None, typer.Option(help="Which checkpoint; without it, the newest.")] = None,
) -> None:
    """Write adapters (train.lora) as a folder that peft opens on the transformers model of their base."""
    require_there(checkpoint, _A_CHECKPOINT)
    from retro.interop.peft_export import export_adapters as write

    write(checkpoint, out, base=base, base_model=base_model, decoder_only=decoder_only, dtype=dtype, step=step)
    output.say(f"exported: {out}")


@app.command(
    "import-lora",
    epilog=examples(
        "retro import-lora adapters models/llama imported", "retro import-lora adapters runs/wiki/5_pretrain/gpt out"
    ),
)
def import_lora(
    folder: Annotated[Path, typer.Argument(help="A peft folder: adapter_config.json and adapter_model.safetensors.")],
    base: Annotated[Path, typer.Argument(help="The checkpoint or HuggingFace folder that they were trained on.")],
    out: Annotated[Path, typer.Argument(help="The checkpoint to write; nothing may be there.")],
) -> None:
    """Turn LoRA adapters of peft into a checkpoint of adapters on a base."""
    require_there(folder, "Give the folder that peft's save_pretrained wrote")
    require_there(base, _A_CHECKPOINT)
    from retro.interop.peft_import import import_adapters

    import_adapters(folder, base, out)
    output.say(f"imported: {out}")
