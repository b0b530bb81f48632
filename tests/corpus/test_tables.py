from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import DataError, DependencyError
from retro.corpus.build import run
from retro.corpus.config import SourceConfig
from retro.corpus.files import Source, resolve
from retro.corpus.layouts import Document, Item, Reject, Span, read_source, read_spans
from retro.corpus.reader import Corpus
from retro.corpus.tables import Rows, table_parts
from tests.corpus.texts import artifact_bytes, settings, story, write_stories

pyarrow: Any = pytest.importorskip("pyarrow")
parquet: Any = pytest.importorskip("pyarrow.parquet")

Columns = dict[str, Any]


def columns(count: int) -> Columns:
    return {
        "id": [f"d{n}" for n in range(count)],
        "title": [f"Story {n}" for n in range(count)],
        "text": [story(n) for n in range(count)],
        "score": list(range(count)),
    }


def write(path: Path, made: Columns, rows: int = 10) -> Path:
    """A table: Parquet, an Arrow file (`file.arrow`) or an Arrow stream, in groups of `rows`."""
    table = pyarrow.table(made)
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=rows)
        return path
    new = pyarrow.ipc.new_file if path.name == "file.arrow" else pyarrow.ipc.new_stream
    with new(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


def source_of(path: Path, **others: Any) -> Source:
    return resolve(SourceConfig(name="s", path=path, **others), path)


def read(path: Path, **others: Any) -> list[Item]:
    return list(read_source(source_of(path, **others), 1, lambda count: None))


NAMES = ["a.parquet", "file.arrow", "stream.arrow"]


@pytest.mark.parametrize("name", NAMES)
def test_a_table_gives_the_documents_of_the_same_json_lines(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, columns(35))
    found = [(one.id, one.title, one.text, one.line) for one in read(tmp_path / name) if isinstance(one, Document)]
    assert found == [(f"d{n}", f"Story {n}", story(n), n + 1) for n in range(35)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("block_bytes", [1, 150, 700, 10_000])
def test_parts_of_a_table_are_all_of_it_wherever_they_are_cut(tmp_path: Path, name: str, block_bytes: int) -> None:
    source = source_of(write(tmp_path / name, columns(35)))
    parts = table_parts(tmp_path / name, source.kind, source.config, block_bytes)
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == 35
    assert len(parts) == 35 if block_bytes == 1 else len(parts) < 35
    spans = [Span(0, part.start, part.stop, part.start + 1) for part in parts]
    alone = [item for span in spans for item in read_spans(source, [span], 1, lambda count: None)]
    assert alone == read(tmp_path / name)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_without_a_text_is_set_aside(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, {"text": ["a b", None, "", "c"], "id": [None, "x", "y", "z"]})
    items = read(tmp_path / name)
    assert [(one.line, one.reason) for one in items if isinstance(one, Reject)] == [
        (2, "text is not a string"),
        (3, "empty text"),
    ]
    assert [one.id for one in items if isinstance(one, Document)] == [f"{name}:1", "z"]


def test_bytes_that_are_no_utf8_are_set_aside(tmp_path: Path) -> None:
    wrong = pyarrow.array([b"good words", b"caf\xe9"], type=pyarrow.binary()).view(pyarrow.string())
    write(tmp_path / "a.parquet", {"text": wrong})
    first, second = read(tmp_path / "a.parquet")
    assert isinstance(first, Document)
    assert isinstance(second, Reject)
    assert (second.reason, second.detail) == ("invalid UTF-8", "byte 0xe9 at offset 3")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("made", "told"),
    [
        (
            {"id": [1], "content": ["a"]},
            "no column 'text'; the columns are id (int64), content (string). Set text_key: c",
        ),
        ({"text": [["a"]]}, "the column 'text' holds no texts; the columns are text (list<"),
        (
            {"text": [1], "note": ["a"]},
            "'text' holds no texts; the columns are text (int64), note (string). Set",
        ),
    ],
)
def test_a_table_without_such_a_column_of_texts_is_an_error(
    tmp_path: Path, name: str, made: Columns, told: str
) -> None:
    write(tmp_path / name, made)
    with pytest.raises(DataError) as caught:
        read(tmp_path / name)
    assert told in str(caught.value)


def test_two_columns_of_the_name_are_an_error(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    with pyarrow.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match=r"has 2 columns 'text'\. Give each column a name of its own"):
        read(tmp_path / "a.arrow")


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_table_is_one_error(tmp_path: Path, name: str) -> None:
    whole = write(tmp_path / name, columns(35)).read_bytes()
    for at in range(0, len(whole), 7):
        (tmp_path / name).write_bytes(whole[:at])
        with pytest.raises(DataError):
            read(tmp_path / name)


def test_large_row_groups_are_cut_and_small_ones_gathered(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["x" * 1000 + str(n) for n in range(40)]}, rows=20)
    config = SourceConfig(name="s", path=path)
    assert [(one.start, one.stop) for one in table_parts(path, "parquet", config, 10**9)] == [(0, 40)]
    cut = table_parts(path, "parquet", config, 5_000)
    assert len(cut) == 8
    assert {one.stop - one.start for one in cut} == {5}


