"""The scripts that users of the original know: each ends in one command, printed before it is run."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from retro.run.config import RunConfig, load_run_config
from retro.run.pipeline import STAGES, stages_until
from retro.sft.tune import tuned_name
from retro.training.config import LoraConfig

ROOT = Path(__file__).parents[2]
PREPROCESS = "tools/retro/examples/preprocess_data.sh"
PRETRAIN = "tools/retro/examples/pretrain_model.sh"
TUNE = "tools/retro/sft/sft_retro_lm.sh"
GENERATE = "tools/retro/text_generation/retro_generate.sh"
EVALUATE = "tools/retro/text_generation/evaluate.sh"
QUICKSTART = "tools/retro/examples/configs/pystdlib.yaml"
SCRIPTS = (PREPROCESS, PRETRAIN, TUNE, GENERATE, EVALUATE)
VARIABLES = (
    "CONFIG RUN_DIR DATA NPROC SIZE STEPS LR WARMUP_STEPS MICRO_BATCH GLOBAL_BATCH SEQ_LENGTH TENSOR ADD_RETRIEVER"
)

ASKED = ["nq", "43b", "greedy", "test", "0", "20000", "1000", "5", "pp1", "runs/big/6_sft", "2"]
ANSWERS = (
    "generate.name=nq_5_2_43b_test_greedy_1000 generate.task=nq generate.size=43b generate.split=test "
    "generate.checkpoint=runs/big/6_sft generate.step=1000 generate.sampling.temperature=0 "
    "generate.sampling.top_k=0 generate.sampling.top_p=1 generate.plain_output=true generate.start=0 "
    "generate.count=20000 generate.contexts_in_prompt=5 generate.passages=2 generate.settings=[with_passages]"
)


def call(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script, printing only, with no variables but these."""
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES.split()}
    environment = kept | {"RETRO_PRINT_ONLY": "1"} | variables
    command = ["bash", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)


