"""The tuning and generation stages on a small run: slices join to the whole, and foreign checkpoints are refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from retro.cli.ask import show_answer
from retro.common.artifacts import read_manifest, write_manifest
from retro.common.errors import ArtifactError, ConfigError, TrainingError
from retro.common.files import write_json
from retro.common.precision import Hardware
from retro.generate import run as generate_run
from retro.generate.one_question import answer_one
from retro.generate.open_model import open_model
from retro.generate.request import Request
from retro.qa.answer_files import Answer, read_answers
from retro.run.config import RunConfig
from retro.run.execution import run_stage
from retro.run.pipeline import model_paths
from retro.training import checkpoint
from tests.tiny_road import run_stages, small_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is tuned."""
    folder = tmp_path_factory.mktemp("tuned")
    run_stages(small_config(folder), "corpus", "db", "index", "neighbors", "pretrain", "sft")
    return folder


def ask(config: RunConfig, out: Path) -> None:
    generate_run.run(config.generate, config.parallel, model_paths(config), out)


def test_the_tuned_model_is_named_after_its_settings(folder: Path) -> None:
    assert (folder / "run/6_sft/retro-topics_pp1_same_format_ctx1_tiny_4_0.001/checkpoints").is_dir()


def test_slices_answered_apart_join_to_the_whole(folder: Path, tmp_path: Path) -> None:
    ask(small_config(folder), tmp_path / "whole")
    sampled = "generate.sampling={temperature: 1.0, top_p: 0.9}"
    ask(small_config(folder, sampled), tmp_path / "sampled")
    for start, count in ((4, 4), (0, 4), (8, 4)):
        slice_of = [f"generate.start={start}", f"generate.count={count}"]
        ask(small_config(folder, *slice_of), tmp_path / "slices")
        ask(small_config(folder, sampled, *slice_of), tmp_path / "sampled slices")
        complete = (tmp_path / "slices/manifest.json").exists()
        assert complete == (start == 8)
    for whole, slices in (("whole", "slices"), ("sampled", "sampled slices")):
        for setting in ("with_passages", "closed_book", "shuffled_passages"):
            truth = (tmp_path / whole / f"{setting}.jsonl").read_bytes()
            assert (tmp_path / slices / f"{setting}.jsonl").read_bytes() == truth
    lines = [json.loads(line) for line in (tmp_path / "whole/with_passages.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [str(number) for number in range(10)]
    assert all(len(line["passages"]) == 2 for line in lines)


def test_answers_of_other_settings_are_not_mixed_in(folder: Path, tmp_path: Path) -> None:
    ask(small_config(folder), tmp_path / "out")
    with pytest.raises(ArtifactError, match=r"max_new_tokens was 4, now 5"):
        ask(small_config(folder, "generate.max_new_tokens=5"), tmp_path / "out")
    (tmp_path / "out/manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"was begun with other settings: max_new_tokens was 4, now 5"):
        ask(small_config(folder, "generate.max_new_tokens=5"), tmp_path / "out")


def test_a_checkpoint_of_another_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    mute = without_tokenizer(folder / "run/5_pretrain/retro", tmp_path / "mute")
    other = small_config(tmp_path, "corpus.tokenizer.vocab_size=320", f"sft.start_from={mute}")
    run_stages(other, "corpus", "db", "index")
    with pytest.raises(
        TrainingError, match=r"was trained with tokenizer \w+ of 359 tokens, .* has tokenizer \w+ of 320"
    ):
        run_stages(other, "sft")
    foreign = small_config(tmp_path, "corpus.tokenizer.vocab_size=320", f"generate.checkpoint={mute}")
    with pytest.raises(TrainingError, match="was trained with tokenizer"):
        ask(foreign, tmp_path / "out")


def test_a_checkpoint_answers_over_a_corpus_of_another_tokenizer_with_its_own(folder: Path, tmp_path: Path) -> None:
    path = f"{folder}/run/5_pretrain/retro"
    settings = (f"generate.checkpoint={path}", "generate.settings=[closed_book]")
    ask(small_config(folder, *settings), tmp_path / "same")
    other = small_config(tmp_path, "corpus.tokenizer.vocab_size=320", *settings)
    run_stages(other, "corpus")
    ask(other, tmp_path / "other")
    same, over_another = (
        [json.loads(line)["prediction"] for line in (tmp_path / name / "closed_book.jsonl").read_text().splitlines()]
        for name in ("same", "other")
    )
    assert same == over_another


def without_tokenizer(run: Path, out: Path) -> Path:
    """The newest checkpoint of a run as one that was saved before checkpoints held their tokenizer."""
    shutil.copytree(checkpoint.find(run), out)
    shutil.rmtree(out / "tokenizer")
    said = json.loads((out / "checkpoint.json").read_text())
    said["files"] = {name: known for name, known in said["files"].items() if not name.startswith("tokenizer/")}
    write_json(out / "checkpoint.json", {name: value for name, value in said.items() if name != "checksum"})
    return out


def test_tuning_goes_on_after_a_stop_and_refuses_other_settings(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    run = next((copy / "run/6_sft").glob("retro-*"))
    truth = json.loads((copy / "run/6_sft/manifest.json").read_text())["counts"]
    (copy / "run/6_sft/manifest.json").unlink()
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints/step_00000004")
    # The copy's questions are where they were; only the run directory is another.
    config = small_config(folder).model_copy(update={"run_dir": copy / "run"})
    run_stages(config, "sft")
    assert json.loads((copy / "run/6_sft/manifest.json").read_text())["counts"] == truth
    with pytest.raises(ArtifactError, match=r"sft.train.beta1 was 0.9, now 0.5"):
        run_stages(small_config(folder, "sft.train.beta1=0.5").model_copy(update={"run_dir": copy / "run"}), "sft")


def test_other_prompt_texts_are_other_answers(folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "own.yaml"
    prompts.write_text("name: own\nversion: 1\nstyles: {plain: {question: '{question} ='}}\n")
    settings = [f"generate.prompts={prompts}", "generate.settings=[closed_book]"]
    ask(small_config(folder, *settings), tmp_path / "out")
    header = json.loads((tmp_path / "out/closed_book.header.json").read_text())
    assert header["prompts_version"] == 1
    assert header["identity"]["prompts"]["name"] == "own"
    prompts.write_text("name: own\nversion: 2\nstyles: {plain: {question: '{question} :'}}\n")
    with pytest.raises(ArtifactError, match=r"prompts.version was 1, now 2"):
        ask(small_config(folder, *settings), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"generate.template = 'rpely': is not a template; did you mean 'reply'"):
        ask(small_config(folder, "generate.template=rpely"), tmp_path / "other")


def one(folder: Path, question: str, passages_from: str, *settings: str) -> tuple[Answer, list[str]]:
    config, said = small_config(folder, *settings), list[str]()
    paths = model_paths(config)
    found = answer_one(config.generate, config.parallel, paths, question, passages_from=passages_from, say=said.append)
    return found, said


def test_one_question_is_answered_as_in_a_file(folder: Path, tmp_path: Path) -> None:
    ask(small_config(folder), tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out/with_passages.jsonl").read_text().splitlines()]
    found, said = one(folder, lines[0]["question"], "retriever")
    assert found.prediction == lines[0]["prediction"]
    assert [passage.row for passage in found.passages] == [passage["row"] for passage in lines[0]["passages"]]
    assert "".join(said).strip() == found.prediction
    assert len(said) > 1


def test_one_question_reads_what_is_found_while_it_is_answered_or_nothing(folder: Path) -> None:
    live, _ = one(folder, "river1 river2", "live", "generate.max_new_tokens=20")
    closed, _ = one(folder, "river1 river2", "none")
    assert len(live.passages) >= 2
    assert all(passage.row >= 0 for passage in live.passages)
    assert closed.passages == ()


def test_a_model_is_loaded_when_it_first_answers_and_further_engines_share_it(folder: Path, tmp_path: Path) -> None:
    config = small_config(folder, "generate.settings=[closed_book]")
    paths = replace(model_paths(config), db=tmp_path / "none", index=tmp_path / "none")
    model = open_model(config.generate, paths)
    assert model.retrieve is None
    assert "decoder" not in vars(model)
    (completion,) = model.engine.generate([Request(prompt=(5, 6, 7))])
    assert model.engine.decoder is model.decoder
    (again,) = model.new_engine(model.decoder, None, 1).generate([Request(prompt=(5, 6, 7))])
    assert again.tokens == completion.tokens
    searching = open_model(config.generate.model_copy(update={"settings": ("retrieved_passages",)}), paths)
    with pytest.raises(ArtifactError, match=r"none/manifest\.json: is missing\. Run `retro db` first"):
        _ = searching.engine


def test_a_question_that_cannot_be_asked_is_a_config_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"question = ' ': needs a text"):
        one(folder, " ", "none")
    with pytest.raises(ConfigError, match=r"--passages-from = 'retreiver': .* did you mean 'retriever'"):
        one(folder, "river1", "retreiver")
    with pytest.raises(ConfigError, match=r"question = '.*…': needs to fit a sequence of 64 tokens"):
        one(folder, "river1 " * 100, "none")


def test_only_an_encoder_reads_what_is_found_while_answering(folder: Path, tmp_path: Path) -> None:
    live = small_config(folder, "generate.settings=[live_retrieval]", "generate.encoder=false")
    with pytest.raises(ConfigError, match=r"settings = 'live_retrieval': needs an encoder that reads what is found"):
        ask(live, tmp_path / "out")


def test_searches_further_apart_than_a_chunk_are_refused_by_the_settings_own_name(folder: Path, tmp_path: Path) -> None:
    rare = small_config(folder, "generate.settings=[live_retrieval]", "generate.retrieval_interval=99")
    with pytest.raises(ConfigError, match=r"generate.retrieval_interval = 99: needs 1 to \d+, the tokens of a chunk"):
        ask(rare, tmp_path / "out")


def test_only_the_last_slice_makes_the_stage_complete(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    said = []
    for start in (0, 5):
        asked = ["generate.name=said", "generate.settings=[closed_book]", f"generate.start={start}", "generate.count=5"]
        run_stage("generate", small_config(folder, *asked), [])
        said.append("generate: done in" in caplog.text)
    assert said == [False, True]


def test_the_answer_and_its_passages_are_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_answer(small_config(folder), "river1 river2", passages_from="retriever", stream=True)
    streamed = capsys.readouterr().out
    show_answer(small_config(folder), "river1 river2", passages_from="retriever", stream=False)
    whole = capsys.readouterr().out
    assert streamed.strip() == whole.strip()
    lines = whole.splitlines()
    assert lines[1].startswith("[1] row ")
    assert "score" in lines[2]


def test_joined_slices_have_the_original_tools_file_too(folder: Path, tmp_path: Path) -> None:
    plain = ["generate.plain_output=true", "generate.settings=[with_passages]"]
    for start in (0, 5):
        ask(small_config(folder, *plain, f"generate.start={start}", "generate.count=5"), tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").glob("retro-generate-*"))
    assert names == [f"retro-generate-qa_1_2_tiny_test_greedy_{part}_4.txt" for part in ("0_10", "0_5", "5_5")]
    first, second, whole = ((tmp_path / "out" / names[place]).read_text() for place in (1, 2, 0))
    assert first + second == whole


def test_slices_answered_on_other_machines_are_in_one_precision(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for start, multiplies in ((0, True), (5, False)):
        found = Hardware(multiplies, "this CPU is such")
        monkeypatch.setattr("retro.common.precision.find_hardware", lambda found=found: found)
        ask(small_config(folder, f"generate.start={start}", "generate.count=5"), tmp_path)
    manifest, report = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("manifest", "report"))
    assert manifest["config"]["generate"]["precision"] == report["precision"] == "bfloat16"
    assert report["precision_reason"] == "auto, and it was begun in that"


def test_answers_begun_from_float16_weights_go_on_so(folder: Path, tmp_path: Path) -> None:
    for start, setting in ((0, "float16_weights"), (5, "auto")):
        settings = [f"generate.precision={setting}", f"generate.start={start}", "generate.count=5"]
        ask(small_config(folder, *settings), tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["precision"], report["precision_reason"]) == ("float16_weights", "auto, and it was begun in that")
    ask(small_config(folder, "generate.precision=float32"), tmp_path / "float32")
    answers, in_full = (read_answers(there / "with_passages.jsonl") for there in (tmp_path, tmp_path / "float32"))
    assert len(answers) == len(in_full) == 10
    assert sum(one.prediction == other.prediction for one, other in zip(answers, in_full, strict=True)) >= 8


def test_answers_of_an_older_toolkit_are_complete_under_their_former_setting(folder: Path, tmp_path: Path) -> None:
    ask(small_config(folder), tmp_path)
    manifest = read_manifest(tmp_path, "generate")
    del manifest.config["generate"]["precision"]
    manifest.config["generate"]["bfloat16"] = False
    write_manifest(tmp_path, manifest)
    for setting in ("generate.precision=auto", "generate.precision=float32", "generate.bfloat16=false"):
        ask(small_config(folder, setting), tmp_path)
    with pytest.raises(ArtifactError, match=r"generate\.precision was 'float32', now 'bfloat16'"):
        ask(small_config(folder, "generate.bfloat16=true"), tmp_path)