def test_a_table_without_a_row_has_one_empty_part(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": pyarrow.array([], type=pyarrow.string())})
    assert table_parts(path, "parquet", SourceConfig(name="s", path=path), 10) == [Rows(0, 0, 0)]
    assert read(path) == []


def save_to_disk(folder: Path, made: Columns) -> None:
    folder.mkdir(parents=True)
    write(folder / "data-00000-of-00001.arrow", made)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def test_a_dataset_that_was_saved_to_disk_is_read_with_its_splits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split, start in (("train", 0), ("test", 5)):
        save_to_disk(tmp_path / split, {key: values[start : start + 5] for key, values in columns(10).items()})
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    source = source_of(tmp_path)
    assert (source.kind, [file.name for file in source.files]) == (
        "arrow",
        ["test/data-00000-of-00001.arrow", "train/data-00000-of-00001.arrow"],
    )
    assert [one.id for one in read(tmp_path) if isinstance(one, Document)] == [
        f"d{n}" for n in (*range(5, 10), *range(5))
    ]
    assert "not read" not in caplog.text


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"_data_files": [{"filename": "gone.arrow"}]}, r"names gone\.arrow, which is missing"),
        ({"_data_files": [], "_indices_files": [{"filename": "i"}]}, "selects some of the stored rows"),
        ([1], "does not describe a dataset"),
    ],
)
def test_a_dataset_folder_that_is_not_whole_is_an_error(tmp_path: Path, state: object, told: str) -> None:
    save_to_disk(tmp_path / "d", columns(3))
    (tmp_path / "d" / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match=told):
        source_of(tmp_path / "d")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_table_and_its_json_lines_make_the_same_tokens_whatever_the_blocks(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, columns(40), rows=7)
    write_stories(tmp_path / "a.jsonl", 40)
    for kind, block_bytes in ((name, 400), (name, 1 << 20), ("a.jsonl", 1 << 20)):
        config = settings({"name": "a", "path": tmp_path / kind}, block_bytes=block_bytes)
        run(config, tmp_path / f"{kind}{block_bytes}")
    one, other, lines = (
        artifact_bytes(tmp_path / folder) for folder in (f"{name}400", f"{name}{1 << 20}", f"a.jsonl{1 << 20}")
    )
    assert one == other
    assert all(
        one[file] == lines[file] for file in ("a.bin", "a.idx", "a.documents.jsonl", "tokenizer/tokenizer.model")
    )
    blocks = json.loads((tmp_path / f"{name}400" / "report.json").read_text())["blocks"]["extents"]["a"]
    assert len(blocks) > 4
    assert Corpus.open(tmp_path / f"{name}400").document_title(0, 3) == "Story 3"


def test_without_pyarrow_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.parquet", columns(3))

    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(
        DependencyError, match=r'pyarrow: reads Parquet .*Run `pip install "instruct-retro\[formats\]"`'
    ):
        read(path)
