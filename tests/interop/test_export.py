"""`retro export` from a trained run: the folder, its card, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from retro.common.artifacts import read_manifest, write_manifest
from retro.common.errors import ArtifactError, ConfigError, RetroError
from retro.common.files import read_json, write_json
from retro.interop import export as export_run
from retro.interop.export import export
from retro.interop.model_card import run_settings
from retro.interop.run_facts import gather
from retro.mcore import parallel
from retro.model.config import ModelConfig, ModelShape
from retro.run.config import RunConfig, load_run_config
from retro.training import checkpoint
from retro.training.checkpoint_writer import CheckpointWriter, save_weights
from retro.training.config import ParallelConfig, TrainConfig
from retro.training.convert import convert
from retro.training.loop import build_engine
from tests.cli.test_main import refused, retro
from tests.interop.test_modeling import load
from tests.model.convert.folders import make_folder
from tests.model.convert.gguf_files import write_gguf
from tests.model.tiny import VOCABULARY, tiny_inputs, tiny_model, tiny_shape
from tests.tiny_road import run_stages, small_config

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LLAMA = {"activation": "swiglu", "normalization": "RMSNorm"}


def road_config(folder: Path, *overrides: str) -> RunConfig:
    return small_config(
        folder,
        "pretrain.baselines=[gpt]",
        "train.precision=bfloat16",
        "sft.train.precision=float32",  # not auto: a finished run records what that became
        *overrides,
    )


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every stage, its decoder one that Llama can express."""
    folder = tmp_path_factory.mktemp("road")
    config = road_config(folder)
    before = ("corpus", "db", "index", "neighbors")
    run_stages(config, *before, "pretrain", "perplexity", "sft", "generate", "evaluate")
    return folder / "run"


