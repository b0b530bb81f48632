"""Hard negatives: which passages are, worked by hand; and the step, its searches and its refresh."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ConfigError
from retro.qa.question import Context
from retro.recipes.dense_retriever.data.pair_split import Split
from retro.recipes.dense_retriever.pairs import Pair, PairPassage, read_pairs, write_pairs
from retro.recipes.dense_retriever.same_question import HeldOut, positives_of
from retro.recipes.dense_retriever.training.config import TrainConfig
from retro.recipes.dense_retriever.training.mine import hard_negatives
from retro.recipes.dense_retriever.training.mine_config import MineConfig
from retro.recipes.dense_retriever.trigrams import shared_part, trigrams
from retro.recipes.item_files import write_items
from tests.recipes.dense_retriever.fact_world import World, make_world
from tests.recipes.dense_retriever.runs import do
from tests.recipes.dense_retriever.test_train import SMALL, killed, outcome

PAIR = Pair(
    id="q", question="Who laid out the garden?", document="d1", answers=("Le Nôtre",),
    positive=PairPassage(id="d1#0", text="The garden was laid out by the king's gardener in 1661"),
)  # fmt: skip


def found(*passages: tuple[str, str], first: float = 10.0) -> list[Context]:
    """Ranked passages, each with a score of one less than the one before."""
    return [
        Context(title="", text=text, document_id=identifier, score=first - rank)
        for rank, (identifier, text) in enumerate(passages)
    ]


def ids(lists: Sequence[list[Context]], pair: Pair = PAIR, **settings: Any) -> tuple[list[str], dict[str, int]]:
    negatives, counts = hard_negatives(pair, lists, MineConfig(**settings))
    return [one.id for one in negatives], dict(counts)


def test_what_may_answer_the_question_is_no_negative_and_is_counted_by_its_reason() -> None:
    ranked = found(
        ("d1#3", "Another part of the same document"),
        ("d2#0", "Gardens were designed by LE NÔTRE."),
        ("d3#0", "the garden, was laid out by the king's gardener in 1661!"),
        ("d4#0", "A garden of roses in Kent"),
        ("d5#0", "A lake"),
    )
    assert ids([ranked]) == (["d4#0", "d5#0"], {"own_document": 1, "has_answer": 1, "near_duplicate": 1})
    assert ids([ranked], without_answer=False)[0] == ["d2#0", "d4#0", "d5#0"]


def test_no_positive_of_the_question_is_a_negative_of_another_of_its_pairs() -> None:
    second = Pair(
        id="q-2", question="who laid out the garden", document="Versailles",
        positive=PairPassage(id="77", title="Versailles", text="The fountains were built by two brothers of Florence"),
    )  # fmt: skip
    ranked = found(
        ("Versailles#1", "Its halls"), ("x#0", second.positive.text + "."), ("77", "Its roofs"), ("d4#0", "A lake")
    )
    titled = Context(title="Versailles", text="Its stables", document_id="wiki-9#0", score=3.0)
    negatives, counts = hard_negatives(PAIR, [[*ranked, titled]], MineConfig(), positives_of([PAIR, second])[0])
    assert [one.id for one in negatives] == ["d4#0"]
    assert counts == {"own_document": 3, "near_duplicate": 1}


def test_a_document_named_by_its_title_is_the_pairs_own() -> None:
    named = Pair(**{**vars(PAIR), "document": "Versailles", "positive": PairPassage(id="q-0", text="Laid out by him")})
    titled = Context(title="Versailles", text="Its stables", document_id="wiki-9#0", score=3.0)
    assert ids([[titled]], named) == ([], {"own_document": 1})


def test_what_is_held_out_is_no_negative() -> None:
    valid = Pair(id="v", question="v?", document="Kent", positive=PairPassage(id="v-0", text="A garden of roses"))
    held_out = HeldOut.of([valid], Split(708, 0.05))
    side = next(f"d{number}" for number in range(200) if held_out.split.part(f"d{number}") == "valid")
    ranked = found(("x#0", "a  Garden of Roses"), (f"{side}#1", "A park"), ("d4#0", "A lake"))
    titled = [Context(title=name, text=f"In {name}", document_id=f"w{name}#0", score=1.0) for name in ("Kent", side)]
    assert held_out.split.part("d4") == "train"
    negatives, counts = hard_negatives(PAIR, [[*ranked, *titled]], MineConfig(), held_out=held_out)
    assert ([one.id for one in negatives], counts["held_out_document"]) == (["d4#0"], 4)


def test_trigrams_of_the_shorter_text_decide_what_is_a_near_duplicate() -> None:
    # a b c, b c d of four words; of five words with one exchanged at the end: two of its three.
    assert shared_part(trigrams("a b c d"), trigrams("a b c d e")) == 1
    assert shared_part(trigrams("a b c d x"), trigrams("a b c d e")) == pytest.approx(2 / 3)
    assert shared_part(trigrams("A, b."), trigrams("a b")) == 1
    assert shared_part(trigrams("a b"), trigrams("a b c")) == 0
    near = found(("x#0", "The garden was laid out by the king's gardener in 1670"))
    # 11 words and a possessive, 1661 exchanged: all but one of the trigrams.
    assert ids([near]) == ([], {"near_duplicate": 1})
    assert ids([near], near_duplicate=0.95)[0] == ["x#0"]


def test_negatives_are_taken_from_the_sources_in_turn_and_none_twice() -> None:
    first, second = found(("a#0", "a"), ("b#0", "b"), ("c#0", "c")), found(("b#0", "b"), ("e#0", "e"), ("a#1", "a"))
    assert ids([first, second], count=4)[0] == ["a#0", "b#0", "e#0", "c#0"]
    assert ids([first, second], count=2)[0] == ["a#0", "b#0"]


def test_positives_that_have_no_pair_and_those_of_other_items_are_no_negatives() -> None:
    lake = PairPassage(id="9", title="Lake", text="A lake in Kent, seen from the garden")
    first = replace(PAIR, other_positives=(lake,), negatives=(lake, PairPassage(id="8", text="An orchard")))
    ranked = found(("d7#0", "a lake in kent seen from the garden"), ("d4#0", "A garden of roses in Kent"))
    assert ids([ranked], first) == (["8", "d4#0"], {"own_document": 1, "near_duplicate": 1})
    # The same question in another file: its positive and its answers are this one's too.
    second = replace(PAIR, id="p", question="who laid out the GARDEN", document="d9", positive=lake, answers=("Brown",))
    positives = positives_of([replace(first, other_positives=()), second])
    ranked = found(("d5#0", "Brown, who laid out many"), ("d4#0", "A garden of roses in Kent"))
    negatives, counts = hard_negatives(first, [ranked], MineConfig(), positives[0])
    assert [one.id for one in negatives] == ["8", "d4#0"]
    assert counts == {"own_document": 1, "has_answer": 1}


def test_ranks_before_the_first_and_behind_the_last_are_left_alone() -> None:
    ranked = found(("a#0", "a"), ("b#0", "b"), ("c#0", "c"), ("e#0", "e"))
    assert ids([ranked], first_rank=2, depth=3) == (["b#0", "c#0"], {"before_first_rank": 1})


def test_what_scores_too_near_to_the_positive_is_left_out() -> None:
    ranked = found(("a#0", "a"), ("d1#0", PAIR.positive.text), ("b#0", "b"), ("c#0", "c"))
    # The positive scores 9: at a margin of .8 negatives are those up to 7.2.
    assert ids([ranked], margin=0.8) == (["c#0"], {"too_near_in_score": 2, "own_document": 1})
    # One that was not found scores at most as the last, 8 here.
    assert ids([found(("a#0", "a"), ("b#0", "b"), ("c#0", "c"))], margin=1.0)[0] == ["c#0"]


def test_the_pairs_own_negatives_come_first() -> None:
    given = Pair(**{**vars(PAIR), "negatives": (PairPassage(id="own", text="own"),)})
    ranked = [found(("own", "own"), ("a#0", "a"))]
    assert ids(ranked, given)[0] == ["own", "a#0"]
    assert ids(ranked, given, keep_given=False)[0] == ["own", "a#0"]
    assert ids(ranked, given, count=1)[0] == ["own"]


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"first_rank": 5, "depth": 4}, "depth = 4: needs at least first_rank = 5"), ({"sources": ()}, "sources"),
     ({"sources": ("bm25", "bm25")}, "needs each source once")],
)  # fmt: skip
def test_bad_settings_are_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        MineConfig(**settings)


def test_the_step_finds_by_words_and_leaves_pairs_with_negatives(tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    world = make_world(entities=4, relations=3, held_out=2, fillers=4)
    world.write(tmp_path / "recipe_toy")
    # Questions in the words of passages, so that words find something.
    pairs = [Pair(**{**vars(one), "question": one.positive.text.rpartition(" ")[0]}) for one in world.train]
    type(world)(train=pairs, valid=world.valid).write(tmp_path / "recipe_toy")
    sections = {"mine": {"sources": ["bm25"], "count": 2, "near_duplicate": 1.0}, "train": SMALL}
    made = do(tmp_path, "mine", **sections)
    mined = read_pairs(tmp_path / "recipe_toy/mine/train.jsonl")
    assert [one.id for one in mined] == [one.id for one in pairs]
    assert made.counts["pairs"] == 10 and made.counts["negatives"] == sum(len(one.negatives) for one in mined) > 0
    for one in mined:
        assert one.positive.id not in {negative.id for negative in one.negatives}
        assert not any(one.answers[0] in negative.text for negative in one.negatives)
    text = (tmp_path / "recipe_toy/mine/train.jsonl").read_bytes()
    do(tmp_path, "mine", **sections)
    assert (tmp_path / "recipe_toy/mine/train.jsonl").read_bytes() == text
    # And training takes them.
    made = do(tmp_path, "train", **(sections | {"train": SMALL | {"negatives": 1}}))
    assert made.report["hard"] > 0


def test_vectors_of_a_model_from_scratch_are_not_searched_by(tmp_path: Path) -> None:
    make_world(entities=4, relations=3, held_out=2, fillers=4).write(tmp_path / "recipe_toy")
    with pytest.raises(ConfigError, match=r"mine.sources = \('dense',\): needs bm25 alone"):
        do(tmp_path, "mine", mine={"sources": ["dense"]}, train=SMALL)


@pytest.fixture
def refreshed(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What each refresh mined, by the name of its file."""
    from retro.recipes.dense_retriever.training import refresh

    found: dict[str, list[Any]] = {}

    def recorded(path: Path, items: Any) -> None:
        found[path.name] = list(items)
        write_items(path, found[path.name])

    monkeypatch.setattr(refresh, "write_items", recorded)
    return found


