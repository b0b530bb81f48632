"""Questions: one at the terminal, many over HTTP, and how well sets of them were answered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retro.cli.options import AsJson, Words, examples, read_arguments, read_named
from retro.common.errors import ConfigError
from retro.common.progress import show_only
from retro.common.terminal import output

if TYPE_CHECKING:
    from retro.run.config import RunConfig
    from retro.serve.config import ServeConfig
    from retro.serve.retrieval import RetrievalService

app = typer.Typer()


@app.command(
    epilog=examples('retro ask run.yaml "Who wrote it?"', 'retro ask --documents notes/ "When is the meeting?"')
)
def ask(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CONFIG.yaml] QUESTION [section.setting=value]",
            help="A run's YAML file (not with --documents), a question in quotes, and settings to change.",
        ),
    ] = None,
    documents: Annotated[
        Path | None,
        typer.Option(help="Answer from this folder of text files: its database is built once and kept."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="With --documents: a checkpoint, HuggingFace folder or .gguf file; else SmolLM2-135M."),
    ] = None,
    passages_from: Annotated[
        str, typer.Option(help="retriever (searched with the question), live (also during generation) or none.")
    ] = "retriever",
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Print the answer as it is generated.")] = True,
    as_json: AsJson = False,
) -> None:
    """Answer one question with the tuned model, or from a folder of documents, and list the passages it read."""
    from retro.cli.ask import run_and_question, show_answer
    from retro.generate.config import setting_of

    setting_of(passages_from)  # refused before a database is built
    arguments, question = run_and_question(words or [], needs_run=documents is None)
    if documents is None:
        if model is not None:
            raise ConfigError("--model", model, "needs --documents; of a run it is generate.checkpoint=...")
        config = read_arguments(arguments)
    else:
        from retro.run.documents import MODEL, documents_run

        # Who asks wants the answer; what takes time before it is logged.
        show_only("retro.run.documents", "retro.common.progress")
        config = documents_run(documents, model or MODEL, arguments)
    show_answer(config, question, passages_from=passages_from, stream=stream and not as_json, as_json=as_json)


@app.command(
    epilog=examples(
        "retro serve run.yaml serve.port=8080 generate.checkpoint=runs/wiki/6_sft",
        "retro serve run.yaml serve.only=retrieval",
    )
)
def serve(arguments: Words = None) -> None:
    """Serve answers and their passages over HTTP, in the format of OpenAI's API, with a web page at /."""
    from retro.serve.run import listen, require_packages, with_key
    from retro.serve.run import serve as serve_until_stopped

    config = read_named("serve", arguments)
    require_packages()
    # The address before the model: a port that is taken should not cost the time to load.
    settings = with_key(config.serve)
    listener = listen(settings)
    try:
        from retro.run.pipeline import model_paths

        name, begin, modules = config.run_dir.resolve().name, None, None
        if settings.only == "retrieval":
            serve_until_stopped(_retrieval_alone(config, settings, name), listener)
            return
        from retro.serve.loading import load_service

        generate, paths = config.generate, model_paths(config)
        if settings.recipe:
            from retro.recipes.base import served

            found = served(config)
            generate, paths, begin, modules = found.generate, found.paths, found.begin, found.modules
            settings = settings.model_copy(update={"kind": found.kind})
        serve_until_stopped(load_service(settings, generate, paths, name, begin, modules), listener)
    finally:
        listener.close()


def _retrieval_alone(config: RunConfig, settings: ServeConfig, name: str) -> RetrievalService:
    """A server over the run's database; no model is loaded."""
    from retro.recipes.passages.search import DatabaseRetriever
    from retro.run.pipeline import model_paths
    from retro.serve.retrieval import retrieval_service

    paths = model_paths(config)
    source = DatabaseRetriever(paths.corpus, paths.db, paths.index, paths.search)
    return retrieval_service(settings, source.search, name)


