from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retro.common.artifacts import Manifest, describe_files, read_manifest, write_manifest
from retro.common.errors import ArtifactError
from retro.common.hdf5 import new_file, write_columns
from retro.corpus.document_names import DocumentNames, document_line
from retro.corpus.reader import SPLITS, Corpus, TokenStream
from retro.corpus.token_files import TokenFileWriter, idx_path
from tests.corpus.texts import changed, tiny_tokenizer

EOD = 1
# Source a: documents of 4, 1, 3, 5 tokens, each with its EOD; source b, as from Megatron without EOD: 2, 0, 6 tokens.
DOCUMENTS = {
    "a": [[10, 11, 12, EOD], [EOD], [20, 21, EOD], [30, 31, 32, 33, EOD]],
    "b": [[40, 41], [], [50, 51, 52, 53, 54, 55]],
}
SPLIT_OF = {"a": [0, 0, 1, 0], "b": [0, 0, 0]}
ORDER = {"a": {"train": [3, 1, 0], "valid": [2], "test": []}, "b": {"train": [2, 1, 0], "valid": [], "test": []}}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    tokenizer = tiny_tokenizer(out / "tokenizer")
    names = ["documents.h5", "tokenizer/tokenizer.model", "tokenizer/tokenizer_meta.json"]
    with new_file(out / "documents.h5") as file:
        for source, documents in DOCUMENTS.items():
            with TokenFileWriter(out / source, tokenizer.vocab_size) as writer:
                for document in documents:
                    writer.add_document(document)
                writer.finish()
            lines = [document_line(f"{source}{n}", f"Title\n{n} é") for n in range(len(documents))]
            (out / f"{source}.documents.jsonl").write_text("".join(lines), encoding="utf-8")
            group = file.create_group(source)
            write_columns(group, {"split": np.array(SPLIT_OF[source], np.uint8)})
            orders = {part: np.array(ORDER[source][part], np.int64) for part in SPLITS}
            write_columns(group.create_group("stream_order"), orders)
            names += [f"{source}.bin", f"{source}.idx", f"{source}.documents.jsonl"]
    counts = {
        "sources": {"a": {"documents": 4, "tokens": 13}, "b": {"documents": 3, "tokens": 8}},
        "tokenizer": {"fingerprint": tokenizer.fingerprint},
    }
    config = {"sources": [{"name": "a", "weight": 3.0}, {"name": "b", "weight": 1.0}]}
    files = describe_files(out, names)
    write_manifest(out, Manifest(stage="corpus", config=config, parents={}, counts=counts, files=files))
    return out


@pytest.fixture(scope="module")
def corpus(directory: Path) -> Corpus:
    return Corpus.open(directory)


def test_sources_come_in_the_configs_order_with_weights_that_sum_to_one(corpus: Corpus) -> None:
    assert corpus.sources == ("a", "b")
    assert corpus.weights == (0.75, 0.25)


def test_documents_have_their_split_order_id_and_title(corpus: Corpus) -> None:
    assert corpus.split_of(0).tolist() == [0, 0, 1, 0]
    assert corpus.stream_order(0, 0).tolist() == [3, 1, 0]
    assert corpus.stream_order(1, 2).tolist() == []
    assert [corpus.document_id(0, n) for n in (3, 0)] == ["a3", "a0"]
    assert corpus.document_title(1, 2) == "Title\n2 é"
    assert corpus.token_file(1).documents == 3
    with pytest.raises(ValueError, match="document 3 of 3"):
        corpus.document_id(1, 3)


def test_gather_reads_runs_of_any_source_and_pads_with_eod(corpus: Corpus) -> None:
    tokens, mask = corpus.gather([1, 0, 0, 1, 0], [2, 8, 0, 7, 13], [3, 5, 0, 1, 0], 4 + 1)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [
        [50, 51, 52, EOD, EOD],
        [30, 31, 32, 33, EOD],
        [EOD] * 5,
        [55, EOD, EOD, EOD, EOD],
        [EOD] * 5,
    ]
    assert mask.sum(axis=1).tolist() == [3, 5, 0, 1, 0]
    assert mask[0].tolist() == [True, True, True, False, False]


