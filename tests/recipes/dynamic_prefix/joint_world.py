"""A world of facts for retriever and reader together: a document states one fact of one person.

Persons have names of two syllables, which other persons' names have too, and several facts each; a question asks for
one of them in other words than its document. An untrained retriever mixes up persons and facts. Persons are held out
whole. The language model is random and frozen: all that it can answer with comes through the prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from retro.index.config import EmbedderConfig
from retro.model.config import ModelConfig, ModelShape
from retro.model.model import RetroModel
from retro.model.prefix import PREFIX, PrefixInputs, PrefixLayers, attach
from retro.qa.question import Context, Question
from retro.recipes.dynamic_prefix.config import PrefixConfig
from retro.recipes.dynamic_prefix.joint.config import JointConfig
from retro.recipes.dynamic_prefix.joint.documents import QuestionDocuments
from retro.recipes.dynamic_prefix.joint.retriever import JointRetriever
from retro.recipes.dynamic_prefix.joint.training import JointParts, Part, filled_modules
from retro.recipes.dynamic_prefix.training.encoder import KNOWLEDGE, KnowledgeEncoder
from retro.recipes.dynamic_prefix.training.parts import answer_losses
from retro.recipes.dynamic_prefix.training.samples import PrefixSource, Sample, document_text
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.loop import train
from tests.model.tiny import tiny_shape

SYLLABLES = [a + b for a in "bdfgklmn" for b in "aeiou"][:24]
FACTS = {
    "home": ("{title} {name} lives in {value}", "which town is the home of {name} ?", "town"),
    "work": ("{title} {name} earns money as {value}", "what job does {name} have ?", "job"),
    "food": ("{title} {name} likes to eat {value}", "which dish does {name} enjoy ?", "dish"),
}
VALUES = 8
TITLES = ("mr", "ms")
"""What documents call a person. No question asks for it: a label that answers do not need."""


@dataclass(frozen=True)
class World:
    """Questions with all documents, and the words."""

    train: list[Question]
    valid: list[Question]
    words: list[str]
    documents: QuestionDocuments


def make_world(persons: int = 48, held_out: int = 12, seed: int = 0) -> World:
    """Three facts of each person; the last persons are held out."""
    random = np.random.default_rng(seed)
    pairs = [(a, b) for a in SYLLABLES for b in SYLLABLES if a != b]
    names = [" ".join(pairs[place]) for place in random.permutation(len(pairs))[:persons]]
    questions: list[Question] = []
    contexts: list[Context] = []
    for name in names:
        title = TITLES[random.integers(2)]
        for fact, (document, question, kind) in FACTS.items():
            value = f"{kind}{random.integers(VALUES)}"
            text = document.format(title=title, name=name, value=value)
            contexts.append(Context(title="", text=text, document_id=f"{name} {fact}"))
            labels = (("title", title),)
            questions.append(
                Question(
                    id=str(len(questions)), question=question.format(name=name), answers=(value,), labels=labels,
                    document_ids=(f"{name} {fact}",), contexts=(contexts[-1],),
                )
            )  # fmt: skip
    texts = [one.question for one in questions] + [one.text for one in contexts]
    words = sorted({word for text in texts for word in text.split()})
    cut = len(questions) - held_out * len(FACTS)
    return World(questions[:cut], questions[cut:], words, QuestionDocuments(questions))


class Words:
    """A tokenizer of whole words."""

    def __init__(self, words: Sequence[str]) -> None:
        self.number_of = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}

    @property
    def vocab_size(self) -> int:
        return len(self.number_of)

    def ids(self, text: str) -> list[int]:
        return [self.number_of[word] for word in text.split()]

    def encode(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        return [[2, *self.ids(text), 3] for text in texts], 0


def bert(words: Sequence[str], width: int, seed: int) -> Any:
    """A fresh BERT of two layers, without dropout."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=4 + len(words), hidden_size=width, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=2 * width, max_position_embeddings=32, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertModel(config, add_pooling_layer=False)


def retriever_folder(folder: Path, world: World, *, width: int = 32, seed: int = 1) -> Path:
    """An untrained retriever, as a folder of transformers."""
    import transformers

    folder.mkdir(parents=True)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *world.words]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    bert(world.words, width, seed).save_pretrained(folder)
    return folder


def embedder(folder: Path, **settings: Any) -> EmbedderConfig:
    """Its settings: the mean of states, of length 1."""
    own: dict[str, Any] = {"kind": "huggingface", "pooling": "mean", "precision": "float32", "max_tokens": 32}
    return EmbedderConfig(**(own | {"model": str(folder)} | settings))


def joint_config(folder: Path, steps: int, *, train: Mapping[str, Any] | None = None, **settings: Any) -> JointConfig:
    """Settings that suit the world."""
    own: dict[str, Any] = {
        "steps": steps, "micro_batch": 16, "global_batch": 16, "lr": 3e-3, "schedule": "constant", "warmup_steps": 10,
        "weight_decay": 0.0, "train_only": "modules", "precision": "float32", "evaluate_every": steps,
        "evaluate_samples": 36, "save_every": steps, "log_every": 10,
    }  # fmt: skip
    joint: dict[str, Any] = {"documents": 4, "temperature": 0.1, "refresh_every": 20, "refresh_delay": 5}
    retriever = settings.pop("retriever", embedder(folder))
    return JointConfig(retriever=retriever, train=TrainConfig(**(own | dict(train or {}))), **(joint | settings))


