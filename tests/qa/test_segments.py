"""Answers in segments: encoded one by one, with the loss exactly on those that are learned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from retro.common.errors import ConfigError, DataError
from retro.corpus.train_tokenizer import train_sentencepiece
from retro.qa.fields import Fields, NothingToLearnError
from retro.qa.question import Segment
from retro.qa.question_files import read_questions
from retro.qa.sample_layout import AnswerIds, EncodedSample, PromptIds, encode_sample, lay_out, lay_out_packed
from retro.qa.segments import encode_segments, joined_text, split_at_tokens
from retro.tokenizers.added_tokens import add_tokens, token_id
from retro.tokenizers.tokenizer import Tokenizer, save_tokenizer
from tests.tokenizers.test_tokenizer import TEXT

END = 0


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    out = tmp_path_factory.mktemp("pieces")
    (out / "tokenizer.model").write_bytes(train_sentencepiece(TEXT, 320))
    save_tokenizer(out / "tokenizer.model", "sentencepiece", out)
    return add_tokens(out, ["[R]", "[Rel]", "[Rel:2]"], out / "more", "sft.special_tokens")


def test_each_segment_is_encoded_by_itself(tokenizer: Tokenizer) -> None:
    segments = [Segment(token="[R]"), Segment(text="the room", learn=False), Segment(text="the door")]
    ids, learned = encode_segments(segments, tokenizer)
    read, written = tokenizer.encode_batch(["the room", "the door"])
    assert ids == [token_id(tokenizer, "[R]"), *read, *written]
    assert learned == [True] + [False] * len(read) + [True] * len(written)


def test_a_token_that_the_tokenizer_lacks_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match=r"sft.special_tokens = '\[No\]'"):
        encode_segments([Segment(token="[No]")], tokenizer)


def test_a_text_is_split_at_the_longest_names_and_joins_again() -> None:
    text = "[R]the room[Rel:2] [Rel]"
    found = split_at_tokens(text, ["[R]", "[Rel]", "[Rel:2]"])
    assert [one.token or one.text for one in found] == ["[R]", "the room", "[Rel:2]", " ", "[Rel]"]
    assert joined_text(found) == text
    assert split_at_tokens("plain", []) == (Segment(text="plain"),)


def sample(learned: list[bool] | None) -> EncodedSample:
    found = encode_sample(
        PromptIds([5, 6], (), [7]), AnswerIds([11, 12, 13], END, learned), sequence_length=8, chunk_length=1
    )
    assert isinstance(found, EncodedSample)
    return found


def test_the_loss_is_on_what_is_learned_and_on_the_end() -> None:
    layout = lay_out([sample([True, False, True]), sample(None)], end=END, sequence_length=8, chunk_length=1)
    # Labels after the prompt 5 6 7: 11 12 13 and the end.
    assert layout.labels_BS[0].tolist() == [6, 7, 11, 12, 13, 0, 0, 0]
    assert layout.loss_mask_BS.tolist() == [[0, 0, 1, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 0, 0]]
    assert sample([True, False, True]).learned_tokens == 3


def test_packed_samples_have_it_there_too() -> None:
    rows = [[sample([False, False, True]), sample([True, False, False])]]
    layout = lay_out_packed(rows, end=END, sequence_length=12, chunk_length=1)
    assert layout.loss_mask_BS[0].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 1]


def test_the_prompt_is_cut_as_with_any_answer() -> None:
    long = PromptIds([5], [[8, 8, 8]], [7])
    found = encode_sample(long, AnswerIds([11, 12], END, [False, True]), sequence_length=6, chunk_length=1)
    assert isinstance(found, EncodedSample)
    assert found.prompt.tolist() == [5, 8, 8, 7]
    assert found.learned is not None
    assert np.array_equal(found.learned, [False, True, True])


def question_file(path: Path, *items: object) -> Path:
    path.write_text("\n".join(json.dumps(item) for item in items))
    return path


def test_a_question_file_may_hold_segments(tmp_path: Path) -> None:
    segments = [{"token": "[R]"}, {"text": "a passage", "learn": False}, {"text": "Paris"}]
    path = question_file(tmp_path / "train.jsonl", {"question": "where", "segments": segments})
    [found] = read_questions(path, Fields())
    assert found.segments == (Segment(token="[R]"), Segment(text="a passage", learn=False), Segment(text="Paris"))
    assert found.answers == ("[R]a passageParis",)


@pytest.mark.parametrize(
    "segments",
    [
        "text",
        ["text"],
        [{}],
        [{"text": "a", "token": "b"}],
        [{"text": 3}],
        [{"text": "a", "learn": 1}],
        [{"token": ""}],
        [{"text": "a", "loss": False}],
    ],
)
def test_segments_of_another_form_are_refused(tmp_path: Path, segments: object) -> None:
    path = question_file(tmp_path / "train.jsonl", {"question": "where", "answer": "a", "segments": segments})
    with pytest.raises(
        DataError, match=r"line 1 \(item 0\) has .*\. Give a list of \{text, learn\} or \{token, learn\}"
    ):
        read_questions(path, Fields())


def test_segments_of_which_none_is_learned_teach_nothing(tmp_path: Path) -> None:
    path = question_file(tmp_path / "train.jsonl", {"question": "where", "segments": [{"text": "a", "learn": False}]})
    with pytest.raises(NothingToLearnError, match="none is learned"):
        read_questions(path, Fields())


def test_segments_may_be_the_whole_sample(tmp_path: Path) -> None:
    segments = [{"text": "user: where", "learn": False}, {"token": "[R]"}, {"text": "Paris"}]
    path = question_file(tmp_path / "train.jsonl", {"question": "where", "segments": segments, "segments_only": True})
    [found] = read_questions(path, Fields())
    assert found.segments_only
    assert found.labels == ()


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ({"segments_only": 1, "segments": [{"text": "a", "learn": False}, {"text": "b"}]}, "segments_only = '1'"),
        ({"segments_only": True, "answer": "a"}, "segments_only, and no segments"),
        ({"segments_only": True, "segments": [{"text": "a"}]}, "segments_only, and a first segment that is learned"),
    ],
)
def test_a_whole_sample_of_another_form_is_refused(tmp_path: Path, item: dict[str, object], problem: str) -> None:
    path = question_file(tmp_path / "train.jsonl", {"question": "where"} | item)
    with pytest.raises(DataError, match=rf"line 1 \(item 0\) has {problem}"):
        read_questions(path, Fields())


def test_a_sample_without_an_end_token_ends_with_its_last_token() -> None:
    answer = AnswerIds([11, 6, 12], None, [True, False, True])
    found = encode_sample(PromptIds([5], (), ()), answer, sequence_length=8, chunk_length=1)
    assert isinstance(found, EncodedSample)
    plain = lay_out([found], end=END, sequence_length=8, chunk_length=1)
    assert plain.labels_BS[0, plain.loss_mask_BS[0] > 0].tolist() == [11, 12]
    packed = lay_out_packed([[found, found]], end=END, sequence_length=8, chunk_length=1)
    # 5 11 6 are inputs, 12 is only asked for.
    assert packed.tokens_BS.tolist() == [[5, 11, 6, 5, 11, 6, END, END]]
    assert packed.labels_BS[0, packed.loss_mask_BS[0] > 0].tolist() == [11, 12, 11, 12]
