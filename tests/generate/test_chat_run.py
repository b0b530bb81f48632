"""A run on a folder's tokenizer: tuned, asked and served in the folder's own conversation."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retro.common.errors import ConfigError, DataError
from retro.corpus.reader import Corpus
from retro.generate.loading import end_tokens
from retro.generate.open_model import open_model
from retro.generate.runner import QuestionRunner, build_requests
from retro.qa.question import Context, Question
from retro.qa.task import load_task
from retro.run.config import RunConfig
from retro.run.pipeline import model_paths, stage
from retro.serve.errors import ApiError
from retro.serve.loading import load_service
from retro.serve.model_info import Limits
from retro.serve.prepare import prepare_chat, prepare_completion
from retro.serve.protocol import ChatRequest, CompletionRequest
from retro.sft.config import SftDataConfig
from retro.sft.prepare import Shape, prepare
from retro.tokenizers.conventions import CONVENTIONS
from tests.tiny_road import SMALL_MODEL, run_stages, small_config
from tests.tokenizers.chat_folders import make_folder

BEGIN, END, TURN_END = 0, 1, 4
"""Ids of <|begin_of_text|>, <|end_of_text|> and <|eot_id|>."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a Llama-like tokenizer that is tuned in style chat."""
    folder = tmp_path_factory.mktemp("chat")
    make_folder(folder / "model", "llama3")
    run_stages(config_of(folder), "corpus", "db", "index", "neighbors", "pretrain", "sft")
    return folder


def config_of(folder: Path, *overrides: str) -> RunConfig:
    return small_config(
        folder,
        f"corpus.tokenizer={{kind: huggingface, path: {folder}/model}}",
        f"model={SMALL_MODEL.replace('sequence_length: 64', 'sequence_length: 256')}",
        "sft.data.style=chat",
        "generate.style=chat",
        "generate.precision=float32",
        *overrides,
    )


def corpus_of(config: RunConfig) -> Corpus:
    return Corpus.open(stage("corpus").path(config))


def asker_of(config: RunConfig, questions: list[Question]) -> QuestionRunner:
    model = open_model(config.generate, model_paths(config))
    return QuestionRunner(
        engine=model.engine, config=model.config, task=load_task("qa"), questions=questions, identity={}
    )


def theirs(folder: Path) -> Any:
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(folder / "model"))


def test_the_corpus_keeps_what_the_folder_says_and_describes_the_file(folder: Path) -> None:
    corpus = corpus_of(config_of(folder))
    assert f"tokenizer/{CONVENTIONS}" in corpus.manifest.files
    assert corpus.tokenizer.eod == END


def test_tuning_learns_the_answer_and_its_end_after_the_ids_that_generation_sees(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder)
    path = tmp_path / "one.json"
    seas = Context("Seas", "The river runs to the sea.")
    path.write_text(
        json.dumps(
            [{"question": "Where to?", "answers": ["to the sea"], "ctxs": [{"title": seas.title, "text": seas.text}]}]
        )
    )
    data = SftDataConfig(sets=[{"name": "one", "path": path}], style="chat", encoder=False)
    tokenizer: Any = corpus_of(config).tokenizer
    shape = Shape(sequence_length=256, chunk_length=16, passages=2, retrieved_length=32)
    prepared = prepare(data, "train", tokenizer, shape)
    assert prepared is not None
    batch = prepared.source.fetch(np.array([0]))
    assert batch.token_mask_BS is not None
    real = batch.token_mask_BS[0]
    learned = batch.labels_BS[0][batch.loss_mask_BS[0] > 0].tolist()
    assert learned == [*tokenizer.encode("to the sea"), TURN_END]

    question = Question(id="0", question="Where to?", answers=(), contexts=(seas,))
    (request,) = build_requests(asker_of(config, [question]), "with_passages", [question.contexts])
    assert request is not None
    prompt = list(request.prompt)
    assert batch.tokens_BS[0][real].tolist() == [*prompt, *learned]
    content = "Seas: The river runs to the sea.\n\nReply to the question below with a short phrase. Where to?"
    wanted = theirs(folder).apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, return_dict=False
    )
    assert prompt == wanted