@app.command(epilog=examples("retro tasks", "retro tasks --json"))
def tasks(
    markdown: Annotated[bool, typer.Option("--markdown", help="The table of docs/evaluation.md.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the tasks that generate.task names: their kind, metrics and data set."""
    from retro.cli.scores import tasks_markdown, tasks_numbers, tasks_table

    if as_json:
        output.json(tasks_numbers())
    elif markdown:
        output.say(tasks_markdown(), end="")
    else:
        output.table(tasks_table())


@app.command(
    epilog=examples(
        "retro compare runs/a runs/b", "retro compare runs/a runs/a --setting retrieved --setting-b closed_book"
    )
)
def compare(
    run_a: Annotated[Path, typer.Argument(help="A run, or the directory of its evaluate stage.")],
    run_b: Annotated[Path, typer.Argument(help="Another, or the same one with --setting-b.")],
    task: Annotated[str | None, typer.Option(help="The task to score, where a run answered several.")] = None,
    setting: Annotated[
        str | None, typer.Option(help="The setting to compare, such as closed_book; default: the first in the report.")
    ] = None,
    setting_b: Annotated[str | None, typer.Option(help="The setting of RUN_B, if it differs from --setting.")] = None,
    show: Annotated[int, typer.Option(min=0, help="How many of the questions to list whose results differ.")] = 20,
    out: Annotated[
        Path | None, typer.Option(help="A JSON file for all numbers and all questions whose results differ.")
    ] = None,
    as_json: AsJson = False,
    # What `--json FILE` meant before --json was for the same everywhere.
    file: Annotated[Path | None, typer.Argument(hidden=True)] = None,
) -> None:
    """Compare two sets of answers to the same questions, with intervals and p-values."""
    from retro.cli.scores import show_comparison
    from retro.evaluate.compare import compare as compare_sides
    from retro.evaluate.compare import open_scored_answers

    a = open_scored_answers(run_a, task=task, setting=setting)
    b = open_scored_answers(run_b, task=task, setting=setting_b or setting)
    found = compare_sides(a, b)
    if file is not None and not as_json:
        raise ConfigError("arguments", str(file), "needs two runs")
    if (written := out or file) is not None:
        from retro.common.files import write_plain_json

        write_plain_json(written, found)
    if as_json and file is None:
        output.json(found)
    else:
        show_comparison(found, output, questions=show)


@app.command(
    "lm-eval",
    epilog=examples(
        "retro lm-eval run.yaml --tasks arc_easy,hellaswag",
        "retro lm-eval run.yaml --tasks arc_easy --retrieval live --limit 100",
    ),
)
def lm_eval(
    arguments: Words = None,
    tasks: Annotated[str, typer.Option(help="Tasks of lm-evaluation-harness, with commas between.")] = "",
    include_path: Annotated[Path | None, typer.Option(help="A folder of further tasks.")] = None,
    retrieval: Annotated[str, typer.Option(help="What the encoder reads: none, or live from the index.")] = "none",
    few_shot: Annotated[int | None, typer.Option(min=0, help="Examples; without it, as the task says.")] = None,
    limit: Annotated[
        float | None, typer.Option(help="Questions of each task, or below 1 their share; without it, all.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where results go; without it, lm_eval.json of the run.")] = None,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Ask with the chat template of the model's folder.")
    ] = False,
    system_instruction: Annotated[
        str | None, typer.Option(help="A system message before every question; with a chat template, its system turn.")
    ] = None,
    samples: Annotated[
        str | None, typer.Option(help='Which questions, as JSON or a file of it: {"arc_easy": [0, 3]}.')
    ] = None,
    gen_kwargs: Annotated[
        str | None, typer.Option(help="Generation settings over the tasks' own: temperature=0.5,do_sample=true.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Sequences at once; without it, generate.batch_size.")
    ] = None,
    use_cache: Annotated[Path | None, typer.Option(help="A file that keeps responses, to go on after a stop.")] = None,
    log_samples: Annotated[
        bool, typer.Option("--log-samples", help="Write every question with its responses too.")
    ] = False,
    predict_only: Annotated[
        bool, typer.Option("--predict-only", help="Write the responses and score nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run tasks of lm-evaluation-harness on a run's model (generate.checkpoint, or the one it tuned)."""
    from retro.cli.lm_eval import run_harness

    run_harness(
        read_arguments(arguments), tasks=tasks, include_path=include_path, retrieval=retrieval, few_shot=few_shot,
        limit=limit, out=out, apply_chat_template=apply_chat_template, samples=samples,
        system_instruction=system_instruction, gen_kwargs=gen_kwargs, batch_size=batch_size, use_cache=use_cache,
        log_samples=log_samples, predict_only=predict_only,
        as_json=as_json,
    )  # fmt: skip


@app.command(epilog=examples("retro sweep sweep.yaml", "retro sweep sweep.yaml --json"))
def sweep(
    file: Annotated[
        Path, typer.Argument(metavar="SWEEP.yaml", help="Checkpoints and tasks; docs/evaluation.md has an example.")
    ],
    as_json: AsJson = False,
) -> None:
    """Score several checkpoints on several tasks into one table; what is scored already is skipped."""
    from retro.sweep.run import cells_of, load_sweep, run_sweep
    from retro.sweep.table import as_json as numbers
    from retro.sweep.table import as_markdown, errors

    wanted = load_sweep(file)
    results = run_sweep(wanted, cells_of(wanted))
    if as_json:
        output.json(numbers(wanted.name, results))
    else:
        output.say(as_markdown(wanted.name, results), f"table: {wanted.out}")
    if errors(results):
        raise typer.Exit(1)
