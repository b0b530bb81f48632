"""Training data of the generator: its seven steps with a critic that goes by rules, stops anywhere and bad input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ArtifactError, DataError
from retro.qa.question import Context
from retro.recipes.self_rag.config import DataConfig
from retro.recipes.self_rag.critic import Ask, Critic, Verdict
from retro.recipes.self_rag.generator_data import make, samples_of_published
from retro.recipes.self_rag.tokens import CONTINUE, FULLY, IRRELEVANT, NO_RETRIEVAL, RELEVANT, RETRIEVAL, UNSUPPORTED

IDENTITY: dict[str, Any] = {"critic": "rules"}


class Rules(Critic):
    """Relevant is what shares a word with the instruction, supported what shares one with the sentence."""

    def __init__(self) -> None:
        self.asked: list[Ask] = []
        self.stop_after = -1

    def judge(self, asked: Sequence[Ask], what: str) -> list[Verdict]:
        if self.stop_after == 0:
            raise KeyboardInterrupt
        self.stop_after -= 1
        self.asked += asked
        return [Verdict(token=self._token(one), probability=1.0) for one in asked]

    @staticmethod
    def _token(one: Ask) -> str:
        if one.family == "retrieval":
            return RETRIEVAL if "?" in one.instruction else NO_RETRIEVAL
        if one.family == "multi_retrieval":
            return NO_RETRIEVAL if "feel" in one.output else CONTINUE if _share(one.output, one.evidence) else RETRIEVAL
        if one.family == "relevance":
            return RELEVANT if _share(one.instruction, one.evidence) else IRRELEVANT
        if one.family == "groundness":
            return FULLY if _share(one.output, one.evidence) else UNSUPPORTED
        return "[Utility:5]"


def _share(one: str, other: str) -> bool:
    return bool(
        {word.lower().strip(".?") for word in one.split()} & {word.lower().strip(".?") for word in other.split()}
    )


PASSAGES = [
    Context("Rome", "built early"), Context("Rome", "seven hills"), Context("Oslo", "fjord"), Context("", "untitled"),
]  # fmt: skip


def find(texts: list[str]) -> list[list[Context]]:
    """Passages by shared words, the others behind them."""
    return [sorted(PASSAGES, key=lambda one: -_share(text, f"{one.title} {one.text}")) for text in texts]


ITEMS = [
    {"instruction": "Where is Rome?", "output": "On seven hills it is. I feel so.", "id": "a", "dataset_name": "wow"},
    {"instruction": "Say hello", "output": "Hello.", "id": "b"},
    {"instruction": "Is it so?", "input": "Oslo has a fjord", "output": "SUPPORTS", "id": "c", "dataset_name": "fever"},
    *({"instruction": f"Say {place}", "output": f"{place}.", "id": f"d{place}"} for place in range(60)),
]


def written(folder: Path, items: list[dict[str, Any]]) -> Path:
    path = folder / "items.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in items))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_items_become_samples_in_both_forms(tmp_path: Path) -> None:
    critic = Rules()
    config = DataConfig(shortest=0, keep_no_retrieval=1.0, force_irrelevant=())
    made = make(written(tmp_path, ITEMS), config, critic, find, IDENTITY, tmp_path)
    train = {one["id"]: one for one in lines(tmp_path / "train.jsonl")}
    assert train["a"]["output"] == (
        "[Retrieval]<paragraph>Rome\nseven hills</paragraph>[Relevant]On seven hills it is.[Fully supported]"
        "[No Retrieval]I feel so.[Utility:5]"
    )
    assert set(train["a"]) == {"instruction", "output", "input", "id", "dataset_name"}
    assert train["b"]["output"] == "[No Retrieval]Hello.[Utility:5]"
    # FEVER's verdict is learned as true, found in the input.
    assert "true" in train["c"]["output"]
    assert made.samples == len(ITEMS)
    assert made.branches["no_retrieval"] == 61
    samples = {one["id"]: one for one in lines(tmp_path / "samples.jsonl")}
    assert samples["2"]["question"] == "Is it so?\n\n### Input:\nOslo has a fjord"
    shown = lines(tmp_path / "examples.jsonl")
    assert {one["branch"] for one in shown} == set(made.branches)
    assert max(sum(one["branch"] == branch for one in shown) for branch in made.branches) <= 3


def test_what_the_critic_is_asked(tmp_path: Path) -> None:
    critic = Rules()
    make(written(tmp_path, ITEMS[:1]), DataConfig(shortest=0, top_n=2), critic, find, IDENTITY, tmp_path)
    asked = [(one.family, one.output, one.preceding, one.evidence) for one in critic.asked]
    first, second = "On seven hills it is.", "I feel so."
    assert asked == [
        ("retrieval", "", "", ""),
        ("utility", f"{first} {second}", "", ""),
        # Before the first sentence nothing was read.
        ("multi_retrieval", first, "", ""),
        ("multi_retrieval", second, first, "Rome\nbuilt early"),
        ("relevance", "", "", "Rome\nbuilt early"),
        ("relevance", "", "", "Rome\nseven hills"),
        ("groundness", first, "", "Rome\nbuilt early"),
        ("groundness", first, "", "Rome\nseven hills"),
    ]


def test_some_sets_are_judged_with_their_outputs(tmp_path: Path) -> None:
    critic = Rules()
    make(written(tmp_path, ITEMS[:1]), DataConfig(judge_with_output=("wow",)), critic, find, IDENTITY, tmp_path)
    assert critic.asked[0].output == "On seven hills it is. I feel so."


def test_short_sentences_of_longer_outputs_are_not_searched_for(tmp_path: Path) -> None:
    item = {"instruction": "Where is Rome?", "output": "It is. On the seven hills of the old country. Yes."}
    make(written(tmp_path, [item]), DataConfig(), Rules(), find, IDENTITY, tmp_path)
    [sample] = lines(tmp_path / "train.jsonl")
    assert sample["output"].startswith("[No Retrieval]It is.[Retrieval]<paragraph>Rome\n")


def test_a_stop_anywhere_changes_no_byte(tmp_path: Path) -> None:
    names = ("train.jsonl", "samples.jsonl", "examples.jsonl")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    path, config = written(tmp_path, ITEMS), DataConfig(shortest=0)
    make(path, config, Rules(), find, IDENTITY, whole)
    for stop in range(3, 30):
        critic = Rules()
        critic.stop_after = stop
        try:
            make(path, config, critic, find, IDENTITY, broken)
            break
        except KeyboardInterrupt:
            assert not (broken / "train.jsonl").exists()
    else:
        pytest.fail("it never ended")
    assert stop > 3
    assert [(whole / name).read_bytes() for name in names] == [(broken / name).read_bytes() for name in names]


def test_samples_of_other_settings_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, ITEMS)
    make(path, DataConfig(), Rules(), find, IDENTITY, tmp_path)
    with pytest.raises(ArtifactError, match=r"made\.jsonl: begins with"):
        make(path, DataConfig(seed=2), Rules(), find, IDENTITY, tmp_path)


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([{"instruction": "a"}], "line 1 (item 0) has no 'output'"),
        ([{"instruction": " ", "output": "b"}], "line 1 (item 0) has ' ' in 'instruction'"),
        ([{"instruction": "a", "output": "b", "input": 3}], "line 1 (item 0) has '3' in 'input'"),
        ([], "has no items"),
    ],
)
def test_items_that_cannot_be_used_are_named(tmp_path: Path, items: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(DataError) as caught:
        make(written(tmp_path, items), DataConfig(), Rules(), find, IDENTITY, tmp_path)
    assert words in str(caught.value)


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gives no sample, of 1 items \(\{'no_retrieval_thinned': 1\}\)"):
        make(written(tmp_path, ITEMS[1:2]), DataConfig(keep_no_retrieval=0), Rules(), find, IDENTITY, tmp_path)


def test_a_passage_is_found_for_nothing(tmp_path: Path) -> None:
    made = make(
        written(tmp_path, ITEMS[:1]), DataConfig(), Rules(), lambda texts: [[] for _ in texts], IDENTITY, tmp_path
    )
    assert made.branches == {"none": 1, "not_found": 1}


def test_published_training_data_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    item = {
        "instruction": "Do.",
        "input": "this",
        "output": "[Retrieval]<paragraph>p</paragraph>[Relevant]x[Utility:5]",
    }
    path.write_text(json.dumps(item) + "\n")
    [sample] = samples_of_published(path)
    assert sample["question"] == "Do.\n\n### Input:\nthis"
    assert sample["segments"][2] == {"text": "p", "learn": False}
    path.write_text(json.dumps(item | {"output": "[No Retrieval][Utility:5]"}) + "\n")
    with pytest.raises(DataError, match="an output of tokens alone"):
        samples_of_published(path)
