"""From a run's stages to a service, and `retro serve` from the command line."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.serving_load import Server
from retro.common.errors import ArtifactError, ConfigError, DependencyError, TrainingError
from retro.generate.request import LiveRetrieval, Request
from retro.mcore import parallel
from retro.run.config import RunConfig, as_yaml
from retro.run.pipeline import model_paths
from retro.serve.loading import load_service
from retro.serve.run import require_packages
from tests.serve.running import running

ROOT = Path(__file__).parents[2]


def test_a_tuned_run_is_served_with_its_tokenizer_its_index_and_its_prompt(road: RunConfig) -> None:
    service = load_service(road.serve, road.generate, model_paths(road), "tiny")
    model = service.model
    assert (model.name, model.sequence_length, model.chunk_length, model.neighbors) == ("tiny", 64, 16, 2)
    assert (model.style, model.kind, model.contexts_in_prompt) == ("plain", "conversation", 1)
    with running(service) as server:
        messages = [{"role": "user", "content": "river1 river2"}]
        # It may not end by itself: what a model says that has learned nothing is nobody's concern here.
        body = {"messages": messages, "max_tokens": 20, "min_tokens": 20, "temperature": 0}
        found = server.post("/v1/chat/completions", body).json
        chunks, prompt = found["choices"][0]["retrieval"]["chunks"], found["usage"]["prompt_tokens"]
        # The prompt is padded, in thought, so that it ends a chunk; the answer's chunk ends 16 tokens later.
        assert [chunk["position"] for chunk in chunks][-2:] == [prompt - 1, prompt + 15]
        assert all(len(chunk["passages"]) == 2 for chunk in chunks)
        assert all(one["document_id"].startswith(one["title"]) for chunk in chunks for one in chunk["passages"])
        assert server.get("/metrics").text.count("retro_searches_total 0.0") == 0


def test_memory_of_an_engine_is_freed_when_a_new_one_is_opened(road: RunConfig) -> None:
    service = load_service(road.serve, road.generate, model_paths(road), "tiny")
    before = service.scheduler._engine
    before.submit(Request(prompt=(1, 2, 3), reading=LiveRetrieval()))
    before.step()
    assert before.running == 1
    after = service.scheduler._open_engine()
    assert (before.running, after.running) == (0, 0)


def test_without_live_retrieval_no_index_is_needed(road: RunConfig, tmp_path: Path) -> None:
    paths = model_paths(road)
    bare = type(paths)(checkpoint=paths.checkpoint, corpus=paths.corpus, db=tmp_path, index=tmp_path)
    config = road.serve.model_copy(update={"retrieval": "none"})
    assert load_service(config, road.generate, bare, "tiny").model.retrieve is None
    with pytest.raises(ArtifactError, match=r"manifest.json: is missing"):
        load_service(road.serve, road.generate, bare, "tiny")


def test_a_run_that_was_not_tuned_is_named(road: RunConfig, tmp_path: Path) -> None:
    paths = model_paths(road)
    empty = type(paths)(checkpoint=tmp_path, corpus=paths.corpus, db=paths.db, index=paths.index)
    with pytest.raises(ArtifactError, match=r"holds no complete checkpoint"):
        load_service(road.serve, road.generate, empty, "tiny")


def test_a_checkpoint_of_another_size_is_named(road: RunConfig) -> None:
    generate = road.generate.model_copy(update={"size": "843m"})
    with pytest.raises((TrainingError, ConfigError), match=r"843m"):
        load_service(road.serve, generate, model_paths(road), "tiny")


def test_another_prompt_style_than_that_of_tuning_is_warned_of(
    road: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    generate = road.generate.model_copy(update={"style": "instructretro"})
    with caplog.at_level(logging.WARNING, logger="retro"):
        load_service(road.serve, generate, model_paths(road), "tiny")
    assert "generate.style is 'instructretro', it was tuned with sft.data.style = 'plain'" in caplog.text


def test_a_template_that_the_texts_lack_is_named(road: RunConfig) -> None:
    generate = road.generate.model_copy(update={"template": "none_such"})
    with pytest.raises(ConfigError, match=r"generate.template = 'none_such'"):
        load_service(road.serve, generate, model_paths(road), "tiny")


def test_several_processes_are_refused(road: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match=r"WORLD_SIZE = 2: needs to be 1"):
        load_service(road.serve, road.generate, model_paths(road), "tiny")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(DependencyError, match=r"prometheus-client: is a part .*instruct-retro\[serve\]"):
        require_packages()


@pytest.fixture(scope="module")
def run_file(road: RunConfig) -> Path:
    path = road.run_dir.parent / "run.yaml"
    path.write_text(as_yaml(road), encoding="utf-8")
    return path


def test_the_command_serves_and_ends_with_status_0(run_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    server = Server([str(run_file), "serve.model_name=mine"])
    try:
        assert server.health()["status"] == "ok"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=60) == 0
    finally:
        server.process.kill()
        server.process.wait(timeout=60)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["serve.host=0.0.0.0"], "serve.host = '0.0.0.0': needs an API key"),
        (["serve.kind=chatt"], "did you mean 'chat'"),
        (["generate.checkpoint=/nowhere"], "/nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run_file: Path, words: list[str], told: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "retro", "serve", str(run_file), "serve.port=0", *words]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert found.returncode == 2
    assert told in found.stderr
    assert "Traceback" not in found.stderr
