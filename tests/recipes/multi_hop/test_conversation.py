"""The function-call conversation: turns, what is learned of them, ids in training and use, calls read back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Made
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from retro.common.errors import DataError
from retro.corpus.train_tokenizer import train_sentencepiece
from retro.qa.question import Segment
from retro.qa.segments import encode_segments, split_at_tokens
from retro.recipes.multi_hop.conversation import (
    END_CALL,
    END_TURN,
    TOKENS,
    Said,
    Turn,
    call_text,
    conversation_segments,
    prompt_segments,
    said_by,
    sample_of,
    turns_of,
)
from retro.recipes.multi_hop.items import MultiHopItem, SubQuestion
from retro.sft.config import SetConfig, SftDataConfig
from retro.sft.prepare import Prepared, Shape, prepare
from retro.tokenizers.added_tokens import add_tokens, token_id
from retro.tokenizers.tokenizer import save_tokenizer
from tests.tokenizers.test_tokenizer import TEXT

SINGLE = MultiHopItem(
    question="When was the bridge built?",
    multihop=False,
    sub_questions=(SubQuestion(question="the bridge?", paragraph="It was\nbuilt in 1873.", long_answer="x"),),
    final_answer="In 1873.",
)
SEVERAL = MultiHopItem(
    question="Which is older, the bridge or the tower?",
    multihop=True,
    sub_questions=(
        SubQuestion(
            question="How old is the bridge?", paragraph="From 1873.", long_answer="It is from 1873.\nAnswer:1873"
        ),
        SubQuestion(
            question="How old is the tower?", paragraph="From 1902.", long_answer="It is from 1902.\nAnswer:1902"
        ),
    ),
    final_answer="Summary:1873 is before 1902.\nAnswer:the bridge",
)


@pytest.fixture(scope="module", params=["bytes", "sentencepiece"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer with the three tokens, of either kind."""
    out = tmp_path_factory.mktemp("tokenizer")
    if request.param == "sentencepiece":
        (out / "tokenizer.model").write_bytes(train_sentencepiece(TEXT, 400))
        save_tokenizer(out / "tokenizer.model", "sentencepiece", out)
    else:
        made = Made(BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        made.train_from_iterator([TEXT], BpeTrainer(vocab_size=500, special_tokens=["</s>"], initial_alphabet=alphabet))
        made.save(str(out / "tokenizer.json"))
        save_tokenizer(out / "tokenizer.json", "huggingface", out)
    return add_tokens(out, TOKENS, out / "more", "sft.special_tokens")


def assistant_text(turn: Turn) -> str:
    """What is learned of a turn, special tokens by their names."""
    return "".join(one.token or one.text for one in conversation_segments([turn]) if one.learn)


def spelled(segments: Any) -> str:
    return "".join(one.token or one.text for one in segments)


def test_a_question_of_one_hop_calls_with_all_of_it() -> None:
    assert spelled(conversation_segments(turns_of(SINGLE, "Look it up."))) == (
        "system: Look it up.<|eot|>\n"
        "user: When was the bridge built?<|eot|>\n"
        'assistant:<|bof|>retrieve:\n{"query": "When was the bridge built?"}<|eof|><|eot|>\n'
        "retrieved context: It was built in 1873.<|eot|>\n"
        "assistant: In 1873.<|eot|>"
    )


def test_a_sub_answer_comes_before_the_next_call_and_the_last_before_the_summary() -> None:
    turns = turns_of(SEVERAL, "s")
    assert [turn.role for turn in turns] == ["system", "user", *["assistant", "retrieved context"] * 2, "assistant"]
    assert [assistant_text(turn) for turn in turns if turn.role == "assistant"] == [
        '<|bof|>retrieve:\n{"query": "How old is the bridge?"}<|eof|><|eot|>',
        ' It is from 1873.\nAnswer:1873\n<|bof|>retrieve:\n{"query": "How old is the tower?"}<|eof|><|eot|>',
        " It is from 1902.\nAnswer:1902\nSummary:1873 is before 1902.\nAnswer:the bridge<|eot|>",
    ]


def prepared(path: Path, items: list[MultiHopItem], tokenizer: Any, **data: Any) -> Prepared:
    path.write_text("".join(json.dumps(sample_of(one, n, "s")) + "\n" for n, one in enumerate(items)))
    config = SftDataConfig(
        sets=(SetConfig(name="mine", path=path),), style="plain", contexts_in_prompt=0, encoder=False, **data
    )
    shape = Shape(sequence_length=1024, chunk_length=1, passages=1, retrieved_length=1)
    found = prepare(config, "train", tokenizer, shape)
    assert found is not None
    return found


def learned_texts(batch: Any, tokenizer: Any) -> list[str]:
    """The runs of learned labels of all rows, as texts with special tokens by their names."""
    names = {token_id(tokenizer, name): name for name in TOKENS}
    found = []
    for labels_S, mask_S in zip(batch.labels_BS.tolist(), batch.loss_mask_BS.tolist(), strict=True):
        run: list[int] = []
        for label, learned in [*zip(labels_S, mask_S, strict=True), (-1, 0.0)]:
            if learned:
                run.append(label)
            if run and (not learned or names.get(label) == END_TURN):
                found.append(text_of(run, names, tokenizer))
                run = []
    return found


def text_of(ids: list[int], names: dict[int | None, str], tokenizer: Any) -> str:
    parts: list[list[int] | str] = []
    for id_ in ids:
        if id_ in names:
            parts.append(names[id_])
        elif parts and isinstance(parts[-1], list):
            parts[-1].append(id_)
        else:
            parts.append([id_])
    return "".join(part if isinstance(part, str) else tokenizer.decode(part) for part in parts)


@pytest.mark.parametrize("packing", [False, True])
def test_what_is_learned_is_exactly_what_the_assistant_writes(tokenizer: Any, tmp_path: Path, packing: bool) -> None:
    items = [SEVERAL, SINGLE]
    source = prepared(tmp_path / "s.jsonl", items, tokenizer, packing=packing).source
    batch = source.fetch(np.arange(40 if packing else 2))
    wanted = [assistant_text(turn) for item in items for turn in turns_of(item, "s") if turn.role == "assistant"]

    def plain(text: str) -> str:
        # SentencePiece has neither line breaks nor a blank at the start of a text.
        return " ".join(text.replace("<|", " <|").split())

    found = Counter(map(plain, learned_texts(batch, tokenizer)))
    assert set(found) == set(map(plain, wanted))
    # A packed sequence has samples several times, and each of them whole.
    assert len({found[plain(assistant_text(turn))] for turn in turns_of(SEVERAL, "s") if turn.role == "assistant"}) == 1
    assert packing or found.total() == len(wanted)


@pytest.mark.parametrize("tokenizer", ["bytes"], indirect=True)
def test_with_bytes_not_even_a_blank_differs(tmp_path: Path, tokenizer: Any) -> None:
    batch = prepared(tmp_path / "s.jsonl", [SEVERAL], tokenizer).source.fetch(np.array([0]))
    wanted = [assistant_text(turn) for turn in turns_of(SEVERAL, "s") if turn.role == "assistant"]
    assert learned_texts(batch, tokenizer) == wanted


def test_training_and_generation_have_the_same_ids_up_to_any_turn(tokenizer: Any) -> None:
    turns = turns_of(SEVERAL, "s")
    whole, _ = encode_segments(conversation_segments(turns), tokenizer)
    for place, turn in enumerate(turns):
        if turn.role == "assistant":
            prompt, _ = encode_segments(prompt_segments(turns[:place]), tokenizer)
            assert whole[: len(prompt)] == prompt


def test_a_text_that_spells_a_token_is_text(tokenizer: Any) -> None:
    turns = [Turn(role="user", text="what is <|eot|>?")]
    ids, _ = encode_segments(conversation_segments(turns), tokenizer)
    assert sum(one == token_id(tokenizer, END_TURN) for one in ids) == 1
    assert ids[-1] == token_id(tokenizer, END_TURN)


def test_a_sample_that_is_too_long_is_refused_with_its_line(tokenizer: Any, tmp_path: Path) -> None:
    long = SubQuestion(question="q?", paragraph="word " * 2000, long_answer="a")
    item = MultiHopItem(question="q?", multihop=False, sub_questions=(long,), final_answer="a")
    with pytest.raises(DataError, match=r"line 1 \(item 0\): its answer of \d+ tokens leaves"):
        prepared(tmp_path / "s.jsonl", [item], tokenizer)


def said(text: str) -> Said:
    return said_by(split_at_tokens(text, TOKENS))


def test_a_reply_is_its_text_and_its_first_call() -> None:
    call = f"<|bof|>{call_text('Wie alt ist die Brücke?')}<|eof|>"
    assert said(f" From 1873.\n{call}<|eot|>") == Said(text="From 1873.", query="Wie alt ist die Brücke?")
    assert said(f"{call}{call}") == Said(query="Wie alt ist die Brücke?")
    assert said(" In 1873.<|eot|>") == Said(text="In 1873.")
    # What comes after the turn is of no one.
    assert said(f" In 1873.<|eot|>{call}") == Said(text="In 1873.")
    assert said("") == Said()


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ('<|bof|>retrieve:\n{"query": "a"}', "a call that does not end"),
        ('<|bof|>retrieve:\n{"query": "a"}<|eot|>', "a call that does not end"),
        ('<|bof|>search:\n{"query": "a"}<|eof|>', "a call of 'search', and there is 'retrieve' alone"),
        ("<|bof|><|eof|>", "a call of '', and there is 'retrieve' alone"),
        ('<|bof|>retrieve:\n{"query": "a<|eof|>', "arguments that are broken JSON"),
        ('<|bof|>retrieve:\n{"question": "a"}<|eof|>', "arguments that are not a query alone"),
        ('<|bof|>retrieve:\n{"query": ["a"]}<|eof|>', "arguments that are not a query alone"),
        ('<|bof|>retrieve:\n["a"]<|eof|>', "arguments that are not a query alone"),
        ('<|bof|>retrieve:\n{"query": "  "}<|eof|>', "an empty query"),
        ('<|bof|>retrieve:\n{"query": "a \\ud800"}<|eof|>', "a query with half of a surrogate pair"),
    ],
)
def test_a_call_that_cannot_be_followed_says_why(call: str, problem: str) -> None:
    found = said(f"before {call}")
    assert (found.text, found.query) == ("before", "")
    assert found.problem.startswith(problem)


def test_a_query_survives_quotes_and_line_breaks() -> None:
    found = said_by([Segment(token="<|bof|>"), Segment(text=call_text('the "old"\nbridge')), Segment(token=END_CALL)])
    assert found.query == 'the "old" bridge'
