"""A run directory as the stages leave it, with made-up numbers; for tests, and to look at the page:

`python -m tests.report.fake_run DIRECTORY` writes one with its report.html.
"""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.common.artifacts import Manifest, describe_files, write_manifest
from retro.common.files import write_json
from retro.evaluate.config import EvaluateConfig
from retro.evaluate.score import run as evaluate
from retro.qa.answer_files import Answer, answer_line, question_lines
from retro.qa.question import Context, Question

NAMES = ["os.path.join", "str.partition", "heapq.merge", "textwrap.dedent", "bisect.insort", "json.loads", "zip"]
TEXTS = [
    "Join two or more pathname components, inserting '/' as needed. If any component is an absolute path, all previous "
    "path components will be discarded.\n\nAn empty last part will result in a path that ends with a separator.",
    "Partition the string into three parts using the given separator. If the separator is found, returns a 3-tuple.",
    "Merge multiple sorted inputs into a single sorted output. Similar to sorted(itertools.chain(*iterables)).",
    "Remove any common leading whitespace from every line in `text`. This can be used to make triple-quoted strings.",
    "Insert item x in list a, and keep it sorted assuming a is sorted. If x is already in a, insert it to the right.",
    "Deserialize s (a str, bytes or bytearray instance containing a JSON document) to a Python object.",
    "The zip object yields n-length tuples, where n is the number of iterables passed as positional arguments.",
]
EVIL = "What does <script>alert('x')</script> & \"this\" do?"


def stage(
    run_dir: Path,
    folder: str,
    name: str,
    counts: Mapping[str, Any],
    report: Mapping[str, Any],
    files: Sequence[str] = (),
) -> Manifest:
    """Write manifest and report of a stage."""
    directory = run_dir / folder
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "report.json", report)
    return write_manifest(
        directory,
        Manifest(
            stage=name,
            config={"seed": 1234},
            parents={} if name == "corpus" else {"corpus": "0123456789abcdef"},
            counts=dict(counts),
            files=describe_files(directory, files),
        ),
    )


def write_data_stages(run_dir: Path) -> None:
    """Stages 1 to 4."""
    data_stage(
        run_dir,
        "1_corpus",
        900_000,
        {"documents": 2867, "tokens": 354_123},
        {"seconds": 7.9, "tokens_per_second": 44_800.0, "rejects": {"empty": 3, "too_short": 41}},
    )
    rows = {"rows": 6595, "rows_train": 6240, "rows_valid": 170, "rows_test": 185}
    data_stage(run_dir, "2_db", 150_000, rows, {"seconds": 0.8})
    parts = {"embed_seconds": 64.0, "index_seconds": 0.2, "rows_per_second": 102.7}
    data_stage(run_dir, "3_index", 510_000, {"rows": 6595, "dimension": 384}, parts)
    data_stage(run_dir, "4_neighbors", 880_000, {"chunks": 5870, "saved": 10}, {"seconds": 58.0})


def data_stage(run_dir: Path, folder: str, size: int, counts: Mapping[str, Any], report: Mapping[str, Any]) -> Manifest:
    """A stage with one file of `size` bytes."""
    (run_dir / folder).mkdir(parents=True, exist_ok=True)
    (run_dir / folder / "data.bin").write_bytes(bytes(size))
    return stage(run_dir, folder, folder[2:], counts, report, ["data.bin"])