def write_mined(world: World, home: Path) -> Path:
    """As the step `mine` leaves it: each pair with a negative, the passage of the pair before it."""
    world.write(home / "recipe_toy")
    (home / "recipe_toy/mine").mkdir()
    pairs = [replace(one, negatives=(world.train[number - 1].positive,)) for number, one in enumerate(world.train)]
    write_pairs(home / "recipe_toy/mine/train.jsonl", pairs)
    return home


def test_a_refresh_mines_by_the_weights_of_its_step_and_survives_a_kill(
    tmp_path: Path, refreshed: dict[str, list[Any]]
) -> None:
    world = make_world(entities=4, relations=4, held_out=2, fillers=4)
    sections = {
        "mine": {"sources": ["dense"], "count": 2},
        "train": SMALL | {"negatives": 1, "refresh_every": 4, "checkpoint_every": 3, "steps": 10},
    }
    do(write_mined(world, tmp_path / "whole"), "train", **sections)
    whole = dict(refreshed)
    assert sorted(whole) == ["negatives-4.jsonl", "negatives-8.jsonl"]
    home = write_mined(world, tmp_path / "killed")
    assert killed(home, "train", sections, 5) == -signal.SIGKILL
    refreshed.clear()
    do(home, "train", **sections)
    assert outcome(home) == outcome(tmp_path / "whole")
    assert refreshed == {"negatives-8.jsonl": whole["negatives-8.jsonl"]}
    assert not (home / "recipe_toy/train/refresh").exists()