def test_gather_equals_single_reads_at_every_place(corpus: Corpus) -> None:
    tokens = corpus.token_file(0).tokens.tolist()
    runs = [(start, count) for start in range(14) for count in range(min(4, 13 - start) + 1)]
    found, mask = corpus.gather([0] * len(runs), [s for s, _ in runs], [c for _, c in runs], 4)
    expected = [tokens[start : start + count] + [EOD] * (4 - count) for start, count in runs]
    assert found.tolist() == expected
    assert mask.sum(axis=1).tolist() == [count for _, count in runs]


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_gather_from_mixed_sources_is_that_of_a_plain_loop(corpus: Corpus, data: st.DataObject) -> None:
    files = [corpus.token_file(source).tokens.tolist() for source in (0, 1)]
    sources = data.draw(st.lists(st.integers(0, 1), max_size=6))
    starts = [data.draw(st.integers(0, len(files[source]))) for source in sources]
    room = [min(len(files[source]) - start, 7) for source, start in zip(sources, starts, strict=True)]
    counts = [data.draw(st.integers(0, most)) for most in room]
    found, mask = corpus.gather(sources, starts, counts, 7)
    for row, (source, start, count) in enumerate(zip(sources, starts, counts, strict=True)):
        assert found[row].tolist() == files[source][start : start + count] + [EOD] * (7 - count)
        assert mask[row].tolist() == [True] * count + [False] * (7 - count)


def test_gather_of_nothing_is_empty(corpus: Corpus) -> None:
    tokens, mask = corpus.gather([], [], [], 7)
    assert tokens.shape == mask.shape == (0, 7)
    tokens, mask = corpus.gather([0], [3], [0], 0)
    assert tokens.shape == mask.shape == (1, 0)


@pytest.mark.parametrize(("start", "count"), [(11, 3), (-1, 2), (0, 5), (0, -1), (14, 0)])
def test_gather_refuses_runs_that_do_not_fit(corpus: Corpus, start: int, count: int) -> None:
    with pytest.raises(ValueError, match=r"do not fit a width of 4|leaves the token file of 13 tokens"):
        corpus.gather([0], [start], [count], 4)


def test_files_read_at_random_give_the_same_tokens(directory: Path, corpus: Corpus) -> None:
    at_random = Corpus.open(directory)
    at_random.advise("random")
    runs = ([1, 0, 0, 1, 0], [2, 8, 0, 7, 13], [3, 5, 0, 1, 0], 5)
    assert [part.tolist() for part in at_random.gather(*runs)] == [part.tolist() for part in corpus.gather(*runs)]
    found, expected = (TokenStream(one, 0, 0, 4).tokens([0, 3], 7) for one in (at_random, corpus))
    assert found.tolist() == expected.tolist()


STREAM_A = [30, 31, 32, 33, EOD, EOD, 10, 11, 12, EOD]


def test_a_stream_is_its_documents_end_to_end(corpus: Corpus) -> None:
    stream = TokenStream(corpus, 0, 0, 4)
    assert (stream.length, stream.chunks, stream.documents.tolist()) == (10, 2, [3, 1, 0])
    for width in range(1, 11):
        starts = np.arange(10 - width + 1)
        windows = stream.tokens(starts, width)
        assert windows.dtype == np.int32
        assert windows.tolist() == [STREAM_A[start : start + width] for start in starts]


def test_documents_without_eod_abut(corpus: Corpus) -> None:
    stream = TokenStream(corpus, 1, 0, 4)
    assert stream.tokens([0], 8).tolist() == [[50, 51, 52, 53, 54, 55, 40, 41]]


@pytest.mark.parametrize(("start", "width"), [(-1, 2), (9, 2), (0, 11)])
def test_a_window_that_leaves_the_stream_is_refused(corpus: Corpus, start: int, width: int) -> None:
    with pytest.raises(ValueError, match="leave a stream of 10"):
        TokenStream(corpus, 0, 0, 4).tokens([start], width)


def test_an_empty_split_is_a_stream_without_tokens(corpus: Corpus) -> None:
    stream = TokenStream(corpus, 0, 2, 4)
    assert (stream.length, stream.chunks) == (0, 0)
    assert stream.tokens([], 5).shape == (0, 5)
    with pytest.raises(ValueError, match="leave a stream of 0"):
        stream.tokens([0], 1)