def write_training(run_dir: Path, *, steps: int = 600) -> None:
    """Stages 5 and 6, with losses that fall."""
    noise = random.Random(5)
    for name, floor in (("retro", 5.24), ("gpt", 5.38), ("gpt_equal", 5.29)):
        write_log(run_dir / "5_pretrain" / name / "log.jsonl", floor, steps, noise)
    tuned = "retro-quickstart_pp1_same_format_ctx1_tiny_16_0.001"
    write_log(run_dir / "6_sft" / tuned / "log.jsonl", 2.9, steps // 2, noise)
    rows = [
        ("retro", "real", 191.5, 1_704_320),
        ("retro", "shuffled", 192.8, 1_704_320),
        ("retro", "none", 193.2, 1_704_320),
        ("gpt", "-", 217.1, 1_310_720),
        ("gpt_equal", "-", 197.4, 1_699_840),
    ]
    table = [
        {"model": m, "neighbors": n, "perplexity": p, "loss": math.log(p), "tokens": 17_000, "parameters": size}
        for m, n, p, size in rows
    ]
    write_json(run_dir / "5_pretrain" / "perplexity" / "perplexity.json", {"split": "valid", "rows": table})
    variants = {name: {"steps": steps, "parameters": 1_704_320} for name in ("retro", "gpt", "gpt_equal")}
    rates = {name: {"seconds": 71.3, "tokens_per_second": 9300.0} for name in variants}
    stage(run_dir, "5_pretrain", "pretrain", {"variants": variants}, {"seconds": 214.0, "variants": rates})
    stage(run_dir, "5_pretrain/perplexity", "perplexity", {"rows": 5}, {"seconds": 21.0, "tokens": 85_000})
    left_out = [{"name": "corpus", "skipped": {"question_too_long": 4}}]
    stage(run_dir, "6_sft", "sft", {"name": tuned}, {"seconds": 61.0, "sets": left_out})


def write_log(path: Path, floor: float, steps: int, noise: random.Random) -> None:
    """A training log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        loss = floor + 4 * math.exp(-step / (steps / 6)) + noise.gauss(0, 0.12)
        lines.append(
            {"step": step, "loss": loss, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_second": 4100.0, "samples": step * 8}
        )
        if step % max(1, steps // 12) == 0:
            lines.append({"step": step, "valid_loss": floor + 0.05 + 4 * math.exp(-step / (steps / 6))})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 99')


def write_answers(run_dir: Path, count: int = 120) -> Manifest:
    """Stage 7: passages often hold the answer, and sometimes the model copies it."""
    luck = random.Random(3)
    directory = run_dir / "7_generate"
    directory.mkdir(parents=True, exist_ok=True)
    asked = [_question(number) for number in range(count)]
    (directory / "questions.jsonl").write_text(question_lines(asked), encoding="utf-8")
    files = ["questions.jsonl"]
    for setting, share in (("with_passages", 0.4), ("closed_book", 0.08), ("shuffled_passages", 0.06)):
        lines = [answer_line(_answer(setting, share, n, one, luck)) for n, one in enumerate(asked)]
        (directory / f"{setting}.jsonl").write_text("".join(lines), encoding="utf-8")
        write_json(directory / f"{setting}.header.json", {"setting": setting, "metrics": ["exact_match", "f1"]})
        files += [f"{setting}.jsonl", f"{setting}.header.json"]
    return stage(run_dir, "7_generate", "generate", {"questions": count, "settings": 3}, {"seconds": 41.0}, files)


def _question(number: int) -> Question:
    name, text = NAMES[number % 7], TEXTS[number % 7]
    asked = EVIL if number == 2 else f"Which name does this describe? “{text.split('. ')[0]}.” (no. {number})"
    return Question(id=str(number), question=asked, answers=(name, name.split(".")[-1]), document_ids=(name,))


def _answer(setting: str, share: float, number: int, asked: Question, luck: random.Random) -> Answer:
    right = luck.random() < share
    shift = 3 if setting == "shuffled_passages" else int(luck.random() < 0.3)
    passages = tuple(
        Context(
            NAMES[place % 7],
            f"{NAMES[place % 7]}(…)\n\n{TEXTS[place % 7]}",
            NAMES[place % 7],
            0.81 - 0.1 * rank,
            40 * place,
        )
        for rank, place in enumerate((number + shift, number + 2))
    )
    return Answer(
        id=asked.id,
        question=asked.question,
        answers=asked.answers,
        prediction=asked.answers[0] if right else luck.choice(["str.join", "the path", "", "sorted list of items"]),
        passages=() if setting == "closed_book" else passages,
        setting=setting,
    )


def write_fake_run(run_dir: Path) -> Path:
    """A finished run with its report."""
    write_data_stages(run_dir)
    write_training(run_dir)
    write_answers(run_dir)
    evaluate(EvaluateConfig(), run_dir / "7_generate", run_dir / "8_evaluate", report=None, run_dir=run_dir)
    return run_dir / "report.html"


if __name__ == "__main__":
    print(write_fake_run(Path(sys.argv[1])))
