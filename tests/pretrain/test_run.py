"""The pretraining stage and perplexity on a small corpus: variants, resume, refusals."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from retro.common.artifacts import read_manifest, write_manifest
from retro.common.errors import ArtifactError, ConfigError, RetroError, TrainingError
from retro.common.files import read_json
from retro.common.precision import Hardware
from retro.pretrain import perplexity
from retro.run.config import RunConfig
from retro.run.pipeline import stage
from retro.run.status import status_of
from retro.training.log import read_log
from tests.tiny_road import run_stages, small_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose run has all three models and their perplexities."""
    folder = tmp_path_factory.mktemp("trained")
    config = small_config(folder, "pretrain.baselines=[gpt, gpt_equal]")
    run_stages(config, "corpus", "db", "index", "neighbors", "pretrain", "perplexity")
    return folder


def config_of(folder: Path, *overrides: str) -> RunConfig:
    return small_config(folder, "pretrain.baselines=[gpt, gpt_equal]", *overrides)


def copy(trained: Path, to: Path) -> Path:
    shutil.copytree(trained, to / "copy")
    return to / "copy"


def test_every_variant_is_trained_and_the_gpt_of_equal_parameters_has_as_many(trained: Path) -> None:
    counts = json.loads((trained / "run/5_pretrain/manifest.json").read_text())["counts"]["variants"]
    assert sorted(counts) == ["gpt", "gpt_equal", "retro"]
    assert counts["gpt"]["parameters"] < counts["retro"]["parameters"]
    assert counts["gpt_equal"]["parameters"] == pytest.approx(counts["retro"]["parameters"], rel=0.01)


def test_perplexity_has_a_row_for_each_model_and_kind_of_neighbors(trained: Path) -> None:
    table = json.loads((trained / "run/5_pretrain/perplexity/perplexity.json").read_text())
    found = [(row["model"], row["neighbors"]) for row in table["rows"]]
    assert found == [("gpt", "-"), ("gpt_equal", "-"), ("retro", "real"), ("retro", "shuffled"), ("retro", "none")]
    assert len({row["tokens"] for row in table["rows"]}) == 1
    for row in table["rows"]:
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]))


def test_a_complete_stage_is_skipped_and_another_setting_is_refused(trained: Path, tmp_path: Path) -> None:
    folder = copy(trained, tmp_path)
    # The copy's corpus names its text file by its old path, which is gone: only what reads the run matters here.
    config = config_of(folder)
    before = (folder / "run/5_pretrain/manifest.json").read_bytes()
    run_stages(config, "pretrain")
    assert (folder / "run/5_pretrain/manifest.json").read_bytes() == before
    with pytest.raises(ArtifactError, match=r"train\.lr was 0\.0006, now 0\.1"):
        stage("pretrain").run(config_of(folder, "train.lr=0.1"))


def test_a_variant_that_was_stopped_goes_on_and_finished_ones_are_kept(trained: Path, tmp_path: Path) -> None:
    folder = copy(trained, tmp_path)
    truth = json.loads((folder / "run/5_pretrain/manifest.json").read_text())
    for name in ("manifest.json", "retro/result.json"):
        (folder / "run/5_pretrain" / name).unlink()
    shutil.rmtree(folder / "run/5_pretrain/retro/checkpoints/step_00000006")
    gpt_log = (folder / "run/5_pretrain/gpt/log.jsonl").stat().st_mtime_ns
    run_stages(config_of(folder), "pretrain")
    assert json.loads((folder / "run/5_pretrain/manifest.json").read_text()) == truth
    assert (folder / "run/5_pretrain/gpt/log.jsonl").stat().st_mtime_ns == gpt_log
    steps = [line["step"] for line in read_log(folder / "run/5_pretrain/retro/log.jsonl") if "loss" in line]
    assert steps == sorted(set(steps))


def test_a_stopped_run_refuses_to_go_on_under_other_settings(trained: Path, tmp_path: Path) -> None:
    folder = copy(trained, tmp_path)
    (folder / "run/5_pretrain/manifest.json").unlink()
    with pytest.raises(
        ArtifactError, match=r"config.json: was made under other settings: .*train.seed was 1234, now 8"
    ):
        stage("pretrain").run(config_of(folder, "train.seed=8"))


def pretrained_bytes(run: Path) -> dict[str, bytes]:
    """What two runs of the same settings have in common: all but rates.

    torch's table of contents of a checkpoint is a pickle, which says which equal words were one object in memory.
    """
    root, table = run / "5_pretrain", ".metadata"
    others = {table, "checkpoint.json", ".verified.json"}
    kept = sorted(path for path in root.rglob("step_00000010/**/*") if path.is_file() and path.name not in others)
    kept += [root / "manifest.json", root / "perplexity/manifest.json", root / "perplexity/perplexity.json"]
    found = {str(path.relative_to(root)): path.read_bytes() for path in kept}
    for path in root.rglob("step_00000010/checkpoint.json"):
        described = read_json(path, "")
        del described["files"][table]
        found[str(path.relative_to(root))] = json.dumps(described).encode()
    return found


