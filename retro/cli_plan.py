"""`retro plan`: a model's needs or a database's, before anything is allocated.

retro plan run.yaml, retro plan --size 8b       a model; `retro plan model …` is the same
retro plan db --tokens 1.2T                     a database
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from retro.cli_common import AsJson, Words, read_arguments
from retro.common.errors import ConfigError

MODEL = "model"


class ModelUnlessNamed(TyperGroup):
    """A group whose first word may be left out: `retro plan run.yaml` is `retro plan model run.yaml`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the word there where it is missing."""
        if not args or args[0] not in {*self.commands, "--help"}:
            args = [MODEL, *args]
        return super().parse_args(ctx, args)


def plan_app() -> typer.Typer:
    """The `plan` group."""
    app = typer.Typer(
        cls=ModelUnlessNamed,
        help="Say what a model or a database needs, before anything is allocated.\n\n"
        "`retro plan --size 8b` and `retro plan run.yaml` plan a model.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    _add_model(app)
    _add_database(app)
    return app


def _add_model(app: typer.Typer) -> None:
    @app.command(MODEL)
    def model(
        arguments: Words = None,
        size: Annotated[str | None, typer.Option(help="A row of the size table, in place of a config file.")] = None,
        gpus: Annotated[int, typer.Option(help="How many GPUs; if not given, as few as hold one copy.")] = 0,
        gpu: Annotated[str, typer.Option(help="A name of the GPU table, as a100-80g or h100-80g.")] = "h100-80g",
        tokens: Annotated[str, typer.Option(help="Token budget, as 100b or 1.2t.")] = "100b",
        utilisation: Annotated[float, typer.Option(help="Share of its peak that a GPU reaches while it works.")] = 0.4,
        vocabulary: Annotated[int | None, typer.Option(help="Tokens of the tokenizer, if not the size's own.")] = None,
        as_json: AsJson = False,
    ) -> None:
        """Say what a run needs: weights, memory, FLOPs, GPU-hours. Proposes a layout where none is given."""
        from retro.show_plan import overrides_of_size, show_plan

        given = list(arguments or [])
        if size is not None:
            if any("=" not in text for text in given):
                raise ConfigError("--size", size, "needs no config file beside it: give one of the two")
            given = overrides_of_size(size) + given
        show_plan(
            read_arguments(given), gpus=gpus, gpu=gpu, tokens=tokens, utilisation=utilisation, vocabulary=vocabulary,
            as_json=as_json,
        )  # fmt: skip


def _add_database(app: typer.Typer) -> None:
    @app.command("db")
    def database(
        tokens: Annotated[str, typer.Option(help="Tokens of the text, as 330b or 1.2T.")],
        chunk: Annotated[int, typer.Option(help="Tokens of a chunk.")] = 64,
        index: Annotated[str | None, typer.Option(help="A Faiss string; without it, the index stage's choice.")] = None,
        embedder: Annotated[str, typer.Option(help="Its shape: bert-large, bert-base or minilm-l6.")] = "bert-large",
        sample: Annotated[str | None, typer.Option(help="Vectors that train the index, as 600m.")] = None,
        query_tokens: Annotated[
            str | None, typer.Option(help="Tokens whose chunks are searched for; without it, all of the text.")
        ] = None,
        neighbors: Annotated[int, typer.Option(help="Neighbors stored for each chunk.")] = 20,
        nprobe: Annotated[int | None, typer.Option(help="Lists searched; without it, the stage's default.")] = None,
        document_tokens: Annotated[float, typer.Option(help="Mean tokens of a document.")] = 2400.0,
        vocabulary: Annotated[int, typer.Option(help="Tokens of the tokenizer: 2 or 4 bytes a token.")] = 50_257,
        gpu: Annotated[str, typer.Option(help="A name of the GPU table, which embeds.")] = "a100-80g",
        utilisation: Annotated[
            float | None, typer.Option(help="Share of its peak that it reaches; without it, the published share.")
        ] = None,
        measure: Annotated[bool, typer.Option("--measure", help="Measure this machine too: half a minute.")] = False,
        as_json: AsJson = False,
    ) -> None:
        """Say what a database of some size needs: disk, memory, GPU-hours, training sample, query hours."""
        from retro.planning.show_database import ask, show
        from retro.show_plan import token_budget as number

        question = ask(
            tokens=number(tokens), chunk_length=chunk, index=index, embedder=embedder,
            sample=None if sample is None else number(sample, "--sample"),
            query_tokens=None if query_tokens is None else number(query_tokens, "--query-tokens"),
            saved=neighbors, nprobe=nprobe, document_tokens=document_tokens, vocabulary=vocabulary, gpu=gpu,
            utilisation=utilisation, measured=measure,
        )  # fmt: skip
        show(question, as_json=as_json)
