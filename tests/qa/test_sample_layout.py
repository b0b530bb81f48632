from __future__ import annotations

import numpy as np
import pytest

from retro.qa.sample_layout import (
    AnswerIds,
    EncodedSample,
    PromptIds,
    encode_sample,
    firsts_of,
    fit_prompt,
    input_tokens,
    lay_out,
    lay_out_packed,
    lay_out_prompts,
    left_pad,
    prompt_room,
)

END = 0


def sample(prompt: list[int], answer: list[int]) -> EncodedSample:
    return EncodedSample(np.array(prompt, np.int32), np.array([*answer, END], np.int32), 0)


def test_contexts_are_cut_from_the_end_and_then_dropped() -> None:
    prompt = PromptIds(head=[1], contexts=[[2, 3], [4, 5]], tail=[6, 7])
    assert fit_prompt(prompt, 9) == ([1, 2, 3, 4, 5, 6, 7], 0)
    assert fit_prompt(prompt, 6) == ([1, 2, 3, 4, 6, 7], 1)
    assert fit_prompt(prompt, 4) == ([1, 2, 6, 7], 3)
    assert fit_prompt(prompt, 3) == ([1, 6, 7], 4)


def test_of_passages_in_another_order_the_worst_are_cut_first() -> None:
    prompt = PromptIds(head=[1], contexts=[[2, 3], [4, 5], [6]], tail=[7], ranks=(2, 0, 1))
    assert fit_prompt(prompt, 6) == ([1, 2, 4, 5, 6, 7], 1)
    assert fit_prompt(prompt, 4) == ([1, 4, 5, 7], 3)
    assert fit_prompt(prompt, 3) == ([1, 4, 7], 4)


def test_a_passage_that_is_cut_keeps_what_separates_it_from_the_next_text() -> None:
    prompt = PromptIds(head=[1], contexts=[[2, 3, 4, 9], [5, 6, 7, 9]], tail=[8], separator=[9])
    assert fit_prompt(prompt, 8) == ([1, 2, 3, 4, 9, 5, 9, 8], 2)
    # A separator alone separates nothing.
    assert fit_prompt(prompt, 7) == ([1, 2, 3, 4, 9, 8], 4)
    assert fit_prompt(prompt, 5) == ([1, 2, 3, 9, 8], 5)


def test_a_question_that_does_not_fit_is_never_cut() -> None:
    assert fit_prompt(PromptIds(head=[1], contexts=[[2]], tail=[6, 7]), 2) is None


def test_the_prompts_room_is_whole_chunks_before_the_answer() -> None:
    # S = 8 inputs are 9 tokens. Answer 2 + end 1 leave 6, of which chunks of 4 can fill 4.
    assert prompt_room(8, 4, 2) == 4
    # Answer 4 + end 1 leave exactly one chunk.
    assert prompt_room(8, 4, 4) == 4
    assert prompt_room(8, 4, 5) == 0
    # Without chunks the prompt may take all 6.
    assert prompt_room(8, 1, 2) == 6
    assert prompt_room(8, 4, 20) == 0


def test_a_layout_worked_by_hand() -> None:
    # M = 4, S = 8: one pad, prompt 11 12 13, answer 21 22, end, right pad.
    layout = lay_out([sample([11, 12, 13], [21, 22])], end=END, sequence_length=8, chunk_length=4)
    assert layout.tokens_BS.tolist() == [[0, 11, 12, 13, 21, 22, 0, 0]]
    assert layout.labels_BS.tolist() == [[11, 12, 13, 21, 22, 0, 0, 0]]
    # Asked for: 21 and 22 and the end, of the prompt's last token and of 21 and 22.
    assert layout.loss_mask_BS.tolist() == [[0, 0, 0, 1, 1, 1, 0, 0]]
    assert layout.token_mask_BS.tolist() == [[False, True, True, True, True, True, True, False]]


