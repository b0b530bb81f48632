from __future__ import annotations

import gzip
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from retro.common.artifacts import read_manifest
from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.corpus import build, pystdlib, tokenize, train_tokenizer
from retro.corpus.build import run
from retro.corpus.reader import Corpus, TokenStream
from retro.corpus.token_files import TokenFileWriter
from retro.qa.question_files import read_questions
from tests.corpus.texts import WORDS, artifact_bytes, settings, story, tiny_tokenizer, write_stories


def jsonl(path: Path, count: int = 40, **others: Any) -> dict[str, Any]:
    return {"name": path.stem, "path": write_stories(path, count)} | others


def test_texts_become_tokens_with_names_and_one_split(tmp_path: Path) -> None:
    config = settings(
        jsonl(tmp_path / "a.jsonl", weight=3), {"name": "b", "path": write_stories(tmp_path / "b.jsonl", 10, 40)}
    )
    manifest = run(config, tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.sources == ("a", "b")
    assert corpus.weights == (0.75, 0.25)
    for source, first, count in ((0, 0, 40), (1, 40, 10)):
        file = corpus.token_file(source)
        for n in range(count):
            tokens = file.tokens[file.document_starts[n] : file.document_starts[n + 1]]
            assert tokens[-1] == corpus.tokenizer.eod
            assert corpus.tokenizer.decode(tokens[:-1]) == story(first + n)
            assert corpus.document_id(source, n) == f"d{first + n}"
            assert corpus.document_title(source, n) == f"Story {first + n}"
    assert np.bincount(corpus.split_of(0)).tolist() == [32, 4, 4]
    assert manifest.counts["split"]["train"]["documents"] == 32 + 8
    lengths = [TokenStream(corpus, source, split, 8).length for split in range(3) for source in (0, 1)]
    assert sum(lengths) == manifest.counts["tokens"]
    assert read_manifest(tmp_path / "out", "corpus") == manifest


def test_a_source_can_be_held_out_whole(tmp_path: Path) -> None:
    ours = jsonl(tmp_path / "ours.jsonl")
    theirs = jsonl(tmp_path / "theirs.jsonl", 7, name="theirs", split="test")
    run(settings(ours, theirs, split=(0.9, 0.1, 0)), tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.weights == (1.0, 0.0)
    assert np.bincount(corpus.split_of(0), minlength=3).tolist() == [36, 4, 0]
    assert np.bincount(corpus.split_of(1), minlength=3).tolist() == [0, 0, 7]


def test_a_corpus_whose_every_source_is_held_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sources = \['valid'\]: needs split to be fractions or train for at"):
        settings(jsonl(tmp_path / "a.jsonl", split="valid"))


def test_a_streams_documents_are_those_of_its_split_and_no_others(tmp_path: Path) -> None:
    run(settings(jsonl(tmp_path / "a.jsonl")), tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    seen: list[str] = []
    for split in range(3):
        stream = TokenStream(corpus, 0, split, 8)
        text = corpus.tokenizer.decode(stream.tokens([0], stream.length)[0])
        assert text == "".join(story(int(n)) for n in stream.documents)
        seen += [corpus.document_id(0, int(n)) for n in stream.documents]
    assert sorted(seen) == sorted(f"d{n}" for n in range(40))


def test_every_layout_goes_the_same_road(tmp_path: Path) -> None:
    stories = [story(n) for n in range(20)]
    (tmp_path / "t.txt").write_text("\n\n".join(stories))
    (tmp_path / "w.txt").write_text("".join(f" = Story {n} = \n \n {text} \n \n" for n, text in enumerate(stories)))
    (tmp_path / "folder").mkdir()
    for n, text in enumerate(stories):
        (tmp_path / "folder" / f"{n:02d}.md").write_text(text)
    (tmp_path / "z.jsonl.gz").write_bytes(gzip.compress("\n".join(json.dumps({"text": t}) for t in stories).encode()))
    paths = {"t": "t.txt", "w": "w.txt", "f": "folder", "z": "z.jsonl.gz"}
    manifest = run(settings(*({"name": n, "path": tmp_path / p} for n, p in paths.items())), tmp_path / "out")
    assert {name: counts["documents"] for name, counts in manifest.counts["sources"].items()} == dict.fromkeys(
        "fwtz", 20
    )
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.document_title(1, 3) == "Story 3"
    assert corpus.document_id(2, 3) == "03.md"
    texts = []
    for source in (0, 2, 3):
        file = corpus.token_file(source)
        texts.append(corpus.tokenizer.decode(file.tokens[file.document_starts[3] : file.document_starts[4]]))
    assert texts == [stories[3]] * 3


def test_bad_lines_are_counted_and_written_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_stories(tmp_path / "a.jsonl", 40)
    path.write_bytes(path.read_bytes() + b'{"text": 1}\nnonsense\nmore nonsense\n')
    manifest = run(settings({"name": "a", "path": path}), tmp_path / "out")
    assert manifest.counts["sources"]["a"]["rejects"] == {"invalid JSON": 2, "text is not a string": 1}
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "source": "a",
        "file": "a.jsonl",
        "line": 41,
        "reason": "text is not a string",
        "detail": "'text' is int",
        "excerpt": '{"text": 1}',
    }
    assert [(line["line"], line["reason"]) for line in lines[1:]] == [(42, "invalid JSON"), (43, "invalid JSON")]
    assert caplog.text.count("a: 3 rejected (2 invalid JSON, 1 text is not a string; see ") == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["rejects"] == {"invalid JSON": 2, "text is not a string": 1}


def test_too_many_bad_lines_stop_only_when_asked(tmp_path: Path) -> None:
    path = write_stories(tmp_path / "a.jsonl", 40)
    path.write_bytes(path.read_bytes() + b"nonsense\n" * 10)
    with pytest.raises(DataError, match=r"a\.jsonl: 20\.0% of it was rejected .*max_bad_fraction allows 10\.0%"):
        run(settings({"name": "a", "path": path}, max_bad_fraction=0.1), tmp_path / "out")
    run(settings({"name": "a", "path": path}, max_bad_fraction=0.2), tmp_path / "out")


def test_short_documents_are_set_aside(tmp_path: Path) -> None:
    manifest = run(settings(jsonl(tmp_path / "a.jsonl"), min_words=13), tmp_path / "out")
    words = [len(story(n).split()) for n in range(40)]
    assert manifest.counts["documents"] == sum(count >= 13 for count in words)
    assert manifest.counts["sources"]["a"]["rejects"] == {"too short": sum(count < 13 for count in words)}


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "Check the source's path, kind and text_key"),
        ("\n\n", "Check the source's path, kind and text_key"),
        ("nonsense\n", r"\(1 invalid JSON; see .*\): its lines are not JSON objects. Set the source's kind: text"),
    ],
)
def test_an_empty_corpus_is_an_error_whoever_makes_the_tokenizer(
    tmp_path: Path, content: str, told: str, given: bool
) -> None:
    tiny_tokenizer(tmp_path / "given")
    (tmp_path / "a.jsonl").write_text(content)
    tokenizer = {"path": tmp_path / "given"} if given else {"vocab_size": 320}
    config = settings({"name": "a", "path": tmp_path / "a.jsonl"}, tokenizer=tokenizer)
    with pytest.raises(DataError, match=rf"a\.jsonl: holds no document.*{told}"):
        run(config, tmp_path / "out")
    assert (tmp_path / "out" / "sources" / "a.rejects.jsonl").read_text().count("\n") == content.count("nonsense")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_split_without_documents_is_an_error_that_keeps_the_tokens(tmp_path: Path) -> None:
    config = settings(jsonl(tmp_path / "a.jsonl"), split=(0.99, 0.01, 0.0))
    with pytest.raises(
        ConfigError, match=r"leaves no document for valid: 0.01 of the largest source's 40 documents; needs at least 50"
    ):
        run(config, tmp_path / "out")
    assert (tmp_path / "out" / "a.bin").exists()


