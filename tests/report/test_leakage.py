from __future__ import annotations

from pathlib import Path
from typing import Any

from retro.common.artifacts import read_manifest
from retro.common.files import write_json
from retro.report.run_report import run_page
from retro.report.run_summary import summarize
from tests.report.fake_run import write_fake_run


def result(run_dir: Path, **changes: Any) -> dict[str, Any]:
    """Two alphas; of 300 chunks, 240 up to the first."""
    rows = [
        {"model": model, "neighbors": given, "points": [point(0.5, 240, low), point(1.0, 300, high)]}
        for model, given, low, high in (("gpt", "-", 1.75, 1.5), ("retro", "real", 1.625, 1.25))
    ]
    measure = {"histogram": [240, 60], "rows": rows}
    return {
        "split": "valid",
        "chunks": 300,
        "alphas": [0.5, 1.0],
        "measures": dict.fromkeys(("training", "neighbors", "read"), measure),
        "chunks_left_out": 7,
        "neighbors_saved": 10,
        "neighbors_read": 2,
        "sentences": ["60 of 300 chunks <leak>."],
        "perplexity": read_manifest(run_dir / "5_pretrain/perplexity", "perplexity").fingerprint,
    } | changes


def point(alpha: float, chunks: int, bits: float) -> dict[str, Any]:
    return {"alpha": alpha, "chunks": chunks, "bits_per_byte": bits}


def page_of(run_dir: Path) -> str:
    page = run_page(summarize(run_dir), 1)
    return page[page.index('id="leakage"') : page.index('id="answers"')]


def test_leakage_has_a_section_with_its_sentences_curves_and_counts(tmp_path: Path) -> None:
    write_fake_run(tmp_path)
    write_json(tmp_path / "leakage/leakage.json", result(tmp_path))
    page = page_of(tmp_path)
    assert "60 of 300 chunks &lt;leak&gt;." in page
    assert "Retro, real neighbors, α 0.5: 1.625" in page
    assert "GPT, α 1: 1.500" in page
    assert '<td>0 to 0.5</td><td class="n">240 (80.0 %)</td>' in page
    assert "7 chunks were not predicted whole" in page
    assert "other perplexities" not in page


def test_leakage_of_another_training_is_said_to_be_so(tmp_path: Path) -> None:
    write_fake_run(tmp_path)
    write_json(tmp_path / "leakage/leakage.json", result(tmp_path, perplexity="0123456789abcdef"))
    assert "This was measured with other perplexities than those above" in page_of(tmp_path)


def test_overlaps_without_a_model_have_no_curve(tmp_path: Path) -> None:
    write_fake_run(tmp_path)
    bare = {"histogram": [1, 2], "rows": []}
    write_json(
        tmp_path / "leakage/leakage.json",
        result(tmp_path, perplexity=None, measures=dict.fromkeys(("training", "neighbors", "read"), bare)),
    )
    page = page_of(tmp_path)
    assert "<svg" not in page
    assert "other perplexities" not in page


def test_leakage_that_was_not_measured_is_no_fault_of_the_run(tmp_path: Path) -> None:
    write_fake_run(tmp_path)
    page = page_of(tmp_path)
    assert "Not measured. <code>retro leakage</code>" in page
    assert "lack" not in page
