"""Questions to requests to answers, around a decoder that goes by a rule: the last letter it was given to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.generate.config import GenerateConfig, SamplingConfig
from retro.generate.engine import BatchEngine
from retro.generate.questions import find_passages, gold_contexts, load_questions, shuffled, slice_bounds
from retro.generate.request import Knowledge
from retro.generate.runner import QuestionRunner, answer_all, question_seed, sampling_of
from retro.qa.answer_files import read_answers, read_question_lines
from retro.qa.passages import Retrieve
from retro.qa.question import Context, PassageLike, Question
from retro.qa.task import Task, load_task
from tests.generate.fake import FakeDecoder, Row
from tests.sft.words import WordTokenizer


class WordDecoder(FakeDecoder):
    """Answers with the first word of the first passage that was read, then drawn words until the limit."""

    vocabulary = 200

    def __init__(self, stop_after: int | None = None, **more: Any) -> None:
        super().__init__(self.word, sequence_length=24, **more)
        self.stop_after = stop_after
        self.batches = 0

    def open(self, adapter: str = "", knowledge: Knowledge | None = None) -> int:
        if not self.rows:
            if self.batches == self.stop_after:
                raise KeyboardInterrupt
            self.batches += 1
        return super().open(adapter, knowledge)

    def word(self, row: Row) -> Tensor:
        logits_V = torch.zeros(self.vocabulary)
        read = [one for one in row.read.values() if one.mask_KR[0, 0]]
        if not read or len(row.ids) > max(row.read) + 1:
            logits_V[1:4] = 30.0
        else:
            logits_V[int(read[-1].tokens_KR[0, 0])] = 30.0
        return logits_V


def questions(count: int = 5) -> list[Question]:
    return [
        Question(id=f"q{n}", question=f"ask{n}", answers=(f"a{n}",), contexts=(Context("", f"p{n} text"),))
        for n in range(count)
    ]


def config(**more: Any) -> GenerateConfig:
    plain: dict[str, Any] = {"style": "plain", "contexts_in_prompt": 0, "max_new_tokens": 3, "batch_size": 2}
    return GenerateConfig(**(plain | more))


def search(texts: list[str]) -> Sequence[Sequence[PassageLike]]:
    """For each text a passage that begins with its first word, and one more."""
    return [
        [Context("", f"found-{text.split()[0]} x", row=7, score=0.5), Context("", "second", row=8)] for text in texts
    ]


def ask(
    out: Path,
    asked: list[Question],
    chosen: GenerateConfig,
    decoder: WordDecoder | None = None,
    task: Task | None = None,
    retrieve: Retrieve | None = search,
) -> dict[str, Any]:
    words = WordTokenizer()
    # Ids go by appearance, and a slice must not change them.
    words.encode_batch([f"question: ask{n} answer: p{n} text" for n in range(9)])
    engine = BatchEngine(decoder or WordDecoder(), words, retrieve, max_running=chosen.batch_size)
    runner = QuestionRunner(
        engine=engine,
        config=chosen,
        task=task or load_task("qa"),
        questions=asked,
        identity={"checkpoint": "x"},
        model="843m 100",
    )
    return answer_all(runner, find_passages(chosen, asked, retrieve), out)


def first_words(out: Path, setting: str) -> list[str]:
    return [one.prediction.split()[0] for one in read_answers(out / f"{setting}.jsonl")]


def test_each_setting_is_given_its_passages(tmp_path: Path) -> None:
    ask(tmp_path, questions(), config())
    assert first_words(tmp_path, "with_passages") == ["p0", "p1", "p2", "p3", "p4"]
    closed = read_answers(tmp_path / "closed_book.jsonl")
    assert [one.passages for one in closed] == [()] * 5
    swapped = first_words(tmp_path, "shuffled_passages")
    assert sorted(swapped) == ["p0", "p1", "p2", "p3", "p4"]
    assert all(word != f"p{n}" for n, word in enumerate(swapped))
    assert [asked.id for asked in read_question_lines(tmp_path / "questions.jsonl")] == ["q0", "q1", "q2", "q3", "q4"]


def test_an_answer_says_why_it_ended(tmp_path: Path) -> None:
    ask(tmp_path, questions(1), config(settings=("with_passages",)))
    (found,) = read_answers(tmp_path / "with_passages.jsonl")
    assert (found.ended, len(found.prediction.split())) == ("length", 3)
    stopping = config(settings=("with_passages",), sampling={"stop": ["text"]})
    words = WordTokenizer()
    assert words.encode("question: ask0 answer: p0 text") == [1, 2, 3, 4, 5]
    ask(tmp_path / "stop", questions(1), stopping, task=load_task("qa").model_copy(update={"stop": (" question:",)}))
    (stopped,) = read_answers(tmp_path / "stop/with_passages.jsonl")
    # The second word is the first of the vocabulary: the prompt's.
    assert (stopped.ended, stopped.prediction) == ("stop", "p0")


def test_searched_passages_are_read_whatever_comes_with_the_questions(tmp_path: Path) -> None:
    ask(tmp_path, questions(2), config(settings=("with_passages", "retrieved_passages")))
    assert first_words(tmp_path, "with_passages") == ["p0", "p1"]
    assert first_words(tmp_path, "retrieved_passages") == ["found-ask0", "found-ask1"]
    (found, _) = read_answers(tmp_path / "retrieved_passages.jsonl")
    assert [(one.row, one.score) for one in found.passages] == [(7, 0.5), (8, 0.0)]


def test_live_retrieval_records_what_each_chunk_found(tmp_path: Path) -> None:
    live = config(settings=("live_retrieval",), retrieval_interval=2, max_new_tokens=4, passages=1)
    ask(tmp_path, questions(1), live)
    (found,) = read_answers(tmp_path / "live_retrieval.jsonl")
    # The question searches first; two tokens later the last four do: "ask0 answer: found-ask0 ...".
    assert found.prediction.split()[0] == "found-ask0"
    assert found.passages[0].text == "found-ask0 x"
    assert len(found.passages) == 2
    assert found.passages[1].text.startswith("found-")


def test_gold_passages_are_those_of_the_documents_that_hold_the_answer(tmp_path: Path) -> None:
    contexts = (Context("A", "a1"), Context("B", "b1"), Context("C", "c1", "B"), Context("D", "d1", "other"))
    one = Question(id="0", question="ask", answers=("x",), contexts=contexts, document_ids=("B",))
    assert [context.text for context in gold_contexts(one)] == ["b1", "c1"]
    none = Question(id="1", question="ask", answers=("x",), contexts=contexts)
    ask(tmp_path, [one, none], config(settings=("gold_passages",), neighbor_text="text"))
    found = read_answers(tmp_path / "gold_passages.jsonl")
    assert [[passage.text for passage in answer.passages] for answer in found] == [["b1", "c1"], []]
    with pytest.raises(ConfigError, match=r"settings = 'gold_passages': needs contexts of the documents that hold"):
        ask(tmp_path / "none", [none], config(settings=("gold_passages",)))


def test_only_passages_that_are_read_are_recorded(tmp_path: Path) -> None:
    many = [Context("", f"p{n}") for n in range(9)]
    one = [Question(id="0", question="ask", answers=("x",), contexts=tuple(many))]
    both = config(settings=("with_passages",), passages=2, contexts_in_prompt=3)
    ask(tmp_path, one, both)
    assert [p.text for p in read_answers(tmp_path / "with_passages.jsonl")[0].passages] == ["p0", "p1", "p2"]
    prompt = both.model_copy(update={"encoder": False, "contexts_in_prompt": 1})
    decoder = WordDecoder(reads_neighbors=False)
    ask(tmp_path / "gpt", one, prompt, decoder)
    assert [p.text for p in read_answers(tmp_path / "gpt/with_passages.jsonl")[0].passages] == ["p0"]
    assert decoder.closed[0].read == {}


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    drawn = config(sampling={"temperature": 1.0})
    ask(tmp_path / "whole", questions(), drawn)
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path / "cut", questions(), drawn, WordDecoder(stop_after=4))
    decoder = WordDecoder()
    ask(tmp_path / "cut", questions(), drawn, decoder)
    # Nine batches in all (three for each of three settings); four were done.
    assert decoder.batches == 5
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "cut").iterdir())
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_a_slice_gives_the_answers_of_the_whole(tmp_path: Path) -> None:
    drawn = config(sampling={"temperature": 1.0, "top_k": 8})
    ask(tmp_path / "whole", questions(), drawn)
    report = ask(tmp_path / "part", questions(), drawn.model_copy(update={"start": 3, "count": 9}))
    assert "shuffled_passages_3_2.jsonl" in report["files"]
    for name in drawn.settings:
        whole = read_answers(tmp_path / "whole" / f"{name}.jsonl")
        part = read_answers(tmp_path / "part" / f"{name}_3_2.jsonl")
        assert part == whole[3:]
        assert [one.id for one in part] == ["q3", "q4"]


def test_questions_draw_from_streams_of_their_own(tmp_path: Path) -> None:
    drawn = config(settings=("closed_book",), sampling={"temperature": 1.0}, max_new_tokens=12)
    ask(tmp_path, questions(4), drawn)
    predictions = {one.prediction for one in read_answers(tmp_path / "closed_book.jsonl")}
    assert len(predictions) == 4
    assert len({question_seed(seed, number) for seed in range(3) for number in range(3)}) == 9


def test_a_task_has_its_own_length_and_stop_texts() -> None:
    task = load_task("qa").model_copy(update={"stop": ("\n", "."), "max_new_tokens": 5})
    mine = SamplingConfig(
        temperature=0.5, top_k=3, top_p=0.9, repetition_penalty=1.1, min_new_tokens=2, stop=(".", ";")
    )
    found = sampling_of(mine, task, 5, seed=9)
    assert found.stop == ("\n", ".", ";")
    assert (found.temperature, found.top_k, found.top_p, found.repetition_penalty) == (0.5, 3, 0.9, 1.1)
    assert (found.min_new_tokens, found.max_new_tokens, found.seed) == (2, 5, 9)


def test_without_a_length_the_tasks_counts(tmp_path: Path) -> None:
    short = load_task("qa").model_copy(update={"max_new_tokens": 2})
    ask(tmp_path, questions(1), config(settings=("closed_book",), max_new_tokens=None), task=short)
    (found,) = read_answers(tmp_path / "closed_book.jsonl")
    assert len(found.prediction.split()) == 2


def test_the_original_tools_file_is_written_on_request(tmp_path: Path) -> None:
    asked = [*questions(2), Question(id="long", question="w " * 40, answers=("a",))]
    report = ask(tmp_path, asked, config(plain_output=True, settings=("closed_book", "retrieved_passages")))
    plain = tmp_path / "retro-generate-qa_0_2_843m_test_greedy_0_3_100_retrieved_passages.txt"
    assert plain.name in report["files"]
    lines = plain.read_text().split("\n")
    assert [line.split(" ")[0] for line in lines] == ["found-ask0", "found-ask1", "", ""]
    drawn = config(plain_output=True, settings=("with_passages",), start=1, sampling={"temperature": 1.0, "top_p": 0.9})
    ask(tmp_path, asked[:2], drawn)
    assert (tmp_path / "retro-generate-qa_0_2_843m_test_topp_1_1_100.txt").exists()


def test_a_question_that_does_not_fit_is_answered_with_nothing_and_counted(tmp_path: Path) -> None:
    asked = [*questions(2), Question(id="long", question="w " * 40, answers=("a",))]
    report = ask(tmp_path, asked, config(settings=("with_passages",)))
    assert report["settings"]["with_passages"]["skipped_question_too_long"] == 1
    assert report["settings"]["with_passages"]["tokens_now"] == 6
    last = read_answers(tmp_path / "with_passages.jsonl")[-1]
    assert (last.prediction, last.skipped, last.ended) == ("", "question_too_long", "")


def test_an_answer_length_that_leaves_no_prompt_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_new_tokens = 22: needs to leave a prompt of 4 tokens"):
        ask(tmp_path, questions(), config(max_new_tokens=22))


def test_one_question_alone_has_nobody_to_swap_with() -> None:
    with pytest.raises(ConfigError, match="shuffled_passages': needs at least 2 questions, found 1"):
        shuffled([()], 0)


@pytest.mark.parametrize("total", [2, 3, 10])
def test_shuffling_leaves_nobody_their_own(total: int) -> None:
    own: list[tuple[PassageLike, ...]] = [(Context("", str(n)),) for n in range(total)]
    for seed in range(20):
        swapped = shuffled(own, seed)
        assert all(mine != other for mine, other in zip(own, swapped, strict=True))
        assert sorted(one[0].text for one in swapped) == sorted(str(n) for n in range(total))


def test_closed_book_alone_searches_nothing() -> None:
    chosen = config(settings=("closed_book",), passages_from="retriever")
    assert find_passages(chosen, questions(2), None) == {"closed_book": [(), ()]}


def test_no_more_passages_are_kept_than_are_used() -> None:
    def retrieve(texts: list[str]) -> list[list[PassageLike]]:
        return [[Context("", str(n)) for n in range(9)] for _ in texts]

    chosen = config(passages_from="retriever", passages=2, contexts_in_prompt=3, settings=("with_passages",))
    assert [len(one) for one in find_passages(chosen, questions(2), retrieve)["with_passages"]] == [3, 3]


def test_slices_stop_at_the_last_question() -> None:
    assert slice_bounds(config(start=1), 5) == (1, 4)
    assert slice_bounds(config(start=1, count=2), 5) == (1, 2)
    assert slice_bounds(config(count=20_000), 5) == (0, 5)
    with pytest.raises(ConfigError, match="start = 5: needs less than 5"):
        slice_bounds(config(start=5), 5)


def write(path: Path, items: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{"question": f"{path.stem}{n}", "answer": "x"} for n in range(items)]))
    return path


def test_questions_come_from_files_a_folder_or_the_corpus(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one.json", 1), write(tmp_path / "two.json", 2)
    assert [q.id for q in load_questions(config(questions=(one,)), None)] == ["0"]
    assert [q.id for q in load_questions(config(questions=(one, two)), None)] == ["one/0", "two/0", "two/1"]
    write(tmp_path / "nq" / "nq_QA_test.json", 3)
    assert len(load_questions(config(data=tmp_path, task="nq"), None)) == 3
    write(tmp_path / "qa" / "valid.json", 4)
    assert len(load_questions(config(split="dev"), tmp_path)) == 4


def test_a_limit_asks_the_first_questions_as_if_there_were_no_more(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one.json", 3), write(tmp_path / "two.json", 2)
    limited = config(questions=(one, two), limit=4)
    asked = load_questions(limited, None)
    assert [q.id for q in asked] == ["one/0", "one/1", "one/2", "two/0"]
    assert not limited.is_slice
    assert slice_bounds(limited, len(asked)) == (0, 4)
    assert len(load_questions(config(questions=(one,), limit=9), None)) == 3


def test_questions_from_nowhere_or_twice_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a question file, or a run directory"):
        load_questions(config(), None)
    one, same = write(tmp_path / "one.json", 1), write(tmp_path / "b" / "one.json", 1)
    with pytest.raises(DataError, match="has the name of another question file"):
        load_questions(config(questions=(one, same)), None)


def test_a_setting_stands_once() -> None:
    with pytest.raises(ConfigError, match="needs each setting once"):
        config(settings=("closed_book", "closed_book"))


def test_the_header_names_what_shapes_the_answers(tmp_path: Path) -> None:
    ask(tmp_path, questions(), config())
    header = json.loads((tmp_path / "closed_book.header.json").read_text())
    assert (header["setting"], header["task_version"]) == ("closed_book", load_task("qa").version)
    assert (header["metrics"], header["identity"]) == (["exact_match", "f1", "substring_match"], {"checkpoint": "x"})
    assert header["task_record"]["name"] == "qa"
    with pytest.raises(ArtifactError, match="max_new_tokens was 3, now 5"):
        ask(tmp_path, questions(), config(max_new_tokens=5))


def test_questions_without_any_passage_are_not_asked_with_passages() -> None:
    bare = [Question(id="0", question="ask", answers=("a",))]
    with pytest.raises(
        ConfigError,
        match="settings = 'with_passages': needs passages, and none of 1 questions has one; use passages_from",
    ):
        find_passages(config(), bare, None)
    empty = config(settings=("retrieved_passages",))
    with pytest.raises(ConfigError, match="'retrieved_passages': needs passages, and the database has none for 1"):
        find_passages(empty, bare, lambda texts: [[] for _ in texts])
    with pytest.raises(ConfigError, match="passages_from = 'retriever': needs a database and an index"):
        find_passages(empty, bare, None)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"sampling": {"temperature": -1}}, r"GenerateConfig\.sampling\.temperature = -1: needs "),
        ({"sampling": {"top_k": 5}}, r"GenerateConfig\.sampling\.top_k = 5: needs 0 at temperature 0"),
        ({"sampling": {"top_p": 0.5}}, r"GenerateConfig\.sampling\.top_p = 0.5: needs 1 at temperature 0"),
        ({"sampling": {"temperature": 1, "top_p": 1.1}}, r"GenerateConfig\.sampling\.top_p = 1.1: needs "),
        (
            {"sampling": {"repetition_penalty": 1e-300}},
            r"GenerateConfig\.sampling\.repetition_penalty = 1e-300: needs .* 0\.01",
        ),
        (
            {"sampling": {"repetition_penalty": 101}},
            r"GenerateConfig\.sampling\.repetition_penalty = 101: needs .* 100",
        ),
        ({"sampling": {"min_new_tokens": -1}}, r"GenerateConfig\.sampling\.min_new_tokens = -1: needs "),
        ({"sampling": {"stop": [""]}}, r"GenerateConfig\.sampling\.stop = \(''\,\): needs texts that are not empty"),
        ({"sampling": {"min_new_tokens": 9}}, r"max_new_tokens = 3: needs at least sampling.min_new_tokens = 9"),
        ({"retrieval_interval": 0, "settings": ["live_retrieval"]}, r"retrieval_interval = 0: needs "),
        ({"retrieval_interval": 3}, r"retrieval_interval = 3: needs live_retrieval among generate.settings"),
    ],
)
def test_a_setting_that_cannot_work_is_named(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        config(**settings)


def test_a_retrieval_step_longer_than_a_chunk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"LiveRetrieval\.interval = 5: needs 1 to 4"):
        ask(tmp_path, questions(), config(settings=("live_retrieval",), retrieval_interval=5))


@pytest.mark.parametrize(
    ("sampling", "tag"),
    [
        ({}, "greedy"),
        ({"temperature": 1, "top_k": 4}, "topk"),
        ({"temperature": 1, "top_p": 0.5}, "topp"),
        ({"temperature": 1}, "sampled"),
    ],
)
def test_samplings_have_the_names_of_the_original(sampling: dict[str, Any], tag: str) -> None:
    assert SamplingConfig(**sampling).tag == tag
