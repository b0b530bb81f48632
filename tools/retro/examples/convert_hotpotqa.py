#!/usr/bin/env python3
"""Turn a public HotpotQA file into a corpus and question files for `retro`. Needs only Python.

    python tools/retro/examples/convert_hotpotqa.py hotpot_dev_distractor_v1.json runs/hotpotqa/data

writes to the output folder
    corpus.jsonl                             one line per distinct paragraph: id, title, text
    qa_train.json qa_valid.json qa_test.json  questions with their answers, the paragraphs that came with them
                                             (ctxs; the supporting ones have "gold": true) and document_ids

Questions are split, paragraphs are not: a passage of any question may be retrieved for every other. The files are
the same in every run with the same seed. Both layouts in circulation are read: the original JSON
({"context": [[title, [sentence, ...]], ...]}) and the one with columns ({"context": {"title": [...], "sentences":
[...]}}), as one JSON list or one object per line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

PARTS = ("train", "valid", "test")


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
    documents = Documents()
    questions, unanswered = [], 0
    for number, item in enumerate(read_items(arguments.input)):
        try:
            question = convert(item, number, documents, gold_first=arguments.gold_first)
        except (KeyError, TypeError, ValueError) as error:
            sys.exit(f"{arguments.input}: item {number} is not a HotpotQA question ({error!r})")
        if question["answers"]:
            questions.append(question)
        else:
            unanswered += 1
    if not questions:
        sys.exit(f"{arguments.input}: holds no question with an answer")
    write(arguments.output, documents, split(questions, arguments.seed, arguments.valid, arguments.test))
    print(f"{len(documents.ids)} paragraphs, {len(questions)} questions, {unanswered} without an answer left out")


def read_items(path: Path) -> list[Any]:
    """All items of a JSON list, or of a file with one object per line."""
    try:
        text = path.read_text(encoding="utf-8")
        if text.lstrip().startswith("["):
            return list(json.loads(text))
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: cannot be read as JSON ({error})")


def convert(item: dict[str, Any], number: int, documents: Documents, *, gold_first: bool = False) -> dict[str, Any]:
    """One question in the form that `retro` reads; its paragraphs join `documents`."""
    supporting = set(gold_titles(item.get("supporting_facts") or []))
    contexts = []
    for title, text in paragraphs(item["context"]):
        identifier = documents.id_of(title, text)
        contexts.append({"document_id": identifier, "title": title, "text": text, "gold": title in supporting})
    if gold_first:
        contexts.sort(key=lambda context: not context["gold"])
    answer = item.get("answer")
    return {
        "id": str(item.get("_id") or item.get("id") or number),
        "question": str(item["question"]).strip(),
        "answers": [str(answer).strip()] if answer is not None and str(answer).strip() else [],
        "ctxs": contexts,
        "document_ids": list(dict.fromkeys(c["document_id"] for c in contexts if c["gold"])),
    }


def paragraphs(context: Any) -> list[tuple[str, str]]:
    """(title, text) of each paragraph, from either layout."""
    if isinstance(context, dict):
        context = list(zip(context["title"], context["sentences"], strict=True))
    found = [(str(title).strip(), " ".join(sentence.strip() for sentence in sentences)) for title, sentences in context]
    return [(title, text) for title, text in found if text]


def gold_titles(facts: Any) -> list[str]:
    """Titles of the supporting paragraphs, from either layout."""
    if isinstance(facts, dict):
        return [str(title).strip() for title in facts["title"]]
    return [str(title).strip() for title, _ in facts]


class Documents:
    """Distinct paragraphs in order of appearance, each with an id of its own."""

    def __init__(self) -> None:
        self.ids: dict[tuple[str, str], str] = {}
        self._taken: set[str] = set()

    def id_of(self, title: str, text: str) -> str:
        """The paragraph's id: its title, numbered from the second text under one title on."""
        if (title, text) not in self.ids:
            number, identifier = 1, title
            while identifier in self._taken:
                number += 1
                identifier = f"{title} #{number}"
            self._taken.add(identifier)
            self.ids[title, text] = identifier
        return self.ids[title, text]


def split(questions: list[dict[str, Any]], seed: int, valid: float, test: float) -> dict[str, list[dict[str, Any]]]:
    """Questions of each part, in file order, drawn by a hash of their id."""
    order = sorted(range(len(questions)), key=lambda n: draw(f"{seed} {questions[n]['id']} {n}"))
    valid_count, test_count = round(valid * len(questions)), round(test * len(questions))
    parts = dict.fromkeys(order, "train")
    parts |= dict.fromkeys(order[:valid_count], "valid")
    parts |= dict.fromkeys(order[valid_count : valid_count + test_count], "test")
    return {part: [question for n, question in enumerate(questions) if parts[n] == part] for part in PARTS}


def draw(key: str) -> bytes:
    """A fixed pseudo-random value for a key, the same in every Python."""
    return hashlib.sha256(key.encode()).digest()


def write(folder: Path, documents: Documents, parts: dict[str, list[dict[str, Any]]]) -> None:
    """Write the corpus and the question files."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as out:
        for (title, text), identifier in documents.ids.items():
            out.write(json.dumps({"id": identifier, "title": title, "text": text}, ensure_ascii=False) + "\n")
    for part, questions in parts.items():
        text = json.dumps(questions, ensure_ascii=False, indent=1) + "\n"
        (folder / f"qa_{part}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
