"""What instruction tuning learns of a question: its prompt and the parts of its answer, as one sequence has them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from retro.analysis.inspect.view import pieces, text_of
from retro.common.errors import ConfigError
from retro.corpus.reader import Corpus
from retro.model.config import ModelShape
from retro.neighbors.text_overlap import END
from retro.qa.prompt_texts import PromptTexts, load_prompts
from retro.qa.prompts import require_template
from retro.qa.sample_layout import encode_sample
from retro.run.config import RunConfig
from retro.run.pipeline import stage
from retro.sft.config import SftDataConfig
from retro.sft.prepare import Shape, sample_ids
from retro.sft.sets import Part, QuestionSet, read_sets
from retro.tokenizers.added_tokens import add_tokens, added_tokens, token_ids


@dataclass(frozen=True, kw_only=True)
class TuningInputs:
    """What tuning would start with, before any search."""

    shape: Shape
    data: SftDataConfig
    """The settings, `encoder` off for a model that reads no passages."""
    texts: PromptTexts
    tokenizer: Any
    corpus: Path

    def sets(self, part: Part) -> list[QuestionSet]:
        """The question sets of a part, without the questions that have no answer.

        Raises:
            ConfigError: A set's kind or place cannot be.
            DataError: A question file is missing or broken.
        """
        return read_sets(self.data, self.texts, part, self.corpus, skip=True)


@contextmanager
def tuning_inputs(config: RunConfig) -> Iterator[TuningInputs]:
    """Open a run's prompt texts and its tokenizer, with the special tokens that tuning would add.

    Raises:
        ArtifactError: The corpus stage did not finish.
        ConfigError: The template cannot be.
    """
    shape, reads_passages = shape_of(config)
    data = config.sft.data if reads_passages else config.sft.data.model_copy(update={"encoder": False})
    texts = load_prompts(data.prompts)
    require_template("sft.data.template", data.template, texts)
    folder = stage("corpus").path(config)
    with _tokenizer(config, folder) as tokenizer:
        yield TuningInputs(shape=shape, data=data, texts=texts, tokenizer=tokenizer, corpus=folder)


def shape_of(config: RunConfig) -> tuple[Shape, bool]:
    """The sizes that tuning would find, of the checkpoint that is named, or else of the model section; and whether
    that model reads passages."""
    if config.sft.start_from is not None:
        from retro.training import checkpoint

        known = checkpoint.read_info(checkpoint.find(config.sft.start_from)).shape
    else:
        # The vocabulary is not looked at.
        known = ModelShape(model=config.model, vocabulary=1, chunk_length=config.db.chunk_length)
    shape = Shape(
        sequence_length=known.model.sequence_length,
        chunk_length=known.chunk_length,
        passages=known.model.neighbors,
        retrieved_length=known.retrieved_length,
    )
    return shape, known.model.retrieval


@contextmanager
def _tokenizer(config: RunConfig, corpus_dir: Path) -> Iterator[Any]:
    corpus = Corpus.open(corpus_dir)
    if not config.sft.special_tokens:
        yield corpus.tokenizer
        return
    with tempfile.TemporaryDirectory() as folder:
        source = corpus_dir / "tokenizer"
        yield add_tokens(source, config.sft.special_tokens, Path(folder) / "tokenizer", "sft.special_tokens")


@dataclass(frozen=True)
class SamplePart:
    """A run of tokens of a sample that are all learned, or all only read."""

    name: str
    """`prompt`, `answer`, or `end`: the token after an answer."""
    learned: bool
    tokens: int
    text: str


@dataclass(frozen=True, kw_only=True)
class TuningSample:
    """A question as tuning has it."""

    set: str
    part: str
    place: str
    """Where the question is in its file."""
    left_out: str | None
    """Why tuning leaves it out, or stops; None: it fits."""
    lost_context: int
    """Tokens of passages in the prompt that do not fit."""
    parts: list[SamplePart]


def tuning_sample(config: RunConfig, part: Part, number: int) -> TuningSample:
    """Question `number` of the sets of a part, counted from 0 in the order of the blend.

    Passages are those that came with the question, as in `retro sft stats`.

    Raises:
        ArtifactError: The corpus stage did not finish.
        ConfigError: There is no such question, or a set or the template cannot be.
        DataError: A question file is missing or broken.
    """
    with tuning_inputs(config) as inputs:
        sets = inputs.sets(part)
        total = sum(len(one.questions) for one in sets)
        if not 0 <= number < total:
            need = f"needs a number from 0 to {total - 1}" if total else f"cannot be shown: no set has {part} questions"
            raise ConfigError("tuning", number, need)
        for one in sets:
            if number < len(one.questions):
                return _sample(inputs, one, part, number)
            number -= len(one.questions)
    raise ValueError("the sets have fewer questions than were counted")


def _sample(inputs: TuningInputs, one: QuestionSet, part: Part, number: int) -> TuningSample:
    question, data, shape = one.questions[number], inputs.data, inputs.shape
    alone = replace(one, questions=(question,))
    passages = question.contexts if data.passages_from == "contexts" else ()
    [prompt], [answer] = sample_ids(data, inputs.texts, alone, [passages], inputs.tokenizer)
    chunk = shape.chunk_length if data.encoder else 1
    made = encode_sample(prompt, answer, sequence_length=shape.sequence_length, chunk_length=chunk)
    whole = [*prompt.head, *(token for context in prompt.contexts for token in context), *prompt.tail]
    ids = whole if isinstance(made, str) else made.prompt.tolist()
    learned = answer.whole[1][: len(answer.ids)]
    tokens = [*ids, *answer.ids]
    # Decoded together: alone, a token loses the space before it.
    runs = [("prompt", False, len(ids))] if ids else []
    runs += [("answer", bool(flag), len(list(group))) for flag, group in groupby(learned)]
    end = [] if answer.end is None else [SamplePart("end", True, 1, "")]
    return TuningSample(
        set=one.name, part=part, place=f"{one.path}: {question.place}",
        left_out=made.replace("_", " ") if isinstance(made, str) else None,
        lost_context=0 if isinstance(made, str) else made.lost_context,
        parts=[*_texts(inputs.tokenizer, tokens, runs), *end],
    )  # fmt: skip


def _texts(tokenizer: Any, tokens: list[int], runs: list[tuple[str, bool, int]]) -> Iterator[SamplePart]:
    """The runs with their texts, special tokens by their names: decoded, they would be nothing."""
    named = token_ids(tokenizer, added_tokens(tokenizer), "sft.special_tokens")
    names = {id_: name for name, id_ in named.items()}
    owners = [place for place, (_, _, count) in enumerate(runs) for _ in range(count)]
    groups = [list(group) for _, group in groupby(range(len(tokens)), lambda at: (owners[at], names.get(tokens[at])))]
    # Marks of no other meaning.
    marks = [END + 1 + place for place, group in enumerate(groups) for _ in group]
    found = pieces(tokenizer, tokens, marks)
    texts = [""] * len(runs)
    for place, group in enumerate(groups):
        name = names.get(tokens[group[0]], "") * len(group)
        texts[owners[group[0]]] += name or text_of(piece for piece in found if piece.mark == END + 1 + place)
    for (name, learned, count), text in zip(runs, texts, strict=True):
        yield SamplePart(name, learned, count, text)
