#!/usr/bin/env python3
"""Turn a public HotpotQA file into a corpus and question files for `retro`, with a test part of exact size.

    python tools/retro/examples/convert_hotpotqa.py hotpot_dev_distractor_v1.json runs/hotpotqa/data

writes to the output folder
    corpus.jsonl                             one line per distinct paragraph: id, title, text
    qa_train.json qa_valid.json qa_test.json  questions with their answers, the paragraphs that came with them
                                             (ctxs; the supporting ones have "gold": true) and document_ids

Questions are split, paragraphs are not: a passage of any question may be retrieved for every other. The files are
the same in every run with the same seed. `retro sft convert hotpotqa` does the same without a test part.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from pathlib import Path

from retro.common.errors import RetroError
from retro.qa.formats.convert import convert_file
from retro.qa.formats.item import Options
from retro.qa.formats.registry import find_format
from retro.qa.formats.write import write_corpus, write_questions
from retro.qa.question import Question


def main() -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="a HotpotQA file (.json or .jsonl)")
    parser.add_argument("output", type=Path, help="folder for corpus.jsonl and qa_*.json")
    parser.add_argument("--seed", type=int, default=1234, help="decides which questions are held out")
    parser.add_argument("--valid", type=float, default=0.1, help="fraction of questions for validation")
    parser.add_argument("--test", type=float, default=0.2, help="fraction of questions for testing")
    parser.add_argument("--gold-first", action="store_true", help="put the supporting paragraphs first in ctxs")
    arguments = parser.parse_args()
    if min(arguments.valid, arguments.test) < 0 or arguments.valid + arguments.test >= 1:
        sys.exit("--valid and --test need to be fractions that leave something for training")
    try:
        made = convert_file(arguments.input, find_format("hotpotqa"), Options(), skip_bad=False)
    except RetroError as error:
        sys.exit(str(error))
    questions = [gold_first(one) for one in made.questions] if arguments.gold_first else made.questions
    write_corpus(arguments.output / "corpus.jsonl", made.documents)
    for part, mine in split(questions, arguments.seed, arguments.valid, arguments.test).items():
        write_questions(arguments.output / f"qa_{part}.json", mine)
    print(f"{len(made.documents)} paragraphs, {len(questions)} questions")


def gold_first(question: Question) -> Question:
    """The question with its supporting paragraphs before the others."""
    ordered = sorted(question.contexts, key=lambda context: context.document_id not in question.document_ids)
    return dataclasses.replace(question, contexts=tuple(ordered))


def split(questions: list[Question], seed: int, valid: float, test: float) -> dict[str, list[Question]]:
    """Questions of each part, in file order: those whose ids have the least hashes are held out."""
    order = sorted(range(len(questions)), key=lambda n: draw(f"{seed} {questions[n].id} {n}"))
    valid_count, test_count = round(valid * len(questions)), round(test * len(questions))
    parts = dict.fromkeys(order, "train")
    parts |= dict.fromkeys(order[:valid_count], "valid")
    parts |= dict.fromkeys(order[valid_count : valid_count + test_count], "test")
    return {
        part: [question for n, question in enumerate(questions) if parts[n] == part]
        for part in ("train", "valid", "test")
    }


def draw(key: str) -> bytes:
    """A fixed pseudo-random value for a key, the same in every Python."""
    return hashlib.sha256(key.encode()).digest()


if __name__ == "__main__":
    main()