def printed(script: str, *arguments: str, **variables: str) -> list[str]:
    """The words of the one command that a script prints; of a checkpoint that is in no run, the run is named."""
    if script in (TUNE, GENERATE) and not variables.keys() & {"RUN_DIR", "CONFIG"}:
        variables["RUN_DIR"] = "runs/big"
    done = call(script, *arguments, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    return shlex.split(line)


def accepted(words: list[str]) -> RunConfig:
    """The run config of a printed command: what the command line does with its arguments."""
    files = [Path(word) for word in words if word.endswith(".yaml") and "=" not in word]
    return load_run_config(files[0] if files else None, [word for word in words if "=" in word])


@pytest.mark.parametrize(
    ("task", "last"),
    [
        ("db-build", "db"),
        ("index-train", "index"),
        ("index-add", "index"),
        ("index-build", "index"),
        ("query-neighbors", "neighbors"),
        ("build", "neighbors"),
    ],
)
def test_a_preprocessing_task_runs_the_stages_up_to_its_own(task: str, last: str) -> None:
    assert printed(PREPROCESS, task) == ["retro", "run", "--until", last, QUICKSTART]
    assert stages_until(last)[-1].name == last


def test_preprocessing_takes_a_config_a_run_directory_and_settings() -> None:
    words = printed(PREPROCESS, "build", "db.chunk_length=32", CONFIG=QUICKSTART, RUN_DIR="runs/x y")
    assert words == ["retro", "run", "--until", "neighbors", QUICKSTART, "run_dir=runs/x y", "db.chunk_length=32"]
    config = accepted(words)
    assert (config.run_dir, config.db.chunk_length) == (Path("runs/x y"), 32)


def test_preprocessing_starts_several_workers() -> None:
    words = printed(PREPROCESS, "index-add", WORKERS="4")
    assert words == ["retro", "run", "--until", "index", "--workers", "4", QUICKSTART]


def test_pretraining_without_variables_is_the_config_alone() -> None:
    assert printed(PRETRAIN) == ["retro", "pretrain", QUICKSTART]
    assert printed(PRETRAIN, "--skip-train", CONFIG="my.yaml") == ["retro", "pretrain", "my.yaml", "--skip-train"]


def test_pretraining_passes_flags_through() -> None:
    flags = ["--load", "runs/gpt/5_pretrain/gpt", "--finetune", "--no-load-optim", "model.gate=learned"]
    assert printed(PRETRAIN, *flags) == ["retro", "pretrain", QUICKSTART, *flags]


def test_pretraining_takes_its_variables_and_starts_several_processes_under_torchrun() -> None:
    words = printed(
        PRETRAIN, RUN_DIR="runs/x", SIZE="843m", ADD_RETRIEVER="0", SEQ_LENGTH="512", STEPS="20", LR="3e-4",
        WARMUP_STEPS="2", MICRO_BATCH="4", GLOBAL_BATCH="16", TENSOR="2", NPROC="8",
    )  # fmt: skip
    assert words[:6] == ["torchrun", "--nproc-per-node", "8", "-m", "retro", "pretrain"]
    config = accepted(words)
    assert (config.run_dir, config.model.size, config.model.retrieval) == (Path("runs/x"), "843m", False)
    assert (config.model.sequence_length, config.model.hidden_size) == (512, 1024)
    train = config.train
    assert (train.steps, train.lr, train.warmup_steps, train.micro_batch, train.global_batch) == (20, 3e-4, 2, 4, 16)
    assert config.parallel.tensor == 2


def test_tuning_ends_in_the_command_of_its_five_arguments() -> None:
    words = printed(TUNE, "sft", "843m", "128", "5e-6", "runs/big/5_pretrain/retro", RUN_DIR="runs/big")
    assert " ".join(words) == (
        "retro sft run_dir=runs/big sft.data.blend=tools/retro/sft/blends/sft.yaml sft.data.sets=[] sft.size=843m "
        "sft.start_from=runs/big/5_pretrain/retro sft.train.global_batch=128 sft.train.lr=5e-6 "
        "sft.train.schedule=constant"
    )


@pytest.mark.parametrize(("batch", "lr", "name"), [("128", "5e-6", "5e-6"), ("16", "1e-3", "0.001")])
def test_the_batch_and_learning_rate_given_are_used_and_name_the_result(batch: str, lr: str, name: str) -> None:
    config = accepted(printed(TUNE, "open_inst", "843m", batch, lr, "ckpt")).sft
    assert (config.train.global_batch, config.train.lr) == (int(batch), float(lr))
    assert (config.train.schedule, config.train.warmup_steps) == ("constant", 0)
    assert (config.size, config.start_from) == ("843m", Path("ckpt"))
    assert tuned_name(config, "843m") == f"retro-open_inst_pp1_same_format_ctx1_843m_{batch}_{name}"
    assert tuned_name(config, "/models/843m") == tuned_name(config, "843m")
    adapted = config.model_copy(update={"train": config.train.model_copy(update={"lora": LoraConfig(rank=4)})})
    assert tuned_name(adapted, "843m") == f"{tuned_name(config, '843m')}_lora4"


def test_the_arguments_of_tuning_go_before_its_config_and_later_settings_before_both() -> None:
    config = "tools/retro/examples/configs/wikipedia.yaml"
    words = printed(TUNE, "quickstart", "tiny", "16", "1e-4", "ckpt", "sft.train.steps=30", CONFIG=config, NPROC="2")
    assert words[:7] == ["torchrun", "--nproc-per-node", "2", "-m", "retro", "sft", config]
    found = accepted(words).sft
    # The sets of wikipedia.yaml give way to the blend, its schedule to the constant rate.
    assert found.data.resolved_blend().name == "quickstart"
    assert (found.train.lr, found.train.schedule, found.train.steps) == (1e-4, "constant", 30)


def test_the_run_that_a_checkpoint_lies_in_is_the_run(tmp_path: Path) -> None:
    (tmp_path / "run/1_corpus").mkdir(parents=True)
    checkpoint = f"{tmp_path}/run/5_pretrain/retro"
    tuning, asking = ["sft", "843m", "128", "5e-6", checkpoint], [*ASKED[:9], checkpoint, "2"]
    for script, arguments in ((TUNE, tuning), (GENERATE, asking)):
        done = call(script, *arguments)
        assert done.returncode == 0, done.stderr
        assert f" run_dir={tmp_path}/run " in done.stdout
    assert "run_dir" not in call(TUNE, *tuning, CONFIG="a.yaml").stdout


def test_tuning_takes_a_blend_file_anywhere(tmp_path: Path) -> None:
    blend = tmp_path / "mine.yaml"
    shutil.copy(ROOT / "tools/retro/sft/blends/open_inst.yaml", blend)
    config = accepted(printed(TUNE, str(blend), "tiny", "8", "1e-5", "ckpt")).sft
    assert config.data.blend == blend


def test_answering_ends_in_the_command_of_its_eleven_arguments() -> None:
    assert printed(GENERATE, *ASKED) == ["retro", "generate", "run_dir=runs/big", *ANSWERS.split()]
    config = accepted(printed(GENERATE, *ASKED)).generate
    assert (config.start, config.count, config.step, config.size) == (0, 20000, 1000, "43b")
    assert (config.contexts_in_prompt, config.passages, config.settings) == (5, 2, ("with_passages",))


def test_answering_reads_passages_unless_told_not_to() -> None:
    assert printed(GENERATE, *ASKED, "1") == printed(GENERATE, *ASKED)
    config = accepted(printed(GENERATE, *ASKED, "0", "generate.max_new_tokens=64")).generate
    assert config.settings == ("closed_book",)
    assert config.name == "nq_5_2_43b_test_greedy_1000_closed_book"
    assert config.max_new_tokens == 64


@pytest.mark.parametrize(("given", "values"), [("greedy", (0, 0, 1)), ("topk", (1, 40, 1)), ("topp", (1, 0, 0.9))])
def test_the_three_samplings_have_their_names(given: str, values: tuple[float, int, float]) -> None:
    words = printed(GENERATE, *ASKED[:2], given, *ASKED[3:], "generate.seed=1")
    config = accepted(words).generate
    sampling = config.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, config.seed) == (*values, 1)
    assert sampling.tag == given
    assert config.name == f"nq_5_2_43b_test_{given}_1000"


