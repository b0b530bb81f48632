"""From a folder to a run's YAML file: look, measure, choose, write. Nothing that is there is replaced unasked."""

from __future__ import annotations

import logging
import math
import shlex
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import yaml

from retro.common.errors import ArtifactError, ConfigError, DataError
from retro.common.files import atomic_path, make_writable
from retro.common.optional import package_folder
from retro.common.terminal import one_line
from retro.corpus.train_tokenizer import train_sentencepiece
from retro.init import corpus_choices, training_choices
from retro.init.corpus_choices import Choice, SplitSource
from retro.init.questions import PARTS, UserQuestions, question_choices, read_user_questions
from retro.init.scan import scan
from retro.init.training_choices import SHAPES, Machine, ModelCandidate, Text
from retro.qa.formats.write import write_questions

log = logging.getLogger(__name__)

_WIDTH = 120
_MINUTES = 10.0
_STEP = "  "

Measure = Callable[[ModelCandidate, int], float]
"""Tokens a second of a shape in training, with a vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command was asked for."""

    folder: Path
    questions: Path | None = None
    minutes: float | None = None
    """Of the whole run; None: as long as the size needs, or ten."""
    size: str | None = None
    """tiny, mini or small; None: what is worth the minutes."""
    output: Path = Path("run.yaml")
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class InitResult:
    """What was written."""

    output: Path
    choices: tuple[Choice, ...]
    command: str
    """The next one, as it is typed."""
    minutes: float | None
    """That it was chosen for; None: for a size."""
    files: tuple[Path, ...]
    """Question files beside the YAML file."""


def run(options: Options, measure: Measure | None = None) -> InitResult:
    """Write the file.

    Args:
        options: What was asked for.
        measure: How fast this machine trains; real steps, unless given.

    Raises:
        ConfigError: A number of minutes that is none, or a size that there is not.
        ArtifactError: A file to be written is there already.
        DataError: Text or questions cannot be read, or there is too little text for any model.
    """
    minutes = options.minutes if options.minutes is not None or options.size is not None else _MINUTES
    if minutes is not None and not 0 < minutes < math.inf:
        raise ConfigError("--minutes", minutes, "needs a positive number of minutes for the run")
    names = [one.name for one in SHAPES]
    if options.size is not None and options.size not in names:
        raise ConfigError("--size", options.size, f"needs one of {', '.join(names)}")
    files = _question_files(options) if options.questions is not None else {}
    _require_free(options, [options.output, *files.values()])
    make_writable(options.output.parent, "--output", options.output)
    asked = None if options.questions is None else read_user_questions(options.questions)
    parted = [corpus_choices.choose_document_unit(options.folder, source) for source in scan(options.folder)]
    tokenizer, of_text, text = _look(options, parted, asked)
    machine = Machine(
        tokens_per_second=(measure or _by_steps)(SHAPES[0], text.vocabulary),
        bm25=package_folder("bm25s") is not None,
    )
    trained = training_choices.training(text, machine, minutes, options.size)
    asking = [] if asked is None else question_choices(asked, files, trained, lambda one: len(tokenizer.encode(one)))
    run_dir = Choice(setting="run_dir", value=str(_run_dir(options.folder)), why="one folder a stage")
    choices = (run_dir, *of_text, *training_choices.search(machine), *trained.choices, _perplexity(), *asking)
    words = ["retro", "run", *([] if asked else ["--until", "perplexity"]), str(options.output)]
    command = shlex.join(words)
    if asked is not None:
        for part, path in files.items():
            write_questions(path, asked.parts[part])
    with atomic_path(options.output) as temporary:
        temporary.write_text(as_yaml(_head(options, command), choices), encoding="utf-8")
    return InitResult(
        output=options.output, choices=choices, command=command, minutes=minutes, files=tuple(files.values())
    )


def _question_files(options: Options) -> dict[str, Path]:
    folder = options.output.with_name(f"{options.output.stem}_questions")
    return {part: folder / f"{part}.json" for part in PARTS}


def _require_free(options: Options, paths: Sequence[Path]) -> None:
    for path in paths:
        if path.exists() and not options.force:
            raise ArtifactError(path, "is there already", "Give another --output, or --force to write it again")


