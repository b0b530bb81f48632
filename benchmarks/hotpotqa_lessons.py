"""Reading lessons for a small model: sentences of HotpotQA paragraphs with a gap, the paragraph and another beside it.

    python -m benchmarks.hotpotqa_lessons data/wikipedia

reads what `tools/retro/examples/convert_hotpotqa.py` wrote there, and writes beside it
    lessons.json  lessons_dev.json           gaps, in paragraphs of training questions only
    gold_train.json gold_valid.json gold_test.json   the questions with their supporting paragraphs alone, in any order
"""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

PARTS = ("train", "valid", "test")
HELD_OUT, GAPS_IN_A_SENTENCE, LONGEST_SENTENCE = 200, 3, 220
# Names and numbers within a sentence: what questions ask for.
_GAP = re.compile(r"(?<=[a-z,] )(?:[A-Z][\w'.-]+(?: (?:of |the |and |de )?[A-Z][\w'.-]+)*|\d[\d,.]*\d)(?=[ ,.;)])")


def lessons_of(paragraphs: dict[str, dict[str, Any]], random_: random.Random) -> list[dict[str, Any]]:
    """Questions in the toolkit's form: a sentence with a gap, what was there, two passages."""
    names = sorted(paragraphs)
    items: list[dict[str, Any]] = []
    for name in names:
        own = paragraphs[name]
        for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", own["text"]):
            gaps = [m for m in _GAP.finditer(sentence) if m.group() not in own["title"] and len(m.group()) > 2]
            random_.shuffle(gaps)
            for gap in gaps[:GAPS_IN_A_SENTENCE] if len(sentence) <= LONGEST_SENTENCE else []:
                shown = [own, paragraphs[random_.choice(names)]]
                random_.shuffle(shown)
                items.append(
                    {
                        "id": f"{name}/{len(items)}",
                        "question": f"{sentence[: gap.start()]}____{sentence[gap.end() :]}",
                        "answers": [gap.group().rstrip(".,")],
                        "ctxs": [{"title": one["title"], "text": one["text"]} for one in shown],
                    }
                )
    random_.shuffle(items)
    return items


def main() -> None:
    """Read the folder's question files and write the lessons beside them."""
    folder, random_ = Path(sys.argv[1]), random.Random(7)
    questions = {part: json.loads((folder / f"qa_{part}.json").read_text()) for part in PARTS}
    held = {c["document_id"] for part in ("valid", "test") for q in questions[part] for c in q["ctxs"]}
    paragraphs = {c["document_id"]: c for q in questions["train"] for c in q["ctxs"] if c["document_id"] not in held}
    lessons = lessons_of(paragraphs, random_)
    (folder / "lessons.json").write_text(json.dumps(lessons[HELD_OUT:]))
    (folder / "lessons_dev.json").write_text(json.dumps(lessons[:HELD_OUT]))
    for part in PARTS:
        for question in questions[part]:
            question["ctxs"] = [context for context in question["ctxs"] if context["gold"]]
            random_.shuffle(question["ctxs"])
        (folder / f"gold_{part}.json").write_text(json.dumps(questions[part]))
    print(f"{len(paragraphs)} paragraphs, {len(lessons)} lessons")


if __name__ == "__main__":
    main()
