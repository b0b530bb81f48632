from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core.datasets.indexed_dataset import DType, IndexedDataset, IndexedDatasetBuilder

from retro.common.errors import ArtifactError
from retro.corpus import token_files
from retro.corpus.token_files import TokenFile, TokenFileWriter, bin_path, idx_path, token_dtype


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """Three documents, the middle one empty, under a name with a dot."""
    prefix = tmp_path / "wiki.en"
    with TokenFileWriter(prefix, vocab_size=4000) as writer:
        for document in ([5, 6, 7], [], np.array([3999, 0])):
            writer.add_document(document)
        writer.finish()
    assert (writer.documents, writer.tokens) == (3, 5)
    return prefix


def test_documents_come_back(prefix: Path) -> None:
    file = TokenFile(prefix)
    assert file.tokens.tolist() == [5, 6, 7, 3999, 0]
    assert file.document_starts.tolist() == [0, 3, 3, 5]
    assert file.document_starts.dtype == np.int64
    assert (file.documents, file.token_count, file.dtype) == (3, 5, np.dtype(np.uint16))


def test_megatron_reads_what_we_write(prefix: Path) -> None:
    dataset = IndexedDataset(str(prefix))
    assert [dataset[n].tolist() for n in (0, 2)] == [[5, 6, 7], [3999, 0]]
    assert dataset.document_indices.tolist() == [0, 1, 2, 3]


def test_a_megatron_file_with_several_sequences_to_a_document_is_read_by_document(tmp_path: Path) -> None:
    builder = IndexedDatasetBuilder(str(tmp_path / "old.bin"), dtype=np.int32)
    for sequences in ([[1, 2], [3]], [[4]], [[5, 6], [7, 8], [9]]):
        for sequence in sequences:
            builder.add_item(torch.tensor(sequence))
        builder.end_document()
    builder.finalize(str(tmp_path / "old.idx"))
    file = TokenFile(tmp_path / "old")
    assert file.document_starts.tolist() == [0, 3, 4, 9]
    assert file.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert file.dtype == np.dtype(np.int32)


@pytest.mark.parametrize("multimodal", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32, np.int64, np.uint16])
def test_what_is_read_is_what_megatron_reads(tmp_path: Path, dtype: type, multimodal: bool) -> None:
    random, prefix = np.random.default_rng(5), tmp_path / "theirs"
    builder = IndexedDatasetBuilder(str(bin_path(prefix)), dtype=dtype, multimodal=multimodal)
    for _ in range(9):
        for _ in range(int(random.integers(1, 4))):
            tokens = torch.tensor(random.integers(0, 128, int(random.integers(1, 9))))
            builder.add_item(tokens, 1 if multimodal else 0)
        builder.end_document()
    builder.finalize(str(idx_path(prefix)))
    theirs, ours = IndexedDataset(str(prefix), multimodal=multimodal), TokenFile(prefix)
    assert (ours.dtype, ours.sequences, ours.documents) == (np.dtype(dtype), len(theirs), 9)
    starts = np.concatenate([[0], np.cumsum(theirs.sequence_lengths)])[theirs.document_indices]
    assert np.array_equal(ours.document_starts, starts)
    texts = [theirs[number] for number in range(len(theirs))]
    assert np.array_equal(ours.tokens, np.concatenate([text[0] if multimodal else text for text in texts]))