def test_a_megatron_corpus_is_used_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = tiny_tokenizer(tmp_path / "given")
    (tmp_path / "old").mkdir()
    with TokenFileWriter(tmp_path / "old" / "wiki", tokenizer.vocab_size) as writer:
        for n in range(20):
            writer.add_document(tokenizer.encode(story(n)))
        writer.finish()
    source = {"name": "m", "path": tmp_path / "old" / "wiki"}
    config = settings(source, jsonl(tmp_path / "a.jsonl"), tokenizer={"path": tmp_path / "given"})
    with caplog.at_level(logging.WARNING):
        run(config, tmp_path / "out")
    assert "no document of m ends with token 1 (EOD)" in caplog.text
    corpus = Corpus.open(tmp_path / "out")
    stream = TokenStream(corpus, 0, 0, 8)
    assert corpus.tokenizer.decode(stream.tokens([0], stream.length)[0]) == "".join(
        story(int(n)) for n in stream.documents
    )
    assert corpus.document_id(0, 7) == "m:7"
    assert (tmp_path / "out" / "m.bin").is_symlink()


def test_a_megatron_corpus_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path / "given")
    with TokenFileWriter(tmp_path / "wiki", 50_000) as writer:
        writer.add_document([4, 40_000])
        writer.finish()
    config = settings({"name": "m", "path": tmp_path / "wiki"}, tokenizer={"path": tmp_path / "given"})
    with pytest.raises(DataError, match=r"wiki\.bin: holds token 40000; the tokenizer has 320"):
        run(config, tmp_path / "out")


