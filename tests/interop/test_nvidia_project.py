from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from retro.common.errors import DataError
from retro.interop.nvidia_project import gpt2_file, open_project, tokenizer_settings
from retro.tokenizers.tokenizer import save_tokenizer
from tests.corpus.texts import story
from tests.interop.nvidia import FakeProject


@pytest.fixture
def project(tmp_path: Path) -> FakeProject:
    return FakeProject(tmp_path / "project", counts=(9,)).build()


def test_a_project_is_read_from_its_settings(project: FakeProject) -> None:
    found = open_project(project.directory)
    assert (found.chunk_length, found.train_fraction) == (8, 0.9)
    assert [(one.name, one.ratio) for one in found.corpora] == [("stories_text_document", 1.0)]


def test_a_blend_may_be_one_string(project: FakeProject) -> None:
    project.configure(retro_gpt_data_path=f"0.5 {project.prefix(0)}")
    assert open_project(project.directory).corpora[0].ratio == 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"retro_gpt_chunk_length": None}, "has no retro_gpt_chunk_length"),
        ({"retro_gpt_chunk_length": 0}, "has retro_gpt_chunk_length = 0, no number of tokens"),
        ({"retro_gpt_split": "969,30,1"}, "whose first number is not a percentage of the documents"),
        ({"retro_gpt_split": "all"}, "whose first number is not a percentage of the documents"),
        ({"retro_gpt_data_path": ["1"]}, "write weight and prefix of each corpus in turn"),
        ({"retro_gpt_data_path": 3}, "write weight and prefix of each corpus in turn"),
        ({"retro_gpt_data_path": ["many", "x"]}, "has 'many' as the weight of a corpus"),
        ({"retro_gpt_data_path": ["1", "absent"]}, "absent.bin: is missing; config.json names it"),
    ],
)
def test_a_setting_that_cannot_be_is_named(project: FakeProject, changes: dict[str, Any], words: str) -> None:
    project.configure(**changes)
    with pytest.raises(DataError) as caught:
        open_project(project.directory)
    assert words in str(caught.value)


def test_a_folder_that_is_no_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.json: is missing"):
        open_project(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json: is not valid JSON"):
        open_project(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(DataError, match="holds a list of 0, needed is: an object"):
        open_project(tmp_path)


def test_the_tokenizer_is_what_the_project_names_or_what_the_user_gives(project: FakeProject, tmp_path: Path) -> None:
    opened = open_project(project.directory)
    named = tokenizer_settings(opened, tmp_path, None)
    assert (named.kind, named.path) == ("sentencepiece", project.directory / "tokenizer/tokenizer.model")
    given = tmp_path / "folder"
    given.mkdir()
    (given / "tokenizer.json").write_text("{}")
    assert tokenizer_settings(opened, tmp_path, given, "<end>").path == given / "tokenizer.json"
    assert tokenizer_settings(opened, tmp_path, given, "<end>").eod_token == "<end>"


def test_a_tokenizer_of_another_kind_is_refused_with_what_to_give(project: FakeProject, tmp_path: Path) -> None:
    project.configure(retro_gpt_tokenizer_type="NullTokenizer", retro_gpt_tokenizer_model=None)
    opened = open_project(project.directory)
    with pytest.raises(DataError, match=r"'NullTokenizer'.*--tokenizer: a SentencePiece \.model or a tokenizer\.json"):
        tokenizer_settings(opened, tmp_path, None)
    with pytest.raises(DataError, match="no such tokenizer file"):
        tokenizer_settings(opened, tmp_path, tmp_path / "absent.model")
    (tmp_path / "vocab.txt").write_text("a")
    with pytest.raises(DataError, match="is not a tokenizer file"):
        tokenizer_settings(opened, tmp_path, tmp_path / "vocab.txt")


@pytest.fixture
def gpt2(project: FakeProject) -> FakeProject:
    """The same project with GPT-2's two files."""
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator([story(n) for n in range(40)], vocab_size=400, special_tokens=["<|endoftext|>"])
    made.save_model(str(project.directory / "tokenizer"), "gpt2")
    project.configure(
        retro_gpt_tokenizer_type="GPT2BPETokenizer", retro_gpt_tokenizer_model=None,
        retro_gpt_vocab_file="tokenizer/gpt2-vocab.json", retro_gpt_merge_file="tokenizer/gpt2-merges.txt",
    )  # fmt: skip
    return project


def test_gpt2s_vocabulary_and_merges_become_one_file_of_the_same_tokens(gpt2: FakeProject, tmp_path: Path) -> None:
    settings = tokenizer_settings(open_project(gpt2.directory), tmp_path, None)
    assert settings.kind == "huggingface"
    assert settings.path is not None
    ours = save_tokenizer(settings.path, settings.kind, tmp_path / "saved")
    folder = gpt2.directory / "tokenizer"
    theirs = tokenizers.ByteLevelBPETokenizer(str(folder / "gpt2-vocab.json"), str(folder / "gpt2-merges.txt"))
    for text in (story(3), "a fox, über 12\n\nlazy  dogs", " starts with a space"):
        assert ours.encode(text) == theirs.encode(text).ids
        assert ours.decode(ours.encode(text)) == text
    vocabulary = json.loads((folder / "gpt2-vocab.json").read_text())
    assert ours.eod == vocabulary["<|endoftext|>"]
    assert ours.decode([ours.eod]) == ""
    assert ours.vocab_size == len(vocabulary)


def test_bad_gpt2_files_are_refused(gpt2: FakeProject, tmp_path: Path) -> None:
    folder = gpt2.directory / "tokenizer"
    vocabulary, merges = folder / "gpt2-vocab.json", folder / "gpt2-merges.txt"
    with pytest.raises(DataError, match="no such tokenizer file"):
        gpt2_file(vocabulary, folder / "absent.txt", tmp_path / "t.json")
    known = json.loads(vocabulary.read_text())
    vocabulary.write_text(json.dumps({name: number for name, number in known.items() if name != "<|endoftext|>"}))
    with pytest.raises(DataError, match=r"has no <\|endoftext\|>"):
        gpt2_file(vocabulary, merges, tmp_path / "t.json")
    vocabulary.write_text("{")
    with pytest.raises(DataError, match="are not byte-level BPE"):
        gpt2_file(vocabulary, merges, tmp_path / "t.json")