def test_nothing_is_mined_after_the_last_step_of_the_epochs(tmp_path: Path, refreshed: dict[str, list[Any]]) -> None:
    # 14 pairs in batches of 4: two epochs are 6 steps.
    home = write_mined(make_world(entities=4, relations=4, held_out=2, fillers=4), tmp_path)
    train = SMALL | {"negatives": 1, "refresh_every": 3, "steps": None, "epochs": 2}
    made = do(home, "train", mine={"sources": ["dense"], "count": 2}, train=train)
    assert made.counts["steps"] == 6
    assert list(refreshed) == ["negatives-3.jsonl"]


@pytest.mark.parametrize("keep_given", [True, False])
def test_a_refresh_keeps_the_negatives_of_the_files_before_mined_ones(
    keep_given: bool, tmp_path: Path, refreshed: dict[str, list[Any]]
) -> None:
    world = make_world(entities=4, relations=4, held_out=2, fillers=4)
    pairs = [replace(one, negatives=(PairPassage(id=f"own{one.id}", text="of the file"),)) for one in world.train]
    home = write_mined(World(train=pairs, valid=world.valid), tmp_path)
    mine = {"sources": ["dense"], "count": 2, "keep_given": keep_given}
    do(home, "train", mine=mine, train=SMALL | {"negatives": 1, "refresh_every": 4})
    found = refreshed["negatives-4.jsonl"]
    assert [one["id"] for one in found] == [one.id for one in pairs]
    assert all((one["negatives"][0]["id"] == f"own{one['id']}") == keep_given for one in found)
    assert all(len(one["negatives"]) == 2 for one in found)


def test_processes_wait_for_a_refresh_longer_than_torch_would() -> None:
    arguments = pytest.importorskip("retro.recipes.dense_retriever.training.trainer").arguments
    made = arguments(TrainConfig(), 8, Path("checkpoints"), bfloat16=False, world=1, logged=1)
    assert made.ddp_timeout_delta.days == 7


def test_a_refresh_without_settings_of_mining_is_refused(tmp_path: Path) -> None:
    make_world(entities=4, relations=3, held_out=2, fillers=4).write(tmp_path / "recipe_toy")
    with pytest.raises(ConfigError, match=r"train.refresh_every = 4: needs settings of `mine`, with the source dense"):
        do(tmp_path, "train", train=SMALL | {"negatives": 1, "hard_share": 0.0, "refresh_every": 4})
