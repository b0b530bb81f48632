"""Documents are encoded once: what is stored gives what the encoder gives, whole, and for the model that made it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.generate.engine import BatchEngine
from retro.generate.request import Request, Sampling
from retro.recipes.dynamic_prefix.answering import encode
from retro.recipes.dynamic_prefix.answering.config import StoreConfig
from retro.recipes.dynamic_prefix.answering.documents import KnowledgeSource, encode_texts
from retro.recipes.dynamic_prefix.answering.policy import open_source
from retro.recipes.dynamic_prefix.answering.store import (
    DOCUMENTS,
    HEADER,
    VECTORS,
    KnowledgeStore,
    StoreHeader,
    as_stored,
    sizes,
    write_store,
)
from retro.recipes.dynamic_prefix.training.parts import encoder_of, prefix_of
from tests.generate.fake import FakeDecoder, LetterTokenizer, says
from tests.recipes.dynamic_prefix.reading_run import Reading, contexts, document, write_lines


def stored(reading: Reading, directory: Path, **store: Any) -> Path:
    """The folder of the step, with the documents of the questions."""
    work = reading.with_settings(store=store).work("encode", directory)
    made = encode.run(work, reading.trained, [reading.questions])
    assert list(made.files) == [HEADER, DOCUMENTS, VECTORS]
    return work.directory


@pytest.fixture(scope="module")
def folder(reading: Reading, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stored(reading, tmp_path_factory.mktemp("store"))


def identity(reading: Reading) -> dict[str, Any]:
    return dict(reading.trained.identity)


def source(reading: Reading, store: Path | None, mib: int = 64) -> KnowledgeSource:
    changed = reading.with_settings(answer={"cache_mib": mib})
    return open_source(changed.engine(), changed.settings, identity(reading), store)


def bytes_of(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in (HEADER, DOCUMENTS, VECTORS)}


@pytest.mark.parametrize(
    ("kind", "dtype", "tolerance"),
    [
        ("keys_values", "float32", 1e-6),
        ("keys_values", "float16", 2e-3),
        ("keys_values", "bfloat16", 2e-2),
        ("states", "float32", 1e-6),
        ("states", "float16", 5e-3),
    ],
)
def test_what_is_stored_is_what_the_encoder_gives(
    reading: Reading, tmp_path: Path, kind: str, dtype: str, tolerance: float
) -> None:
    fresh, kept = source(reading, None), source(reading, stored(reading, tmp_path, kind=kind, dtype=dtype))
    asked = contexts(2, 7)
    [expected], [found] = fresh.of_all([asked]), kept.of_all([asked])
    assert expected is not None
    assert found is not None
    torch.testing.assert_close(found.keys_values, expected.keys_values, rtol=tolerance, atol=tolerance)
    assert (fresh.counts.encoded, kept.counts.encoded, kept.counts.stored) == (2, 0, 2)
    assert found.identity == expected.identity


def test_a_model_in_bfloat16_reads_the_same_documents(reading: Reading, folder: Path) -> None:
    engine = reading.engine(bfloat16=True)
    rounded = open_source(engine, reading.settings, identity(reading), None).of(contexts(2, 7))
    exact = source(reading, folder).of(contexts(2, 7))
    assert rounded is not None
    assert exact is not None
    # On a CPU attention is computed in float32, whatever the model is in.
    assert rounded.keys_values.dtype == exact.keys_values.dtype == torch.float32
    torch.testing.assert_close(rounded.keys_values, exact.keys_values, rtol=0.05, atol=0.05)
    request = Request(prompt=[3, 4, 5], knowledge=rounded, sampling=Sampling(max_new_tokens=3))
    assert len(engine.generate([request])[0].tokens) == 3


def test_several_documents_are_side_by_side_and_each_is_encoded_alone(reading: Reading, folder: Path) -> None:
    opened = source(reading, folder)
    both, one, other = opened.of_all([contexts(2, 7), contexts(2), contexts(7)])
    assert both is not None
    assert one is not None
    assert other is not None
    assert torch.equal(both.keys_values, torch.cat([one.keys_values, other.keys_values], dim=3))
    turned = opened.of(contexts(7, 2))
    assert turned is not None
    assert turned.identity != both.identity


def test_a_batch_of_documents_is_encoded_as_each_alone(reading: Reading) -> None:
    encoder = encoder_of(reading.network(reading.engine()))
    texts = ["the colour of thing1", "thing2", "", "it was painted long ago by nobody . the colour ?"]
    together = encode_texts(encoder, texts, at_once=3)
    assert [len(one) for one in together[:2]] == [6, 3]
    for text, states_nE in zip(texts, together, strict=True):
        [alone_nE] = encode_texts(encoder, [text])
        torch.testing.assert_close(states_nE, alone_nE, rtol=1e-5, atol=1e-5)


def test_the_header_says_how_large_documents_are(folder: Path) -> None:
    header = json.loads((folder / HEADER).read_text())
    # 2 layers, keys and values, 2 groups, 8 numbers of 2 bytes.
    assert (header["vector"], header["bytes_per_vector"]) == ([2, 2, 2, 8], 128)
    lines = [json.loads(line) for line in (folder / DOCUMENTS).read_text().splitlines()]
    counts = [one["vectors"] for one in lines]
    assert header["documents"] == len(lines) == len({one["digest"] for one in lines})
    assert header["vectors"] == sum(counts)
    assert header["bytes"] == 128 * sum(counts) == (folder / VECTORS).stat().st_size
    assert header["largest_document_bytes"] == 128 * max(counts)
    assert header["bytes_per_document"] == round(128 * sum(counts) / len(counts))


def test_a_vector_of_llama_13b_takes_800_kib_and_ten_stand_for_a_document_in_8_mib() -> None:
    header = StoreHeader(kind="keys_values", dtype="float16", vector=(40, 2, 40, 128), model={})
    assert header.bytes_per_vector == 819_200
    assert sizes(header, [("d", "x", 10)])["bytes_per_document"] == 8_192_000
    states = StoreHeader(kind="states", dtype="float16", vector=(768,), model={})
    assert sizes(states, [("d", "x", 10)])["bytes_per_document"] == 15_360


def test_documents_are_found_by_their_text_and_their_id(reading: Reading, folder: Path) -> None:
    store = KnowledgeStore.open(folder, identity(reading))
    one = document(2)
    row = store.find(f"{one['title']} {one['text']}")
    assert row is not None
    assert store.rows_of("d2") == [row]
    assert store.vectors(row).shape[1:] == (2, 2, 2, 8)
    assert store.find("a text that nobody stored") is None
    assert store.rows_of("nobody") == []
    assert len(store) == len((folder / DOCUMENTS).read_text().splitlines())


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_kill_in_any_block_ends_in_the_same_bytes(
    reading: Reading, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    make = encode.Encoding.make

    def killed(self: encode.Encoding, number: int, advance: Any) -> Any:
        if number == block:
            raise KeyboardInterrupt
        return make(self, number, advance)

    work = reading.work("encode", tmp_path)
    monkeypatch.setattr(encode.Encoding, "make", killed)
    with pytest.raises(KeyboardInterrupt):
        encode.run(work, reading.trained, [reading.questions])
    assert not (work.directory / HEADER).exists()
    monkeypatch.setattr(encode.Encoding, "make", make)
    encode.run(work, reading.trained, [reading.questions])
    assert bytes_of(work.directory) == bytes_of(folder)


def test_the_store_of_another_model_is_refused(reading: Reading, folder: Path) -> None:
    other = identity(reading) | {"checkpoint": "0123"}
    with pytest.raises(ArtifactError, match=r"was made by another model: checkpoint was .* now '0123'.*--redo"):
        KnowledgeStore.open(folder, other)
    shorter = identity(reading) | {"prefix": {**identity(reading)["prefix"], "max_document_tokens": 9}}
    with pytest.raises(ArtifactError, match=r"prefix\.max_document_tokens was 24, now 9"):
        KnowledgeStore.open(folder, shorter)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (HEADER, "{}", "does not describe stored documents"),
        (HEADER, '{"vector": [1, 2], "kind": "states", "dtype": "float16", "model": {}}', "with vectors of"),
        (HEADER, '{"vector": [1], "kind": "values", "dtype": "float16", "model": {}}', "kind 'values'"),
        (HEADER, '{"vector": [1], "kind": "states", "dtype": "int4", "model": {}, "vectors": 1}', "int4"),
        (HEADER, '{"vector": [1], "kind": "states", "dtype": "float16", "model": 1}', "the model is 1"),
        (DOCUMENTS, '{"id": "a", "digest": "b", "vectors": -1}\n', "-1 is not a number of vectors"),
        (DOCUMENTS, '{"id": 1}\n', "cannot be read"),
        (DOCUMENTS, "", "were written"),
        (VECTORS, "short", "has 5 bytes"),
    ],
)
def test_a_damaged_store_is_named(
    reading: Reading, folder: Path, tmp_path: Path, name: str, text: str, problem: str
) -> None:
    for file, data in bytes_of(folder).items():
        (tmp_path / file).write_bytes(data)
    (tmp_path / name).write_text(text)
    with pytest.raises(ArtifactError, match=problem) as caught:
        KnowledgeStore.open(tmp_path, identity(reading))
    assert "Run `retro recipe dynamic_prefix run CONFIG encode` again" in str(caught.value)


def test_a_missing_file_of_vectors_is_named(reading: Reading, folder: Path, tmp_path: Path) -> None:
    for file, data in bytes_of(folder).items():
        (tmp_path / file).write_bytes(data)
    (tmp_path / VECTORS).unlink()
    with pytest.raises(ArtifactError, match="has -1 bytes"):
        KnowledgeStore.open(tmp_path, identity(reading))


@pytest.mark.parametrize("value", [1e6, float("nan"), float("inf")])
def test_a_number_that_the_type_cannot_hold_is_refused(value: float) -> None:
    with pytest.raises(DataError, match=r"holds up to 65504.*store\.dtype=float32"):
        as_stored(torch.tensor([[value, 1.0]]), "float16", "documents 0 to 3")
    assert as_stored(torch.tensor([[1e6]]), "bfloat16", "documents").dtype == np.int16


def test_types_keep_what_they_can_hold(tmp_path: Path) -> None:
    vectors = torch.tensor([[1.0, -2.5], [0.0, 3.0], [0.5, 7.0]])
    for dtype in ("float16", "bfloat16", "float32"):
        header = StoreHeader(kind="states", dtype=dtype, vector=(2,), model={"a": 1})
        parts = iter([as_stored(vectors[:2], header.dtype, "a"), as_stored(vectors[2:], header.dtype, "b")])
        write_store(tmp_path, header, [("one", "x", 2), ("none", "y", 0), ("two", "z", 1)], parts)
        store = KnowledgeStore.open(tmp_path, {"a": 1})
        assert store.vectors(0).float().tolist() == [[1.0, -2.5], [0.0, 3.0]]
        assert store.vectors(1).shape == (0, 2)
        assert store.vectors(2).float().tolist() == [[0.5, 7.0]]


def test_questions_without_documents_are_nothing_to_encode(reading: Reading, tmp_path: Path) -> None:
    questions = write_lines(tmp_path / "none.jsonl", [{"question": "what ?", "answers": ["colour1"]}])
    work = reading.work("encode", tmp_path)
    with pytest.raises(DataError, match="has no documents to encode"):
        encode.run(work, reading.trained, [questions])


def test_blocks_are_smaller_where_documents_are_large(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    network = reading.network(reading.engine())
    made = encode.Encoding(
        prefix=prefix_of(network),
        encoder=encoder_of(network),
        config=StoreConfig(documents_per_block=4),
        model={},
        documents=[(str(number), "text") for number in range(7)],
    )
    assert [len(part) for part in made.parts] == [4, 3]
    # The longest has 24 vectors of 128 bytes.
    monkeypatch.setattr(encode, "_BLOCK_BYTES", 2 * 24 * 128 + 5)
    assert [len(part) for part in made.parts] == [2, 2, 2, 1]
    monkeypatch.setattr(encode, "_BLOCK_BYTES", 1)
    assert [len(part) for part in made.parts] == [1] * 7


def test_vectors_are_converted_some_at_a_time(
    reading: Reading, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "_VECTORS_AT_ONCE", 5)
    other = stored(reading, tmp_path)
    assert bytes_of(other)[DOCUMENTS] == bytes_of(folder)[DOCUMENTS]
    stores = [KnowledgeStore.open(one, identity(reading)) for one in (folder, other)]
    for row in range(len(stores[0])):
        one, another = (store.vectors(row) for store in stores)
        torch.testing.assert_close(one, another, rtol=2e-3, atol=2e-3)


def test_all_passages_of_a_file_are_encoded(reading: Reading, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "passages.jsonl", [document(number) for number in range(5)])
    changed = reading.with_settings(store={"documents": "passages"}, data={"passages": {"passages": file}})
    directory = stored(changed, tmp_path / "run")
    store = KnowledgeStore.open(directory, identity(reading))
    assert [store.rows_of(f"d{number}") for number in range(5)] == [[0], [1], [2], [3], [4]]


def test_passages_without_a_file_are_refused(reading: Reading, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"store\.documents = 'passages': needs to be questions, or"):
        stored(reading, tmp_path, documents="passages")


def test_the_last_documents_stay_in_memory_up_to_a_limit(reading: Reading) -> None:
    opened = source(reading, None)
    parts = [opened.of(contexts(number)) for number in (2, 4)]
    assert all(one is not None for one in parts)
    size = sum(one.keys_values.nbytes for one in parts if one is not None)
    assert (opened.bytes, opened.counts.encoded) == (size, 2)
    opened.of(contexts(2))
    assert (opened.counts.cached, opened.counts.encoded) == (1, 2)
    assert opened.counts.record == {"stored": 0, "cached": 1, "encoded": 2, "empty": 0}


def test_what_was_used_longest_ago_is_dropped_first(reading: Reading, folder: Path) -> None:
    small = source(reading, folder, mib=0)
    small.of(contexts(2))
    assert small.bytes == 0
    small.of(contexts(2))
    assert (small.counts.stored, small.counts.cached) == (2, 0)
    network = reading.network(reading.engine())
    one = source(reading, None).of(contexts(2))
    assert one is not None
    store = KnowledgeStore.open(folder, identity(reading))
    room = KnowledgeSource(
        prefix_of(network), encoder_of(network), store, cache_bytes=2 * one.keys_values.nbytes, identity="it"
    )
    for number in (2, 4, 2, 8):
        room.of(contexts(number))
    assert room.counts.cached == 1
    room.of(contexts(2))
    room.of(contexts(4))
    assert (room.counts.cached, room.counts.stored) == (2, 4)


def test_requests_with_equal_documents_share_their_memory(reading: Reading, folder: Path) -> None:
    opened = source(reading, folder)
    one, other = opened.of_all([contexts(2, 7), contexts(2, 7)])
    assert one is other is opened.of(contexts(2, 7))


def test_a_question_without_documents_reads_nothing(reading: Reading, folder: Path) -> None:
    opened = source(reading, folder)
    assert opened.of([]) is None
    assert opened.of_all([]) == []


def test_only_a_model_of_this_toolkit_reads_documents(reading: Reading) -> None:
    engine = BatchEngine(FakeDecoder(says("a", 1)), LetterTokenizer())
    with pytest.raises(ValueError, match="not by a FakeDecoder"):
        open_source(engine, reading.settings, identity(reading), None)


@pytest.mark.parametrize(("apart", "alike"), [(1.0, False), (1e-4, True)])
def test_an_encoder_that_says_the_same_of_all_documents_is_named(
    reading: Reading,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    apart: float,
    alike: bool,
) -> None:
    def states(encoder: Any, texts: Sequence[str], _most: int) -> list[torch.Tensor]:
        directions = (torch.randn(encoder.width, generator=torch.Generator().manual_seed(len(one))) for one in texts)
        return [torch.ones(2, encoder.width) + apart * one for one in directions]

    monkeypatch.setattr(encode, "encode_texts", states)
    work = reading.with_settings(store={"kind": "states", "dtype": "float32"}).work("encode", tmp_path)
    made = encode.run(work, reading.trained, [reading.questions])
    assert (made.counts["distance_of_documents"] < 0.01) is alike
    assert ("the encoder has collapsed" in caplog.text) is alike
