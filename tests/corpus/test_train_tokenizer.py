from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest

from retro.common.errors import ConfigError, DataError
from retro.corpus import train_tokenizer
from retro.corpus.config import CorpusConfig
from retro.corpus.files import Source, resolve
from retro.corpus.manifest import Identity, identify
from retro.corpus.split import split_documents
from retro.corpus.token_files import TokenFileWriter
from retro.corpus.train_tokenizer import prepare_tokenizer, train_sentencepiece, training_sample
from tests.corpus.texts import settings, story, tiny_tokenizer, write_stories


def found(config: CorpusConfig) -> list[Source]:
    return [resolve(source, source.path) for source in config.sources if source.path]


def identities(config: CorpusConfig) -> dict[str, Identity]:
    return {source.name: identify(source, {}) for source in found(config)}


def test_equal_texts_give_equal_bytes() -> None:
    texts = [story(n) for n in range(40)]
    assert train_sentencepiece(iter(texts), 320) == train_sentencepiece(texts, 320)


def test_a_small_text_gives_as_many_pieces_as_it_has(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = settings({"name": "s", "path": write_stories(tmp_path / "s.jsonl", 20)}, tokenizer={"vocab_size": 30_000})
    with caplog.at_level(logging.WARNING):
        tokenizer = prepare_tokenizer(config, found(config), identities(config), tmp_path / "out")
    assert 300 < tokenizer.vocab_size < 1000
    assert f"the text holds only {tokenizer.vocab_size} of the 30000 pieces asked for" in caplog.text


def test_text_without_a_word_cannot_be_trained_on() -> None:
    with pytest.raises(DataError, match=r"tokenizer training: failed: .*Give more text, or a tokenizer file"):
        train_sentencepiece([], 320)


def test_a_line_of_any_length_is_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_tokenizer, "_LINE_CHARACTERS", 30)
    assert list(train_tokenizer._lines(["x" * 70 + "\n\ny"])) == ["x" * 30, "x" * 30, "x" * 10, "y"]


def test_the_tokenizer_learns_from_training_documents_only(tmp_path: Path) -> None:
    path = write_stories(tmp_path / "s.jsonl", 50)
    config = settings({"name": "s", "path": path})
    split = split_documents(50, config.split, config.seed, "s")
    assert training_sample(config, found(config), tmp_path) == [story(n) for n in range(50) if split[n] == 0]


def test_the_sample_is_capped_and_spread_over_all_sources(tmp_path: Path) -> None:
    sources = [
        {"name": name, "path": write_stories(tmp_path / f"{name}.jsonl", 400, start)}
        for name, start in (("a", 0), ("b", 400))
    ]
    config = settings(*sources, tokenizer={"vocab_size": 320, "sample_characters": 20_000})
    sample = training_sample(config, found(config), tmp_path)
    assert 5_000 < sum(map(len, sample)) <= 20_000
    numbers = [int(text.split()[0][1:]) for text in sample]
    assert numbers == sorted(numbers)
    # Four quarters of the corpus, none of them favoured: a prefix would leave the last ones empty.
    quarters = [sum(start <= number < start + 200 for number in numbers) for start in range(0, 800, 200)]
    assert min(quarters) > len(numbers) / 8
    assert sample == training_sample(config, found(config), tmp_path)


def test_a_prepared_tokenizer_is_kept_until_its_text_or_its_settings_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_stories(tmp_path / "s.jsonl", 50)
    config = settings({"name": "s", "path": path})
    first = prepare_tokenizer(config, found(config), identities(config), tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(train_tokenizer, "train_sentencepiece", lambda *_: pytest.fail("trained again"))
        again = prepare_tokenizer(config, found(config), identities(config), tmp_path / "out")
    assert again.fingerprint == first.fingerprint
    write_stories(path, 60)
    other = prepare_tokenizer(config, found(config), identities(config), tmp_path / "out")
    assert other.fingerprint != first.fingerprint


def test_a_given_file_is_copied_and_noticed_when_it_changes(tmp_path: Path) -> None:
    given = tmp_path / "given"
    tiny_tokenizer(given)
    source = {"name": "s", "path": write_stories(tmp_path / "s.jsonl", 50)}
    config = settings(source, tokenizer={"path": given})
    first = prepare_tokenizer(config, found(config), identities(config), tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer" / "tokenizer.model").read_bytes() == (given / "tokenizer.model").read_bytes()
    tiny_tokenizer(given, 310)
    second = prepare_tokenizer(config, found(config), identities(config), tmp_path / "out")
    assert (first.vocab_size, second.vocab_size) == (320, 310)


def test_a_size_that_the_given_file_does_not_have_is_refused(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path / "given")
    source = {"name": "s", "path": write_stories(tmp_path / "s.jsonl", 50)}
    config = settings(source, tokenizer={"path": tmp_path / "given", "vocab_size": 32_000})
    with pytest.raises(ConfigError, match=r"corpus.tokenizer.vocab_size = 32000: needs to be left out or to be 320"):
        prepare_tokenizer(config, found(config), identities(config), tmp_path / "out")


def test_a_megatron_corpus_needs_its_tokenizer(tmp_path: Path) -> None:
    TokenFileWriter(tmp_path / "old", 100).finish()
    config = settings({"name": "old", "path": tmp_path / "old"})
    with pytest.raises(ConfigError, match=r"corpus.tokenizer.path = None: needs the tokenizer that made old"):
        training_sample(config, found(config), tmp_path)


def test_a_source_without_a_document_is_told_before_a_tokenizer_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl.gz").write_bytes(gzip.compress(b'{"body": "some words"}\n{"body": "more"}\nnonsense\n'))
    config = settings({"name": "s", "path": tmp_path / "s.jsonl.gz"})
    with pytest.raises(DataError) as caught:
        training_sample(config, found(config), tmp_path)
    rejects = tmp_path / "sources" / "s.rejects.jsonl"
    assert str(caught.value) == (
        f"{tmp_path}/s.jsonl.gz: holds no document (1 invalid JSON, 2 missing text; see {rejects}; the first: "
        "s.jsonl.gz line 1: no key 'text'; the line has: body; s.jsonl.gz line 3: column 1: Expecting value): "
        "2 documents have no 'text'; the keys are body. Set text_key: body for the source 's' in corpus.sources"
    )
    assert [json.loads(line)["line"] for line in rejects.read_text().splitlines()] == [1, 2, 3]


def test_too_many_rejects_stop_before_a_tokenizer_is_learned_and_fewer_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_stories(tmp_path / "s.jsonl", 30)
    path.write_bytes(path.read_bytes() + b"nonsense\n" * 10)
    config = settings({"name": "s", "path": path}, max_bad_fraction=0.2)
    with pytest.raises(
        DataError, match=r"25\.0% of it was rejected \(10 invalid JSON; see .*; the first: s.jsonl line"
    ):
        training_sample(config, found(config), tmp_path)
    config = settings({"name": "s", "path": path})
    assert len(training_sample(config, found(config), tmp_path)) == 24
    assert "corpus: s: 10 rejected (10 invalid JSON; see " in caplog.text


def test_documents_that_are_all_held_out_leave_nothing_to_train_on(tmp_path: Path) -> None:
    config = settings({"name": "s", "path": write_stories(tmp_path / "s.jsonl", 1)}, split=(0.4, 0.6, 0.0))
    with pytest.raises(ConfigError, match="needs a tokenizer file: of 1 documents none is in the training split"):
        training_sample(config, found(config), tmp_path)
