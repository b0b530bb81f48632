"""What is fuzzed: each reader of a file that anybody may have put there, with seeds that it reads without an error.

A reader may give a value, or raise one of our errors. Anything else is a failure: another exception, a death of the
process, minutes without an answer.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Target:
    """One reader."""

    seeds: Callable[[], Sequence[bytes]]
    """Contents that it reads."""
    read: Callable[[Path], object]
    """Reads a file, all that it holds."""
    file: str = "input"
    """Name that the file must have."""
    quick: int = 300
    """Inputs of a run in CI."""


def _written(write: Callable[[Path], object]) -> bytes:
    """The bytes of a file that something writes."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "file")
        return (Path(folder) / "file").read_bytes()


# JSON that stages wrote


def _json_seeds() -> list[bytes]:
    from retro.common.artifacts import Manifest, write_manifest

    manifest = Manifest(
        stage="db",
        config={"chunk_length": 64, "split": [0.98, 0.01, 0.01], "x": None},
        parents={"corpus": "0123456789abcdef"},
        counts={"rows": 10, "é": "\u2028"},
        files={"db.h5": {"bytes": 10, "sha256": "0" * 64}},
    )
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder), manifest)
        written = (Path(folder) / "manifest.json").read_bytes()
    plan = {"directory": "blocks", "stage": "db", "unit": "chunks", "sizes": [1, 2], "inputs": ["a", "b"]}
    return [written, json.dumps(plan).encode(), b'{"f": [1, 2, 3, "' + b"0" * 64 + b'"]}']


def _read_json(path: Path) -> object:
    from retro.common.artifacts import parse_manifest
    from retro.common.coordinator import Plan
    from retro.common.errors import ArtifactError
    from retro.common.files import read_json

    for read in (Plan.read, lambda one: parse_manifest(one, "")):
        try:
            read(path)
        except ArtifactError as error:
            str(error).encode()
    return read_json(path, "")


# Settings


def _yaml_seeds() -> list[bytes]:
    configs = sorted((Path(__file__).parents[2] / "tools/retro/examples/configs").glob("*.yaml"))
    own = b"train: &a {lr: 1.0e-3, steps: 7}\nsft: {train: {<<: *a}}\nrun_dir: ~/x\ncorpus:\n  sources: [{name: a}]\n"
    return [*(path.read_bytes() for path in configs), own]


def _read_yaml(path: Path) -> object:
    from retro.run.config import as_yaml, load_run_config

    return as_yaml(load_run_config(path, []))


def _read_override(path: Path) -> object:
    from retro.run.config import as_yaml, load_run_config

    return as_yaml(load_run_config(None, [path.read_bytes().decode("utf-8", "surrogateescape")]))


def _override_seeds() -> list[bytes]:
    return [b"train.lr=3e-4", b"corpus.split=[0.5,0.25,0.25]", b"run_dir=~/x", b"generate.name=a", b"train={lr: 1.0}"]


# Token files, databases, indexes


def _hdf5_seeds() -> list[bytes]:
    from retro.common.hdf5 import new_file, write_columns, write_texts

    def write(path: Path) -> None:
        with new_file(path) as file:
            write_columns(file, {"source": np.zeros(9, np.uint16), "token_start": np.arange(9)})
            write_columns(file.create_group("text"), {"neighbors": np.zeros((4, 2), np.int64)})
            file.attrs["chunk_length"] = 64
            write_texts(file, {"corpus": "0123abc", "counts": '{"documents": 3}'})

    return [_written(write)]


def _read_hdf5(path: Path) -> None:
    from retro.common.errors import ArtifactError
    from retro.common.hdf5 import map_column, open_file, read_text
    from retro.common.json_files import parse_json

    for name in ("token_start", "text/neighbors"):
        try:
            int(map_column(path, name, "").sum())
        except ArtifactError as error:
            str(error).encode()
    map_column(path, "source", "")
    with open_file(path, "") as file:
        parse_json(read_text(file, "counts"))


