from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from retro.common.terminal import Terminal
from retro.report.questions import highlight
from retro.report.run_report import write_report
from retro.report.run_summary import summarize
from retro.report.tables import print_tables
from tests.report.fake_run import write_data_stages, write_fake_run, write_training
from tests.report.page_parser import Page


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("runs") / "quick & dirty"
    write_fake_run(run_dir)
    return run_dir


@pytest.fixture(scope="module")
def page(finished: Path) -> str:
    return (finished / "report.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_loads_nothing(page: str) -> None:
    read = Page(page)
    assert read.open == []
    assert "script" not in read.tags
    assert all(target.startswith("#") or target == "data:," for target in read.loads)
    assert "url(http" not in page
    assert "@import" not in page


def test_text_from_files_is_escaped_everywhere(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &#34;this&#34;" in page
    assert "<h1>quick &amp; dirty</h1>" in page


def test_the_numbers_of_the_files_are_on_the_page(page: str) -> None:
    for text in (
        "191.5",
        "192.8",
        "217.1",
        "+13.4 %",
        "1.70 M",
        "1.31 M",
        "2,867",
        "44,800 tokens/s",
        "retro 9,300 tokens/s",
        "878.9 KiB",
    ):
        assert text in page, text
    lines = re.findall(r'<path d="M[^"]+"[^>]*clip-path[^>]*style="fill: none; stroke: var\(--c\d\)', page)
    assert len(lines) == 2 * 3 + 3 + 2 + 1
    assert "skipped question too long <b>4</b>" in page
    assert "1 min 4 s" in page
    assert "rejects too short <b>41</b>" in page


def test_questions_show_gold_answers_and_passages_with_the_answer_marked(page: str) -> None:
    cards = re.findall(r'<article class="q (\w+)">(.*?)</article>', page, re.DOTALL)
    assert len(cards) == 45
    assert "<b>os.path.join</b><b>join</b>" in cards[0][1]
    assert "<mark>os.path.join</mark>(…)" in cards[0][1]
    shown = {group: sum(group == mine for mine, _ in cards) for group in ("helped", "hurt", "both", "neither")}
    for group, words in (("helped", "right only with passages"), ("neither", "wrong both ways")):
        assert f"{words} · {shown[group]}<" in page


def test_with_passages_stands_first_in_every_table(page: str) -> None:
    answers = page[page.index('id="answers"') :]
    assert answers.index("with passages") < answers.index("closed-book") < answers.index("shuffled passages")


def test_a_run_that_has_only_begun_says_what_is_missing(tmp_path: Path) -> None:
    write_data_stages(tmp_path / "run")
    (tmp_path / "run" / "2_db" / "data.bin").unlink()
    (tmp_path / "run" / "5_pretrain" / "retro").mkdir(parents=True)
    page = write_report(tmp_path / "run", tmp_path / "page.html", questions_shown=5).read_text()
    assert "No perplexity.json" in page
    assert "No training log" in page
    assert "No scores.json" in page
    assert "Missing: not run" in page
    assert "Missing: not finished" in page
    assert re.search(r"Missing: \S+data.bin: is missing", page)
    assert "Stages without a result: db, pretrain, perplexity, sft, generate, evaluate" in page


def test_a_damaged_file_is_named_and_no_answer_is_called_wrong_for_it(tmp_path: Path) -> None:
    write_fake_run(tmp_path)
    for name in ("8_evaluate/questions.jsonl", "5_pretrain/perplexity/perplexity.json"):
        path = tmp_path / name
        path.write_text(path.read_text().replace("3", "4", 1))
    page = write_report(tmp_path, tmp_path / "page.html", questions_shown=5).read_text()
    assert "Files that cannot be used" in page
    assert re.search(r"questions.jsonl: line 1 was changed after it was written", page)
    assert re.search(r"perplexity.json: was changed after it was written", page)
    assert "No perplexity.json that can be used" in page
    assert "No scored answers that can be used" in page
    assert "✗ wrong" not in page
    assert ">217.1<" not in page


def test_answers_that_are_not_all_scored_are_left_out_and_named(tmp_path: Path) -> None:
    write_fake_run(tmp_path)
    path = tmp_path / "8_evaluate/questions.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    run = summarize(tmp_path)
    assert run.answers == {}
    assert f"{tmp_path}/7_generate/closed_book.jsonl: holds 120 answers, 119 of 119 are scored." in run.damaged


def test_an_empty_directory_still_gives_a_page(tmp_path: Path) -> None:
    page = write_report(tmp_path, tmp_path / "report.html", questions_shown=5).read_text()
    assert page.count("Missing: not run") == 9


def test_half_a_line_at_the_end_of_a_log_is_left_out(tmp_path: Path) -> None:
    write_training(tmp_path, steps=24)
    run = summarize(tmp_path)
    assert [curve.name for curve in run.pretraining] == ["gpt", "gpt_equal", "retro"]
    assert [len(curve.train) for curve in run.pretraining] == [24, 24, 24]
    assert [len(curve.valid) for curve in run.tuning] == [12]
    assert run.tuning[0].tokens_per_second == 4100.0


def test_the_tables_are_printed_on_a_terminal(finished: Path, tmp_path: Path) -> None:
    stream = io.StringIO()
    terminal = Terminal(stream, width=160)
    print_tables(finished, terminal)
    text = stream.getvalue()
    for piece in ("GPT of equal parameters", "191.5", "+0.7 %", "with passages", "closed-book", "@2 68.3"):
        assert piece in text, piece
    print_tables(tmp_path, terminal)
    assert "Neither perplexity nor answers" in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "golds", "html_text", "marks"),
    [
        ("Ada & Bob", ["ada"], "<mark>Ada</mark> &amp; Bob", 1),
        ("Adam", ["Ada"], "Adam", 0),
        ("f(x) <b>", ["f(x)"], "<mark>f(x)</mark> &lt;b&gt;", 1),
        ("a<b", ["a<b"], "<mark>a&lt;b</mark>", 1),
        ("os.path os", ["os", "os.path"], "<mark>os.path</mark> <mark>os</mark>", 2),
        ("amp & more", ["amp"], "<mark>amp</mark> &amp; more", 1),
        ("text", ["", " "], "text", 0),
    ],
)
def test_gold_answers_are_marked_as_whole_words(text: str, golds: list[str], html_text: str, marks: int) -> None:
    assert highlight(text, golds) == html_text
    assert highlight(text, golds).count("<mark>") == marks