@pytest.mark.parametrize("documents", [1, 70_000])
def test_a_file_with_empty_documents_is_read_as_megatron_reads_it(tmp_path: Path, documents: int) -> None:
    prefix = tmp_path / "theirs"
    lengths = np.random.default_rng(3).integers(0, 4, documents).astype(np.int64)
    lengths[-1] = 2  # at least one has tokens
    builder = IndexedDatasetBuilder(str(bin_path(prefix)), dtype=np.uint16)
    for length in lengths:
        builder.add_document(np.arange(length, dtype=np.uint16), [int(length)])
    builder.finalize(str(idx_path(prefix)))
    theirs, ours = IndexedDataset(str(prefix)), TokenFile(prefix)
    assert (ours.documents, ours.sequences) == (len(theirs.document_indices) - 1, len(theirs)) == (documents, documents)
    assert np.array_equal(np.diff(ours.document_starts), theirs.sequence_lengths)
    for number in (0, documents // 2, documents - 1):
        begin, end = ours.document_starts[number : number + 2]
        assert np.array_equal(ours.tokens[begin:end], theirs.get(number))


def test_a_file_without_documents_has_the_bytes_of_megatrons(tmp_path: Path) -> None:
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.uint16)
    builder.finalize(str(tmp_path / "theirs.idx"))
    TokenFileWriter(tmp_path / "ours", 100).finish()
    for path_of in (bin_path, idx_path):
        assert path_of(tmp_path / "ours").read_bytes() == path_of(tmp_path / "theirs").read_bytes()
    file = TokenFile(tmp_path / "theirs")
    assert (file.documents, file.sequences, file.token_count) == (0, 0, 0)


def test_the_type_codes_are_megatrons() -> None:
    integers = {code.value: np.dtype(code.name) for code in DType if np.issubdtype(np.dtype(code.name), np.integer)}
    assert {code: np.dtype(kind) for code, kind in token_files._TYPES.items()} == integers
    for vocabulary in (1, 65_499, 65_500, 1 << 20):
        assert token_dtype(vocabulary) == np.dtype(DType.optimal_dtype(vocabulary))


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_499, np.uint16), (65_500, np.int32), (256_000, np.int32)])
def test_tokens_are_as_narrow_as_the_vocabulary_allows(tmp_path: Path, vocab_size: int, dtype: type) -> None:
    writer = TokenFileWriter(tmp_path / "a", vocab_size)
    writer.add_document([vocab_size - 1])
    writer.finish()
    assert TokenFile(tmp_path / "a").tokens.tolist() == [vocab_size - 1]
    assert TokenFile(tmp_path / "a").dtype == np.dtype(dtype)


def test_a_file_without_documents_can_be_opened(tmp_path: Path) -> None:
    TokenFileWriter(tmp_path / "a", 100).finish()
    file = TokenFile(tmp_path / "a")
    assert (file.documents, file.token_count, file.document_starts.tolist()) == (0, 0, [0])


def test_nothing_has_its_name_before_it_is_finished(tmp_path: Path) -> None:
    writer = TokenFileWriter(tmp_path / "a", 100)
    writer.add_document([1, 2])
    [temporary] = tmp_path.iterdir()
    assert temporary.name.startswith(".a.bin.")
    assert temporary.name.endswith(".tmp")
    writer.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.idx"]