def _index_seeds() -> list[bytes]:
    from retro.corpus.token_files import TokenFileWriter, idx_path

    def write(path: Path) -> None:
        with TokenFileWriter(path.with_name("t"), 100) as writer:
            for ids in ([1, 2, 3], [4], [], [5, 6]):
                writer.add_document(ids)
            writer.finish()
        idx_path(path.with_name("t")).rename(path)

    return [_written(write)]


def _read_index(path: Path) -> object:
    from retro.corpus.token_files import TokenFile

    path.with_suffix(".bin").write_bytes(bytes(12))
    file = TokenFile(path.with_suffix(""))
    return int(file.tokens.sum()) + int(file.document_starts.sum())


def _faiss_seeds() -> list[bytes]:
    from retro.index.faiss_loader import load_faiss

    faiss, vectors = load_faiss(), np.random.default_rng(0).random((300, 8), np.float32)
    seeds = []
    for factory in ("Flat", "IVF4,SQ8", "IVF4,PQ4x4", "HNSW4,Flat"):
        index = faiss.index_factory(8, factory, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        seeds.append(faiss.serialize_index(index).tobytes())
    return seeds


def _read_faiss(path: Path) -> object:
    from retro.index.faiss_index import load_index

    return load_index(path, 300, 8).ntotal


# Weights and tokenizers


def _torch_seeds() -> list[bytes]:
    import torch

    stream = io.BytesIO()
    torch.save({"a": torch.arange(6).view(2, 3), "b": torch.ones(3, dtype=torch.bfloat16), "c": [1, "x"]}, stream)
    return [stream.getvalue()]


def _read_torch(path: Path) -> None:
    from retro.common.plain_pickle import PickleError
    from retro.mcore.torch_files import TorchFile

    try:
        file = TorchFile(path)
        for value in file.value.values() if isinstance(file.value, dict) else ():
            stored = file.tensor(value)
            if stored is not None:
                stored.read()
    except PickleError:
        pass


def _read_tensor_index(path: Path) -> object:
    from retro.mcore.tensor_index import read_index

    shutil.copyfile(path, path.with_name(".metadata"))
    for name, content in _sharded().items():
        if name != ".metadata" and not path.with_name(name).exists():
            path.with_name(name).write_bytes(content)
    return read_index(path.parent)


@cache
def _sharded() -> dict[str, bytes]:
    """The files of a sharded checkpoint."""
    import torch
    from torch.distributed.checkpoint.state_dict_saver import save

    with tempfile.TemporaryDirectory() as folder:
        save({"a": torch.arange(6.0), "b": torch.ones(2, 2)}, checkpoint_id=folder, no_dist=True)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _safetensors_seeds() -> list[bytes]:
    import torch
    from safetensors.torch import save

    return [save({"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}, {"format": "pt"})]


def _read_safetensors(path: Path) -> None:
    from retro.model.convert.safe_files import SafeFiles

    files = SafeFiles(path.parent)
    for name, size in files.sizes.items():
        files.read(name, tuple(slice(0, length) for length in size))


def _tokenizer_seeds() -> list[bytes]:
    vocabulary = {"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3, "Ġ": 4}
    bpe = {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"]]}
    added = {"id": 0, "content": "<|endoftext|>", "special": True}
    added |= dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    whole: dict[str, object] = {"version": "1.0", "added_tokens": [added], "normalizer": None, "pre_tokenizer": level}
    whole |= {"post_processor": None, "decoder": level, "truncation": None, "padding": None, "model": bpe}
    return [json.dumps(whole).encode()]


def _read_tokenizer(path: Path) -> object:
    from retro.tokenizers.tokenizer import HuggingFaceTokenizer

    tokenizer = HuggingFaceTokenizer(path)
    return tokenizer.decode(tokenizer.encode("ab ba"))


def _sentencepiece_seeds() -> list[bytes]:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a bc abc", "cab ba é", "bac"] * 50),
        model_writer=model,
        vocab_size=275,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    return [model.getvalue()]


def _read_sentencepiece(path: Path) -> object:
    from retro.tokenizers.tokenizer import SentencePieceTokenizer

    tokenizer = SentencePieceTokenizer(path)
    return tokenizer.decode(tokenizer.encode("abc é"))


# What users bring


def _corpus_seeds() -> list[bytes]:
    lines = [{"id": "a", "title": "A", "text": "some text, é"}, {"text": "more", "meta": {"n": [1, 2.5, None]}}]
    return [
        "".join(json.dumps(line) + "\n" for line in lines).encode(),
        b'\xef\xbb\xbf{"text": "a"}\n\n{"text": "\\u00e9"}',
    ]


def _read_corpus(path: Path) -> int:
    from retro.corpus.config import SourceConfig
    from retro.corpus.files import resolve
    from retro.corpus.layouts import read_source

    source = resolve(SourceConfig(name="a", path=path), path)
    found = list(read_source(source, 1, lambda count: None))
    json.dumps([asdict(one) for one in found], ensure_ascii=False).encode()
    return len(found)


def _question_seeds() -> list[bytes]:
    items = [
        {"question": "who?", "answers": ["me"], "ctxs": [{"title": "t", "text": "x", "id": "1", "score": 0.5}]},
        {
            "id": "q",
            "question": "what?",
            "answer": "this",
            "qa_type": "multi_choice_qa",
            "multichoice_options": ["this"],
        },
    ]
    lines = "".join(json.dumps(item) + "\n" for item in items)
    squad = {
        "data": [{"title": "t", "paragraphs": [{"context": "c", "qas": [{"id": "1", "question": "q", "answers": []}]}]}]
    }
    return [json.dumps(items).encode(), lines.encode(), json.dumps(squad).encode()]


def _read_questions(path: Path) -> object:
    from retro.common.errors import RetroError
    from retro.qa.layouts import read_task_questions
    from retro.qa.question_files import read_questions
    from retro.qa.task import all_tasks

    for task in all_tasks()[::4]:
        try:
            read_task_questions(path, task)
        except RetroError as error:
            str(error).encode()
    return read_questions(path)


def _model_folder_seeds() -> list[bytes]:
    llama = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    llama |= {"num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-05, "vocab_size": 100}
    scaling = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
    scaling |= {"high_freq_factor": 4.0, "low_freq_factor": 1.0}
    gpt2 = {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 2, "n_positions": 32, "vocab_size": 100}
    return [json.dumps(one).encode() for one in (llama, llama | {"rope_scaling": scaling}, gpt2)]


def _read_model_folder(path: Path) -> object:
    from retro.model.convert.hf_config import is_folder, read_folder_config

    return is_folder(path.parent), read_folder_config(path.parent)


def _gguf_seeds() -> list[bytes]:
    from retro.tokenizers.sentencepiece_bpe import PieceVocabulary
    from tests.model.convert.folders import make_folder
    from tests.model.convert.gguf_files import write_gguf

    written = []
    with tempfile.TemporaryDirectory() as folder:
        for name, architecture, quantised in (("llama", "llama", "Q8_0"), ("qwen3", "qwen3", None)):
            place = Path(folder) / name
            make_folder(place, name)
            written.append(write_gguf(place / "a.gguf", place, architecture, quantised=quantised).read_bytes())
        pieces = PieceVocabulary(
            pieces=["<unk>", "<s>", "</s>", *map(chr, range(97, 120)), *("ab", "abc", "\u2581", "\u2581a")],
            scores=[0.0] * 26 + [-1.0, -2.0, 0.0, -3.0],
            kinds=[2, 3, 3] + [1] * 27,
            prefix=True,
            collapses=False,
        )
        written.append(write_gguf(Path(folder) / "p.gguf", place, "qwen3", pieces=pieces).read_bytes())
    return written


def _read_gguf(path: Path) -> None:
    from retro.model.convert.gguf import convert_gguf

    with tempfile.TemporaryDirectory() as folder:
        convert_gguf(path, Path(folder))


def _request_seeds() -> list[bytes]:
    body = {"question": "who é?", "documents": ["a", "b"], "top_k": 3, "temperature": 0.5, "stop": None}
    return [json.dumps(body).encode(), json.dumps(body, ensure_ascii=False).encode()]


def _read_request(path: Path) -> object:
    from retro.common.errors import DataError
    from retro.serve.errors import ApiError
    from retro.serve.request_body import parse_object

    try:
        body = parse_object(path.read_bytes())
    except ApiError as error:
        raise DataError("request", error.message.encode().decode(), "") from None
    json.dumps(body, ensure_ascii=False).encode()
    return body


def _page_seeds() -> list[bytes]:
    table = "<table><tr><td>a<td>b</table><ul><li>one<li>two</ul><pre>x\n y</pre>"
    page = f"<html><head><meta charset=utf-8><title>é</title></head><body><h1>A</h1><p>some &amp; text</p>{table}"
    return [page.encode(), page.replace("utf-8", "latin-1").encode("latin-1")]


def _read_page(path: Path) -> object:
    return _documents(path, "html")


def _parquet_seeds() -> list[bytes]:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"text": ["some text", "é", None] * 4, "id": list(range(12)), "other": [0.5] * 12})
    written = []
    for settings in ({}, {"compression": "zstd", "use_dictionary": False}, {"row_group_size": 5}):
        content = io.BytesIO()
        parquet.write_table(table, content, **settings)
        written.append(content.getvalue())
    return written


def _read_parquet(path: Path) -> object:
    return _documents(path, "parquet")


def _arrow_seeds() -> list[bytes]:
    import pyarrow
    from pyarrow import ipc

    table = pyarrow.table({"text": ["some text", "é", None] * 4, "id": list(range(12))})
    written = []
    for make in (ipc.new_stream, ipc.new_file):
        content = io.BytesIO()
        with make(content, table.schema) as writer:
            writer.write_table(table, max_chunksize=5)
        written.append(content.getvalue())
    return written


def _read_arrow(path: Path) -> object:
    return _documents(path, "arrow")


def _documents(path: Path, kind: Literal["html", "parquet", "arrow"]) -> int:
    from retro.corpus.config import SourceConfig
    from retro.corpus.files import resolve
    from retro.corpus.layouts import read_source
    from retro.corpus.tables import TABLES, table_parts

    source = resolve(SourceConfig(name="a", path=path, kind=kind), path)
    if kind in TABLES:
        table_parts(path, kind, source.config, 100)
    found = list(read_source(source, 1, lambda count: None))
    json.dumps([asdict(one) for one in found], ensure_ascii=False).encode()
    return len(found)


TARGETS: dict[str, Target] = {
    "json": Target(_json_seeds, _read_json, "input.json"),
    "yaml": Target(_yaml_seeds, _read_yaml, "input.yaml", quick=100),
    "override": Target(_override_seeds, _read_override, quick=100),
    "hdf5": Target(_hdf5_seeds, _read_hdf5, "input.h5"),
    "token_index": Target(_index_seeds, _read_index, "input.idx"),
    "faiss": Target(_faiss_seeds, _read_faiss, "index.faiss"),
    "torch_file": Target(_torch_seeds, _read_torch, "input.pt"),
    "tensor_index": Target(lambda: [_sharded()[".metadata"]], _read_tensor_index),
    "safetensors": Target(_safetensors_seeds, _read_safetensors, "model.safetensors"),
    "tokenizer_json": Target(_tokenizer_seeds, _read_tokenizer, "tokenizer.json"),
    "sentencepiece": Target(_sentencepiece_seeds, _read_sentencepiece, "tokenizer.model", quick=200),
    "corpus_lines": Target(_corpus_seeds, _read_corpus, "input.jsonl"),
    "questions": Target(_question_seeds, _read_questions, "input.json", quick=200),
    "model_folder": Target(_model_folder_seeds, _read_model_folder, "config.json"),
    "gguf": Target(_gguf_seeds, _read_gguf, "input.gguf", quick=100),
    "request": Target(_request_seeds, _read_request),
    "html": Target(_page_seeds, _read_page, "input.html"),
    "parquet": Target(_parquet_seeds, _read_parquet, "input.parquet"),
    "arrow": Target(_arrow_seeds, _read_arrow, "input.arrow"),
}