CONSTANT = ("train.schedule=constant", "pretrain.baselines=[gpt]")


def test_a_finished_run_whose_steps_are_raised_ends_as_one_that_had_them_from_the_start(tmp_path: Path) -> None:
    config = small_config(tmp_path, *CONSTANT, "train.steps=10")
    run_stages(config, "corpus", "db", "index", "neighbors")
    shutil.copytree(tmp_path / "run", tmp_path / "longer")
    run_stages(config, "pretrain", "perplexity")
    for steps in (6, 10):
        longer = small_config(tmp_path, *CONSTANT, f"train.steps={steps}", run="longer", write=False)
        run_stages(longer, "pretrain", "perplexity")
    assert pretrained_bytes(tmp_path / "longer") == pretrained_bytes(tmp_path / "run")
    assert len(pretrained_bytes(tmp_path / "run")) > 6


def test_a_lengthened_run_that_is_stopped_is_not_complete_and_goes_on(trained: Path, tmp_path: Path) -> None:
    folder = copy(trained, tmp_path)
    longer, retro = config_of(folder, "train.steps=8"), folder / "run/5_pretrain/retro"

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("retro.training.checkpoint_writer.CheckpointWriter.save", stop)
        stage("pretrain").run(longer)
    assert not (folder / "run/5_pretrain/manifest.json").exists()
    assert not (folder / "run/5_pretrain/gpt/result.json").exists()
    assert (retro / "result.json").exists()  # its turn had not come
    run_stages(longer, "pretrain")
    assert json.loads((retro / "result.json").read_text())["steps"] == 8
    with pytest.raises(ConfigError, match=r"train\.steps = 7: needs at least 8, the steps that .*5_pretrain has taken"):
        stage("pretrain").run(config_of(folder, "train.steps=7"))


def test_a_finished_run_keeps_its_schedule_unless_it_is_lengthened(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"train\.decay_steps was 6, now 9\. Use another run_dir, or add --redo"):
        stage("pretrain").run(config_of(copy(trained, tmp_path), "train.decay_steps=9"))
    with pytest.raises(ConfigError, match=r"train\.steps = 5: needs at least 6"):
        stage("pretrain").run(config_of(trained, "train.steps=5"))


def states(config: RunConfig) -> dict[str, str]:
    """What is said of the stages that have weights."""
    found = {one.stage: one.state for one in status_of(config, compare_settings=False)}
    return {name: found[name] for name in ("pretrain", "perplexity", "sft")}


def test_what_a_lengthened_run_was_measured_and_tuned_to_is_measured_again_and_named(
    trained: Path, tmp_path: Path
) -> None:
    folder = copy(trained, tmp_path)
    run_stages(config_of(folder), "sft")
    assert states(config_of(folder)) == {"pretrain": "done", "perplexity": "done", "sft": "done"}
    before = json.loads((folder / "run/5_pretrain/perplexity/perplexity.json").read_text())["rows"]
    longer = config_of(folder, "train.steps=8")
    run_stages(longer, "pretrain")
    assert states(longer) == {"pretrain": "done", "perplexity": "stale", "sft": "stale"}
    run_stages(longer, "perplexity")
    assert states(longer) == {"pretrain": "done", "perplexity": "done", "sft": "stale"}
    after = json.loads((folder / "run/5_pretrain/perplexity/perplexity.json").read_text())["rows"]
    assert [row["model"] for row in after] == [row["model"] for row in before]
    assert all(now["loss"] != then["loss"] for now, then in zip(after, before, strict=True))
    words = (
        r"6_sft/manifest\.json: was tuned from other weights \(\w{16}; those here are \w{16}\).*Run `retro sft` with"
    )
    with pytest.raises(ArtifactError, match=words):
        stage("sft").run(longer)
    (folder / "run/6_sft/manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"config\.json: was tuned from other weights"):
        stage("sft").run(longer)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("db.chunk_length=8", "2_db.*chunk_length was 16, now 8"),
        ("corpus.tokenizer.vocab_size=320", "1_corpus.*tokenizer.vocab_size was 400, now 320"),
        ("corpus.split=[0.7, 0.2, 0.1]", r"1_corpus.*split was \[0.8, 0.1, 0.1\], now \[0.7, 0.2, 0.1\]"),
    ],
)
def test_an_artifact_made_under_other_settings_is_named(trained: Path, override: str, words: str) -> None:
    config = config_of(trained, override)
    with pytest.raises(RetroError, match=words):
        run_stages(config, "corpus", "db")


