from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.errors import ConfigError, DataError
from retro.qa.question import Context, PassageLike
from retro.sft.config import PublishedSet, SetConfig, SftDataConfig
from retro.sft.prepare import Prepared, Shape, prepare
from tests.sft.words import WordTokenizer

SHAPE = Shape(sequence_length=16, chunk_length=4, passages=2, retrieved_length=6)


def write(path: Path, items: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(items))
    return path


def items(count: int, words: int = 2) -> list[dict[str, Any]]:
    return [
        {
            "question": " ".join([f"q{n}"] * words),
            "answers": [f"a{n}", "other"],
            "ctxs": [{"title": "T", "text": f"c{n} " * 5}],
        }
        for n in range(count)
    ]


def built(config: SftDataConfig, tokenizer: WordTokenizer, **more: Any) -> Prepared:
    prepared = prepare(config, "train", tokenizer, SHAPE, **more)
    assert prepared is not None
    return prepared


def plain(path: Path, **more: Any) -> SftDataConfig:
    return SftDataConfig(sets=(SetConfig(name="mine", path=path),), style="plain", **more)


def test_a_sample_is_prompt_first_answer_and_end_with_its_passages(tmp_path: Path) -> None:
    words = WordTokenizer()
    prepared = built(plain(write(tmp_path / "a.json", items(1)), contexts_in_prompt=0), words)
    batch = prepared.source.fetch(np.array([0]))
    asked = batch.labels_BS[batch.loss_mask_BS == 1]
    assert words.decode(asked.tolist()) == "a0"
    assert asked[-1] == words.eod
    assert words.decode(batch.tokens_BS[0, 3:8].tolist()) == "question: q0 q0\nanswer:"
    assert batch.token_mask_BS is not None
    assert batch.token_mask_BS[0, :3].tolist() == [False] * 3
    assert batch.neighbors_BLKR is not None
    assert words.decode(batch.neighbors_BLKR[0, 0, 0].tolist()) == "T\nc0 c0 c0 c0"


def test_a_prompt_loses_context_but_never_its_question(tmp_path: Path) -> None:
    words = WordTokenizer()
    # 16 tokens leave 12 before an answer of one token; the question takes 5, so a passage of 7 fits.
    prepared = built(plain(write(tmp_path / "a.json", items(1)), contexts_in_prompt=1), words)
    batch = prepared.source.fetch(np.array([0]))
    assert "question: q0 q0\nanswer: a0" in words.decode(batch.tokens_BS[0].tolist())
    assert prepared.reports[0].lost_context_tokens == 0
    long = items(1)
    long[0]["ctxs"][0]["text"] = "w " * 50
    prepared = built(plain(write(tmp_path / "b.json", long), contexts_in_prompt=1), words)
    assert prepared.reports[0].lost_context_tokens == 52 - (12 - 5)
    batch = prepared.source.fetch(np.array([0]))
    assert "question: q0 q0\nanswer: a0" in words.decode(batch.tokens_BS[0].tolist())


def test_questions_that_do_not_fit_are_counted_by_reason(tmp_path: Path) -> None:
    mixed = [*items(3), items(1, words=40)[0], items(1)[0] | {"answers": ["w " * 14]}]
    mixed.append({"question": "q", "answers": [""]})
    config = plain(write(tmp_path / "a.json", mixed), skip_unusable=True)
    report = built(config, WordTokenizer()).reports[0]
    assert (report.questions, report.samples, report.kind) == (6, 3, "short_span")
    assert report.skipped == {"question_too_long": 1, "answer_too_long": 1, "no_answer": 1}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            items(1, words=40)[0],
            # 40 words, `question:`, a line break and `answer:`; 15 of 16 tokens are three chunks of 4.
            "line 3 (item 1): its prompt takes 43 tokens without passages, and 12 fit (1 of 3 questions do not fit)",
        ),
        (
            items(1)[0] | {"answers": ["w " * 14]},
            "line 3 (item 1): its answer of 14 tokens leaves 0 of 16 to a prompt of 5 (1 of 3 questions do not fit)",
        ),
        ({"question": "q", "answers": [""]}, "line 3 (item 1) has 'answers' = ['']"),
    ],
)
def test_a_question_with_nothing_to_learn_is_an_error_with_its_line(
    tmp_path: Path, bad: dict[str, Any], message: str
) -> None:
    path = tmp_path / "a.jsonl"
    good = items(2)
    path.write_text("\n".join([json.dumps(good[0]), "", json.dumps(bad), json.dumps(good[1])]))
    with pytest.raises(DataError) as caught:
        built(plain(path), WordTokenizer())
    assert str(caught.value).startswith(f"{path}: {message}")


