"""The whole road on text of one's own, by the command line, and what users do with a finished run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from retro.cli.main import app
from retro.common.errors import ArtifactError, ConfigError, RetroError, TrainingError
from retro.common.leases import run_lock
from retro.run.pipeline import STAGES
from tests.tiny_road import TOPICS, write_corpus, write_questions

TUNED = "retro-topics_pp1_same_format_ctx1_tiny_4_0.001"


def settings_of(folder: Path) -> dict[str, Any]:
    """A run over the files in `folder`, as its YAML file says it."""
    steps = {"micro_batch": 4, "global_batch": 4, "warmup_steps": 1, "evaluate_every": 2, "save_every": 2}
    return {
        "run_dir": str(folder / "run"),
        "corpus": {
            "sources": [
                {"name": "paragraphs", "path": str(folder / "corpus.jsonl"), "weight": 0.75},
                {"name": "articles", "path": str(folder / "wikitext.txt"), "kind": "wikitext", "weight": 0.25},
            ],
            "tokenizer": {"vocab_size": 400},
            "split": [0.8, 0.1, 0.1],
        },
        "db": {"chunk_length": 16},
        "index": {"embedder": {"kind": "hashing", "dimension": 128}},
        "neighbors": {"saved": 3},
        "model": {
            "layers": 2, "hidden_size": 32, "heads": 4, "query_groups": 4, "ffn_hidden_size": 64, "sequence_length": 64,
            "first_cross_attention": 1, "encoder_layers": 1,
        },
        "train": steps | {"steps": 4},
        "pretrain": {"baselines": ["gpt"]},
        "sft": {
            "data": {
                "sets": [{"name": "topics", "path": str(folder / "train.json"), "dev": str(folder / "test.json")}],
                "style": "plain",
                "passages_from": "retriever",
            },
            "train": steps | {"steps": 4, "lr": 1e-3},
        },
        "generate": {
            "questions": [str(folder / "test.json")], "style": "plain", "passages_from": "retriever",
            "max_new_tokens": 4, "batch_size": 4,
        },
    }  # fmt: skip


def write_articles(path: Path) -> None:
    """Articles in WikiText's form: a level-1 heading, blank lines around it, headings below."""
    random = np.random.default_rng(7)
    parts = []
    for number in range(30):
        topic = TOPICS[number % len(TOPICS)]
        words = " ".join(f"{topic}{i}" for i in random.integers(12, size=60))
        parts.append(f" = {topic.title()} {number} = \n \n {words} . \n \n = = History = = \n \n {words[::2]} . \n \n")
    path.write_text("".join(parts), encoding="utf-8")


def retro(*arguments: object) -> None:
    """One `retro` command, its errors raised."""
    app([str(argument) for argument in arguments], standalone_mode=False)


def digests(run: Path) -> dict[str, bytes]:
    """The manifests of a run, by stage."""
    found = {one.name: run / one.directory / "manifest.json" for one in STAGES}
    return {name: path.read_bytes() for name, path in found.items() if path.exists()}


