"""Files that a run reads are missed before its first stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from retro.cli.main import app
from retro.common.errors import ConfigError, DataError
from retro.run.config import RunConfig, load_run_config
from retro.run.execution import require_inputs
from retro.run.pipeline import STAGES
from tests.tiny_road import small_config

WIKIPEDIA = Path(__file__).parents[2] / "tools/retro/examples/configs/wikipedia.yaml"


def test_a_run_with_all_its_files_goes_ahead(tmp_path: Path) -> None:
    require_inputs(small_config(tmp_path), STAGES)
    require_inputs(RunConfig(), STAGES)


@pytest.mark.parametrize("name", ["text.jsonl", "train.json", "test.json"])
def test_a_missing_file_of_any_stage_is_named_with_where_it_comes_from(tmp_path: Path, name: str) -> None:
    config = small_config(tmp_path, "inputs_from=Get it  with `curl -O a`")
    (tmp_path / name).unlink()
    with pytest.raises(DataError) as caught:
        require_inputs(config, STAGES)
    assert str(caught.value).startswith(f"{tmp_path}/{name}: no such ")
    assert str(caught.value).endswith(". Get it with `curl -O a`")
    # Stages that do not read it do not miss it.
    require_inputs(config, [one for one in STAGES if one.name in ("db", "index", "pretrain")])
    with pytest.raises(DataError, match=r"no such (file or folder|question file)"):
        require_inputs(config.model_copy(update={"inputs_from": ""}), STAGES)


def test_text_without_questions_is_refused_before_it_trains_not_after(tmp_path: Path) -> None:
    config = small_config(tmp_path, "sft.data.sets=[]")
    with pytest.raises(ConfigError, match=r"sft\.data\.sets = \(\): needs a question file to tune on.*--until"):
        require_inputs(config, STAGES)
    require_inputs(config, STAGES[:6])


def test_the_wikipedia_run_says_at_once_what_to_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        app(["run", str(WIKIPEDIA)], standalone_mode=False)
    said = str(caught.value)
    assert said.startswith("data/wikipedia/corpus.jsonl: no such file or folder. Get it, and what else the run reads")
    assert "curl -LO http://curtis.ml.cmu.edu/datasets/hotpot/hotpot_dev_distractor_v1.json" in said
    assert "\n" not in said
    assert not (tmp_path / "runs").exists()


def test_what_the_wikipedia_run_says_to_call_is_there() -> None:
    script = "tools/retro/examples/convert_hotpotqa.py"
    assert script in load_run_config(WIKIPEDIA, []).inputs_from
    assert (WIKIPEDIA.parents[4] / script).is_file()
