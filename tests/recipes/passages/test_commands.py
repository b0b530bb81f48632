"""The scripts and commands that users of Contriever's and Self-RAG's tools know."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from retro.common.errors import ConfigError
from retro.recipes.passages.command import main, run
from retro.recipes.passages.shards import read_shard
from tests.recipes.passages.world import made_passages, questions_of, tiny_bert, write_tsv

ROOT = Path(__file__).parents[3]
SCRIPTS = ROOT / "tools/retro/recipes/self_rag"
EMBED, RETRIEVE = SCRIPTS / "generate_passage_embeddings.py", SCRIPTS / "passage_retrieval.py"

WITHOUT = "without them their passages are never found"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, passages and questions."""
    folder = tmp_path_factory.mktemp("commands")
    tiny_bert(folder / "model", made_passages())
    write_tsv(folder / "psgs.tsv", made_passages())
    items = [{"question": one} for one in questions_of(made_passages())]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, items)))
    return folder


def call(script: Path, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, str(script), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_scripts_make_embeddings_and_find_passages(folder: Path) -> None:
    passages, settings = ("--passages", folder / "psgs.tsv"), ("embedder.kind=hashing", "embedder.dimension=512")
    done = call(EMBED, *passages, "--output_dir", folder / "emb", "--shard_id", 0, "--num_shards", 2, *settings)
    assert done.returncode == 0, done.stderr
    printed, made = done.stdout.splitlines()
    assert shlex.split(printed)[:4] == [sys.executable, "-m", "retro.recipes.passages", "embed"]
    assert made == f"15 passages (7 of all without a title) in {folder}/emb/passages_00"
    assert "passages: embedding passages_00" in done.stderr
    asked = ("--passages_embeddings", f"{folder}/emb/*", "--data", folder / "questions.jsonl", "--n_docs", 4)
    done = call(RETRIEVE, *passages, *asked, "--output_dir", folder / "out", *settings)
    assert (done.returncode, len(done.stdout.splitlines())) == (2, 1)
    assert done.stderr == f"retro: {folder}/emb: lacks 1 of 2 shards: 1. Embed or fetch them; {WITHOUT}\n"


def test_the_commands_work_with_a_contriever(folder: Path) -> None:
    known = ["--model_name_or_path", str(folder / "model"), "--passages", str(folder / "psgs.tsv")]
    for shard in range(2):
        run(["embed", *known, "--output_dir", str(folder / "bert"), "--shard_id", str(shard), "--num_shards", "2"])
    asked = ["--passages_embeddings", f"{folder}/bert/*", "--data", str(folder / "questions.jsonl"), "--n_docs", "4"]
    made = run(["retrieve", *known, *asked, "--output_dir", str(folder / "out")])
    assert made == f"30 questions (0 with fewer than 4 passages) in {folder}/out/questions.jsonl"
    found = [json.loads(line) for line in (folder / "out/questions.jsonl").read_text().splitlines()]
    assert [one["question"] for one in found] == questions_of(made_passages())
    assert {len(one["ctxs"]) for one in found} == {4}
    assert set(found[0]["ctxs"][0]) == {"id", "title", "text", "score"}


@pytest.mark.parametrize("script", [EMBED, RETRIEVE])
def test_a_script_prints_what_it_would_run(script: Path) -> None:
    done = call(script, "--passages", "a b", RETRO_PRINT_ONLY="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(" --passages 'a b'\n")
    assert os.access(script, os.X_OK)


def test_an_output_may_be_a_file_and_settings_may_follow(folder: Path) -> None:
    hashing = ["embedder.kind=hashing", "embedder.dimension=512"]
    passages = ["--passages", str(folder / "psgs.tsv")]
    run(["embed", *passages, "--output_dir", str(folder / "hashed"), "--no_title", "dtype=float32", *hashing])
    shard = read_shard(folder / "hashed/passages_00")
    assert (shard.vectors.shape, shard.vectors.dtype.name) == ((30, 512), "float32")
    data = ["--data", str(folder / "questions.jsonl"), "--passages_embeddings", str(folder / "hashed")]
    out = folder / "found.json"
    run(["retrieve", *passages, *data, "--output_dir", str(out), "--save_or_load_index", *hashing, "n_docs=2"])
    found = json.loads(out.read_text())
    assert [one["ctxs"][0]["id"] for one in found] == [one.id for one in made_passages()]
    assert {len(one["ctxs"]) for one in found} == {2}
    assert (folder / "hashed/.retro/index/index.faiss").exists()


NEEDED = {
    "embed": ["--passages", "p.tsv", "--output_dir", "out", "--model_name_or_path", "m"],
    "retrieve": [
        *("--passages", "p.tsv", "--output_dir", "out", "--model_name_or_path", "m"),
        *("--data", "d.json", "--passages_embeddings", "e/*"),
    ],
}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], r"passages = None: is not a command; known: embed, retrieve"),
        (["retreive"], "is not a command; did you mean 'retrieve'"),
        (["embed", *NEEDED["embed"], "--shardid", "1"], r"flags = '--shardid': is not a flag of embed"),
        (["embed", *NEEDED["embed"], "--shard_id", "x"], r"embed = None: argument --shard_id: invalid int"),
        (["embed", "--passages", "p"], "embed = None: the following arguments are required: --output_dir"),
        (["embed", *NEEDED["embed"][:4]], "--model_name_or_path = None: needs a folder or hub name of a model"),
        (["embed", *NEEDED["embed"], "--normalize_text"], "--normalize_text = True: needs to be left out"),
        (["embed", *NEEDED["embed"], "--per_gpu_batch_size=512"], r"needs to be left out: .*embedder\.batch_tokens"),
        (["embed", *NEEDED["embed"], "--n_docs", "3"], "flags = '--n_docs': is not a flag of embed"),
        (["retrieve", *NEEDED["retrieve"], "--validation_workers", "32"], "--validation_workers = True"),
        (["retrieve", *NEEDED["retrieve"], "--projection_size", "768"], "is read from the shards"),
        (["retrieve", *NEEDED["retrieve"], "n_dcos=3"], r"n_dcos = 3: is not a setting; did you mean 'n_docs'"),
        (["retrieve", *NEEDED["retrieve"], "--n_docs", "0"], r"PassagesConfig\.n_docs = 0: needs greater than 0"),
        (["retrieve", *NEEDED["retrieve"], "stray"], "override = 'stray': needs the form section.setting=value"),
    ],
)
def test_a_flag_that_is_unknown_or_would_do_nothing_is_refused(words: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        run(words)


def test_a_mistake_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", *NEEDED["embed"], "--lang", "de"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("retro: flags = '--lang': is not a flag of embed")
    assert len(said.err.splitlines()) == 1


def test_a_stop_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(_: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("retro.recipes.passages.command.run", stopped)
    assert main(["embed"]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "setting", "value"),
    [
        (["--lowercase"], "lowercase", True),
        (["--n_subquantizers", "64"], "faiss", "PQ64x8"),
        (["--n_subquantizers", "16", "--n_bits", "4"], "faiss", "PQ16x4"),
        (["--n_docs", "100"], "n_docs", 100),
        ([], "n_docs", 20),
        ([], "save_or_load_index", False),
        (["--save_or_load_index"], "save_or_load_index", True),
        (["--question_maxlength", "64"], "embedder.max_tokens", 64),
        ([], "embedder.max_tokens", 512),
        ([], "embedder.pooling", "mean"),
        ([], "embedder.normalize", False),
        (["--no_fp16"], "embedder.precision", "float32"),
        (["faiss=mapped"], "faiss", "mapped"),
        (["embedder.pooling=cls"], "embedder.pooling", "cls"),
    ],
)
def test_every_flag_changes_a_setting(
    flags: list[str], setting: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retro.recipes.passages.search import PassageRetriever

    found: list[object] = []

    def opened(config: object) -> None:
        for name in setting.split("."):
            config = getattr(config, name)
        found.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(PassageRetriever, "open", opened)
    with pytest.raises(KeyboardInterrupt):
        run(["retrieve", *NEEDED["retrieve"], *flags])
    assert found == [value]
