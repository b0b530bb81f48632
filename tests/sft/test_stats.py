from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from retro.analysis.inspect.tuning import shape_of
from retro.cli.sft_stats import aligned, fit_table, length_table, notes, show_stats
from retro.common.errors import ArtifactError
from retro.qa.prompt_texts import load_prompts
from retro.run.config import load_run_config
from retro.sft.config import SetConfig, SftDataConfig
from retro.sft.prepare import Shape
from retro.sft.sets import read_sets
from retro.sft.stats import Lengths, SetStats, lengths, measure_set
from tests.sft.words import WordTokenizer
from tests.tiny_road import run_stages, small_config

ROOT = Path(__file__).parents[2]
SHAPE = Shape(sequence_length=16, chunk_length=4, passages=2, retrieved_length=6)


def question(words: int, answer: int, passage: int = 0) -> dict[str, Any]:
    """A question of so many words: its prompt has three tokens more."""
    asked = {"question": "q " * words, "answers": ["a " * answer]}
    return asked | ({"ctxs": ["c " * passage]} if passage else {})


def measured(tmp_path: Path, items: list[dict[str, Any]], **settings: Any) -> SetStats:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(items))
    config = SftDataConfig(sets=(SetConfig(name="mine", path=path),), style="plain", **settings)
    texts = load_prompts(None)
    [one] = read_sets(config, texts, "train", None, skip=True)
    return measure_set(config, texts, one, "train", WordTokenizer(), SHAPE)


def test_percentiles_are_counts_that_occur() -> None:
    assert lengths(list(range(1, 101))) == Lengths(p50=50, p90=90, p99=99, max=100)
    assert lengths([7]) == Lengths(p50=7, p90=7, p99=7, max=7)


def test_lengths_are_of_the_prompt_its_passages_and_the_answer_with_its_end(tmp_path: Path) -> None:
    found = measured(tmp_path, [question(2, 1, passage=3), question(4, 2)])
    # A passage is followed by a line break.
    assert found.prompt == Lengths(p50=5, p90=7, p99=7, max=7)
    assert found.contexts == Lengths(p50=0, p90=4, p99=4, max=4)
    assert found.answer == Lengths(p50=2, p90=3, p99=3, max=3)
    assert (found.questions, found.with_passages, found.kind) == (2, 1, "short_span")


def test_what_fits_what_is_cut_and_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    items = [
        question(2, 1),
        question(2, 1, passage=6),  # 5 + 7 = 12 of 12
        question(2, 1, passage=7),
        question(10, 1),
        question(2, 14),
        question(2, 0),
    ]
    found = measured(tmp_path, items)
    assert (found.questions, found.no_answer) == (6, 1)
    assert (found.fit, found.cut, found.question_too_long, found.answer_too_long) == (2, 1, 1, 1)


def test_packing_is_estimated_as_it_will_be_done(tmp_path: Path) -> None:
    # A prompt of 4 and an answer of 1 with its end take 5; the next prompt ends at 12, the one after at 20: two in 16.
    found = measured(tmp_path, [question(1, 1)] * 5)
    assert (found.chunks, found.packed_sequences) == (10, 3)
    assert found.fill == pytest.approx(5 / 16)
    assert found.packed_fill == pytest.approx(25 / 48)
    # Without the encoder nothing lines up with chunks: three in 16.
    assert measured(tmp_path, [question(1, 1)] * 5, encoder=False).packed_sequences == 2


def test_passages_that_will_be_searched_are_not_measured(tmp_path: Path) -> None:
    found = measured(tmp_path, [question(2, 1, passage=3)], passages_from="retriever")
    assert (found.contexts.max, found.with_passages) == (0, 0)


def test_a_set_of_which_nothing_fits_is_measured_all_the_same(tmp_path: Path) -> None:
    found = measured(tmp_path, [question(40, 1)])
    assert (found.question_too_long, found.fill, found.packed_sequences, found.packed_fill) == (1, 0.0, 0, 0.0)


def test_tables_have_a_line_for_each_set(tmp_path: Path) -> None:
    found = measured(tmp_path, [question(2, 1, passage=7), question(40, 1)])
    assert length_table([found]) == [
        "tokens: median/90 %/99 %/longest",
        "set   part   asked as    questions      prompt  passages   answer  learned",
        "mine  train  short_span          2  5/43/43/43   0/8/8/8  2/2/2/2  2/2/2/2",
    ]
    title, head, row = fit_table([found], SHAPE)
    assert title == "in sequences of 16 tokens, chunks of 4"
    assert " ".join(head.split()) == "set part fit cut too long no answer passages chunks fill packed fill"
    assert row.split() == ["mine", "train", "0", "1", "1", "0", "1", "4", "81.2%", "1", "81.2%"]


def test_columns_are_aligned() -> None:
    assert aligned([["a", "1"], ["bcd", "1000"]], left=1) == ["a       1", "bcd  1000"]


def test_what_will_stop_the_stage_is_said(tmp_path: Path) -> None:
    found = [measured(tmp_path, [question(40, 1), question(1, 0), question(1, 1)])]
    stops = "2 questions cannot be tuned on and will stop the stage; sft.data.skip_unusable=true"
    assert notes(load_run_config(None, []), found)[-1] == stops
    told = notes(load_run_config(None, ["sft.data.skip_unusable=true", "sft.data.passages_from=retriever"]), found)
    assert told[-1] == "passages_from=retriever: measured without the passages that it will find"


def test_sizes_are_the_model_sections_without_a_checkpoint() -> None:
    config = load_run_config(None, ["model.sequence_length=256", "db.chunk_length=32", "model.retrieval=false"])
    shape, reads = shape_of(config)
    assert (shape.sequence_length, shape.chunk_length, shape.retrieved_length, reads) == (256, 32, 64, False)


def test_statistics_need_the_corpus_and_nothing_after_it(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    with pytest.raises(ArtifactError, match=r"Run `retro corpus` first"):
        show_stats(config, as_json=True)
    run_stages(config, "corpus")
    (tmp_path / "run.json").write_text(config.model_dump_json())
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "retro", "sft", "stats", str(tmp_path / "run.json")]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, env=environment, check=True)
    [one] = [one for one in json.loads(done.stdout)["sets"] if one["part"] == "train"]
    assert (one["name"], one["question_too_long"]) == ("topics", 0)
    assert one["fit"] + one["cut"] == one["questions"] > 0
