"""The recipe behind the server: what a search finds is read as a prefix, and the answer says which documents."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from retro.common.errors import ArtifactError
from retro.common.files import read_json, write_json
from retro.generate.program import ProgramEngine
from retro.generate.request import Request, Sampling
from retro.qa.question import Context
from retro.recipes.base import run_recipe, served
from retro.recipes.dynamic_prefix.answering.policy import open_source
from retro.recipes.dynamic_prefix.answering.serving import program_for
from retro.recipes.passages.embed import embed_shard
from retro.serve.config import ServeConfig
from retro.serve.loading import load_service
from tests.recipes.dynamic_prefix.reading_run import RECIPE, Reading, document, write_lines
from tests.serve.running import RunningServer, running

CHAT = "/v1/chat/completions"
ASKED = "what is the colour of thing4 ?"


def service_of(reading: Reading, **serve: Any) -> Any:
    settings = {"recipe": "dynamic_prefix", "max_new_tokens": 8} | serve
    config = reading.config.model_copy(update={"serve": ServeConfig(**settings)})
    found = served(config)
    own = config.serve.model_copy(update={"kind": found.kind})
    return load_service(own, found.generate, found.paths, "run", found.begin, found.modules)


@pytest.fixture(scope="module")
def server(reading: Reading) -> Iterator[RunningServer]:
    run_recipe(RECIPE, reading.config, "encode", until=True)
    with running(service_of(reading)) as found:
        yield found


def chat(**given: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": ASKED}], "temperature": 0, "max_tokens": 6} | given


def told(found: Any) -> Mapping[str, Any]:
    assert found.status == 200, found.text
    details: Mapping[str, Any] = found.json["choices"][0]["retrieval"]["details"]["dynamic_prefix"]
    return details


def answered(reading: Reading, passages: tuple[Context, ...]) -> str:
    """By the engine itself."""
    engine = reading.engine()
    source = open_source(engine, reading.settings, reading.trained.identity, None)
    begin = program_for(reading.settings, lambda _: source)
    request = Request(prompt=[1], question=ASKED, passages=passages, sampling=Sampling(max_new_tokens=6))
    programs = ProgramEngine(engine, lambda one: begin(engine, one))
    return programs.generate([request])[0].text


def contexts(details: Mapping[str, Any]) -> tuple[Context, ...]:
    return tuple(Context(one["title"], one["text"], one["id"]) for one in details["passages"])


def test_a_chat_reads_what_the_database_finds_for_its_message(reading: Reading, server: RunningServer) -> None:
    found = server.post(CHAT, chat())
    details = told(found)
    assert details["mode"] == "prefix"
    assert len(details["passages"]) == 2
    assert "thing4" in details["passages"][0]["text"]
    assert details["vectors"] > 0
    assert details["documents"] == [one["id"] for one in details["passages"]]
    choice = found.json["choices"][0]
    assert choice["message"]["content"] == answered(reading, contexts(details)).lstrip()
    [chunk] = choice["retrieval"]["chunks"]
    assert [one["text"] for one in chunk["passages"]] == [one["text"] for one in details["passages"]]


def test_given_passages_are_read_in_place_of_a_search(reading: Reading, server: RunningServer) -> None:
    given = {"source": "given", "passages": [{"title": "thing7", "text": document(7)["text"]}]}
    found = server.post(CHAT, chat(retrieval=given))
    details = told(found)
    assert [one["title"] for one in details["passages"]] == ["thing7"]
    assert found.json["choices"][0]["message"]["content"] == answered(reading, contexts(details)).lstrip()
    without = server.post(CHAT, chat(retrieval={"source": "none"}))
    assert told(without)["passages"] == []
    assert told(without)["vectors"] == 0
    assert without.json["choices"][0]["message"]["content"] == answered(reading, ()).lstrip()


def test_a_stream_names_its_documents(server: RunningServer) -> None:
    events = server.post(CHAT, chat(stream=True)).events
    details = events[-1]["choices"][0]["retrieval"]["details"]["dynamic_prefix"]
    assert len(details["documents"]) == 2


def test_several_choices_share_their_documents(server: RunningServer) -> None:
    found = server.post(CHAT, chat(n=3))
    assert found.status == 200, found.text
    texts = [one["message"]["content"] for one in found.json["choices"]]
    assert len(texts) == 3
    assert len(set(texts)) == 1


def test_a_plain_continuation_is_continued(server: RunningServer) -> None:
    found = server.post("/v1/completions", {"prompt": "what is", "max_tokens": 3, "temperature": 0})
    assert found.status == 200, found.text


def test_an_answer_that_leaves_no_room_is_refused_and_others_are_answered(reading: Reading) -> None:
    with running(service_of(reading, max_new_tokens=96)) as server:
        refused = server.post(CHAT, chat(max_tokens=96))
        assert refused.status == 400, refused.text
        assert server.post(CHAT, chat()).status == 200


def test_passages_of_its_own_are_searched_while_others_are_answered(
    reading: Reading, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("passages")
    file = write_lines(folder / "passages.jsonl", [document(number) for number in range(12)])
    passages: dict[str, Any] = {
        "passages": str(file),
        "embeddings": f"{folder}/shards/*",
        "embedder": {"kind": "hashing", "dimension": 512},
    }
    own = reading.with_settings(data={"passages": passages})
    embed_shard(own.settings.data.passages, folder / "shards")
    with running(service_of(own)) as server:
        details = told(server.post(CHAT, chat()))
    assert details["documents"][0] == "d4"
    assert len(details["documents"]) == 2


def test_a_store_of_another_training_ends_the_server_at_its_start(reading: Reading, tmp_path: Path) -> None:
    run_recipe(RECIPE, reading.config, "encode", until=True)
    shutil.copytree(reading.home, tmp_path / "run" / reading.home.name)
    other = reading.config.model_copy(
        update={"run_dir": tmp_path / "run", "serve": ServeConfig(recipe="dynamic_prefix", max_new_tokens=8)}
    )
    header = tmp_path / "run" / reading.home.name / "encode" / "store.json"
    known = read_json(header, "", dict[str, Any])
    write_json(header, known | {"model": known["model"] | {"checkpoint": "another"}})
    with pytest.raises(ArtifactError, match=r"was made by another model: checkpoint was 'another'"):
        served(other)


@pytest.mark.parametrize("mode", ["none", "prompt"])
def test_the_first_mode_of_the_settings_answers(reading: Reading, mode: str) -> None:
    own = reading.with_settings(answer={"modes": [mode]})
    begin = program_for(own.settings, lambda _: pytest.fail("no prefix is read"))
    engine = own.engine()
    passages = (Context("thing4", document(4)["text"], "d4"),)
    request = Request(prompt=[1, 2], question=ASKED, passages=passages, sampling=Sampling(max_new_tokens=6))
    [found] = ProgramEngine(engine, lambda one: begin(engine, one)).generate([request])
    details = found.details["dynamic_prefix"]
    assert details["mode"] == mode
    assert details["documents"] == (["d4"] if mode == "prompt" else [])
    # Title and text, then the question in its sentence.
    assert details["prompt_tokens"] == {"none": 12, "prompt": 20}[mode]