def test_without_chunks_there_is_no_left_pad() -> None:
    layout = lay_out([sample([11, 12, 13], [21])], end=END, sequence_length=6, chunk_length=1)
    assert layout.tokens_BS.tolist() == [[11, 12, 13, 21, 0, 0]]
    assert layout.loss_mask_BS.tolist() == [[0, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize("chunk_length", [1, 3, 4, 64])
@pytest.mark.parametrize("prompt_length", [1, 2, 3, 4, 5, 63, 64, 65])
def test_a_prompt_always_ends_where_a_chunk_ends(chunk_length: int, prompt_length: int) -> None:
    pad = left_pad(prompt_length, chunk_length)
    assert 0 <= pad < chunk_length
    assert (pad + prompt_length) % chunk_length == 0


@pytest.mark.parametrize("answer_length", range(1, 12))
def test_whatever_fits_is_trained_on_in_full(answer_length: int) -> None:
    prompt = PromptIds(head=[1], contexts=[[2] * 9], tail=[3, 4])
    answer = list(range(100, 100 + answer_length))
    encoded = encode_sample(prompt, AnswerIds(answer, END), sequence_length=12, chunk_length=4)
    if answer_length > 8:
        assert encoded == "answer_too_long"
        return
    assert isinstance(encoded, EncodedSample)
    layout = lay_out([encoded], end=END, sequence_length=12, chunk_length=4)
    asked = layout.labels_BS[layout.loss_mask_BS == 1].tolist()
    assert asked == [*answer, END]
    assert encoded.prompt.tolist()[-2:] == [3, 4]


def test_why_a_sample_is_left_out_is_told_apart() -> None:
    question = PromptIds(head=[], contexts=[], tail=[1, 2, 3, 4, 5])
    kept = encode_sample(question, AnswerIds([9], END), sequence_length=9, chunk_length=4)
    assert isinstance(kept, EncodedSample)
    assert encode_sample(question, AnswerIds([9, 9], END), sequence_length=9, chunk_length=4) == "answer_too_long"
    assert encode_sample(question, AnswerIds([9], END), sequence_length=8, chunk_length=4) == "question_too_long"


def test_a_sample_longer_than_the_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="sample 0 has 7 tokens with its left pad, room is 6"):
        lay_out([sample([1, 2, 3], [4, 5])], end=END, sequence_length=5, chunk_length=4)


def test_a_packed_layout_worked_by_hand() -> None:
    # M = 4, S = 12: pad 11 12 13 | 21 and 23, its end only asked for, pad, 14 | 22.
    samples = [sample([11, 12, 13], [21, 23]), sample([14], [22])]
    layout = lay_out_packed([samples], end=END, sequence_length=12, chunk_length=4)
    assert layout.tokens_BS.tolist() == [[0, 11, 12, 13, 21, 23, 0, 14, 22, 0, 0, 0]]
    assert layout.labels_BS.tolist() == [[0, 12, 13, 21, 23, 0, 0, 22, 0, 0, 0, 0]]
    assert layout.loss_mask_BS.tolist() == [[0, 0, 0, 1, 1, 1, 0, 1, 1, 0, 0, 0]]
    assert layout.segments_BS is not None
    assert layout.segments_BS.tolist() == [[0, 1, 1, 1, 1, 1, 0, 2, 2, 0, 0, 0]]
    assert layout.token_mask_BS.tolist() == (layout.segments_BS > 0).tolist()


@pytest.mark.parametrize("chunk_length", [1, 4, 7])
def test_a_packed_sample_is_asked_what_it_is_asked_alone(chunk_length: int) -> None:
    samples = [sample(list(range(1, 2 + n)), list(range(30, 31 + 2 * n))) for n in range(4)]
    packed = lay_out_packed([samples], end=END, sequence_length=60, chunk_length=chunk_length)
    assert packed.segments_BS is not None
    for number, (one, first) in enumerate(zip(samples, firsts_of(samples, chunk_length), strict=True), start=1):
        alone = lay_out([one], end=END, sequence_length=20, chunk_length=chunk_length)
        begin = left_pad(len(one.prompt), chunk_length)
        assert (first - begin) % chunk_length == 0
        of_alone, of_packed = slice(begin, begin + input_tokens(one)), slice(first, first + input_tokens(one))
        for name in ("tokens_BS", "labels_BS", "loss_mask_BS"):
            assert getattr(packed, name)[0, of_packed].tolist() == getattr(alone, name)[0, of_alone].tolist()
        assert set(packed.segments_BS[0, of_packed].tolist()) == {number}
    assert packed.loss_mask_BS.sum() == sum(len(one.answer) for one in samples)


def test_samples_that_do_not_fit_in_a_row_are_refused() -> None:
    with pytest.raises(ValueError, match="sample 2 of row 0 ends at 9, room is 8"):
        lay_out_packed([[sample([1, 2], [3]), sample([4, 5], [6])]], end=END, sequence_length=8, chunk_length=4)


def test_prompts_for_generation_all_end_at_the_last_column() -> None:
    tokens, mask = lay_out_prompts([[1, 2, 3, 4, 5], [7]], end=END, chunk_length=4)
    assert tokens.tolist() == [[0, 0, 0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 0, 0, 7]]
    assert mask.sum(axis=1).tolist() == [5, 1]
    assert mask[0].tolist() == [False, False, False, True, True, True, True, True]
