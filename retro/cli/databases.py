"""Databases: `retro db`, which builds one or changes it, and what imports, shows and measures one.

retro db run.yaml                       the stage, as any other
retro db add run.yaml new.jsonl         and replace, remove, compact, versions
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retro.cli.options import (
    AsJson,
    DefaultCommandGroup,
    Words,
    Workers,
    examples,
    next_command,
    read_arguments,
    read_named,
)
from retro.cli.stages import stage_command
from retro.common.errors import ConfigError, DataError
from retro.common.files import discard
from retro.common.launcher import spawn_workers, worker_of
from retro.common.terminal import output
from retro.run.pipeline import database_home, leakage_path, measure_leakage, stage, stage_lock

if TYPE_CHECKING:
    from retro.run.config import RunConfig

OwnRun = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CONFIG.yaml] [section.setting=value]...", help="The run that the database belongs to."),
]
WordsAndPath = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CONFIG.yaml] PATH [section.setting=value]...", help="The run, and a file or folder of documents."
    ),
]
Source = Annotated[
    str | None, typer.Option(help="The source the documents belong to; not needed where there is only one.")
]


class _DatabaseGroup(DefaultCommandGroup):
    default = "build"


app = typer.Typer()
database = typer.Typer(
    cls=_DatabaseGroup,
    help="Token files to the chunk database (`retro db CONFIG.yaml`), or a change of one.",
    epilog=examples("retro db run.yaml --workers 4", "retro db add run.yaml new.jsonl"),
    rich_markup_mode=None,
)
database.command("build", epilog=examples("retro db build run.yaml", "retro db build run.yaml --redo"))(
    stage_command("db")
)


@database.command(epilog=examples("retro db add run.yaml new.jsonl", "retro db add run.yaml notes/ --source wiki"))
def add(words: WordsAndPath = None, source: Source = None) -> None:
    """Add the documents of a file or folder: the next version of the database."""
    from retro.updates import change

    config, path = _run_and_path(words)
    change.add(database_home(config), path, source)


@database.command(
    epilog=examples("retro db replace run.yaml changed.jsonl", "retro db replace run.yaml changed/ --source wiki")
)
def replace(words: WordsAndPath = None, source: Source = None) -> None:
    """Replace documents by those of the same ids in a file or folder: the next version."""
    from retro.updates import change

    config, path = _run_and_path(words)
    change.replace_documents(database_home(config), path, source)


@database.command(
    epilog=examples("retro db remove run.yaml --id Anarchism", "retro db remove run.yaml --ids removed.txt")
)
def remove(
    words: OwnRun = None,
    id_: Annotated[list[str] | None, typer.Option("--id", help="A document's id; can be repeated.")] = None,
    ids: Annotated[Path | None, typer.Option(help="A file with one id a line.")] = None,
    source: Source = None,
) -> None:
    """Remove documents: the next version."""
    from retro.updates import change

    wanted = [*(id_ or []), *(_lines(ids) if ids else [])]
    if not wanted:
        raise ConfigError("--id", wanted, "needs the id of a document, or --ids FILE")
    change.remove(database_home(_own_run(words)), wanted, source)


@database.command(epilog=examples("retro db compact run.yaml", "retro db compact run_dir=runs/wiki"))
def compact(words: OwnRun = None) -> None:
    """Write all documents that were not removed into one database and one index: the next version."""
    from retro.updates.compact import compact as compact_database

    compact_database(database_home(_own_run(words)))


@database.command(epilog=examples("retro db versions run.yaml", "retro db versions run.yaml --json"))
def versions(words: OwnRun = None, as_json: AsJson = False) -> None:
    """List the versions of the database."""
    from retro.cli.versions import numbers_of, table_of

    home = database_home(_own_run(words))
    if as_json:
        output.json(numbers_of(home))
    else:
        output.table(table_of(home))


@app.command(
    "import-db",
    epilog=examples(
        "retro import-db megatron/project runs/imported",
        "retro import-db megatron/project runs/imported --tokenizer spm.model",
    ),
)
def import_db(
    project: Annotated[Path, typer.Argument(help="A project of Megatron-LM's Retro preprocessing.")],
    out: Annotated[Path, typer.Argument(help="The run directory to make corpus and database in.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="SentencePiece .model or tokenizer.json; without it, what the project names.")
    ] = None,
    eod_token: Annotated[str | None, typer.Option(help="Token that ends a document, if not the usual one.")] = None,
) -> None:
    """Import a chunk database that NVIDIA's tools built: same chunks, same row numbers."""
    from retro.interop.nvidia_import import import_project
    from retro.run.config import RunConfig

    run_config = RunConfig(run_dir=out)
    dirs = (stage(name).path(run_config) for name in ("corpus", "db"))
    new = not out.exists()
    with stage_lock(run_config, "corpus", redo=True):
        try:
            found = import_project(project, out, *dirs, tokenizer=tokenizer, eod_token=eod_token)
        except (ConfigError, DataError):
            if new:
                discard(out)
            raise
    rows = ", ".join(f"{count:,} {split}" for split, count in found.rows.items())
    output.say(f"imported: {rows} chunks; go on with: {next_command('index', [str(found.run_file)])}")