def written(run: Path) -> dict[str, int]:
    """When each file of a run was written, the page aside, which is drawn again each time."""
    files = (
        path
        for path in run.rglob("*")
        if path.is_file() and not {"report.html", ".lock", ".locks", ".verified.json"} & set(path.parts)
    )
    return {str(path.relative_to(run)): path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpora, questions, run.yaml, and the finished run."""
    made = tmp_path_factory.mktemp("own")
    write_corpus(made / "corpus.jsonl")
    write_articles(made / "wikitext.txt")
    write_questions(made / "train.json", count=40)
    write_questions(made / "test.json", count=10, seed=1)
    (made / "run.yaml").write_text(yaml.safe_dump(settings_of(made)), encoding="utf-8")
    retro("run", made / "run.yaml")
    return made


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed; its settings are in `folder`."""
    shutil.copytree(folder / "run", tmp_path / "run")
    return tmp_path / "run"


def test_every_stage_is_complete_and_the_report_is_written(folder: Path) -> None:
    assert list(digests(folder / "run")) == [one.name for one in STAGES]
    page = (folder / "run/report.html").read_text(encoding="utf-8")
    assert "Retro run report" in page
    assert "9 of 9 finished" in page


def test_both_corpora_are_in_the_database_and_documents_keep_their_names(folder: Path) -> None:
    counts = json.loads((folder / "run/1_corpus/manifest.json").read_text())["counts"]["sources"]
    assert {name: one["documents"] for name, one in counts.items()} == {"paragraphs": 60, "articles": 30}
    titles = [json.loads(line)["title"] for line in (folder / "run/1_corpus/articles.documents.jsonl").open()]
    assert titles[:2] == ["River 0", "Engine 1"]


def test_answers_stand_beside_the_passages_of_the_runs_own_index(folder: Path) -> None:
    lines = (folder / "run/7_generate/with_passages.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 10
    passages = [passage for line in lines for passage in json.loads(line)["passages"]]
    assert len(passages) == 20
    assert all(passage["row"] >= 0 and passage["text"] for passage in passages)


def test_recall_of_the_gold_documents_is_scored(folder: Path) -> None:
    scores = json.loads((folder / "run/8_evaluate/scores.json").read_text())
    assert scores["questions"] == 10
    recall = scores["settings"]["with_passages"]["recall"]
    assert recall["questions"] == 10
    assert sorted(recall["at"]) == ["1", "2"]


def test_a_second_run_skips_everything(folder: Path) -> None:
    before, manifests = written(folder / "run"), digests(folder / "run")
    retro("run", folder / "run.yaml")
    assert written(folder / "run") == before
    assert digests(folder / "run") == manifests


def test_redo_makes_a_stage_and_those_after_it_again(folder: Path, copied: Path) -> None:
    before, manifests = written(copied), digests(copied)
    retro("sft", "--redo", folder / "run.yaml", f"run_dir={copied}")
    assert not (copied / "7_generate").exists()
    assert not (copied / "8_evaluate").exists()
    retro("run", folder / "run.yaml", f"run_dir={copied}")
    after = written(copied)
    again = {path.split("/")[0] for path in after if after[path] != before.get(path)}
    assert again == {"6_sft", "7_generate", "8_evaluate"}
    assert digests(copied) == manifests


def test_until_ends_the_road_at_a_stage(folder: Path, tmp_path: Path) -> None:
    retro("run", "--until", "db", folder / "run.yaml", f"run_dir={tmp_path}")
    assert sorted(path.name for path in tmp_path.glob("[0-9]*")) == ["1_corpus", "2_db"]
    with pytest.raises(ConfigError, match=r"--until = 'neighbours': is not a stage; did you mean 'neighbors'"):
        retro("run", "--until", "neighbours", folder / "run.yaml")


def test_skip_train_measures_perplexity_and_trains_nothing(folder: Path, copied: Path) -> None:
    truth = (copied / "5_pretrain/perplexity/perplexity.json").read_bytes()
    shutil.rmtree(copied / "5_pretrain/perplexity")
    before = written(copied)
    retro("pretrain", "--skip-train", folder / "run.yaml", f"run_dir={copied}")
    after = written(copied)
    assert {path: after[path] for path in before} == before
    assert (copied / "5_pretrain/perplexity/perplexity.json").read_bytes() == truth


def test_skip_train_without_a_model_is_refused_and_leaves_nothing(folder: Path, copied: Path) -> None:
    shutil.rmtree(copied / "5_pretrain")
    with pytest.raises(ArtifactError, match="5_pretrain: holds no pretrained model to measure"):
        retro("pretrain", "--skip-train", folder / "run.yaml", f"run_dir={copied}")
    assert not (copied / "5_pretrain").exists()


def test_a_retro_starts_clean_from_a_gpt(folder: Path, copied: Path) -> None:
    shutil.rmtree(copied / "5_pretrain")
    loaded = ["--load", folder / "run/5_pretrain/gpt", "--finetune", "--no-load-optim"]
    # With the gate at 0 and hardly a learning rate, one step leaves the GPT as it was.
    still = ["model.gate=0", "train.steps=1", "train.warmup_steps=0", "train.lr=1e-12", "pretrain.baselines=[]"]
    retro("pretrain", *loaded, folder / "run.yaml", f"run_dir={copied}", *still)
    start = json.loads((copied / "5_pretrain/manifest.json").read_text())["counts"]["variants"]["retro"]
    gpt = json.loads((folder / "run/5_pretrain/manifest.json").read_text())["counts"]["variants"]["gpt"]
    assert start["steps"] == 1
    assert start["parameters"] > gpt["parameters"]
    assert start["valid_loss"] == pytest.approx(gpt["valid_loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.hidden_size=64", "model.hidden_size is 32 there, 64 here"),
        ("model.layers=3", "model.layers is 2 there, 3 here"),
        ("model.activation=gelu", "model.activation is 'swiglu' there, 'gelu' here"),
    ],
)
def test_another_architecture_is_refused_by_naming_the_difference(
    folder: Path, copied: Path, override: str, words: str
) -> None:
    shutil.rmtree(copied / "5_pretrain")
    loaded = ["--load", folder / "run/5_pretrain/gpt", "--finetune", "--no-load-optim"]
    with pytest.raises(TrainingError, match=rf"gpt/checkpoints/step_00000004: is another architecture: {words}"):
        retro("pretrain", *loaded, folder / "run.yaml", f"run_dir={copied}", override, "pretrain.baselines=[]")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--load", "x"], "--load = 'x': needs --finetune"),
        (["--finetune"], "--finetune = True: needs --load"),
        (["--no-load-optim"], "needs --load"),
    ],
)
def test_flags_that_belong_together_are_asked_for(folder: Path, flags: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        retro("pretrain", *flags, folder / "run.yaml")


def test_tuned_models_of_other_settings_lie_side_by_side(folder: Path, copied: Path) -> None:
    first = digests(copied)["sft"]
    slower = "retro-topics_pp1_same_format_ctx1_tiny_4_5e-6"
    retro("sft", folder / "run.yaml", f"run_dir={copied}", "sft.train.lr=5e-6", "sft.size=tiny")
    assert sorted(path.name for path in (copied / "6_sft").iterdir() if path.is_dir()) == [TUNED, slower]
    assert json.loads((copied / "6_sft/manifest.json").read_text())["counts"]["name"] == slower
    # Back to the first: its result is there, so nothing is trained and the manifest is what it was.
    log = (copied / "6_sft" / TUNED / "log.jsonl").stat().st_mtime_ns
    retro("sft", folder / "run.yaml", f"run_dir={copied}")
    assert digests(copied)["sft"] == first
    assert (copied / "6_sft" / TUNED / "log.jsonl").stat().st_mtime_ns == log


def test_other_settings_under_the_same_name_are_refused(folder: Path) -> None:
    with pytest.raises(ArtifactError, match=r"was made under other settings: .*train.weight_decay was 0.01, now 0.5"):
        retro("sft", folder / "run.yaml", "sft.train.weight_decay=0.5")


def test_a_checkpoint_of_another_size_is_refused_by_naming_both(folder: Path, copied: Path) -> None:
    shutil.rmtree(copied / "6_sft")
    with pytest.raises(TrainingError, match=r"retro/checkpoints/step_00000004: is of size 'tiny', not '843m'"):
        retro("sft", folder / "run.yaml", f"run_dir={copied}", "sft.size=843m")
    with pytest.raises(TrainingError, match=r"is of size 'tiny', not '43b'"):
        retro("generate", folder / "run.yaml", "generate.size=43b")


def test_a_run_is_asked_again_under_a_name_and_slices_join_in_any_order(folder: Path, copied: Path) -> None:
    run = [folder / "run.yaml", f"run_dir={copied}", "generate.name=again", "generate.size=tiny", "generate.step=4"]
    ask = [*run, f"generate.checkpoint={copied}/6_sft/{TUNED}"]
    # Another slice is being answered at the same time.
    with run_lock(copied, shared=True):
        retro("generate", *ask, "generate.start=6", "generate.count=20000")
    assert not (copied / "7_generate_again/manifest.json").exists()
    retro("generate", *ask, "generate.start=0", "generate.count=6")
    for setting in ("with_passages", "closed_book", "shuffled_passages"):
        name = f"{setting}.jsonl"
        assert (copied / "7_generate_again" / name).read_bytes() == (folder / "run/7_generate" / name).read_bytes()
    retro("evaluate", *run)
    assert json.loads((copied / "8_evaluate_again/scores.json").read_text())["questions"] == 10
    assert "run · again" in (copied / "report_again.html").read_text(encoding="utf-8")


def test_two_processes_do_not_answer_one_slice(folder: Path, copied: Path) -> None:
    ask = [folder / "run.yaml", f"run_dir={copied}", "generate.name=twice", "generate.start=2", "generate.count=2"]
    with (
        run_lock(copied / "7_generate_twice", name=".lock_2"),
        pytest.raises(ArtifactError, match="another process works"),
    ):
        retro("generate", *ask)
    scoring = run_lock(copied, name=".locks/8_evaluate.made")
    with scoring, pytest.raises(ArtifactError, match="another process works in this run on evaluate"):
        retro("evaluate", folder / "run.yaml", f"run_dir={copied}")


def test_a_count_past_the_last_question_asks_for_all(folder: Path, copied: Path) -> None:
    retro("generate", folder / "run.yaml", f"run_dir={copied}", "generate.start=0", "generate.count=20000")
    assert digests(copied)["generate"] == digests(folder / "run")["generate"]
    shutil.rmtree(copied / "7_generate")
    retro("generate", folder / "run.yaml", f"run_dir={copied}", "generate.start=0", "generate.count=20000")
    assert digests(copied)["generate"] == digests(folder / "run")["generate"]


def test_a_step_without_a_checkpoint_is_answered_with_the_steps_there_are(folder: Path, copied: Path) -> None:
    shutil.rmtree(copied / "7_generate")
    ask = [folder / "run.yaml", f"run_dir={copied}", f"generate.checkpoint={copied}/6_sft/{TUNED}"]
    with pytest.raises(ArtifactError, match=r"holds no checkpoint of step 3, only of 2, 4\. "):
        retro("generate", *ask, "generate.step=3")
    retro("generate", *ask, "generate.step=2")
    header = json.loads((copied / "7_generate/with_passages.header.json").read_text())
    assert header["step"] == 2


def test_plain_predictions_are_scored_beside_the_runs_own(
    folder: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = digests(copied), (copied / "8_evaluate/scores.json").read_bytes()
    golds = [item["answers"][0] for item in json.loads((folder / "test.json").read_text())]
    plain = copied.parent / "theirs.txt"
    plain.write_text("".join(f"Answer: {gold}\n" for gold in golds[:9]) + "no idea\n", encoding="utf-8")
    retro("evaluate", "--plain", plain, "--questions", folder / "test.json", f"run_dir={copied}")
    assert json.loads(capsys.readouterr().out)["settings"]["theirs"]["exact_match"]["mean"] == 0.9
    assert (copied / "8_evaluate_plain_theirs/scores.json").exists()
    assert (digests(copied), (copied / "8_evaluate/scores.json").read_bytes()) == before
    with pytest.raises(RetroError, match="needs --questions FILE"):
        retro("evaluate", "--plain", plain, f"run_dir={copied}")