def test_an_unanswerable_question_teaches_the_text_of_its_set(tmp_path: Path) -> None:
    words = WordTokenizer()
    path = write(tmp_path / "a.json", [items(1)[0] | {"answers": [], "is_impossible": True}])
    batch = built(plain(path, contexts_in_prompt=0), words).source.fetch(np.array([0]))
    assert words.decode(batch.labels_BS[batch.loss_mask_BS == 1].tolist()) == "not in the passages"
    prompts = tmp_path / "own.yaml"
    prompts.write_text("name: own\nversion: 1\nsets: {mine: {kind: short_span, no_answer: 'nobody knows'}}")
    batch = built(plain(path, contexts_in_prompt=0, prompts=prompts), words).source.fetch(np.array([0]))
    assert words.decode(batch.labels_BS[batch.loss_mask_BS == 1].tolist()) == "nobody knows"


def test_a_set_can_name_the_fields_it_is_read_from(tmp_path: Path) -> None:
    words = WordTokenizer()
    item = items(1)[0] | {"sub-paragraphs": "given", "longform_answer": "at length"}
    one = SetConfig(
        name="mine",
        path=write(tmp_path / "a.json", [item]),
        contexts_field="sub-paragraphs",
        answers_field="longform_answer",
    )
    config = SftDataConfig(sets=(one,), style="plain", contexts_in_prompt=1)
    batch = built(config, words).source.fetch(np.array([0]))
    assert words.decode(batch.tokens_BS[0].tolist()).strip() == "given\nquestion: q0 q0\nanswer: at length"


def test_a_template_and_a_wrong_one(tmp_path: Path) -> None:
    words = WordTokenizer()
    path = write(tmp_path / "a.json", items(1))
    # `question:`, "Reply to this:" and the question with `answer:` take 8 of the prompt's 12 tokens.
    batch = built(plain(path, template="reply"), words).source.fetch(np.array([0]))
    assert words.decode(batch.tokens_BS[0, :12].tolist()) == "question: T: c0 c0\nReply to this: q0 q0\nanswer:"
    with pytest.raises(ConfigError, match=r"sft.data.template = 'rpely': is not a template; did you mean 'reply'"):
        built(plain(path, template="rpely"), words)


def test_a_set_of_another_size_than_the_published_one_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def tuned_on(count: int) -> None:
        path = write(tmp_path / f"{count}.json", items(count))
        one = SetConfig(name="dolly", path=path, published=PublishedSet(samples=20, epochs=2.0))
        built(SftDataConfig(sets=(one,), style="plain"), WordTokenizer())

    tuned_on(10)
    assert "published" not in caplog.text
    tuned_on(13)
    assert "13.json has 13 questions; the published one had between 9 and 11" in caplog.text


def test_a_file_of_which_nothing_fits_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", items(2, words=40))
    with pytest.raises(DataError, match=r"none of its 2 questions fits 16 tokens .*question_too_long"):
        built(plain(path, skip_unusable=True), WordTokenizer())


def test_passages_can_come_from_a_retriever(tmp_path: Path) -> None:
    def retrieve(texts: list[str]) -> list[list[PassageLike]]:
        return [[Context("", f"found {text}")] for text in texts]

    words = WordTokenizer()
    config = plain(write(tmp_path / "a.json", items(1)), passages_from="retriever")
    batch = built(config, words, retrieve=retrieve).source.fetch(np.array([0]))
    assert batch.neighbors_BLKR is not None
    assert words.decode(batch.neighbors_BLKR[0, 1, 0].tolist()) == "found q0 q0"


def test_with_the_encoder_off_passages_stand_only_in_the_prompt(tmp_path: Path) -> None:
    words = WordTokenizer()
    prepared = built(plain(write(tmp_path / "a.json", items(1)), encoder=False), words)
    batch = prepared.source.fetch(np.array([0]))
    assert batch.neighbors_BLKR is None
    assert words.decode(batch.tokens_BS[0].tolist()).startswith("T: c0")


def test_with_nothing_to_read_passages_no_search_is_made(tmp_path: Path) -> None:
    config = plain(write(tmp_path / "a.json", items(1)), encoder=False, contexts_in_prompt=0, passages_from="retriever")
    assert built(config, WordTokenizer()).reports[0].without_passages == 1