def test_answering_with_a_data_folder_asks_the_questions_there() -> None:
    config = "tools/retro/examples/configs/wikipedia.yaml"
    found = accepted(printed(GENERATE, *ASKED, CONFIG=config, DATA="data/qa", RUN_DIR="runs/x"))
    assert (found.generate.data, found.generate.questions) == (Path("data/qa"), ())
    assert found.run_dir == Path("runs/x")
    assert accepted(printed(GENERATE, *ASKED, CONFIG=config)).generate.questions != ()


def test_scoring_takes_a_run_a_name_or_a_prediction_file() -> None:
    assert printed(EVALUATE) == ["retro", "evaluate"]
    assert printed(EVALUATE, "evaluate.seed=1", CONFIG=QUICKSTART) == [
        "retro",
        "evaluate",
        QUICKSTART,
        "evaluate.seed=1",
    ]
    named = printed(EVALUATE, "nq_5_2_43b_test_greedy_1000", RUN_DIR="runs/big")
    assert named == ["retro", "evaluate", "run_dir=runs/big", "generate.name=nq_5_2_43b_test_greedy_1000"]
    assert STAGES[-1].path(accepted(named)) == Path("runs/big/8_evaluate_nq_5_2_43b_test_greedy_1000")
    plain = printed(EVALUATE, "answers.txt", "nq_QA_test.json")
    assert plain == ["retro", "evaluate", "--plain", "answers.txt", "--questions", "nq_QA_test.json"]


@pytest.mark.parametrize(
    ("script", "arguments", "variables", "words"),
    [
        (PREPROCESS, [], {}, "usage: preprocess_data.sh <db-build"),
        (PREPROCESS, ["db-bild"], {}, "no task 'db-bild'; needs one of db-build|"),
        (PREPROCESS, ["build"], {"WORKERS": "0"}, "WORKERS is '0', needs a number of processes"),
        (PRETRAIN, [], {"NPROC": "two"}, "NPROC is 'two'"),
        (PRETRAIN, [], {"ADD_RETRIEVER": "yes"}, "ADD_RETRIEVER is 'yes', needs 0 or 1"),
        (TUNE, ["sft", "843m", "128", "5e-6"], {}, "usage: sft_retro_lm.sh <blend> <size> <global batch> <lr>"),
        (TUNE, ["sfft", "843m", "128", "5e-6", "c"], {}, "no blend 'sfft'; needs one of: open_inst qc quickstart sft"),
        (GENERATE, ASKED[:10], {}, "usage: retro_generate.sh <task> <size>"),
        (GENERATE, [*ASKED[:2], "beam", *ASKED[3:]], {}, "no sampling 'beam'; needs greedy, topk or topp"),
        (GENERATE, [*ASKED[:8], "pp4", *ASKED[9:]], {}, "model card 'pp4': needs pp1"),
        (GENERATE, [*ASKED, "2"], {}, "retrieve '2': needs 0 or 1"),
        (TUNE, ["sft", "843m", "128", "5e-6", "c"], {}, "RUN_DIR is not set and c lies in no run; give the run whose"),
        (GENERATE, ASKED, {}, "RUN_DIR is not set and runs/big/6_sft lies in no run; give the run whose"),
        (EVALUATE, ["a", "b", "c"], {}, "usage: evaluate.sh [<name>"),
    ],
)
def test_a_missing_or_wrong_argument_says_what_is_needed(
    script: str, arguments: list[str], variables: dict[str, str], words: str
) -> None:
    done = call(script, *arguments, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_script_runs_the_command_that_it_prints(tmp_path: Path) -> None:
    fake = tmp_path / "retro"
    fake.write_text('#!/usr/bin/env bash\nprintf "<%s>" "$@"\n')
    fake.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = call(EVALUATE, "evaluate.seed=1", RETRO_PRINT_ONLY="0", PATH=path, RUN_DIR="runs/x y")
    assert (
        done.stdout
        == "retro evaluate run_dir=runs/x\\ y evaluate.seed=1\n<evaluate><run_dir=runs/x y><evaluate.seed=1>"
    )


def test_a_script_without_the_package_says_so(tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "basename"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    done = call(EVALUATE, RETRO_PRINT_ONLY="0", PATH=str(tmp_path))
    assert done.returncode == 2
    assert "'retro' is not on the PATH" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_says_in_its_header_which_variables_it_reads(script: str) -> None:
    lines = (ROOT / script).read_text(encoding="utf-8").splitlines()
    header = "\n".join(line for line in lines[1:] if line.startswith("#"))
    body = "\n".join(line for line in lines if not line.startswith("#"))
    silent = [name for name in VARIABLES.split() if f"${{{name}" in body and name not in header]
    assert silent == []
    assert os.access(ROOT / script, os.X_OK)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_has_nothing_to_say(script: str) -> None:
    done = subprocess.run(["shellcheck", "-x", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout == ""