@app.command(epilog=examples("retro inspect neighbors 12 run.yaml", "retro inspect tuning 3 run.yaml --split valid"))
def inspect(
    what: Annotated[
        str, typer.Argument(help="What to show: chunk, neighbors, sample, tuning or database (without NUMBER).")
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NUMBER] [CONFIG.yaml] [section.setting=value]...",
            help="NUMBER: row of the database (chunk), chunk of the training text (neighbors), training sample, or "
            "a question of the tuning sets. Then a run's YAML file and settings.",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="Split of neighbors, samples and tuning questions: train, valid or test.")
    ] = "train",
    source: Annotated[int, typer.Option(help="For neighbors and samples: which corpus, counted from 0.")] = 0,
    neighbors: Annotated[
        int | None, typer.Option(help="Neighbors to show; default: as many as the model reads.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="For samples: write them to a self-contained HTML page.")] = None,
    samples: Annotated[int, typer.Option(help="Samples on the page, starting with NUMBER.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show a chunk, its neighbors, training samples, what tuning learns of a question, or the whole database."""
    from retro.analysis.inspect.inspect import Options, show, view_and_number

    number, arguments = view_and_number(words or [])
    wanted = Options(
        what=what, number=number, split=split, source=source, neighbors=neighbors, html=html, samples=samples,
        as_json=as_json,
    )  # fmt: skip
    show(read_arguments(arguments), wanted)


@app.command(epilog=examples("retro leakage run.yaml", "retro leakage run.yaml --workers 4 --json"))
def leakage(
    arguments: Words = None,
    again: Annotated[bool, typer.Option("--redo", help="Measure the overlaps again.")] = False,
    workers: Workers = 1,
    as_json: AsJson = False,
) -> None:
    """Measure how much of the held-out text is in the training text, and perplexity without it."""
    config = read_named("leakage", arguments)
    from retro.report.leakage import print_leakage

    # It reads what perplexity reads, and its numbers.
    with stage_lock(config, "perplexity", together=True):
        if again:
            discard(leakage_path(config))
        with spawn_workers(workers, ["leakage", *(arguments or [])]):
            result = measure_leakage(config)
    if worker_of().rank:
        return
    if as_json:
        output.json(result)
        return
    print_leakage(result, output)
    output.say(f"pictures and all numbers: {leakage_path(config)}")


@app.command(
    "compare-neighbors",
    epilog=examples(
        "retro compare-neighbors runs/vectors", "retro compare-neighbors runs/vectors runs/words --neighbors 2"
    ),
)
def compare_neighbors(
    run_a: Annotated[Path, typer.Argument(help="A run's directory.")],
    run_b: Annotated[Path | None, typer.Argument(help="Another one over the same corpus.")] = None,
    neighbors: Annotated[int, typer.Option(help="Neighbors that a model reads of a chunk.")] = 2,
    split: Annotated[list[str] | None, typer.Option(help="train, valid or test; can be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="A JSON file for all numbers.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure how much of the text to be predicted is in the neighbors, in one run or in two."""
    from retro.analysis.neighbor_overlap import compare_neighbors as compare_sides
    from retro.analysis.neighbor_overlap import open_run_neighbors, overlap_table

    b = None if run_b is None else open_run_neighbors(run_b)
    found = compare_sides(open_run_neighbors(run_a), b, k=neighbors, splits=split or ())
    if out is not None:
        from retro.common.files import write_plain_json

        write_plain_json(out, found)
    if as_json:
        output.json(found)
    else:
        output.table(overlap_table(found))


def _own_run(words: list[str] | None) -> RunConfig:
    config = read_arguments(words)
    if config.database.run_dir is not None:
        need = "needs to be left out: a database is changed through its own run's config"
        raise ConfigError("database.run_dir", str(config.database.run_dir), need)
    return config


def _run_and_path(words: list[str] | None) -> tuple[RunConfig, Path]:
    """A config ends in .yaml or .yml, a setting has an equals sign; the word that is left is the path."""
    paths = [word for word in words or [] if "=" not in word and not word.endswith((".yaml", ".yml"))]
    if len(paths) != 1:
        raise ConfigError(
            "PATH", paths, "needs one file or folder of documents, as in `retro db add run.yaml new.jsonl`"
        )
    return _own_run([word for word in words or [] if word != paths[0]]), Path(paths[0])


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, f"cannot be read ({error})", "Give a UTF-8 file with one id a line") from None