@pytest.mark.parametrize("override", ["corpus.tokenizer.vocab_size=320", "corpus.split=[0.7, 0.2, 0.1]"])
def test_pretraining_refuses_data_that_the_database_was_not_made_from(
    trained: Path, tmp_path: Path, override: str
) -> None:
    folder = copy(trained, tmp_path)
    (folder / "run/5_pretrain/manifest.json").unlink()
    shutil.rmtree(folder / "run/1_corpus")
    config = config_of(folder, override)
    run_stages(config, "corpus")
    with pytest.raises(
        ArtifactError, match=r"2_db/manifest.json: was made from corpus \w+, but the corpus here is \w+"
    ):
        stage("pretrain").run(config)


def test_a_model_of_another_tokenizer_is_not_measured(trained: Path, tmp_path: Path) -> None:
    other = config_of(tmp_path, "corpus.tokenizer.vocab_size=320")
    run_stages(other, "corpus", "db", "index", "neighbors")
    corpus, db, neighbors = (stage(name).path(other) for name in ("corpus", "db", "neighbors"))
    with pytest.raises(TrainingError, match=r"was trained with tokenizer \w+, the data here has \w+"):
        perplexity.run(
            other.perplexity,
            other.parallel,
            {"gpt": trained / "run/5_pretrain/gpt"},
            corpus,
            db,
            neighbors,
            tmp_path / "out",
        )


def test_training_reads_as_many_neighbors_as_it_likes_up_to_those_saved(trained: Path, tmp_path: Path) -> None:
    # Three are saved; the other tests train with two.
    folder = copy(trained, tmp_path)
    shutil.rmtree(folder / "run/5_pretrain")
    for neighbors in (1, 3):
        override = f"model.neighbors={neighbors}"
        run_stages(small_config(folder, override, "train.steps=2"), "pretrain")
        shutil.rmtree(folder / "run/5_pretrain")
    with pytest.raises(ConfigError, match=r"neighbors\.saved = 3: needs to be at least 4, as many neighbors as"):
        run_stages(small_config(folder, "model.neighbors=4", "train.steps=2"), "pretrain")


def on_a_machine(monkeypatch: pytest.MonkeyPatch, *, multiplies: bool) -> None:
    monkeypatch.setattr("retro.common.precision.find_hardware", lambda: Hardware(multiplies, "this CPU is such"))


def test_a_run_goes_on_in_the_precision_that_it_was_begun_in(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, out = copy(trained, tmp_path), "5_pretrain"
    shutil.rmtree(folder / "run" / out)
    config = config_of(folder, "pretrain.baselines=[gpt]")
    with monkeypatch.context() as patch:
        on_a_machine(patch, multiplies=True)
        run_stages(config, "pretrain")
    weights = json.loads((folder / "run" / out / "manifest.json").read_text())
    assert weights["config"]["train"]["precision"] == "bfloat16"
    # The GPT is kept, the Retro begins again, on a machine where auto is float32.
    shutil.rmtree(folder / "run" / out / "retro")
    (folder / "run" / out / "manifest.json").unlink()
    on_a_machine(monkeypatch, multiplies=False)
    run_stages(config, "pretrain")
    assert json.loads((folder / "run" / out / "manifest.json").read_text()) == weights
    report = json.loads((folder / "run" / out / "report.json").read_text())
    assert (report["precision"], report["precision_reason"]) == ("bfloat16", "auto, and it was begun in that")
    (warning,) = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert "train.precision: training in bfloat16 takes about 20 times as long as in float32 here" in warning
    # It is whole; auto asks for nothing else, and a precision by name does.
    run_stages(config, "pretrain")
    with pytest.raises(ArtifactError, match=r"train\.precision was 'bfloat16', now 'float32'"):
        run_stages(config_of(folder, "pretrain.baselines=[gpt]", "train.precision=float32"), "pretrain")


def test_perplexity_says_what_it_was_computed_in(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy(trained, tmp_path)
    out = folder / "run/5_pretrain/perplexity"
    before = json.loads((out / "perplexity.json").read_text())
    assert before["precision"] == "float32"
    on_a_machine(monkeypatch, multiplies=True)
    run_stages(config_of(folder), "perplexity")
    assert json.loads((out / "perplexity.json").read_text()) == before
    shutil.rmtree(out)
    run_stages(config_of(folder), "perplexity")
    after = json.loads((out / "perplexity.json").read_text())
    assert json.loads((out / "report.json").read_text())["precision"] == after["precision"] == "bfloat16"
    losses = [[row["loss"] for row in table["rows"]] for table in (before, after)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_perplexity_of_an_older_toolkit_was_in_float32(trained: Path, tmp_path: Path) -> None:
    folder = copy(trained, tmp_path)
    out = folder / "run/5_pretrain/perplexity"
    manifest = read_manifest(out, "perplexity")
    del manifest.config["perplexity"]["precision"]
    write_manifest(out, manifest)
    run_stages(config_of(folder), "perplexity")
    run_stages(config_of(folder, "perplexity.precision=float32"), "perplexity")
    with pytest.raises(ArtifactError, match=r"perplexity\.precision was 'float32', now 'bfloat16'"):
        run_stages(config_of(folder, "perplexity.precision=bfloat16"), "perplexity")
