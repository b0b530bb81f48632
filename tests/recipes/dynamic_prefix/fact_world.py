"""A world in which people eat things, and only documents say which.

A fact is `food of alan is soup`. The language model is trained on facts that are drawn again whenever they are told: it
can answer in form, and knows nothing. A question, `food of alan`, comes with several documents, one of which has its
fact; the others say of others what they eat. Who eats what in held-out questions and their documents is in no other
text: neither model nor encoder has ever seen that this person eats that.
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

PEOPLE = (
    "alan", "bea", "carl", "dora", "emil", "fay", "gus", "hana", "ivan", "june", "kurt", "lena", "mia", "ned", "olga",
    "paul",
)  # fmt: skip
THINGS = (
    "soup", "bread", "tea", "apples", "rice", "figs", "plums", "milk", "nuts", "corn", "beans", "honey", "cake", "eggs",
    "fish", "salt", "jam", "peas", "pears", "dates", "limes", "mint", "oats", "pasta",
)  # fmt: skip
TEMPLATE = "say : {question}"
MODEL: dict[str, Any] = {
    "layers": 2, "hidden_size": 64, "heads": 4, "query_groups": 4, "ffn_hidden_size": 256, "activation": "gelu",
    "normalization": "LayerNorm", "sequence_length": 32, "retrieval": False, "vocabulary_multiple": 1, "init_std": 0.1,
}  # fmt: skip


def write_tokenizer(directory: Path) -> Tokenizer:
    """A word is a token."""
    from tokenizers import Tokenizer as Words
    from tokenizers import decoders, models, pre_tokenizers

    words = ["</s>", "say", ":", ".", "food", "of", "is", *PEOPLE, *THINGS]
    made = Words(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="</s>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.Fuse()
    directory.mkdir(parents=True, exist_ok=True)
    made.save(str(directory / "tokenizer.json"))
    return save_tokenizer(directory / "tokenizer.json", "huggingface", directory, "</s>")


def is_held_out(person: int, thing: int) -> bool:
    """Whether a fact is told nowhere but in held-out questions: one in five."""
    return (person * 7 + thing * 3) % 10 < 2


def eaten(random: np.random.Generator, person: int, *, held_out: bool) -> int:
    """What a person eats, of the facts that are held out or of the others."""
    things = [thing for thing in range(len(THINGS)) if is_held_out(person, thing) == held_out]
    return things[int(random.integers(len(things)))]


def asked(person: int) -> str:
    """A question."""
    return f"food of {PEOPLE[person]}"


class Form:
    """What the language model is trained on: three facts in a row, as statements or as answers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encode, self._end = tokenizer.encode, tokenizer.eod

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
            person = int(random.integers(len(PEOPLE)))
            thing = THINGS[eaten(random, person, held_out=False)]
            is_question = random.random() < 0.6
            prompt = self._encode(TEMPLATE.format(question=asked(person)) if is_question else f"{asked(person)} is")
            ids += [*prompt, *self._encode(thing), self._end if is_question else self._encode(".")[0]]
            weights += [0.02] * len(prompt) + [1.0, 0.2 if is_question else 0.02]
        return ids, weights


def train_model(out: Path, steps: int = 150) -> Path:
    """The language model; its checkpoint has the tokenizer."""
    tokenizer = write_tokenizer(out / "tokenizer")
    train(
        out=out / "model",
        shape=ModelShape(
            model=ModelConfig(**MODEL),
            vocabulary=tokenizer.vocab_size,
            chunk_length=16,
            tokenizer=tokenizer.fingerprint,
        ),
        config=TrainConfig(
            steps=steps, micro_batch=32, global_batch=32, lr=3e-3, weight_decay=0.01, beta2=0.98, precision="float32",
            save_every=steps,
        ),
        layout=ParallelConfig(),
        source=Form(tokenizer),
        validation=None,
        tokenizer=out / "tokenizer",
    )  # fmt: skip
    return out / "model"


def questions(number: int, seed: int, *, held_out: bool, documents: int) -> list[dict[str, Any]]:
    """Questions with documents in any order, of which one has the fact; the others are about other people.

    Args:
        number: How many.
        seed: Draws all of it.
        held_out: Of facts that are in no other text.
        documents: For each question.
    """
    random = np.random.default_rng(seed)
    return [_question(place, random, documents, held_out=held_out) for place in range(number)]


def _question(place: int, random: np.random.Generator, documents: int, *, held_out: bool) -> dict[str, Any]:
    persons = random.permutation(len(PEOPLE))[:documents].tolist()
    things = [THINGS[eaten(random, person, held_out=held_out)] for person in persons]
    facts = [f"{asked(person)} is {thing} ." for person, thing in zip(persons, things, strict=True)]
    contexts = [{"id": f"{place}-{one}", "title": "", "text": facts[one]} for one in random.permutation(documents)]
    return {
        "id": str(place),
        "question": asked(persons[0]),
        "answers": [things[0]],
        "document_ids": [f"{place}-0"],
        "ctxs": contexts,
    }


def write_questions(path: Path, items: list[dict[str, Any]]) -> Path:
    """One a line."""
    path.write_text("".join(json.dumps(one) + "\n" for one in items))
    return path