def test_a_failed_writer_keeps_the_old_file_and_leaves_nothing(prefix: Path) -> None:
    def fail() -> None:
        with TokenFileWriter(prefix, 100) as writer:
            writer.add_document([1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert sorted(path.name for path in prefix.parent.iterdir()) == ["wiki.en.bin", "wiki.en.idx"]
    assert TokenFile(prefix).token_count == 5


def test_a_full_disk_is_named(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = TokenFileWriter(prefix, 100)
    monkeypatch.setattr(writer, "_stream", FullDisk())
    with pytest.raises(ArtifactError, match=r"wiki\.en\.bin: the disk is full"):
        writer.add_document([1])
    with pytest.raises(ArtifactError, match=r"wiki\.en\.bin: the disk is full"):
        writer.finish()
    assert TokenFile(prefix).token_count == 5


class FullDisk:
    def write(self, *_: object) -> None:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("vocab_size", [4000, 100_000])
def test_the_bytes_are_those_of_megatrons_builder(
    tmp_path: Path, vocab_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_files, "_INDEX_PIECE", 3)
    documents = [np.arange(length, dtype=token_dtype(vocab_size)) for length in (3, 0, 1, 7, 2, 5, 0)]
    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=token_dtype(vocab_size).type)
    with TokenFileWriter(tmp_path / "ours", vocab_size) as writer:
        writer.add_documents(np.concatenate(documents[:4]), np.array([3, 0, 1, 7]))
        writer.add_document(documents[4])
        writer.add_documents(np.concatenate(documents[5:]), np.array([5, 0]))
        writer.finish()
    for document in documents:
        builder.add_document(document, [len(document)])
    builder.finalize(str(tmp_path / "theirs.idx"))
    for path_of in (bin_path, idx_path):
        assert path_of(tmp_path / "ours").read_bytes() == path_of(tmp_path / "theirs").read_bytes()


def test_lengths_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    with TokenFileWriter(tmp_path / "a", 100) as writer:
        with pytest.raises(ValueError, match="documents of 3 tokens were announced, 2 given"):
            writer.add_documents(np.array([1, 2], np.uint16), np.array([3]))
        writer.finish()
    assert TokenFile(tmp_path / "a").documents == 0


@pytest.mark.parametrize("path_of", [bin_path, idx_path])
def test_a_missing_half_is_named(prefix: Path, path_of: type) -> None:
    path_of(prefix).unlink()
    with pytest.raises(ArtifactError) as caught:
        TokenFile(prefix)
    assert str(caught.value).startswith(f"{path_of(prefix)}: is missing; a token file is a .bin and an .idx")


def test_a_bin_cut_short_is_told_with_both_lengths(prefix: Path) -> None:
    bin_path(prefix).write_bytes(bin_path(prefix).read_bytes()[:-3])
    with pytest.raises(ArtifactError, match=r"wiki\.en\.bin: has 7 bytes; its \.idx says 5 tokens of uint16, 10 bytes"):
        TokenFile(prefix)


HEADER = struct.Struct("<9sQBQQ")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ((b"NUMPY\0\0\0\0", 1, 8, 3, 4), "starts with"),
        ((b"MMIDIDX\0\0", 2, 8, 3, 4), "is of index version 2; version 1 is needed"),
        ((b"MMIDIDX\0\0", 1, 7, 3, 4), "type code 7; an integer is needed"),
        ((b"MMIDIDX\0\0", 1, 99, 3, 4), "type code 99; an integer is needed"),
        ((b"MMIDIDX\0\0", 1, 8, 4, 4), "has 102 bytes; its 4 sequences and 4 boundaries need 114"),
    ],
)
def test_a_foreign_header_is_told(prefix: Path, header: tuple[object, ...], message: str) -> None:
    path = idx_path(prefix)
    path.write_bytes(HEADER.pack(*header) + path.read_bytes()[HEADER.size :])
    with pytest.raises(ArtifactError, match=message):
        TokenFile(prefix)


def test_an_index_shorter_than_its_header_is_told(prefix: Path) -> None:
    idx_path(prefix).write_bytes(b"MMID")
    with pytest.raises(ArtifactError, match="has 4 bytes; its header alone needs 34"):
        TokenFile(prefix)


@pytest.mark.parametrize(
    ("lengths", "pointers", "boundaries"),
    [
        ([3, 0, 2], [0, 6, 7], [0, 1, 2, 3]),  # a gap between two sequences
        ([3, 0, 2], [0, 6, 6], [0, 2, 1, 3]),  # documents out of order
        ([3, 0, 2], [0, 6, 6], [0, 1, 2, 2]),  # the last sequence belongs to no document
        ([3, -1, 3], [0, 6, 4], [0, 1, 2, 3]),  # a sequence of negative length
        ([3, 0, 2], [0, 6, 6], [0, 2**63 - 1, -(2**63) + 4, 3]),  # whose differences are all positive, in 64 bits
    ],
)
def test_sequences_that_do_not_lie_end_to_end_are_refused(
    prefix: Path, lengths: list[int], pointers: list[int], boundaries: list[int]
) -> None:
    parts = (np.array(lengths, np.int32), np.array(pointers, np.int64), np.array(boundaries, np.int64))
    content = HEADER.pack(b"MMIDIDX\0\0", 1, 8, 3, 4) + b"".join(part.tobytes() for part in parts)
    idx_path(prefix).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"wiki\.en\.idx: its sequences do not lie end to end in document order"):
        TokenFile(prefix)
