"""`retro plan db`: a database's plan from its options, as tables for a terminal and as numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from retro.common.errors import ConfigError
from retro.common.progress import human_size
from retro.common.terminal import Table, output
from retro.index.config import NPROBE, IndexConfig
from retro.index.index_choice import choose_index
from retro.planning import published
from retro.planning.database import DOCUMENT_TOKENS, DatabasePlan, default_sample, find_embedder, rows_of
from retro.planning.faiss_bytes import index_bytes
from retro.planning.faiss_string import parse
from retro.planning.gpus import Gpu, find_gpu
from retro.planning.measure_database import Rates, measure
from retro.planning.plan import require_utilization

_SIZES = (
    "The text itself, ids and titles of documents, and blocks while a stage is under way are not counted. Each formula "
    "is worked by hand in docs/plan_db.md."
)
_HOURS = (
    "published: arXiv:2310.07713, scaled by FLOPs (embedding, training), vectors (adding), bytes of codes read "
    "(queries); embedding in hours of one {gpu}, training of 8 A100s, the rest of one DGX A100 (128 cores)."
)
_MEASURED = (
    "measured: {machine}, {threads} threads, embedding on {device} ({flops:,.0f} GFLOP/s in one layer); {vectors:,} "
    "random vectors in {built}. Extrapolated by the same, and by log(lists) over a graph of centroids. Random lists "
    "are even: real ones are not, so a real query reads more. Recall is not measured here: `retro index` does that."
)
BUSY = 0.8
"""Share of the processors below which a measurement is held up by other work."""
_BUSY = (
    "The machine was busy: it gave {share:.0%} of these threads' time to the benchmark. On a quiet one hours are fewer."
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A plan and what it is to be printed with."""

    plan: DatabasePlan
    chosen: bool
    """Whether the index string is the policy's own choice."""
    gpu: Gpu
    utilization: float
    """Share of its peak that the GPU reaches while it embeds."""
    rates: Rates | None
    """Of this machine, where they were measured."""


def show(question: Question, *, as_json: bool) -> None:
    """Print everything that is known of a database of that size."""
    if as_json:
        output.json(as_numbers(question))
        return
    output.say(*_header(question))
    _print(_bytes_table("Disk", question.plan.disk, total=True))
    _print(_bytes_table("Memory", question.plan.memory, total=False), _memory_note(question.plan))
    _print(_parts(question.plan), _SIZES)
    note = _HOURS.format(gpu=question.gpu.name)
    if question.rates:
        flops = question.rates.embedding_flops / 1e9
        note += "\n" + _MEASURED.format(**asdict(question.rates), flops=flops)
        if question.rates.share < BUSY:
            note += "\n" + _BUSY.format(share=question.rates.share)
    _print(_hours_table(question), note)
    _print(_comparison())


def _print(table: Table, note: str = "") -> None:
    output.say()
    output.table(table)
    if note:
        output.wrap(note, style="dim")


def _header(question: Question) -> list[str]:
    plan = question.plan
    why = " (chosen by the policy for so many chunks)" if question.chosen else ""
    size = f"{plan.tokens:,.0f} tokens in {plan.documents:,} documents"
    lines = [
        f"database  {size}: {plan.rows:,} chunks of {plan.chunk_length}",
        f"embedder  {plan.embedder.name}: {plan.embedder.width} values, "
        f"{plan.embedder.flops(plan.chunk_length) / 1e9:.2f} GFLOPs a chunk",
        f"index     {plan.index.text}{why}",
        f"queries   {plan.queries:,.0f} chunks, {plan.saved} neighbors saved, {plan.nprobe:,} lists searched",
    ]
    if plan.index.lists:
        each = plan.sample / plan.index.lists
        lines.insert(3, f"training  {plan.sample:,.0f} vectors, {each:,.0f} a list (Faiss wants 39, uses up to 256)")
    return lines


def _bytes_table(title: str, sizes: dict[str, float], *, total: bool) -> Table:
    table = Table.of_numbers(title, "", "bytes", "")
    for name, size in sizes.items():
        table.add_row(name, f"{size:,.0f}", human_size(size))
    if total:
        table.end_section()
        table.add_row("together", f"{sum(sizes.values()):,.0f}", human_size(sum(sizes.values())))
    return table


def _memory_note(plan: DatabasePlan) -> str:
    each = plan.index_bytes.per_vector(plan.rows)
    return f"A vector takes {each:,.1f} bytes of the index. A machine that searches needs one of the first two lines."


def _parts(plan: DatabasePlan) -> Table:
    table = Table.of_numbers("The index", "part", "bytes", "")
    for name, size in asdict(plan.index_bytes).items():
        if size:
            table.add_row(name.replace("_", " "), f"{size:,.0f}", human_size(size))
    table.end_section()
    table.add_row("together", f"{plan.index_bytes.total:,.0f}", human_size(plan.index_bytes.total))
    return table