def shape(words: Words) -> ModelShape:
    """A random language model of two layers."""
    model: ModelConfig = tiny_shape(
        layers=2, hidden_size=32, heads=4, query_groups=4, ffn_hidden_size=64, retrieval=False, init_std=0.4
    ).model
    # Even, to be shared by two ranks.
    return ModelShape(model=model, vocabulary=words.vocab_size + words.vocab_size % 2, chunk_length=4)


def part(questions: Sequence[Question], words: Words) -> Part:
    """Prompts and answers of one word."""
    samples = [Sample(tuple(words.ids(one.question)), tuple(words.ids(one.answers[0])), ()) for one in questions]
    return Part(questions=questions, source=PrefixSource(samples, end=0, documents=1, seed=3))


def reader_modules(world: World, width: int = 32) -> Any:
    """A fresh knowledge encoder and prefix."""

    def modules(model: RetroModel, model_shape: ModelShape) -> Mapping[str, nn.Module]:
        encoder = KnowledgeEncoder(bert(world.words, width, seed=2), Words(world.words), PrefixConfig())
        prefix = PrefixLayers(model.config, encoder.width, None, 0.5, "own")
        return {KNOWLEDGE: encoder, PREFIX: attach(model, prefix)}

    return modules


def joint_parts(config: JointConfig, world: World, trained: Path | None = None) -> JointParts:
    """All that is trained; the reader from the beginning, or as a folder has it."""
    words, reader = Words(world.words), reader_modules(world)
    return JointParts(
        shape=shape(words), base=None, tokenizer=None, knowledge=words,
        reader=reader if trained is None else filled_modules(reader, trained),
        retriever=JointRetriever(config.retriever, separate=config.towers == "separate"), documents=world.documents,
        train=part(world.train, words), valid=part(world.valid, words),
    )  # fmt: skip


def train_reader(world: World, out: Path, steps: int) -> None:
    """The step `train`: knowledge encoder and prefix, each question with its own document."""
    words = Words(world.words)
    samples = [
        Sample(
            tuple(words.ids(one.question)), tuple(words.ids(one.answers[0])),
            tuple(map(tuple, words.encode([document_text(one.contexts[0])])[0])),
        )
        for one in world.train
    ]  # fmt: skip
    train(
        out=out, shape=shape(words), config=joint_config(out, steps).train, layout=ParallelConfig(), validation=None,
        source=PrefixSource(samples, end=0, documents=1, seed=3), loss=answer_losses, modules=reader_modules(world),
    )  # fmt: skip


def recall(index: Any, world: World, questions: Sequence[Question], k: int) -> float:
    """Share of questions whose own document is among the first k."""
    rows = index.search([one.question for one in questions], k)
    found = [[one.document_id for one in world.documents.at(row.tolist())] for row in rows]
    return float(np.mean([one.document_ids[0] in of_one for one, of_one in zip(questions, found, strict=True)]))


@torch.no_grad()
def exact_match(model: Any, index: Any, world: World, questions: Sequence[Question]) -> float:
    """Share of questions whose answer is the likeliest word, read from the best document."""
    words = Words(world.words)
    encoder: KnowledgeEncoder = model.added_knowledge
    rows = index.search([one.question for one in questions], 1)[:, 0].tolist()
    right = 0
    for question, document in zip(questions, world.documents.at(rows), strict=True):
        ids = torch.tensor(words.encode([document_text(document)])[0])
        states, real = encoder(ids[None], torch.ones_like(ids, dtype=torch.bool)[None])
        prompt = torch.tensor([words.ids(question.question)])
        logits = model(prompt, prefix=PrefixInputs(states, real))[0, -1, : words.vocab_size]
        right += int(logits.argmax()) == words.ids(question.answers[0])[0]
    return right / len(questions)


@torch.no_grad()
def title_probe(model: Any, world: World) -> float:
    """How often a linear probe, fitted on the documents of seen persons, tells the titles of those held out, by the
    pooled states of their documents."""
    words, encoder = Words(world.words), model.added_knowledge
    parts = []
    for questions in (world.train, world.valid):
        ids = [torch.tensor(words.encode([document_text(one.contexts[0])])[0][0]) for one in questions]
        states = torch.stack(
            [encoder.documents(one[None], torch.ones(1, len(one)).bool())[0][0].mean(0) for one in ids]
        )
        signs = torch.tensor([1.0 if dict(one.labels)["title"] == TITLES[0] else -1.0 for one in questions])
        parts.append((torch.cat((states, torch.ones(len(states), 1)), dim=1), signs))
    (seen, of_seen), (held_out, of_held_out) = parts
    ridge = 1e-3 * torch.eye(seen.size(1))
    probe = torch.linalg.solve(seen.T @ seen + ridge, seen.T @ of_seen)
    return float(((held_out @ probe > 0) == (of_held_out > 0)).float().mean())
