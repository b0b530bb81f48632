"""What was looked up for questions: supporting documents found hop by hop, how many hops, and what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from retro.qa.answer_files import Answer
from retro.qa.question import Question


def documents_found(hops: Sequence[Mapping[str, Any]], documents: Collection[str]) -> list[float]:
    """Share of the documents that are among the passages of the first hop, of the first two, and so on.

    Args:
        hops: Each with `passages`, which have `id` and `title`; a document is found by either.
        documents: Those that hold the answer; at least one.
    """
    found: set[str] = set()
    shares = []
    for hop in hops:
        names = {name for one in hop["passages"] for name in (one["id"], one["title"])}
        found |= names & set(documents)
        shares.append(len(found) / len(set(documents)))
    return shares


def hop_table(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, Any]:
    """Numbers of the hops of all questions.

    Args:
        questions: [N] with the documents that hold the answer, where known.
        answers: [N] with what was looked up, in their details.

    Returns:
        JSON values: `recall_after_hop` (mean share of supporting documents found after 1, 2, … hops, over all
        questions with such documents: one that made fewer hops keeps what it had), `counts` and `lines`.
    """
    details = [one.details["multi_hop"] for one in answers]
    pairs = zip(questions, details, strict=True)
    shares = [documents_found(mine["hops"], one.document_ids) for one, mine in pairs if one.document_ids]
    most = max((len(one) for one in shares), default=0)
    recall = [sum(_after(one, hop) for one in shares) / len(shares) for hop in range(most)]
    counts = _counts(details)
    lines = [
        f"{counts['several_hops']} of {len(details)} questions were answered in more than one hop, "
        f"{counts['failed']} have no answer",
        *(f"supporting documents found after hop {hop}: {100 * one:.1f} %" for hop, one in enumerate(recall, start=1)),
    ]
    return {"recall_after_hop": recall, "questions_with_documents": len(shares), "counts": counts, "lines": lines}


def _after(shares: Sequence[float], hop: int) -> float:
    return shares[min(hop, len(shares) - 1)] if shares else 0.0


def _counts(details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many hops were made, and notes and failures by their first word."""
    hops = Counter(len(one["hops"]) for one in details)
    notes = Counter(note.partition(":")[0] for one in details for note in one.get("notes", ()))
    failures = Counter(one["failed"].partition(":")[0] for one in details if one.get("failed"))
    routes = Counter(one["route"] for one in details if one.get("route"))
    found: dict[str, Any] = {
        "hops": {str(number): hops[number] for number in sorted(hops)},
        "several_hops": sum(count for number, count in hops.items() if number > 1),
        "notes": dict(sorted(notes.items())),
        "failed": sum(failures.values()),
        "failures": dict(sorted(failures.items())),
    }
    return found | ({"routes": dict(sorted(routes.items()))} if routes else {})