def test_a_finished_corpus_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(jsonl(tmp_path / "a.jsonl"))
    first = run(config, tmp_path / "out")
    monkeypatch.setattr(build, "_make", lambda *_: pytest.fail("made again"))
    assert run(config, tmp_path / "out") == first == read_manifest(tmp_path / "out", "corpus")


def test_other_settings_under_a_finished_corpus_are_an_error(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "a.jsonl")
    run(settings(source), tmp_path / "out")
    with pytest.raises(ArtifactError, match="was made under other settings: seed was 1234, now 7"):
        run(settings(source, seed=7), tmp_path / "out")


def test_changed_input_under_a_finished_corpus_is_an_error(tmp_path: Path) -> None:
    config = settings(jsonl(tmp_path / "a.jsonl"))
    run(config, tmp_path / "out")
    write_stories(tmp_path / "a.jsonl", 41)
    with pytest.raises(ArtifactError, match=r"source 'a' was made from other input: a\.jsonl had \d+ bytes"):
        run(config, tmp_path / "out")


def test_a_touched_file_with_the_same_bytes_is_the_same_input(tmp_path: Path) -> None:
    config = settings(jsonl(tmp_path / "a.jsonl"))
    first = run(config, tmp_path / "out")
    os.utime(tmp_path / "a.jsonl", (1, 1))
    assert run(config, tmp_path / "out") == first


def test_input_that_was_tidied_away_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = settings(jsonl(tmp_path / "a.jsonl"))
    first = run(config, tmp_path / "out")
    (tmp_path / "a.jsonl").unlink()
    assert run(config, tmp_path / "out") == first
    assert "is gone, so whether it changed cannot be checked" in caplog.text


def test_two_runs_leave_the_same_bytes(tmp_path: Path) -> None:
    config = settings(jsonl(tmp_path / "a.jsonl"), jsonl(tmp_path / "b.jsonl", 30))
    run(config, tmp_path / "one")
    run(config, tmp_path / "two")
    assert artifact_bytes(tmp_path / "one") == artifact_bytes(tmp_path / "two")


def test_how_the_texts_are_batched_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(jsonl(tmp_path / "a.jsonl"))
    run(config, tmp_path / "one")
    monkeypatch.setattr(tokenize, "_BATCH_CHARACTERS", 100)
    run(config, tmp_path / "two")
    assert artifact_bytes(tmp_path / "one") == artifact_bytes(tmp_path / "two")


@pytest.fixture(scope="module")
def python_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("python")
    source = {"name": "python", "built_in": "pystdlib"}
    run(settings(source, min_words=12, split=(0.9, 0.05, 0.05), tokenizer={"vocab_size": 2000}), out)
    return out


def test_the_built_in_corpus_records_where_its_words_come_from(python_corpus: Path) -> None:
    counts = read_manifest(python_corpus, "corpus").counts["sources"]["python"]
    assert counts["interpreter"] == pystdlib.interpreter()
    assert len(counts["text_sha256"]) == 64
    assert counts["words"] > 150_000