def test_a_chunks_own_documents_reach_to_the_end_of_the_next_chunk(corpus: Corpus) -> None:
    # Stream positions: document 3 has 0-4, document 1 has 5, document 0 has 6-9.
    stream = TokenStream(corpus, 0, 0, 2)
    first, last = stream.chunk_documents([0, 1, 2, 3, 4])
    assert first.tolist() == [0, 0, 0, 2, 2]
    assert last.tolist() == [0, 1, 2, 2, 2]
    assert [stream.own_documents(chunk).tolist() for chunk in range(5)] == [[3], [3, 1], [3, 1, 0], [0], [0]]


@pytest.mark.parametrize("chunk", [-1, 5])
def test_a_chunk_that_is_not_there_is_refused(corpus: Corpus, chunk: int) -> None:
    with pytest.raises(ValueError, match="of a stream of 5 chunks"):
        TokenStream(corpus, 0, 0, 2).chunk_documents([chunk])


def test_the_tokenizer_is_the_one_the_tokens_were_made_with(corpus: Corpus) -> None:
    assert corpus.tokenizer.eod == EOD
    assert corpus.tokenizer is corpus.tokenizer


def rewrite_manifest(directory: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Change counts and sign the manifest again, as a stage that went wrong would."""
    manifest = read_manifest(directory, "corpus")
    change(manifest.counts)
    write_manifest(directory, manifest)


def test_another_tokenizer_in_the_folder_is_noticed(directory: Path) -> None:
    content = (directory / "manifest.json").read_bytes()
    with changed(directory / "manifest.json", content):
        rewrite_manifest(directory, lambda counts: counts.update(tokenizer={"fingerprint": "other"}))
        corpus = Corpus.open(directory)
        with pytest.raises(ArtifactError, match=r"the tokens were made with other\. Run `retro corpus` again"):
            _ = corpus.tokenizer


@pytest.mark.parametrize("what", ["documents", "tokens"])
def test_a_token_file_of_another_size_than_the_manifest_says_is_noticed(directory: Path, what: str) -> None:
    with changed(directory / "manifest.json", (directory / "manifest.json").read_bytes()):
        counts = {"documents": 4, "tokens": 13} | {what: 99}
        rewrite_manifest(directory, lambda c: c["sources"].update(a=counts))  # type: ignore[attr-defined]
        with pytest.raises(ArtifactError, match=rf"a\.bin: has \d+ {what}; the manifest says 99"):
            Corpus.open(directory)


def test_an_unfinished_corpus_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"manifest\.json: is missing. Run `retro corpus` first"):
        Corpus.open(tmp_path)


def test_a_cut_index_is_noticed(directory: Path) -> None:
    path = idx_path(directory / "a")
    with changed(path, path.read_bytes()[:-8]), pytest.raises(ArtifactError, match=r"a\.idx: has \d+ bytes"):
        Corpus.open(directory)


def test_a_name_list_of_another_length_or_a_broken_line_is_noticed(directory: Path) -> None:
    path = directory / "b.documents.jsonl"
    content = path.read_bytes()
    corpus = Corpus.open(directory)
    words = r"b\.documents\.jsonl: has 2 lines; the token file has 3 documents"
    with changed(path, content.replace(b"}\n", b"} ", 1)), pytest.raises(ArtifactError, match=words):
        corpus.document_id(1, 0)
    corpus = Corpus.open(directory)
    with changed(path, content.replace(b'"', b"'", 1)):
        with pytest.raises(ArtifactError, match=r"b\.documents\.jsonl: line 1 is not JSON"):
            corpus.document_id(1, 0)
        assert json.loads(content.split(b"\n")[2])["id"] == corpus.document_id(1, 2)


def test_ids_in_a_file_of_names_that_is_damaged_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.documents.jsonl"
    path.write_text('{"id": "x", "title": ""}\n{"id"\n')
    with pytest.raises(ArtifactError, match="line 2 is not JSON"):
        list(DocumentNames(path, 2).lines())
    path.write_text('{"id": "x", "title": ""}\n')
    with pytest.raises(ArtifactError, match="has 1 lines; the token file has 2 documents"):
        list(DocumentNames(path, 2).lines())