@pytest.fixture(scope="module")
def folders(road: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every kind of export, once."""
    out = tmp_path_factory.mktemp("exported")
    return {
        "pretrained": export(road / "5_pretrain", out / "pretrained", dtype="float32"),
        "tuned": export(road / "6_sft", out / "tuned"),
        "gpt": export(road / "5_pretrain/gpt", out / "gpt"),
        "decoder": export(road / "5_pretrain/retro", out / "decoder", decoder_only=True, dtype="float32"),
        "early": export(road / "5_pretrain/retro", out / "early", step=4),
    }


def saved(out: Path, shape: ModelShape | None = None, **settings: Any) -> Path:
    """A checkpoint that is in no run."""
    parallel.start()
    parallel.seed(3)
    shape = shape or tiny_shape(**settings)
    config = TrainConfig(steps=2, micro_batch=2, global_batch=2, warmup_steps=0, precision="float32")
    engine = build_engine(shape, config, ParallelConfig())
    CheckpointWriter(engine, shape, config, out / "checkpoints").save(1, learned=False)
    return checkpoint.step_directory(out / "checkpoints", 1)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_holds_all_that_transformers_asks_for(folders: dict[str, Path]) -> None:
    common = ["README.md", "config.json", "generation_config.json", "model.safetensors"]
    ours = ["run.yaml", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "tokenizer_meta.json"]
    assert files(folders["tuned"]) == [*common, "modeling_retro.py", *ours]
    assert files(folders["decoder"]) == [*common, *ours]
    assert files(folders["tuned"].parent) == sorted(folders), "nothing temporary is left"
    assert len({path.stat().st_mode for path in folders["tuned"].iterdir()}) == 1


def test_logits_are_those_of_the_checkpoint(road: Path, folders: dict[str, Path]) -> None:
    model, info = checkpoint.load_model(road / "5_pretrain/retro")
    assert info.shape.padded_vocabulary > info.shape.vocabulary, "there is something to trim"
    found = load(folders["pretrained"])
    random = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, info.shape.vocabulary, (2, 40), generator=random)
    neighbors = torch.randint(0, info.shape.vocabulary, (2, 2, 2, info.shape.retrieved_length), generator=random)
    mask = torch.rand(neighbors.shape, generator=random) > 0.2
    expected = model(tokens, neighbors, mask)[..., : info.shape.vocabulary]
    torch.testing.assert_close(found(tokens, neighbors, mask).logits, expected, rtol=1e-5, atol=1e-5)


def test_without_a_word_the_precision_is_that_of_the_training(folders: dict[str, Path]) -> None:
    said = {name: json.loads((folder / "config.json").read_text()) for name, folder in folders.items()}
    assert said["gpt"]["dtype"] == said["early"]["dtype"] == "bfloat16"
    assert said["pretrained"]["dtype"] == said["tuned"]["dtype"] == "float32"
    assert {weight.dtype for weight in load(folders["gpt"], dtype="auto").parameters()} == {torch.bfloat16}


def test_the_decoder_alone_is_a_llama_with_the_logits_of_the_model_without_neighbors(
    road: Path, folders: dict[str, Path]
) -> None:
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    model, info = checkpoint.load_model(road / "5_pretrain/retro")
    plain = AutoModelForCausalLM.from_pretrained(folders["decoder"])
    assert isinstance(plain, LlamaForCausalLM)
    tokens = torch.arange(48)[None] * 7 % info.shape.vocabulary
    expected = model(tokens)[..., : info.shape.vocabulary]
    torch.testing.assert_close(plain(tokens).logits, expected, rtol=1e-5, atol=1e-5)
    assert plain.generation_config.eos_token_id == 1
    opened = checkpoint.read_info(checkpoint.find(folders["decoder"]))
    assert opened.shape.tokenizer == info.shape.tokenizer, "the run's own SentencePiece model, not its tokenizer.json"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("retrieval", [False, True])
def test_the_default_model_is_a_llama(tmp_path: Path, retrieval: bool, tied: bool) -> None:
    from transformers import LlamaForCausalLM

    model = ModelConfig(retrieval=retrieval, tied_embeddings=tied)
    assert (model.size, model.activation, model.normalization, model.bias) == ("tiny", "swiglu", "RMSNorm", False)
    path = saved(tmp_path, ModelShape(model=model, vocabulary=300, chunk_length=64))
    ours, _ = checkpoint.load_model(path)
    plain = LlamaForCausalLM.from_pretrained(export(path, tmp_path / "out", decoder_only=True))
    tokens = torch.arange(2 * 130).reshape(2, 130) * 7 % 300
    torch.testing.assert_close(plain(tokens).logits, ours(tokens)[..., :300], rtol=1e-5, atol=1e-5)


def test_the_decoder_alone_is_a_gpt2_where_it_has_learned_positions(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, GPT2LMHeadModel

    settings: dict[str, Any] = {"positions": "learned", "bias": True, "vocabulary_multiple": 64}
    path = saved(tmp_path, **settings)
    model, _ = checkpoint.load_model(path)
    plain = AutoModelForCausalLM.from_pretrained(export(path, tmp_path / "out", decoder_only=True))
    assert isinstance(plain, GPT2LMHeadModel)
    tokens = tiny_inputs(16).tokens_BS
    torch.testing.assert_close(plain(tokens).logits, model(tokens)[..., :VOCABULARY], rtol=1e-5, atol=1e-5)
    assert plain.generation_config.eos_token_id is None


def test_weights_over_the_limit_are_loaded_from_several_files(tmp_path: Path) -> None:
    path = saved(tmp_path)
    one = load(export(path, tmp_path / "one"))
    many = load(export(path, tmp_path / "many", file_limit=20_000))
    assert len(list((tmp_path / "many").glob("model-*-of-*.safetensors"))) > 2
    weights = one.state_dict()
    assert list(many.state_dict()) == list(weights)
    assert all(torch.equal(weight, weights[name]) for name, weight in many.state_dict().items())
    inputs = tiny_inputs(12)
    # Not bit for bit: where a weight is in memory decides which kernel multiplies it on some processors.
    torch.testing.assert_close(many(*inputs.args()).logits, one(*inputs.args()).logits, rtol=1e-6, atol=1e-6)


def card(folder: Path) -> str:
    return (folder / "README.md").read_text()


def row(text: str, name: str) -> str:
    """What a table of the card says beside a name."""
    found = re.search(rf"^\| {re.escape(name)} \| (.*) \|$", text, flags=re.MULTILINE)
    assert found is not None, name
    return found.group(1)


def test_the_card_says_what_the_run_s_files_say(road: Path, folders: dict[str, Path]) -> None:
    text = card(folders["pretrained"])
    corpus = json.loads((road / "1_corpus/manifest.json").read_text())["counts"]
    database = json.loads((road / "2_db/manifest.json").read_text())["counts"]
    result = json.loads((road / "5_pretrain/retro/result.json").read_text())
    table = json.loads((road / "5_pretrain/perplexity/perplexity.json").read_text())["rows"]
    assert "# run / retro\n" in text
    assert row(text, "text").endswith(f"| 60 | {corpus['tokens']:,}")
    assert row(text, "database") == f"{database['rows']:,} chunks of 16 tokens"
    assert row(text, "embedder") == "hashing, 128 dimensions"
    assert row(text, "neighbors kept of each chunk").startswith("3 of ")
    assert row(text, "steps of this checkpoint") == "6 of 6"
    assert row(text, "tokens in their batches") == "at most 1,536, padding included"  # 6 steps of 4 x 64
    assert row(text, "SHA-256 of the weights") == f"`{result['weights_sha256']}`"
    real = next(one for one in table if (one["model"], one["neighbors"]) == ("retro", "real"))
    assert row(text, "Retro, real neighbors").startswith(f"{real['perplexity']:.1f} | {real['tokens']}")
    assert row(text, "GPT")
    assert "the run holds no scored answers of this checkpoint" in text
    assert row(text, "vocabulary").startswith(f"{corpus['tokenizer']['vocab_size']} tokens")
    counted = sum(weight.numel() for weight in load(folders["pretrained"]).parameters())
    assert row(text, "parameters") == f"{counted:,}"


def test_the_card_of_a_tuned_model_tells_both_trainings_and_its_answers(road: Path, folders: dict[str, Path]) -> None:
    text = card(folders["tuned"])
    assert "The chunk database and its index are not in this folder" in text
    assert "A Retro tuned on instructions" in text
    assert row(text, "steps of this checkpoint") == "4 of 4"
    assert "Before that, pretrained as `retro`:" in text
    assert row(text, "steps") == "6"
    assert row(text, "prompts") == "style `plain` of the toolkit"
    assert row(text, "passages in a prompt") == "1"
    assert row(text, "what the encoder read of passages") == "title and text"
    assert row(text, "learning rate") == "0.001, constant, no warm-up"
    assert row(text, "topics") == "`train.json` | 40 | 40"
    assert "Of the pretrained model, before it was tuned" in text
    assert "10 questions of the test split, greedy" in text
    assert row(text, "closed-book")
    scores = json.loads((road / "8_evaluate/scores.json").read_text())["settings"]["with_passages"]
    assert row(text, "with passages").startswith(f"{100 * scores['exact_match']['mean']:.1f} %")


def test_the_card_of_a_gpt_or_a_decoder_speaks_of_no_neighbors(folders: dict[str, Path]) -> None:
    for name in ("gpt", "decoder"):
        text = card(folders[name])
        assert "chunk length, tokens of a neighbor" not in text
        assert "neighbor_mask" not in text
        assert "database and its index are not in this folder" not in text
    assert "without its encoder and cross-attention" in card(folders["decoder"])
    assert "measured on the whole model" in card(folders["decoder"])
    assert "A GPT: it was trained without neighbors." in card(folders["gpt"])


def test_a_checkpoint_from_before_the_end_has_no_losses_and_no_perplexity(folders: dict[str, Path]) -> None:
    text = card(folders["early"])
    assert row(text, "steps of this checkpoint") == "4 of 6"
    assert row(text, "losses").startswith("not recorded for this checkpoint")
    assert "Perplexity: not known here; the run's own belongs to other data or another checkpoint." in text


def test_stages_of_another_run_are_not_on_the_card(road: Path, tmp_path: Path) -> None:
    shutil.copytree(road, tmp_path / "run")
    manifest = tmp_path / "run/2_db/manifest.json"
    write_json(manifest, read_json(manifest, "") | {"fingerprint": "0123456789abcdef"})
    text = card(export(tmp_path / "run/5_pretrain", tmp_path / "out"))
    for words in ("The chunk database", "The embedder and the index", "The neighbors it was trained with"):
        assert f"{words}: not known here; the run's own belongs to other data or another checkpoint." in text
    assert row(text, "text"), "the corpus is still the one"


def test_the_card_names_no_folder_of_the_machine_that_the_run_s_settings_do_not(
    road: Path, folders: dict[str, Path]
) -> None:
    own = str(road.parent)
    for folder in folders.values():
        for file in ("README.md", "run.yaml"):
            text = (folder / file).read_text()
            assert str(folder.parent) not in text
            for source in (f"{own}/text.jsonl", f"{own}/train.json", f"{own}/test.json"):
                text = text.replace(source, "")
            assert own not in text


def test_run_yaml_holds_the_settings_of_the_run(road: Path, folders: dict[str, Path]) -> None:
    wanted = road_config(road.parent)
    found = load_run_config(folders["tuned"] / "run.yaml", [])
    for name in ("corpus", "model", "train", "pretrain", "sft", "evaluate"):
        assert getattr(found, name) == getattr(wanted, name), name
    assert found.db.chunk_length == 16
    assert found.neighbors.saved == 3
    assert found.generate.max_new_tokens == 4
    commands = re.findall(r"^retro (\w+) run\.yaml$", card(folders["tuned"]), flags=re.MULTILINE)
    assert commands == ["corpus", "db", "index", "neighbors", "pretrain", "sft", "generate", "evaluate"]


def block(text: str) -> str:
    """The first block of Python."""
    found = re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert found is not None
    return found.group(1)


@pytest.mark.parametrize("name", ["pretrained", "gpt", "decoder"])
def test_the_example_of_the_card_runs(folders: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders[name])
    variables: dict[str, Any] = {}
    exec(block(card(folders[name])), variables)
    written = variables["answer" if name == "pretrained" else "text"]
    assert written.size(1) > variables["ids"].size(1)
    if name == "pretrained":
        assert variables["ids"].size(1) % 16 == 0
        assert int(variables["neighbor_mask"].sum()) > 0


def test_the_example_of_the_docs_runs(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folders["tuned"], tmp_path / "exported")
    exec(block((ROOT / "docs/export.md").read_text()), {})
    assert capsys.readouterr().out.startswith("answer:")


def test_a_checkpoint_without_a_run_gives_a_card_that_says_so(tmp_path: Path) -> None:
    text = card(export(saved(tmp_path), tmp_path / "out"))
    assert "tokenizer" not in files(tmp_path / "out")
    assert "The folder holds no tokenizer" in text
    assert "The data it was trained on: not known here; no run was found." in text
    assert "The run's settings are not known here." in text
    assert row(text, "steps of this checkpoint") == "1 of 2"
    variables: dict[str, Any] = {}
    exec(block(text).replace('folder = "."', f"folder = {str(tmp_path / 'out')!r}"), variables)
    assert variables["answer"].size(1) > variables["ids"].size(1)


def test_the_card_of_converted_weights_names_what_they_come_from(tmp_path: Path) -> None:
    model = tiny_model(tiny_shape())
    path = tmp_path / "models/converted"
    save_weights(model, model.shape, {"converted_from": "iter_0000500"}, path)
    (tmp_path / "config.json").write_text('{"sft": "of something else"}')
    text = card(export(path, tmp_path / "out"))
    assert "# converted\n" in text
    assert "The weights were converted from `iter_0000500`. How they were trained is not known here." in text


def test_the_card_says_what_pretraining_started_from(road: Path, tmp_path: Path) -> None:
    shutil.copytree(road, tmp_path / "run")
    made = read_manifest(tmp_path / "run/5_pretrain", "pretrain")
    made.config["pretrain"]["start_from"] = "runs/older/5_pretrain/gpt"
    made.config["train"]["train_only"] = "retrieval"
    write_manifest(tmp_path / "run/5_pretrain", made)
    for stage in ("5_pretrain", "6_sft"):
        text = card(export(tmp_path / "run" / stage, tmp_path / stage))
        assert row(text, "started from") == "`runs/older/5_pretrain/gpt`"
        assert text.count("started from |") == 1
    tuned = card(tmp_path / "6_sft")
    assert row(tuned, "trained") == "all weights"
    assert "| trained | cross-attention and encoder alone; the decoder is as it was |" in tuned
    assert "started from |" not in card(export(road / "5_pretrain", tmp_path / "fresh"))
    made.config["train"]["train_only"] = "decoder"
    write_manifest(tmp_path / "run/5_pretrain", made)
    decoder = card(export(tmp_path / "run/6_sft", tmp_path / "decoder"))
    assert "| trained | the decoder alone; cross-attention and encoder are as they were |" in decoder


def test_a_moved_checkpoint_finds_its_run_where_it_is_named(road: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint.find(road / "5_pretrain/retro"), tmp_path / "moved")
    export(tmp_path / "moved", tmp_path / "out", run_dir=road)
    assert "tokenizer.model" in files(tmp_path / "out")
    assert "no run was found" not in card(tmp_path / "out")


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_run, "write_weights", fail)
    with pytest.raises(ArtifactError, match="the disk is full"):
        export(path, tmp_path / "out")
    assert files(tmp_path) == ["checkpoints"]


def test_what_a_killed_export_left_is_in_nobody_s_way(tmp_path: Path) -> None:
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out.tmp/model.safetensors").write_text("half")
    (tmp_path / "out").mkdir()
    export(saved(tmp_path), tmp_path / "out")
    assert files(tmp_path) == ["checkpoints", "out"]


def test_a_folder_in_use_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    words = refused("export", str(saved(tmp_path)), str(tmp_path / "full"))
    assert words == f"retro: OUT = '{tmp_path / 'full'}': needs a folder that does not exist yet, or is empty"
    assert (tmp_path / "full/notes.txt").read_text() == "mine"


def test_a_file_is_no_place_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="needs a folder that does not exist yet"):
        export(saved(tmp_path), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_link_is_no_place_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, target in (("dangling", "nosuch"), ("whole", "empty")):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(ConfigError, match=r"needs a folder that does not exist yet, or is empty; this is a link"):
            export(saved(tmp_path), tmp_path / name)
    assert files(tmp_path) == ["checkpoints", "dangling", "empty", "whole"]


def test_a_stage_of_a_run_is_no_place_for_a_folder(road: Path) -> None:
    before = files(road / "5_pretrain")
    for name in ("5_pretrain/x", "6_sft/checkpoints/x"):
        with pytest.raises(ConfigError, match="needs a folder outside the stages of a run"):
            export(road / "5_pretrain", road / name)
    assert files(road / "5_pretrain") == before


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="absent: holds no complete checkpoint"):
        export(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(ArtifactError, match="holds no checkpoint of step 7, only of 1"):
        export(saved(tmp_path).parent, tmp_path / "out", step=7)
    assert files(tmp_path) == ["checkpoints"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"dtype": "float16"}, ConfigError, "--dtype = 'float16': needs float32 or bfloat16"),
        ({"run_dir": Path("absent")}, ConfigError, "--run = 'absent': needs a run directory with a finished corpus"),
        ({"decoder_only": True}, ConfigError, "in the way of Llama: normalization = LayerNorm"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    options: dict[str, Any], error: type[RetroError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=re.escape(words)):
        export(saved(tmp_path), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="WORLD_SIZE = 2: needs one process"):
        export(tmp_path, tmp_path / "out")


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/out'.*cannot be made \(Not a directory\)"):
        export(path, tmp_path / "file/out")


def test_a_checkpoint_of_another_tokenizer_than_its_run_is_refused(road: Path, tmp_path: Path) -> None:
    shutil.copytree(road, tmp_path / "run")
    path = next((tmp_path / "run/5_pretrain/retro/checkpoints").glob("step_*6/checkpoint.json"))
    (tmp_path / "run/5_pretrain/retro/result.json").unlink()
    said = read_json(path, "")
    said["shape"]["tokenizer"] = "0123456789abcdef"
    write_json(path, said)
    with pytest.raises(ArtifactError, match="was trained with 0123456789abcdef"):
        export(path.parent, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_the_folder_and_names_it(road: Path, tmp_path: Path) -> None:
    done = retro("export", str(road / "5_pretrain/gpt"), str(tmp_path / "out"), "--decoder-only")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"exported: {tmp_path / 'out'}"
    assert json.loads((tmp_path / "out/config.json").read_text())["model_type"] == "llama"


def test_an_export_needs_no_transformers(road: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from pathlib import Path; from retro.interop.export import export\n"
        f"export(Path({str(road / '5_pretrain')!r}), Path({str(tmp_path / 'out')!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "modeling_retro.py" in files(tmp_path / "out")


def test_settings_of_stages_that_do_not_belong_are_left_out(road: Path) -> None:
    info = checkpoint.read_info(checkpoint.find(road / "5_pretrain/retro"))
    assert run_settings(gather(info, None)) == {}
    assert list(run_settings(gather(info, road))) == [
        "corpus",
        "db",
        "index",
        "neighbors",
        "model",
        "train",
        "pretrain",
        "perplexity",
    ]


@pytest.mark.parametrize(
    ("said", "base"),
    [
        (
            {"name": "Base 7B", "organization": "Some Org", "repo_url": "https://huggingface.co/some-org/base-7b"},
            "some-org/base-7b",
        ),
        ({"name": "Base 7B", "organization": "Some Org"}, "Some-Org/Base-7B"),
        ({"name": "Base: 7B"}, "Base:-7B"),
        ({}, None),
    ],
    ids=["on the hub", "with an organization", "a name", "nothing"],
)
def test_the_card_of_a_gguf_file_names_its_base_model_and_licence(
    said: dict[str, str], base: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gguf")
    monkeypatch.setenv("RETRO_CACHE", str(tmp_path / "cache"))
    make_folder(tmp_path / "folder", "llama")
    settings: dict[str, Any] = {
        "general.license": "other",
        "general.license.name": "Own: terms",
        "general.name": "My\nmodel",
    }
    settings |= {"general.license.link": "https://example.org/terms", "general.base_model.count": int(bool(said))}
    settings |= {f"general.base_model.0.{name}": value for name, value in said.items()}
    file = write_gguf(tmp_path / "model.gguf", tmp_path / "folder", "llama", settings)
    convert(file, tmp_path / "converted")
    for source in (file, tmp_path / "converted"):
        front = yaml.safe_load(card(export(source, tmp_path / f"out_{source.stem}")).split("---\n")[1])
        names = ("license", "license_name", "license_link", "base_model")
        assert [front.get(name) for name in names] == ["other", "Own: terms", "https://example.org/terms", base]