def test_questions_follow_their_document_into_its_split(python_corpus: Path) -> None:
    corpus = Corpus.open(python_corpus)
    split_of = {corpus.document_id(0, n): int(s) for n, s in enumerate(corpus.split_of(0))}
    told: list[str] = []
    for number, part in enumerate(("train", "valid", "test")):
        questions = json.loads((python_corpus / "qa" / f"{part}.json").read_text())
        assert len(questions) == sum(corpus.manifest.counts["questions"][part].values()) > 20
        assert {split_of[name] for question in questions for name in question["document_ids"]} == {number}
        told += [question["question"] for question in questions]
        assert len(read_questions(python_corpus / "qa" / f"{part}.json")) == len(questions)
        for question in questions:
            assert not any(answer.casefold() in question["question"].casefold() for answer in question["answers"])
    assert len(set(told)) == len(told)


def test_the_answers_stand_in_the_documents(python_corpus: Path) -> None:
    corpus = Corpus.open(python_corpus)
    file, number = corpus.token_file(0), {}
    number = {corpus.document_id(0, n): n for n in range(file.documents)}
    for question in json.loads((python_corpus / "qa" / "test.json").read_text()):
        document = number[question["document_ids"][0]]
        text = corpus.tokenizer.decode(file.tokens[file.document_starts[document] : file.document_starts[document + 1]])
        assert all(answer in text for answer in question["answers"])


def test_a_built_in_corpus_of_another_interpreter_is_an_error(
    python_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(
        {"name": "python", "built_in": "pystdlib"},
        min_words=12,
        split=(0.9, 0.05, 0.05),
        tokenizer={"vocab_size": 2000},
    )
    run(config, python_corpus)
    here = pystdlib.interpreter()
    monkeypatch.setattr(pystdlib, "interpreter", lambda: "CPython 9.9.9 moon")
    with pytest.raises(ArtifactError, match=f"the documentation is that of {here}, but this is CPython 9.9.9 moon"):
        run(config, python_corpus)


def test_each_setting_changes_the_artifact(tmp_path: Path) -> None:
    base = settings(jsonl(tmp_path / "a.jsonl"))
    run(base, tmp_path / "base")
    before = artifact_bytes(tmp_path / "base")
    changes: dict[str, dict[str, Any]] = {
        "seed": {"seed": 5},
        "split": {"split": (0.7, 0.2, 0.1)},
        "words": {"min_words": 12},
        "vocabulary": {"tokenizer": {"vocab_size": 310}},
        "sample": {"tokenizer": {"vocab_size": 320, "sample_characters": 500}},
        "end": {"tokenizer": {"vocab_size": 320, "eod_token": "<0x00>"}},
    }
    for name, change in changes.items():
        run(settings(jsonl(tmp_path / "a.jsonl"), **change), tmp_path / name)
        after = artifact_bytes(tmp_path / name)
        different = {file for file in before if before[file] != after[file]} - {
            "manifest.json",
            "tokenizer/made_from.json",
        }
        assert different, name


def test_training_the_tokenizer_is_skipped_when_one_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_tokenizer(tmp_path / "given")
    monkeypatch.setattr(train_tokenizer, "training_sample", lambda *_: pytest.fail("sampled"))
    run(settings(jsonl(tmp_path / "a.jsonl"), tokenizer={"path": tmp_path / "given"}), tmp_path / "out")


def test_a_huggingface_tokenizer_file_makes_the_tokens(tmp_path: Path) -> None:
    vocabulary_of = {word: n for n, word in enumerate(["[UNK]", "<|endoftext|>", *sorted(set(WORDS))])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary_of, unk_token="[UNK]"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    model.save(str(tmp_path / "tokenizer.json"))
    config = settings(
        jsonl(tmp_path / "a.jsonl"),
        tokenizer={"kind": "huggingface", "path": tmp_path / "tokenizer.json", "max_lost_fraction": 0.1},
    )
    manifest = run(config, tmp_path / "out")
    assert manifest.counts["tokenizer"]["eod"] == 1
    corpus = Corpus.open(tmp_path / "out")
    end = int(corpus.token_file(0).document_starts[1])
    assert corpus.token_file(0).tokens[:end].tolist() == [*(vocabulary_of.get(w, 0) for w in story(0).split()), 1]