def hours(question: Question) -> list[tuple[str, float | None, float | None]]:
    """Each act with its hours at published rates and at measured ones; None where there is no way to tell."""
    plan, rates = question.plan, question.rates
    clustered = plan.index.lists > 0
    query = plan.searched_bytes
    return [
        (
            "embedding all chunks",
            plan.embedding_flops / (question.utilization * question.gpu.peak) / 3600,
            rates.embedding_hours(plan) if rates else None,
        ),
        (
            "training the index",
            plan.training_flops / (published.training_speed() * published.DGX_GPUS) / 3600 if clustered else 0.0,
            rates.training_hours(plan) if rates else None,
        ),
        (
            "adding all vectors",
            plan.rows / published.ROWS * published.ADDING_HOURS,
            rates.adding_hours(plan) if rates else None,
        ),
        (
            "searching the neighbors",
            None if query is None else plan.queries * query / published.searched_per_second() / 3600,
            rates.query_hours(plan) if rates else None,
        ),
    ]


def _hours_table(question: Question) -> Table:
    title = f"Hours ({question.gpu.name} at {question.utilization:.0%} of its peak)"
    table = Table.of_numbers(title, "", "at published rates", *(["measured on this machine"] if question.rates else []))
    for name, paper, own in hours(question):
        table.add_row(name, _hours(paper), *([_hours(own)] if question.rates else []))
    return table


def _comparison() -> Table:
    table = Table(title="The published database: its figures and these formulas", rules="all")
    table.add_column("what", share=3)
    for name in ("published", "formula"):
        table.add_column(name, align="right", whole=True)
    table.add_column("", whole=True)
    table.add_column("because", share=5)
    for row in published.compare():
        verdict = "agree" if row.agrees else "DISAGREE"
        limit = "< " if row.limit else ""
        figures = f"{limit}{row.published:,.4g} {row.unit}", f"{row.formula:,.4g} {row.unit}"
        table.add_row(row.what, *figures, verdict, row.says)
    return table


def as_numbers(question: Question) -> dict[str, object]:
    """The same for machines: bytes, FLOPs, hours."""
    plan = question.plan
    return {
        "tokens": plan.tokens, "documents": plan.documents, "chunks": plan.rows, "chunk_length": plan.chunk_length,
        "embedder": asdict(plan.embedder), "index": plan.index.text, "index_chosen_by_policy": question.chosen,
        "training_sample": plan.sample, "queries": plan.queries, "nprobe": plan.nprobe,
        "disk_bytes": plan.disk, "memory_bytes": plan.memory, "index_bytes": asdict(plan.index_bytes),
        "index_bytes_per_vector": plan.index_bytes.per_vector(plan.rows),
        "embedding_flops": plan.embedding_flops, "training_flops": plan.training_flops,
        "gpu": question.gpu.name, "utilization": question.utilization,
        "hours": {name: {"published_rates": paper, "measured_rates": own} for name, paper, own in hours(question)},
        "measured": asdict(question.rates) if question.rates else None,
        "published": [asdict(row) | {"agrees": row.agrees} for row in published.compare()],
    }  # fmt: skip


def _hours(value: float | None) -> str:
    if value is None:
        return "not known"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ask(
    *,
    tokens: float,
    chunk_length: int = published.CHUNK_LENGTH,
    index: str | None = None,
    embedder: str = "bert-large",
    sample: float | None = None,
    query_tokens: float | None = None,
    saved: int = published.SAVED,
    nprobe: int | None = None,
    document_tokens: float = DOCUMENT_TOKENS,
    vocabulary: int = 50_257,
    gpu: str = "a100-80g",
    utilization: float | None = None,
    measured: bool = False,
) -> Question:
    """Plan a database.

    Args:
        tokens: Of its text.
        chunk_length: Tokens of a chunk.
        index: A Faiss string; None takes what the index stage would take.
        embedder: A name of the table of shapes.
        sample: Vectors that train the index; None takes as many as Faiss wants.
        query_tokens: Of the text whose chunks' neighbors are searched; None: the database's own.
        saved: Neighbors stored for each.
        nprobe: Lists searched; None takes the index stage's default.
        document_tokens: Mean tokens of a document.
        vocabulary: Tokens of the tokenizer.
        gpu: A name of the GPU table.
        utilization: Share of its peak that it reaches; None: the share of the published embedding.
        measured: Measure this machine too.

    Raises:
        ConfigError: A value that cannot be.
    """
    if chunk_length < 1 or not document_tokens > 0:
        raise ConfigError(
            "--chunk", chunk_length, f"needs a positive number, as does --document-tokens {document_tokens}"
        )
    share = published.embedding_utilization() if utilization is None else utilization
    require_utilization(share)
    shape, rows = find_embedder(embedder), rows_of(tokens, chunk_length, document_tokens)
    if rows < 1:
        raise ConfigError("--tokens", tokens, f"needs text enough for a chunk of {chunk_length} tokens")
    parsed = parse(chosen_index(rows, shape.width) if index is None else index)
    index_bytes(parsed, shape.width, 1)  # refuses here what no vectors of that width can have
    plan = DatabasePlan(
        tokens=tokens, chunk_length=chunk_length, index=parsed, embedder=shape, document_tokens=document_tokens,
        vocabulary=vocabulary, queries=(query_tokens or tokens) / chunk_length, saved=saved,
        sample=default_sample(parsed, rows) if sample is None else sample,
        nprobe=NPROBE if nprobe is None else nprobe,
    )  # fmt: skip
    rates = measure(plan) if measured else None
    return Question(plan=plan, chosen=index is None, gpu=find_gpu(gpu), utilization=share, rates=rates)


def chosen_index(rows: int, dimension: int) -> str:
    """The string that the index stage's policy takes for so many chunks."""
    return choose_index(rows, min(rows, IndexConfig().train_sample), dimension)