def _look(
    options: Options, parted: Sequence[SplitSource], asked: UserQuestions | None
) -> tuple[sentencepiece.SentencePieceProcessor, list[Choice], Text]:
    """A tokenizer learned on a sample, the settings of the corpus stage, and what decides how much can be learned."""
    sample = [text for one in parted for text in one.source.sample]
    min_words = corpus_choices.least_words(parted)
    kept = corpus_choices.left(parted, min_words)
    documents, characters = (sum(counts) for counts in zip(*kept, strict=True))
    size = corpus_choices.vocabulary(characters, len(set().union(*sample)))
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=train_sentencepiece(sample, size.value))
    sampled = sum(map(len, sample))
    tokens = characters * sum(len(tokenizer.encode(text)) for text in sample) / sampled
    split = corpus_choices.split(max(count for count, _ in kept), tokens)
    text = Text(
        documents=documents,
        tokens=tokens,
        vocabulary=tokenizer.vocab_size(),
        train_share=split.value[0],
        questions=asked.count("train") if asked else 0,
    )
    least = SHAPES[0].batch_tokens + 1
    if text.train_tokens < least:
        problem = (
            f"holds {documents:,} documents with {characters:,} characters, about {tokens:,.0f} tokens; the smallest "
            f"model needs {least:,} tokens to train on for its first step"
        )
        command = shlex.join(["retro", "ask", "--documents", str(options.folder), "a question"])
        raise DataError(options.folder, problem, f"Give more text, or ask a trained model about it: {command}")
    why = "; ".join(dict.fromkeys(one.why for one in parted))
    sources = Choice(setting="corpus.sources", value=corpus_choices.weighted(parted), why=why)
    reported = f"{sampled / 1e6:.2g} million characters make {characters / tokens:.2f} characters a token"
    kind = Choice(
        setting="corpus.tokenizer.kind", value="sentencepiece", why=f"learned on this text; measured: {reported}"
    )
    return tokenizer, [sources, *([min_words] if min_words else []), split, kind, size], text


def _by_steps(shaped: ModelCandidate, vocabulary: int) -> float:
    # torch and megatron are loaded only once the text is known to do.
    from retro.init.trial import tokens_per_second

    return tokens_per_second(shaped.shape(vocabulary), shaped.train)


def _perplexity() -> Choice:
    return Choice(setting="perplexity.split", value="test", why="the training loop has looked at valid")


def _run_dir(folder: Path) -> Path:
    """A folder below runs/ that is free, named after the text."""
    name = folder.resolve()
    shown = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name.stem)[:60] or "mine"
    names = (shown if number == 1 else f"{shown}_{number}" for number in range(1, sys.maxsize))
    return next(path for path in (Path("runs") / one for one in names) if not path.exists())


def _head(options: Options, command: str) -> list[str]:
    given = [str(options.folder)]
    given += [] if options.minutes is None else ["--minutes", f"{options.minutes:g}"]
    given += [] if options.size is None else ["--size", options.size]
    given += ["--output", str(options.output)]
    given += [] if options.questions is None else ["--questions", str(options.questions)]
    return [
        f"Written by: {shlex.join(['retro', 'init', *given])}",
        "Paths are relative to where `retro` is called. Any setting may be changed; `retro config show` has the rest.",
        "Add pretrain: {baselines: [gpt_equal]} for a GPT of equal size beside it, which takes as long again to train.",
        f"Run it: {command}",
    ]


def as_yaml(head: Sequence[str], choices: Sequence[Choice]) -> str:
    """The text of the file.

    Args:
        head: Paragraphs of the comment at its top.
        choices: Settings; those of one section stand together.
    """
    lines = [line for paragraph in head for line in _comment(paragraph, "")]
    before: tuple[str, ...] = ()
    for choice in choices:
        *sections, name = choice.setting.split(".")
        for depth, section in enumerate(sections):
            if before[: depth + 1] != tuple(sections[: depth + 1]):
                lines += [""] if depth == 0 else []
                lines.append(f"{_STEP * depth}{section}:")
                before = tuple(sections[: depth + 1])
        before = tuple(sections)
        lines += _setting(name, choice, _STEP * len(sections))
    return "\n".join(lines) + "\n"


def _setting(name: str, choice: Choice, indent: str) -> list[str]:
    if _is_list_of_mappings(choice.value):
        items = [f"{indent}{_STEP}- {_flow(item)}" for item in choice.value]
        return [*_comment(choice.why, indent), f"{indent}{name}:", *items]
    line = f"{indent}{name}: {_flow(choice.value)}"
    if not choice.why:
        return [line]
    beside = f"{line}  # {one_line(choice.why)}"
    return [beside] if len(beside) <= _WIDTH else [*_comment(choice.why, indent), line]


def _is_list_of_mappings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _flow(value: Any) -> str:
    """A value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=False, width=float("inf"))
    return text.removesuffix("...\n").strip()


def _comment(text: str, indent: str) -> list[str]:
    wrapped = textwrap.wrap(one_line(text), _WIDTH - len(indent) - 2, break_on_hyphens=False)
    return [f"{indent}# {line}" for line in wrapped]
