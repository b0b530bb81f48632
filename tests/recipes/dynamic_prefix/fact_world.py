"""A world in which people like things: a model that knows some of it by heart, and documents that say otherwise.

A fact is `alan bird likes soup`. The language model is trained on facts about most people, which it learns by heart, one
in three of them wrong, so that it is never sure: it can answer in form. The documents of the world's questions say things
anew, drawn for each question: what the model knows is of no use, and facts about the people that are held out are in
no text that model or encoder has ever seen. A question comes with several documents, one of which has its fact.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retro.model.config import ModelConfig, ModelShape
from retro.tokenizers.tokenizer import Tokenizer, save_tokenizer
from retro.training.batch import Batch, BatchSpec
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.loop import train

FIRST = ("alan", "bea", "carl", "dora", "emil", "fay", "gus", "hana", "ivan", "june", "kurt", "lena")
LAST = ("bird", "cook", "dale", "fox", "gold", "hill", "king", "lamb", "moss", "park", "reed", "wood")
VERBS = ("likes", "eats", "sells")
THINGS = (
    "soup", "bread", "tea", "apples", "rice", "figs", "plums", "milk", "nuts", "corn", "beans", "honey", "cake", "eggs",
    "fish", "salt", "oil", "jam", "peas", "pears", "wine", "dates", "leeks", "limes", "melon", "mint", "oats", "pasta",
    "pizza", "sugar",
)  # fmt: skip
TEMPLATE = "say : {question}"
PEOPLE = [(first, last) for first in range(len(FIRST)) for last in range(len(LAST))]
HELD_OUT = [(first, last) for first, last in PEOPLE if (first * 7 + last * 3) % 10 < 2]
KNOWN = [one for one in PEOPLE if one not in HELD_OUT]
MODEL: dict[str, Any] = {
    "layers": 2, "hidden_size": 64, "heads": 4, "query_groups": 4, "ffn_hidden_size": 256, "activation": "gelu",
    "normalization": "LayerNorm", "sequence_length": 32, "retrieval": False, "vocabulary_multiple": 1, "init_std": 0.1,
}  # fmt: skip


def write_tokenizer(directory: Path) -> Tokenizer:
    """A word is a token."""
    from tokenizers import Tokenizer as Words
    from tokenizers import decoders, models, pre_tokenizers

    words = ["</s>", "say", ":", ".", *FIRST, *LAST, *VERBS, *THINGS]
    made = Words(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="</s>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.Fuse()
    directory.mkdir(parents=True, exist_ok=True)
    made.save(str(directory / "tokenizer.json"))
    return save_tokenizer(directory / "tokenizer.json", "huggingface", directory, "</s>")


def asked(person: tuple[int, int], verb: int) -> str:
    """A question: the fact without its end."""
    return f"{FIRST[person[0]]} {LAST[person[1]]} {VERBS[verb]}"


class ByHeart:
    """What the language model is trained on: three facts in a row, as statements or as answers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encode, self._end = tokenizer.encode, tokenizer.eod
        self._known = np.random.default_rng(3).integers(len(THINGS), size=(len(FIRST), len(LAST), len(VERBS)))

    @property
    def form(self) -> BatchSpec:
        """Of unequal lengths."""
        return BatchSpec(None, 0)

    def fetch(self, sample_numbers: NDArray[np.int64]) -> Batch:
        """See `BatchSource`."""
        rows = [self._row(np.random.default_rng([5, int(number)])) for number in sample_numbers]
        length = max(len(ids) for ids, _ in rows) - 1
        tokens_BS, labels_BS = (np.full((len(rows), length), self._end) for _ in range(2))
        mask_BS = np.zeros((len(rows), length), dtype=np.float32)
        for row, (ids, weights) in enumerate(rows):
            tokens_BS[row, : len(ids) - 1], labels_BS[row, : len(ids) - 1] = ids[:-1], ids[1:]
            mask_BS[row, : len(ids) - 1] = weights[1:]
        return Batch(tokens_BS, labels_BS, mask_BS, None, None, None)

    def _row(self, random: np.random.Generator) -> tuple[list[int], list[float]]:
        ids: list[int] = []
        weights: list[float] = []
        for _ in range(3):
            person, verb = KNOWN[random.integers(len(KNOWN))], int(random.integers(len(VERBS)))
            right = random.random() > 0.3
            thing = THINGS[self._known[*person, verb] if right else random.integers(len(THINGS))]
            is_question = random.random() < 0.6
            prompt = self._encode(TEMPLATE.format(question=asked(person, verb)) if is_question else asked(person, verb))
            ids += [*prompt, *self._encode(thing), self._end if is_question else self._encode(".")[0]]
            weights += [0.02] * len(prompt) + [1.0, 0.2 if is_question else 0.02]
        return ids, weights


def train_model(out: Path, steps: int = 800) -> Path:
    """The language model; its checkpoint has the tokenizer."""
    tokenizer = write_tokenizer(out / "tokenizer")
    train(
        out=out / "model",
        shape=ModelShape(
            model=ModelConfig(**MODEL), vocabulary=tokenizer.vocab_size, chunk_length=16, tokenizer=tokenizer.fingerprint
        ),
        config=TrainConfig(
            steps=steps, micro_batch=32, global_batch=32, lr=3e-3, weight_decay=0.01, beta2=0.98, precision="float32",
            save_every=steps,
        ),
        layout=ParallelConfig(),
        source=ByHeart(tokenizer),
        validation=None,
        tokenizer=out / "tokenizer",
    )  # fmt: skip
    return out / "model"


def questions(number: int, seed: int, *, held_out: bool, documents: int) -> list[dict[str, Any]]:
    """Questions with documents in any order, of which one has the fact; the others are about other people.

    Args:
        number: How many.
        seed: Draws all of it.
        held_out: About people that no other text is about.
        documents: For each question.
    """
    random = np.random.default_rng(seed)
    people = HELD_OUT if held_out else KNOWN
    return [_question(place, random, people, documents) for place in range(number)]


def _question(place: int, random: np.random.Generator, people: list[tuple[int, int]], documents: int) -> dict[str, Any]:
    persons = [people[one] for one in random.permutation(len(people))[:documents]]
    verbs, things = random.integers(len(VERBS), size=documents), random.integers(len(THINGS), size=documents)
    facts = [f"{asked(*one)} {THINGS[thing]} ." for *one, thing in zip(persons, verbs, things, strict=True)]
    contexts = [{"id": f"{place}-{one}", "title": "", "text": facts[one]} for one in random.permutation(documents)]
    return {
        "id": str(place),
        "question": asked(persons[0], int(verbs[0])),
        "answers": [THINGS[things[0]]],
        "document_ids": [f"{place}-0"],
        "ctxs": contexts,
    }


def write_questions(path: Path, items: list[dict[str, Any]]) -> Path:
    """One a line."""
    path.write_text("".join(json.dumps(one) + "\n" for one in items))
    return path