def test_named_sets_are_blended_and_the_mixture_is_told(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name / f"{name}_QA_train.json", items(4))
    write(tmp_path / "two" / "two_QA_dev.json", items(2))
    sets = (SetConfig(name="one", weight=3.0), SetConfig(name="two", weight=1.0))
    config = SftDataConfig(sets=sets, data=tmp_path, style="plain")
    report = built(config, WordTokenizer()).report(1000)
    assert report["blend"] == "one-two"
    # A prompt of 5 tokens and its passage of 7, and an answer of 1 with its end token.
    assert report["mixture"]["one"] == {
        "wanted": 0.75,
        "achieved": 0.75,
        "samples": 750,
        "epochs": 187.5,
        "tokens": 750 * 14,
        "answer_tokens": 750 * 2,
    }
    dev = prepare(config, "dev", WordTokenizer(), SHAPE)
    assert dev is not None
    assert [one.name for one in dev.reports] == ["two"]


def test_a_set_may_come_in_several_files(tmp_path: Path) -> None:
    for number in (2, 1):
        write(tmp_path / "one" / f"one_QA_train_{number}.json", items(number))
    config = SftDataConfig(sets=(SetConfig(name="one"),), data=tmp_path, style="plain")
    report = built(config, WordTokenizer()).reports[0]
    assert (report.questions, report.file) == (3, "one")
    write(tmp_path / "one" / "one_QA_train_2.json", [*items(1), items(1, words=40)[0]])
    with pytest.raises(DataError, match=r"/one: one_QA_train_2.json, item 1: its prompt takes 43 tokens"):
        built(config, WordTokenizer())
    # The one file of the usual name is the set, whatever is beside it.
    write(tmp_path / "one" / "one_QA_train.json", items(4))
    assert built(config, WordTokenizer()).reports[0].questions == 4


def test_no_validation_file_anywhere_is_no_validation(tmp_path: Path) -> None:
    assert prepare(plain(write(tmp_path / "a.json", items(1))), "dev", WordTokenizer(), SHAPE) is None


def test_the_corpus_own_questions_are_the_default(tmp_path: Path) -> None:
    write(tmp_path / "qa" / "train.json", items(2))
    write(tmp_path / "qa" / "valid.json", items(1))
    config = SftDataConfig(style="plain")
    assert built(config, WordTokenizer(), corpus_dir=tmp_path).reports[0].questions == 2
    dev = prepare(config, "dev", WordTokenizer(), SHAPE, corpus_dir=tmp_path)
    assert dev is not None
    assert dev.reports[0].file == "valid.json"
    with pytest.raises(ConfigError, match="from_corpus = True: needs a run directory"):
        built(config, WordTokenizer())


def test_a_missing_path_is_answered_with_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "train.json", items(1))
    with pytest.raises(DataError, match=r"trian.json: no such question file. Did you mean 'train.json'"):
        built(plain(tmp_path / "trian.json"), WordTokenizer())


def test_an_unknown_set_and_a_missing_data_folder_are_named(tmp_path: Path) -> None:
    (tmp_path / "dolly").mkdir()
    config = SftDataConfig(sets=(SetConfig(name="doly"),), data=tmp_path)
    for part in ("train", "dev"):
        with pytest.raises(DataError, match="Did you mean 'dolly'"):
            prepare(config, part, WordTokenizer(), SHAPE)
    with pytest.raises(ConfigError, match=r"data = '': needs the folder that holds doly"):
        built(SftDataConfig(sets=(SetConfig(name="doly"),)), WordTokenizer())


def test_an_encoder_with_nothing_to_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = [{"question": "q", "answer": "a"}]
    assert built(plain(write(tmp_path / "a.json", bare)), WordTokenizer()).reports[0].without_passages == 1
    assert "no question has a passage" in caplog.text


def test_a_whole_sample_has_neither_a_prompt_around_it_nor_an_end_token(tmp_path: Path) -> None:
    segments = [{"text": "ask this", "learn": False}, {"text": "one two"}, {"text": "read", "learn": False}]
    item = {"question": "this", "segments": [*segments, {"text": "three"}], "segments_only": True}
    words = WordTokenizer()
    config = plain(write(tmp_path / "a.json", [item]), contexts_in_prompt=0, encoder=False)
    batch = built(config, words).source.fetch(np.array([0]))
    assert batch.token_mask_BS is not None
    assert words.decode(batch.tokens_BS[batch.token_mask_BS].tolist()) == "ask this one two read three"
    assert words.decode(batch.labels_BS[batch.loss_mask_BS == 1].tolist()) == "one two three"


def test_a_whole_sample_without_a_learned_token_is_refused(tmp_path: Path) -> None:
    item = {"question": "q", "segments": [{"text": "ask", "learn": False}, {"text": " "}], "segments_only": True}
    path = write(tmp_path / "a.json", [item])
    with pytest.raises(DataError, match=r"item 0 has segments that are learned, and they have no token with this"):
        built(plain(path), WordTokenizer())
