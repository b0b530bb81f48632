"""The notebook runs from its first cell to its last, and so do the Python blocks of the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from retro import Run
from retro.run.config import as_yaml
from tests.tiny_road import small_config
from tests.tokenizers.chat_model import make_chat_model

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE, NOTEBOOK = ROOT / "docs/api.md", ROOT / "docs/notebooks/api.ipynb"


def test_the_blocks_of_the_page_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    config = small_config(tmp_path, "index.keep_embeddings=true")
    (tmp_path / "run.yaml").write_text(as_yaml(config), encoding="utf-8")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/harbor.md").write_text("The lighthouse was built in 1887 by Mairi Strand.\n")
    make_chat_model(tmp_path / "my-model")
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    assert len(blocks) == 8
    assert [names["run"].status()[name] for name in ("perplexity", "sft", "generate")] == ["done", "done", "missing"]
    assert len(names["losses"]) == 2 and names["losses"][1] < names["losses"][0]
    assert names["vectors"].shape == (2, 128)
    assert len(names["answers"]) == 2 and len(names["scores"]) == 2
    assert isinstance(names["notes"], Run)
    assert "train.lrr = 0.0001: is not a setting; did you mean 'lr'?" in capsys.readouterr().out


def test_lines_of_the_page_fit_a_screen() -> None:
    assert [line for line in PAGE.read_text(encoding="utf-8").splitlines() if len(line) > 120] == []


def read_notebook() -> Any:
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_stored_without_what_it_printed() -> None:
    code = [cell for cell in read_notebook().cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)
    lines = [line for cell in read_notebook().cells for line in cell.source.splitlines()]
    assert [line for line in lines if len(line) > 120] == []


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name, value in (
        ("PYTHONPATH", str(ROOT)),
        ("TMPDIR", str(tmp_path)),
        ("IPYTHONDIR", str(tmp_path / "ipython")),
    ):
        monkeypatch.setenv(name, value)
    notebook = read_notebook()
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = [
        "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    (missing, done) = (text for text in said if "'corpus'" in text)
    assert missing.count("'missing'") == 9 and done.count("'done'") == 6
    losses = next(re.findall(r"[\d.]+", text) for text in said if text.startswith("loss of the first line"))
    assert float(losses[1]) < float(losses[0])
    (found,) = (text for text in said if text.count("(doc-") == 3)
    assert "Abermoor" in found.splitlines()[0]
    assert said[-1].count("'Linnet': -") == 2
