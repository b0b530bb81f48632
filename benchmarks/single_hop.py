"""SmolLM2-135M on questions that one passage answers, made by patterns from real text.

    python -m benchmarks.single_hop runs/people wikipedia hotpot_dev_distractor_v1.json
    python -m benchmarks.single_hop runs/manual man /usr/share/man

Asked as the quickstart asks its own, one BM25 passage in the prompt; scores go to DIR/scores.json. Questions were made
without looking at what any model answers, and none was left out.

wikipedia: introductions in a file of HotpotQA; years of birth, directors, authors, years of films. man: the sections
of manual pages; which header declares a function.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from retro.common.files import atomic_path, write_plain_json
from retro.quickstart.acts import Options
from retro.quickstart.answers import answer, rows, tests_in_words

_BORN = re.compile(
    r"^(?P<who>[A-Z][^(),]{3,40}) \([^()]*?\b(?:born )?(?:\w+ \d{1,2}, |\d{1,2} \w+ )(?P<year>1[89]\d\d)\b[^()]*\) "
    r"(?:is|was) "
)
_WHAT = r"^(?P<what>[A-Z][^,]{2,60}?) is an?"
_MADE = re.compile(_WHAT + r" (?P<year>19\d\d|20\d\d) [^.]*?\b(?:film|album|novel|song|video game)\b")
_BY = re.compile(_WHAT + r" [^.]*?\b(?P<how>directed|written) by (?P<who>[A-Z][\w.'-]+(?: [A-Z][\w.'-]+){1,2})")
_PATTERNS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], tuple[str, str]]], ...] = (
    (_BORN, lambda found: (f"In which year was {found['who'].strip()} born?", found["year"])),
    (_MADE, lambda found: (f"In which year did {found['what'].strip()} come out?", found["year"])),
    (_BY, lambda found: (f"Who is {found['what'].strip()} {found['how']} by?", found["who"])),
)
_INCLUDE = re.compile(r"#include <([\w/.]+)>")
_MACRO = re.compile(r"^\.(?:B|BI|BR|I|IR|RB|RI|TP|SM|SB|PP|P|nf|fi|in|TH|PD|EX|EE|RS|RE|BI)\b ?(.*)")


def wikipedia(source: Path) -> Iterator[tuple[dict[str, str], list[tuple[str, str]]]]:
    """Introductions, each once, with the questions that it answers."""
    seen = set[str]()
    for item in json.loads(source.read_text(encoding="utf-8")):
        for title, sentences in item["context"]:
            text = "".join(sentences).strip()
            if text in seen:
                continue
            seen.add(text)
            asked = [make(found) for pattern, make in _PATTERNS if (found := pattern.search(text))]
            yield {"id": f"{title}#{len(seen)}", "title": title, "text": text}, asked


def man(source: Path) -> Iterator[tuple[dict[str, str], list[tuple[str, str]]]]:
    """Sections of the manual's chapters 2 and 3; a SYNOPSIS with a single header answers a question."""
    for path in sorted([*source.glob("man2/*.2.gz"), *source.glob("man3/*.3.gz")]):
        name = path.name.split(".")[0]
        page = gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace")
        for heading, text in _sections(page):
            headers = _INCLUDE.findall(text)
            whole = heading == "SYNOPSIS" and len(set(headers)) == 1 and not name.startswith("_")
            asked = [(f"Which header file does the synopsis of {name} include?", headers[0])] if whole else []
            yield {"id": f"{path.name}#{heading}", "title": name, "text": f"{name}, {heading.lower()}: {text}"}, asked


def _sections(page: str) -> Iterator[tuple[str, str]]:
    heading, kept = "", list[str]()
    for line in [*page.splitlines(), ".SH END"]:
        if line.startswith(".SH"):
            text = " ".join(" ".join(kept).split())
            if heading and text:
                yield heading, text[:3000]
            heading, kept = line[3:].strip().strip('"'), []
            continue
        macro = _MACRO.match(line)
        if macro or not line.startswith((".", "'")):
            text = macro[1] if macro else line
            kept.append(re.sub(r"\\f[BIRP]|\\&|\\c", "", text).replace('"', "").replace("\\-", "-"))


def main() -> None:
    """Write documents.jsonl and questions.json, have them answered, and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("kind", choices=("wikipedia", "man"))
    parser.add_argument("source", type=Path)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    made, documents, asked_before = [], 0, set[str]()
    wanted.out.mkdir(parents=True, exist_ok=True)
    with atomic_path(wanted.out / "documents.jsonl") as temporary, temporary.open("w", encoding="utf-8") as target:
        for document, asked in {"wikipedia": wikipedia, "man": man}[wanted.kind](wanted.source):
            target.write(json.dumps(document) + "\n")
            documents += 1
            for number, (question, gold) in enumerate(asked):
                if question not in asked_before:
                    asked_before.add(question)
                    made.append(_record(f"{document['id']}?{number}", question, gold, document))
    drawn = random.Random(wanted.seed).sample(made, min(wanted.questions, len(made)))
    write_plain_json(wanted.out / "questions.json", drawn)
    counts = {"documents": documents, "questions_made": len(made), "drawn": len(drawn), "seed": wanted.seed}
    scores = answer(Options(out=wanted.out))
    write_plain_json(wanted.out / "scores.json", counts | scores)
    for row in rows(scores):
        print(*row, sep="  ")
    print(*tests_in_words(scores), sep="\n")


def _record(name: str, question: str, gold: str, document: dict[str, str]) -> dict[str, object]:
    ids = [document["id"]]
    return {"id": name, "question": question, "answers": [gold], "document_ids": ids, "ctxs": [document]}


if __name__ == "__main__":
    main()