def test_answers_end_at_every_token_that_the_folder_or_its_template_ends_them_with(folder: Path) -> None:
    config = config_of(folder)
    question = Question(id="0", question="Where to?", answers=())
    assert asker_of(config, [question]).engine.decoder.ends == (END, TURN_END)


def test_other_styles_begin_with_what_the_tokenizer_adds_unless_that_is_not_wanted(folder: Path) -> None:
    question = Question(id="0", question="Where to?", answers=())
    for wanted, begins in (("auto", True), ("true", True), ("false", False)):
        config = config_of(folder, "generate.style=plain", f"generate.add_special_tokens={wanted}")
        (request,) = build_requests(asker_of(config, [question]), "closed_book", [()])
        assert request is not None
        plain = corpus_of(config).tokenizer.encode("question: Where to?\nanswer:")
        assert list(request.prompt) == ([BEGIN, *plain] if begins else plain)


def test_a_chat_template_that_is_not_used_is_told_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = config_of(folder)
    tokenizer = corpus_of(config).tokenizer
    with caplog.at_level(logging.INFO):
        end_tokens(tokenizer, type(config.generate)())
        end_tokens(tokenizer, type(config.generate)(style="plain"))
    assert caplog.messages == [
        "the tokenizer has a chat template; generate.style=chat asks with it, now it is instructretro"
    ]


def test_a_run_without_a_chat_template_cannot_be_asked_in_style_chat(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    run_stages(config, "corpus")
    with pytest.raises(ConfigError, match=r"generate\.style = 'chat': needs a tokenizer with a chat template"):
        end_tokens(corpus_of(config).tokenizer, config.generate.model_copy(update={"style": "chat"}))


def test_a_served_chat_is_written_by_the_template_and_a_completion_begins_with_the_prefix(folder: Path) -> None:
    config = config_of(folder, "serve.retrieval=none")
    service = load_service(config.serve, config.generate, model_paths(config), "tiny")
    limits = Limits.of(config.serve)
    messages = [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Where to?"},
    ]
    asked = prepare_chat(ChatRequest(messages=messages, max_tokens=4), service.model, limits, "none")
    wanted = theirs(folder).apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert list(asked.requests[0].prompt) == wanted
    tokenizer = corpus_of(config).tokenizer
    text, empty = prepare_completion(CompletionRequest(prompt=["to", ""]), service.model, limits, "none").requests
    assert list(text.prompt) == [BEGIN, *tokenizer.encode("to")]
    assert list(empty.prompt) == [BEGIN]


def test_a_conversation_that_the_template_refuses_is_refused_with_its_words(folder: Path) -> None:
    config = config_of(folder, "serve.retrieval=none")
    service = load_service(config.serve, config.generate, model_paths(config), "tiny")

    def refuse(*arguments: Any, **ways: Any) -> None:
        raise DataError("template", "its chat template cannot write this conversation (Roles must alternate)", "Mend")

    given = ChatRequest(messages=[{"role": "user", "content": "x"}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("retro.serve.prompts.encode_chats", refuse)
        with pytest.raises(ApiError, match=r"messages: .*\(Roles must alternate\)"):
            prepare_chat(given, service.model, Limits.of(config.serve), "none")


def test_perplexity_begins_sequences_with_the_token_that_is_wanted(folder: Path) -> None:
    losses = []
    for wanted in ("false", "auto", "true"):
        config = config_of(folder, f"perplexity.add_special_tokens={wanted}", "perplexity.neighbors=[none]")
        stage("perplexity").run(config)
        out = stage("perplexity").path(config)
        (row,) = (one for one in json.loads((out / "perplexity.json").read_text())["rows"] if one["model"] == "retro")
        losses.append((row["loss"], row["tokens"]))
        shutil.rmtree(out)
    assert losses[0][1] == losses[1][1]
    assert losses[0][0] != losses[1][0]
    assert losses[1] == losses[2]


def test_the_stage_answers_and_names_what_shaped_the_answers(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder, "generate.settings=[with_passages]")
    stage("generate").run(config)
    out = stage("generate").path(config)
    header = json.loads((out / "with_passages.header.json").read_text())
    assert header["identity"]["conventions"] == corpus_of(config).tokenizer.conventions.identity  # type: ignore[attr-defined]
    assert len((out / "with_passages.jsonl").read_text().splitlines()) == 10
